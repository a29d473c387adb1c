//! What the maps hold in tests: services of all kinds, a port each, and replicas, with an address of
//! each family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::time::{ClockId, clock_gettime};
use router_ebpf::{
    maps::{
        Addr, KeySource, MISSING_REJECT, MISSING_REPLICA, MISSING_SPREAD, NO_REPLICA, Name,
        POLICY_HOME, POLICY_SPREAD, REPLICA_READY, Replica, SLOT_COUNT, SLOT_STRIDE, SOURCES,
        Secrets, Service, Sharing, TICK_SHIFT, Vip,
    },
    schema::FILLED,
    source::KeyKind,
};

use super::Family;

/// A service, with an address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Policy `home`, key `query:chat`, a missing key spreads.
    Home,
    /// Policy `spread`.
    Spread,
    /// Policy `home`, a missing key is rejected.
    Reject,
    /// Policy `home`, a missing key goes to replica 2.
    Fixed,
    /// No usable replica.
    Empty,
    /// Key: the client's address.
    Client,
    /// Key: the destination; owns a prefix.
    Destination,
    /// Key: the 4-tuple.
    Tuple,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Home,
        Self::Spread,
        Self::Reject,
        Self::Fixed,
        Self::Empty,
        Self::Client,
        Self::Destination,
        Self::Tuple,
    ];

    /// Its number.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The number of its `n`th replica.
    pub fn replica(self, n: u32) -> u32 {
        self.number() * REPLICAS + n
    }

    /// Where its slot table begins.
    pub fn slots(self) -> u32 {
        self.number() * SLOT_STRIDE
    }

    /// Its address and port.
    pub fn vip(self, family: Family) -> SocketAddr {
        let addr: IpAddr = match (family, self) {
            (Family::V4, Self::Destination) => [10, 10, 0, 5].into(),
            (Family::V4, _) => [10, 9, 0, 1].into(),
            (Family::V6, Self::Destination) => v6(0xfd10, 5),
            (Family::V6, _) => v6(0xfd09, 1),
        };
        SocketAddr::new(addr, 80 + self as u16)
    }
}

/// How many replicas each service has. Those of all have the same addresses, and numbers of their own.
pub const REPLICAS: u32 = 3;
/// MSS that the IPv4 services announce.
pub const MSS4: u16 = 1410;
/// MSS that the IPv6 services announce.
pub const MSS6: u16 = 1390;

fn v6(net: u16, host: u16) -> IpAddr {
    Ipv6Addr::new(net, 0, 0, 0, 0, 0, 0, host).into()
}

/// Where a replica listens.
pub fn replica_addr(family: Family, number: u32) -> SocketAddr {
    let host = (number % REPLICAS + 1) as u16;
    let addr = match family {
        Family::V4 => Ipv4Addr::new(10, 8, 0, host as u8).into(),
        Family::V6 => v6(0xfd08, host),
    };
    SocketAddr::new(addr, 8080)
}

/// A client's address.
pub fn client(family: Family, host: u16, port: u16) -> SocketAddr {
    let [a, b] = host.to_be_bytes();
    let addr = match family {
        Family::V4 => Ipv4Addr::new(192, 0, a, b).into(),
        Family::V6 => v6(0xfd07, host),
    };
    SocketAddr::new(addr, port)
}

