//! `cargo xtask build`.

use anyhow::Result;
use clap::Args;

use crate::ebpf;
use crate::process::{run as run_command, say};
use crate::workspace::{Profile, Workspace};

/// Build the eBPF object, the roost binary and the chat server of the demo.
#[derive(Args)]
pub struct Options {
    /// Build without optimisation, into target/debug [default: target/release].
    #[arg(long)]
    debug: bool,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let profile = if options.debug { Profile::Debug } else { Profile::Release };
    everything(workspace, profile)?;
    say(format_args!("built {}", workspace.binary(profile, "roost").display()));
    Ok(())
}

/// Builds the eBPF object and then every binary of the workspace. Always all of them: a subset
/// would be built with other features of shared dependencies, and everything twice.
pub fn everything(workspace: &Workspace, profile: Profile) -> Result<()> {
    ebpf::build(workspace)?;
    let mut cargo = workspace.cargo()?;
    cargo.args(["build", "--package", "router-userspace", "--package", "roost-chat"]);
    cargo.args(["--package", "roost-tests", "--bins"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    run_command(cargo.arg("--target-dir").arg(&workspace.target))
}
