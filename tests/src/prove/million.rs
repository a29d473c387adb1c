//! `million`: so many live flows that whatever looks at each of them is seen.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::MapInfo;
use aya::programs::{
    ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, Xdp, loaded_programs,
};
use aya::sys::{Stats, enable_stats};
use aya_obj::programs::XdpAttachType;
use clap::Args;
use roost_programs::IP;
use router_ebpf::schema::Map;

use super::report::Report;
use super::usage::{cpu_time, resident, soft_interrupts};
use super::{counter, listed, step};
use crate::bench::kernel::{EGRESS, INGRESS};
use crate::bench::median;
use crate::bench::packets::{Family as PacketFamily, MAC, numbered_client};
use crate::bench::talk::{Conn, Programs};
use crate::lab::{Config, Family, Lab, Roost, UPLINK, VIP_PORT, run_in};

/// Flows of one chat.
const TABS: u32 = 4;
/// Each command is run so often; the median counts.
const RUNS: usize = 5;
/// What commands may take, in milliseconds.
const COMMANDS: [(&str, Option<f64>); 4] =
    [("status", Some(50.0)), ("replicas", Some(100.0)), ("chats", None), ("flows", None)];
/// No frame of a test run is larger.
const PAGE: usize = 4096;

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Enter N flows
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(4..=4_000_000))]
    pub flows: u32,
    /// Watch the daemon for N seconds
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub seconds: u64,
}

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let flows = options.flows;
    let lab = Lab::new("million")?;
    // A fifth more: most flows of a table that is nearly full are nobody's usual state.
    let room = |of: u32| of + of / 5;
    let top = format!("[limits]\nflows = {}\nchats = {}\n", room(flows), room(flows / TABS));
    // What the packets of a test run are for: frames for other machines are not taken.
    let to = MAC.map(|byte| format!("{byte:02x}")).join(":");
    run_in(&lab.node, IP, &["link", "set", "dev", UPLINK, "address", &to])?;
    let roost = Roost::start(&lab, &Config { top, ..Config::new(&lab) }.to_string())?;
    let mut report = Report::new("million");

    step(&format!("{flows} flows through the loaded programs, {TABS} of each chat"));
    let programs = Loaded::of(&roost)?;
    let start = Instant::now();
    let vip = (lab.vip(Family::V4), VIP_PORT).into();
    let chats = flows / TABS;
    lab.node.run(|| {
        (0..flows).try_for_each(|n| {
            Conn::open(&programs, numbered_client(PacketFamily::V4, n), vip, n % chats)?;
            Ok::<_, anyhow::Error>(())
        })
    })?;
    let delivered = counter(&roost, "delivered")?;
    ensure!(delivered == u64::from(flows), "{delivered} of {flows} connections were accepted");
    report.tell("flows", f64::from(flows), "flows");
    report.tell("entered_seconds", start.elapsed().as_secs_f64(), "s to enter them");

    step(&format!("the daemon has nothing to do for {} s", options.seconds));
    let watched = Duration::from_secs(options.seconds);
    let stats = enable_stats(Stats::RunTime).context("switching the programs' statistics on")?;
    let times = || {
        let daemon = cpu_time(roost.pid())?;
        Ok::<_, anyhow::Error>([daemon, programs.run_time(&roost)?, soft_interrupts()?])
    };
    let before = times()?;
    thread::sleep(watched);
    let after = times()?;
    drop(stats);
    let percent = |n: usize| 100.0 * (after[n] - before[n]).as_secs_f64() / watched.as_secs_f64();
    let words = "% of a CPU, which the idle daemon takes";
    report.at_most("daemon_cpu_percent", percent(0), 1.0, words);
    let words = "% of a CPU in its programs";
    report.tell("programs_cpu_percent", percent(1), words);
    let words =
        "% of a CPU in all soft interrupts of this machine, in which the programs' timer runs";
    report.tell("softirq_percent", percent(2), words);
    report.tell("daemon_memory_mb", resident(roost.pid())?, "MB of memory of the daemon");

    step("the commands");
    for (command, most) in COMMANDS {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let start = Instant::now();
            roost.text(&[command])?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let (name, words) = (format!("{command}_ms"), format!("ms for `roost {command}`"));
        match most {
            Some(most) => report.at_most(name, median(&mut times), most, words),
            None => report.tell(name, median(&mut times), words),
        }
    }
    let live = listed(&roost, "flows")?;
    report.at_least("listed", live as f64, f64::from(flows), "flows that `roost flows` lists");
    Ok(report)
}

/// The programs that a daemon has loaded.
struct Loaded {
    ingress: Xdp,
    egress: SchedClassifier,
}

impl Loaded {
    /// Finds them by their names and by a map that they share with nobody.
    fn of(roost: &Roost) -> Result<Self> {
        let find = |name: &str| {
            let found = infos(roost.pin_dir())?.find(|info| info.name_as_str() == Some(name));
            found.with_context(|| format!("the kernel has no program {name} of this daemon"))
        };
        let (ingress, egress) = (find(INGRESS)?, find(EGRESS)?);
        Ok(Self {
            ingress: Xdp::from_program_info(ingress, INGRESS.into(), XdpAttachType::Interface)?,
            egress: SchedClassifier::from_program_info(egress, EGRESS.into())?,
        })
    }

    /// How long all of the daemon's programs have run, while statistics were on.
    fn run_time(&self, roost: &Roost) -> Result<Duration> {
        Ok(infos(roost.pin_dir())?.map(|info| info.run_time()).sum())
    }
}

/// What the kernel knows of the programs that count where this daemon's do.
fn infos(pin_dir: &Path) -> Result<impl Iterator<Item = ProgramInfo>> {
    let map = MapInfo::from_pin(pin_dir.join(Map::Counters.pin()))?.id();
    // One that ends just now is none of these.
    let all = loaded_programs().filter_map(Result::ok);
    Ok(all.filter(move |info| matches!(info.map_ids(), Ok(Some(ids)) if ids.contains(&map))))
}

impl Programs for Loaded {
    fn transform(&self, program: &str, packet: &[u8]) -> Result<Vec<u8>> {
        let mut out = vec![0; PAGE];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let run = match program {
            EGRESS => self.egress.test_run(options),
            _ => self.ingress.test_run(options),
        };
        let len = run.with_context(|| format!("running {program}"))?.data_size_out;
        out.truncate(len as usize);
        Ok(out)
    }
}
