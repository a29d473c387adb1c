//! Connections: until their replica has answered, and then until their end.

use super::{Addr, Name, Port, Tuple};

/// Bytes of a connection's head that are stashed and searched at the most.
pub const HEAD_LEN: usize = 16384;
/// Bytes that are copied at once, into or out of a packet.
pub const PART: usize = 4096;
/// Bytes of a head that are in its entry of `STASH`: with key and the kernel's own fields that is an allocation of 1024.
/// Most heads that come in one segment have no more.
pub const FIRST: usize = 620;
/// Bytes of a head in one value of `CHUNKS`, behind the first ones: that is an allocation of 1024, too.
pub const CHUNK: usize = 928;
/// Entries that there is room for in `CHUNKS`, for each head that there is room for.
pub const CHUNKS_OF_HEAD: u32 = 4;
/// Chunks of the longest head. That of number 0 is what its entry of `STASH` has.
pub const CHUNKS: usize = 1 + (HEAD_LEN - FIRST).div_ceil(CHUNK);
/// Holes in what is stashed of a head at the most.
pub const HOLES: usize = 4;
/// Words of the state of a search.
pub const SCAN_WORDS: usize = 24;
/// Bytes of a key that are kept while its end is missing. A longer one is read once more when that is there.
pub const KEPT_KEY: usize = 128;
/// The client offered timestamps.
pub const OFFER_TIMESTAMPS: u8 = 1;
/// The client offered SACK.
pub const OFFER_SACK: u8 = 2;
/// The client offered window scaling.
pub const OFFER_SCALE: u8 = 4;

/// A connection that was bound and whose replica has not answered yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The chat's cookie; meaningless without [`FLOW_CHAT`] in `flags`.
    pub cookie: u64,
    /// When it was bound, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// The VIP that the client talks to.
    pub vip: Addr,
    /// The VIP's port.
    pub vip_port: Port,
    /// `FLOW_CHAT`, `FLOW_REQUESTS`, `FLOW_EXCHANGE`, `PENDING_REFUSED`, `PENDING_ACKNOWLEDGED`, `PENDING_AGAIN`,
    /// `PENDING_READING`, `PENDING_REPEATED`.
    pub flags: u8,
    /// `OFFER_*` of the client.
    pub offers: u8,
    /// The service's number.
    pub service: u32,
    /// The replica's number.
    pub replica: u32,
    /// The client's initial sequence number, or the one before the request that binds it again.
    pub client_isn: u32,
    /// Ours: the SYN cookie, or the one before what that request's answer begins with.
    pub server_isn: u32,
    /// The timestamp that the replica's go on from.
    pub ts_echo: u32,
    /// The client's timestamp.
    pub ts_val: u32,
    /// The client's window scale, 0 if it offered none.
    pub client_scale: u32,
    /// The cookie of the whole chat, of which `cookie` may stand for a part: what pins are looked up by.
    pub chat: u64,
    /// The key, readable, for the chat's entry.
    pub key: Name,
    /// What kind of key that is: a [`KeyKind`](crate::source::KeyKind); 0 if it is not known.
    pub source: u32,
    /// Whose share it takes: the client's address, or that which a proxy has named. Zero is the client's.
    pub charged: Addr,
    /// The sequence number where the next request begins; meaningless without [`FLOW_EXCHANGE`] in `flags`.
    pub boundary: u32,
    /// The largest segment that the client takes, 0 if it is not known.
    pub mss: u16,
    /// Always zero.
    pub reserved: u16,
}

