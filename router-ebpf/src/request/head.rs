//! The head of a request, read to its end and strictly (RFC 9112 sections 2 to 6): what is not beyond doubt there
//! is one.

use super::Doubt;
use crate::{
    key::bytes::{METHOD_LEN, is_token, lower},
    verifier::reread,
    words::{TOPS, WINDOW, before, each, first, less, until, unusual, word, zeros},
};

/// Bytes of a head at the most.
pub const MAX_HEAD: u32 = 16_384;
/// The longest body.
pub const MAX_LENGTH: u32 = i32::MAX as u32;

/// What is known of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Its end is yet to come.
    More,
    /// All of it: its length with the empty line, and the length of the body behind it.
    Whole {
        /// Bytes of the head.
        head: u32,
        /// Bytes of the body.
        body: u32,
    },
    /// Where it ends is not known.
    Doubt(Doubt),
}

/// The state of a reader, which goes on in the next segment where it was. It lives in map memory: what the verifier
/// does not know about, it need not follow through every byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The method, a header's name or a scheme of authorization in lower case, or the version: its first bytes.
    word: [u64; 3],
    /// Its length so far.
    len: u32,
    /// What is expected: one of the constants below.
    phase: u32,
    /// How many bytes have been read.
    pub at: u32,
    /// The body's length.
    body: u32,
    /// `NOTED_*`.
    noted: u32,
    /// [`WHOLE`], a [`Doubt`], or 0 as long as there is more to read.
    outcome: u32,
}

const METHOD: u32 = 0;
const TARGET: u32 = 1;
const VERSION: u32 = 2;
/// The line feed behind a carriage return.
const LINE_END: u32 = 3;
/// The first byte of a line.
const LINE: u32 = 4;
const NAME: u32 = 5;
const VALUE: u32 = 6;
const BEFORE_LENGTH: u32 = 7;
const LENGTH: u32 = 8;
const BEHIND_LENGTH: u32 = 9;
const BEFORE_SCHEME: u32 = 10;
const SCHEME: u32 = 11;
/// The line feed of the empty line.
const LAST: u32 = 12;

const NOTED_LENGTH: u32 = 1;
const NOTED_UPGRADE: u32 = 2;

/// `HTTP/1.1`, as most requests say, and the end of a line, as words.
const VERSION_1_1: u64 = u64::from_le_bytes(*b"HTTP/1.1");
const LINE_FEED: u16 = u16::from_le_bytes(*b"\r\n");

/// In `Head::outcome`: all of it has been read.
const WHOLE: u32 = u32::MAX;

/// The first 24 bytes of a name, and its length.
const fn name(text: &[u8]) -> ([u64; 3], u32) {
    let mut word = [0; 3];
    let mut at = 0;
    while at < text.len() {
        word[at / 8] |= (text[at] as u64) << (at % 8 * 8);
        at += 1;
    }
    (word, text.len() as u32)
}

macro_rules! is {
    ($head:expr, $text:literal) => {{
        const NAME: ([u64; 3], u32) = name($text);
        let ([a, b, c], len) = NAME;
        let head = &*$head;
        head.len == len && head.word[0] == a && head.word[1] == b && head.word[2] == c
    }};
}

impl Head {
    /// A reader at the first byte of a request.
    pub const NEW: Self =
        Self { word: [0; 3], len: 0, phase: METHOD, at: 0, body: 0, noted: 0, outcome: 0 };

    /// What is known of it.
    #[inline(always)]
    pub const fn read(&self) -> Read {
        match self.outcome {
            0 => Read::More,
            WHOLE => Read::Whole { head: self.at, body: self.body },
            number => match Doubt::of(number) {
                Some(doubt) => Read::Doubt(doubt),
                None => Read::Doubt(Doubt::LongHead),
            },
        }
    }

    /// Whether it has an `Upgrade`.
    #[inline(always)]
    pub const fn asks_upgrade(&self) -> bool {
        self.noted & NOTED_UPGRADE != 0
    }

