//! Running the tools that set up networks, with errors that say what was run and what it said.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use roost_programs::{IP, Program, Runnable};

use super::addr::{HOST_DEVICE, LAB_V4, LAB_V6};
use super::netns::Netns;

/// Runs a command in this process's namespaces and returns its standard output.
pub fn run(program: Program, args: &[&str]) -> Result<String> {
    finish(program.command()?.args(args), None)
}

/// Runs a command in a network namespace and returns its standard output.
pub fn run_in(ns: &Netns, program: impl Runnable, args: &[&str]) -> Result<String> {
    finish(ns.command(program)?.args(args), None)
}

/// Runs a prepared command with `input` as its standard input; returns its standard output.
pub(super) fn finish(command: &mut Command, input: Option<&str>) -> Result<String> {
    let shown = show(command);
    let output = output(command, input).with_context(|| format!("running `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let given = input.map(|input| format!("\ninput:\n{input}")).unwrap_or_default();
        bail!("`{shown}`: {}\n{}{given}", output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output(command: &mut Command, input: Option<&str>) -> Result<Output> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        pipe.write_all(input.as_bytes())?;
    }
    Ok(child.wait_with_output()?)
}

pub(super) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs `ip -batch` in one process: several times faster than one for each command.
pub(super) fn ip_batch(ns: Option<&Netns>, lines: &[String]) -> Result<()> {
    let mut command = match ns {
        Some(ns) => ns.command(IP)?,
        None => IP.command()?,
    };
    finish(command.args(["-batch", "-"]), Some(&(lines.join("\n") + "\n"))).map(drop)
}

/// Fails if the machine's own namespace already has what a lab would give it.
pub(super) fn ensure_no_host_link() -> Result<()> {
    ensure!(
        !fs::exists(format!("/sys/class/net/{HOST_DEVICE}"))?,
        "the interface {HOST_DEVICE} exists: another lab is open to this machine; end it first",
    );
    for (family, net) in [("-4", LAB_V4), ("-6", LAB_V6)] {
        let routes = run(IP, &[family, "route", "show", "root", net])?;
        ensure!(routes.is_empty(), "this machine has a route into {net} already: {routes}");
    }
    Ok(())
}

/// Lets XDP_TX frames arrive at this end of a veth: the kernel only wakes a receiver that has an XDP
/// program of its own, so it gets one that passes everything.
pub fn attach_pass(ns: Option<&Netns>, device: &str) -> Result<()> {
    const VARIABLE: &str = "ROOST_PASS_OBJECT";
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/pass.o");
    let object = env::var(VARIABLE).unwrap_or_else(|_| built.to_owned());
    ensure!(
        Path::new(&object).is_file(),
        "{VARIABLE}: there is no file {object}: build it (cargo xtask build)"
    );
    let words = ["link", "set", "dev", device, "xdpdrv", "obj", &object, "sec", "xdp"];
    match ns {
        Some(ns) => run_in(ns, IP, &words).map(drop),
        None => run(IP, &words).map(drop),
    }
}

/// Where a binary of this workspace is: the variable `variable` says so, or it is beside the
/// current executable (tests are one directory deeper), or in the newest build of the workspace.
pub fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{variable}: there is no file {}", path.display());
        return Ok(path);
    }
    let exe = env::current_exe()?;
    let target = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"));
    let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let built = ["release", "debug"].iter().map(|profile| target.join(profile).join(name));
    let found = beside.chain(built).find(|path| path.is_file());
    found.with_context(|| {
        format!("no binary `{name}`: build it (cargo xtask build), or name it in {variable}")
    })
}