/// In `Pending::flags` and `Flow::flags`: the flow counts for a chat in `CHATS`.
pub const FLOW_CHAT: u8 = 1;
/// In `Pending::flags` and `Flow::flags`: it was bound by an HTTP request that was no upgrade, so a
/// later one may be, and for a chat that lives elsewhere.
pub const FLOW_REQUESTS: u8 = 4;
/// In `Pending::flags` and `Flow::flags`: each of its requests is looked at, as its service's `on_reuse` says.
pub const FLOW_EXCHANGE: u8 = 8;
/// In `Pending::flags`: the client was reset, the replica is reset when it answers again.
pub const PENDING_REFUSED: u8 = 2;
/// In `Pending::flags`: bytes were acknowledged to the client, who does not send them again.
pub const PENDING_ACKNOWLEDGED: u8 = 16;
/// In `Pending::flags`: it is a flow that is bound again, by a later request.
pub const PENDING_AGAIN: u8 = 32;
/// In `Pending::flags`: its head was not whole when it was bound, so `boundary` is meaningless.
pub const PENDING_READING: u8 = 64;
/// In `Pending::flags`: its SYN was sent once more, behind the RST that ended an older connection of the replica's.
pub const PENDING_REPEATED: u8 = 128;

/// In `Stash::owner`: a program is at work on the entry and its chunks, and nobody else may read or write them.
pub const STASH_CLAIMED: u64 = 1;

/// What is known of the first bytes that a client sends, until they tell the key and the replica has accepted.
/// What is behind the first [`FIRST`] bytes is in `CHUNKS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stash {
    /// `Pending::server_isn` of the connection in the upper half, [`STASH_CLAIMED`] in the lower.
    pub owner: u64,
    /// When the first of them came, in nanoseconds of `CLOCK_MONOTONIC`; the lowest 20 bits tell heads of one tuple apart.
    pub since: u64,
    /// Which chunks there are in `CHUNKS`: a bit for each, by its number.
    pub chunks: u64,
    /// The client's initial sequence number.
    pub client_isn: u32,
    /// How many bytes there are from the beginning on without a hole.
    pub known: u32,
    /// What there is behind holes, in no order: no two touch.
    pub behind: [Range; HOLES],
    /// How many bytes come before the client's FIN, and one more; 0 if none was seen.
    pub end: u32,
    /// How many bytes were acknowledged to the client.
    pub acked: u32,
    /// The replica's number; meaningless unless `bound`.
    pub replica: u32,
    /// Where the search for the key goes on: how many bytes of the key are known. When the replica has accepted, how many of
    /// the head that has.
    pub key_len: u32,
    /// How heads were read when it began: one more than [`Service::reading`](super::Service::reading), or 0 if it has not.
    /// When the replica has accepted, when it was sent something again, in units of 2^20 ns.
    pub reading: u32,
    /// The client's last window field.
    pub window: u16,
    /// PSH, if a segment had it.
    pub tcp_flags: u8,
    /// 1 if the connection was bound: its SYN is on the way to `replica`. That holds as long as `PENDING` has the
    /// connection with that replica; without, the next segment decides anew.
    pub bound: u8,
    /// Why it has no key, which was counted: a [`Reason`](crate::key::Reason); or 0.
    pub missing: u8,
    /// Segments that came since the last acknowledgement; when the replica has accepted, those that it was sent again.
    pub unacked: u8,
    /// Entries that it has taken of its source's share: see [`crate::head`].
    pub taken: u16,
    /// The number of that source.
    pub source: u32,
    /// The service's number.
    pub service: u32,
    /// A [`Scan`](crate::key::scan::Scan); when its bytes were delivered, a [`Head`](crate::request::Head).
    pub scan: [u32; SCAN_WORDS],
    /// The first bytes of the key.
    pub key: [u8; KEPT_KEY],
    /// The first bytes of the head; those that are not known are meaningless.
    pub first: [u8; FIRST],
}

/// Bytes of a head, by their places: from the first to the one before the last. Empty if both are the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub from: u16,
    /// What follows the last one.
    pub to: u16,
}

impl Range {
    /// Nothing.
    pub const EMPTY: Self = Self { from: 0, to: 0 };
}

/// Key of `CHUNKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// Client and VIP.
    pub tuple: Tuple,
    /// Which [`CHUNK`] bytes behind the first [`FIRST`] ones, counted from 1.
    pub index: u32,
}

/// Some bytes of a head; those that [`Stash`] does not know are meaningless.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes.
    pub bytes: [u8; CHUNK],
}

