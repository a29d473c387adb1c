//! Connections of this machine's own processes, between them and the device whose other end is a client link.
//!
//! A process connects to a VIP, and its socket to a *stand-in* of it (`hooks/host.rs`), so that no rule and no address of the
//! VIP's on this machine takes the packets first. What leaves by the device has the host's own address; behind it comes the
//! address as which replicas see the host, because the kernel takes no packet from outside that has one of its own, and would
//! deliver the answer to it past every program of ours. Back it goes the same way.
//!
//! A rule that masquerades all that leaves (kind, the AWS CNI and others have such) gives a connection another address of this
//! machine's: it gets that back with the answers, and connection tracking undoes what it has done.

use crate::{
    checksum::Sum,
    maps::{Addr, Host, HostConn},
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
    /// The address that a connection has in place of the host's own.
    fn source(&self, conn: &HostConn) -> Option<&Addr>;
    /// Notes one; `None`: it cannot be noted.
    fn set_source(&self, conn: &HostConn, source: &Addr) -> Option<()>;
    /// Forgets it.
    fn remove_source(&self, conn: &HostConn);
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out of the host.
    Out,
    /// Back to it.
    Back,
}

/// Room for the addresses of a segment: the stack has too little.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Those that it has: source and destination.
    from: [Addr; 2],
    /// Those that it gets.
    to: [Addr; 2],
    /// Whose it is.
    conn: HostConn,
}

/// Gives a segment the addresses that it has at the other end of the device. `None`: it is none of the host's connections.
/// What goes out has to be this machine's own.
#[inline(always)]
pub fn turn<P: Packet>(
    packet: &mut P,
    tables: &impl HostTables,
    room: &mut Turn,
    way: Way,
) -> Option<()> {
    packet.reach(LINK + V6_LEN + TCP_CHECK + 2);
    let ethertype: [u8; 2] = packet.read(LINK - 2)?;
    let host = tables.host()?;
    let (place, family) = match ethertype {
        [0x08, 0x00] => {
            let header: &[u8; V4_LEN] = packet.view(LINK)?;
            let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
            if header[9] != protocol::TCP || is_fragment {
                return None;
            }
            let l4 = LINK + 4 * (header[0] & 0xf) as usize;
            room.from = [mapped(four(header, V4_SRC)), mapped(four(header, V4_DST))];
            (Place { l3: LINK, l4, v6: false }, 0)
        }
        [0x86, 0xdd] => {
            if packet.read(LINK + 6)? != [protocol::TCP] {
                return None;
            }
            room.from = [packet.read(LINK + V6_SRC)?, packet.read(LINK + V6_DST)?];
            (Place { l3: LINK, l4: LINK + V6_LEN, v6: true }, 1)
        }
        _ => return None,
    };
    let (own, seen) = (host.own.get(family)?, host.seen.get(family)?);
    let ports: [[u8; 2]; 2] = [packet.read(place.l4)?, packet.read(place.l4 + 2)?];
    match way {
        Way::Out => out(tables, room, own, seen, ports)?,
        Way::Back => back(tables, room, own, seen, ports)?,
    }
    let Turn { from: [src, dst], to: [new_src, new_dst], .. } = room;
    write_address(packet, place, Side::Src, src, new_src)?;
    write_address(packet, place, Side::Dst, dst, new_dst)?;
    let changed = Sum::ZERO.sub16(src).add16(new_src).sub16(dst).add16(new_dst);
    packet.update_l4_checksum(place.l4 + TCP_CHECK, changed, Sum::ZERO)
}

#[inline(always)]
fn out(
    tables: &impl HostTables,
    room: &mut Turn,
    own: &Addr,
    seen: &Addr,
    [client_port, vip_port]: [[u8; 2]; 2],
) -> Option<()> {
    let [src, stand_in] = &room.from;
    if src == seen {
        return None;
    }
    room.to = [*seen, tables.stands_for(stand_in)?];
    room.conn = HostConn { stand_in: *stand_in, client_port, vip_port };
    let (noted, is_own) = (tables.source(&room.conn), src == own);
    match noted {
        Some(noted) if noted == src => {}
        Some(_) if is_own => tables.remove_source(&room.conn),
        None if is_own => {}
        _ => tables.set_source(&room.conn, src)?,
    }
    Some(())
}

#[inline(always)]
fn back(
    tables: &impl HostTables,
    room: &mut Turn,
    own: &Addr,
    seen: &Addr,
    [vip_port, client_port]: [[u8; 2]; 2],
) -> Option<()> {
    let [vip, dst] = &room.from;
    if dst != seen {
        return None;
    }
    let stand_in = tables.stand_in(vip)?;
    room.conn = HostConn { stand_in, client_port, vip_port };
    room.to = [stand_in, *tables.source(&room.conn).unwrap_or(own)];
    Some(())
}

#[inline(always)]
const fn four(header: &[u8; V4_LEN], at: usize) -> [u8; 4] {
    [header[at], header[at + 1], header[at + 2], header[at + 3]]
}
