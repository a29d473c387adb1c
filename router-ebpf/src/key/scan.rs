//! Where a search through a connection's first bytes stands. It lives in map memory: what the
//! verifier does not know about, it need not follow through every byte.

use super::bytes::Key;
use crate::{
    maps::{Addr, HEAD_LEN, KeySource, SCAN_WORDS, SOURCE_TEXT_LEN, Service},
    verifier::index,
};

/// `phase`: the next key source is to be begun. Those of [`super::http`], [`super::tls`] and
/// [`super::proxy`] follow.
pub const BEGIN: u32 = 0;
/// `same` after a byte that was not the same.
pub const DIFFERS: u32 = u32::MAX;
/// `kind`: not one of the service's key sources, but the header `Upgrade`.
pub const UPGRADE: u32 = 256;

/// `kind`: not one of the service's key sources, but what a proxy sends first: [`super::proxy`].
pub const PROXY: u32 = 257;

/// Why a connection has no key. What says more about it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// It does not speak what the key sources read.
    Unreadable = 1,
    /// It does, and there is no key in it.
    Absent = 2,
    /// There is one, and it is empty.
    Empty = 3,
    /// The key sources would have to read more than can be stashed.
    TooLong = 4,
}

/// Values of [`Scan::outcome`].
pub struct Outcome;

impl Outcome {
    /// The search is not over.
    pub const NONE: u32 = 0;
    /// A key was found.
    pub const FOUND: u32 = 1;
    /// No source yields one.
    pub const MISSING: u32 = 2;
    /// More bytes are needed.
    pub const MORE: u32 = 3;
}

/// State of a search.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// The next byte, counted from the connection's first one.
    pub at: u32,
    /// How many bytes are known.
    pub known: u32,
    /// Up to where bytes are in working memory, from `at` on; not more than `at`: they are to be loaded.
    pub ready: u32,
    /// Which key source.
    pub source: u32,
    /// Its kind: a [`crate::source::KeyKind`], or [`UPGRADE`].
    pub kind: u32,
    /// What is expected: `BEGIN`, or one of `http`, `tls` or `proxy`.
    pub phase: u32,
    /// Bytes of a name that were the same so far, or [`DIFFERS`].
    pub same: u32,
    /// Bytes to step over.
    pub skip: u32,
    /// A number that is being read.
    pub number: u32,
    /// Its bytes that are still to come.
    pub want: u32,
    /// TLS: bytes of the record that are still to come.
    pub record: u32,
    /// TLS: bytes of the record's header that have been read, and its length.
    pub header: u32,
    /// TLS: bytes of the ClientHello that are still to come.
    pub left: u32,
    /// HTTP: how far a percent-encoded byte has been read.
    pub escape: u32,
    /// HTTP: where its percent sign is. How much of a value is more than white space.
    pub mark: u32,
    /// What it came to: one of [`Outcome`].
    pub outcome: u32,
    /// Why there is no key: a [`Reason`], or 0.
    pub reason: u32,
    /// Why no more bytes will come: a [`Reason`], or 0 if they may.
    last: u32,
    /// Where the client's bytes begin: behind what a proxy has sent.
    pub begin: u32,
    /// 1 if a proxy has named its client's address.
    pub named: u32,
    /// That address, the highest word first; meaningless unless `named`.
    pub client: [u32; 4],
}

impl Scan {
    /// A search that begins.
    #[inline(always)]
    pub fn new(known: u32, last: Option<Reason>) -> Self {
        Self { known, last: last.map_or(0, |reason| reason as u32), ..Self::default() }
    }

    /// Another search in the same bytes.
    #[inline(always)]
    pub fn anew(&self, known: u32, last: Option<Reason>) -> Self {
        let Self { begin, named, client, .. } = *self;
        Self { begin, named, client, ..Self::new(known, last) }
    }

    /// Goes on where it was before more bytes came; with zeros it begins.
    #[inline(always)]
    pub fn resume(&mut self, words: &[u32; SCAN_WORDS], known: u32, last: Option<Reason>) {
        // SAFETY: as below.
        *self = unsafe { *core::ptr::from_ref(words).cast() };
        self.known = known;
        self.last = last.map_or(0, |reason| reason as u32);
        self.outcome = Outcome::NONE;
        self.ready = 0;
    }

