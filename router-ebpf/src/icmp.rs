//! ICMP errors about translated segments (RFC 792, RFC 4443): the packet that they quote is brought
//! into the numbers of whoever sent it, or path MTU discovery breaks without a sound.
//!
//! The quoted TCP checksum is left alone: it is often cut off, and nobody looks at it.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    checksum::Sum,
    maps::{Addr, Tuple},
    packet::Packet,
    rewrite::{Changed, End, Place, Rewrite, Side, write_address},
    scratch::Scratch,
    segment::{HOPS_LEN, JUMBO, Segment},
    tables::FlowTables,
    verdict::Counter,
    wire::{mapped, protocol},
};

/// Length of the ICMP header in front of the quoted packet, both families.
const ICMP_LEN: usize = 8;
const ICMP_CHECK: usize = 2;
/// What is quoted of TCP at least: ports and sequence number.
const QUOTED: usize = 8;

/// What an error quotes: an IP header and the first bytes of TCP.
struct Quote {
    /// Where they are.
    place: Place,
    seq: u32,
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
        packet.reach(outer.l4() + ICMP_LEN + Ipv6Hdr::LEN + HOPS_LEN + QUOTED);
        let [kind] = packet.read(outer.l4())?;
        let l3 = outer.l4() + ICMP_LEN;
        let v6 = outer.is_v6();
        let len = if v6 {
            let header: &[u8; Ipv6Hdr::LEN] = packet.view(l3)?;
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            if outer.protocol != protocol::ICMPV6 || !matches!(kind, 1..=4) || header[0] >> 4 != 6 {
                return None;
            }
            let next = header[6];
            let (src, dst) = sender.order(tuple);
            src.copy_from_slice(&header[8..24]);
            dst.copy_from_slice(&header[24..40]);
            match next {
                protocol::TCP => Ipv6Hdr::LEN,
                // What the kernel has merged to more than 64 KB: only its length is there.
                protocol::HOP_BY_HOP
                    if packet.read(l3 + Ipv6Hdr::LEN)? == [protocol::TCP, 0, JUMBO, 4] =>
                {
                    Ipv6Hdr::LEN + HOPS_LEN
                }
                _ => return None,
            }
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
        let tcp: &[u8; QUOTED] = packet.view(l4)?;
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
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        Some(Self { place: Place { l3, l4, v6 }, seq })
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
    let vip = End { addr: &tuple.server, port: tuple.server_port };
    let replica = End { addr: &flow.replica_addr, port: flow.replica_port };
    let rewrite = Rewrite {
        side: Side::Src,
        end: (vip, replica),
        seq: Some((quote.seq, quote.seq.wrapping_add(flow.seq_delta))),
        ack: None,
        window: None,
    };
    let quoted = rewrite.apply::<QUOTED>(packet, quote.place)?;
    let pseudo = write_address(packet, Place::of(outer), Side::Dst, &outer.dst, replica.addr)?;
    update(packet, outer, quoted, pseudo)?;
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
    let replica = End { addr: &tuple.server, port: tuple.server_port };
    let vip = End { addr: &scratch.header.src, port: scratch.header.src_port };
    let rewrite =
        Rewrite { side: Side::Dst, end: (replica, vip), seq: None, ack: None, window: None };
    let quoted = rewrite.apply::<QUOTED>(packet, quote.place)?;
    let mut pseudo = Sum::ZERO;
    if outer.src == tuple.server {
        pseudo = write_address(packet, Place::of(outer), Side::Src, &outer.src, vip.addr)?;
    }
    update(packet, outer, quoted, pseudo)?;
    Some(Counter::IcmpToClient)
}

/// Brings the error's checksum up to date. It covers the quote with its IP header, and of the outer one the
/// addresses if it is IPv6: what `pseudo` has. ICMP over IPv4 has no pseudo-header, and there it is zero.
#[inline(always)]
fn update(packet: &mut impl Packet, outer: &Segment, quoted: Changed, pseudo: Sum) -> Option<()> {
    let body = quoted.ip.plus(quoted.header);
    packet.update_l4_checksum(outer.l4() + ICMP_CHECK, pseudo, body)
}
