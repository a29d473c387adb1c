//! `cargo xtask prove`: long scenarios that show what Roost holds, whatever dies, floods or lies.
//!
//! Each has numbers that must be met, and runs in a laboratory of its own for a bounded time.

mod orphan;
mod report;
mod visit;

use anyhow::Result;
use clap::Subcommand;

use crate::lab::Roost;
pub use report::Report;
use visit::Outcome;

/// What is to be shown.
#[derive(Subcommand, Debug, Clone)]
pub enum Scenario {
    /// The daemon is dead: connections come and go, and none is refused
    Orphan(orphan::Options),
}

/// Runs a scenario. An error says that it could not be run; what it has found is in the report.
pub fn run(scenario: &Scenario) -> Result<Report> {
    match scenario {
        Scenario::Orphan(options) => orphan::run(options),
    }
}

fn step(what: &str) {
    let style = anstyle::AnsiColor::Cyan.on_default();
    anstream::eprintln!("{style}=>{style:#} {what}");
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
