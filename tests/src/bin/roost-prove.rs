//! `cargo xtask prove` runs this once everything is built.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use roost_tests::lab::clean_up_on_signals;
use roost_tests::prove::{self, Scenario};

/// Prove in network namespaces what Roost holds, whatever dies, floods or lies
///
/// Exits with 0 if the scenario held what it is to hold.
#[derive(Parser)]
#[command(name = "roost-prove", bin_name = "cargo xtask prove", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    /// Print the result as one JSON object on the last line of stdout
    #[arg(long, global = true)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let Cli { scenario, json } = Cli::parse();
    clean_up_on_signals()?;
    let report = prove::run(&scenario)?;
    report.print(json)?;
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
