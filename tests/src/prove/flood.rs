//! `flood`: segments of no connection beside real clients.

use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use roost_programs::IP;

use super::report::Report;
use super::storm::{Attached, Kind, Storm};
use super::visit::{Outcome, Plan, Servers, Visitors};
use super::{counter, step, tell_errors};
use crate::bench::median;
use crate::lab::{Config, Family, Lab, REPLICA_PORT, Roost, UPLINK, VIP_PORT, run_in};

/// A link beside the uplink, where a flood is dropped at once.
const DRAIN: &str = "drain";
/// What clients get beside a flood, as a part of what they get where it is dropped at once.
const LEAST: [f64; 3] = [0.90, 0.95, 0.95];

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Send N segments a second
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Measure each flood N times, in turns with what it is compared with
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Let each measurement take N seconds
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub seconds: u64,
}

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let cpus = available_parallelism()?.get();
    let lab = Lab::builder("flood").uplink_queues(cpus).build()?;
    let _servers = Servers::start(&lab, REPLICA_PORT)?;
    let (cpus, node) = (cpus.to_string(), lab.node.name());
    let queues = ["numtxqueues", &cpus, "numrxqueues", &cpus];
    let link = [&["link", "add", DRAIN][..], &queues, &["type", "veth"]].concat();
    let peer = [&["peer", "name", DRAIN, "netns", node][..], &queues].concat();
    run_in(&lab.client, IP, &[link, peer].concat())?;
    for ns in [&lab.client, &lab.node] {
        run_in(ns, IP, &["link", "set", DRAIN, "up"])?;
    }
    let _drop = Attached::drop_all(&lab.node, DRAIN)?;
    let _sink = Attached::sink(&lab.client, UPLINK)?;
    let mut report = Report::new("flood");
    for (kind, least) in Kind::ALL.into_iter().zip(LEAST) {
        measure(&lab, kind, least, options, &mut report)?;
    }
    Ok(report)
}

/// Where a flood goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flood {
    None,
    /// To the VIP.
    Roost,
    /// Where it is dropped at once.
    Dropped,
}

fn measure(
    lab: &Lab,
    kind: Kind,
    least: f64,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let name = kind.name();
    step(&format!("{name}: {} segments a second", options.rate));
    let roost = Roost::start(lab, &Config::new(lab).to_string())?;
    let visitors = Visitors::new(lab, (lab.vip(Family::V4), VIP_PORT).into(), 0..24);
    let plan = Plan::new(u64::MAX, Duration::from_secs(options.seconds));
    let mut beside = |flood| -> Result<(Outcome, f64)> {
        let device = match flood {
            Flood::None => None,
            Flood::Roost => Some(UPLINK),
            Flood::Dropped => Some(DRAIN),
        };
        let storm =
            device.map(|device| Storm::start(lab, kind, device, options.rate)).transpose()?;
        let outcome = visitors.visit(&plan)?;
        let sent = storm.map(Storm::end).transpose()?.unwrap_or_default();
        Ok((outcome, sent))
    };
    // Warms up.
    beside(Flood::None)?;
    let (mut rates, mut ratios, mut sent) = ([const { Vec::new() }; 3], Vec::new(), Vec::new());
    let (mut refused, mut failed, mut met) = (0, 0, Vec::new());
    for _ in 0..options.rounds {
        let [quiet, dropped] = [Flood::None, Flood::Dropped].map(&mut beside);
        let before = met_by(&roost, kind)?;
        let (outcome, flood) = beside(Flood::Roost)?;
        // What SYNs of real clients count for is no flood.
        let real = if kind == Kind::Syn { outcome.begun() } else { 0 };
        met.push((met_by(&roost, kind)? - before - real) as f64 / outcome.took.as_secs_f64());
        tell_errors(&roost, &outcome)?;
        (refused, failed) = (refused + outcome.refused, failed + outcome.failed);
        let (quiet, (dropped, drained)) = (quiet?.0.rate(), dropped?);
        ratios.push(outcome.rate() / dropped.rate());
        for (rates, rate) in rates.iter_mut().zip([quiet, dropped.rate(), outcome.rate()]) {
            rates.push(rate);
        }
        sent.extend([flood, drained]);
    }
    let [quiet, dropped, beside] = rates.map(|mut rates| median(&mut rates).round());
    let least_sent = sent.into_iter().fold(f64::INFINITY, f64::min).round();
    report.part(format!("{name} flood, {} rounds of {} s", options.rounds, options.seconds));
    report.tell(format!("{name}_sent"), least_sent, "segments a second that were sent at least");
    let words = "segments a second that Roost met, median of the rounds";
    let least_met = 0.8 * f64::from(options.rate);
    report.at_least(format!("{name}_met"), median(&mut met).round(), least_met, words);
    report.tell(format!("{name}_quiet"), quiet, "connections a second without a flood");
    report.tell(format!("{name}_dropped"), dropped, "where it is dropped at once");
    report.tell(format!("{name}_beside"), beside, "where Roost has it");
    let words = "of what is left where it is dropped at once, median of the rounds";
    report.at_least(format!("{name}_ratio"), median(&mut ratios), least, words);
    report.at_most(format!("{name}_refused"), refused as f64, 0.0, "refused");
    report.at_most(format!("{name}_failed"), failed as f64, 0.0, "failed otherwise");
    Ok(())
}

/// How many packets have had a verdict that this flood's get.
fn met_by(roost: &Roost, kind: Kind) -> Result<u64> {
    let names: &[&str] = match kind {
        Kind::Syn => &["syn_answered"],
        Kind::Ack | Kind::AckData => &["reset_unknown", "drop_reset_limit", "drop_early"],
    };
    names.iter().map(|name| counter(roost, name)).sum()
}
