//! Headers: parsed once into a [`Segment`], written from a [`Header`]. IPv4 and IPv6 differ only
//! in this file.

use core::mem::offset_of;

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    checksum::{Sum, pseudo_header},
    maps::{Addr, Port, Tuple},
    packet::Packet,
    verifier::index,
};

/// TCP flags, as in byte 13 of the header (RFC 9293 section 3.1).
pub mod flags {
    #![expect(missing_docs, reason = "the names are those of the RFC")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// Protocol numbers (IANA).
pub mod protocol {
    #![expect(missing_docs, reason = "the names are those of IANA")]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const ICMPV6: u8 = 58;
}

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const ETHERTYPE_QINQ: [u8; 2] = [0x88, 0xa8];
const VLAN_LEN: usize = 4;
const TTL: u8 = 64;

/// Offset of the checksum in an IPv4 header.
pub const V4_CHECK: usize = offset_of!(Ipv4Hdr, check);
/// Length of a TCP header without options.
pub const TCP_LEN: usize = TcpHdr::LEN;
/// Offset of the checksum in a TCP header.
pub const TCP_CHECK: usize = offset_of!(TcpHdr, check);

/// A packet as far as it was parsed, in 32-bit numbers: it lives in map memory, where the verifier
/// forgets the many paths that lead to the same place.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Offset of the IP header in the frame.
    pub l3: u32,
    /// Offset of what is behind the IP header.
    pub l4: u32,
    /// Offset of the packet's end; what follows in the frame is padding.
    pub end: u32,
    /// Length of the TCP header with its options, as the segment says: unchecked.
    pub header_len: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, meaningless without the ACK flag.
    pub ack: u32,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Window field, not scaled.
    pub window: u16,
    /// Checksum field.
    pub check: [u8; 2],
    /// Flags, see [`flags`].
    pub flags: u8,
    /// Protocol number of what is at `l4`.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// 1 if it is IPv6.
    pub v6: u8,
    /// 1 if IPv4 options stand before `l4`.
    pub options: u8,
    /// Always zero.
    pub reserved: [u8; 3],
}

