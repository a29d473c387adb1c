//! `cargo xtask prove`.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::launch::launch;
use crate::peers;
use crate::workspace::Workspace;

/// Show in network namespaces what Roost holds, whatever dies, floods or lies.
///
/// Needs root. The exit status says whether the scenario held. `cargo xtask prove help` has all scenarios,
/// `cargo xtask prove SCENARIO --help` what can be changed in one.
#[derive(Args)]
pub struct Options {
    /// A scenario, such as `orphan`, and its flags: `--json` prints one JSON object as the last line.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the subcommand. Returns only if it cannot be started.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.arguments[0] == "heads" {
        peers::ensure_proxies(workspace)?;
    }
    launch(workspace, "roost-prove", &options.arguments)
}
