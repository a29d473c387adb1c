//! HTTP/1 requests (RFC 9112): query parameters, paths, headers and cookies.
//!
//! What is not settled by the RFCs, and how it is settled here: the first parameter, header or cookie
//! of a name counts; an empty one is a missing one; percent signs that encode nothing stand for
//! themselves; `#` ends the target, as in a URL; a line that begins with white space belongs to no
//! header; lines may end without a carriage return.

use super::{
    bytes::{Key, METHOD_LEN, digit, is_token, lower},
    scan::{self, Reason, Scan},
};
use crate::{
    maps::{KeySource, Service},
    source::{KeyKind, PATH_ANY, PATH_KEY, PATH_REST},
    stash::Room,
    verifier::{index, opaque, reread},
    words::{WINDOW, before, each, first, lower as lower_word, until, unusual, word, zeros},
};

/// The first phase: the method.
pub const METHOD: u32 = 1;
/// The first byte of the target.
const TARGET: u32 = 2;
/// `scheme://` of a target in absolute form (RFC 9112 section 3.2.2).
const SCHEME: u32 = 3;
const AUTHORITY: u32 = 4;
/// The path, for those who look for a parameter.
const BEFORE_QUERY: u32 = 5;
const PARAMETER: u32 = 6;
const PARAMETER_VALUE: u32 = 7;
const OTHER_VALUE: u32 = 8;
/// The path, compared with a compiled one.
const PATH: u32 = 9;
/// The rest of a line that does not matter.
const REST_OF_LINE: u32 = 10;
const LINE: u32 = 11;
const HEADER_NAME: u32 = 12;
/// White space before a header's or a cookie's value.
const BEFORE_VALUE: u32 = 13;
const VALUE: u32 = 14;
const BEFORE_COOKIE: u32 = 15;
const COOKIE_NAME: u32 = 16;
const OTHER_COOKIE: u32 = 17;

const QUERY: u32 = KeyKind::Query as u32;
const KIND_PATH: u32 = KeyKind::Path as u32;
const COOKIE: u32 = KeyKind::Cookie as u32;

/// Looks at the next byte, and before it at what can be taken at once. Returns whether to go on.
#[inline(always)]
pub fn step(service: &Service, stash: &Room, scan: &mut Scan, key: &mut Key) -> bool {
    let Some(source) = scan::source(service, scan.source) else {
        return scan.fail(Reason::Absent);
    };
    if let Err(go_on) = scan.place() {
        return go_on;
    }
    let bytes = stash.window(scan.at);
    if scan.phase == LINE {
        begin_line(source, scan, bytes);
    }
    match reread(&scan.phase) {
        REST_OF_LINE => {
            step_over(scan, bytes, b'\n', b'\n');
            return true;
        }
        OTHER_COOKIE => {
            step_over(scan, bytes, b';', b'\n');
            return true;
        }
        _ if scan.escape == 0 => take_usual(source, scan, key, bytes),
        _ => {}
    }
    let at = reread(&scan.at);
    if at >= scan.ready {
        return true;
    }
    let [byte, ..] = *stash.window(at);
    scan.at = at + 1;
    if scan.escape != 0 {
        return match escaped(scan, byte) {
            Some(byte) => decoded(source, scan, key, byte, true),
            None => true,
        };
    }
    match scan.phase {
        PARAMETER | PARAMETER_VALUE | PATH if byte == b'%' => {
            scan.escape = 1;
            scan.mark = scan.at;
            true
        }
        PARAMETER | PARAMETER_VALUE | OTHER_VALUE => parameter(source, scan, key, byte),
        PATH => path(source, scan, key, byte),
        METHOD..=BEFORE_QUERY => target(source, scan, byte),
        _ => header(source, scan, key, byte),
    }
}

/// Steps over what does not matter and over the byte behind it: one of two.
#[inline(always)]
fn step_over(scan: &mut Scan, bytes: &[u8; WINDOW], end: u8, line_feed: u8) {
    let marks = |word| zeros(word ^ each(end)) | zeros(word ^ each(line_feed));
    let len = until(bytes, marks);
    if len >= WINDOW as u32 || len >= scan.together() {
        scan.at += len.min(scan.together());
        return;
    }
    scan.at += len + 1;
    let is_line_feed = bytes.get(index(len)).is_some_and(|byte| *byte == b'\n');
    scan.phase = if is_line_feed { LINE } else { BEFORE_COOKIE };
    if is_line_feed {
        scan.same = 0;
    }
}

