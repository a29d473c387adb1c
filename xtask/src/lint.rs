//! `cargo xtask lint`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use roost_programs::{built, find};

use crate::process::{read, run as run_command, run_quietly, say};
use crate::workspace::Workspace;
use crate::{apt, ebpf};

/// The cargo-deny that is installed, and the series of which any other is taken.
const CARGO_DENY: &str = "0.20.2";
const CARGO_DENY_SERIES: &str = "cargo-deny 0.20.";

/// Where Debian puts Clippy for its compiler.
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";

/// Check format, lints and dependencies: rustfmt, Clippy, cargo-deny.
#[derive(Args)]
pub struct Options {
    /// Do not fetch the database of security advisories, and do not check against it.
    #[arg(long)]
    offline: bool,
}

/// Runs the subcommand: every check, also after one has failed.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    // The daemon embeds the object, so nothing of it compiles without.
    let tools = ebpf::build(workspace)?;
    let checks: [(&str, &dyn Fn() -> Result<()>); 4] = [
        ("format", &|| run_command(workspace.cargo()?.args(["fmt", "--all", "--check"]))),
        ("Clippy on the host's code", &|| run_command(&mut host_clippy(workspace)?)),
        ("Clippy on the kernel programs", &|| run_command(&mut kernel_clippy(workspace, &tools)?)),
        ("dependencies", &|| dependencies(workspace, options.offline)),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        say(format_args!("checking: {name}"));
        if let Err(error) = check() {
            say(format_args!("{name}: {error:#}"));
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "these checks failed: {}", failed.join(", "));
    Ok(())
}

fn host_clippy(workspace: &Workspace) -> Result<Command> {
    let mut clippy = workspace.cargo()?;
    clippy.args(["clippy", "--workspace", "--all-targets"]);
    clippy.arg("--target-dir").arg(&workspace.target).args(["--", "-Dwarnings"]);
    Ok(clippy)
}

/// Clippy comes with its compiler: beside Debian's it is a package of its own, and cargo does not
/// find it by itself.
fn kernel_clippy(workspace: &Workspace, tools: &ebpf::Tools) -> Result<Command> {
    if !tools.rustc.is_debian() {
        let mut clippy = tools.cargo(workspace, "clippy")?;
        clippy.args(["--", "-Dwarnings"]);
        return Ok(clippy);
    }
    if !PathBuf::from(DEBIAN_CLIPPY).is_file() {
        apt::install(apt::CLIPPY, "for Clippy on the kernel programs")?;
    }
    let mut check = tools.cargo(workspace, "check")?;
    // This is all that `cargo clippy` does, too: it runs `cargo check` with a wrapper.
    check.env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY);
    check.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    Ok(check)
}

fn dependencies(workspace: &Workspace, offline: bool) -> Result<()> {
    let program = cargo_deny(workspace)?;
    let deny = |words: &[&str]| -> Result<Command> {
        let mut command = built(&program)?;
        command.current_dir(&workspace.root).args(words);
        Ok(command)
    };
    run_command(&mut deny(&["--log-level", "error", "check", "bans", "licenses", "sources"])?)?;
    if offline {
        say("warning: advisories are not checked (--offline)");
        return Ok(());
    }
    if let Err(error) = run_quietly(&mut deny(&["fetch", "db"])?) {
        say(format_args!("warning: advisories are not checked: {error:#}"));
        return Ok(());
    }
    run_command(&mut deny(&["--offline", "check", "advisories"])?)
}

/// A cargo-deny of the right series: the user's, or one in target/tools.
fn cargo_deny(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(own) = find("cargo-deny") {
        let version = read(built(&own)?.arg("--version"))?;
        if version.starts_with(CARGO_DENY_SERIES) {
            return Ok(own);
        }
    }
    let _lock = workspace.lock()?;
    let root = workspace.tools().join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        say(format_args!(
            "installing cargo-deny {CARGO_DENY} into target/tools (about 5 minutes, once)"
        ));
        let mut cargo = workspace.cargo()?;
        cargo.args(["install", "cargo-deny", "--locked", "--version", CARGO_DENY]);
        run_quietly(cargo.arg("--root").arg(root)).context("installing cargo-deny")?;
    }
    Ok(program)
}
