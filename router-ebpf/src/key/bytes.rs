//! The bytes that name a chat, as they are read.

use roost_place::cookie;

use crate::{
    maps::{Addr, KEPT_KEY, NAME_LEN, Name, PART, Tuple},
    siphash,
    verifier::{index, pad},
};

/// The bytes that name a chat.
#[repr(C)]
pub struct Key {
    /// The key, zero behind `len` up to the next multiple of eight.
    pub bytes: [u8; PART],
    /// Its length; never more than `bytes` has room for.
    pub len: u32,
    /// 1 if it is longer than there is room for.
    pub cut: u32,
    /// 1 if not all of it is in `bytes`: its first ones were kept, and what comes behind them was not.
    pub lost: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Key {
    /// No key yet.
    pub const EMPTY: Self = Self { bytes: [0; PART], len: 0, cut: 0, lost: 0, reserved: 0 };

    /// Its hash under the cluster's secret.
    #[inline(always)]
    pub fn hash(&self, secret: &siphash::Key) -> u64 {
        cookie::of_key(secret, &self.bytes, self.len as usize)
    }

    /// Writes what of it stays readable.
    #[inline(always)]
    pub fn write_name(&self, name: &mut Name) {
        name.bytes.copy_from_slice(&self.bytes[..NAME_LEN]);
        name.len = self.len;
    }

    /// Makes it one whose first bytes were kept.
    #[inline(always)]
    pub fn resume(&mut self, kept: &[u8; KEPT_KEY], len: u32) {
        const { assert!(NAME_LEN <= KEPT_KEY) };
        self.bytes[..KEPT_KEY].copy_from_slice(kept);
        self.len = len;
        self.cut = 0;
        self.lost = (len > KEPT_KEY as u32) as u32;
    }

    /// Keeps its first bytes.
    #[inline(always)]
    pub fn pause(&self, kept: &mut [u8; KEPT_KEY]) {
        kept.copy_from_slice(&self.bytes[..KEPT_KEY]);
    }

    /// Makes it an address.
    #[inline(always)]
    pub fn set_addr(&mut self, addr: &Addr) {
        self.clear();
        self.bytes[..16].copy_from_slice(addr);
        self.len = 16;
    }

    /// Makes it a tuple: 36 bytes, as in [`Tuple`].
    #[inline(always)]
    pub fn set_tuple(&mut self, tuple: &Tuple) {
        self.clear();
        self.bytes[..16].copy_from_slice(&tuple.client);
        self.bytes[16..32].copy_from_slice(&tuple.server);
        self.bytes[32..34].copy_from_slice(&tuple.client_port);
        self.bytes[34..36].copy_from_slice(&tuple.server_port);
        self.len = 36;
    }

    /// Makes it text, for the tools: what does not fit is an error of the caller's.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        self.bytes = [0; PART];
        for (to, from) in self.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.len = bytes.len().min(PART) as u32;
    }

    /// Zeroes what a name is made of: the rest is written before it is read.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.bytes[..NAME_LEN].copy_from_slice(&[0; NAME_LEN]);
        self.len = 0;
        self.cut = 0;
        self.lost = 0;
    }

    /// Adds a byte.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        let at = index(self.len);
        if at < PART {
            self.bytes[at] = byte;
            self.len += 1;
        } else {
            self.cut = 1;
        }
    }

    /// Adds the first `len` bytes of a word, 8 at the most, behind which are zeros. Returns whether there is room for all
    /// of it.
    #[inline(always)]
    pub fn push_word(&mut self, word: u64, len: u32) -> bool {
        let at = index(self.len);
        let Some(room) = self.bytes.get_mut(at..at + 8).and_then(|room| room.first_chunk_mut())
        else {
            return false;
        };
        *room = word.to_le_bytes();
        self.len += len;
        true
    }

    /// Takes the last byte away.
    #[inline(always)]
    pub fn pop(&mut self) {
        let at = index(self.len.wrapping_sub(1));
        if at < PART {
            self.bytes[at] = 0;
            self.len -= 1;
        }
    }

    /// Pads it with zeros, as its hash wants it.
    #[inline(always)]
    pub fn finish(&mut self) {
        pad(&mut self.bytes, self.len);
    }
}

/// The value of a hexadecimal digit, or more than 15.
#[inline(always)]
pub const fn digit(byte: u8) -> u8 {
    let number = byte.wrapping_sub(b'0');
    if number < 10 {
        return number;
    }
    let letter = (byte | 0x20).wrapping_sub(b'a');
    if letter < 6 { letter + 10 } else { 0xff }
}

/// An ASCII letter in lower case.
#[inline(always)]
pub const fn lower(byte: u8) -> u8 {
    if byte.wrapping_sub(b'A') < 26 { byte | 0x20 } else { byte }
}

/// Bytes of a method that are believed to be one.
pub const METHOD_LEN: u32 = 32;

/// What may stand in a method (RFC 9110 section 5.6.2).
#[inline(always)]
pub const fn is_token(byte: u8) -> bool {
    // Bits of the bytes that may, from `!` to `~`.
    const LOW: u64 = {
        let mut bits = 0;
        let mut i = 0;
        let marks = *b"!#$%&'*+-.0123456789";
        while i < marks.len() {
            bits |= 1 << marks[i];
            i += 1;
        }
        bits
    };
    match byte {
        ..=63 => LOW >> byte & 1 != 0,
        b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~' => true,
        _ => false,
    }
}
