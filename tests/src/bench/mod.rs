//! `cargo xtask bench`: what the data path costs on this machine.

mod heads;
mod kernel;
mod measure;
mod memory;
mod packets;
mod report;
mod slots;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use router_ebpf::verdict::Counter;

use heads::Head;
use kernel::{EGRESS, INGRESS, Kernel};
use measure::{Case, Effort, Way};
use memory::Memory;
use packets::Family;
use report::Report;

/// Sizes of the slot tables that are built.
const REPLICAS: [usize; 3] = [10, 100, 1000];

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
}

/// Measures everything and prints it.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds 0: at least one is needed");
    // Before the process keeps to one CPU: a large table is built by several threads.
    let slot_tables = REPLICAS.map(|replicas| (replicas, slots::build_ms(replicas)));
    let cpu = pin()?;
    let mut kernel = Kernel::load()?;
    let memory = Memory::measure(&mut kernel)?;
    packets::fill(&mut kernel)?;
    let mut cases = cases();
    if options.detail {
        cases.extend(detail());
    }
    let effort = Effort { rounds: options.rounds, repeat: 100_000, single: 1000 };
    let timings = measure::measure(&kernel, &cases, effort)?;
    let rows = cases.iter().zip(timings).collect();
    let report = Report { cpu, effort, rows, verified: &kernel.verified, memory, slot_tables };
    report.print(options.json)
}

/// Keeps the process on the last CPU that it may use, which is the least busy with interrupts.
fn pin() -> Result<usize> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("asking for the CPUs of this process")?;
    let cpu = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let cpu = cpu.context("this process may use no CPU")?;
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(this, &only).with_context(|| format!("keeping to CPU {cpu}"))?;
    Ok(cpu)
}

/// Names of the rows that the JSON object has.
mod names {
    pub const PASS: &str = "not ours";
    pub const SYN: &str = "SYN";
    pub const BIND: &str = "bind";
    pub const TO_REPLICA: &str = "established to replica";
    pub const TO_CLIENT: &str = "established to client";
}

/// A case that is always the same packet.
fn same(
    name: &'static str,
    program: &'static str,
    way: Way,
    verdict: Counter,
    packet: Vec<u8>,
) -> Case {
    let packets = Box::new(move |_| Ok(packet.clone()));
    Case { name, program, way, verdict, packets, constant: true }
}

fn cases() -> Vec<Case> {
    use Counter::{Bound, IngressPassed, SynAnswered, ToClient, ToReplica};
    use Family::{V4, V6};
    use Way::{Repeat, Single};
    let replica = |name, way, family, far| {
        same(name, INGRESS, way, ToReplica, packets::to_replica(family, far))
    };
    let bind = |name, head| Case {
        name,
        program: INGRESS,
        way: Single,
        verdict: Bound,
        packets: Box::new(move |n| packets::first_data(head, n)),
        constant: false,
    };
    let client =
        |name, way, family, far| same(name, EGRESS, way, ToClient, packets::to_client(family, far));
    vec![
        same(names::PASS, INGRESS, Repeat, IngressPassed, packets::not_ours()),
        same(names::SYN, INGRESS, Single, SynAnswered, packets::syn()),
        bind(names::BIND, Head::Query),
        bind("  tuple", Head::Tuple),
        bind("  path", Head::Path),
        bind("  header", Head::Header),
        bind("  cookie", Head::Cookie),
        bind("  sni", Head::Sni),
        replica(names::TO_REPLICA, Repeat, V4, false),
        replica("  one by one", Single, V4, true),
        replica("  IPv6", Repeat, V6, false),
        client(names::TO_CLIENT, Repeat, V4, false),
        client("  one by one", Single, V4, true),
        client("  IPv6", Repeat, V6, false),
    ]
}

/// Packets that end earlier on the path of an established one, in the order in which they do.
fn detail() -> Vec<Case> {
    use Counter::{DropStrayReset, EgressPassed, IngressPassed, ToClient, ToReplica};
    use Family::V4;
    let case = |name, program, verdict, packet| same(name, program, Way::Repeat, verdict, packet);
    vec![
        case("ingress: not IP", INGRESS, IngressPassed, packets::not_ip()),
        case("ingress: not TCP", INGRESS, IngressPassed, packets::not_tcp()),
        case("ingress: no VIP's port", INGRESS, IngressPassed, packets::other_port()),
        case("ingress: no VIP", INGRESS, IngressPassed, packets::not_ours()),
        case("ingress: no flow", INGRESS, DropStrayReset, packets::stray_reset()),
        case("ingress: no timestamps", INGRESS, ToReplica, packets::bare_to_replica()),
        case("ingress: all", INGRESS, ToReplica, packets::to_replica(V4, false)),
        case("egress: not IP", EGRESS, EgressPassed, packets::not_ip()),
        case("egress: not TCP", EGRESS, EgressPassed, packets::not_tcp()),
        case("egress: no flow", EGRESS, EgressPassed, packets::not_ours()),
        case("egress: no timestamps", EGRESS, ToClient, packets::bare_to_client()),
        case("egress: all", EGRESS, ToClient, packets::to_client(V4, false)),
    ]
}