/// Maps an IPv4 address into an IPv6 one (RFC 4291 section 2.5.5.2).
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Addr {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Whether it is an IPv4 address mapped into an IPv6 one.
#[inline(always)]
pub const fn is_mapped(addr: &Addr) -> bool {
    matches!(addr, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
}

/// The IPv4 address that is mapped into `addr`.
#[inline(always)]
pub const fn unmapped(addr: &Addr) -> [u8; 4] {
    [addr[12], addr[13], addr[14], addr[15]]
}

impl Segment {
    /// Nothing parsed yet.
    pub const EMPTY: Self = Self {
        src: [0; 16],
        dst: [0; 16],
        l3: 0,
        l4: 0,
        end: 0,
        header_len: 0,
        seq: 0,
        ack: 0,
        src_port: [0; 2],
        dst_port: [0; 2],
        window: 0,
        check: [0; 2],
        flags: 0,
        protocol: 0,
        ttl: 0,
        v6: 0,
        options: 0,
        reserved: [0; 3],
    };

    /// Reads Ethernet, up to two VLAN tags, and an IPv4 or IPv6 header. `None` is what is passed
    /// untouched: other protocols, fragments, extension headers, truncated packets.
    #[inline(always)]
    pub fn parse_ip(&mut self, packet: &mut impl Packet) -> Option<()> {
        let mut l3 = EthHdr::LEN;
        packet.reach(l3 + 2 * VLAN_LEN);
        let mut ethertype: [u8; 2] = packet.read(l3 - 2)?;
        if matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
            l3 += VLAN_LEN;
            ethertype = packet.read(l3 - 2)?;
        }
        if matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
            l3 += VLAN_LEN;
            ethertype = packet.read(l3 - 2)?;
        }
        match ethertype {
            ETHERTYPE_IPV4 => self.parse_v4(packet, l3),
            ETHERTYPE_IPV6 => self.parse_v6(packet, l3),
            _ => None,
        }
    }

    #[inline(always)]
    fn parse_v4(&mut self, packet: &mut impl Packet, l3: usize) -> Option<()> {
        packet.reach(l3 + Ipv4Hdr::LEN + TCP_LEN);
        let header: &[u8; Ipv4Hdr::LEN] = packet.view(l3)?;
        let header_len = ((header[0] & 0xf) as usize) * 4;
        let len = u16::from_be_bytes([header[2], header[3]]) as usize;
        if header[0] >> 4 != 4
            || header_len < Ipv4Hdr::LEN
            || len < header_len
            || l3 + len > packet.len()
            // More fragments, or not the first one.
            || header[6] & 0x3f != 0
            || header[7] != 0
        {
            return None;
        }
        self.l3 = l3 as u32;
        self.l4 = (l3 + header_len) as u32;
        self.end = (l3 + len) as u32;
        self.v6 = 0;
        self.options = (header_len != Ipv4Hdr::LEN) as u8;
        self.ttl = header[8];
        self.protocol = header[9];
        self.src = mapped([header[12], header[13], header[14], header[15]]);
        self.dst = mapped([header[16], header[17], header[18], header[19]]);
        Some(())
    }

    #[inline(always)]
    fn parse_v6(&mut self, packet: &mut impl Packet, l3: usize) -> Option<()> {
        packet.reach(l3 + Ipv6Hdr::LEN + TCP_LEN);
        let header: &[u8; Ipv6Hdr::LEN] = packet.view(l3)?;
        let len = Ipv6Hdr::LEN + u16::from_be_bytes([header[4], header[5]]) as usize;
        if header[0] >> 4 != 6 || l3 + len > packet.len() {
            return None;
        }
        self.l3 = l3 as u32;
        self.l4 = (l3 + Ipv6Hdr::LEN) as u32;
        self.end = (l3 + len) as u32;
        self.v6 = 1;
        self.options = 0;
        self.protocol = header[6];
        self.ttl = header[7];
        self.src.copy_from_slice(&header[8..24]);
        self.dst.copy_from_slice(&header[24..40]);
        // Never on a wire, and here they would stand for IPv4 connections.
        if is_mapped(&self.src) || is_mapped(&self.dst) {
            return None;
        }
        Some(())
    }

    /// Reads the TCP header behind the IP header. `None` if the packet ends before.
    #[inline(always)]
    pub fn parse_tcp(&mut self, packet: &mut impl Packet) -> Option<()> {
        if self.l4() + TCP_LEN > self.end() {
            return None;
        }
        let h: &[u8; TCP_LEN] = packet.view(self.l4())?;
        self.src_port = [h[0], h[1]];
        self.dst_port = [h[2], h[3]];
        self.seq = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
        self.ack = u32::from_be_bytes([h[8], h[9], h[10], h[11]]);
        self.header_len = ((h[12] >> 4) as u32) * 4;
        self.flags = h[13];
        self.window = u16::from_be_bytes([h[14], h[15]]);
        self.check = [h[16], h[17]];
        packet.reach(self.l4() + self.header_len());
        Some(())
    }

    /// Offset of the IP header.
    #[inline(always)]
    pub const fn l3(&self) -> usize {
        self.l3 as usize
    }

    /// Offset of the TCP or ICMP header.
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        self.l4 as usize
    }

    /// Offset of the packet's end.
    #[inline(always)]
    pub const fn end(&self) -> usize {
        self.end as usize
    }

    /// Length of the TCP header.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        self.header_len as usize
    }

    /// Whether it is IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.v6 != 0
    }

    /// Whether the IP header has no options and the TCP header says a possible length.
    #[inline(always)]
    pub const fn well_formed(&self) -> bool {
        self.options == 0
            && self.header_len() >= TCP_LEN
            && self.l4() + self.header_len() <= self.end()
    }

    /// Bytes of payload of a well-formed segment.
    #[inline(always)]
    pub const fn payload_len(&self) -> usize {
        self.end().wrapping_sub(self.l4() + self.header_len())
    }

    /// Whether all of these flags are set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Whether any of these flags is set.
    #[inline(always)]
    pub const fn has_any(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// What the segment takes of the sequence space.
    #[inline(always)]
    pub const fn sequence_len(&self) -> u32 {
        self.payload_len() as u32 + self.has(flags::SYN) as u32 + self.has(flags::FIN) as u32
    }

    /// Writes the connection's ends to `tuple`, for a segment from the client.
    #[inline(always)]
    pub fn tuple_from_client(&self, tuple: &mut Tuple) {
        tuple.client = self.src;
        tuple.server = self.dst;
        tuple.client_port = self.src_port;
        tuple.server_port = self.dst_port;
    }

    /// Writes the connection's ends to `tuple`, for a segment from the server.
    #[inline(always)]
    pub fn tuple_from_server(&self, tuple: &mut Tuple) {
        tuple.client = self.dst;
        tuple.server = self.src;
        tuple.client_port = self.dst_port;
        tuple.server_port = self.src_port;
    }
}

