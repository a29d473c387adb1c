//! What the benchmarks send through the programs: one service, its replicas, and segments to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};
use nix::time::{ClockId, clock_gettime};
use router_ebpf::maps::{
    Addr, Flow, FlowBack, KeySource, Mac, Name, OFFER_SACK, OFFER_SCALE, OFFER_TIMESTAMPS,
    REPLICA_READY, REUSE_REBIND, REUSE_STAY, Replica, SLOT_COUNT, SLOT_STRIDE, SOURCES, Secrets,
    Service, Sharing, Tuple, Vip, VipKey,
};
use router_ebpf::options::Offer;
use router_ebpf::schema::{FILLED, Limits, Map};
use router_ebpf::syn_cookie;

use super::heads::Head;
use super::kernel::Kernel;

const PORT: u16 = 80;
const CLIENT_PORT: u16 = 40_000;
const REPLICA_PORT: u16 = 8080;
const REPLICAS: u32 = 3;
/// Chats that the measured connections belong to.
const CHATS: u32 = 100;
/// Changes a number back and forth: with this added every time, two packets take turns.
const TOGGLE: u32 = 1 << 31;
const DELTA: u32 = 123_456_789;
pub const CLIENT_SEQ: u32 = 0x1000_0000;
pub const SERVER_SEQ: u32 = 0x2000_0000;
/// What all clocks show after the handshake.
pub const CLOCK: u32 = 2000;
/// The MAC address of both ends.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SECRETS: Secrets = Secrets {
    schema: FILLED,
    reserved: 0,
    clock_offset: 0,
    handshake: [1, 2],
    handshake_before: [1, 2],
    chat: [3, 4],
};

/// Which version of IP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// An address, by two numbers.
    fn addr(self, net: u8, host: u32) -> IpAddr {
        let [_, a, b, c] = host.to_be_bytes();
        match self {
            Self::V4 => Ipv4Addr::new(net, a, b, c).into(),
            Self::V6 => {
                let [high, low] = [u16::from(a), u16::from_be_bytes([b, c])];
                Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, high, low).into()
            }
        }
    }

    /// The client of a row. None has the tuple of another: a SYN marks a flow of its tuple, for one.
    fn client(self, row: Row) -> SocketAddr {
        SocketAddr::new(self.addr(10, 1 + row as u32), CLIENT_PORT)
    }

    pub fn vip(self) -> SocketAddr {
        SocketAddr::new(self.addr(20, 1), PORT)
    }

    fn replica(self) -> SocketAddr {
        SocketAddr::new(self.addr(30, 1), REPLICA_PORT)
    }
}

/// Rows that are measured with a packet of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// From a client without a flow.
    Stranger,
    /// A SYN.
    Syn,
    /// To the replica, by repetition: the flow leads onto itself, so that a translated segment is like
    /// the one before.
    ToReplica,
    /// To the client, in the same way.
    ToClient,
    /// To the replica, one by one: the flow really leads to another address.
    FarToReplica,
    /// To the client, in the same way.
    FarToClient,
    /// To the replica without options, by repetition.
    BareToReplica,
    /// To the client, in the same way.
    BareToClient,
    /// As [`Row::ToReplica`], in the rows in detail.
    AllToReplica,
    /// As [`Row::ToClient`], in the rows in detail.
    AllToClient,
}

impl Row {
    /// Those with a flow.
    const FLOWS: [Self; 8] = [
        Self::ToReplica,
        Self::ToClient,
        Self::FarToReplica,
        Self::FarToClient,
        Self::BareToReplica,
        Self::BareToClient,
        Self::AllToReplica,
        Self::AllToClient,
    ];

    fn is_far(self) -> bool {
        matches!(self, Self::FarToReplica | Self::FarToClient)
    }

    /// Where its replica is.
    fn replica(self, family: Family) -> SocketAddr {
        if self.is_far() { family.replica() } else { family.vip() }
    }
}

/// Where the service with this key source is.
pub fn vip_of(head: Head) -> SocketAddr {
    SocketAddr::new(Family::V4.vip().ip(), port(head))
}

/// The port of the service with this key source.
fn port(head: Head) -> u16 {
    PORT + head as u16
}