/// The client has sent a FIN: [`Flow::client_fin`].
pub const STATE_CLIENT_FIN: u32 = 1;
/// The replica has sent a FIN: [`Flow::replica_fin`].
pub const STATE_REPLICA_FIN: u32 = 2;
/// The flow has ended, by two acknowledged FINs, by an RST or by its time, and counts no longer; late segments
/// still pass.
pub const STATE_CLOSED: u32 = 4;
/// A SYN came on this tuple: data may belong to a new connection.
pub const STATE_SYN_SEEN: u32 = 8;
/// Ended by Roost: each end gets an RST, and another with each segment that it still sends.
pub const STATE_EXPIRED: u32 = 16;
/// The client has asked for an upgrade: no more requests are looked for.
pub const STATE_UPGRADED: u32 = 32;
/// The replica has acknowledged the client's FIN.
pub const STATE_CLIENT_FIN_ACKED: u32 = 64;
/// The client has acknowledged the replica's FIN.
pub const STATE_REPLICA_FIN_ACKED: u32 = 128;
/// The flow counts for its replica in `LOADS`.
pub const STATE_COUNTED: u32 = 256;
/// In `FlowBack::state`: its segments are looked at for the answers to requests.
pub const STATE_EXCHANGE: u32 = 512;
/// Where its next request begins is not known and never will be.
pub const STATE_DOUBT: u32 = 1024;
/// A request for another chat came: the flow is ended with it. In `FlowBack::state`: its client has gone on at another
/// replica.
pub const STATE_LEAVING: u32 = 2048;
/// It is being bound again, or was and the new replica has yet to acknowledge something: all segments are looked at.
pub const STATE_MOVING: u32 = 4096;
/// A program changes where it is or which chat it counts for: who ends it meanwhile leaves the rest to that one.
pub const STATE_CHANGING: u32 = 8192;
/// The replica has yet to acknowledge what Roost has acknowledged to its client: the head is kept.
pub const STATE_HEAD: u32 = 16384;
/// Any of these: the flow has ended.
pub const STATE_ENDED: u32 = STATE_CLOSED | STATE_EXPIRED;
/// When the SYN of [`STATE_SYN_SEEN`] came: its tick, modulo 256, in these bits.
pub const STATE_SYN_TICK: u32 = 0xff << STATE_SYN_TICK_SHIFT;
/// Where they are.
pub const STATE_SYN_TICK_SHIFT: u32 = 24;
/// Length of a tick as a shift of nanoseconds: 68.7 s. SYN cookies live for one to two.
pub const TICK_SHIFT: u32 = 36;

/// An established connection, client side: a value of `FLOWS`, and of `ENDED` when it is over.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// When the client last sent, or an end said that it will send no more, in nanoseconds of
    /// `CLOCK_MONOTONIC` (coarse).
    pub last_seen: u64,
    /// When the replica accepted, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// The chat's cookie; meaningless without [`FLOW_CHAT`] in `flags`.
    pub cookie: u64,
    /// The replica's address.
    pub replica_addr: Addr,
    /// The replica's port.
    pub replica_port: Port,
    /// `FLOW_CHAT`, `FLOW_REQUESTS`, `FLOW_EXCHANGE`.
    pub flags: u8,
    /// Left shift of the client's window field for the replica; 0 if both scale.
    pub window_shift: u8,
    /// The service's number.
    pub service: u32,
    /// The replica's number.
    pub replica: u32,
    /// `STATE_*` bits.
    pub state: u32,
    /// The replica's initial sequence number less ours, modulo 2^32.
    pub seq_delta: u32,
    /// Added to the replica's timestamps, taken from the client's echoes, modulo 2^32.
    pub ts_delta: u32,
    /// The client's initial sequence number.
    pub client_isn: u32,
    /// Ours: the SYN cookie.
    pub server_isn: u32,
    /// The client's highest acknowledgement number, in our numbers.
    pub acked: u32,
    /// What follows the client's highest segment.
    pub sent: u32,
    /// What follows the client's FIN; meaningless without [`STATE_CLIENT_FIN`].
    pub client_fin: u32,
    /// What follows the replica's FIN, in its numbers; meaningless without [`STATE_REPLICA_FIN`].
    pub replica_fin: u32,
    /// Where its source is counted: see [`rows`](super::rows); 0 if it is not.
    pub share: u32,
    /// How often it was bound again.
    pub bound_again: u32,
}

