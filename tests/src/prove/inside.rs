//! `inside`: files both ways through pods' links, whatever their devices do for the sender and what they leave to him.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use futures_util::future::try_join;
use tokio::time::timeout;

use super::report::Report;
use super::step;
use crate::lab::{Clients, Config, Family, Joined, Lab, Pod, Site, UPLINK};

const MB: u64 = 1 << 20;
/// No file takes longer, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(300);

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Let each file have N MB
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub mb: u64,
}

/// What a device does for its system, in groups of ethtool's names; each group is on or off in each row.
const GROUPS: [&[&str]; 3] = [&["tx"], &["gso", "tso"], &["gro"]];

/// Runs the scenario.
pub(super) fn run(options: &Options) -> Result<Report> {
    step("a node with three replicas, and four pods as clients");
    let site = Site::start(Lab::builder("inside"), |lab| Config::new(lab).client_links("pod*"))?;
    let kinds = [
        ("veth with a route", Joined::Routed),
        ("veth of a bridge", Joined::Bridged),
        ("tap that cuts", Joined::Tapped { whole: false }),
        ("tap that does not", Joined::Tapped { whole: true }),
    ];
    let mut pods = Vec::new();
    for (n, (name, joined)) in (1..).zip(kinds) {
        let pod = site.lab.pod(n, joined)?;
        site.roost.wait_client_link(&pod.node_device, true)?;
        pods.push((name, pod));
    }
    let mut report = Report::new("inside");
    report.part(format!("{} MB down and as many up at a time", options.mb));
    let mut transfers = Transfers { site: &site, mb: options.mb, all: 0, whole: 0 };
    for combination in 0..1 << GROUPS.len() {
        let off: Vec<_> = (0..GROUPS.len()).filter(|n| combination & 1 << n != 0).collect();
        for (_, pod) in &pods[..2] {
            // What is off takes with it what needs it.
            for offload in GROUPS.iter().copied().flatten() {
                pod.ns.set_offload(UPLINK, offload, true)?;
            }
            for offload in off.iter().flat_map(|n| GROUPS[*n]) {
                pod.ns.set_offload(UPLINK, offload, false)?;
            }
        }
        let off: Vec<String> = off.into_iter().map(|n| GROUPS[n].join("/")).collect();
        let off = if off.is_empty() {
            "all on".to_owned()
        } else {
            format!("without {}", off.join(", "))
        };
        for ((name, pod), family) in pods[..2].iter().zip(Family::BOTH) {
            transfers.both_ways(&mut report, pod, family, &format!("{name}, {off}"))?;
        }
    }
    for (name, pod) in &pods[2..] {
        for family in Family::BOTH {
            transfers.both_ways(&mut report, pod, family, name)?;
        }
    }
    let Transfers { all, whole, .. } = transfers;
    report.at_least("whole", whole as f64, all as f64, "transfers of which each byte is right");
    let replicas = site.lab.replicas.iter().map(|replica| &replica.ns);
    let spaces = replicas.chain(pods.iter().map(|(_, pod)| &pod.ns));
    let wrong = spaces.map(|ns| ns.tcp_count("InCsumErrors")).sum::<Result<u64>>()?;
    report.at_most(
        "checksum_errors",
        wrong as f64,
        0.0,
        "segments with a wrong checksum at pods and replicas",
    );
    let frames = pods.iter().filter_map(|(_, pod)| pod.frames()).flatten();
    let wrong: u64 = frames.clone().map(|frames| frames.wrong.load(Relaxed)).sum();
    report.at_most(
        "wrong_frames",
        wrong as f64,
        0.0,
        "frames with a wrong checksum on the wires between taps",
    );
    let cut: u64 =
        pods[2].1.frames().into_iter().flatten().map(|frames| frames.all.load(Relaxed)).sum();
    report.tell("cut_frames", cut as f64, "frames that the kernel has cut and summed for a tap");
    let counters = ["drop_checksum", "drop_malformed", "drop_fault", "egress_drop_fault"];
    let dropped = counters.map(|name| site.counter(name)).into_iter().sum::<Result<u64>>()?;
    report.at_most("dropped", dropped as f64, 0.0, "packets that Roost dropped as wrong");
    Ok(report)
}

struct Transfers<'a> {
    site: &'a Site,
    mb: u64,
    all: usize,
    whole: usize,
}

impl Transfers<'_> {
    fn both_ways(
        &mut self,
        report: &mut Report,
        pod: &Pod,
        family: Family,
        what: &str,
    ) -> Result<()> {
        step(&format!("{what}, {family}"));
        let (clients, vip) = (Clients::new(&pod.ns)?, self.site.vip(family));
        let (mut down, mut up) = (clients.http(vip, "down")?, clients.http(vip, "up")?);
        let (start, bytes) = (Instant::now(), self.mb * MB);
        let both = async { try_join(down.download(bytes, 1), up.upload(bytes, 2)).await };
        let done = clients.run(async { timeout(LIMIT, both).await }).context("it took too long");
        self.all += 1;
        match done.flatten() {
            Ok(_) => {
                self.whole += 1;
                let seconds = start.elapsed().as_secs_f64();
                let rate = 2.0 * self.mb as f64 / seconds;
                report.text(format!("{family}  {what:45} {seconds:6.1} s  {rate:6.0} MB/s"));
            }
            Err(error) => report.text(format!("{family}  {what:45} {error:#}")),
        }
        Ok(())
    }
}
