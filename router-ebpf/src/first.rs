//! Where the requests of a connection begin, from its first one on: heads that are read in working memory.

use crate::{
    key::{self, Reason},
    maps::{FLOW_EXCHANGE, HEAD_LEN, PENDING_READING, POLICY_HOME, REUSE_STAY, Service},
    request::{Exchange, Head, Standing},
    scratch::Scratch,
    source::{KeyKind, Origin},
    tables::{FlowTables, Step},
    verifier::reread,
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
    let Scratch { stash, chunk_key, head, routed, .. } = &mut *scratch;
    let (first, known) = (stash.get().client_isn.wrapping_add(1), stash.get().known);
    if reread(routed) == 0 {
        *head = Head::NEW;
        if stash.load_all(tables, chunk_key, 0, known) {
            read_head(tables, scratch, 0, known);
        }
    }
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
/// modulo 2^32, is at the beginning of `scratch.stash`.
#[inline(always)]
pub fn read_head(tables: &impl FlowTables, scratch: &mut Scratch, base: u32, known: u32) {
    tables.repeat(HEAD_LEN as u32, &mut Reading { scratch, base, known });
}

/// A head that is being read.
struct Reading<'a> {
    scratch: &'a mut Scratch,
    /// Which of its bytes is the first one of `scratch.stash`.
    base: u32,
    /// How many bytes are known.
    known: u32,
}

impl Step for Reading<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (base, known) = (self.base, self.known);
        let Scratch { head, stash, .. } = &mut *self.scratch;
        if head.at.wrapping_sub(base) >= HEAD_LEN as u32 || head.at >= known {
            return false;
        }
        head.step(|at| stash.window(at.wrapping_sub(base)), known)
    }
}
