//! `cargo xtask demo` runs this once everything is built.

use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use clap::Parser;
use roost_tests::demo::{self, Options};
use roost_tests::lab::clean_up_on_signals;

/// Show in network namespaces what Roost does: tabs of chats meet replicas, first spread, then home; or from inside
///
/// Exits with 0 if the policy `home` kept every chat whole.
#[derive(Parser)]
#[command(name = "roost-demo", bin_name = "cargo xtask demo", max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<ExitCode> {
    let Cli { options } = Cli::parse();
    clean_up_on_signals()?;
    // A signal ends the process, and cleans up before.
    let whole = demo::run(&options, || {
        loop {
            thread::park();
        }
    })?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
