//! Connections that are opened through the programs, as real ones are: whatever the maps hold for one is
//! entered by those who look for it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use router_ebpf::verdict::Counter;

use super::heads::Head;
use super::kernel::{EGRESS, FLOOR_TC, FLOOR_XDP, INGRESS, Kernel};
use super::packets::{
    CLIENT_SEQ, CLOCK, Family, SERVER_SEQ, numbered_client, segment, syn_of, timestamps,
};

/// An answer to a request.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Runs programs of Roost, wherever they are loaded.
pub trait Programs {
    /// Runs one of them once, by its name; what it makes of the packet.
    fn transform(&self, program: &str, packet: &[u8]) -> Result<Vec<u8>>;
}

impl Programs for Kernel {
    fn transform(&self, program: &str, packet: &[u8]) -> Result<Vec<u8>> {
        Self::transform(self, program, packet)
    }
}

/// An established connection.
pub struct Conn {
    client: SocketAddr,
    vip: SocketAddr,
    replica: SocketAddr,
    /// Where the client's numbers are after its head.
    seq: u32,
    /// What it has acknowledged.
    ack: u32,
    /// What it echoes.
    echo: u32,
}

impl Conn {
    /// Opens a connection to a chat.
    pub fn open(
        programs: &impl Programs,
        client: SocketAddr,
        vip: SocketAddr,
        chat: u32,
    ) -> Result<Self> {
        let (conn, answer) = Self::bind(programs, client, vip, chat)?;
        programs.transform(EGRESS, &answer)?;
        Ok(conn)
    }

    /// The same as far as the answer by which its replica accepts it.
    pub fn bind(
        programs: &impl Programs,
        client: SocketAddr,
        vip: SocketAddr,
        chat: u32,
    ) -> Result<(Self, Vec<u8>)> {
        Self::bind_in(programs, client, vip, chat, 1)
    }

    /// The same with a head in so many segments.
    pub fn bind_in(
        programs: &impl Programs,
        client: SocketAddr,
        vip: SocketAddr,
        chat: u32,
        segments: usize,
    ) -> Result<(Self, Vec<u8>)> {
        let mut conn = Self::greet(programs, client, vip)?;
        let head = conn.head(chat, segments);
        let mut bound = Vec::new();
        for data in &head {
            bound = programs.transform(INGRESS, data)?;
        }
        let (replica, syn, _) = parsed(&bound).context("a connection that is bound")?;
        ensure!(syn.syn && !syn.ack, "the data did not become a SYN");
        conn.seq = CLIENT_SEQ.wrapping_add(Head::Query.bytes(chat).len() as u32);
        conn.replica = replica;
        Ok((conn, accepted(replica, client, CLIENT_SEQ)))
    }

    /// Its client's head, in so many segments.
    pub fn head(&self, chat: u32, segments: usize) -> Vec<Vec<u8>> {
        let head = Head::Query.bytes(chat);
        let len = head.len().div_ceil(segments);
        let part = |(n, part): (usize, &[u8])| {
            let change = |tcp: &mut TcpHeader| {
                tcp.sequence_number = CLIENT_SEQ.wrapping_add((n * len) as u32);
                tcp.acknowledgment_number = self.ack;
            };
            segment(self.client, self.vip, change, &timestamps(self.echo), part)
        };
        head.chunks(len).enumerate().map(part).collect()
    }

    /// A connection that has shaken hands. It has no replica yet.
    pub fn greet(programs: &impl Programs, client: SocketAddr, vip: SocketAddr) -> Result<Self> {
        let answer = programs.transform(INGRESS, &syn_of(client, vip))?;
        let (_, answer, cookie) = parsed(&answer).context("the answer to a SYN")?;
        ensure!(answer.syn && answer.ack, "a SYN was not answered by a SYN-ACK");
        let echo = answer.options_iterator().flatten().find_map(|option| match option {
            TcpOptionElement::Timestamp(value, _) => Some(value),
            _ => None,
        });
        let echo = echo.context("a SYN-ACK without timestamps")?;
        let ack = cookie.wrapping_add(1);
        Ok(Self { client, vip, replica: vip, seq: CLIENT_SEQ, ack, echo })
    }

    /// Where its replica is.
    pub fn replica(&self) -> SocketAddr {
        self.replica
    }

    /// Its replica answers the last request, and its client has all of that.
    pub fn answered(mut self, programs: &impl Programs) -> Result<Self> {
        let change = |tcp: &mut TcpHeader| {
            (tcp.sequence_number, tcp.acknowledgment_number) = (SERVER_SEQ, self.seq);
        };
        let answer = segment(self.replica, self.client, change, &timestamps(CLOCK), OK);
        programs.transform(EGRESS, &answer)?;
        self.ack = self.ack.wrapping_add(OK.len() as u32);
        Ok(self)
    }

