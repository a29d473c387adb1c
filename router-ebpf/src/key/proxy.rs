//! The PROXY protocol, versions 1 and 2 (proxy-protocol.txt of HAProxy): what a proxy sends before the bytes of its
//! client. It names the client's address, and the search begins behind it.
//!
//! Whether there is one is not guessed: it is expected from who is said to send it, and then it has to be there.
//! `LOCAL`, `UNKNOWN` and what has no address of IP leave the client's address as it is. A version 1 that is not as
//! it is written there is refused: more than 107 bytes, more than one space, numbers that begin with a zero.

use super::{
    bytes::{Key, digit},
    scan::{self, PROXY, Reason, Scan},
};
use crate::stash::Room;

/// The first phase: the first bytes of either version.
pub const FIRST_PHASE: u32 = 48;
const BEGIN: u32 = FIRST_PHASE;
/// Version 1: the rest of `PROXY `, the family, addresses, ports, the end.
const WORD: u32 = 49;
const FAMILY: u32 = 50;
const ADDRESS: u32 = 51;
const PORT: u32 = 52;
const LINE_FEED: u32 = 53;
/// The rest of `UNKNOWN`, and the line, of which nothing matters.
const UNKNOWN: u32 = 54;
const REST_OF_LINE: u32 = 55;
/// Version 2: the rest of its signature, three fields, the address, and what does not matter.
const SIGNATURE: u32 = 56;
const COMMAND: u32 = 57;
const KIND: u32 = 58;
const LENGTH: u32 = 59;
const BYTES: u32 = 60;
const SKIP: u32 = 61;

/// The longest line of version 1, with its end.
const LINE_LEN: u32 = 107;
/// `PROXY `, from the lowest byte on, as the other words.
const PROXY_WORD: u64 = u64::from_le_bytes(*b"PROXY \0\0");
const UNKNOWN_WORD: u64 = u64::from_le_bytes(*b"UNKNOWN\0");
const SIGNATURE_WORDS: [u64; 2] =
    [u64::from_le_bytes(*b"\r\n\r\n\0\r\nQ"), u64::from_le_bytes(*b"UIT\n\0\0\0\0")];
const SIGNATURE_LEN: u32 = 12;
const LOCAL: u8 = 0x20;
const PROXIED: u8 = 0x21;

// What an address of version 1 ends with so far: `Scan::escape`.
const NOTHING: u32 = 0;
const DIGIT: u32 = 1;
const COLON: u32 = 2;
const FIRST_COLON: u32 = 3;
const GAP: u32 = 4;
const DOT: u32 = 5;

/// Looks at the next byte, or steps over some. Returns whether to go on.
#[inline(always)]
pub fn step(stash: &Room, scan: &mut Scan, key: &mut Key) -> bool {
    if scan.phase == SKIP && scan.skip == 0 {
        return end(scan);
    }
    let place = match scan.place() {
        Ok(place) => place,
        Err(go_on) => return go_on,
    };
    if scan.phase == SKIP {
        let n = scan.skip.min(scan.known.wrapping_sub(scan.at));
        scan.at += n;
        scan.skip -= n;
        return true;
    }
    let byte = stash.head()[place];
    scan.at += 1;
    let is_good = match scan.phase {
        BEGIN => first(scan, byte),
        WORD..=PORT | UNKNOWN if scan.at >= LINE_LEN => false,
        WORD => word(scan, byte, PROXY_WORD, 6, FAMILY),
        FAMILY => family(scan, key, byte),
        ADDRESS => address(scan, key, byte),
        PORT => port(scan, byte),
        UNKNOWN => word(scan, byte, UNKNOWN_WORD, 7, REST_OF_LINE),
        REST_OF_LINE => rest_of_line(scan, byte),
        LINE_FEED if byte == b'\n' => return end(scan),
        LINE_FEED => false,
        _ => binary(scan, byte),
    };
    is_good || scan.fail(Reason::Unreadable)
}

/// The search begins here.
#[inline(always)]
fn end(scan: &mut Scan) -> bool {
    scan.begin = scan.at;
    scan.kind = 0;
    scan.phase = scan::BEGIN;
    true
}