/// Fills the maps as a daemon would, and enters the flows that are measured.
pub fn fill(kernel: &mut Kernel) -> Result<()> {
    kernel.array(Map::Secrets.pin())?.set(0, SECRETS, 0).context("writing the map SECRETS")?;
    for (number, head) in (0u32..).zip(Head::ALL) {
        let mut services = kernel.hash(Map::Services.pin())?;
        let first = number * SLOT_STRIDE;
        let service = Service { slots: first, ..service(head) };
        services.insert(number, service, 0).context("writing the map SERVICES")?;
        // Each has replicas of its own, with the same addresses.
        let own = |n| number * REPLICAS + n;
        for n in 0..REPLICAS {
            let mut replicas = kernel.array(Map::Replicas.pin())?;
            let replica = Replica { service: number, ..replica(n) };
            replicas.set(own(n), replica, 0).context("writing the map REPLICAS")?;
        }
        let mut slots = kernel.array(Map::Slots.pin())?;
        for slot in 0..SLOT_COUNT {
            slots.set(first + slot, own(slot % REPLICAS), 0).context("writing the map SLOTS")?;
        }
    }
    let [flows, chats, heads] =
        [Map::Flows, Map::Chats, Map::Chunks].map(|map| map.size(&Limits::DEFAULT));
    let services = Head::ALL.len() as u32;
    let sharing = Sharing {
        flows,
        chats,
        heads,
        services,
        ipv4_prefix: 32,
        ipv6_prefix: 64,
        reserved: [0; 2],
    };
    kernel.array(Map::Sharing.pin())?.set(0, sharing, 0).context("writing the map SHARING")?;
    let mut macs = kernel.hash(Map::Macs.pin())?;
    for (mac, until) in [(Mac::new(MAC), 0), (Mac::ALL_KNOWN, u64::MAX)] {
        macs.insert(mac, until, 0).context("writing the map MACS")?;
    }
    for family in [Family::V4, Family::V6] {
        for (number, head) in (0u32..).zip(Head::ALL) {
            let vip = Vip { port: port(head).to_be_bytes(), addr: addr(family.vip()) };
            kernel.insert_whole(Map::Vips.pin(), VipKey::WHOLE, vip, number)?;
        }
        for row in Row::FLOWS {
            let deltas = if row.is_far() { [DELTA, DELTA] } else { [0, TOGGLE] };
            add_flow(kernel, family.client(row), family.vip(), row.replica(family), deltas)?;
        }
    }
    Ok(())
}

fn service(head: Head) -> Service {
    let mut sources = [KeySource::NONE; SOURCES];
    sources[0] = head.source();
    Service {
        generation: 1,
        usable: REPLICAS,
        idle_timeout: 9000,
        mss4: 1460,
        mss6: 1440,
        on_reuse: if head == Head::Again { REUSE_REBIND } else { REUSE_STAY },
        sources,
        name: Name::new(b"bench"),
        ..Service::EMPTY
    }
}

fn replica(number: u32) -> Replica {
    let at = |family: Family| addr(SocketAddr::new(family.addr(30, 1 + number), REPLICA_PORT));
    Replica {
        v4: at(Family::V4),
        v6: at(Family::V6),
        port: REPLICA_PORT.to_be_bytes(),
        state: REPLICA_READY,
        reserved: 0,
        service: 0,
        weight: 1,
        name: Name::new(format!("replica-{number}").as_bytes()),
    }
}

fn add_flow(
    kernel: &mut Kernel,
    client: SocketAddr,
    vip: SocketAddr,
    replica: SocketAddr,
    [seq_delta, ts_delta]: [u32; 2],
) -> Result<()> {
    let flow = Flow {
        replica_addr: addr(replica),
        replica_port: replica.port().to_be_bytes(),
        seq_delta,
        ts_delta,
        ..any_flow()
    };
    let back = FlowBack {
        vip: addr(vip),
        vip_port: vip.port().to_be_bytes(),
        seq_delta,
        ts_delta,
        ..any_back()
    };
    let mut flows = kernel.hash(Map::Flows.pin())?;
    flows.insert(tuple(client, vip), flow, 0).context("writing the map FLOWS")?;
    let mut flows = kernel.hash(Map::FlowsBack.pin())?;
    flows.insert(tuple(client, replica), back, 0).context("writing the map FLOWS_BACK")
}

/// A flow to nowhere.
fn any_flow() -> Flow {
    Flow {
        last_seen: 0,
        since: 0,
        cookie: 0,
        replica_addr: [0; 16],
        replica_port: [0; 2],
        flags: 0,
        window_shift: 0,
        service: 0,
        replica: 0,
        state: 0,
        seq_delta: 0,
        ts_delta: 0,
        client_isn: CLIENT_SEQ - 1,
        server_isn: SERVER_SEQ - 1,
        acked: SERVER_SEQ,
        sent: CLIENT_SEQ,
        client_fin: 0,
        replica_fin: 0,
        share: 0,
        bound_again: 0,
    }
}

/// The other side of a flow from nowhere.
fn any_back() -> FlowBack {
    FlowBack {
        vip: [0; 16],
        vip_port: [0; 2],
        replica_scale: 7,
        announced_scale: 7,
        seq_delta: 0,
        ts_delta: 0,
        acked: CLIENT_SEQ,
        sent: SERVER_SEQ,
        state: 0,
        exchange: 0,
        boundary: 0,
        answer: 0,
        client_isn: CLIENT_SEQ - 1,
        server_isn: SERVER_SEQ - 1,
        ts_sent: 0,
        mss: 1460,
        client_scale: 7,
        offers: 0,
    }
}

/// The client of a connection with this number.
pub fn numbered_client(family: Family, n: u32) -> SocketAddr {
    SocketAddr::new(family.addr(11, n), CLIENT_PORT)
}