/// Compares the beginning of a header's name at once: one that is another's is stepped over with its line.
#[inline(always)]
fn begin_line(source: &KeySource, scan: &mut Scan, bytes: &[u8; WINDOW]) {
    let (name, len) = match fixed_header(scan.kind) {
        Some((name, len)) => (name, len),
        None => (word(&source.text), source.len as u32),
    };
    let len = len.min(8);
    let all = word(bytes);
    // The ends of lines are looked at by themselves.
    let ends = zeros(all ^ each(b'\n')) | zeros(all ^ each(b'\r'));
    if scan.together() < 8 || ends != 0 {
        return;
    }
    if first(lower_word(all) ^ name, len) != 0 {
        scan.phase = REST_OF_LINE;
    } else {
        scan.phase = HEADER_NAME;
        scan.same = len;
        scan.at += len;
    }
}

/// Takes what usual bytes come next, eight at the most, where they need no look of their own.
#[inline(always)]
fn take_usual(source: &KeySource, scan: &mut Scan, key: &mut Key, bytes: &[u8; WINDOW]) {
    let word = word(bytes);
    let len = before(unusual(word)).min(scan.together());
    scan.at += match scan.phase {
        METHOD if scan.same <= METHOD_LEN - 8 => {
            scan.same += len;
            len
        }
        BEFORE_QUERY | OTHER_VALUE => len,
        PARAMETER | BEFORE_COOKIE | COOKIE_NAME if len > 0 => {
            compare_usual(source, scan, word, len)
        }
        PARAMETER_VALUE if key.push_word(first(word, len), len) => len,
        BEFORE_VALUE | VALUE if len > 0 => {
            let word = if source.fold != 0 { lower_word(word) } else { word };
            if !key.push_word(first(word, len), len) {
                return;
            }
            scan.phase = VALUE;
            scan.mark = key.len;
            len
        }
        _ => 0,
    };
}

/// Compares usual bytes of a parameter's or a cookie's name. Returns how many it has taken.
#[inline(always)]
fn compare_usual(source: &KeySource, scan: &mut Scan, bytes: u64, len: u32) -> u32 {
    if scan.phase == BEFORE_COOKIE {
        begin_cookie(scan);
    }
    match scan.same {
        scan::DIFFERS => len,
        0 => {
            let most = len.min(source.len as u32);
            if first(bytes ^ word(&source.text), most) != 0 {
                scan.same = scan::DIFFERS;
                return len;
            }
            scan.same = most;
            most
        }
        _ => 0,
    }
}

/// Whether a request's target ends before this byte.
#[inline(always)]
const fn ends_target(byte: u8) -> bool {
    matches!(byte, b' ' | b'#' | b'\r' | b'\n')
}

/// From the method to the beginning of path or query.
#[inline(always)]
fn target(source: &KeySource, scan: &mut Scan, byte: u8) -> bool {
    scan.phase = match (scan.phase, byte) {
        (METHOD, b' ') if scan.same > 0 => match scan.kind {
            QUERY | KIND_PATH => TARGET,
            _ => REST_OF_LINE,
        },
        // Empty lines before a request (RFC 9112 section 2.2).
        (METHOD, b'\r' | b'\n') if scan.same == 0 => METHOD,
        (METHOD, _) if is_token(byte) && scan.same < METHOD_LEN => {
            scan.same += 1;
            METHOD
        }
        (METHOD, _) => return scan.fail(Reason::Unreadable),
        (TARGET, b'/') => return begin_path(source, scan),
        (TARGET, _) if is_token(byte) => {
            scan.same = 0;
            SCHEME
        }
        // `same` counts the bytes of `://`.
        (SCHEME, b':') if scan.same == 0 => {
            scan.same = 1;
            SCHEME
        }
        (SCHEME, b'/') if scan.same == 1 => {
            scan.same = 2;
            SCHEME
        }
        (SCHEME, b'/') if scan.same == 2 => AUTHORITY,
        (SCHEME, _) if scan.same == 0 && is_token(byte) => SCHEME,
        (AUTHORITY, b'/') => return begin_path(source, scan),
        (AUTHORITY | BEFORE_QUERY, b'?') if scan.kind == QUERY => {
            scan.same = 0;
            PARAMETER
        }
        (AUTHORITY | BEFORE_QUERY, _) if !ends_target(byte) && byte != b'?' => scan.phase,
        // Authority form, asterisk form, or no query.
        _ => return scan.fail(Reason::Absent),
    };
    true
}

