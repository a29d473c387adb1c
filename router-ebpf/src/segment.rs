//! Headers, parsed once into a value.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    maps::{Addr, Port, Tuple},
    packet::Packet,
    wire::{TCP_LEN, flags, is_mapped, mapped, protocol},
};

pub(crate) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(crate) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const ETHERTYPE_QINQ: [u8; 2] = [0x88, 0xa8];
const VLAN_LEN: usize = 4;
/// What the length fields of IP can say at the most.
const LONGEST: usize = 0xffff;
/// Length of a hop-by-hop header with one jumbo payload option.
pub const HOPS_LEN: usize = 8;
/// The number of that option.
pub const JUMBO: u8 = 0xc2;

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
    /// 1 if it is longer than a packet can be: merged from several by the kernel.
    pub jumbo: u8,
    /// Always zero.
    pub reserved: [u8; 2],
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
        jumbo: 0,
        reserved: [0; 2],
    };

    /// Reads Ethernet, up to two VLAN tags, and an IPv4 or IPv6 header. `None` is what is passed
    /// untouched: other protocols, fragments, extension headers (but for that of a packet of more than 64 KB, which the
    /// kernel merges from several if it is told to), truncated packets.
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
            ETHERTYPE_IPV6 => {
                self.parse_v6(packet, l3)?;
                match self.protocol {
                    protocol::HOP_BY_HOP => self.parse_jumbo(packet),
                    _ => Some(()),
                }
            }
            _ => None,
        }
    }

    #[inline(always)]
    pub(crate) fn parse_v4(&mut self, packet: &mut impl Packet, l3: usize) -> Option<()> {
        packet.reach(l3 + Ipv4Hdr::LEN + TCP_LEN);
        let header: &[u8; Ipv4Hdr::LEN] = packet.view(l3)?;
        let header_len = ((header[0] & 0xf) as usize) * 4;
        let rest = packet.len() - l3;
        let (len, jumbo) = match u16::from_be_bytes([header[2], header[3]]) {
            // The kernel's way to say that it is longer than can be said.
            0 if rest > LONGEST => (rest, 1),
            len => (len as usize, 0),
        };
        if header[0] >> 4 != 4
            || header_len < Ipv4Hdr::LEN
            || len < header_len
            || len > rest
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
        self.jumbo = jumbo;
        self.ttl = header[8];
        self.protocol = header[9];
        self.src = mapped([header[12], header[13], header[14], header[15]]);
        self.dst = mapped([header[16], header[17], header[18], header[19]]);
        Some(())
    }

    #[inline(always)]
    pub(crate) fn parse_v6(&mut self, packet: &mut impl Packet, l3: usize) -> Option<()> {
        packet.reach(l3 + Ipv6Hdr::LEN + TCP_LEN);
        let header: &[u8; Ipv6Hdr::LEN] = packet.view(l3)?;
        let rest = packet.len() - l3;
        let (len, jumbo) = match u16::from_be_bytes([header[4], header[5]]) {
            // As with IPv4, since Linux 7.0; before, an extension header says it: see `parse_jumbo`.
            0 if rest > Ipv6Hdr::LEN + LONGEST && header[6] == protocol::TCP => (rest, 1),
            len => (Ipv6Hdr::LEN + len as usize, 0),
        };
        if header[0] >> 4 != 6 || len > rest {
            return None;
        }
        self.l3 = l3 as u32;
        self.l4 = (l3 + Ipv6Hdr::LEN) as u32;
        self.end = (l3 + len) as u32;
        self.v6 = 1;
        self.options = 0;
        self.jumbo = jumbo;
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

    /// Reads the extension header that the kernel puts between IPv6 and TCP where it merges to more than 64 KB: one
    /// option, the length (RFC 2675).
    #[inline(always)]
    fn parse_jumbo(&mut self, packet: &mut impl Packet) -> Option<()> {
        packet.reach(self.l4() + HOPS_LEN + TCP_LEN);
        let [next, more, kind, size, a, b, c, d] = packet.read::<HOPS_LEN>(self.l4())?;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        let is_jumbo = [next, more, kind, size] == [protocol::TCP, 0, JUMBO, 4]
            && self.end == self.l4
            && len > LONGEST
            && len <= packet.len() - self.l4();
        if !is_jumbo {
            return None;
        }
        self.protocol = protocol::TCP;
        self.end = self.l4 + len as u32;
        self.l4 += HOPS_LEN as u32;
        self.jumbo = 1;
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

    /// Whether it has bytes, or says something of bytes that follow: urgent ones.
    #[inline(always)]
    pub const fn says_something(&self) -> bool {
        self.payload_len() > 0 || self.has(flags::URG)
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

    /// The connection's ends, for a segment from the client.
    #[inline(always)]
    pub const fn tuple_from_client(&self) -> Tuple {
        Tuple {
            client: self.src,
            server: self.dst,
            client_port: self.src_port,
            server_port: self.dst_port,
        }
    }

    /// The connection's ends, for a segment from the server.
    #[inline(always)]
    pub const fn tuple_from_server(&self) -> Tuple {
        Tuple {
            client: self.dst,
            server: self.src,
            client_port: self.dst_port,
            server_port: self.src_port,
        }
    }
}