fn addr(at: SocketAddr) -> Addr {
    match at.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn tuple(client: SocketAddr, server: SocketAddr) -> Tuple {
    Tuple {
        client: addr(client),
        server: addr(server),
        client_port: client.port().to_be_bytes(),
        server_port: server.port().to_be_bytes(),
    }
}

/// A segment to an address that no service has.
pub fn not_ours() -> Vec<u8> {
    let other = SocketAddr::new(Family::V4.addr(20, 99), PORT);
    segment(Family::V4.client(Row::Stranger), other, |_| {}, &timestamps(1000), &[0; 100])
}

/// A frame of a protocol that nobody has.
pub fn not_ip() -> Vec<u8> {
    let mut frame = not_ours();
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// A packet of another protocol to a VIP.
pub fn not_tcp() -> Vec<u8> {
    let mut frame = to_replica(Family::V4, Row::Stranger);
    frame[14 + 9] = 17;
    frame
}

/// A segment to a VIP, but to another port.
pub fn other_port() -> Vec<u8> {
    let other = SocketAddr::new(Family::V4.vip().ip(), !PORT);
    segment(Family::V4.client(Row::Stranger), other, |_| {}, &timestamps(1000), &[0; 100])
}

/// An RST that belongs to no flow.
pub fn stray_reset() -> Vec<u8> {
    segment(
        Family::V4.client(Row::Stranger),
        Family::V4.vip(),
        |tcp| tcp.rst = true,
        &timestamps(1000),
        &[],
    )
}

/// One that belongs to no connection, with so many bytes of data.
pub fn stray(data: usize) -> Vec<u8> {
    let client = Family::V4.client(Row::Stranger);
    segment(client, Family::V4.vip(), |_| {}, &timestamps(1000), &vec![0; data])
}

/// A segment of the flow to itself, from its client, without options.
pub fn bare_to_replica() -> Vec<u8> {
    segment(Family::V4.client(Row::BareToReplica), Family::V4.vip(), |_| {}, &[], &[0; 100])
}

/// The same from its replica.
pub fn bare_to_client() -> Vec<u8> {
    segment(Family::V4.vip(), Family::V4.client(Row::BareToClient), |_| {}, &[], &[0; 100])
}

/// A SYN of a Linux client.
pub fn syn() -> Vec<u8> {
    syn_of(Family::V4.client(Row::Syn), Family::V4.vip())
}

/// The same of any.
pub fn syn_of(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    use TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp,
    };
    let options = [
        MaximumSegmentSize(1460),
        SelectiveAcknowledgementPermitted,
        Timestamp(1000, 0),
        Noop,
        TcpOptionElement::WindowScale(7),
    ];
    let change = |tcp: &mut TcpHeader| {
        (tcp.syn, tcp.ack) = (true, false);
        tcp.sequence_number = CLIENT_SEQ - 1;
    };
    segment(client, vip, change, &options, &[])
}

/// A segment of a row's flow, from its client, with a small message.
pub fn to_replica(family: Family, row: Row) -> Vec<u8> {
    segment(family.client(row), family.vip(), |_| {}, &timestamps(1000), &[0; 100])
}

/// A segment of a row's flow, from its replica, with a small message.
pub fn to_client(family: Family, row: Row) -> Vec<u8> {
    segment(row.replica(family), family.client(row), |_| {}, &timestamps(1000), &[0; 100])
}

/// The first data segment of the `n`th connection, as a browser sends it.
pub fn first_data(head: Head, n: u32) -> Result<Vec<u8>> {
    let from = numbered_client(Family::V4, n);
    let vip = vip_of(head);
    let offers = OFFER_SACK | OFFER_SCALE | OFFER_TIMESTAMPS;
    let offer = Offer { offers, scale: 7, mss: 1460, ..Offer::default() };
    // A little late: the kernel's coarse clock may be behind this one, and takes no cookie of a tick
    // that has not begun.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let now = (now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64) - 50_000_000;
    let isn = syn_cookie::make(&SECRETS, &tuple(from, vip), CLIENT_SEQ - 1, &offer, now);
    let change = |tcp: &mut TcpHeader| tcp.acknowledgment_number = isn.wrapping_add(1);
    let echo = syn_cookie::answer(&offer, 1460, 7, now).ts_val;
    Ok(segment(from, vip, change, &timestamps(echo), &head.bytes(n % CHATS)))
}

pub fn timestamps(echo: u32) -> [TcpOptionElement; 3] {
    [TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(CLOCK, echo)]
}

pub fn segment(
    src: SocketAddr,
    dst: SocketAddr,
    change: impl FnOnce(&mut TcpHeader),
    options: &[TcpOptionElement],
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = TcpHeader::new(src.port(), dst.port(), CLIENT_SEQ, 512);
    tcp.acknowledgment_number = SERVER_SEQ;
    tcp.ack = true;
    tcp.set_options(options).expect("the options fit");
    change(&mut tcp);
    let builder = PacketBuilder::ethernet2(MAC, MAC);
    let builder = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("both ends are of one family"),
    };
    let mut bytes = Vec::new();
    builder.tcp_header(tcp).write(&mut bytes, payload).expect("a vector takes all bytes");
    bytes
}
