//! `cargo xtask bench` runs this once everything is built.

use anyhow::Result;
use clap::Parser;
use roost_tests::bench::{self, Options};

/// Measure the data path: time for each packet, verified instructions, memory of a connection
///
/// Runs the kernel programs on packets in memory: nothing is attached or sent. Needs root.
#[derive(Parser)]
#[command(name = "roost-bench", bin_name = "cargo xtask bench", max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    bench::run(&Cli::parse().options)
}
