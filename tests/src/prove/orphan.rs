//! `orphan`: the daemon is dead, and connections come and go.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::report::Report;
use super::step;
use super::visit::{Outcome, Plan, Servers, Visitors};
use crate::lab::{Config, Family, Lab, REPLICA_PORT, Roost, VIP_PORT};

/// How often the table of flows is filled.
const TIMES: u64 = 20;
/// How often in a second, at the most. A client that closes before its replica has accepted sends its FIN again after
/// 200 ms, and its flow lives for so long: on a fast machine that alone would fill a small table.
const PACE: u64 = 4;
/// How many chats come back again and again, as pages that are reloaded do. A new one for each connection would be a scenario of
/// chats, which linger for 30 s and have shares of their own: see `random-keys`.
const CHATS: u64 = 10_000;

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Make room for N flows, and open 20 times as many connections
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    pub flows: u64,
    /// Take N seconds at the most for them
    #[arg(long, value_name = "N", default_value_t = 180)]
    pub seconds: u64,
    /// Measure the rate with the default limits for N seconds; 0: not at all
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub rate_seconds: u64,
}

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let visits = TIMES * options.flows;
    let lab = Lab::new("orphan")?;
    let _servers = Servers::start(&lab, REPLICA_PORT)?;
    let mut report = Report::new("orphan");

    step(&format!("no daemon, room for {} flows, {visits} connections", options.flows));
    let limits = format!("[limits]\nflows = {}\n", options.flows);
    let pace = u32::try_from(PACE * options.flows)?;
    let limit = Duration::from_secs(options.seconds);
    let plan = Plan { pace: Some(pace), ..coming_back(visits, limit) };
    let visitors = Visitors::new(&lab, (lab.vip(Family::V4), VIP_PORT).into(), 0..24);
    let outcome = without_daemon(&lab, &visitors, &limits, &plan)?;
    report.part(format!("daemon killed, flows = {}", options.flows));
    report.at_least(
        "opened",
        outcome.answered as f64,
        visits as f64,
        "connections opened and closed",
    );
    report.at_most("refused", outcome.refused as f64, 0.0, "refused");
    report.at_most("failed", outcome.failed as f64, 0.0, "failed otherwise");
    report.tell("per_second", outcome.rate().round(), "connections a second");

    if options.rate_seconds > 0 {
        step(&format!("no daemon, default limits, {} s", options.rate_seconds));
        let limit = Duration::from_secs(options.rate_seconds);
        let outcome = without_daemon(&lab, &visitors, "", &coming_back(u64::MAX, limit))?;
        report.part(format!("daemon killed, default limits, {} s", options.rate_seconds));
        report.tell("default_opened", outcome.answered as f64, "connections opened and closed");
        report.at_most("default_refused", outcome.refused as f64, 0.0, "refused");
        report.at_most("default_failed", outcome.failed as f64, 0.0, "failed otherwise");
        report.tell("default_per_second", outcome.rate().round(), "connections a second");
    }
    Ok(report)
}

fn coming_back(visits: u64, limit: Duration) -> Plan {
    Plan { chat: Arc::new(|n| format!("visit-{}", n % CHATS)), ..Plan::new(visits, limit) }
}

/// Attaches, kills the daemon, and lets clients come and go.
fn without_daemon(
    lab: &Lab,
    visitors: &Visitors<'_>,
    limits: &str,
    plan: &Plan,
) -> Result<Outcome> {
    let config = Config { top: limits.to_owned(), ..Config::new(lab) };
    let mut roost = Roost::start(lab, &config.to_string())?;
    roost.kill();
    let outcome = visitors.visit(plan)?;
    super::tell_errors(&roost, &outcome)?;
    Ok(outcome)
}
