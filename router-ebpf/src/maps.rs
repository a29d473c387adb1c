//! What the pinned maps hold: the types of their keys and values.
//!
//! Shapes: addresses are 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`, so one code path
//! serves both families. Ports are two bytes in network order. Everything that never was on a wire
//! (counts, indexes, cookies, nanoseconds, TCP numbers that are computed with) is in host order.
//! All types are `repr(C)`, without padding, `bool` or `Option`: any bytes are a valid value.
//!
//! Which map has which of them for keys and values is declared in [`crate::schema`].

pub use roost_place::cookie::SLOT_COUNT;

use crate::source::{self, KeyKind};

/// An IPv6 address, or an IPv4 address mapped into one, in network order.
pub type Addr = [u8; 16];
/// A TCP port in network order.
pub type Port = [u8; 2];

/// Room of one slot table in `SLOTS`: the power of two above [`SLOT_COUNT`].
pub const SLOT_STRIDE: u32 = 16384;
/// "No replica", where a replica number is expected.
pub const NO_REPLICA: u32 = u32::MAX;
/// Bytes of a readable name (service, replica, chat key) that the kernel keeps.
pub const NAME_LEN: usize = 64;
/// Bytes of a key source's text: a name, a compiled path, a suffix.
pub const SOURCE_TEXT_LEN: usize = 64;
/// Key sources of a service at the most.
pub const SOURCES: usize = 4;
/// Bytes of a connection's head that are stashed and searched at the most.
pub const STASH_LEN: usize = 4096;
/// Segments of a connection's head that are stashed at the most.
pub const PIECES: usize = 4;

/// `Service::linger` unless the configuration says otherwise, in seconds.
pub const LINGER: u32 = 30;

/// Connections of a chat go to any replica.
pub const POLICY_SPREAD: u8 = 0;
/// Connections of a chat go to one replica.
pub const POLICY_HOME: u8 = 1;

/// A connection without a key goes to any replica.
pub const MISSING_SPREAD: u8 = 0;
/// A connection without a key is reset.
pub const MISSING_REJECT: u8 = 1;
/// A connection without a key goes to `Service::missing_replica`.
pub const MISSING_REPLICA: u8 = 2;

/// Takes new chats.
pub const REPLICA_READY: u8 = 1;
/// Keeps its live chats, takes no new ones while another replica is ready.
pub const REPLICA_DRAINING: u8 = 2;
/// Not there any more: its flows are reset, its chats find a new home.
pub const REPLICA_GONE: u8 = 3;

/// A readable name, or the first bytes of a longer one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Length of the whole name in bytes, which may be more than is kept.
    pub len: u32,
    /// The first bytes, zero behind the end.
    pub bytes: [u8; NAME_LEN],
}

impl Name {
    /// The name of nothing.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; NAME_LEN] };

    /// Keeps what fits of `name`.
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; NAME_LEN];
        for (to, from) in bytes.iter_mut().zip(name) {
            *to = *from;
        }
        Self { len: name.len() as u32, bytes }
    }

    /// The bytes that are kept.
    pub fn kept(&self) -> &[u8] {
        &self.bytes[..(self.len as usize).min(NAME_LEN)]
    }
}

/// Key of `VIPS` behind the prefix length, which counts these bits: 16 for the port and those of
/// the address (96 + n for an IPv4 prefix of n bits).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// The service's port.
    pub port: Port,
    /// The service's address or prefix.
    pub addr: Addr,
}

/// A whole key of `VIPS`, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipKey {
    /// How many bits count.
    pub prefix_len: u32,
    /// The bits.
    pub vip: Vip,
}

impl VipKey {
    /// The bits of a whole address and port.
    pub const WHOLE: u32 = 8 * size_of::<Vip>() as u32;
}

/// The two ends of a connection: `FLOWS` and `STASH` have the VIP as its server, `FLOWS_BACK` and
/// `PENDING` have the replica.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The client's address.
    pub client: Addr,
    /// The server's address: the VIP, or the replica.
    pub server: Addr,
    /// The client's port.
    pub client_port: Port,
    /// The server's port.
    pub server_port: Port,
}

