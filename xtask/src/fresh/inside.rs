//! The first process of the fresh machine's namespaces: mounts what a machine has, changes the root, runs
//! a command, and takes in processes that nobody waits for, as the first process of a machine does.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::{env, process, thread};

use anyhow::{Context, Result, bail, ensure};
use roost_programs::{RUSTUP, built};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use rustix::process::{Pid, WaitOptions, pivot_root, wait};
use serde::{Deserialize, Serialize};

use super::handed::{self, TextFile};
use super::machine::Machine;

/// Where the checkout is, seen from inside.
const CHECKOUT: &str = "/root/roost";
const RUSTUP_HOME: &str = "/root/.rustup";
/// Cargo's programs, which are all rustup.
const PROXIES: [&str; 7] =
    ["cargo", "cargo-clippy", "cargo-fmt", "clippy-driver", "rustc", "rustdoc", "rustfmt"];

/// What to do.
#[derive(Clone, Serialize, Deserialize)]
pub struct Orders {
    root: PathBuf,
    checkout: PathBuf,
    rustup: PathBuf,
    rustup_home: PathBuf,
    files: Vec<TextFile>,
    variables: BTreeMap<String, String>,
    words: Vec<String>,
}

impl Orders {
    /// For a machine, with what this user and this machine have; the command is still missing.
    pub fn new(machine: &Machine) -> Result<Self> {
        let home = PathBuf::from(env::var_os("HOME").context("HOME is not set")?);
        let own = |variable: &str, name: &str| {
            env::var_os(variable).map_or_else(|| home.join(name), PathBuf::from)
        };
        let rustup_home = own("RUSTUP_HOME", ".rustup");
        ensure!(rustup_home.is_dir(), "rustup has no toolchains in {}", rustup_home.display());
        let mut variables: BTreeMap<String, String> = handed::variables().into_iter().collect();
        // The one that this runs with.
        variables
            .extend(env::var("RUSTUP_TOOLCHAIN").map(|name| ("RUSTUP_TOOLCHAIN".to_owned(), name)));
        for (name, value) in [
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            (
                "PATH",
                "/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            ("TERM", "dumb"),
            ("USER", "root"),
        ] {
            variables.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self {
            root: machine.root().to_owned(),
            checkout: machine.checkout().to_owned(),
            rustup: fs::canonicalize(RUSTUP.path()?)?,
            rustup_home,
            files: handed::files(&home, &own("CARGO_HOME", ".cargo")),
            variables,
            words: Vec::new(),
        })
    }

    /// Writes them to a file, with the command's words. Settings may have secrets: only this user reads
    /// it, and it goes when it has been read.
    pub fn write(&self, path: &Path, words: &[&str]) -> Result<()> {
        let words = words.iter().map(|word| word.to_string()).collect();
        let orders = Self { words, ..self.clone() };
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("writing {}", path.display()))?;
        serde_json::to_writer(file, &orders).with_context(|| format!("writing {}", path.display()))
    }
}

/// Does it; ends this process with the command's exit status.
pub fn run(orders: &Path) -> Result<()> {
    ensure!(process::id() == 1, "--inside is for `cargo xtask fresh` itself");
    thread::spawn(|| {
        // Whoever has started this has ended.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(1);
    });
    let file = File::open(orders).with_context(|| format!("opening {}", orders.display()))?;
    fs::remove_file(orders).with_context(|| format!("removing {}", orders.display()))?;
    let orders: Orders = serde_json::from_reader(file).context("reading the orders")?;
    furnish(&orders)?;
    set_up(&orders)?;
    enter(&orders.root).with_context(|| format!("changing root to {}", orders.root.display()))?;
    env::set_current_dir(CHECKOUT).context(CHECKOUT)?;
    process::exit(obey(&orders)?)
}

/// Writes files, and rustup's programs.
fn furnish(orders: &Orders) -> Result<()> {
    for file in &orders.files {
        let path = within(&orders.root, &file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // It may be a link, to somewhere outside.
        remove(&path)?;
        fs::write(&path, &file.text).with_context(|| format!("writing {}", path.display()))?;
    }
    let bin = within(&orders.root, Path::new("/root/.cargo/bin"));
    fs::create_dir_all(&bin)?;
    let rustup = bin.join("rustup");
    remove(&rustup)?;
    fs::copy(&orders.rustup, &rustup)
        .with_context(|| format!("copying {}", orders.rustup.display()))?;
    for proxy in PROXIES {
        let link = bin.join(proxy);
        remove(&link)?;
        symlink("rustup", &link).with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Mounts what a machine has when it is up, and what is handed in.
fn set_up(orders: &Orders) -> Result<()> {
    let bind = |from: &Path, to: &str| -> Result<PathBuf> {
        let to = within(&orders.root, Path::new(to));
        fs::create_dir_all(&to)?;
        mount_bind(from, &to)
            .with_context(|| format!("mounting {} at {}", from.display(), to.display()))?;
        Ok(to)
    };
    // As on any machine, its root is a mount: else nobody there could make it private.
    mount_bind(&orders.root, &orders.root)
        .with_context(|| format!("mounting {}", orders.root.display()))?;
    // Its devices are this machine's.
    bind(Path::new("/dev"), "/dev")?;
    for (kind, at, options) in [
        ("proc", "/proc", c""),
        ("sysfs", "/sys", c""),
        ("bpf", "/sys/fs/bpf", c""),
        ("devpts", "/dev/pts", c"newinstance,ptmxmode=0666,mode=0620"),
        ("tmpfs", "/dev/shm", c"mode=1777"),
        ("tmpfs", "/run", c"mode=0755"),
    ] {
        let to = within(&orders.root, Path::new(at));
        mount(kind, &to, kind, MountFlags::empty(), options)
            .with_context(|| format!("mounting {kind} at {}", to.display()))?;
    }
    bind(&orders.checkout, CHECKOUT)?;
    let rustup = bind(&orders.rustup_home, RUSTUP_HOME)?;
    mount_remount(&rustup, MountFlags::BIND | MountFlags::RDONLY, c"")
        .with_context(|| format!("making {} read-only", rustup.display()))?;
    Ok(())
}

/// Makes it the root, and lets go of the one before. After a mere `chroot` the kernel would refuse user
/// namespaces, which browsers want.
fn enter(root: &Path) -> Result<()> {
    env::set_current_dir(root)?;
    // The old one is on top of the new one then, and so it is the one that goes.
    pivot_root(".", ".").context("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).context("letting go of the root before")?;
    env::set_current_dir("/")?;
    Ok(())
}

/// A path of the fresh machine, seen from outside.
fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Runs the command; returns its exit status.
fn obey(orders: &Orders) -> Result<i32> {
    let (program, arguments) = orders.words.split_first().context("no command")?;
    let paths = orders.variables.get("PATH").map(String::as_str).unwrap_or_default();
    let program = env::split_paths(paths).map(|dir| dir.join(program)).find(|path| path.is_file());
    let mut command = built(program.context("the command is not there")?)?;
    command.args(arguments).env_clear().envs(&orders.variables).stdin(Stdio::null());
    let child = command.spawn().context("starting the command")?;
    let child = Pid::from_child(&child);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                return Ok(status.exit_status().unwrap_or(1));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => bail!("waiting for the command: {e}"),
        }
    }
}
