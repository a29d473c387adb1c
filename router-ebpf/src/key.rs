//! The search for the key that names the chat. Which key sources there are is declared in
//! [`crate::source`]; what reads a connection's bytes is a state machine in a file of its own: [`http`] and
//! [`tls`], and [`proxy`] for what stands before those.

pub mod bytes;
pub mod http;
pub mod proxy;
pub mod scan;
pub mod tls;

use crate::{
    maps::Service,
    scratch::Scratch,
    source::{self, KeyKind, Origin},
    tables::{FlowTables, Step},
};

use self::scan::{Outcome, Scan};
pub use self::{bytes::Key, scan::Reason};

/// Steps of a search at the most: enough for a full stash and each source, with percent signs that
/// are read twice, and a long key that is, too.
const MAX_STEPS: u32 = 1 << 18;

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

/// Finds the key of the connection that begins with what is in `scratch.stash` and puts it into
/// `scratch.key`. `last`: no more bytes will come, for this reason. `scratch.from_proxy`: what a proxy sends stands
/// before the client's first byte.
#[inline(always)]
pub fn search(
    tables: &impl FlowTables,
    service: &Service,
    last: Option<Reason>,
    scratch: &mut Scratch,
) -> Search {
    resume(service, last, scratch);
    tables.repeat(MAX_STEPS, &mut Walk { tables, service, scratch });
    match scratch.scan.outcome {
        Outcome::FOUND => Search::Found,
        Outcome::MORE => {
            pause(service, scratch);
            Search::More
        }
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

/// Goes on where the search was when more bytes were needed, unless heads are read otherwise by now.
#[inline(always)]
fn resume(service: &Service, last: Option<Reason>, scratch: &mut Scratch) {
    let Scratch { stash, scan, key, from_proxy, service: number, .. } = scratch;
    let stash = stash.get();
    let known = stash.known;
    // The VIP may be another service's by now.
    if stash.service == *number && stash.reading == begun(service) {
        scan.resume(&stash.scan, known, last);
        key.resume(&stash.key, stash.key_len);
    } else {
        *scan = Scan::new(known, last);
        if *from_proxy != 0 {
            proxy::expect(scan);
        }
    }
}

/// What [`Stash::reading`](crate::maps::Stash::reading) is of a search that has begun now.
#[inline(always)]
const fn begun(service: &Service) -> u32 {
    service.reading as u32 + 1
}

/// Remembers where the search is.
#[inline(always)]
fn pause(service: &Service, scratch: &mut Scratch) {
    let Scratch { stash, scan, key, .. } = scratch;
    let stash = stash.get_mut();
    key.pause(&mut stash.key);
    stash.key_len = key.len;
    stash.reading = begun(service);
    stash.scan = *scan.words();
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

/// What is in `scratch.stash`, as far as it is known, after a search. Uses `scratch.key`.
#[inline(always)]
pub fn kind(tables: &impl FlowTables, service: &Service, scratch: &mut Scratch) -> Kind {
    let known = scratch.stash.get().known;
    scratch.scan = scratch.scan.anew(known, Some(Reason::TooLong));
    scratch.scan.rewind(scan::UPGRADE, http::METHOD);
    scratch.key.clear();
    tables.repeat(MAX_STEPS, &mut Walk { tables, service, scratch });
    match (scratch.scan.outcome, scratch.scan.reason) {
        (Outcome::FOUND, _) => Kind::Upgrade,
        (_, reason) if reason == Reason::Unreadable as u32 => Kind::Other,
        _ => Kind::Request,
    }
}

/// A search under way.
struct Walk<'a, T> {
    tables: &'a T,
    service: &'a Service,
    scratch: &'a mut Scratch,
}

impl<T: FlowTables> Step for Walk<'_, T> {
    /// A byte, or several that do not matter.
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (service, scratch) = (self.service, &mut *self.scratch);
        let Scratch { stash, scan, key, chunk_key, .. } = scratch;
        if scan.is_to_be_loaded() {
            scan.ready = stash.load_at(self.tables, chunk_key, scan.at).min(scan.known);
        }
        match scan.phase {
            scan::BEGIN => begin(service, scratch),
            phase if phase >= proxy::FIRST_PHASE => proxy::step(stash, scan, key),
            phase if phase >= tls::FIRST_PHASE => tls::step(service, stash, scan, key),
            _ => http::step(service, stash, scan, key),
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
        Origin::Client => scratch.key.set_addr(&scratch.scan.client(&scratch.vip_side.client)),
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
