//! The search for the key that names the chat. Which key sources there are is declared in
//! [`crate::source`]; what reads a connection's bytes is a state machine in a file of its own: [`http`] and
//! [`tls`].

pub mod http;
pub mod scan;
pub mod tls;

use crate::{
    maps::{Addr, NAME_LEN, Name, STASH_LEN, Service, Tuple},
    scratch::Scratch,
    siphash,
    source::{self, KeyKind, Origin},
    tables::{FlowTables, Step},
    verifier::{index, pad},
};

use self::scan::{Outcome, Scan};

/// Steps of a search at the most: enough for a full stash and each source, with percent signs that
/// are read twice.
const MAX_STEPS: u32 = 1 << 15;

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

/// What the search for a key came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// It is in `scratch.key`.
    Found,
    /// There is none.
    Missing(Reason),
    /// Nobody can tell before more bytes are there.
    More,
}

/// The bytes that name a chat.
#[repr(C)]
pub struct Key {
    /// The key, zero behind `len` up to the next multiple of eight.
    pub bytes: [u8; STASH_LEN],
    /// Its length; never more than `bytes` has room for.
    pub len: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Key {
    /// Its hash under the cluster's secret.
    #[inline(always)]
    pub fn hash(&self, secret: &siphash::Key) -> u64 {
        siphash::bytes(secret, &self.bytes, self.len as usize)
    }

    /// Writes what of it stays readable.
    #[inline(always)]
    pub fn write_name(&self, name: &mut Name) {
        name.bytes.copy_from_slice(&self.bytes[..NAME_LEN]);
        name.len = self.len;
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
        self.bytes = [0; STASH_LEN];
        for (to, from) in self.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.len = bytes.len().min(STASH_LEN) as u32;
    }

    /// Zeroes what a name is made of: the rest is written before it is read.
    #[inline(always)]
    fn clear(&mut self) {
        self.bytes[..NAME_LEN].copy_from_slice(&[0; NAME_LEN]);
        self.len = 0;
    }

    /// Adds a byte.
    #[inline(always)]
    fn push(&mut self, byte: u8) {
        let at = index(self.len);
        if at < STASH_LEN {
            self.bytes[at] = byte;
            self.len += 1;
        }
    }

    /// Takes the last byte away.
    #[inline(always)]
    fn pop(&mut self) {
        let at = index(self.len.wrapping_sub(1));
        if at < STASH_LEN {
            self.bytes[at] = 0;
            self.len -= 1;
        }
    }

    /// Pads it with zeros, as its hash wants it.
    #[inline(always)]
    fn finish(&mut self) {
        pad(&mut self.bytes, self.len);
    }
}

/// Finds the key of the connection that begins with what is in `scratch.stash` and puts it into
/// `scratch.key`. `last`: no more bytes will come, for this reason.
#[inline(always)]
pub fn search(
    tables: &impl FlowTables,
    service: &Service,
    last: Option<Reason>,
    scratch: &mut Scratch,
) -> Search {
    let known = scratch.stash.get().known();
    scratch.scan = Scan::new(known, last);
    tables.repeat(MAX_STEPS, &mut Walk { service, scratch });
    match scratch.scan.outcome {
        Outcome::FOUND => Search::Found,
        Outcome::MORE => Search::More,
        Outcome::MISSING => Search::Missing(match scratch.scan.reason {
            1 => Reason::Unreadable,
            2 => Reason::Absent,
            3 => Reason::Empty,
            _ => Reason::TooLong,
        }),
        // The steps ran out.
        _ => Search::Missing(Reason::TooLong),
    }
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An HTTP request that asks for an upgrade (RFC 9110 section 7.8).
    Upgrade,
    /// Another HTTP request, or one whose head is not yet known to its end.
    Request,
    /// Something else.
    Other,
}

/// Whether any key source of a service reads HTTP.
#[inline(always)]
pub fn reads_http(service: &Service) -> bool {
    let mut any = false;
    for source in &service.sources {
        any |= source.kind().is_some_and(|kind| kind.origin() == Origin::Http);
    }
    any
}

/// What is in `scratch.stash`, as far as it is known. Uses `scratch.key`.
#[inline(always)]
pub fn kind(tables: &impl FlowTables, service: &Service, scratch: &mut Scratch) -> Kind {
    let known = scratch.stash.get().known();
    scratch.scan = Scan::new(known, Some(Reason::TooLong));
    scratch.scan.rewind(scan::UPGRADE, http::METHOD);
    scratch.key.clear();
    tables.repeat(MAX_STEPS, &mut Walk { service, scratch });
    match (scratch.scan.outcome, scratch.scan.reason) {
        (Outcome::FOUND, _) => Kind::Upgrade,
        (_, reason) if reason == Reason::Unreadable as u32 => Kind::Other,
        _ => Kind::Request,
    }
}

/// A search under way.
struct Walk<'a> {
    service: &'a Service,
    scratch: &'a mut Scratch,
}

impl Step for Walk<'_> {
    /// A byte, or several that do not matter.
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (service, scratch) = (self.service, &mut *self.scratch);
        match scratch.scan.phase {
            scan::BEGIN => begin(service, scratch),
            phase if phase >= tls::FIRST_PHASE => tls::step(service, scratch),
            _ => http::step(service, scratch),
        }
    }
}

/// Begins with the next key source.
#[inline(always)]
fn begin(service: &Service, scratch: &mut Scratch) -> bool {
    let Some(source) = scan::source(service, scratch.scan.source) else {
        scratch.scan.outcome = Outcome::MISSING;
        return false;
    };
    if source.kind == source::NONE {
        scratch.scan.outcome = Outcome::MISSING;
        return false;
    }
    let Some(kind) = source.kind() else {
        return scratch.scan.fail(Reason::Absent);
    };
    match kind.origin() {
        Origin::Http => return read(scratch, kind, http::METHOD),
        Origin::Tls => return read(scratch, kind, tls::FIRST_PHASE),
        Origin::Client => scratch.key.set_addr(&scratch.vip_side.client),
        Origin::Destination => scratch.key.set_addr(&scratch.vip_side.server),
        Origin::Tuple => scratch.key.set_tuple(&scratch.vip_side),
    }
    scratch.scan.kind = kind as u32;
    scratch.scan.outcome = Outcome::FOUND;
    false
}

/// Begins to read for a key source.
#[inline(always)]
fn read(scratch: &mut Scratch, kind: KeyKind, phase: u32) -> bool {
    scratch.scan.rewind(kind as u32, phase);
    scratch.key.clear();
    true
}

/// The value of a hexadecimal digit, or more than 15.
#[inline(always)]
const fn digit(byte: u8) -> u8 {
    let number = byte.wrapping_sub(b'0');
    if number < 10 {
        return number;
    }
    let letter = (byte | 0x20).wrapping_sub(b'a');
    if letter < 6 { letter + 10 } else { 0xff }
}

/// An ASCII letter in lower case.
#[inline(always)]
const fn lower(byte: u8) -> u8 {
    if byte.wrapping_sub(b'A') < 26 { byte | 0x20 } else { byte }
}
