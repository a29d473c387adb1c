//! What the pipeline needs of the maps: the kernel's own, or copies of them in a tool or a test.

use crate::{
    maps::{
        Chat, ChatCookie, ChatKey, Chunk, ChunkKey, Farewell, Flow, FlowBack, Link, Load, Mac,
        Pending, Replica, Ring, Secrets, Service, Share, Sharing, SourceKey, Stash, TrustedKey,
        Tuple, VipKey, Watched, WatchedChat,
    },
    shared::Shared,
    verdict::Counter,
};

/// Why a map took no new entry.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is one with this key.
    Exists = 1,
    /// It is full.
    Full,
    /// There is no memory. Of an LRU map: none of its entries could be evicted.
    NoMemory,
    /// Somebody else was at it, for too long: what comes again may have more luck.
    Busy,
    /// It should not have happened.
    Fault,
}

impl Refused {
    /// What the kernel means by the error number of an update or a push, which is negative. A lock that is not got
    /// is `EBUSY` in hash maps and queues (kernel/bpf/hashtab.c, queue_stack_maps.c), and what the lock itself says
    /// since Linux 6.15 (kernel/bpf/rqspinlock.c).
    #[inline(always)]
    pub const fn of(errno: i32) -> Self {
        const E2BIG: i32 = -7;
        const EAGAIN: i32 = -11;
        const ENOMEM: i32 = -12;
        const EBUSY: i32 = -16;
        const EEXIST: i32 = -17;
        const EDEADLK: i32 = -35;
        const ETIMEDOUT: i32 = -110;
        match errno {
            EEXIST => Self::Exists,
            E2BIG => Self::Full,
            ENOMEM => Self::NoMemory,
            EBUSY | EAGAIN | EDEADLK | ETIMEDOUT => Self::Busy,
            _ => Self::Fault,
        }
    }
}

/// What is done again and again.
pub trait Step {
    /// Does it once. Returns whether to go on.
    fn step(&mut self) -> bool;
}

/// The maps, to read. Enough to say where a connection would go.
pub trait Tables {
    /// Now, in nanoseconds of `CLOCK_MONOTONIC`; may lag by a timer tick.
    fn now(&self) -> u64;
    /// `SECRETS`, if a daemon has filled it.
    fn secrets(&self) -> Option<&Secrets>;
    /// `VIPS`: the number of the service that owns this address and port.
    fn vip(&self, vip: &VipKey) -> Option<u32>;
    /// `SERVICES`.
    fn service(&self, number: u32) -> Option<&Service>;
    /// `SOURCE_RANGES`: 1 if clients with this address may connect to this service.
    fn source_range(&self, source: &SourceKey) -> Option<u32>;
    /// `MACS`: what is said of this address, if it is there.
    fn mac(&self, mac: &Mac) -> Option<u64>;
    /// `LINKS`: what is said of the interface with this index.
    fn link(&self, index: &u32) -> Option<Link>;
    /// `REPLICAS`.
    fn replica(&self, number: u32) -> Option<&Replica>;
    /// `SLOTS`: a replica's number.
    fn slot(&self, index: u32) -> Option<u32>;
    /// `CHAT_COOKIES`.
    fn chat_cookie(&self, key: &ChatKey) -> Option<&ChatCookie>;
    /// `CHATS`.
    fn chat(&self, key: &ChatKey) -> Option<Shared<Chat>>;
}