/// A TCP/IP header to be written in place of another one of the same family.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window field.
    pub window: u16,
    /// Flags.
    pub flags: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP options.
    pub options: Options,
}

/// Words of TCP options that we ever write: MSS, SACK permitted, timestamps, window scale.
pub const OPTIONS_WORDS: usize = 5;

/// TCP options to be written: words as they go onto the wire, zero behind `len`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The words, in network order.
    pub words: [[u8; 4]; OPTIONS_WORDS],
    /// How many words count.
    pub len: u32,
}

impl Options {
    /// No options.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.words = [[0; 4]; OPTIONS_WORDS];
        self.len = 0;
    }

    /// Appends a word; more than there is room for are never written.
    #[inline(always)]
    pub fn push(&mut self, word: [u8; 4]) {
        let at = index(self.len);
        if at < OPTIONS_WORDS {
            self.words[at] = word;
            self.len += 1;
        }
    }
}

impl Header {
    /// Length of the TCP header.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "no header is empty")]
    pub const fn len(&self) -> usize {
        TCP_LEN + (self.options.len & 7) as usize * 4
    }

    /// Addresses and ports for the way back to where `segment` came from; all else zero.
    #[inline(always)]
    pub fn answer(&mut self, segment: &Segment) {
        self.src = segment.dst;
        self.dst = segment.src;
        self.src_port = segment.dst_port;
        self.dst_port = segment.src_port;
        self.seq = 0;
        self.ack = 0;
        self.window = 0;
        self.flags = 0;
        self.ttl = TTL;
        self.options.clear();
    }

    /// Sum of the pseudo-header, with `payload_len` bytes behind this header.
    #[inline(always)]
    pub fn pseudo_sum(&self, payload_len: usize) -> Sum {
        let len = (self.len() + payload_len) as u16;
        pseudo_header(&self.src, &self.dst, protocol::TCP, len)
    }