/// At the path's first slash.
#[inline(always)]
fn begin_path(source: &KeySource, scan: &mut Scan) -> bool {
    scan.same = 0;
    if scan.kind != KIND_PATH {
        scan.phase = BEFORE_QUERY;
        return true;
    }
    scan.phase = PATH;
    scan.compare(source, b'/');
    scan.same != scan::DIFFERS || scan.fail(Reason::Absent)
}

/// A byte of a percent-encoded one. `Some` when it is complete, or turns out to be none: then its
/// percent sign stands for itself, and what follows is read again.
#[inline(always)]
fn escaped(scan: &mut Scan, byte: u8) -> Option<u8> {
    let value = digit(byte);
    if value > 15 {
        scan.escape = 0;
        scan.seek(scan.mark);
        return Some(b'%');
    }
    if scan.escape == 1 {
        scan.escape = 2;
        scan.number = value as u32;
        return None;
    }
    scan.escape = 0;
    Some((scan.number << 4) as u8 | value)
}

/// A byte of a name or a value as it is meant. `literal`: it stands for itself whatever it is.
#[inline(always)]
fn decoded(source: &KeySource, scan: &mut Scan, key: &mut Key, byte: u8, literal: bool) -> bool {
    match scan.phase {
        PARAMETER => scan.compare(source, byte),
        PATH => return path_byte(source, scan, key, byte, literal),
        _ => key.push(byte),
    }
    true
}

/// A byte of the query (application/x-www-form-urlencoded, WHATWG URL section 5.1).
#[inline(always)]
fn parameter(source: &KeySource, scan: &mut Scan, key: &mut Key, byte: u8) -> bool {
    let ends = ends_target(byte);
    if !ends && byte != b'&' {
        return match (scan.phase, byte) {
            (PARAMETER, b'=') => {
                let found = scan.is_same(source);
                scan.phase = if found { PARAMETER_VALUE } else { OTHER_VALUE };
                true
            }
            (OTHER_VALUE, _) => true,
            (_, b'+') => decoded(source, scan, key, b' ', true),
            _ => decoded(source, scan, key, byte, false),
        };
    }
    match scan.phase {
        PARAMETER_VALUE => return scan.found(key),
        // A name without a value has an empty one.
        PARAMETER if scan.is_same(source) => return scan.fail(Reason::Empty),
        _ if ends => return scan.fail(Reason::Absent),
        _ => {}
    }
    scan.phase = PARAMETER;
    scan.same = 0;
    true
}

/// A byte of the path that stands for itself, or ends a segment or the path.
#[inline(always)]
fn path(source: &KeySource, scan: &mut Scan, key: &mut Key, byte: u8) -> bool {
    if byte != b'/' && byte != b'?' && !ends_target(byte) {
        return path_byte(source, scan, key, byte, false);
    }
    // A segment ends here, and with it what stands for one.
    if matches!(expected(source, scan), PATH_ANY | PATH_KEY) {
        scan.same += 1;
    }
    let next = expected(source, scan);
    if next == PATH_REST || byte != b'/' && scan.is_same(source) {
        return scan.found(key);
    }
    if byte == b'/' && next == b'/' {
        scan.same += 1;
        return true;
    }
    scan.fail(Reason::Absent)
}

/// What the compiled path has at this place; 0 at its end.
#[inline(always)]
fn expected(source: &KeySource, scan: &Scan) -> u8 {
    let at = index(scan.same);
    if at < source.len as usize
        && let Some(&byte) = source.text.get(at)
    {
        return byte;
    }
    0
}