/// The maps, to read and to write: what a packet needs.
pub trait FlowTables: Tables {
    /// Does something until it says no, or `most` times. A loop that the verifier walks through once,
    /// not once for each time.
    #[inline(always)]
    fn repeat<S: Step>(&self, most: u32, what: &mut S) {
        for _ in 0..most {
            if !what.step() {
                break;
            }
        }
    }
    /// Counts a packet.
    fn count(&self, counter: Counter);
    /// Adds to `CHATS`.
    fn add_chat(&self, key: &ChatKey, chat: &Chat) -> Result<(), Refused>;
    /// Removes from `CHATS`.
    fn remove_chat(&self, key: &ChatKey);
    /// `FLOWS`, by client and VIP.
    fn flow(&self, tuple: &Tuple) -> Option<Shared<Flow>>;
    /// Adds to `FLOWS`.
    fn add_flow(&self, tuple: &Tuple, flow: &Flow) -> Result<(), Refused>;
    /// Removes from `FLOWS`.
    fn remove_flow(&self, tuple: &Tuple);
    /// `FLOWS_BACK`, by client and replica.
    fn flow_back(&self, tuple: &Tuple) -> Option<Shared<FlowBack>>;
    /// Adds to `FLOWS_BACK`.
    fn add_flow_back(&self, tuple: &Tuple, flow: &FlowBack) -> Result<(), Refused>;
    /// Removes from `FLOWS_BACK`.
    fn remove_flow_back(&self, tuple: &Tuple);
    /// `ENDED`, by client and VIP.
    fn ended(&self, tuple: &Tuple) -> Option<Shared<Flow>>;
    /// Sets in `ENDED`; another entry may go for it.
    fn set_ended(&self, tuple: &Tuple, flow: &Flow) -> Result<(), Refused>;
    /// `ENDED_BACK`, by client and replica.
    fn ended_back(&self, tuple: &Tuple) -> Option<Shared<FlowBack>>;
    /// Sets in `ENDED_BACK`; another entry may go for it.
    fn set_ended_back(&self, tuple: &Tuple, flow: &FlowBack) -> Result<(), Refused>;
    /// Removes from `ENDED_BACK`.
    fn remove_ended_back(&self, tuple: &Tuple);
    /// Puts a flow at the end of `FLOW_RING`.
    fn watch_flow(&self, flow: &Watched) -> Result<(), Refused>;
    /// Reads the first one of `FLOW_RING`, which stays there. Returns whether there is one.
    fn first_flow(&self, flow: &mut Watched) -> bool;
    /// Takes the first one of `FLOW_RING`. Returns whether there is one.
    fn next_flow(&self, flow: &mut Watched) -> bool;
    /// Puts a chat at the end of `CHAT_RING`.
    fn watch_chat(&self, chat: &WatchedChat) -> Result<(), Refused>;
    /// Reads the first one of `CHAT_RING`, which stays there. Returns whether there is one.
    fn first_chat(&self, chat: &mut WatchedChat) -> bool;
    /// Takes the first one of `CHAT_RING`. Returns whether there is one.
    fn next_chat(&self, chat: &mut WatchedChat) -> bool;
    /// `RINGS`.
    fn ring(&self, index: u32) -> Option<Shared<Ring>>;
    /// `LOADS`, by replica.
    fn load(&self, replica: u32) -> Option<Shared<Load>>;
    /// `SHARES`.
    fn share(&self, index: u32) -> Option<Shared<Share>>;
    /// `SHARING`, if a daemon has filled it.
    fn sharing(&self) -> Option<&Sharing>;
    /// `TRUSTED`: 1 if a client with this address is trusted.
    fn trusted(&self, key: &TrustedKey) -> Option<u32>;
    /// Puts at the end of `FAREWELLS`.
    fn farewell(&self, farewell: &Farewell) -> Result<(), Refused>;
    /// `PENDING`, by client and replica.
    fn pending(&self, tuple: &Tuple) -> Option<Shared<Pending>>;
    /// Sets in `PENDING`; another entry may go for it.
    fn set_pending(&self, tuple: &Tuple, pending: &Pending) -> Result<(), Refused>;
    /// Removes from `PENDING`.
    fn remove_pending(&self, tuple: &Tuple);
    /// `STASH`, by client and VIP.
    fn stash(&self, tuple: &Tuple) -> Option<Shared<Stash>>;
    /// Adds to `STASH`.
    fn add_stash(&self, tuple: &Tuple, stash: &Stash) -> Result<(), Refused>;
    /// Removes from `STASH`.
    fn remove_stash(&self, tuple: &Tuple);
    /// Copies a value of `CHUNKS`. Returns whether there is one.
    fn load_chunk(&self, key: &ChunkKey, to: &mut Chunk) -> bool;
    /// Sets in `CHUNKS`.
    fn set_chunk(&self, key: &ChunkKey, chunk: &Chunk) -> Result<(), Refused>;
    /// Removes from `CHUNKS`.
    fn remove_chunk(&self, key: &ChunkKey);
    /// Puts a head at the end of `HEAD_RING`.
    fn watch_head(&self, head: &Watched) -> Result<(), Refused>;
    /// Reads the first one of `HEAD_RING`, which stays there. Returns whether there is one.
    fn first_head(&self, head: &mut Watched) -> bool;
    /// Takes the first one of `HEAD_RING`. Returns whether there is one.
    fn next_head(&self, head: &mut Watched) -> bool;
}

