//! The TLS ClientHello (RFC 8446 section 4.1.2) and its server name (RFC 6066 section 3).
//!
//! It is read through the record layer, so it may be split into records anywhere. With Encrypted
//! Client Hello it is the outer one's name that counts: the other one cannot be read here.

use super::{
    bytes::{Key, lower},
    scan::{self, Reason, Scan},
};
use crate::{
    maps::{KeySource, Service},
    source::KeyKind,
    stash::Room,
};

/// The first phase: the handshake message's type and length.
pub const FIRST_PHASE: u32 = 32;
const HANDSHAKE: u32 = FIRST_PHASE;
const SESSION: u32 = 33;
const CIPHERS: u32 = 34;
const COMPRESSION: u32 = 35;
const EXTENSIONS: u32 = 36;
const EXTENSION: u32 = 37;
const NAMES: u32 = 38;
const NAME: u32 = 39;
const NAME_BYTES: u32 = 40;

const RECORD_HANDSHAKE: u8 = 22;
const VERSION_MAJOR: u8 = 3;
/// RFC 8446 section 5.1: a record that is not encrypted has no more bytes.
const RECORD_LEN: u32 = 1 << 14;
const CLIENT_HELLO: u32 = 1;
/// Version and random, which do not matter.
const BEFORE_SESSION: u32 = 34;
const SERVER_NAME: u32 = 0;
const HOST_NAME: u32 = 0;

/// Looks at the next byte, or steps over some. Returns whether to go on.
#[inline(always)]
pub fn step(service: &Service, stash: &Room, scan: &mut Scan, key: &mut Key) -> bool {
    let Some(source) = scan::source(service, scan.source) else {
        return scan.fail(Reason::Absent);
    };
    // The message is over: its client waits for the answer, and sends no byte more. Only its own header
    // comes before its length is known.
    if scan.phase != HANDSHAKE && scan.left == 0 {
        return scan.fail(Reason::Absent);
    }
    let place = match scan.place() {
        Ok(place) => place,
        Err(go_on) => return go_on,
    };
    if scan.record == 0 {
        let byte = stash.head()[place];
        scan.at += 1;
        return record_header(scan, byte);
    }
    if scan.skip > 0 {
        let most = scan.known.wrapping_sub(scan.at);
        let n = scan.skip.min(scan.record).min(most);
        scan.at += n;
        scan.record -= n;
        scan.skip -= n;
        return true;
    }
    let byte = stash.head()[place];
    if scan.phase != HANDSHAKE {
        scan.left -= 1;
    } else if scan.want == 0 {
        scan.want = 4;
        scan.number = 0;
    }
    scan.at += 1;
    scan.record -= 1;
    if scan.phase == NAME_BYTES {
        return name_byte(source, scan, key, byte);
    }
    scan.number = scan.number << 8 | byte as u32;
    scan.want = scan.want.wrapping_sub(1);
    scan.want > 0 || field(scan)
}

/// A byte of a record's header (RFC 8446 section 5.1).
#[inline(always)]
fn record_header(scan: &mut Scan, byte: u8) -> bool {
    // How many bytes of it have been read in the upper half, its length's first one in the lower.
    let (index, high) = (scan.header >> 8, scan.header & 0xff);
    scan.header = match index {
        0 if byte == RECORD_HANDSHAKE => 1 << 8,
        1 if byte == VERSION_MAJOR => 2 << 8,
        2 => 3 << 8,
        3 => 4 << 8 | byte as u32,
        4 => {
            scan.record = high << 8 | byte as u32;
            if scan.record == 0 || scan.record > RECORD_LEN {
                return scan.fail(Reason::Unreadable);
            }
            0
        }
        _ => return scan.fail(Reason::Unreadable),
    };
    true
}

/// A number has been read: what follows?
#[inline(always)]
fn field(scan: &mut Scan) -> bool {
    let number = scan.number;
    let (phase, want, skip) = match scan.phase {
        HANDSHAKE => {
            if number >> 24 != CLIENT_HELLO {
                return scan.fail(Reason::Unreadable);
            }
            scan.left = number & 0xff_ffff;
            (SESSION, 1, BEFORE_SESSION)
        }
        SESSION => (CIPHERS, 2, number),
        CIPHERS => (COMPRESSION, 1, number),
        COMPRESSION => (EXTENSIONS, 2, number),
        EXTENSIONS => {
            if number > scan.left {
                return scan.fail(Reason::Unreadable);
            }
            scan.left = number;
            (EXTENSION, 4, 0)
        }
        EXTENSION => {
            let len = number & 0xffff;
            if len > scan.left {
                return scan.fail(Reason::Unreadable);
            }
            if number >> 16 == SERVER_NAME {
                scan.left = len;
                (NAMES, 2, 0)
            } else {
                (EXTENSION, 4, len)
            }
        }
        NAMES => {
            if number > scan.left {
                return scan.fail(Reason::Unreadable);
            }
            scan.left = number;
            (NAME, 3, 0)
        }
        // NAME
        _ => {
            let len = number & 0xffff;
            if number >> 16 != HOST_NAME || len > scan.left {
                return scan.fail(Reason::Unreadable);
            }
            if len == 0 {
                return scan.fail(Reason::Empty);
            }
            scan.left = len;
            scan.same = 0;
            (NAME_BYTES, 0, 0)
        }
    };
    if skip > scan.left {
        return scan.fail(Reason::Unreadable);
    }
    scan.left -= skip;
    scan.phase = phase;
    scan.want = want;
    scan.skip = skip;
    scan.number = 0;
    true
}

/// A byte of the name; `scan.left` more follow.
#[inline(always)]
fn name_byte(source: &KeySource, scan: &mut Scan, key: &mut Key, byte: u8) -> bool {
    let byte = lower(byte);
    let in_suffix = scan.kind == KeyKind::SniLabel as u32 && (byte == b'.' || scan.same > 0);
    if !in_suffix {
        key.push(byte);
    } else if source.len > 0 {
        scan.compare(source, byte);
    } else {
        scan.same = 1;
    }
    if scan.left > 0 {
        return true;
    }
    if source.len > 0 && !scan.is_same(source) {
        return scan.fail(Reason::Absent);
    }
    scan.found(key)
}