/// A service as the data path needs it. Replaced as a whole: the kernel sees the old one or the
/// new one, never a mix, and with it the old slot table or the new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Digest of the slot table: equal on every node that has the same replicas.
    pub digest: u64,
    /// Where the published slot table begins in `SLOTS`, or [`NO_REPLICA`] without any replica.
    pub slots: u32,
    /// Counts the published tables of this service.
    pub generation: u32,
    /// Replicas that a new chat can go to; 0: every SYN gets an RST.
    pub usable: u32,
    /// The replica for connections without a key, with [`MISSING_REPLICA`].
    pub missing_replica: u32,
    /// Seconds without a segment after which a flow is ended.
    pub idle_timeout: u32,
    /// What we announce as MSS to IPv4 clients, and the most that replicas may send them.
    pub mss4: u16,
    /// What we announce as MSS to IPv6 clients, and the most that replicas may send them.
    pub mss6: u16,
    /// One of `POLICY_*`.
    pub policy: u8,
    /// One of `MISSING_*`.
    pub on_missing_key: u8,
    /// How many parts a chat has whose entry in `CHAT_COOKIES` does not say so; 0 and 1 are one.
    pub width: u16,
    /// Where the key comes from: the first that yields one counts. [`source::NONE`] ends the list.
    pub sources: [KeySource; SOURCES],
    /// The service's name.
    pub name: Name,
    /// Seconds for which a chat holds its home after its last flow has ended, or after a connection
    /// was bound that no replica has accepted yet.
    pub linger: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Service {
    /// A service of the policy `home` without replicas, key sources or name.
    pub const EMPTY: Self = Self {
        digest: 0,
        slots: 0,
        generation: 0,
        usable: 0,
        missing_replica: NO_REPLICA,
        idle_timeout: 0,
        mss4: 0,
        mss6: 0,
        policy: POLICY_HOME,
        on_missing_key: MISSING_SPREAD,
        width: 1,
        sources: [KeySource::NONE; SOURCES],
        name: Name::EMPTY,
        linger: LINGER,
        reserved: 0,
    };
}

/// Where a key comes from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySource {
    /// A [`KeyKind`], or [`source::NONE`].
    pub kind: u8,
    /// Length of `text`.
    pub len: u8,
    /// 1 if the key is a host name: its upper-case letters become lower-case.
    pub fold: u8,
    /// Always zero.
    pub reserved: u8,
    /// What it looks for; zero behind its end.
    pub text: [u8; SOURCE_TEXT_LEN],
}

impl KeySource {
    /// No source.
    pub const NONE: Self =
        Self { kind: source::NONE, len: 0, fold: 0, reserved: 0, text: [0; SOURCE_TEXT_LEN] };

    /// A source of this kind. `text` is at most [`SOURCE_TEXT_LEN`] bytes; what is more is cut.
    pub fn new(kind: KeyKind, text: &[u8]) -> Self {
        let fold = kind.is_host(text) as u8;
        let mut source = Self { kind: kind as u8, fold, ..Self::NONE };
        for (to, from) in source.text.iter_mut().zip(text) {
            *to = *from;
            source.len += 1;
        }
        source
    }

    /// Its kind; `None` at the end of a list, and for one that this version does not know.
    #[inline(always)]
    pub const fn kind(&self) -> Option<KeyKind> {
        KeyKind::from_map(self.kind)
    }

    /// The bytes it looks for.
    pub fn text(&self) -> &[u8] {
        &self.text[..(self.len as usize).min(SOURCE_TEXT_LEN)]
    }
}

/// A replica, with an address for each family of the service's VIPs: a chat with clients of both has
/// one home. The entry of a number never changes its addresses while a flow may use it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where IPv4 clients find it, mapped; zero if they do not.
    pub v4: Addr,
    /// Where IPv6 clients find it; zero if they do not.
    pub v6: Addr,
    /// The port it listens on.
    pub port: Port,
    /// One of `REPLICA_*`; 0: this number is free.
    pub state: u8,
    /// Always zero.
    pub reserved: u8,
    /// The service it belongs to.
    pub service: u32,
    /// Its share of the slots is `weight` over the sum of weights.
    pub weight: u32,
    /// Its identity.
    pub name: Name,
}

/// Key of `CHATS` and `CHAT_COOKIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChatKey {
    /// The cookie (`CHATS`), or the key hash (`CHAT_COOKIES`).
    pub cookie: u64,
    /// The service's number.
    pub service: u32,
    /// Always zero.
    pub reserved: u32,
}

