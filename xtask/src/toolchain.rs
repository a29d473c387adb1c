//! The compiler for the eBPF object: one that has the sources of `core`, because no toolchain
//! ships a built `core` for BPF.
//!
//! Two ways: rustup's `rust-src` component, and Debian's packages of a compiler and its sources
//! for machines that reach a Debian mirror but not rustup's server. A way that is ready is taken
//! before anything is installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use roost_programs::{RUSTC, RUSTUP, TIMEOUT, built, find};

use crate::process::{read, run_quietly, say};
use crate::{apt, linker};

/// Debian's compiler, beside which rustup's may be first in PATH.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// How long rustup may take for a download of a few megabytes.
const RUSTUP_SECONDS: &str = "180";

/// A compiler, as it describes itself.
#[derive(Debug)]
pub struct Rustc {
    /// The program to run.
    pub path: PathBuf,
    /// Its installation.
    pub sysroot: PathBuf,
    /// Version and host.
    pub version: Version,
}

/// What `rustc -vV` says.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    /// `1.95.0`, or with a suffix (`1.97.0-nightly`).
    pub release: String,
    /// The machine that it runs on: `x86_64-unknown-linux-gnu`.
    pub host: String,
    /// Major version of its LLVM.
    pub llvm: u32,
}

/// The compiler that cargo uses in this workspace.
pub fn host() -> Result<Rustc> {
    match env::var_os("RUSTC") {
        // A name is looked for as cargo does it.
        Some(own) if Path::new(&own).components().count() == 1 => {
            let found = find(&own.to_string_lossy());
            Rustc::query(found.with_context(|| format!("RUSTC={}: not in PATH", own.display()))?)
        }
        Some(own) => Rustc::query(own.into()),
        None => Rustc::query(RUSTC.path()?),
    }
}

/// A compiler that can build for BPF; installs what is missing.
pub fn for_bpf() -> Result<Rustc> {
    let own = host()?;
    if own.usable().is_ok() {
        return Ok(own);
    }
    if let Some(rustc) = debian().filter(|rustc| rustc.usable().is_ok()) {
        return Ok(rustc);
    }
    let rustup = match add_rust_src(&own) {
        Ok(()) => return Ok(own),
        Err(error) => error,
    };
    say(format_args!("no core through rustup ({rustup:#}); trying Debian's packages"));
    let purpose = "for the sources of core (about 200 MB, once)";
    let apt = apt::install(apt::RUSTC, purpose).and_then(|()| {
        let rustc = debian().with_context(|| format!("{DEBIAN_RUSTC} does not run"))?;
        rustc.usable()?;
        Ok(rustc)
    });
    apt.map_err(|apt| {
        anyhow!(
            "no compiler for BPF. `rustup component add rust-src`: {rustup:#}. \
             Debian's {}: {apt:#}. Either one is enough",
            apt::RUSTC.join(" and "),
        )
    })
}

fn debian() -> Option<Rustc> {
    Rustc::query(DEBIAN_RUSTC.into()).ok()
}

fn add_rust_src(own: &Rustc) -> Result<()> {
    // Sources do not help a compiler that no known bpf-linker fits.
    own.supported()?;
    let rustup = RUSTUP.path()?;
    say("adding rust-src by rustup, for the sources of core");
    let mut timeout = TIMEOUT.command()?;
    timeout.arg(RUSTUP_SECONDS).arg(rustup).args(["component", "add", "rust-src"]);
    run_quietly(&mut timeout)?;
    own.usable()
}

impl Rustc {
    fn query(path: PathBuf) -> Result<Self> {
        let version = read(built(&path)?.arg("-vV"))?;
        let version = Version::parse(&version)
            .with_context(|| format!("reading what `{} -vV` says", path.display()))?;
        let sysroot = read(built(&path)?.args(["--print", "sysroot"]))?;
        Ok(Self { sysroot: sysroot.trim_end().into(), path, version })
    }

    /// Whether this compiler can build the eBPF object as it is.
    fn usable(&self) -> Result<()> {
        self.supported()?;
        let core = self.sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !core.is_file() {
            bail!("rustc {} has no sources of core", self.version.release);
        }
        Ok(())
    }

    fn supported(&self) -> Result<()> {
        self.version.at_least(env!("CARGO_PKG_RUST_VERSION"))?;
        linker::release_for(self.version.llvm).map(drop)
    }

