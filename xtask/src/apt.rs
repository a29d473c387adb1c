//! Debian packages that a subcommand needs: those of programs are in the table of `roost-programs`, and
//! here is what is not a program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use roost_programs::{self as table, APT_GET, DPKG_DEB, Need, PYTHON, Program};

use crate::process::{run_quietly, say};
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
    Program(Program),
    /// Python can import this module.
    PythonModule(&'static str),
    /// There is this file or directory.
    Path(&'static str),
}

/// What has the programs that are needed for these.
pub fn programs(needs: &[Need]) -> Vec<Package> {
    let all = table::ALL.iter().filter(|program| needs.contains(&program.need));
    all.map(|program| Package { name: program.package, probe: Probe::Program(*program) }).collect()
}

/// Where Debian has the sources of Go's libraries.
pub const GOPATH: &str = "/usr/share/gocode";
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
const GORILLA: &str = "/usr/share/gocode/src/github.com/gorilla/websocket";

/// What the tests need besides programs.
pub const TESTS: &[Package] = &[
    Package { name: "python3-venv", probe: Probe::PythonModule("ensurepip") },
    // A browser without a font shows nothing, and some do not start.
    Package { name: "fonts-dejavu-core", probe: Probe::Path(FONT) },
    Package { name: "golang-github-gorilla-websocket-dev", probe: Probe::Path(GORILLA) },
];

/// What static binaries are linked with, for images.
pub const IMAGE: &[Package] = &[Package { name: "libc6-dev", probe: Probe::Path(LIBC) }];
const LIBC: &str = if cfg!(target_arch = "aarch64") {
    "/usr/lib/aarch64-linux-gnu/libc.a"
} else {
    "/usr/lib/x86_64-linux-gnu/libc.a"
};

/// The compiler whose sources Debian packages, for machines that cannot get rust-src.
pub const RUSTC: &[&str] = &["rustc-web", "rust-web-src"];

/// Clippy for that compiler.
pub const CLIPPY: &[&str] = &["rust-web-clippy"];

/// Installs the packages that are missing.
pub fn ensure(packages: &[Package], purpose: &str) -> Result<()> {
    let missing = packages.iter().filter(|package| !package.is_there());
    // One may have several programs.
    let missing: BTreeSet<&str> = missing.map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing.into_iter().collect::<Vec<_>>(), purpose)
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
    run_quietly(apt_get(root, &options)?.args(names)).with_context(|| format!("installing {list}"))
}

/// Updates the list of Debian packages, as root.
pub fn update() -> Result<()> {
    let root = Root::find("updating the list of Debian packages")?;
    run_quietly(&mut apt_get(root, &["update"])?).context("updating the list of Debian packages")
}

fn apt_get(root: Root, words: &[&str]) -> Result<Command> {
    let mut command = root.command(&APT_GET.path()?, &[("DEBIAN_FRONTEND", "noninteractive")])?;
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(words);
    Ok(command)
}

/// Asks apt; if it does not know, once more with a new index.
pub fn with_index<T>(ask: impl Fn() -> Result<T>) -> Result<T> {
    ask().or_else(|_| {
        update()?;
        ask()
    })
}

/// Downloads packages, installs nothing, and unpacks them into one directory, which appears only when all are there.
pub fn unpack(packages: &[impl AsRef<str>], root: &Path) -> Result<()> {
    let packages: Vec<&str> = packages.iter().map(AsRef::as_ref).collect();
    let list = packages.join(" ");
    say(format_args!("downloading {list} from Debian into {}", root.display()));
    let partial = root.with_extension("partial");
    let archives = partial.join("archives");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir_all(&archives).with_context(|| format!("creating {}", archives.display()))?;
    with_index(|| {
        let mut download = APT_GET.command()?;
        // As this user: apt's own may not write into the checkout.
        download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(&packages);
        run_quietly(download.current_dir(&archives))
    })?;
    let files = fs::read_dir(&archives)?.map(|file| file.map(|file| file.path()));
    let files: Vec<PathBuf> = files.collect::<Result<_, _>>()?;
    for file in files.iter().filter(|path| path.extension().is_some_and(|e| e == "deb")) {
        run_quietly(DPKG_DEB.command()?.arg("--extract").arg(file).arg(&partial))?;
    }
    fs::remove_dir_all(&archives)?;
    fs::rename(&partial, root).with_context(|| format!("naming {}", root.display()))
}

impl Package {
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Program(program) => program.find().is_some(),
            Probe::Path(path) => Path::new(path).exists(),
            Probe::PythonModule(module) => {
                let Ok(mut python) = PYTHON.command() else { return false };
                python.args(["-c", &format!("import {module}")]);
                let status = python.stdout(Stdio::null()).stderr(Stdio::null()).status();
                status.is_ok_and(|status| status.success())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use roost_programs::SH;

    use super::*;

    #[test]
    fn probes_see_what_is_there_and_what_is_not() {
        let any = |probe| Package { name: "any", probe };
        assert!(any(Probe::Program(SH)).is_there());
        assert!(any(Probe::Path("/")).is_there() && !any(Probe::Path("/no/such/file")).is_there());
        let module = Package { name: "any", probe: Probe::PythonModule("no_such_module_here") };
        assert!(!module.is_there());
    }
}
