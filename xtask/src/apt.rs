//! Debian packages that a subcommand needs.

use std::fs;
use std::path::{Path, PathBuf};
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
    /// There is this file or directory.
    Path(&'static str),
}

const fn program(name: &'static str, program: &'static str) -> Package {
    Package { name, probe: Probe::Program(program) }
}

/// What the demo and the benchmarks need: they make networks.
pub const NETWORK: &[Package] =
    &[program("iproute2", "ip"), program("ethtool", "ethtool"), program("nftables", "nft")];

/// Where Debian has the sources of Go's libraries.
pub const GOPATH: &str = "/usr/share/gocode";
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
const GORILLA: &str = "/usr/share/gocode/src/github.com/gorilla/websocket";

/// What the tests need besides [`NETWORK`].
pub const TESTS: &[Package] = &[
    program("tcpdump", "tcpdump"),
    program("python3", "python3"),
    Package { name: "python3-venv", probe: Probe::PythonModule("ensurepip") },
    program("nodejs", "node"),
    program("npm", "npm"),
    program("chromium", "chromium"),
    // A browser without a font shows nothing, and some do not start.
    Package { name: "fonts-dejavu-core", probe: Probe::Path(FONT) },
    program("chromium-driver", "chromedriver"),
    program("firefox-esr", "firefox-esr"),
    program("libnss3-tools", "certutil"),
    program("curl", "curl"),
    program("default-jdk-headless", "javac"),
    program("golang-go", "go"),
    Package { name: "golang-github-gorilla-websocket-dev", probe: Probe::Path(GORILLA) },
];

/// What makes images, of static binaries.
pub const IMAGE: &[Package] =
    &[program("umoci", "umoci"), Package { name: "libc6-dev", probe: Probe::Path(LIBC) }];
const LIBC: &str = if cfg!(target_arch = "aarch64") {
    "/usr/lib/aarch64-linux-gnu/libc.a"
} else {
    "/usr/lib/x86_64-linux-gnu/libc.a"
};

/// What speaks to clusters, if the user has brought none.
pub const KUBECTL: &[Package] = &[program("kubernetes-client", "kubectl")];

/// What the fuzzer's runtime is compiled with.
pub const FUZZ: &[Package] = &[program("g++", "c++")];

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

/// Asks apt; if it does not know, once more with a new index.
pub fn with_index<T>(ask: impl Fn() -> Result<T>) -> Result<T> {
    ask().or_else(|_| {
        update()?;
        ask()
    })
}

/// Downloads packages, installs nothing, and unpacks them into one directory, which appears only when all are there.
pub fn unpack(packages: &[String], root: &Path) -> Result<()> {
    let list = packages.join(" ");
    say(format_args!("downloading {list} from Debian into {}", root.display()));
    let partial = root.with_extension("partial");
    let archives = partial.join("archives");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir_all(&archives).with_context(|| format!("creating {}", archives.display()))?;
    with_index(|| {
        let mut download = Command::new("apt-get");
        // As this user: apt's own may not write into the checkout.
        download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(packages);
        run_quietly(download.current_dir(&archives))
    })?;
    let files = fs::read_dir(&archives)?.map(|file| file.map(|file| file.path()));
    let files: Vec<PathBuf> = files.collect::<Result<_, _>>()?;
    for file in files.iter().filter(|path| path.extension().is_some_and(|e| e == "deb")) {
        run_quietly(Command::new("dpkg-deb").arg("--extract").arg(file).arg(&partial))?;
    }
    fs::remove_dir_all(&archives)?;
    fs::rename(&partial, root).with_context(|| format!("naming {}", root.display()))
}

impl Package {
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Program(program) => process::find(program).is_some(),
            Probe::Path(path) => Path::new(path).exists(),
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