    /// Sum of the TCP header, its checksum field counted as zero.
    #[inline(always)]
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::ZERO
            .add2(self.src_port)
            .add2(self.dst_port)
            .add4(self.seq.to_be_bytes())
            .add4(self.ack.to_be_bytes())
            .add2([self.data_offset(), self.flags])
            .add2(self.window.to_be_bytes());
        for word in self.options.words {
            sum = sum.add4(word);
        }
        sum
    }

    #[inline(always)]
    const fn data_offset(&self) -> u8 {
        ((self.len() / 4) << 4) as u8
    }

    /// Writes this header over the one of `segment`, for `payload_len` bytes of payload, with `check`
    /// as its TCP checksum field. The frame must have its final length already.
    #[inline(always)]
    pub fn write<P: Packet>(
        &self,
        packet: &mut P,
        segment: &Segment,
        payload_len: usize,
        check: [u8; 2],
    ) -> Option<()> {
        let len = (self.len() + payload_len) as u16;
        if segment.is_v6() {
            self.write_v6(packet, segment.l3(), len)?;
        } else {
            self.write_v4(packet, segment.l3(), len + Ipv4Hdr::LEN as u16)?;
        }
        let l4 = segment.l4();
        let h: &mut [u8; TCP_LEN] = packet.view_mut(l4)?;
        h[0..2].copy_from_slice(&self.src_port);
        h[2..4].copy_from_slice(&self.dst_port);
        h[4..8].copy_from_slice(&self.seq.to_be_bytes());
        h[8..12].copy_from_slice(&self.ack.to_be_bytes());
        h[12] = self.data_offset();
        h[13] = self.flags;
        h[14..16].copy_from_slice(&self.window.to_be_bytes());
        h[16..18].copy_from_slice(&check);
        h[18..20].copy_from_slice(&[0, 0]);
        for at in 0..OPTIONS_WORDS {
            if at as u32 >= self.options.len {
                break;
            }
            packet.write(l4 + TCP_LEN + at * 4, &self.options.words[at])?;
        }
        Some(())
    }

    #[inline(always)]
    fn write_v4<P: Packet>(&self, packet: &mut P, l3: usize, len: u16) -> Option<()> {
        let [l0, l1] = len.to_be_bytes();
        let (src, dst) = (unmapped(&self.src), unmapped(&self.dst));
        // Don't fragment, identification zero (RFC 6864 section 4.1).
        let sum = Sum::ZERO
            .add4([0x45, 0, l0, l1])
            .add4([0, 0, 0x40, 0])
            .add2([self.ttl, protocol::TCP])
            .add4(src)
            .add4(dst);
        let h: &mut [u8; Ipv4Hdr::LEN] = packet.view_mut(l3)?;
        h[0..4].copy_from_slice(&[0x45, 0, l0, l1]);
        h[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
        h[8..10].copy_from_slice(&[self.ttl, protocol::TCP]);
        h[10..12].copy_from_slice(&sum.checksum());
        h[12..16].copy_from_slice(&src);
        h[16..20].copy_from_slice(&dst);
        Some(())
    }

    #[inline(always)]
    fn write_v6<P: Packet>(&self, packet: &mut P, l3: usize, len: u16) -> Option<()> {
        let [l0, l1] = len.to_be_bytes();
        let h: &mut [u8; Ipv6Hdr::LEN] = packet.view_mut(l3)?;
        h[0..4].copy_from_slice(&[0x60, 0, 0, 0]);
        h[4..8].copy_from_slice(&[l0, l1, protocol::TCP, self.ttl]);
        h[8..24].copy_from_slice(&self.src);
        h[24..40].copy_from_slice(&self.dst);
        Some(())
    }
}

/// Which address of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

/// Writes another address into the IP header at `l3` and keeps the IPv4 header checksum right.
#[inline(always)]
pub fn write_address<P: Packet>(
    packet: &mut P,
    l3: usize,
    v6: bool,
    side: Side,
    old: &Addr,
    new: &Addr,
) -> Option<()> {
    if v6 {
        let at = l3
            + match side {
                Side::Src => 8,
                Side::Dst => 24,
            };
        return packet.write(at, new);
    }
    let new = unmapped(new);
    let h: &mut [u8; Ipv4Hdr::LEN] = packet.view_mut(l3)?;
    let check = Sum::ZERO.sub4(unmapped(old)).add4(new).update([h[V4_CHECK], h[V4_CHECK + 1]]);
    h[V4_CHECK..V4_CHECK + 2].copy_from_slice(&check);
    match side {
        Side::Src => h[12..16].copy_from_slice(&new),
        Side::Dst => h[16..20].copy_from_slice(&new),
    }
    Some(())
}

/// Swaps the Ethernet addresses: the frame goes back where it came from.
#[inline(always)]
pub fn swap_macs(packet: &mut impl Packet) -> Option<()> {
    let [d0, d1, d2, d3, d4, d5]: [u8; 6] = packet.read(0)?;
    let [s0, s1, s2, s3, s4, s5]: [u8; 6] = packet.read(6)?;
    packet.write(0, &[s0, s1, s2, s3, s4, s5])?;
    packet.write(6, &[d0, d1, d2, d3, d4, d5])
}
