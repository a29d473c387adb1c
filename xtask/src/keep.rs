//! `cargo xtask keep`.

use anyhow::Result;
use clap::Args;

use crate::launch::launch;
use crate::workspace::Workspace;

/// Keep this release for the tests of those that follow: its eBPF object, and what its daemon pins.
///
/// Needs root. To be done once, when a release is made; tests/releases has them.
#[derive(Args)]
pub struct Options {
    /// Keep it as tests/releases/NAME: the number after the last.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs the subcommand. Returns only if it cannot be started.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let directory = workspace.root.join("tests/releases").join(&options.name);
    let object = workspace.ebpf_object();
    let arguments = ["--object".into(), object.into(), directory.into()];
    launch(workspace, "roost-release", &arguments)
}