/// An established connection, replica side: a value of `FLOWS_BACK`, and of `ENDED_BACK` when it is over.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowBack {
    /// The VIP that the client talks to.
    pub vip: Addr,
    /// The VIP's port.
    pub vip_port: Port,
    /// The replica's window scale.
    pub replica_scale: u8,
    /// The window scale that we announced, 0 if the client offered none.
    pub announced_scale: u8,
    /// As in [`Flow`].
    pub seq_delta: u32,
    /// As in [`Flow`].
    pub ts_delta: u32,
    /// The replica's highest acknowledgement number.
    pub acked: u32,
    /// What follows the replica's highest segment, in the replica's numbers.
    pub sent: u32,
    /// `STATE_CLIENT_FIN` if its acknowledgement is waited for, `STATE_EXPIRED`, `STATE_EXCHANGE`, `STATE_HEAD`,
    /// `STATE_LEAVING`.
    pub state: u32,
    /// Which request it is at, what is waited for, and what follows the highest byte that was sent to the client:
    /// see [`Exchange`](crate::request::Exchange). Meaningless without [`FLOW_EXCHANGE`], as what follows. With
    /// [`STATE_LEAVING`]: when that was, in nanoseconds of `CLOCK_MONOTONIC`.
    pub exchange: u64,
    /// The client's sequence number of the next request's first byte.
    pub boundary: u32,
    /// Where the answer begins, in the client's numbers.
    pub answer: u32,
    /// `Pending::client_isn` of the last binding.
    pub client_isn: u32,
    /// `Pending::server_isn` of the last binding.
    pub server_isn: u32,
    /// The highest timestamp that was sent to the client. Kept for as long as there is `STATE_EXCHANGE`.
    pub ts_sent: u32,
    /// As in [`Pending`].
    pub mss: u16,
    /// The client's window scale, 0 if it offered none.
    pub client_scale: u8,
    /// `OFFER_*` of the client.
    pub offers: u8,
}

/// A flow in `FLOW_RING`, which the clock hand looks at in turn: each flow is in it once. One of a connection
/// that is over stays until its turn comes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Its key in `FLOWS`.
    pub tuple: Tuple,
    /// `Flow::server_isn`: the tuple may be used again.
    pub server_isn: u32,
    /// When it was looked at: see [`watch_time`].
    pub at: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Index of `FLOW_RING` in `RINGS`.
pub const FLOW_ENTRIES: u32 = 0;
/// Index of `HEAD_RING` in `RINGS`.
pub const HEAD_ENTRIES: u32 = 1;

/// How full a ring is: a value of `RINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Entries, modulo 2^32. What a release before has put there may not be counted.
    pub entries: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Ring {
    /// `entries` of one that was met full: more than any has.
    pub const FULL: u32 = 1 << 31;
}

/// A time as `at` in the rings has it, in units of 2^30 ns (1.07 s), modulo 2^32. `now` is of `CLOCK_MONOTONIC`, in
/// nanoseconds.
#[inline(always)]
pub const fn watch_time(now: u64) -> u32 {
    (now >> 30) as u32
}

/// A flow that Roost has ended: what its two ends expect, so that the daemon can tell them at once. A value of
/// `FAREWELLS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// Client and VIP.
    pub tuple: Tuple,
    /// The replica's address; zero if there is none, but a head that waited in vain.
    pub replica_addr: Addr,
    /// The replica's port.
    pub replica_port: Port,
    /// Always zero.
    pub reserved: [u8; 2],
    /// What the client expects from the VIP next, and what it has been acknowledged.
    pub to_client: [u32; 2],
    /// What the replica expects from the client next, and what it has been acknowledged.
    pub to_replica: [u32; 2],
}
