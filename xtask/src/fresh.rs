//! `cargo xtask fresh`: the README's two commands on a machine that has nothing yet.
//!
//! The machine is a root file system with Debian's smallest set of packages and what rustup asks for (a C
//! linker, certificates), in namespaces of its own. Handed in are rustup's toolchain, read-only, a clone
//! of HEAD, and how this machine reaches its registries. Everything else the commands have to get.

mod handed;
mod inside;
mod machine;
mod packages;
mod report;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use roost_programs::{GIT, Need};
use rustix::fs::statvfs;

use self::inside::Orders;
use self::packages::Packages;
use self::report::{Command, Report};
use crate::apt;
use crate::process::{read, run_quietly, say};
use crate::root::Root;
use crate::toolchain;
use crate::workspace::Workspace;

/// Run `cargo xtask demo` and `cargo xtask test` in a Debian that has nothing but rustup.
///
/// Makes a minimal Debian root in target/fresh, of this machine's release and from its mirrors, hands
/// rustup's toolchains in as they are here (rust-src too, if it is there) but read-only, clones HEAD
/// (without what is not committed), and runs both commands, in namespaces of their own and with nothing
/// built or installed before. Says how long each took and which packages it installed.
/// Needs root, 15 GB, and about half an hour. The root stays until the next run.
#[derive(Args)]
pub struct Options {
    /// Run only this command [default: both, one after the other].
    #[arg(long)]
    only: Option<Which>,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    json: bool,
    /// For this program itself: do what is in this file, as the first process of the namespaces.
    #[arg(long, hide = true, value_name = "ORDERS")]
    inside: Option<PathBuf>,
}

const GB: u64 = 1_000_000_000;
/// What both commands leave, in GB: two profiles with every test program, and a thousand packages.
const ROOM: u64 = 15;

/// One of the README's commands.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Demo,
    Test,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Test => "test",
        }
    }
}

/// Runs the subcommand: the second command also after the first has failed.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if let Some(orders) = &options.inside {
        return inside::run(orders);
    }
    let root = Root::find("making a root file system and namespaces")?;
    apt::ensure(&apt::programs(&[Need::Fresh]), "to make a root file system")?;
    let directory = workspace.target.join("fresh");
    let _lock = lock(&directory)?;
    let machine = machine::Machine::new(root, &directory);
    machine.is_alone()?;
    machine.remove()?;
    has_room(&directory)?;
    let commit = clone(workspace, machine.checkout())?;
    let start = Instant::now();
    machine.make()?;
    let mut before = Packages::read(machine.root())?;
    let mut report = Report {
        debian: machine.release()?,
        commit,
        rust: toolchain::host()?.version.release,
        made_in: start.elapsed().as_secs_f64(),
        packages: before.count(),
        commands: Vec::new(),
    };
    let orders = Orders::new(&machine)?;
    for which in [Which::Demo, Which::Test] {
        if options.only.is_some_and(|only| only != which) {
            continue;
        }
        let command = format!("cargo xtask {}", which.name());
        say(format_args!("in {}: {command}", machine.root().display()));
        let start = Instant::now();
        let result = machine.run(&orders, &["cargo", "xtask", which.name()]);
        let seconds = start.elapsed().as_secs_f64();
        let after = Packages::read(machine.root())?;
        let installed = after.since(&before);
        before = after;
        let passed = result.is_ok();
        if let Err(error) = result {
            say(format_args!("{command} in the fresh machine: {error:#}"));
        }
        report.commands.push(Command { command, passed, seconds, installed });
    }
    println!("{}", if options.json { report.json()? } else { report.text() });
    let failed = report.commands.iter().filter(|command| !command.passed);
    let failed: Vec<&str> = failed.map(|command| command.command.as_str()).collect();
    ensure!(failed.is_empty(), "on a fresh machine these fail: {}", failed.join(", "));
    Ok(())
}

/// Keeps a second run from removing the machine of the first.
fn lock(directory: &Path) -> Result<File> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another `cargo xtask fresh` is at work here"),
        Err(TryLockError::Error(error)) => Err(error).context("locking target/fresh/lock"),
    }
}

/// Fails now and not after half an hour, when the last test program is linked.
fn has_room(directory: &Path) -> Result<()> {
    let file_system = statvfs(directory).context("asking for free space")?;
    let free = file_system.f_bavail * file_system.f_frsize / GB;
    let at = directory.display();
    ensure!(free >= ROOM, "there are {free} GB free for {at}, and this takes up to {ROOM} GB");
    Ok(())
}

/// Clones HEAD; returns its hash.
fn clone(workspace: &Workspace, to: &Path) -> Result<String> {
    let git = |words: &[&str]| -> Result<std::process::Command> {
        let mut git = GIT.command()?;
        git.current_dir(&workspace.root).args(words);
        Ok(git)
    };
    let changed = read(&mut git(&["status", "--porcelain"])?)?;
    if !changed.is_empty() {
        let files = changed.lines().count();
        say(format_args!("warning: {files} changed files are not committed, and not part of this"));
    }
    let commit = read(&mut git(&["rev-parse", "HEAD"])?)?.trim().to_owned();
    say(format_args!("cloning {commit}"));
    run_quietly(git(&["clone", "--quiet", "--no-hardlinks", "."])?.arg(to))?;
    Ok(commit)
}