/// A byte inside of a segment.
#[inline(always)]
fn path_byte(source: &KeySource, scan: &mut Scan, key: &mut Key, byte: u8, literal: bool) -> bool {
    match expected(source, scan) {
        PATH_ANY => {}
        PATH_KEY => key.push(byte),
        // An encoded slash separates nothing.
        wanted if wanted == byte && wanted > PATH_REST && !(literal && byte == b'/') => {
            scan.same += 1;
        }
        _ => return scan.fail(Reason::Absent),
    }
    true
}

/// A byte behind the request line.
#[inline(always)]
fn header(source: &KeySource, scan: &mut Scan, key: &mut Key, byte: u8) -> bool {
    let is_cookie = scan.kind == COOKIE;
    if byte == b'\n' {
        return match scan.phase {
            // An empty line: the head is over.
            LINE => scan.fail(Reason::Absent),
            BEFORE_VALUE | VALUE => value_ends(scan, key),
            _ => {
                scan.phase = LINE;
                scan.same = 0;
                true
            }
        };
    }
    let is_space = matches!(byte, b' ' | b'\t');
    match scan.phase {
        LINE if byte == b'\r' => {}
        LINE | HEADER_NAME => {
            scan.phase = HEADER_NAME;
            if byte != b':' {
                compare_header(source, scan, lower(byte));
            } else if is_header(source, scan) {
                scan.phase = if is_cookie { BEFORE_COOKIE } else { BEFORE_VALUE };
            } else {
                scan.phase = REST_OF_LINE;
            }
        }
        BEFORE_VALUE if is_space => {}
        BEFORE_VALUE | VALUE => {
            if byte == b'\r' || is_cookie && byte == b';' {
                return value_ends(scan, key);
            }
            scan.phase = VALUE;
            let byte = if source.fold != 0 { lower(byte) } else { byte };
            key.push(byte);
            if !is_space {
                scan.mark = key.len;
            }
        }
        BEFORE_COOKIE if is_space || byte == b';' => {}
        BEFORE_COOKIE | COOKIE_NAME => cookie_name(source, scan, byte),
        OTHER_COOKIE if byte == b';' => scan.phase = BEFORE_COOKIE,
        _ => {}
    }
    true
}

/// The name of the header to look for, if it is not in the key source's text: as a word, because a
/// constant array would be memory to look up.
#[inline(always)]
const fn fixed_header(kind: u32) -> Option<(u64, u32)> {
    match kind {
        COOKIE => Some((u64::from_le_bytes(*b"cookie\0\0"), 6)),
        scan::UPGRADE => Some((u64::from_le_bytes(*b"upgrade\0"), 7)),
        _ => None,
    }
}

#[inline(always)]
fn compare_header(source: &KeySource, scan: &mut Scan, byte: u8) {
    match fixed_header(scan.kind) {
        None => scan.compare(source, byte),
        Some((name, len)) => {
            let at = opaque(scan.same);
            let fits = at < len && (name >> ((at & 7) * 8)) as u8 == byte;
            scan.same = if fits { at + 1 } else { scan::DIFFERS };
        }
    }
    if scan.same == scan::DIFFERS {
        scan.phase = REST_OF_LINE;
    }
}

#[inline(always)]
fn is_header(source: &KeySource, scan: &Scan) -> bool {
    match fixed_header(scan.kind) {
        None => scan.is_same(source),
        Some((_, len)) => scan.same == len,
    }
}

#[inline(always)]
const fn begin_cookie(scan: &mut Scan) {
    scan.phase = COOKIE_NAME;
    scan.same = 0;
}

/// A byte of a cookie's name (RFC 6265 section 4.2.1).
#[inline(always)]
fn cookie_name(source: &KeySource, scan: &mut Scan, byte: u8) {
    if scan.phase == BEFORE_COOKIE {
        begin_cookie(scan);
    }
    match byte {
        b'=' if scan.is_same(source) => scan.phase = BEFORE_VALUE,
        b'=' => scan.phase = OTHER_COOKIE,
        b';' => scan.phase = BEFORE_COOKIE,
        _ => scan.compare(source, byte),
    }
}

/// The end of a value, without the white space before it (RFC 9110 section 5.5): a byte at a step.
#[inline(always)]
fn value_ends(scan: &mut Scan, key: &mut Key) -> bool {
    if scan.phase == VALUE && scan.mark < key.len {
        key.pop();
        scan.seek(scan.at.wrapping_sub(1));
        return true;
    }
    scan.found(key)
}