    /// Whether this is Debian's compiler and not the one that cargo uses by itself.
    pub fn is_debian(&self) -> bool {
        self.path == Path::new(DEBIAN_RUSTC)
    }

    /// The shared library of its LLVM.
    pub fn llvm_library(&self) -> Result<PathBuf> {
        let llvm = self.version.llvm;
        let multiarch = self.version.host.replace("-unknown-", "-");
        let dirs = [
            self.sysroot.join("lib"),
            Path::new("/usr/lib").join(multiarch),
            "/usr/lib64".into(),
            format!("/usr/lib/llvm-{llvm}/lib").into(),
        ];
        for dir in &dirs {
            // Not every machine has every one of them.
            let Ok(entries) = fs::read_dir(dir) else { continue };
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            if let Some(name) = names.filter(|name| is_llvm_library(name, llvm)).min() {
                return Ok(dir.join(name));
            }
        }
        let searched = dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>();
        bail!(
            "rustc {} is built with LLVM {llvm}, but there is no libLLVM.so.{llvm}* in {}",
            self.version.release,
            searched.join(", "),
        )
    }
}

impl Version {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.with_context(|| format!("there is no line `{name}: ...`"))
        };
        let llvm = field("LLVM version")?;
        let major = llvm.split('.').next().and_then(|major| major.parse().ok());
        Ok(Self {
            release: field("release")?.to_owned(),
            host: field("host")?.to_owned(),
            llvm: major.with_context(|| format!("LLVM version `{llvm}` is not a version"))?,
        })
    }

    fn at_least(&self, wanted: &str) -> Result<()> {
        if numbers(&self.release) < numbers(wanted) {
            bail!("rustc {} is older than {wanted}", self.release);
        }
        Ok(())
    }

    /// The architecture in the host's name.
    pub fn architecture(&self) -> &str {
        self.host.split('-').next().unwrap_or(&self.host)
    }
}

/// The numbers of a version, without its suffix.
fn numbers(version: &str) -> Vec<u32> {
    let plain = version.split(['-', '+']).next().unwrap_or(version);
    plain.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Whether a file name is that of LLVM's library. `libLLVM-22.so` is not: in rustup's toolchains
/// that is a text for the linker, and where it is a library it has the other name too.
fn is_llvm_library(name: &str, llvm: u32) -> bool {
    let Some(version) = name.strip_prefix("libLLVM.so.") else { return false };
    version.split(['.', '-']).next() == Some(llvm.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "\
rustc 1.95.0 (59807616e 2026-04-14)
binary: rustc
commit-hash: 59807616e1fa2540724bfbac14d7976d7e4a3860
commit-date: 2026-04-14
host: x86_64-unknown-linux-gnu
release: 1.95.0
LLVM version: 22.1.2
";

    #[test]
    fn reads_what_rustc_says() {
        let version = Version::parse(STABLE).expect("valid");
        assert_eq!(version.release, "1.95.0");
        assert_eq!(version.host, "x86_64-unknown-linux-gnu");
        assert_eq!(version.architecture(), "x86_64");
        assert_eq!(version.llvm, 22);
    }

    #[test]
    fn names_the_line_that_is_missing_or_wrong() {
        let error = Version::parse("release: 1.95.0\n").expect_err("incomplete");
        assert!(error.to_string().contains("LLVM version"), "{error}");
        let error = Version::parse(&STABLE.replace("22.1.2", "new")).expect_err("no number");
        assert!(error.to_string().contains("`new`"), "{error}");
    }

    #[test]
    fn compares_versions_by_number() {
        let version =
            |release: &str| Version { release: release.to_owned(), host: String::new(), llvm: 22 };
        assert!(version("1.95.0").at_least("1.95").is_ok());
        assert!(version("1.100.0").at_least("1.95").is_ok());
        assert!(version("2.0.0-nightly").at_least("1.95").is_ok());
        assert!(version("1.85.0").at_least("1.95").is_err());
    }

    #[test]
    fn tells_the_library_from_what_looks_like_it() {
        assert!(is_llvm_library("libLLVM.so.22.1", 22));
        assert!(is_llvm_library("libLLVM.so.22.1-rust-1.95.0-stable", 22));
        assert!(!is_llvm_library("libLLVM-22-rust-1.95.0-stable.so", 22));
        assert!(!is_llvm_library("libLLVM.so.2", 22));
        assert!(!is_llvm_library("libLLVM.so.21.1", 22));
        assert!(!is_llvm_library("libLLVM-14.so.1", 14));
    }
}
