//! Where the requests of a connection begin, from its first one on: heads that are read in working memory.

use crate::{
    key::{self, Reason},
    maps::{FLOW_EXCHANGE, HEAD_LEN, PENDING_READING, POLICY_HOME, REUSE_STAY, Service},
    request::{Exchange, Head, Standing},
    scratch::Scratch,
    source::{KeyKind, Origin},
    tables::{FlowTables, Step},
    verifier::index,
};

/// Reads the head of a connection that is about to be bound, if its later requests are to be looked at. Returns the flags that
/// say whether they are, and writes where the next one begins, if that is known.
#[inline(never)]
pub fn first(tables: &impl FlowTables, scratch: &mut Scratch, service: &Service) -> u8 {
    let by_http = match KeyKind::from_map(scratch.pending.source as u8) {
        Some(kind) => kind.origin() == Origin::Http,
        // Without a key: by what it speaks.
        None => scratch.missing != Reason::Unreadable as u32,
    };
    // A new replica could not be given what a proxy has sent.
    let is_wanted =
        service.on_reuse != REUSE_STAY && service.policy == POLICY_HOME && scratch.from_proxy == 0;
    if !is_wanted || !by_http || !key::reads_http(service) {
        return 0;
    }
    scratch.head = Head::NEW;
    let stash = scratch.stash.get();
    let (first, known) = (stash.client_isn.wrapping_add(1), stash.known);
    read_head::<true>(tables, scratch, 0, known);
    let mut exchange = Exchange::first(0, 0);
    exchange.begin(first, known, 0, scratch.head.read());
    match exchange.standing {
        // More of it may be there when the replica accepts.
        Standing::Reading => FLOW_EXCHANGE | PENDING_READING,
        Standing::Doubt(doubt) => {
            tables.count(doubt.counter());
            0
        }
        _ => {
            scratch.pending.boundary = exchange.boundary;
            FLOW_EXCHANGE
        }
    }
}

/// Goes on with the head in `scratch.head` where that is. `known` bytes of it are there; what is `base` behind its beginning,
/// modulo 2^32, is at the beginning of `scratch.stash`. `LOAD`: not all of them are in working memory.
#[inline(always)]
pub fn read_head<const LOAD: bool>(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    base: u32,
    known: u32,
) {
    let ready = if LOAD { 0 } else { known };
    let mut reading = Reading::<'_, _, LOAD> { tables, scratch, base, known, ready };
    tables.repeat(HEAD_LEN as u32, &mut reading);
}

/// A head that is being read.
struct Reading<'a, T, const LOAD: bool> {
    tables: &'a T,
    scratch: &'a mut Scratch,
    /// Which of them is the first one in working memory.
    base: u32,
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
            self.ready = stash.load_at(self.tables, chunk_key, head.at).min(self.known);
        }
        let at = index(head.at.wrapping_sub(self.base));
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
