//! The search for a key in the first bytes of a connection, by the kernel program's own code, without
//! a kernel.

use router_ebpf::{
    key::{self, Reason, Search},
    maps::{
        Chat, ChatCookie, ChatKey, Flow, FlowBack, Pending, Piece, Replica, STASH_LEN, Secrets,
        Service, Stash, Tuple, VipKey,
    },
    scratch::Scratch,
    tables::{FlowTables, Refused, Shared, Tables},
    verdict::Counter,
};

use crate::plan::config::KeySource;

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A key.
    Found {
        /// The key source that yielded it.
        source: KeySource,
        /// Its bytes.
        key: Vec<u8>,
    },
    /// None.
    Missing(Reason),
    /// The connection would wait for more bytes.
    More,
}

/// Looks for the key of a connection that begins with `bytes`. `tuple` is the client and the VIP; it
/// matters to those key sources only that take the key from it.
pub fn search(service: &Service, tuple: &Tuple, bytes: &[u8]) -> Outcome {
    let zeroed = Box::<Scratch>::new_zeroed();
    // SAFETY: `Scratch` is made of integers, and of an enum whose first variant is zero.
    let mut scratch = unsafe { zeroed.assume_init() };
    let scratch = &mut *scratch;
    scratch.vip_side = *tuple;
    let len = bytes.len().min(STASH_LEN);
    scratch.stash.clear(0);
    scratch.stash.get_mut().first = 1;
    scratch.stash.bytes_mut(0)[..len].copy_from_slice(&bytes[..len]);
    // The first byte's sequence number is one more than the client's initial one, which is 0.
    scratch.stash.add(Piece { seq: 1, len: len as u16, ..Piece::NONE });
    let last = (len == STASH_LEN).then_some(Reason::TooLong);
    match key::search(&NoTables, service, last, scratch) {
        Search::Found => {
            let source = service.sources.get(scratch.scan.source as usize);
            match source.and_then(KeySource::from_map) {
                Some(source) => {
                    let len = (scratch.key.len as usize).min(STASH_LEN);
                    Outcome::Found { source, key: scratch.key.bytes[..len].to_vec() }
                }
                None => Outcome::Missing(Reason::Absent),
            }
        }
        Search::Missing(reason) => Outcome::Missing(reason),
        Search::More => Outcome::More,
    }
}

/// The word for a reason, as the counters `missing_*` have it.
pub const fn reason_word(reason: Reason) -> &'static str {
    match reason {
        Reason::Unreadable => "unreadable",
        Reason::Absent => "absent",
        Reason::Empty => "empty",
        Reason::TooLong => "too_long",
    }
}

/// Maps with nothing in them: a search looks at none.
struct NoTables;

impl Tables for NoTables {
    fn now(&self) -> u64 {
        0
    }
    fn secrets(&self) -> Option<&Secrets> {
        None
    }
    fn vip(&self, _: &VipKey) -> Option<u32> {
        None
    }
    fn service(&self, _: u32) -> Option<&Service> {
        None
    }
    fn replica(&self, _: u32) -> Option<&Replica> {
        None
    }
    fn slot(&self, _: u32) -> Option<u32> {
        None
    }
    fn chat_cookie(&self, _: &ChatKey) -> Option<&ChatCookie> {
        None
    }
    fn chat(&self, _: &ChatKey) -> Option<Shared<Chat>> {
        None
    }
}

impl FlowTables for NoTables {
    fn count(&self, _: Counter) {}
    fn add_chat(&self, _: &ChatKey, _: &Chat) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn flow(&self, _: &Tuple) -> Option<Shared<Flow>> {
        None
    }
    fn add_flow(&self, _: &Tuple, _: &Flow) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn remove_flow(&self, _: &Tuple) {}
    fn flow_back(&self, _: &Tuple) -> Option<Shared<FlowBack>> {
        None
    }
    fn add_flow_back(&self, _: &Tuple, _: &FlowBack) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn remove_flow_back(&self, _: &Tuple) {}
    fn pending(&self, _: &Tuple) -> Option<Shared<Pending>> {
        None
    }
    fn set_pending(&self, _: &Tuple, _: &Pending) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn remove_pending(&self, _: &Tuple) {}
    fn stash(&self, _: &Tuple) -> Option<Shared<Stash>> {
        None
    }
    fn set_stash(&self, _: &Tuple, _: &Stash) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn remove_stash(&self, _: &Tuple) {}
}

#[cfg(test)]
mod tests;
