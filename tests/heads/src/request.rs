//! Where requests end, by the data path, by `httparse` and by `milo-parser`.
//!
//! The data path is stricter than both: whatever it takes for a head, they have to take for one of the same length,
//! with a body of the same length. But `milo-parser` is stricter in what does not matter here, so it is asked nothing
//! about HTTP/1.0 and first lines of less than 14 bytes, and about others without what it would refuse: see [`tame`].

use std::ops::Range;

use httparse::{EMPTY_HEADER, Status};
use milo_parser::{ERROR_NONE, Parser, STATE_BODY_DECISION};
use router_ebpf::request::{Doubt, Head, Read};
use router_ebpf::words::WINDOW;

use crate::{check::show, random::Random};

/// More headers than there are in the longest head.
const HEADERS: usize = 4096;

/// Reads a head whose bytes come in segments that end at these places.
pub fn read(bytes: &[u8], ends: &[usize]) -> Head {
    let mut head = Head::NEW;
    // What stands behind the bytes that are known is more of them.
    let padded = [bytes, &[b'a'; WINDOW]].concat();
    let window = |at: u32| padded[at as usize..].first_chunk().expect("what is behind is a window");
    for end in ends.iter().copied().chain([bytes.len()]) {
        while (head.at as usize) < end {
            if !head.step(window, end as u32) {
                return head;
            }
        }
    }
    head
}

/// Lengths of head and body, by one that reads heads only; how long a body is says RFC 9112 section 6.
fn by_httparse(bytes: &[u8]) -> Option<(usize, u64, u8)> {
    let mut headers = vec![EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(Status::Complete(head)) = request.parse(bytes) else { return None };
    let named = |name: &'static str| {
        request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    if named("transfer-encoding").next().is_some() {
        return None;
    }
    let mut lengths = named("content-length").map(|header| str::from_utf8(header.value).ok());
    let body = match (lengths.next(), lengths.next()) {
        (None, _) => 0,
        (Some(length), None) => length?.parse().ok()?,
        _ => return None,
    };
    Some((head, body, request.version?))
}

/// Lengths of head and body, by one that reads whole messages.
fn by_milo(bytes: &[u8]) -> Option<(usize, u64)> {
    let bytes = &*tame(bytes);
    let mut parser = Parser::new();
    parser.autodetect = false;
    parser.is_request = true;
    parser.suspend_after_headers = true;
    // A line has to fit, and a head is no longer than that.
    parser.max_start_line_length = bytes.len().max(1);
    parser.max_header_length = bytes.len().max(1);
    let head = parser.parse(bytes.as_ptr(), bytes.len());
    let is_whole = parser.error_code == ERROR_NONE && parser.state == STATE_BODY_DECISION;
    (is_whole && !parser.has_transfer_encoding).then_some((head, parser.content_length))
}

/// Lengths of head and body, if both take it for a whole head and say the same; as far as `milo-parser` is asked.
pub fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let (head, body, version) = by_httparse(bytes)?;
    let agrees = !is_asked(bytes, version) || by_milo(bytes) == Some((head, body));
    agrees.then_some((head, usize::try_from(body).ok()?))
}

/// Whether `milo-parser` is asked about a head.
fn is_asked(bytes: &[u8], version: u8) -> bool {
    version == 1 && !bytes[..14].contains(&b'\r')
}

/// The same head, in which the target has letters only, and headers that say nothing about lengths have other names:
/// an `Upgrade` would need a `Connection`, and both have a grammar.
fn tame(bytes: &[u8]) -> Vec<u8> {
    let mut tamed = bytes.to_vec();
    let mut words = tamed.split_mut(|byte| *byte == b' ');
    if let (Some(_), Some(target)) = (words.next(), words.next()) {
        target.iter_mut().filter(|byte| byte.is_ascii_punctuation()).for_each(|byte| *byte = b'x');
    }
    let mut start = 0;
    while let Some(len) = tamed[start..].windows(2).position(|two| two == b"\r\n") {
        let line = &mut tamed[start..start + len];
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(len);
        let name = line[..colon].to_ascii_lowercase();
        if [&b"upgrade"[..], b"connection", b"trailer"].contains(&&*name) {
            line[0] = b'x';
        }
        if len == 0 {
            break;
        }
        start += len + 2;
    }
    tamed
}

/// The requests on a connection whose client sends these bytes: where head and body of each are, as far as they are
/// known, and what comes behind them. Panics with what is wrong.
pub fn check(stream: &[u8]) -> (Vec<[Range<usize>; 2]>, Read) {
    let mut random = Random::of(stream);
    let mut requests = Vec::new();
    let mut start = 0;
    loop {
        let rest = &stream[start..];
        let read = same_in_any_cut(rest, &mut random).read();
        let Read::Whole { head, body } = read else { return (requests, read) };
        let (head, body) = (head as usize, body as usize);
        let seen = || show("a request", &rest[..rest.len().min(head + 40)]);
        let found = by_httparse(rest).unwrap_or_else(|| panic!("httparse refuses it\n{}", seen()));
        assert_eq!((found.0, found.1), (head, body as u64), "httparse\n{}", seen());
        if is_asked(rest, found.2) {
            let found = by_milo(rest).unwrap_or_else(|| panic!("milo refuses it\n{}", seen()));
            assert_eq!(found, (head, body as u64), "milo\n{}", seen());
        }
        let behind_head = start + head;
        requests.push([start..behind_head, behind_head..behind_head + body]);
        start = behind_head + body;
        if start > stream.len() {
            return (requests, Read::More);
        }
    }
}

/// However its bytes come: in one segment, in two, in any, or one by one.
fn same_in_any_cut(bytes: &[u8], random: &mut Random) -> Head {
    let head = read(bytes, &[]);
    let len = bytes.len().min(head.at as usize + 9);
    let bytes = &bytes[..len];
    let check = |ends: &[usize]| {
        assert_eq!(read(bytes, ends), head, "cut at {ends:?}\n{}", show("a request", bytes));
    };
    if len < 600 {
        (0..len).for_each(|cut| check(&[cut]));
    }
    check(&(0..len).collect::<Vec<_>>());
    for _ in 0..9 {
        let mut ends: Vec<_> = (0..random.below(9)).map(|_| random.below(len + 1)).collect();
        ends.sort_unstable();
        check(&ends);
    }
    head
}

/// Why nobody can tell where the requests of these bytes begin, if that is so.
pub fn doubt(stream: &[u8]) -> Option<Doubt> {
    match check(stream).1 {
        Read::Doubt(doubt) => Some(doubt),
        Read::More | Read::Whole { .. } => None,
    }
}
