//! `cargo xtask prove`: long scenarios that show what Roost holds, whatever dies, floods or lies.
//!
//! Each has numbers that must be met, and runs in a laboratory of its own for a bounded time.

mod dribble;
mod flood;
mod front;
mod half_dead;
mod heads;
mod inside;
mod keepalive;
mod million;
mod nodes;
mod orphan;
mod random_keys;
mod rate;
mod report;
mod requests;
mod storm;
mod terminator;
mod usage;
mod visit;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::lab::{Roost, heavy};
pub use report::Report;
use visit::Outcome;

/// What is to be shown.
#[derive(Subcommand, Debug, Clone)]
pub enum Scenario {
    /// The daemon is dead: connections come and go, and none is refused
    Orphan(orphan::Options),
    /// Replicas have closed and their clients are gone: flows and chats leave by their time-outs
    HalfDead(half_dead::Options),
    /// One source claims random keys: no chat of others splits; an honest address with many is refused none
    RandomKeys(random_keys::Options),
    /// Segments of no connection beside real clients: none fails, and they keep their rate
    Flood(flood::Options),
    /// Heads of any length in any number of segments, behind Roost and behind proxies: chats stay whole
    Heads(heads::Options),
    /// Clients of one address that send byte by byte and never to the end: they get their share, others notice nothing
    Dribble(dribble::Options),
    /// Requests for many chats on connections that are used again, by clients and servers of others: each at its chat
    Requests(requests::Options),
    /// Requests a second through nginx that uses its connections again, beside HAProxy in the same place
    Rate(rate::Options),
    /// 1 GB both ways through pods' links of each kind, with offloads on and off: each byte is right
    Inside(inside::Options),
    /// A message through a proxy in a pod that ends TLS: what Roost behind it costs beside the proxy's own hash of the chat, and
    /// which chats each keeps whole
    Terminator(terminator::Options),
    /// Silent clients that probe: they are answered, write after 70 s, and are told when they waited too long
    Keepalive(keepalive::Options),
    /// A million live flows: the daemon is idle, and the commands are quick
    Million(million::Options),
    /// A cluster of thousands of Nodes: what it costs the daemon to watch them all
    Nodes(nodes::Options),
}

/// Runs a scenario. An error says that it could not be run; what it has found is in the report.
pub fn run(scenario: &Scenario) -> Result<Report> {
    // Two at once would measure each other, and tests.
    let _heavy = heavy()?;
    match scenario {
        Scenario::Orphan(options) => orphan::run(options),
        Scenario::HalfDead(options) => half_dead::run(options),
        Scenario::RandomKeys(options) => random_keys::run(options),
        Scenario::Flood(options) => flood::run(options),
        Scenario::Heads(options) => heads::run(options),
        Scenario::Dribble(options) => dribble::run(options),
        Scenario::Requests(options) => requests::run(options),
        Scenario::Rate(options) => rate::run(options),
        Scenario::Inside(options) => inside::run(options),
        Scenario::Terminator(options) => terminator::run(options),
        Scenario::Keepalive(options) => keepalive::run(options),
        Scenario::Million(options) => million::run(options),
        Scenario::Nodes(options) => nodes::run(options),
    }
}

fn step(what: &str) {
    let style = anstyle::AnsiColor::Cyan.on_default();
    anstream::eprintln!("{style}=>{style:#} {what}");
}

/// What the data path has counted under a name.
fn counter(roost: &Roost, name: &str) -> Result<u64> {
    let counters = roost.json(&["counters", "--all"])?;
    let found = counters.as_array().into_iter().flatten().find(|line| line["counter"] == name);
    let packets = found.and_then(|line| line["packets"].as_u64());
    packets.with_context(|| format!("no counter {name}"))
}

/// How many `roost flows` or `roost chats` lists.
fn listed(roost: &Roost, what: &str) -> Result<usize> {
    let list = roost.json(&[what])?;
    list.as_array().map(Vec::len).with_context(|| format!("`roost {what}` prints no array"))
}

/// Says what has gone wrong, which is no part of what was measured, and what the data path counted for it.
fn tell_errors(roost: &Roost, outcome: &Outcome) -> Result<()> {
    for (error, count) in &outcome.errors {
        anstream::eprintln!("   {count} x {error}");
    }
    if outcome.errors.is_empty() {
        return Ok(());
    }
    for line in roost.json(&["counters"])?.as_array().into_iter().flatten() {
        anstream::eprintln!(
            "   {}: {}",
            line["counter"].as_str().unwrap_or_default(),
            line["packets"]
        );
    }
    Ok(())
}