/// What userspace said about a key: a value of `CHAT_COOKIES`. The entry of the key itself gives
/// its cookie; `replica` and `width` are read from the entry whose key hash is that cookie, so they
/// hold for every key that is bound to the chat.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatCookie {
    /// The cookie of the chat that this key belongs to: the key hash of the chat's own key.
    pub cookie: u64,
    /// The replica this chat is pinned to while it has no live home, or [`NO_REPLICA`].
    pub replica: u32,
    /// How many parts the chat has, each with a home of its own; 0: as its service says.
    pub width: u32,
    /// The key, readable.
    pub key: Name,
    /// The key of the chat that this key is bound to, readable; empty if it is its own.
    pub chat: Name,
}

/// A chat with a home: a value of `CHATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chat {
    /// The home's replica number in the upper half, the number of live flows in the lower half:
    /// one word, so that they change together.
    pub state: u64,
    /// When the last connection was bound or the last flow ended, whichever came later, in nanoseconds
    /// of `CLOCK_MONOTONIC`: `Service::linger` counts from then on.
    pub bound_at: u64,
    /// When the chat came to this home, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// The key that came first, readable.
    pub key: Name,
    /// What kind of key that is: a [`KeyKind`]; 0 if it is not known.
    pub source: u32,
}

impl Chat {
    /// Packs a home and its number of flows.
    pub const fn pack(home: u32, flows: u32) -> u64 {
        ((home as u64) << 32) | flows as u64
    }
    /// The replica number of a packed state.
    pub const fn home(state: u64) -> u32 {
        (state >> 32) as u32
    }
    /// The number of flows of a packed state.
    pub const fn flows(state: u64) -> u32 {
        state as u32
    }
}

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
    /// `FLOW_CHAT`, `FLOW_REQUESTS`, `PENDING_REFUSED`.
    pub flags: u8,
    /// `OFFER_*` of the client.
    pub offers: u8,
    /// The service's number.
    pub service: u32,
    /// The replica's number.
    pub replica: u32,
    /// The client's initial sequence number.
    pub client_isn: u32,
    /// Ours: the SYN cookie.
    pub server_isn: u32,
    /// Our timestamp that the client has echoed.
    pub ts_echo: u32,
    /// The client's timestamp.
    pub ts_val: u32,
    /// The client's window scale, 0 if it offered none.
    pub client_scale: u32,
}

/// In `Pending::flags` and `Flow::flags`: the flow counts for a chat in `CHATS`.
pub const FLOW_CHAT: u8 = 1;
/// In `Pending::flags` and `Flow::flags`: it was bound by an HTTP request that was no upgrade, so a
/// later one may be, and for a chat that lives elsewhere.
pub const FLOW_REQUESTS: u8 = 4;
/// In `Pending::flags`: the client was reset, the replica is reset when it answers again.
pub const PENDING_REFUSED: u8 = 2;

/// The first bytes that a client sends, until they tell the key and the replica has accepted: its
/// segments, in the order of their sequence numbers.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Stash {
    /// `Pending::server_isn` of the connection: an entry may be used for another one while it is
    /// read.
    pub server_isn: u32,
    /// The client's initial sequence number; meaningless before `first`.
    pub client_isn: u32,
    /// Bytes of `data` that are used.
    pub used: u32,
    /// Segments.
    pub count: u8,
    /// 1 if the first segment of the connection is among them.
    pub first: u8,
    /// 1 if the connection was bound: its SYN is on the way to the replica.
    pub bound: u8,
    /// Always zero.
    pub reserved: u8,
    /// The segments.
    pub pieces: [Piece; PIECES],
    /// Their payload, in the order of arrival; meaningless behind `used`.
    pub data: [u8; STASH_LEN],
}

/// A segment in [`Stash`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its sequence number.
    pub seq: u32,
    /// Sum of the payload (RFC 1071), folded, not complemented.
    pub sum: u32,
    /// Where its payload begins in `Stash::data`.
    pub at: u16,
    /// Bytes of payload.
    pub len: u16,
    /// Its window field.
    pub window: u16,
    /// Its TCP flags byte: FIN, PSH, ACK.
    pub tcp_flags: u8,
    /// Always zero.
    pub reserved: u8,
}