    /// Its client's next request, in one segment.
    pub fn request(&self, chat: u32) -> Vec<u8> {
        self.up(&Head::Again.bytes(chat))
    }

    /// That request, of a chat of another replica, goes; the answer by which that one accepts the connection.
    pub fn bind_again(&self, programs: &impl Programs, chat: u32) -> Result<Vec<u8>> {
        let bound = programs.transform(INGRESS, &self.request(chat))?;
        let (replica, syn, _) = parsed(&bound).context("a connection that is bound again")?;
        ensure!(syn.syn && replica != self.replica, "a request elsewhere did not become a SYN");
        Ok(accepted(replica, self.client, self.seq))
    }

    /// Opens many; fails if one of them was not accepted.
    pub fn open_all(
        kernel: &Kernel,
        family: Family,
        clients: std::ops::Range<u32>,
        chat: impl Fn(u32) -> u32,
    ) -> Result<Vec<Self>> {
        let count = clients.len() as u64;
        let before = kernel.counters()?[&Counter::Delivered];
        let open = |n| Self::open(kernel, numbered_client(family, n), family.vip(), chat(n));
        let all: Result<Vec<_>> = clients.map(open).collect();
        let accepted = kernel.counters()?[&Counter::Delivered] - before;
        ensure!(accepted == count, "{accepted} of {count} connections were accepted");
        all
    }

    /// A segment from its client, with a small message.
    pub fn to_replica(&self) -> Vec<u8> {
        self.up(&[0; 100])
    }

    fn up(&self, payload: &[u8]) -> Vec<u8> {
        let change = |tcp: &mut TcpHeader| {
            (tcp.sequence_number, tcp.acknowledgment_number) = (self.seq, self.ack);
        };
        segment(self.client, self.vip, change, &timestamps(self.echo), payload)
    }

    /// A segment from its replica, with a small message.
    pub fn to_client(&self) -> Vec<u8> {
        let change = |tcp: &mut TcpHeader| {
            (tcp.sequence_number, tcp.acknowledgment_number) = (SERVER_SEQ, self.seq);
        };
        let options = timestamps(CLOCK);
        segment(self.replica, self.client, change, &options, &[0; 100])
    }
}

/// A replica accepts a connection whose client's first byte has this number.
fn accepted(replica: SocketAddr, client: SocketAddr, first: u32) -> Vec<u8> {
    let change = |tcp: &mut TcpHeader| {
        tcp.syn = true;
        (tcp.sequence_number, tcp.acknowledgment_number) = (SERVER_SEQ - 1, first);
    };
    let options = [
        TcpOptionElement::MaximumSegmentSize(1460),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
        TcpOptionElement::Timestamp(CLOCK, CLOCK),
        TcpOptionElement::Noop,
        TcpOptionElement::WindowScale(7),
    ];
    segment(replica, client, change, &options, &[])
}

/// Lets both floors know the connection of a packet.
pub fn enter_floors(kernel: &mut Kernel, up: &[u8], down: &[u8]) -> Result<()> {
    kernel.enter_floor(FLOOR_XDP, floor_key(up)?)?;
    kernel.enter_floor(FLOOR_TC, floor_key(down)?)
}

/// Both ends of a packet as it has them, IPv4 mapped.
fn floor_key(packet: &[u8]) -> Result<[u8; 36]> {
    let packet = SlicedPacket::from_ethernet(packet).context("a packet of the benchmarks")?;
    let [src, dst] = addresses(&packet)?.map(|address| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    });
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { anyhow::bail!("no TCP") };
    let ports = [tcp.source_port(), tcp.destination_port()].map(u16::to_be_bytes);
    let mut key = [0; 36];
    key[..16].copy_from_slice(&src);
    key[16..32].copy_from_slice(&dst);
    key[32..].copy_from_slice(ports.as_flattened());
    Ok(key)
}

/// Where a packet goes to, its TCP header, its sequence number.
fn parsed(packet: &[u8]) -> Result<(SocketAddr, TcpHeader, u32)> {
    let packet = SlicedPacket::from_ethernet(packet).context("parsing a packet")?;
    let [_, to] = addresses(&packet)?;
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { anyhow::bail!("no TCP") };
    let header = tcp.to_header();
    let to = SocketAddr::new(to, header.destination_port);
    let seq = header.sequence_number;
    Ok((to, header, seq))
}

fn addresses(packet: &SlicedPacket<'_>) -> Result<[IpAddr; 2]> {
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            Ok([header.source_addr().into(), header.destination_addr().into()])
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            Ok([header.source_addr().into(), header.destination_addr().into()])
        }
        _ => anyhow::bail!("no IP"),
    }
}
