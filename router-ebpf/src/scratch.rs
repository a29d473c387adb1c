//! Room to work in. The stack of a kernel program has 512 bytes, so what a packet needs on its way
//! through the pipeline lives in map memory: one element for each CPU and direction.

use crate::{
    key::{Key, Scan},
    maps::{Chat, ChatKey, Flow, FlowBack, Pending, Stash, Tuple, VipKey},
    options::{Cursor, Offer},
    steer::Route,
    wire::{Header, Segment},
};

/// Buckets for the limit on RSTs.
pub const BUCKETS: usize = 256;

/// A token bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// When it last gained a token, in nanoseconds.
    pub at: u64,
    /// How many it has.
    pub tokens: u64,
}

/// One packet's working memory. Nothing in it is read before it is written, but for the limit on
/// RSTs, which belongs to the CPU.
#[repr(C)]
pub struct Scratch {
    /// The segment in hand.
    pub segment: Segment,
    /// Its destination, to be looked up in `VIPS`.
    pub vip: VipKey,
    /// Client and VIP.
    pub vip_side: Tuple,
    /// Client and replica.
    pub replica_side: Tuple,
    /// The service's number.
    pub service: u32,
    /// What the client offers, or offered.
    pub offer: Offer,
    /// What the replica answers.
    pub answer: Offer,
    /// Where a walk over TCP options is.
    pub cursor: Cursor,
    /// A header to be written.
    pub header: Header,
    /// Where the connection goes.
    pub route: Route,
    /// The chat it belongs to.
    pub chat_key: ChatKey,
    /// To be entered into `CHATS`.
    pub chat: Chat,
    /// To be entered into `PENDING`.
    pub pending: Pending,
    /// To be entered into `FLOWS`.
    pub flow: Flow,
    /// To be entered into `FLOWS_BACK`.
    pub back: FlowBack,
    /// How many RSTs this CPU may still send, by a hash of the client's address.
    pub buckets: [Bucket; BUCKETS],
    /// State of the search for a key.
    pub scan: Scan,
    /// The key.
    pub key: Key,
    /// The first data segment, to be entered into `STASH`.
    pub stash: Stash,
}
