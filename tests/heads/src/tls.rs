//! What `tls-parser` finds in a ClientHello.
//!
//! Nothing is demanded where it refuses the records or the message. Where the data path differs, and
//! means to:
//!
//! - A record whose major version is not 3, or that is empty, is none (RFC 8446 section 5.1 forbids
//!   the second; nobody knows the first).
//! - Only the first name of the list counts, and it has to be a host name: nothing else was ever
//!   defined (RFC 6066 section 3).
//! - The name is not looked at: a dot at its end, or bytes that no name may have, belong to the key.
//! - With Encrypted Client Hello it is the outer name.

use tls_parser::{
    SNIType, TlsExtension, TlsMessage, TlsMessageHandshake, TlsRecordType,
    parse_tls_extension_sni_content, parse_tls_message_handshake, parse_tls_raw_record,
};

use crate::{
    random::Random,
    source::{Expected, Source},
};

/// The header of a handshake message.
const MESSAGE: usize = 4;
const SERVER_NAME: [u8; 2] = [0, 0];

/// See [`Source::expected`].
pub fn expected(source: &Source, head: &[u8]) -> Option<(Expected, usize)> {
    let message = message(head)?;
    let (_, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello))) =
        parse_tls_message_handshake(&message.bytes).ok()?
    else {
        return None;
    };
    let name = match hello.ext {
        Some(extensions) => server_name(extensions)?,
        None => None,
    };
    let Some(name) = name else { return Some((Expected::Absent, message.end)) };
    Some((key(source, &name), message.end))
}

fn key(source: &Source, name: &[u8]) -> Expected {
    let name = name.to_ascii_lowercase();
    let Source::SniLabel(suffix) = source else { return Expected::value(name) };
    let dot = name.iter().position(|byte| *byte == b'.').unwrap_or(name.len());
    if !name.is_empty() && !suffix.is_empty() && name[dot..] != *suffix.as_bytes() {
        return Expected::Absent;
    }
    Expected::value(name[..dot].to_vec())
}

/// A handshake message, put together from its records.
#[derive(Clone, Debug)]
pub struct Message {
    /// It, with its header.
    pub bytes: Vec<u8>,
    /// Where the last of its records ends.
    pub end: usize,
}

/// The first handshake message, if it is complete and a ClientHello.
pub fn message(head: &[u8]) -> Option<Message> {
    let mut bytes = Vec::new();
    let mut rest = head;
    loop {
        if let [1, a, b, c, ..] = *bytes {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            if bytes.len() >= MESSAGE + len {
                return Some(Message { bytes, end: head.len() - rest.len() });
            }
        } else if bytes.len() >= MESSAGE {
            return None;
        }
        let (next, record) = parse_tls_raw_record(rest).ok()?;
        let is_handshake = record.hdr.record_type == TlsRecordType::Handshake;
        if !is_handshake || record.hdr.version.0 >> 8 != 3 || record.data.is_empty() {
            return None;
        }
        bytes.extend_from_slice(record.data);
        rest = next;
    }
}

/// The host name, or `Some(None)` if there is none.
fn server_name(mut extensions: &[u8]) -> Option<Option<Vec<u8>>> {
    while let [a, b, c, d, rest @ ..] = extensions {
        let len = usize::from(u16::from_be_bytes([*c, *d]));
        let (content, next) = rest.split_at_checked(len)?;
        if [*a, *b] == SERVER_NAME {
            let (_, TlsExtension::SNI(names)) = parse_tls_extension_sni_content(content).ok()?
            else {
                return None;
            };
            return match names.first() {
                Some((SNIType(0), name)) => Some(Some(name.to_vec())),
                _ => None,
            };
        }
        extensions = next;
    }
    extensions.is_empty().then_some(None)
}

/// A ClientHello in one record, with extensions as a fuzzer says: a byte for the type of each and one
/// for its length, and its content. In what stands for a server name only the name is taken from
/// there.
pub fn client_hello(mut bytes: &[u8]) -> Vec<u8> {
    let mut extensions = Vec::new();
    while let [kind, len, rest @ ..] = bytes {
        let (content, next) = rest.split_at(rest.len().min(usize::from(*len)));
        let content = match kind {
            0 => prefixed(2, &[&[0], &*prefixed(2, content)].concat()),
            _ => content.to_vec(),
        };
        extensions.extend([0, *kind]);
        extensions.extend(prefixed(2, &content));
        bytes = next;
    }
    let body = [
        &[3, 3],
        &[7; 32][..],
        &prefixed(1, &[8; 32]),
        &prefixed(2, &[0x13, 1, 0x13, 2]),
        &prefixed(1, &[0]),
        &prefixed(2, &extensions),
    ];
    let message = [&[1], &*prefixed(3, &body.concat())].concat();
    [&[22, 3, 1], &*prefixed(2, &message)].concat()
}

/// A list with its length before it, in so many bytes.
pub fn prefixed(bytes: usize, list: &[u8]) -> Vec<u8> {
    [&(list.len() as u32).to_be_bytes()[4 - bytes..], list].concat()
}

/// A message in so many records, cut at random places.
pub fn in_records(message: &[u8], records: usize, random: &mut Random) -> Vec<u8> {
    let mut cuts: Vec<usize> = (1..records).map(|_| 1 + random.below(message.len() - 1)).collect();
    cuts.extend([0, message.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    let mut out = Vec::new();
    for pair in cuts.windows(2) {
        let record = &message[pair[0]..pair[1]];
        out.extend([22, 3, 1 + random.below(3) as u8]);
        out.extend((record.len() as u16).to_be_bytes());
        out.extend(record);
    }
    out
}
