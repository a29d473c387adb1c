//! `cargo xtask bench`: what the data path costs on this machine.

mod heads;
pub(crate) mod kernel;
mod measure;
mod memory;
pub(crate) mod packets;
mod report;
mod slots;
pub(crate) mod talk;

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use router_ebpf::verdict::Counter;

use heads::Head;
use kernel::{EGRESS, FLOOR_TC, FLOOR_XDP, INGRESS, INSIDE, Kernel};
pub use measure::median;
use measure::{Case, Effort, Way};
use memory::Memory;
use packets::{Family, Row, numbered_client};
use report::Report;
use talk::Conn;

/// Sizes of the slot tables that are built.
const REPLICAS: [usize; 3] = [10, 100, 1000];

/// Flows of the rows that take one at random.
const FLOWS: u32 = 100_000;
/// Chats that they belong to.
const CHATS: u32 = 25_000;
/// Numbers of clients, of 24 bits: those of the rows `bind` begin at 0.
const FLOWS_FROM: u32 = 1 << 22;
const MEMORY_FROM: u32 = 1 << 23;
const ACCEPT_FROM: u32 = 5 << 21;
const PARTS_FROM: u32 = 1 << 21;
const REUSE_FROM: u32 = 3 << 22;
/// Segments of the rows with a head in several.
const SEGMENTS: usize = 8;
/// Chats of connections that are used again.
const REUSED: u32 = 100;

/// What to measure, and how much.
#[derive(Args)]
pub struct Options {
    /// Print one JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
    /// Rounds, each of which measures every case once
    #[arg(long, value_name = "N", default_value_t = 25)]
    rounds: u32,
    /// Measure also packets that end earlier on the path, to see where the time goes
    #[arg(long)]
    detail: bool,
    /// Measure only the rows with these names or keys of the JSON object, and what they are compared with
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<String>,
}

impl Options {
    /// Whether `only` names a row.
    fn names(&self, case: &Case) -> bool {
        let is_named = |name: &str| self.only.iter().any(|only| only == name.trim());
        is_named(case.name) || case.key.is_some_and(is_named)
    }
}

/// Measures everything and prints it.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds 0: at least one is needed");
    // Before the process keeps to one CPU: a large table is built by several threads.
    let slot_tables = REPLICAS.map(|replicas| (replicas, slots::build_ms(replicas)));
    let cpu = pin()?;
    let mut kernel = Kernel::load()?;
    packets::fill(&mut kernel)?;
    let memory = [
        Memory::measure(&kernel, Family::V4, MEMORY_FROM)?,
        Memory::measure(&kernel, Family::V6, 2 * MEMORY_FROM)?,
    ];
    let flows = open_flows(&mut kernel)?;
    let mut cases = cases(&mut kernel, &flows)?;
    if options.detail {
        cases.extend(detail());
    }
    if !options.only.is_empty() {
        let floors: Vec<_> = cases.iter().filter(|case| options.names(case)).collect();
        let floors: Vec<_> = floors.iter().filter_map(|case| case.floor).collect();
        let always = [names::PASS, names::FLOOR_XDP];
        cases.retain(|case| {
            options.names(case) || always.contains(&case.name) || floors.contains(&case.name)
        });
    }
    let effort = Effort { rounds: options.rounds, repeat: 100_000, single: 1000 };
    let timings = measure::measure(&mut kernel, &cases, effort)?;
    let rows = cases.iter().zip(timings).collect();
    let report = Report { cpu, effort, rows, verified: &kernel.verified, memory, slot_tables };
    report.print(options.json)
}

/// Keeps the process on the last CPU that it may use, which is the least busy with interrupts.
pub(crate) fn pin() -> Result<usize> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("asking for the CPUs of this process")?;
    let cpu = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let cpu = cpu.context("this process may use no CPU")?;
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(this, &only).with_context(|| format!("keeping to CPU {cpu}"))?;
    Ok(cpu)
}

