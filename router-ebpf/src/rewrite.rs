//! Headers, rewritten in place: all that is changed in a packet which keeps its headers. Addresses, ports
//! and numbers are written here and nowhere else; a new header is written by [`crate::header`].

use network_types::ip::Ipv4Hdr;

use crate::{
    checksum::Sum,
    maps::{Addr, Port},
    packet::Packet,
    segment::Segment,
    wire::{
        TCP_ACK, TCP_CHECK, TCP_DST, TCP_SEQ, TCP_SRC, TCP_WINDOW, V4_CHECK, V4_DST, V4_SRC,
        V6_DST, V6_SRC, unmapped,
    },
};

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its address.
    pub addr: &'a Addr,
    /// Its port.
    pub port: Port,
}

/// Where the headers of a segment are in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the TCP header.
    pub l4: usize,
    /// Whether it is IPv6.
    pub v6: bool,
}

impl Place {
    /// Where those of a parsed segment are.
    #[inline(always)]
    pub const fn of(segment: &Segment) -> Self {
        Self { l3: segment.l3(), l4: segment.l4(), v6: segment.is_v6() }
    }
}

/// A value and what takes its place.
pub type Change<T> = (T, T);

/// What takes another value in the headers of a segment. What is constant where it is made costs nothing:
/// all of this is inlined.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// Which end changes.
    pub side: Side,
    /// That end.
    pub end: Change<End<'a>>,
    /// The sequence number, if it changes.
    pub seq: Option<Change<u32>>,
    /// The acknowledgement number, if it changes.
    pub ack: Option<Change<u32>>,
    /// The window field, if it changes.
    pub window: Option<Change<u16>>,
}

/// What a rewriting changed in the sums that cover a segment.
#[derive(Clone, Copy, Debug)]
pub struct Changed {
    /// In the sum of its addresses.
    pub addresses: Sum,
    /// In that of its IP header.
    pub ip: Sum,
    /// In that of its TCP header.
    pub header: Sum,
}

impl Rewrite<'_> {
    /// Writes it. `LEN` bytes of the TCP header are there: all, or the first eight, behind which there is
    /// no acknowledgement number and no window.
    #[inline(always)]
    pub fn apply<const LEN: usize>(
        self,
        packet: &mut impl Packet,
        place: Place,
    ) -> Option<Changed> {
        let (old, new) = self.end;
        let port = match self.side {
            Side::Src => TCP_SRC,
            Side::Dst => TCP_DST,
        };
        let mut sum = Sum::ZERO.sub2(old.port).add2(new.port);
        let header: &mut [u8; LEN] = packet.view_mut(place.l4)?;
        header[port..port + 2].copy_from_slice(&new.port);
        if let Some((old, new)) = self.seq {
            let new = new.to_be_bytes();
            header[TCP_SEQ..TCP_SEQ + 4].copy_from_slice(&new);
            sum = sum.sub4(old.to_be_bytes()).add4(new);
        }
        if let Some((old, new)) = self.ack {
            let new = new.to_be_bytes();
            header[TCP_ACK..TCP_ACK + 4].copy_from_slice(&new);
            sum = sum.sub4(old.to_be_bytes()).add4(new);
        }
        if let Some((old, new)) = self.window {
            let new = new.to_be_bytes();
            header[TCP_WINDOW..TCP_WINDOW + 2].copy_from_slice(&new);
            sum = sum.sub2(old.to_be_bytes()).add2(new);
        }
        let ip = write_address(packet, place, self.side, old.addr, new.addr)?;
        let addresses = Sum::ZERO.sub16(old.addr).add16(new.addr);
        Some(Changed { addresses, ip, header: sum })
    }
}

impl Changed {
    /// Brings the segment's checksum up to date.
    #[inline(always)]
    pub fn update(self, packet: &mut impl Packet, place: Place) -> Option<()> {
        packet.update_l4_checksum(place.l4 + TCP_CHECK, self.addresses, self.header)
    }

    /// The same if a device is to complete it: the field has the sum of the pseudo-header as it is, not its
    /// complement.
    #[inline(always)]
    pub fn update_unfinished(self, packet: &mut impl Packet, place: Place) -> Option<()> {
        let pseudo = Sum::ZERO.minus(self.addresses);
        packet.update_l4_checksum(place.l4 + TCP_CHECK, pseudo, Sum::ZERO)
    }
}

/// Writes another address into an IP header and keeps the IPv4 header checksum right. Returns what that
/// changed in the header's sum: nothing for IPv4, whose own checksum makes up for it.
#[inline(always)]
pub fn write_address<P: Packet>(
    packet: &mut P,
    place: Place,
    side: Side,
    old: &Addr,
    new: &Addr,
) -> Option<Sum> {
    let Place { l3, v6, .. } = place;
    if v6 {
        let at = match side {
            Side::Src => V6_SRC,
            Side::Dst => V6_DST,
        };
        packet.write(l3 + at, new)?;
        return Some(Sum::ZERO.sub16(old).add16(new));
    }
    let at = match side {
        Side::Src => V4_SRC,
        Side::Dst => V4_DST,
    };
    let new = unmapped(new);
    let h: &mut [u8; Ipv4Hdr::LEN] = packet.view_mut(l3)?;
    let check = Sum::ZERO.sub4(unmapped(old)).add4(new).update([h[V4_CHECK], h[V4_CHECK + 1]]);
    h[V4_CHECK..V4_CHECK + 2].copy_from_slice(&check);
    h[at..at + 4].copy_from_slice(&new);
    Some(Sum::ZERO)
}

/// Swaps the Ethernet addresses: the frame goes back where it came from.
#[inline(always)]
pub fn swap_macs(packet: &mut impl Packet) -> Option<()> {
    let [d0, d1, d2, d3, d4, d5]: [u8; 6] = packet.read(0)?;
    let [s0, s1, s2, s3, s4, s5]: [u8; 6] = packet.read(6)?;
    packet.write(0, &[s0, s1, s2, s3, s4, s5])?;
    packet.write(6, &[d0, d1, d2, d3, d4, d5])
}
