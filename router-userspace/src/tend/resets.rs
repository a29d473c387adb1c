//! RSTs to both ends of a flow that was ended: a tab that only listens would not learn of it before it sends
//! something itself, and a replica would keep a connection that has lost its client for hours.
//!
//! The numbers are those that the end expects if nothing is under way to it (RFC 5961 section 3.2). If something
//! is, it answers with an acknowledgement, which the data path resets.

use std::{io, net::IpAddr};

use etherparse::PacketBuilder;
use router_ebpf::maps::{Addr, Farewell, Port};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::plan::addr;

const TTL: u8 = 64;
/// The replica of a connection that had none yet.
const NOBODY: Addr = [0; 16];

/// Raw sockets, one for each family.
pub struct Resets {
    v4: Socket,
    v6: Socket,
}

/// An RST, from whom to whom.
struct Reset {
    from: (Addr, Port),
    to: (Addr, Port),
    /// Its sequence and acknowledgement number.
    numbers: [u32; 2],
}

impl Resets {
    /// Opens the sockets: needs `CAP_NET_RAW`.
    pub fn new() -> io::Result<Self> {
        // IPPROTO_RAW: what is sent begins with its own IP header.
        let raw = Some(Protocol::from(libc::IPPROTO_RAW));
        let open = |domain| Socket::new(domain, Type::RAW.nonblocking(), raw);
        Ok(Self { v4: open(Domain::IPV4)?, v6: open(Domain::IPV6)? })
    }

    /// Resets the client in the name of its VIP, and the replica in the name of the client. Returns how many of
    /// them could be sent.
    pub fn send(&self, farewell: &Farewell) -> usize {
        let ends = both(farewell);
        let ends = ends.iter().filter(|reset| reset.to.0 != NOBODY);
        ends.filter(|reset| self.send_one(reset).is_ok()).count()
    }

    fn send_one(&self, reset: &Reset) -> io::Result<()> {
        let (packet, to) = segment(reset)?;
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        // The port of a raw IPv6 destination must be zero (raw(7) and rawv6_sendmsg).
        let to = SockAddr::from(std::net::SocketAddr::new(to, 0));
        socket.send_to(&packet, &to).map(drop)
    }
}

fn both(farewell: &Farewell) -> [Reset; 2] {
    let Farewell { tuple, replica_addr, replica_port, to_client, to_replica, .. } = *farewell;
    let client = (tuple.client, tuple.client_port);
    [
        Reset { from: (tuple.server, tuple.server_port), to: client, numbers: to_client },
        Reset { from: client, to: (replica_addr, replica_port), numbers: to_replica },
    ]
}

/// The RST as an IP packet, and whom it goes to.
fn segment(reset: &Reset) -> io::Result<(Vec<u8>, IpAddr)> {
    let to = addr::from_map(reset.to.0);
    let builder = match (addr::from_map(reset.from.0), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => return Err(io::Error::other("a flow between two families")),
    };
    let [seq, ack] = reset.numbers;
    let (from_port, to_port) = (u16::from_be_bytes(reset.from.1), u16::from_be_bytes(reset.to.1));
    let segment = builder.tcp(from_port, to_port, seq, 0).rst().ack(ack);
    let mut packet = Vec::with_capacity(segment.size(0));
    segment.write(&mut packet, &[]).map_err(io::Error::other)?;
    Ok((packet, to))
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use router_ebpf::maps::Tuple;

    use super::*;

    #[test]
    fn each_end_gets_the_numbers_that_it_expects_from_whom_it_talks_to() {
        let at = |ip: &str| addr::to_map(ip.parse().unwrap());
        for (client, server, replica) in
            [("198.18.0.2", "198.18.200.1", "10.0.0.1"), ("fd00::2", "fd00::1", "fd00:1::1")]
        {
            let farewell = Farewell {
                tuple: Tuple {
                    client: at(client),
                    server: at(server),
                    client_port: 40_000_u16.to_be_bytes(),
                    server_port: 80_u16.to_be_bytes(),
                },
                replica_addr: at(replica),
                replica_port: 8080_u16.to_be_bytes(),
                reserved: [0; 2],
                to_client: [5, 777],
                to_replica: [6, 888],
            };
            let [to_client, to_replica] = both(&farewell).map(|reset| {
                let (packet, to) = segment(&reset).unwrap();
                let parsed = SlicedPacket::from_ip(&packet).unwrap();
                let from: IpAddr = match parsed.net {
                    Some(NetSlice::Ipv4(ip)) => ip.header().source_addr().into(),
                    Some(NetSlice::Ipv6(ip)) => ip.header().source_addr().into(),
                    _ => panic!("no IP"),
                };
                let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { panic!("no TCP") };
                assert!(tcp.rst() && tcp.ack() && !tcp.syn());
                (
                    (from.to_string(), tcp.source_port()),
                    (to.to_string(), tcp.destination_port()),
                    [tcp.sequence_number(), tcp.acknowledgment_number()],
                )
            });
            let of = |ip: &str, port| (ip.to_owned(), port);
            assert_eq!(to_client, (of(server, 80), of(client, 40_000), [5, 777]));
            assert_eq!(to_replica, (of(client, 40_000), of(replica, 8080), [6, 888]));
        }
    }
}
