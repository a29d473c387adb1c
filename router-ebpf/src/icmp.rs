//! ICMP errors about translated segments (RFC 792, RFC 4443): the packet that they quote is brought
//! into the numbers of whoever sent it, or path MTU discovery breaks without a sound.
//!
//! The quoted TCP checksum is left alone: it is often cut off, and nobody looks at it.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    checksum::Sum,
    maps::{Addr, Tuple},
    packet::Packet,
    scratch::Scratch,
    tables::FlowTables,
    verdict::Counter,
    wire::{Segment, Side, V4_CHECK, mapped, protocol, write_address},
};

/// Length of the ICMP header in front of the quoted packet, both families.
const ICMP_LEN: usize = 8;
const ICMP_CHECK: usize = 2;

/// What an error quotes: an IP header and the first eight bytes of TCP.
struct Quote {
    /// Offset of the quoted IP header.
    l3: usize,
    /// Offset of the quoted TCP header.
    l4: usize,
    v6: bool,
    seq: [u8; 4],
}

impl Quote {
    /// Finds the quoted segment and writes its ends to `tuple`: the sender's as those of `sender`.
    /// `None` if this is no error, or one about something else.
    #[inline(always)]
    fn parse(
        packet: &mut impl Packet,
        outer: &Segment,
        sender: Sender,
        tuple: &mut Tuple,
    ) -> Option<Self> {
        packet.reach(outer.l4() + ICMP_LEN + Ipv6Hdr::LEN + 8);
        let [kind] = packet.read(outer.l4())?;
        let l3 = outer.l4() + ICMP_LEN;
        let v6 = outer.is_v6();
        let len = if v6 {
            let header: &[u8; Ipv6Hdr::LEN] = packet.view(l3)?;
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            if outer.protocol != protocol::ICMPV6
                || !matches!(kind, 1..=4)
                || header[0] >> 4 != 6
                || header[6] != protocol::TCP
            {
                return None;
            }
            let (src, dst) = sender.order(tuple);
            src.copy_from_slice(&header[8..24]);
            dst.copy_from_slice(&header[24..40]);
            Ipv6Hdr::LEN
        } else {
            let header: &[u8; Ipv4Hdr::LEN] = packet.view(l3)?;
            // Destination unreachable, time exceeded, parameter problem.
            if outer.protocol != protocol::ICMP
                || !matches!(kind, 3 | 11 | 12)
                || header[0] != 0x45
                || header[9] != protocol::TCP
            {
                return None;
            }
            let (src, dst) = sender.order(tuple);
            *src = mapped([header[12], header[13], header[14], header[15]]);
            *dst = mapped([header[16], header[17], header[18], header[19]]);
            Ipv4Hdr::LEN
        };
        let l4 = l3 + len;
        let tcp: &[u8; 8] = packet.view(l4)?;
        if l4 + tcp.len() > outer.end() || outer.options != 0 {
            return None;
        }
        let (src_port, dst_port) = ([tcp[0], tcp[1]], [tcp[2], tcp[3]]);
        match sender {
            Sender::Server => {
                tuple.server_port = src_port;
                tuple.client_port = dst_port;
            }
            Sender::Client => {
                tuple.client_port = src_port;
                tuple.server_port = dst_port;
            }
        }
        Some(Self { l3, l4, v6, seq: [tcp[4], tcp[5], tcp[6], tcp[7]] })
    }

    /// Writes another address into the quoted IP header and returns what that changed in the sum.
    #[inline(always)]
    fn write_address<P: Packet>(
        &self,
        packet: &mut P,
        side: Side,
        old: &Addr,
        new: &Addr,
    ) -> Option<Sum> {
        let sum = Sum::ZERO.sub16(old).add16(new);
        if self.v6 {
            write_address(packet, self.l3, true, side, old, new)?;
            return Some(sum);
        }
        let before = packet.read(self.l3 + V4_CHECK)?;
        write_address(packet, self.l3, false, side, old, new)?;
        Some(sum.sub2(before).add2(packet.read(self.l3 + V4_CHECK)?))
    }
}

/// Who sent the quoted segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

impl Sender {
    /// The tuple's addresses as source and destination.
    #[inline(always)]
    fn order(self, tuple: &mut Tuple) -> (&mut Addr, &mut Addr) {
        match self {
            Self::Client => (&mut tuple.client, &mut tuple.server),
            Self::Server => (&mut tuple.server, &mut tuple.client),
        }
    }
}

/// From the client side, about a segment from the VIP: to the replica that sent it.
#[inline(never)]
pub fn to_replica<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let outer = &scratch.segment;
    let tuple = &mut scratch.vip_side;
    let Some(quote) = Quote::parse(packet, outer, Sender::Server, tuple) else {
        return Some(Counter::IngressPassed);
    };
    if tuple.server != outer.dst {
        return Some(Counter::IngressPassed);
    }
    let Some(flow) = tables.flow(tuple) else {
        return Some(Counter::IngressPassed);
    };
    let flow = flow.get();
    let seq = u32::from_be_bytes(quote.seq).wrapping_add(flow.seq_delta).to_be_bytes();
    let body = quote
        .write_address(packet, Side::Src, &tuple.server, &flow.replica_addr)?
        .sub2(tuple.server_port)
        .add2(flow.replica_port)
        .sub4(quote.seq)
        .add4(seq);
    packet.write(quote.l4, &flow.replica_port)?;
    packet.write(quote.l4 + 4, &seq)?;
    let (old, new) = (&outer.dst, &flow.replica_addr);
    write_address(packet, outer.l3(), quote.v6, Side::Dst, old, new)?;
    let pseudo = pseudo_change(quote.v6, old, new);
    packet.update_l4_checksum(outer.l4() + ICMP_CHECK, pseudo, body)?;
    Some(Counter::IcmpToReplica)
}

/// Towards the client, about a segment of its own to the replica: the client only knows the VIP.
#[inline(never)]
pub fn to_client<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let outer = &scratch.segment;
    let tuple = &mut scratch.replica_side;
    let Some(quote) = Quote::parse(packet, outer, Sender::Client, tuple) else {
        return Some(Counter::EgressPassed);
    };
    if let Some(back) = tables.flow_back(tuple) {
        scratch.header.src = back.get().vip;
        scratch.header.src_port = back.get().vip_port;
    } else if let Some(pending) = tables.pending(tuple) {
        scratch.header.src = pending.get().vip;
        scratch.header.src_port = pending.get().vip_port;
    } else {
        return Some(Counter::EgressPassed);
    }
    let (vip, vip_port) = (&scratch.header.src, scratch.header.src_port);
    let body = quote
        .write_address(packet, Side::Dst, &tuple.server, vip)?
        .sub2(tuple.server_port)
        .add2(vip_port);
    packet.write(quote.l4 + 2, &vip_port)?;
    let mut pseudo = Sum::ZERO;
    if outer.src == tuple.server {
        write_address(packet, outer.l3(), quote.v6, Side::Src, &outer.src, vip)?;
        pseudo = pseudo_change(quote.v6, &outer.src, vip);
    }
    packet.update_l4_checksum(outer.l4() + ICMP_CHECK, pseudo, body)?;
    Some(Counter::IcmpToClient)
}

/// What another outer address changes in the checksum: nothing for IPv4, whose ICMP has no
/// pseudo-header.
#[inline(always)]
fn pseudo_change(v6: bool, old: &Addr, new: &Addr) -> Sum {
    if v6 { Sum::ZERO.sub16(old).add16(new) } else { Sum::ZERO }
}