    /// Takes the next byte, and what can be taken at once before and behind it. `ready` bytes are known, with those that it
    /// has read, and the next one is; `window` has those from one on, and anything behind what is known. Returns whether to
    /// go on.
    #[inline(always)]
    pub fn step<'a>(&mut self, window: impl Fn(u32) -> &'a [u8; WINDOW], ready: u32) -> bool {
        // From memory each time: to the verifier all ways that lead there are one.
        self.take_name(window(reread(&self.at)), ready);
        let at = reread(&self.at);
        if at < ready && !self.take(window(at)[0]) {
            return false;
        }
        self.pass(window(reread(&self.at)), ready);
        self.take_end(window(reread(&self.at)), ready);
        true
    }

    /// How many bytes it may still take without a look at its length.
    #[inline(always)]
    fn room(&self, ready: u32) -> u32 {
        ready.min(MAX_HEAD).saturating_sub(self.at)
    }

    /// Takes the usual bytes that a method or a header's name begins with, if that is what comes next.
    #[inline(always)]
    fn take_name(&mut self, bytes: &[u8; WINDOW], ready: u32) {
        if self.phase != LINE && (self.phase != METHOD || self.len != 0) {
            return;
        }
        let room = self.room(ready);
        let mut word = [0; 3];
        let mut len = 0;
        for (part, bytes) in word.iter_mut().zip(bytes.as_chunks::<8>().0) {
            let all = u64::from_le_bytes(*bytes);
            let usual = before(unusual(all)).min(room - len);
            // In lower case: what has the bit already is no capital letter.
            *part = first(all | each(0x20), usual);
            len += usual;
            if usual < 8 {
                break;
            }
        }
        if len > 0 {
            self.phase = if self.phase == LINE { NAME } else { METHOD };
            (self.word, self.len) = (word, len);
            self.at += len;
        }
    }

    /// Steps over bytes of a target or a value that mean nothing.
    #[inline(always)]
    fn pass(&mut self, bytes: &[u8; WINDOW], ready: u32) {
        // What is less, and what has its top bit, is not passed.
        let (limits, tops) = match reread(&self.phase) {
            VALUE => (each(0x20), 0),
            TARGET => (each(0x21), u64::MAX),
            _ => return,
        };
        let marks = |word| less(word, limits) | zeros(word ^ each(0x7f)) | word & tops & TOPS;
        let len = until(bytes, marks).min(self.room(ready));
        if self.phase == TARGET && len > 0 {
            self.len = 1;
        }
        self.at += len;
    }

    /// Takes the end of a value's line, or the version and the end of its line, if that is what comes next.
    #[inline(always)]
    fn take_end(&mut self, bytes: &[u8; WINDOW], ready: u32) {
        let word = word(bytes);
        let len = match reread(&self.phase) {
            VALUE if word as u16 == LINE_FEED => 2,
            VERSION if self.len == 0 && word == VERSION_1_1 => {
                if u16::from_le_bytes([bytes[8], bytes[9]]) != LINE_FEED {
                    return;
                }
                10
            }
            _ => return,
        };
        if self.room(ready) < len {
            return;
        }
        if len > 2 {
            (self.word, self.len) = ([VERSION_1_1, 0, 0], 8);
        }
        self.phase = LINE;
        self.at += len;
    }

    /// Takes the next byte. Returns whether to go on.
    #[inline(always)]
    pub const fn take(&mut self, byte: u8) -> bool {
        if self.at >= MAX_HEAD {
            return self.doubt(Doubt::LongHead);
        }
        self.at += 1;
        match self.phase {
            METHOD | TARGET | VERSION => self.request_line(byte),
            LINE_END | LAST => self.line_feed(byte),
            LINE => self.line(byte),
            NAME => self.name(byte),
            _ => self.value(byte),
        }
    }

    #[inline(always)]
    const fn request_line(&mut self, byte: u8) -> bool {
        match self.phase {
            METHOD if is_token(byte) && self.len < METHOD_LEN => self.push(lower(byte)),
            METHOD if byte == b' ' && self.len > 0 => {
                if is!(self, b"connect") || is!(self, b"pri") {
                    return self.doubt(Doubt::Tunnel);
                }
                self.begin(TARGET);
            }
            METHOD if self.len == 0 && matches!(byte, b'\r' | b'\n' | b' ' | b'\t') => {
                return self.doubt(Doubt::BlankLine);
            }
            METHOD => return self.doubt(Doubt::Method),
            TARGET if byte > b' ' && byte < 0x7f => self.len = 1,
            TARGET if byte == b' ' && self.len > 0 => self.begin(VERSION),
            // HTTP/0.9.
            TARGET if matches!(byte, b'\r' | b'\n') => return self.doubt(Doubt::Version),
            TARGET => return self.doubt(Doubt::Target),
            _ if byte == b'\r' && (is!(self, b"HTTP/1.1") || is!(self, b"HTTP/1.0")) => {
                self.phase = LINE_END;
            }
            _ if byte == b'\n' => return self.doubt(Doubt::LineEnd),
            _ if self.len < 8 => self.push(byte),
            _ => return self.doubt(Doubt::Version),
        }
        true
    }

    #[inline(always)]
    const fn line_feed(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            return self.doubt(Doubt::LineEnd);
        }
        if self.phase == LAST {
            self.outcome = WHOLE;
            return false;
        }
        self.phase = LINE;
        true
    }

    #[inline(always)]
    const fn line(&mut self, byte: u8) -> bool {
        match byte {
            b'\r' => self.phase = LAST,
            b'\n' => return self.doubt(Doubt::LineEnd),
            b' ' | b'\t' => return self.doubt(Doubt::Fold),
            _ if is_token(byte) => {
                self.begin(NAME);
                self.push(lower(byte));
            }
            _ => return self.doubt(Doubt::Name),
        }
        true
    }

    #[inline(always)]
    const fn name(&mut self, byte: u8) -> bool {
        if is_token(byte) {
            self.push(lower(byte));
            return true;
        }
        if byte != b':' {
            return self.doubt(Doubt::Name);
        }
        self.phase = VALUE;
        if is!(self, b"content-length") {
            if self.noted & NOTED_LENGTH != 0 {
                return self.doubt(Doubt::SecondLength);
            }
            self.noted |= NOTED_LENGTH;
            self.phase = BEFORE_LENGTH;
        } else if is!(self, b"content_length") {
            // Some gateways read it as the other one.
            return self.doubt(Doubt::Length);
        } else if is!(self, b"transfer-encoding") || is!(self, b"transfer_encoding") {
            return self.doubt(Doubt::TransferEncoding);
        } else if is!(self, b"expect") {
            return self.doubt(Doubt::Expect);
        } else if is!(self, b"authorization") || is!(self, b"proxy-authorization") {
            self.begin(BEFORE_SCHEME);
        } else if is!(self, b"upgrade") {
            self.noted |= NOTED_UPGRADE;
        }
        true
    }

    #[inline(always)]
    const fn value(&mut self, byte: u8) -> bool {
        let is_space = matches!(byte, b' ' | b'\t');
        if byte == b'\n' {
            return self.doubt(Doubt::LineEnd);
        }
        if byte == 0x7f || byte < b' ' && byte != b'\t' && byte != b'\r' {
            return self.doubt(Doubt::Control);
        }
        match self.phase {
            BEFORE_LENGTH if is_space => {}
            BEFORE_LENGTH | LENGTH if byte.is_ascii_digit() => return self.digit(byte),
            LENGTH if is_space => self.phase = BEHIND_LENGTH,
            BEHIND_LENGTH if is_space => {}
            LENGTH | BEHIND_LENGTH if byte == b'\r' => self.phase = LINE_END,
            BEFORE_LENGTH | LENGTH | BEHIND_LENGTH => return self.doubt(Doubt::Length),
            BEFORE_SCHEME if is_space => {}
            BEFORE_SCHEME | SCHEME if is_token(byte) => {
                self.phase = SCHEME;
                self.push(lower(byte));
            }
            SCHEME if is!(self, b"ntlm") || is!(self, b"negotiate") => {
                return self.doubt(Doubt::Authorization);
            }
            _ => self.phase = if byte == b'\r' { LINE_END } else { VALUE },
        }
        true
    }

    /// A digit of the body's length. Not one behind a leading zero: nobody sends such, and some would read octal.
    #[inline(always)]
    const fn digit(&mut self, byte: u8) -> bool {
        if self.phase == LENGTH && self.body == 0 {
            return self.doubt(Doubt::Length);
        }
        self.phase = LENGTH;
        let body = self.body as u64 * 10 + (byte - b'0') as u64;
        if body > MAX_LENGTH as u64 {
            return self.doubt(Doubt::LongBody);
        }
        self.body = body as u32;
        true
    }

    #[inline(always)]
    const fn begin(&mut self, phase: u32) {
        self.phase = phase;
        self.word = [0; 3];
        self.len = 0;
    }

    /// Adds a byte to the word, or counts it at least.
    #[inline(always)]
    const fn push(&mut self, byte: u8) {
        let byte = (byte as u64) << (self.len % 8 * 8);
        match self.len {
            0..8 => self.word[0] |= byte,
            8..16 => self.word[1] |= byte,
            16..24 => self.word[2] |= byte,
            _ => {}
        }
        self.len += 1;
    }

    #[inline(always)]
    const fn doubt(&mut self, doubt: Doubt) -> bool {
        self.outcome = doubt as u32;
        false
    }
}
