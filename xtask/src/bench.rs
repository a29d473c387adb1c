//! `cargo xtask bench`.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::launch::launch;
use crate::workspace::Workspace;

/// Measure the data path: time for each packet, verified instructions, memory of a connection.
///
/// Needs root.
#[derive(Args)]
pub struct Options {
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    json: bool,
    /// Pass these on too: target/release/roost-bench --help has all.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the subcommand. Returns only if the benchmarks cannot be started.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let flags = options.json.then(|| OsString::from("--json"));
    let arguments: Vec<OsString> = flags.into_iter().chain(options.arguments.clone()).collect();
    launch(workspace, "roost-bench", &arguments)
}
