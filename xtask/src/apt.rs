//! Debian packages that a subcommand needs.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::process::{self, run_quietly, say};
use crate::root::Root;

/// A package, and how to see cheaply that what it brings is there already.
#[derive(Clone, Copy)]
pub struct Package {
    name: &'static str,
    probe: Probe,
}

#[derive(Clone, Copy)]
enum Probe {
    /// This program is in PATH, wherever it came from.
    Program(&'static str),
    /// Python can import this module.
    PythonModule(&'static str),
}

const fn program(name: &'static str, program: &'static str) -> Package {
    Package { name, probe: Probe::Program(program) }
}

/// What the demo and the benchmarks need: they make networks.
pub const NETWORK: &[Package] =
    &[program("iproute2", "ip"), program("ethtool", "ethtool"), program("nftables", "nft")];

/// What the tests need besides [`NETWORK`].
pub const TESTS: &[Package] = &[
    program("tcpdump", "tcpdump"),
    program("python3", "python3"),
    Package { name: "python3-venv", probe: Probe::PythonModule("ensurepip") },
    program("nodejs", "node"),
    program("npm", "npm"),
    program("chromium", "chromium"),
    program("chromium-driver", "chromedriver"),
    program("libnss3-tools", "certutil"),
];

/// The compiler whose sources Debian packages, for machines that cannot get rust-src.
pub const RUSTC: &[&str] = &["rustc-web", "rust-web-src"];

/// Clippy for that compiler.
pub const CLIPPY: &[&str] = &["rust-web-clippy"];

/// Installs the packages that are missing.
pub fn ensure(packages: &[Package], purpose: &str) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|package| !package.is_there()).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing, purpose)
}

/// Installs packages by apt-get, as root.
pub fn install(names: &[&str], purpose: &str) -> Result<()> {
    let list = names.join(" ");
    let root = Root::find(&format!("installing {list}"))?;
    say(format_args!("installing {list} by apt-get, {purpose}"));
    // A stale index names packages that the mirrors no longer have.
    update()?;
    // Removing something of the user's to make room is not ours to decide.
    let options = ["install", "-y", "--no-install-recommends", "--no-remove"];
    run_quietly(apt_get(root, &options).args(names)).with_context(|| format!("installing {list}"))
}

/// Updates the list of Debian packages, as root.
pub fn update() -> Result<()> {
    let root = Root::find("updating the list of Debian packages")?;
    run_quietly(&mut apt_get(root, &["update"])).context("updating the list of Debian packages")
}

fn apt_get(root: Root, words: &[&str]) -> Command {
    let mut command = root.command("apt-get", &[("DEBIAN_FRONTEND", "noninteractive")]);
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(words);
    command
}

impl Package {
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Program(program) => process::find(program).is_some(),
            Probe::PythonModule(module) => {
                let mut python = Command::new("python3");
                python.args(["-c", &format!("import {module}")]);
                let status = python.stdout(Stdio::null()).stderr(Stdio::null()).status();
                status.is_ok_and(|status| status.success())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_see_what_is_there_and_what_is_not() {
        assert!(program("any", "sh").is_there());
        assert!(!program("any", "no-such-program-here").is_there());
        let module = Package { name: "any", probe: Probe::PythonModule("no_such_module_here") };
        assert!(!module.is_there());
    }
}
