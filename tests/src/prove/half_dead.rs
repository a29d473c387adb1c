//! `half-dead`: the replica has closed, the client is gone without a word, and the daemon is dead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use super::report::Report;
use super::visit::{End, Plan, Servers, Visitors, allow_files};
use super::{counter, listed, step, tell_errors};
use crate::lab::{Config, Family, Lab, REPLICA_PORT, Roost, UPLINK, VIP_PORT, Way, try_until};

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Leave N connections half dead, each of a chat of its own
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=9000))]
    pub flows: u64,
    /// Further lines of the service's configuration, such as `linger = "1s"`
    #[arg(long, value_name = "LINE", default_value = "")]
    pub service: String,
    /// Wait N seconds at the most for them to go
    #[arg(long, value_name = "N", default_value_t = 240)]
    pub seconds: u64,
}

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let count = options.flows;
    allow_files(count)?;
    let lab = Lab::new("half-dead")?;
    let servers = Servers::start(&lab, REPLICA_PORT)?;
    // Room for as many again only if they go.
    let room = count + count / 4;
    let top = format!("[limits]\nflows = {room}\nchats = {room}\n");
    let config = Config { top, ..Config::new(&lab) }.with(&options.service);
    let mut roost = Roost::start(&lab, &config.to_string())?;
    roost.kill();
    let visitors = Visitors::new(&lab, (lab.vip(Family::V4), VIP_PORT).into(), 0..24);
    let plan = Plan { end: End::Hold, ..Plan::new(count, Duration::from_secs(60)) };
    let mut report = Report::new("half-dead");

    step(&format!("no daemon, {count} connections, each of a chat of its own"));
    let held = visitors.visit(&plan)?;
    tell_errors(&roost, &held)?;
    report.part("half-dead connections");
    report.at_least("opened", held.answered as f64, count as f64, "connections opened");
    step("the clients are gone without a word, the replicas close");
    for way in [Way::In, Way::Out] {
        lab.client.set_loss(UPLINK, way, 100)?;
    }
    servers.close();
    let start = Instant::now();
    let limit = Duration::from_secs(options.seconds);
    let gone = |what: &str| {
        // One that waits in vain is what is measured, not an error.
        let _ = try_until(limit.saturating_sub(start.elapsed()), what, || {
            Ok((listed(&roost, what)? == 0).then_some(()))
        });
        Ok::<_, anyhow::Error>((listed(&roost, what)?, start.elapsed().as_secs_f64()))
    };
    for what in ["flows", "chats"] {
        let (left, took) = gone(what)?;
        report.at_most(format!("{what}_left"), left as f64, 0.0, format!("{what} left"));
        report.tell(format!("{what}_seconds"), took, "s after the replicas have closed");
    }
    for way in [Way::In, Way::Out] {
        lab.client.set_loss(UPLINK, way, 0)?;
    }
    drop(held);

    step(&format!("{count} other connections, where there is room for {room}"));
    servers.hold();
    let plan = Plan { chat: Arc::new(|n| format!("again-{n}")), ..plan };
    let held = visitors.visit(&plan)?;
    tell_errors(&roost, &held)?;
    report.part("then");
    report.at_least("again", held.answered as f64, count as f64, "connections opened");
    let chats_full = counter(&roost, "chats_full")?;
    report.at_most("chats_full", chats_full as f64, 0.0, "of chats that have no entry");
    Ok(report)
}
