//! Every program of others that xtask, the tests, the demo and the benchmarks run, and the Debian package
//! that has it. Roost itself runs none.
//!
//! A program that is not in the table ([`ALL`]) cannot be run by its name:
//! - Clippy refuses `Command::new` everywhere else (clippy.toml), and so does a test of this crate, so whoever
//!   wants a command asks a [`Program`] for it, or [`built`] for a file: what this workspace has made, or a
//!   compiler or a client that its user has chosen.
//! - Programs that run others by name (a shell, `unshare`, `ip netns exec`) get a PATH that has the
//!   programs of the table and no others: what a script needs, too, is found missing on every machine
//!   and not only on one where nobody has installed it.

mod narrow;
mod table;

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

pub use table::*;

/// Where Debian keeps tools of the administrator; not in an ordinary user's PATH.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program of others. Only the table makes them.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// What it is called by.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// Who needs it.
    pub need: Need,
}

/// Who needs a program, and so which subcommand of xtask installs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Every Debian has it, or a machine that compiles Rust.
    Base,
    /// Whoever builds anything: rustup has it, and Debian 12 has it too old or not at all.
    Rust,
    /// Whoever makes networks: the demo, the benchmarks and the tests.
    Network,
    /// The tests.
    Tests,
    /// `cargo xtask image`, and the tests of images.
    Image,
    /// Whoever speaks to clusters, and the tests of that.
    Kubectl,
    /// `cargo xtask fuzz`.
    Fuzz,
    /// `cargo xtask test --kernels`, which unpacks it and does not install it.
    Kernels,
    /// `cargo xtask fresh`.
    Fresh,
}

/// A program is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    what: String,
    remedy: String,
}

impl Display for Missing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {}: {}", self.what, self.remedy)
    }
}

impl std::error::Error for Missing {}

impl From<Missing> for io::Error {
    fn from(missing: Missing) -> Self {
        Self::new(io::ErrorKind::NotFound, missing)
    }
}

impl Program {
    /// Where it is, or `None`.
    pub fn find(self) -> Option<PathBuf> {
        find(self.name)
    }

    /// Where it is: for those who hand it to another program.
    pub fn path(self) -> Result<PathBuf, Missing> {
        self.find().ok_or_else(|| Missing {
            what: format!("program `{}` in PATH", self.name),
            remedy: match self.need {
                Need::Rust => "install Rust's stable toolchain by rustup".to_owned(),
                _ => format!("install Debian's package {}", self.package),
            },
        })
    }

    /// A command that runs it.
    pub fn command(self) -> Result<Command, Missing> {
        let mut command = new(self.path()?.as_os_str());
        if RUNNERS.contains(&self) {
            command.env("PATH", registered());
        }
        Ok(command)
    }
}

/// What a command can be made of: a program of the table, or the path of a file as [`built`] takes it.
pub trait Runnable {
    /// A command that runs it.
    fn command(self) -> Result<Command, Missing>;
}

impl Runnable for Program {
    fn command(self) -> Result<Command, Missing> {
        Program::command(self)
    }
}

impl Runnable for &Path {
    fn command(self) -> Result<Command, Missing> {
        built(self)
    }
}

impl Runnable for &PathBuf {
    fn command(self) -> Result<Command, Missing> {
        built(self)
    }
}

/// A command that runs a file which this workspace has built, downloaded or unpacked.
pub fn built(path: impl AsRef<Path>) -> Result<Command, Missing> {
    let path = path.as_ref();
    // A name alone would be looked for in PATH.
    if path.components().count() > 1 && path.is_file() {
        return Ok(new(path.as_os_str()));
    }
    Err(Missing {
        what: format!("file {}", path.display()),
        remedy: "`cargo xtask build` and `cargo xtask test` make what they need".to_owned(),
    })
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that makes commands")]
fn new(path: &OsStr) -> Command {
    Command::new(path)
}

/// A directory that has the programs of the table and no others: the PATH for what runs others by name.
pub fn registered() -> &'static Path {
    narrow::directory()
}

/// The path of a program in PATH, or in the administrator's directories.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = search_path();
    env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// PATH, and the administrator's directories after it.
pub fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from));
    env::join_paths(dirs).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let none =
            Program { name: "no-such-program", package: "no-such-package", need: Need::Base };
        let error = none.command().expect_err("there is none").to_string();
        assert!(
            error.contains("`no-such-program`") && error.contains("no-such-package"),
            "{error}"
        );
    }

    #[test]
    fn what_is_built_is_a_file_and_no_name() {
        let error = built("sh").expect_err("a name").to_string();
        assert!(error.contains("file sh"), "{error}");
        let error = built("/no/such/file").expect_err("no file").to_string();
        assert!(error.contains("/no/such/file"), "{error}");
        built(env::current_exe().expect("this test is a file")).expect("it is there");
    }

    #[test]
    fn a_shell_finds_what_is_registered_and_nothing_else() {
        let run = |script: &str| SH.command().expect("sh").args(["-c", script]).output();
        let output = run("cat /dev/null && mkdir -p /").expect("a shell");
        assert!(output.status.success(), "{output:?}");
        // Every Debian has it, and it is not in the table.
        assert!(find("dircolors").is_some());
        let output = run("dircolors").expect("a shell");
        assert_eq!(output.status.code(), Some(127), "not found: {output:?}");
    }
}
