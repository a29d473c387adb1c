//! What headers have on the wire: numbers, places, and how an address is kept.

use core::mem::offset_of;

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::maps::Addr;

/// TCP flags, as in byte 13 of the header (RFC 9293 section 3.1).
pub mod flags {
    #![expect(missing_docs, reason = "the names are those of the RFC")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// Protocol numbers (IANA).
pub mod protocol {
    #![expect(missing_docs, reason = "the names are those of IANA")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const ICMPV6: u8 = 58;
}

/// Length of a TCP header without options.
pub const TCP_LEN: usize = TcpHdr::LEN;
/// Offset of the source port in a TCP header.
pub const TCP_SRC: usize = offset_of!(TcpHdr, source);
/// Offset of the destination port in a TCP header.
pub const TCP_DST: usize = offset_of!(TcpHdr, dest);
/// Offset of the sequence number in a TCP header.
pub const TCP_SEQ: usize = offset_of!(TcpHdr, seq);
/// Offset of the acknowledgement number in a TCP header.
pub const TCP_ACK: usize = offset_of!(TcpHdr, ack_seq);
/// Offset of the header's length in words, in the upper four bits, in a TCP header.
pub const TCP_OFFSET: usize = TCP_ACK + 4;
/// Offset of the window in a TCP header.
pub const TCP_WINDOW: usize = offset_of!(TcpHdr, window);
/// Offset of the checksum in a TCP header.
pub const TCP_CHECK: usize = offset_of!(TcpHdr, check);

/// Offset of the checksum in an IPv4 header.
pub const V4_CHECK: usize = offset_of!(Ipv4Hdr, check);
/// Offset of the source in an IPv4 header.
pub const V4_SRC: usize = offset_of!(Ipv4Hdr, src_addr);
/// Offset of the destination in an IPv4 header.
pub const V4_DST: usize = offset_of!(Ipv4Hdr, dst_addr);
/// Offset of the source in an IPv6 header.
pub const V6_SRC: usize = offset_of!(Ipv6Hdr, src_addr);
/// Offset of the destination in an IPv6 header.
pub const V6_DST: usize = offset_of!(Ipv6Hdr, dst_addr);

/// Maps an IPv4 address into an IPv6 one (RFC 4291 section 2.5.5.2).
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Addr {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Whether it is an IPv4 address mapped into an IPv6 one.
#[inline(always)]
pub const fn is_mapped(addr: &Addr) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *addr;
    // Words: as bytes it would be a branch for each.
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) == 0 && u32::from_be_bytes([i, j, k, l]) == 0xffff
}

/// The IPv4 address that is mapped into `addr`.
#[inline(always)]
pub const fn unmapped(addr: &Addr) -> [u8; 4] {
    [addr[12], addr[13], addr[14], addr[15]]
}

/// Whether a number of TCP's is no further than that from another one.
#[inline(always)]
pub const fn is_near(number: u32, other: u32, window: u32) -> bool {
    number.wrapping_sub(other).wrapping_add(window) < 2 * window
}
