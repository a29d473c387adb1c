//! `cargo xtask fuzz`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use roost_programs::{Need, built};

use crate::process::{run as run_command, run_quietly, say};
use crate::workspace::Workspace;
use crate::{apt, toolchain};

/// The cargo-fuzz that is installed.
const CARGO_FUZZ: &str = "0.13.2";
/// What a connection's head is looked at of, as `router_ebpf::maps::STASH_LEN`, and room for what
/// says how to split it.
const MAX_LEN: &str = "-max_len=4160";

/// A target in tests/fuzz, and where in tests/corpus heads are that it takes as they are.
struct Target {
    name: &'static str,
    heads: Option<&'static str>,
}

const TARGETS: [Target; 5] = [
    Target { name: "http", heads: Some("requests") },
    Target { name: "requests", heads: Some("smuggling") },
    Target { name: "tls", heads: Some("hellos") },
    Target { name: "segments", heads: None },
    Target { name: "proxy", heads: Some("proxied") },
];

/// Fuzz the search for keys, and for where requests begin, against independent parsers.
///
/// Begins with the inputs in tests/corpus, and keeps what it finds in target/fuzz. An input that
/// fails is written to target/fuzz/artifacts, and its path is printed.
#[derive(Args)]
pub struct Options {
    /// Fuzz only this target: http, requests, tls, segments or proxy [default: all, one after the other].
    target: Option<String>,
    /// Fuzz each target for this long.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Add the inputs that reach further than those in tests/corpus to them, smallest first.
    #[arg(long)]
    keep: bool,
}

/// Runs the subcommand: every target, also after one has failed.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let wanted =
        |target: &&Target| options.target.as_deref().is_none_or(|name| name == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    let names = TARGETS.map(|target| target.name).join(", ");
    ensure!(
        !targets.is_empty(),
        "{:?} is no target; there are {names}",
        options.target.as_deref().unwrap_or_default()
    );
    apt::ensure(&apt::programs(&[Need::Fuzz]), "to build libFuzzer")?;
    let fuzzer = Fuzzer {
        workspace,
        program: cargo_fuzz(workspace)?,
        host: toolchain::host()?.version.host,
    };
    let mut failed = Vec::new();
    for target in targets {
        say(format_args!("fuzzing {} for {} s", target.name, options.seconds));
        let result = fuzzer.fuzz(target, options.seconds).and_then(|()| match options.keep {
            true => fuzzer.keep(target),
            false => Ok(()),
        });
        if let Err(error) = result {
            say(format_args!("{}: {error:#}", target.name));
            failed.push(target.name);
        }
    }
    ensure!(failed.is_empty(), "these targets failed: {}", failed.join(", "));
    Ok(())
}

struct Fuzzer<'a> {
    workspace: &'a Workspace,
    program: PathBuf,
    host: String,
}

impl Fuzzer<'_> {
    fn fuzz(&self, target: &Target, seconds: u32) -> Result<()> {
        let found = self.found(target)?;
        let artifacts = self.workspace.target.join("fuzz/artifacts").join(target.name);
        fs::create_dir_all(&artifacts)?;
        let mut command = self.command(target)?;
        command.arg(&found).args(self.committed(target)).args(["--", MAX_LEN]);
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        let words = self.workspace.root.join(format!("tests/fuzz/{}.dict", target.name));
        if words.is_file() {
            command.arg(format!("-dict={}", words.display()));
        }
        run_command(command.args(["-timeout=60", "-print_funcs=0", "-print_final_stats=1"]))
    }

    /// Copies what reaches further than the committed inputs to them.
    fn keep(&self, target: &Target) -> Result<()> {
        let mut command = self.command(target)?;
        command.args(self.committed(target)).arg(self.found(target)?);
        run_command(command.args(["--", "-set_cover_merge=1", MAX_LEN]))
    }

    /// Inputs that were found on this machine.
    fn found(&self, target: &Target) -> Result<PathBuf> {
        let found = self.workspace.target.join("fuzz/corpus").join(target.name);
        fs::create_dir_all(&found).with_context(|| format!("creating {}", found.display()))?;
        Ok(found)
    }

    /// The committed inputs, those that a fuzzer has found first.
    fn committed(&self, target: &Target) -> Vec<PathBuf> {
        let corpus = self.workspace.root.join("tests/corpus");
        let heads = target.heads.map(|heads| corpus.join(heads));
        [corpus.join("fuzz").join(target.name)].into_iter().chain(heads).collect()
    }

    fn command(&self, target: &Target) -> Result<Command> {
        let mut command = built(&self.program)?;
        // Sanitizer and coverage are behind flags that a stable compiler takes in no other way.
        command.current_dir(&self.workspace.root).env("RUSTC_BOOTSTRAP", "1");
        command.args(["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--target", &self.host]);
        command.arg("--target-dir").arg(self.workspace.target.join("fuzz"));
        command.arg(target.name);
        Ok(command)
    }
}

/// The program in target/tools.
fn cargo_fuzz(workspace: &Workspace) -> Result<PathBuf> {
    let _lock = workspace.lock()?;
    let root = workspace.tools().join(format!("cargo-fuzz-{CARGO_FUZZ}"));
    let program = root.join("bin/cargo-fuzz");
    if !program.is_file() {
        say(format_args!(
            "installing cargo-fuzz {CARGO_FUZZ} into target/tools (about 3 minutes, once)"
        ));
        let mut cargo = workspace.cargo()?;
        cargo.args(["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ]);
        run_quietly(cargo.arg("--root").arg(root)).context("installing cargo-fuzz")?;
    }
    Ok(program)
}
