//! Where the requests of a connection begin, from its first one on: heads that are read in working memory.

use crate::{
    key::{self, Reason},
    maps::{CHUNK, HEAD_LEN, POLICY_HOME, REUSE_STAY, Service},
    request::{Exchange, Head, Standing},
    scratch::Scratch,
    source::{KeyKind, Origin},
    tables::{FlowTables, Step},
    verifier::index,
};

/// Reads the head of a connection that is about to be bound, if its later requests are to be looked at. Returns whether
/// they are, and writes where the next one begins.
#[inline(never)]
pub fn first(tables: &impl FlowTables, scratch: &mut Scratch, service: &Service) -> bool {
    let by_http = match KeyKind::from_map(scratch.pending.source as u8) {
        Some(kind) => kind.origin() == Origin::Http,
        // Without a key: by what it speaks.
        None => scratch.missing != Reason::Unreadable as u32,
    };
    // A new replica could not be given what a proxy has sent.
    let is_wanted =
        service.on_reuse != REUSE_STAY && service.policy == POLICY_HOME && scratch.from_proxy == 0;
    if !is_wanted || !by_http || !key::reads_http(service) {
        return false;
    }
    read_head::<true>(tables, scratch);
    let stash = scratch.stash.get();
    let (first, known) = (stash.client_isn.wrapping_add(1), stash.known);
    let mut exchange = Exchange::first(0, 0);
    exchange.begin(first, known, 0, scratch.head.read());
    if let Standing::Doubt(doubt) = exchange.standing {
        tables.count(doubt.counter());
        return false;
    }
    scratch.pending.boundary = exchange.boundary;
    true
}

/// Reads the head of the request that `scratch.stash` begins with, into `scratch.head`. `LOAD`: not all of it is in working memory.
#[inline(always)]
pub fn read_head<const LOAD: bool>(tables: &impl FlowTables, scratch: &mut Scratch) {
    scratch.head = Head::NEW;
    let known = scratch.stash.get().known;
    let ready = if LOAD { 0 } else { known };
    let mut reading = Reading::<'_, _, LOAD> { tables, scratch, known, ready };
    tables.repeat(HEAD_LEN as u32, &mut reading);
}

/// A head that is being read.
struct Reading<'a, T, const LOAD: bool> {
    tables: &'a T,
    scratch: &'a mut Scratch,
    /// How many bytes are known.
    known: u32,
    /// How many are in working memory.
    ready: u32,
}

impl<T: FlowTables, const LOAD: bool> Step for Reading<'_, T, LOAD> {
    /// A byte, or eight that do not matter.
    #[inline(always)]
    fn step(&mut self) -> bool {
        let Scratch { head, stash, chunk_key, .. } = &mut *self.scratch;
        if LOAD && head.at >= self.ready && head.at < self.known {
            let number = head.at / CHUNK as u32;
            if stash.load(self.tables, chunk_key, number) {
                self.ready = ((number + 1) * CHUNK as u32).min(self.known);
            }
        }
        let at = index(head.at);
        if head.at >= self.ready || at >= HEAD_LEN {
            return false;
        }
        let bytes = stash.head();
        if self.ready - head.at >= 8
            && let Some(eight) = bytes.get(at..at + 8).and_then(|bytes| bytes.first_chunk())
            && head.take_eight(eight)
        {
            return true;
        }
        head.take(bytes[at])
    }
}
