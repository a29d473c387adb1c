//! RSTs to clients whose flow was ended: a tab that only listens would not learn of it before it
//! sends something itself, and would wait for messages from a replica that is not its chat's home.
//!
//! The numbers are those that the client expects if nothing is under way to it (RFC 5961 section
//! 3.2). If something is, it answers with an acknowledgement, which the data path resets.

use std::{io, net::IpAddr};

use etherparse::PacketBuilder;
use router_ebpf::maps::{FlowBack, Tuple};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::plan::addr;

const TTL: u8 = 64;

/// Raw sockets, one for each family.
pub struct Resets {
    v4: Socket,
    v6: Socket,
}

impl Resets {
    /// Opens the sockets: needs `CAP_NET_RAW`.
    pub fn new() -> io::Result<Self> {
        // IPPROTO_RAW: what is sent begins with its own IP header.
        let raw = Some(Protocol::from(libc::IPPROTO_RAW));
        let open = |domain| Socket::new(domain, Type::RAW.nonblocking(), raw);
        Ok(Self { v4: open(Domain::IPV4)?, v6: open(Domain::IPV6)? })
    }

    /// Resets the client of a flow, in the name of its VIP.
    pub fn send(&self, tuple: &Tuple, back: &FlowBack) -> io::Result<()> {
        let (packet, client) = segment(tuple, back)?;
        // The port of a raw IPv6 destination must be zero (raw(7) and rawv6_sendmsg).
        let to = SockAddr::from(std::net::SocketAddr::new(client, 0));
        let socket = if client.is_ipv4() { &self.v4 } else { &self.v6 };
        socket.send_to(&packet, &to).map(drop)
    }
}

/// The RST as an IP packet, and whom it goes to.
fn segment(tuple: &Tuple, back: &FlowBack) -> io::Result<(Vec<u8>, IpAddr)> {
    let client = addr::from_map(tuple.client);
    let builder = match (addr::from_map(tuple.server), client) {
        (IpAddr::V4(vip), IpAddr::V4(client)) => {
            PacketBuilder::ipv4(vip.octets(), client.octets(), TTL)
        }
        (IpAddr::V6(vip), IpAddr::V6(client)) => {
            PacketBuilder::ipv6(vip.octets(), client.octets(), TTL)
        }
        _ => return Err(io::Error::other("a flow between two families")),
    };
    let seq = back.sent.wrapping_sub(back.seq_delta);
    let port = u16::from_be_bytes;
    let segment =
        builder.tcp(port(tuple.server_port), port(tuple.client_port), seq, 0).rst().ack(back.acked);
    let mut packet = Vec::with_capacity(segment.size(0));
    segment.write(&mut packet, &[]).map_err(io::Error::other)?;
    Ok((packet, client))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    #[test]
    fn carries_the_numbers_that_the_client_expects() {
        let at = |ip: &str| addr::to_map(ip.parse().unwrap());
        for (client, server) in [("198.18.0.2", "198.18.200.1"), ("fd00::2", "fd00::1")] {
            let tuple = Tuple {
                client: at(client),
                server: at(server),
                client_port: 40_000_u16.to_be_bytes(),
                server_port: 80_u16.to_be_bytes(),
            };
            let back = FlowBack {
                vip: tuple.server,
                vip_port: tuple.server_port,
                replica_scale: 7,
                announced_scale: 7,
                seq_delta: 10,
                ts_delta: 0,
                acked: 777,
                sent: 5,
                state: 0,
            };
            let (packet, to) = segment(&tuple, &back).unwrap();
            assert_eq!(to.to_string(), client);
            let parsed = SlicedPacket::from_ip(&packet).unwrap();
            assert!(matches!(parsed.net, Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_))));
            let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { panic!("no TCP") };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
            assert!(tcp.rst() && tcp.ack() && !tcp.syn());
            assert_eq!(tcp.sequence_number(), 5_u32.wrapping_sub(10));
            assert_eq!(tcp.acknowledgment_number(), 777);
        }
    }
}
