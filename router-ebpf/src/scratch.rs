//! Room to work in. The stack of a kernel program has 512 bytes, so what a packet needs on its way
//! through the pipeline lives in map memory: one element for each CPU and direction.

use crate::{
    header::Header,
    host,
    key::{bytes::Key, scan::Scan},
    limit::Allowance,
    maps::{
        Addr, Chat, ChatKey, ChunkKey, Farewell, Flow, FlowBack, Mac, Pending, Port, SourceKey,
        TrustedKey, Tuple, VipKey, Watched, WatchedChat,
    },
    options::{Cursor, Offer},
    packet,
    request::{Head, Place},
    segment::Segment,
    shares::Holder,
    stage::Next,
    stash::{Held, Room},
    steer::{Route, Routed},
    tables::Refused,
    verdict::Counter,
};

/// What the end of a flow needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Last {
    /// Client and replica.
    pub replica_side: Tuple,
    /// 1 if the flow of a head has ended.
    pub has_ended: u32,
    /// To be put into `FAREWELLS`.
    pub farewell: Farewell,
}

/// What of a head is delivered. In map memory: on the stack the verifier would follow the numbers through each segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivery {
    /// The next byte.
    pub at: u32,
    /// What follows the last one.
    pub limit: u32,
    /// What follows the last one that is on its way: the segment in hand may yet be lost.
    pub sent: u32,
    /// Bytes of a segment at the most.
    pub most: u32,
    /// How many segments were made.
    pub made: u32,
    /// 1 if one could not be made.
    pub failed: u32,
}

/// What a replica is told whose connection goes on elsewhere: its own numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Left {
    /// The replica.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// Always zero.
    pub reserved: [u8; 2],
    /// What its client has acknowledged.
    pub ack: u32,
    /// The last of its timestamps.
    pub ts_echo: u32,
}

/// What is taken from the rings and put there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Of `FLOW_RING`, or of `HEAD_RING`.
    pub flow: Watched,
    /// Of `CHAT_RING`.
    pub chat: WatchedChat,
    /// A part of a head.
    pub chunk: ChunkKey,
}

/// One packet's working memory. Nothing in it is read before it is written, but for the limits, which
/// belong to the CPU.
#[repr(C)]
pub struct Scratch {
    /// The segment in hand.
    pub segment: Segment,
    /// Its destination, to be looked up in `VIPS`.
    pub vip: VipKey,
    /// Where it comes from, to be looked up in `SOURCE_RANGES`.
    pub source: SourceKey,
    /// Who is charged for it.
    pub holder: Holder,
    /// Its client, to be looked up in `TRUSTED`.
    pub trusted: TrustedKey,
    /// What its frame is for, to be looked up in `MACS`.
    pub mac: Mac,
    /// The link by which it came, to be looked up in `LINKS`.
    pub link: u32,
    /// To ask where an answer would leave.
    pub route_room: packet::Room,
    /// Client and VIP.
    pub vip_side: Tuple,
    /// 1 if it is known that there is no flow between these, so that nobody looks again.
    pub absent: u32,
    /// Client and replica.
    pub replica_side: Tuple,
    /// The service's number.
    pub service: u32,
    /// What the client offers, or offered.
    pub offer: Offer,
    /// The options of the segment in hand, if it is no SYN of a client's; what we answer.
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
    /// What the end of a flow needs.
    pub last: Last,
    /// What the clock hand looks at.
    pub turn: Turn,
    /// What this CPU may still send or keep.
    pub allowance: Allowance,
    /// 1 if the checksum of the segment in hand is to be finished by a device.
    pub unfinished: u32,
    /// What became of the packet: see [`crate::verifier::reread`].
    pub next: Next,
    /// Of which share there is no more: the same.
    pub over: Counter,
    /// The client's ISN, by the SYN cookie. Not on the stack: see [`crate::verifier::reread`].
    pub client_isn: u32,
    /// Whose head is in `stash`.
    pub held: Held,
    /// A part of it.
    pub chunk_key: ChunkKey,
    /// 1 if the replica was chosen before, and `pending` is what was remembered of that.
    pub decided: u32,
    /// Why a map did not take what is to be known of a connection: a [`Refused`], or 0.
    pub refused: u32,
    /// 1 if what a proxy sends stands before the head.
    pub from_proxy: u32,
    /// Why the head has no key: a [`crate::key::scan::Reason`], or 0.
    pub missing: u32,
    /// 1 if what is kept of the head is acknowledged.
    pub acknowledges: u32,
    /// What of the head is delivered.
    pub delivery: Delivery,
    /// At which byte of the segment in hand a request begins, 0 if it is no later one.
    pub asked: u32,
    /// What the search for its replica came to. Not on the stack: see [`crate::verifier::reread`].
    pub found: Routed,
    /// Where that request belongs. Not on the stack: see [`crate::verifier::reread`].
    pub place: Place,
    /// 1 if it is of a flow that is bound again.
    pub again: u32,
    /// 1 if that was just found out: then `route`, `missing`, `scan` and `key` are known, `head` is read, and its bytes are in
    /// `stash`.
    pub routed: u32,
    /// 1 if it belongs where its connection is.
    pub stays: u32,
    /// What the replica that is left is told.
    pub left: Left,
    /// Why its requests are not looked at: see [`crate::verifier::reread`].
    pub doubt: Counter,
    /// 1 if more of the head that is delivered is yet to be read.
    pub reading: u32,
    /// A segment of this machine's own.
    pub host: host::Turn,
    /// The head that is being read.
    pub head: Head,
    /// State of the search for a key.
    pub scan: Scan,
    /// The key, or a payload to be summed up.
    pub key: Key,
    /// The first bytes of the connection.
    pub stash: Room,
}

impl Scratch {
    /// Working memory as the kernel gives it: zero.
    #[cfg(not(target_arch = "bpf"))]
    pub fn boxed() -> alloc::boxed::Box<Self> {
        let zeroed = alloc::boxed::Box::<Self>::new_zeroed();
        // SAFETY: `Scratch` is made of integers, and of enums whose first variants are zero.
        unsafe { zeroed.assume_init() }
    }

    /// Notes why a map did not take an entry, for the verdict on the packet.
    #[inline(always)]
    pub fn noted(&mut self, result: Result<(), Refused>) -> Option<()> {
        result.map_err(|why| self.refused = why as u32).ok()
    }

    /// Writes the replica side's tuple of a connection, whose client is that of the VIP side.
    #[inline(always)]
    pub fn write_replica_side(&mut self, addr: &Addr, port: Port) {
        let tuple = &mut self.replica_side;
        tuple.client = self.vip_side.client;
        tuple.client_port = self.vip_side.client_port;
        tuple.server = *addr;
        tuple.server_port = port;
    }

    /// Writes the VIP side's tuple of a connection, whose client is that of the replica side.
    #[inline(always)]
    pub fn write_vip_side(&mut self, vip: &Addr, port: Port) {
        let tuple = &mut self.vip_side;
        tuple.client = self.replica_side.client;
        tuple.client_port = self.replica_side.client_port;
        tuple.server = *vip;
        tuple.server_port = port;
    }
}