    /// All of it as words.
    #[inline(always)]
    pub const fn words(&self) -> &[u32; SCAN_WORDS] {
        const { assert!(size_of::<Self>() == size_of::<[u32; SCAN_WORDS]>()) };
        // SAFETY: both are as many 32-bit numbers, of which any is valid.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// Begins with the client's first byte again.
    #[inline(always)]
    pub fn rewind(&mut self, kind: u32, phase: u32) {
        self.seek(self.begin);
        self.kind = kind;
        self.phase = phase;
        self.same = 0;
        self.skip = 0;
        self.want = 0;
        self.record = 0;
        self.header = 0;
        self.left = 0;
        self.escape = 0;
    }

    /// Goes to any byte.
    #[inline(always)]
    pub fn seek(&mut self, at: u32) {
        self.at = at;
        self.ready = 0;
    }

    /// Another byte of the client's address: the bytes before it move up.
    #[inline(always)]
    pub fn shift_client(&mut self, byte: u8) {
        let [a, b, c, d] = self.client;
        self.client = [a << 8 | b >> 24, b << 8 | c >> 24, c << 8 | d >> 24, d << 8 | byte as u32];
    }

    /// Whom the connection is of: whom a proxy has named, or who sends it. The unspecified address names nobody.
    #[inline(always)]
    pub fn client(&self, sender: &Addr) -> Addr {
        if self.named == 0 || self.client == [0; 4] {
            return *sender;
        }
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] =
            self.client.map(u32::to_be_bytes);
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// This source yields no key: on to the next.
    #[inline(always)]
    pub fn fail(&mut self, reason: Reason) -> bool {
        let reason = match reason {
            // The header is cut off.
            Reason::Absent if self.kind == PROXY => Reason::Unreadable as u32,
            reason => reason as u32,
        };
        if self.reason < reason {
            self.reason = reason;
        }
        if self.kind == UPGRADE || self.kind == PROXY {
            self.outcome = Outcome::MISSING;
            return false;
        }
        self.source += 1;
        self.phase = BEGIN;
        true
    }

    /// This source has read the key, which may be empty.
    #[inline(always)]
    pub fn found(&mut self, key: &mut Key) -> bool {
        if key.len == 0 {
            return self.fail(Reason::Empty);
        }
        if key.lost != 0 {
            // All of it is there now: this source reads it once more.
            key.lost = 0;
            self.phase = BEGIN;
            return true;
        }
        if key.cut != 0 {
            return self.fail(Reason::TooLong);
        }
        key.finish();
        self.outcome = Outcome::FOUND;
        false
    }

    /// Whether the byte `at` is known, but not loaded.
    #[inline(always)]
    pub const fn is_to_be_loaded(&self) -> bool {
        self.at < self.known && self.at >= self.ready
    }

    /// The place of the byte `at`. `Err`: it is not there, and whether to go on.
    #[inline(always)]
    pub fn place(&mut self) -> Result<usize, bool> {
        if self.at >= self.known {
            return Err(match self.last {
                0 => {
                    self.outcome = Outcome::MORE;
                    false
                }
                2 => self.fail(Reason::Absent),
                _ => self.fail(Reason::TooLong),
            });
        }
        let place = index(self.at);
        // What is known is in its chunk.
        if self.at >= self.ready || place >= HEAD_LEN {
            return Err(self.fail(Reason::TooLong));
        }
        Ok(place)
    }

    /// How many bytes are there, with the one at hand.
    #[inline(always)]
    pub const fn together(&self) -> u32 {
        self.ready.wrapping_sub(self.at)
    }

    /// Compares the next byte of a name.
    #[inline(always)]
    pub fn compare(&mut self, source: &KeySource, byte: u8) {
        let at = index(self.same);
        let fits = at < SOURCE_TEXT_LEN && at < source.len as usize && source.text[at] == byte;
        self.same = if fits { self.same + 1 } else { DIFFERS };
    }

    /// Whether all of the name was the same.
    #[inline(always)]
    pub const fn is_same(&self, source: &KeySource) -> bool {
        self.same == source.len as u32
    }
}

/// The key source with this number, if there is one.
#[inline(always)]
pub fn source(service: &Service, number: u32) -> Option<&KeySource> {
    service.sources.get(index(number))
}