/// Names of the rows that others are compared with, or that the aims are for.
mod names {
    pub const PASS: &str = "not ours";
    pub const BIND_WHOLE: &str = "  query, read to its end";
    pub const BIND_HEADER: &str = "  header";
    pub const ACCEPT: &str = "accept";
    pub const FIRST_OF_8: &str = "  1st of 8 segments";
    pub const FOURTH_OF_8: &str = "  4th of 8 segments";
    pub const LAST_OF_8: &str = "  8th of 8 segments";
    pub const ACCEPT_8: &str = "  head of 8 segments";
    pub const LATER: &str = "a later request";
    pub const BIND_AGAIN: &str = "bind again";
    pub const FLOOR_XDP: &str = "floor (XDP)";
    pub const FLOOR_XDP_RANDOM: &str = "floor (XDP), at random";
    pub const TO_REPLICA: &str = "established to replica";
    pub const TO_REPLICA_RANDOM: &str = "  at random";
    pub const FLOOR_TC: &str = "floor (TC)";
    pub const FLOOR_TC_RANDOM: &str = "floor (TC), at random";
    pub const FROM_POD: &str = "from a pod to replica";
    pub const FROM_POD_RANDOM: &str = "  at random, from a pod";
    pub const TO_CLIENT: &str = "established to client";
    pub const TO_CLIENT_RANDOM: &str = "  at random, to client";
}

/// Opens the flows of which a packet is taken at random, and lets the floors know them.
fn open_flows(kernel: &mut Kernel) -> Result<Rc<[Conn]>> {
    let clients = FLOWS_FROM..FLOWS_FROM + FLOWS;
    let flows = Conn::open_all(kernel, Family::V4, clients, |n| n % CHATS)?;
    for conn in &flows {
        talk::enter_floors(kernel, &conn.to_replica(), &conn.to_client())?;
    }
    Ok(flows.into())
}

/// A case that is always the same packet.
fn same(
    (name, key): (&'static str, Option<&'static str>),
    program: &'static str,
    way: Way,
    verdict: Option<Counter>,
    packet: Vec<u8>,
) -> Case {
    let packets = Box::new(move |_: &Kernel, _| Ok(packet.clone()));
    Case { name, key, program, way, verdict, floor: None, packets, constant: true }
}

/// A case that takes a packet of one of many flows each time.
fn random(
    (name, key): (&'static str, Option<&'static str>),
    program: &'static str,
    verdict: Option<Counter>,
    flows: &Rc<[Conn]>,
    packet: fn(&Conn) -> Vec<u8>,
) -> Case {
    let flows = Rc::clone(flows);
    let packets =
        Box::new(move |_: &Kernel, n| Ok(packet(&flows[scattered(n) as usize % flows.len()])));
    Case { name, key, program, way: Way::Single, verdict, floor: None, packets, constant: false }
}

/// Where chats are: of each a number of another whose replica is another one.
fn homes(kernel: &Kernel) -> Result<Rc<[u32]>> {
    let vip = packets::vip_of(Head::Again);
    let home = |chat| {
        let client = numbered_client(Family::V4, REUSE_FROM + chat);
        Ok(Conn::bind(kernel, client, vip, chat)?.0.replica())
    };
    let homes = (0..REUSED).map(home).collect::<Result<Vec<_>>>()?;
    let other = |home| homes.iter().position(|other| *other != home).map(|chat| chat as u32);
    homes.iter().map(|home| other(*home).context("all chats are on one replica")).collect()
}

/// A case that takes a new connection each time, which has been used for a request of a chat; told are also that chat
/// and one of another replica.
fn again(
    (name, key): (&'static str, &'static str),
    program: &'static str,
    verdict: Counter,
    homes: &Rc<[u32]>,
    packet: fn(&Kernel, &Conn, u32, u32) -> Result<Vec<u8>>,
) -> Case {
    let homes = Rc::clone(homes);
    let packets = Box::new(move |kernel: &Kernel, n| {
        let chat = n % REUSED;
        let client = numbered_client(Family::V4, REUSE_FROM + REUSED + n);
        let conn = Conn::open(kernel, client, packets::vip_of(Head::Again), chat)?;
        packet(kernel, &conn.answered(kernel)?, chat, homes[chat as usize])
    });
    let floor = (program == INGRESS).then_some(names::BIND_WHOLE);
    let (key, verdict) = (Some(key), Some(verdict));
    Case { name, key, program, way: Way::Single, verdict, floor, packets, constant: false }
}

