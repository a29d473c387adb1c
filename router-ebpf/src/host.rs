//! Connections of this machine's own processes, between them and the device whose other end is a client link.
//!
//! A process connects to a VIP, and its socket to a *stand-in* of it (`hooks/host.rs`), so that no rule and no address of the
//! VIP's on this machine takes the packets first. What leaves by the device has the host's own address; behind it comes the
//! address as which replicas see the host, because the kernel takes no packet from outside that has one of its own, and would
//! deliver the answer to it past every program of ours. Back it goes the same way.

use crate::{
    checksum::Sum,
    maps::{Addr, Host},
    packet::Packet,
    rewrite::{Place, Side, write_address},
    wire::{TCP_CHECK, V4_DST, V4_SRC, V6_DST, V6_SRC, mapped, protocol},
};

const LINK: usize = 14;
const V4_LEN: usize = 20;
const V6_LEN: usize = 40;

/// What is known of the host's connections.
pub trait HostTables {
    /// Who the host is.
    fn host(&self) -> Option<&Host>;
    /// What stands in for the address of a VIP.
    fn stand_in(&self, vip: &Addr) -> Option<Addr>;
    /// What a stand-in stands for.
    fn stands_for(&self, stand_in: &Addr) -> Option<Addr>;
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out of the host.
    Out,
    /// Back to it.
    Back,
}

/// Gives a segment the addresses that it has at the other end of the device. `None`: it is none of the host's connections.
#[inline(always)]
pub fn turn<P: Packet>(packet: &mut P, tables: &impl HostTables, way: Way) -> Option<()> {
    packet.reach(LINK + V6_LEN + TCP_CHECK + 2);
    let ethertype: [u8; 2] = packet.read(LINK - 2)?;
    let host = tables.host()?;
    let (place, family, src, dst) = match ethertype {
        [0x08, 0x00] => {
            let header: &[u8; V4_LEN] = packet.view(LINK)?;
            let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
            if header[9] != protocol::TCP || is_fragment {
                return None;
            }
            let l4 = LINK + 4 * (header[0] & 0xf) as usize;
            let src = mapped(four(header, V4_SRC));
            (Place { l3: LINK, l4, v6: false }, 0, src, mapped(four(header, V4_DST)))
        }
        [0x86, 0xdd] => {
            if packet.read(LINK + 6)? != [protocol::TCP] {
                return None;
            }
            let place = Place { l3: LINK, l4: LINK + V6_LEN, v6: true };
            (place, 1, packet.read(LINK + V6_SRC)?, packet.read(LINK + V6_DST)?)
        }
        _ => return None,
    };
    let (own, seen) = (host.own.get(family)?, host.seen.get(family)?);
    let (new_src, new_dst) = match way {
        Way::Out if src == *own => (*seen, tables.stands_for(&dst)?),
        Way::Back if dst == *seen => (tables.stand_in(&src)?, *own),
        _ => return None,
    };
    write_address(packet, place, Side::Src, &src, &new_src)?;
    write_address(packet, place, Side::Dst, &dst, &new_dst)?;
    let changed = Sum::ZERO.sub16(&src).add16(&new_src).sub16(&dst).add16(&new_dst);
    packet.update_l4_checksum(place.l4 + TCP_CHECK, changed, Sum::ZERO)
}

#[inline(always)]
const fn four(header: &[u8; V4_LEN], at: usize) -> [u8; 4] {
    [header[at], header[at + 1], header[at + 2], header[at + 3]]
}
