//! The machine: a root file system, and how commands run in it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::{env, io};

use anyhow::{Context, Result, bail, ensure};
use roost_programs::{APT_CONFIG, MMDEBSTRAP, RM, UNSHARE};

use super::handed;
use super::inside::Orders;
use crate::process::{read, run_quietly, say};
use crate::root::Root;

/// What rustup tells its user to have: something that links, and certificates of servers. With them the
/// root is what the README begins with.
const PACKAGES: &str = "ca-certificates,gcc,libc6-dev";
/// Where local authorities are, which Debian adds to its own.
const AUTHORITIES: &str = "/usr/local/share/ca-certificates";
const APT: &str = "/etc/apt";

/// A machine in target/fresh.
pub struct Machine {
    user: Root,
    directory: PathBuf,
    root: PathBuf,
    checkout: PathBuf,
}

impl Machine {
    /// The machine in this directory, which may be there or not.
    pub fn new(user: Root, directory: &Path) -> Self {
        let (root, checkout) = (directory.join("root"), directory.join("checkout"));
        Self { user, directory: directory.to_owned(), root, checkout }
    }

    /// Its root file system.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The project's checkout, outside.
    pub fn checkout(&self) -> &Path {
        &self.checkout
    }

    /// Removes what a run before has left. Nothing can be mounted there: mounts end with their namespace.
    pub fn remove(&self) -> Result<()> {
        let left: Vec<_> =
            [&self.root, &self.checkout].into_iter().filter(|d| d.exists()).collect();
        if left.is_empty() {
            return Ok(());
        }
        say("removing the machine of the run before");
        let mut rm = self.user.command(&RM.path()?, &NOTHING)?;
        run_quietly(rm.args(["--recursive", "--force", "--one-file-system"]).args(left))
    }

    /// Refuses to run beside a lab: the machine shares the network namespace, and would take the lab's link
    /// for what a killed run has left.
    pub fn is_alone(&self) -> Result<()> {
        let link = Path::new("/sys/class/net/roost-host");
        ensure!(
            !link.exists(),
            "a lab or a demo runs on this machine ({} is there): end it first, or remove what a killed one \
             has left, `ip link del roost-host`",
            link.display()
        );
        Ok(())
    }

    /// Makes the root file system: of this machine's release, and from its mirrors.
    pub fn make(&self) -> Result<()> {
        say(format_args!("making a minimal Debian in {} (a minute)", self.root.display()));
        let sources = sources(Path::new(APT))?;
        let dump = read(APT_CONFIG.command()?.arg("dump"))?;
        let options = self.directory.join("apt.conf");
        fs::write(&options, handed::apt_options(&dump)).context("writing apt.conf")?;
        // What it mounts below the root, and what it has started, ends with it, whatever ends it.
        let mut command = self.user.command(&UNSHARE.path()?, &NOTHING)?;
        command.args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]);
        command.arg("--mount-proc").arg(MMDEBSTRAP.path()?);
        command.args(["--quiet", "--mode=root", "--variant=minbase"]);
        command.arg(format!("--include={PACKAGES}"));
        command.arg(format!("--aptopt={}", options.display()));
        command.arg("--setup-hook=mkdir -p \"$1/etc/apt\" \"$1/usr/local/share\"");
        for (what, to) in [
            ("/etc/apt/auth.conf", APT),
            ("/etc/apt/auth.conf.d", APT),
            ("/etc/apt/keyrings", APT),
            (AUTHORITIES, "/usr/local/share"),
        ] {
            if Path::new(what).exists() {
                command.arg(format!("--setup-hook=copy-in {what} {to}"));
            }
        }
        // Its name is in the sources.
        run_quietly(command.arg("").arg(&self.root).args(sources))
    }

    /// The release that it has.
    pub fn release(&self) -> Result<String> {
        let path = self.root.join("etc/debian_version");
        let text = fs::read_to_string(&path);
        Ok(text.with_context(|| format!("reading {}", path.display()))?.trim().to_owned())
    }

    /// Runs a command in it, in the checkout, as root; what it prints goes to stderr.
    pub fn run(&self, orders: &Orders, words: &[&str]) -> Result<()> {
        let path = self.directory.join("orders.json");
        orders.write(&path, words)?;
        let mut command = self.user.command(&UNSHARE.path()?, &NOTHING)?;
        // Processes and mounts end with the first process, whatever ends that.
        command.args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]);
        command.arg(env::current_exe()?).args(["fresh", "--inside"]).arg(&path);
        command.stdin(Stdio::piped()).stdout(Stdio::from(handle_of_stderr()?));
        let mut child = command.spawn().context("starting unshare")?;
        // It ends when this pipe does: also when nobody is left to end it.
        let pipe = child.stdin.take();
        let status = child.wait()?;
        drop(pipe);
        ensure!(status.success(), "it failed ({status}); its output is above");
        Ok(())
    }
}

const NOTHING: [(&str, OsString); 0] = [];

fn handle_of_stderr() -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd as _;
    Ok(io::stderr().as_fd().try_clone_to_owned()?)
}

/// The files that say where this machine has its packages from.
fn sources(apt: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = vec![apt.join("sources.list")];
    let parts = apt.join("sources.list.d");
    if parts.is_dir() {
        for entry in fs::read_dir(&parts)? {
            sources.push(entry?.path());
        }
    }
    let is_source = |path: &PathBuf| {
        path.is_file() && path.extension().is_some_and(|end| end == "list" || end == "sources")
    };
    sources.retain(is_source);
    sources.sort();
    if sources.is_empty() {
        bail!("{} names no sources of packages: is this a Debian?", apt.display());
    }
    Ok(sources)
}
