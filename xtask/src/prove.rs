//! `cargo xtask prove`.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;
use roost_programs::Need;

use crate::launch::launch;
use crate::workspace::Workspace;
use crate::{apt, peers};

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
    match options.arguments[0].to_str() {
        Some("heads" | "rate" | "terminator") => peers::ensure_proxies(workspace)?,
        Some("requests") => {
            let packages = [apt::programs(&[Need::Tests]), apt::TESTS.to_vec()].concat();
            apt::ensure(&packages, "for clients and servers of others")?;
            peers::ensure(workspace)?;
        }
        _ => {}
    }
    launch(workspace, "roost-prove", &options.arguments)
}