/// A case that takes one of the segments of a head whose key is at its end, those before it having come.
fn part((name, key): (&'static str, &'static str), verdict: Counter, number: usize) -> Case {
    let packets = Box::new(move |kernel: &Kernel, n| {
        let client = numbered_client(Family::V4, PARTS_FROM + n);
        let conn = Conn::greet(kernel, client, packets::vip_of(Head::Header))?;
        let mut head = conn.head(n % CHATS, SEGMENTS);
        for before in &head[..number] {
            kernel.transform(INGRESS, before)?;
        }
        Ok(head.swap_remove(number))
    });
    let (key, verdict) = (Some(key), Some(verdict));
    Case {
        name,
        key,
        program: INGRESS,
        way: Way::Single,
        verdict,
        floor: None,
        packets,
        constant: false,
    }
}

/// Another number for each, with nothing of their order (a step of SplitMix64).
fn scattered(n: u32) -> u64 {
    let mut z = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn cases(kernel: &mut Kernel, flows: &Rc<[Conn]>) -> Result<Vec<Case>> {
    use Counter::{Bound, Delivered, HeadKept, IngressPassed, SynAnswered, ToClient, ToReplica};
    use Family::{V4, V6};
    use Way::{Repeat, Single};
    let replica = |name, key, way, family, row, floor| Case {
        floor,
        ..same((name, Some(key)), INGRESS, way, Some(ToReplica), packets::to_replica(family, row))
    };
    let pod = |name, key, way, family, row, floor| Case {
        floor,
        ..same((name, Some(key)), INSIDE, way, Some(ToReplica), packets::to_replica(family, row))
    };
    let client = |name, key, way, family, row, floor| Case {
        floor,
        ..same((name, Some(key)), EGRESS, way, Some(ToClient), packets::to_client(family, row))
    };
    let bind = |name, key, head| Case {
        name,
        key: Some(key),
        program: INGRESS,
        way: Single,
        verdict: Some(Bound),
        floor: None,
        packets: Box::new(move |_, n| packets::first_data(head, n)),
        constant: false,
    };
    let homes = homes(kernel)?;
    let floor = |name, program, packet| same((name, Some("floor")), program, Repeat, None, packet);
    let [up, down] =
        [packets::to_replica(V4, Row::Stranger), packets::to_client(V4, Row::Stranger)];
    talk::enter_floors(kernel, &up, &down)?;
    Ok(vec![
        same(
            (names::PASS, Some("pass")),
            INGRESS,
            Repeat,
            Some(IngressPassed),
            packets::not_ours(),
        ),
        same(("SYN", Some("syn")), INGRESS, Single, Some(SynAnswered), packets::syn()),
        bind("bind", "bind", Head::Query),
        bind("  tuple", "bind_tuple", Head::Tuple),
        bind("  path", "bind_path", Head::Path),
        bind(names::BIND_HEADER, "bind_header", Head::Header),
        part((names::FIRST_OF_8, "first_of_8"), HeadKept, 0),
        part((names::FOURTH_OF_8, "fourth_of_8"), HeadKept, 3),
        part((names::LAST_OF_8, "last_of_8"), Bound, 7),
        bind("  cookie", "bind_cookie", Head::Cookie),
        bind("  sni", "bind_sni", Head::Sni),
        bind(names::BIND_WHOLE, "bind_whole", Head::Again),
        again((names::LATER, "later"), INGRESS, ToReplica, &homes, |_, conn, chat, _| {
            Ok(conn.request(chat))
        }),
        again((names::BIND_AGAIN, "bind_again"), INGRESS, Bound, &homes, |_, conn, _, other| {
            Ok(conn.request(other))
        }),
        Case {
            name: names::ACCEPT,
            key: Some("accept"),
            program: EGRESS,
            way: Single,
            verdict: Some(Delivered),
            floor: None,
            packets: Box::new(|kernel, n| {
                let client = numbered_client(V4, ACCEPT_FROM + n);
                Ok(Conn::bind(kernel, client, V4.vip(), n % CHATS)?.1)
            }),
            constant: false,
        },
        Case {
            name: names::ACCEPT_8,
            key: Some("accept_8"),
            program: EGRESS,
            way: Single,
            verdict: Some(Delivered),
            floor: None,
            packets: Box::new(|kernel, n| {
                let client = numbered_client(V4, PARTS_FROM + n);
                let vip = packets::vip_of(Head::Header);
                Ok(Conn::bind_in(kernel, client, vip, n % CHATS, SEGMENTS)?.1)
            }),
            constant: false,
        },
        again(("  again", "accept_again"), EGRESS, Delivered, &homes, |kernel, conn, _, other| {
            conn.bind_again(kernel, other)
        }),
        floor(names::FLOOR_XDP, FLOOR_XDP, up),
        replica(
            names::TO_REPLICA,
            "established",
            Repeat,
            V4,
            Row::ToReplica,
            Some(names::FLOOR_XDP),
        ),
        replica("  one by one", "established_one_by_one", Single, V4, Row::FarToReplica, None),
        replica("  IPv6", "established_ipv6", Repeat, V6, Row::ToReplica, None),
        random(
            (names::FLOOR_XDP_RANDOM, Some("floor_random")),
            FLOOR_XDP,
            None,
            flows,
            Conn::to_replica,
        ),
        Case {
            floor: Some(names::FLOOR_XDP_RANDOM),
            ..random(
                (names::TO_REPLICA_RANDOM, Some("established_random")),
                INGRESS,
                Some(ToReplica),
                flows,
                Conn::to_replica,
            )
        },
        floor(names::FLOOR_TC, FLOOR_TC, down),
        pod(names::FROM_POD, "established", Repeat, V4, Row::ToReplica, Some(names::FLOOR_TC)),
        pod("  one by one", "established_one_by_one", Single, V4, Row::FarToReplica, None),
        pod("  IPv6", "established_ipv6", Repeat, V6, Row::ToReplica, None),
        client(names::TO_CLIENT, "established", Repeat, V4, Row::ToClient, Some(names::FLOOR_TC)),
        client("  one by one", "established_one_by_one", Single, V4, Row::FarToClient, None),
        client("  IPv6", "established_ipv6", Repeat, V6, Row::ToClient, None),
        random(
            (names::FLOOR_TC_RANDOM, Some("floor_random")),
            FLOOR_TC,
            None,
            flows,
            Conn::to_client,
        ),
        Case {
            floor: Some(names::FLOOR_TC_RANDOM),
            ..random(
                (names::FROM_POD_RANDOM, Some("established_random")),
                INSIDE,
                Some(ToReplica),
                flows,
                Conn::to_replica,
            )
        },
        Case {
            floor: Some(names::FLOOR_TC_RANDOM),
            ..random(
                (names::TO_CLIENT_RANDOM, Some("established_random")),
                EGRESS,
                Some(ToClient),
                flows,
                Conn::to_client,
            )
        },
    ])
}

/// Packets that end earlier on the path of an established one, in the order in which they do.
fn detail() -> Vec<Case> {
    use Counter::{DropStrayReset, EgressPassed, IngressPassed, ResetUnknown, ToClient, ToReplica};
    use Family::V4;
    let case = |name, program, verdict, packet| {
        same((name, None), program, Way::Repeat, Some(verdict), packet)
    };
    // As many as the limit on RSTs lets through.
    let stray = |name, data| {
        let packet = packets::stray(data);
        same((name, None), INGRESS, Way::Single, Some(ResetUnknown), packet)
    };
    let up = || packets::to_replica(V4, Row::AllToReplica);
    let down = || packets::to_client(V4, Row::AllToClient);
    vec![
        case("ingress: not IP", INGRESS, IngressPassed, packets::not_ip()),
        case("ingress: not TCP", INGRESS, IngressPassed, packets::not_tcp()),
        case("ingress: no VIP's port", INGRESS, IngressPassed, packets::other_port()),
        case("ingress: no VIP", INGRESS, IngressPassed, packets::not_ours()),
        case("ingress: no flow", INGRESS, DropStrayReset, packets::stray_reset()),
        stray("ingress: ACK of nobody", 0),
        stray("ingress: data of nobody", 100),
        case("ingress: no timestamps", INGRESS, ToReplica, packets::bare_to_replica()),
        case("ingress: all", INGRESS, ToReplica, up()),
        case("egress: not IP", EGRESS, EgressPassed, packets::not_ip()),
        case("egress: not TCP", EGRESS, EgressPassed, packets::not_tcp()),
        case("egress: no flow", EGRESS, EgressPassed, packets::not_ours()),
        case("egress: no timestamps", EGRESS, ToClient, packets::bare_to_client()),
        case("egress: all", EGRESS, ToClient, down()),
    ]
}
