//! Shares: what is held of the tables that a stranger could fill, and who is trusted.

use super::Addr;

/// What is held of the tables that are shared: a value of `SHARES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Live flows.
    pub flows: u32,
    /// Chats with an entry.
    pub chats: u32,
    /// Entries of heads that wait for their rest.
    pub heads: u32,
    /// Always zero.
    pub reserved: u32,
}

/// How the tables are shared: the value of `SHARING`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// How many entries `FLOWS` has room for; 0: it is not shared.
    pub flows: u32,
    /// The same for `CHATS`.
    pub chats: u32,
    /// The same for what waits for the rest of its head.
    pub heads: u32,
    /// How many services there are: a single one may have all.
    pub services: u32,
    /// Clients of IPv4 whose addresses are equal in so many bits are one source.
    pub ipv4_prefix: u8,
    /// The same for IPv6.
    pub ipv6_prefix: u8,
    /// Always zero.
    pub reserved: [u8; 2],
}

/// A whole key of `TRUSTED`, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    /// How many bits count.
    pub prefix_len: u32,
    /// The client's address.
    pub addr: Addr,
}

impl TrustedKey {
    /// The bits of a whole address.
    pub const WHOLE: u32 = 8 * size_of::<Addr>() as u32;
}

/// Bits of an index of a source in a row of `SHARES`.
pub const ROW_BITS: u32 = 18;
/// Where the second row of sources begins in `SHARES`.
pub const SECOND_ROW: u32 = 1 << ROW_BITS;
/// Where in `SHARES` all together is counted.
pub const ALL_SHARES: u32 = 2 << ROW_BITS;
/// Where the services begin in `SHARES`, each at its number.
pub const SERVICE_SHARES: u32 = ALL_SHARES + 1;

/// Where a source is counted in the two rows of `SHARES`. Two sources are never in the same place of both, unless
/// they are the same number.
#[inline(always)]
pub const fn rows(source: u32) -> [u32; 2] {
    let first = source & (SECOND_ROW - 1);
    // An odd factor loses nothing, and this one spreads (Knuth, "The Art of Computer Programming", 6.4).
    let second = source.wrapping_mul(0x9e37_79b1) >> (32 - ROW_BITS);
    [first, SECOND_ROW + second]
}