#[inline(always)]
fn first(scan: &mut Scan, byte: u8) -> bool {
    scan.same = 1;
    scan.phase = if byte == b'P' { WORD } else { SIGNATURE };
    byte == b'P' || byte == b'\r'
}

/// A byte of a word of so many.
#[inline(always)]
fn word(scan: &mut Scan, byte: u8, word: u64, len: u32, next: u32) -> bool {
    let is_good = byte == (word >> (scan.same % 8 * 8)) as u8;
    scan.same += 1;
    if scan.same == len {
        scan.same = 0;
        scan.phase = next;
    }
    is_good
}

/// `TCP4 `, `TCP6 `, or another word.
#[inline(always)]
fn family(scan: &mut Scan, key: &mut Key, byte: u8) -> bool {
    let same = scan.same;
    scan.same += 1;
    match (same, byte) {
        (0, b'U') => {
            scan.phase = UNKNOWN;
            true
        }
        (0, b'T') | (1, b'C') | (2, b'P') => true,
        (3, b'4' | b'6') => {
            scan.mark = (byte - b'0') as u32;
            true
        }
        (4, b' ') => {
            scan.record = 0;
            begin_address(scan, key);
            true
        }
        _ => false,
    }
}

/// Addresses are read to the front of `key`, and what follows a gap to the end of `scan.client`. `record` tells
/// whether it is the source's or the destination's, which does not matter but has to be one.
#[inline(always)]
fn begin_address(scan: &mut Scan, key: &mut Key) {
    scan.phase = ADDRESS;
    scan.number = 0;
    scan.want = 0;
    // Bytes so far.
    scan.same = 0;
    // Whether there was a gap.
    scan.header = 0;
    // Decimal numbers so far.
    scan.left = 0;
    scan.escape = NOTHING;
    key.clear();
}

/// A byte of an address (RFC 4291 section 2.2), or the space behind it.
#[inline(always)]
fn address(scan: &mut Scan, key: &mut Key, byte: u8) -> bool {
    let before = scan.escape;
    let value = digit(byte);
    if value < 16 {
        scan.escape = DIGIT;
        scan.number = scan.number << 4 | value as u32;
        scan.want += 1;
        return before != FIRST_COLON && scan.want <= 4;
    }
    match (byte, before) {
        (b':', NOTHING) => {
            scan.escape = FIRST_COLON;
            scan.mark == 6
        }
        (b':', DIGIT) => {
            scan.escape = COLON;
            scan.mark == 6 && scan.left == 0 && group(scan, key)
        }
        (b':', COLON | FIRST_COLON) => {
            scan.escape = GAP;
            scan.header += 1;
            scan.header == 1
        }
        (b'.', DIGIT) => {
            scan.escape = DOT;
            scan.left < 3 && decimal(scan, key)
        }
        (b' ', DIGIT) if scan.left > 0 => {
            scan.left == 3 && decimal(scan, key) && end_address(scan, key)
        }
        (b' ', DIGIT) => scan.mark == 6 && group(scan, key) && end_address(scan, key),
        (b' ', GAP) => end_address(scan, key),
        _ => false,
    }
}

/// Two bytes, written as a hexadecimal number.
#[inline(always)]
fn group(scan: &mut Scan, key: &mut Key) -> bool {
    let number = scan.number;
    push(scan, key, (number >> 8) as u8);
    push(scan, key, number as u8);
    scan.number = 0;
    scan.want = 0;
    true
}

/// One byte, written as a decimal number, whose digits were read as hexadecimal ones.
#[inline(always)]
fn decimal(scan: &mut Scan, key: &mut Key) -> bool {
    let (hundreds, tens, ones) = (scan.number >> 8, scan.number >> 4 & 15, scan.number & 15);
    let number = hundreds * 100 + tens * 10 + ones;
    let least = match scan.want {
        1 => 0,
        2 => 10,
        3 => 100,
        _ => return false,
    };
    let is_good = hundreds < 10 && tens < 10 && ones < 10 && least <= number && number < 256;
    push(scan, key, number as u8);
    scan.left += 1;
    scan.number = 0;
    scan.want = 0;
    is_good
}

#[inline(always)]
fn push(scan: &mut Scan, key: &mut Key, byte: u8) {
    scan.same += 1;
    if scan.header == 0 {
        key.push(byte);
    } else if scan.record == 0 {
        scan.shift_client(byte);
    }
}

