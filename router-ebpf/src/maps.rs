//! What the pinned maps hold: the types of their keys and values.
//!
//! Shapes: addresses are 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`, so one code path
//! serves both families. Ports are two bytes in network order. Everything that never was on a wire
//! (counts, indexes, cookies, nanoseconds, TCP numbers that are computed with) is in host order.
//! All types are `repr(C)`, without padding, `bool` or `Option`: any bytes are a valid value.
//!
//! Which map has which of them for keys and values is declared in [`crate::schema`].

mod chat;
mod connection;
mod host;
mod service;
mod share;

pub use chat::*;
pub use connection::*;
pub use host::*;
pub use service::*;
pub use share::*;

/// An IPv6 address, or an IPv4 address mapped into one, in network order.
pub type Addr = [u8; 16];

/// A TCP port in network order.
pub type Port = [u8; 2];

/// "No replica", where a replica number is expected.
pub const NO_REPLICA: u32 = u32::MAX;
/// Bytes of a readable name (service, replica, chat key) that the kernel keeps.
pub const NAME_LEN: usize = 64;

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

/// Bytes of what is wrong with a service, in words.
pub const PROBLEM_LEN: usize = 508;

/// What is wrong with a service, in words, or the first of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Length in bytes.
    pub len: u32,
    /// UTF-8, zero behind the end.
    pub bytes: [u8; PROBLEM_LEN],
}

impl Problem {
    /// Keeps what fits of a text.
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; PROBLEM_LEN];
        let len = text.floor_char_boundary(PROBLEM_LEN);
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { len: len as u32, bytes }
    }

    /// The bytes that are kept.
    pub fn kept(&self) -> &[u8] {
        &self.bytes[..(self.len as usize).min(PROBLEM_LEN)]
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

/// In [`SourceRange::list`]: the service's proxies, and not who may connect to it.
pub const PROXIES: u32 = 1 << 31;

/// Key of `SOURCE_RANGES` behind the prefix length, which counts these bits: 32 for the list and those
/// of the address (96 + n for an IPv4 prefix of n bits).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// Which list of addresses, the highest byte first: the service's number for those that may connect to it, and
    /// [`PROXIES`] with that for those that send the PROXY protocol.
    pub list: [u8; 4],
    /// The sender's address or prefix.
    pub addr: Addr,
}

impl SourceRange {
    /// The number of the service whose list it is in.
    pub const fn service(&self) -> u32 {
        u32::from_be_bytes(self.list) & !PROXIES
    }

    /// Whether that is the list of its proxies.
    pub const fn is_proxy(&self) -> bool {
        u32::from_be_bytes(self.list) & PROXIES != 0
    }
}

/// A whole key of `SOURCE_RANGES`, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceKey {
    /// How many bits count.
    pub prefix_len: u32,
    /// The bits.
    pub range: SourceRange,
}

impl SourceKey {
    /// The bits of a list and a whole address.
    pub const WHOLE: u32 = 8 * size_of::<SourceRange>() as u32;
}

/// The two ends of a connection: `FLOWS`, `ENDED` and `STASH` have the VIP as its server, `FLOWS_BACK`,
/// `ENDED_BACK` and `PENDING` have the replica.
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

/// Key of `MACS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac {
    /// The address as it is in a frame.
    pub bytes: [u8; 6],
    /// Zero, but in [`Mac::ALL_KNOWN`].
    pub reserved: [u8; 2],
}

impl Mac {
    /// No address: whose value says until when, in nanoseconds of `CLOCK_MONOTONIC`, all that the machine has are in
    /// the map.
    pub const ALL_KNOWN: Self = Self { bytes: [0xff; 6], reserved: [0xff; 2] };

    /// An address.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self { bytes, reserved: [0; 2] }
    }

    /// Whether it is that of many machines: multicast, broadcast.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.bytes[0] & 1 != 0
    }
}

/// A client link: an interface of this machine at whose other end are clients.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface by which answers are routed to its clients, by its index: itself, or the bridge whose port it is.
    pub by: u32,
}

impl Link {
    /// Nobody knows by which: it is not served, and its clients are not answered.
    pub const REFUSED: Self = Self { by: 0 };
    /// Answers may be routed by any. No interface has this index, and no mistake makes it.
    pub const UNCHECKED: Self = Self { by: u32::MAX };
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
    Problem = 512,
    Vip = 18,
    SourceRange = 20,
    Tuple = 36,
    KeySource = 68,
    Service = 400,
    Replica = 112,
    ChatKey = 16,
    ChatCookie = 152,
    Chat = 104,
    Load = 16,
    Pending = 168,
    Range = 4,
    Stash = 928,
    ChunkKey = 40,
    Chunk = 928,
    Flow = 96,
    FlowBack = 72,
    Watched = 48,
    WatchedChat = 24,
    Ring = 8,
    Farewell = 72,
    Secrets = 64,
    Share = 16,
    Sharing = 20,
    Mac = 8,
    Link = 4,
    Host = 72,
    HostConn = 20,
    Mark = 32,
}