/// Maps with nothing in them and no room: for what is decided by a connection's bytes alone.
pub struct NoTables;

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
    fn source_range(&self, _: &SourceKey) -> Option<u32> {
        None
    }
    fn mac(&self, _: &Mac) -> Option<u64> {
        None
    }
    fn link(&self, _: &u32) -> Option<Link> {
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
    fn remove_chat(&self, _: &ChatKey) {}
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
    fn ended(&self, _: &Tuple) -> Option<Shared<Flow>> {
        None
    }
    fn set_ended(&self, _: &Tuple, _: &Flow) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn ended_back(&self, _: &Tuple) -> Option<Shared<FlowBack>> {
        None
    }
    fn set_ended_back(&self, _: &Tuple, _: &FlowBack) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn remove_ended_back(&self, _: &Tuple) {}
    fn watch_flow(&self, _: &Watched) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn first_flow(&self, _: &mut Watched) -> bool {
        false
    }
    fn next_flow(&self, _: &mut Watched) -> bool {
        false
    }
    fn watch_chat(&self, _: &WatchedChat) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn first_chat(&self, _: &mut WatchedChat) -> bool {
        false
    }
    fn next_chat(&self, _: &mut WatchedChat) -> bool {
        false
    }
    fn ring(&self, _: u32) -> Option<Shared<Ring>> {
        None
    }
    fn load(&self, _: u32) -> Option<Shared<Load>> {
        None
    }
    fn share(&self, _: u32) -> Option<Shared<Share>> {
        None
    }
    fn sharing(&self) -> Option<&Sharing> {
        None
    }
    fn trusted(&self, _: &TrustedKey) -> Option<u32> {
        None
    }
    fn farewell(&self, _: &Farewell) -> Result<(), Refused> {
        Err(Refused::Full)
    }
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
    fn add_stash(&self, _: &Tuple, _: &Stash) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn remove_stash(&self, _: &Tuple) {}
    fn load_chunk(&self, _: &ChunkKey, _: &mut Chunk) -> bool {
        false
    }
    fn set_chunk(&self, _: &ChunkKey, _: &Chunk) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn remove_chunk(&self, _: &ChunkKey) {}
    fn watch_head(&self, _: &Watched) -> Result<(), Refused> {
        Err(Refused::Full)
    }
    fn first_head(&self, _: &mut Watched) -> bool {
        false
    }
    fn next_head(&self, _: &mut Watched) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_the_kernel_are_told_apart() {
        for (errno, why) in [
            (17, Refused::Exists),
            (7, Refused::Full),
            (12, Refused::NoMemory),
            (16, Refused::Busy),
            (11, Refused::Busy),
            (35, Refused::Busy),
            (110, Refused::Busy),
            (22, Refused::Fault),
            (1, Refused::Fault),
        ] {
            assert_eq!(Refused::of(-errno), why, "{errno}");
        }
    }
}