/// The space behind an address.
#[inline(always)]
fn end_address(scan: &mut Scan, key: &mut Key) -> bool {
    let is_good = match (scan.mark, scan.header) {
        (4, _) => scan.same == 4,
        (_, 0) => scan.same == 16,
        _ => scan.same <= 14,
    };
    if scan.record == 0 {
        let b = &key.bytes;
        let word = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        if scan.mark == 4 {
            scan.client = [0, 0, 0xffff, word(0)];
        } else {
            scan.client[0] |= word(0);
            scan.client[1] |= word(4);
            scan.client[2] |= word(8);
            scan.client[3] |= word(12);
        }
        scan.record = 1;
        begin_address(scan, key);
    } else {
        scan.record = 0;
        scan.phase = PORT;
        scan.number = 0;
        scan.want = 0;
    }
    is_good
}

/// A byte of a port, or what follows it.
#[inline(always)]
fn port(scan: &mut Scan, byte: u8) -> bool {
    let value = byte.wrapping_sub(b'0');
    if value < 10 {
        let is_good = scan.want == 0 || scan.number > 0;
        scan.number = scan.number * 10 + value as u32;
        scan.want += 1;
        return is_good && scan.number <= 0xffff;
    }
    let is_good = scan.want > 0;
    scan.number = 0;
    scan.want = 0;
    match (byte, scan.record) {
        (b' ', 0) => {
            scan.record = 1;
            is_good
        }
        (b'\r', 1) => {
            scan.named = 1;
            scan.phase = LINE_FEED;
            is_good
        }
        _ => false,
    }
}

/// A byte of a line that begins with `UNKNOWN`: nothing of it matters but its end.
#[inline(always)]
fn rest_of_line(scan: &mut Scan, byte: u8) -> bool {
    // Of the first one, that it ends the word; `same` is 2 behind a carriage return.
    let is_good = scan.same != 0 || byte == b' ' || byte == b'\r';
    if scan.same == 2 && byte == b'\n' {
        return end(scan);
    }
    scan.same = if byte == b'\r' { 2 } else { 1 };
    is_good && scan.at < LINE_LEN
}

/// A byte of version 2.
#[inline(always)]
fn binary(scan: &mut Scan, byte: u8) -> bool {
    match scan.phase {
        SIGNATURE => {
            let [low, high] = SIGNATURE_WORDS;
            let word = if scan.same < 8 { low } else { high };
            let is_good = byte == (word >> (scan.same % 8 * 8)) as u8;
            scan.same += 1;
            if scan.same == SIGNATURE_LEN {
                scan.phase = COMMAND;
            }
            is_good
        }
        COMMAND => {
            scan.phase = KIND;
            scan.mark = (byte == PROXIED) as u32;
            byte == PROXIED || byte == LOCAL
        }
        KIND => {
            scan.phase = LENGTH;
            scan.skip = 0;
            scan.want = 0;
            // The lengths of the addresses of a family, and of its first one if that is of IP.
            let (all, own) = match byte >> 4 {
                _ if scan.mark == 0 => (0, 0),
                0 => (0, 0),
                1 => (12, 4),
                2 => (36, 16),
                3 => (216, 0),
                _ => return false,
            };
            (scan.number, scan.left) = (all, own);
            scan.mark == 0 || byte & 15 < 3
        }
        LENGTH => {
            scan.skip = scan.skip << 8 | byte as u32;
            scan.want += 1;
            if scan.want < 2 {
                return true;
            }
            let is_good = scan.skip >= scan.number;
            scan.want = scan.left;
            scan.phase = if scan.want > 0 { BYTES } else { SKIP };
            is_good
        }
        // Of the source's address.
        _ => {
            scan.shift_client(byte);
            scan.skip = scan.skip.wrapping_sub(1);
            scan.want = scan.want.wrapping_sub(1);
            if scan.want == 0 {
                if scan.left == 4 {
                    scan.client[2] = 0xffff;
                }
                scan.named = 1;
                scan.phase = SKIP;
            }
            true
        }
    }
}

/// Makes a search one that expects a header first.
#[inline(always)]
pub fn expect(scan: &mut Scan) {
    scan.rewind(PROXY, FIRST_PHASE);
}