/// As the maps have it.
pub fn mapped(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// What the maps hold, and how large they are.
#[derive(Clone, Debug)]
pub struct World {
    /// `SECRETS`.
    pub secrets: Secrets,
    /// `VIPS`: prefix length, prefix, service.
    pub vips: Vec<(u32, Vip, u32)>,
    /// `SERVICES`.
    pub services: Vec<(u32, Service)>,
    /// `REPLICAS`, from number 0.
    pub replicas: Vec<Replica>,
    /// Room in `FLOWS` and `FLOWS_BACK`.
    pub flows: u32,
    /// Room in `CHATS`.
    pub chats: u32,
    /// Room for heads that wait.
    pub stash: u32,
    /// `SHARING`.
    pub sharing: Sharing,
    /// `TRUSTED`: prefix lengths and addresses.
    pub trusted: Vec<(u32, Addr)>,
}

impl Default for World {
    fn default() -> Self {
        let mut world = Self {
            secrets: Secrets {
                schema: FILLED,
                reserved: 0,
                clock_offset: clock_offset(),
                handshake: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
                handshake_before: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
                chat: [0x1111_2222_3333_4444, 0x5555_6666_7777_8888],
            },
            vips: Vec::new(),
            services: Vec::new(),
            replicas: (0..Kind::ALL.len() as u32 * REPLICAS).map(replica).collect(),
            flows: 4096,
            chats: 4096,
            stash: 1024,
            sharing: Sharing::default(),
            trusted: Vec::new(),
        };
        for family in Family::ALL {
            for kind in Kind::ALL {
                let vip = kind.vip(family);
                let whole = kind != Kind::Destination;
                let key = Vip { port: vip.port().to_be_bytes(), addr: mapped(vip.ip()) };
                let prefix_len = 16 + if whole { 128 } else { 120 };
                world.vips.push((prefix_len, key, kind.number()));
            }
        }
        world.services.extend(Kind::ALL.map(|kind| (kind.number(), service(kind))));
        world
    }
}

impl World {
    /// The same, whose clock begins now: loading the programs takes a while.
    #[must_use]
    pub fn starting_now(mut self) -> Self {
        self.secrets.clock_offset = clock_offset();
        self
    }

    /// The same, where this is done with requests for another chat: `REUSE_*`.
    #[must_use]
    pub fn with_on_reuse(mut self, on_reuse: u8) -> Self {
        for (_, service) in &mut self.services {
            service.on_reuse = on_reuse;
        }
        self
    }
}

/// The clock begins with the test. One number in 32768 looks like a cookie by chance: so it is always
/// the same ones.
fn clock_offset() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    (100u64 << TICK_SHIFT).wrapping_sub(now)
}

/// A replica as the daemon would write it.
pub fn replica(number: u32) -> Replica {
    Replica {
        v4: mapped(replica_addr(Family::V4, number).ip()),
        v6: mapped(replica_addr(Family::V6, number).ip()),
        port: replica_addr(Family::V4, number).port().to_be_bytes(),
        state: REPLICA_READY,
        reserved: 0,
        service: number / REPLICAS,
        weight: 100,
        name: Name::new(format!("replica-{}", number % REPLICAS).as_bytes()),
    }
}

/// A service as the daemon would write it.
pub fn service(kind: Kind) -> Service {
    let source = match kind {
        Kind::Client => KeySource::new(KeyKind::Client, b""),
        Kind::Destination => KeySource::new(KeyKind::Destination, b""),
        Kind::Tuple => KeySource::new(KeyKind::Tuple, b""),
        _ => KeySource::new(KeyKind::Query, b"chat"),
    };
    Service {
        slots: kind.slots(),
        generation: 1,
        usable: if kind == Kind::Empty { 0 } else { REPLICAS },
        missing_replica: match kind {
            Kind::Fixed => kind.replica(2),
            _ => NO_REPLICA,
        },
        idle_timeout: 9000,
        mss4: MSS4,
        mss6: MSS6,
        policy: if kind == Kind::Spread { POLICY_SPREAD } else { POLICY_HOME },
        on_missing_key: match kind {
            Kind::Reject => MISSING_REJECT,
            Kind::Fixed => MISSING_REPLICA,
            _ => MISSING_SPREAD,
        },
        sources: sources(&[source]),
        name: Name::new(format!("{kind:?}").as_bytes()),
        ..Service::EMPTY
    }
}

/// A list of key sources as a service has it.
pub fn sources(list: &[KeySource]) -> [KeySource; SOURCES] {
    let mut sources = [KeySource::NONE; SOURCES];
    sources[..list.len()].copy_from_slice(list);
    sources
}

/// The table of a service in `SLOTS` at first: its replicas in turn.
pub fn slot_table(kind: Kind) -> Vec<u32> {
    (0..SLOT_COUNT).map(|slot| kind.replica(slot % REPLICAS)).collect()
}
