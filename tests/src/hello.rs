//! TLS ClientHellos of any length, in any records.

/// Where the bytes are that make a ClientHello as long as it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Before the server name, as the key shares of post-quantum clients are.
    First,
    /// In the last extension (RFC 7685).
    Last,
}

/// A TLS 1.3 ClientHello (RFC 8446 section 4.1.2) as a handshake message, which takes `len` bytes in one record.
pub fn client_hello(name: &str, len: usize, padding: Padding) -> Vec<u8> {
    let name = name.as_bytes();
    let server_name = [&be16(name.len() + 3)[..], &[0], &be16(name.len()), name].concat();
    let mut extensions = Vec::new();
    for (kind, body) in [
        (0x0017, &[][..]),
        (0x002b, &[4, 3, 4, 3, 3]),
        (0x000a, &[0, 4, 0, 29, 0, 23]),
        (0x0033, &[0x42; 38]),
        (0x0000, &server_name),
        (0x000d, &[0x43; 20]),
        (0x0010, &[0, 9, 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1']),
    ] {
        extensions.extend([&be16(kind)[..], &be16(body.len()), body].concat());
    }
    let fixed = RECORD_HEADER + 4 + 34 + 33 + 2 + 32 + 2 + 2;
    let zeros = len.checked_sub(fixed + extensions.len() + 4).expect("no shorter one is made");
    let zeros = [&be16(0x0015)[..], &be16(zeros), &vec![0; zeros]].concat();
    let extensions = match padding {
        Padding::First => [zeros, extensions].concat(),
        Padding::Last => [extensions, zeros].concat(),
    };
    let hello = [
        &[3, 3][..],
        &[0x44; 32],
        &[32],
        &[0x45; 32],
        &be16(32),
        &[0x13; 32],
        &[1, 0],
        &be16(extensions.len()),
        &extensions,
    ]
    .concat();
    [&[1, 0][..], &be16(hello.len()), &hello].concat()
}

const RECORD_HEADER: usize = 5;

/// A handshake message in records of `most` bytes of it (RFC 8446 section 5.1).
pub fn records(message: &[u8], most: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &be16(part.len()), part].concat();
    message.chunks(most).flat_map(record).collect()
}

fn be16(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("it fits into two bytes").to_be_bytes()
}