impl Piece {
    /// No segment.
    pub const NONE: Self =
        Self { seq: 0, sum: 0, at: 0, len: 0, window: 0, tcp_flags: 0, reserved: 0 };
}

/// The client has sent a FIN.
pub const STATE_CLIENT_FIN: u32 = 1;
/// The replica has sent a FIN.
pub const STATE_REPLICA_FIN: u32 = 2;
/// The flow has ended, by two FINs or by an RST, and counts no longer; late segments still pass.
pub const STATE_CLOSED: u32 = 4;
/// A SYN came on this tuple: data may belong to a new connection.
pub const STATE_SYN_SEEN: u32 = 8;
/// When that SYN came: its tick, modulo 256, in these bits.
pub const STATE_SYN_TICK: u32 = 0xff << STATE_SYN_TICK_SHIFT;
/// Where they are.
pub const STATE_SYN_TICK_SHIFT: u32 = 24;
/// Length of a tick as a shift of nanoseconds: 68.7 s. SYN cookies live for one to two.
pub const TICK_SHIFT: u32 = 36;
/// Ended by the sweeper: each end gets an RST with its next segment.
pub const STATE_EXPIRED: u32 = 16;
/// The client has asked for an upgrade: no more requests are looked for.
pub const STATE_UPGRADED: u32 = 32;

/// An established connection, client side: a value of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// When the client last sent, in nanoseconds of `CLOCK_MONOTONIC` (coarse).
    pub last_seen: u64,
    /// When the replica accepted, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// The chat's cookie; meaningless without [`FLOW_CHAT`] in `flags`.
    pub cookie: u64,
    /// The replica's address.
    pub replica_addr: Addr,
    /// The replica's port.
    pub replica_port: Port,
    /// `FLOW_CHAT`, `FLOW_REQUESTS`.
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
}

/// An established connection, replica side: a value of `FLOWS_BACK`.
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
    /// The replica's last acknowledgement number.
    pub acked: u32,
    /// What follows the replica's last segment, in the replica's numbers.
    pub sent: u32,
    /// `STATE_EXPIRED`, or 0.
    pub state: u32,
}

/// Keys and clock of the cluster.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// [`FILLED`](crate::schema::FILLED); 0 in a map that no daemon has filled.
    pub schema: u32,
    /// Always zero.
    pub reserved: u32,
    /// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`, in nanoseconds: all nodes count the same ticks.
    pub clock_offset: u64,
    /// Key of the SYN cookies.
    pub handshake: [u64; 2],
    /// The key before it, for handshakes in flight; the same if there was none.
    pub handshake_before: [u64; 2],
    /// Key under which chat keys are hashed. It decides the homes.
    pub chat: [u64; 2],
}

/// Bytes of a name in `SCHEMA`.
pub const MARK_LEN: usize = 32;

/// Key of `SCHEMA`: the name of a map (upper case), of a counter or of a program (lower case), zero
/// behind its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The bytes.
    pub bytes: [u8; MARK_LEN],
}

impl Mark {
    /// Keeps what fits of `name`.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; MARK_LEN];
        for (to, from) in bytes.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        Self { bytes }
    }

    /// The name; `None` if the bytes are none.
    pub fn text(&self) -> Option<&str> {
        let end = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(MARK_LEN);
        core::str::from_utf8(&self.bytes[..end]).ok().filter(|name| !name.is_empty())
    }
}

macro_rules! sizes {
    ($($ty:ty = $size:literal),* $(,)?) => {
        $(const _: () = assert!(core::mem::size_of::<$ty>() == $size);)*
        $(
            #[cfg(feature = "userspace")]
            // SAFETY: `repr(C)` with no padding (the size above is the sum of the fields), and any
            // bytes are a valid value.
            unsafe impl aya::Pod for $ty {}
        )*
    };
}

sizes! {
    Name = 68,
    Vip = 18,
    Tuple = 36,
    KeySource = 68,
    Service = 384,
    Replica = 112,
    ChatKey = 16,
    ChatCookie = 152,
    Chat = 96,
    Pending = 64,
    Piece = 16,
    Stash = 4176,
    Flow = 72,
    FlowBack = 40,
    Secrets = 64,
    Mark = 32,
}
