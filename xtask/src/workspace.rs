//! Where things are.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use roost_programs::{CARGO, built};

use crate::process::say;
use crate::toolchain::Rustc;

/// The checkout and its build directory.
pub struct Workspace {
    /// The directory of the workspace's Cargo.toml.
    pub root: PathBuf,
    /// The build directory: always the checkout's own, because other parts look for files there.
    pub target: PathBuf,
}

/// Which of cargo's profiles to build with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// `dev`, in target/debug.
    Debug,
    /// `release`, in target/release.
    Release,
}

/// Flags of a compiler that keep the paths of this machine out of what it writes.
pub fn remapped(workspace: &Workspace, rustc: &Rustc) -> Vec<String> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let home = home.map(|home| remap(&home, "/cargo"));
    // Where the compiler has the sources of the standard library; Debian's is a symbolic link.
    let rust = rustc.sysroot.join("lib/rustlib/src/rust");
    let real = fs::canonicalize(&rust).ok().filter(|real| *real != rust);
    let rust = [Some(rust), real].into_iter().flatten().map(|path| remap(&path, "/rust"));
    // The last that fits counts.
    home.into_iter().chain([remap(&workspace.root, "/roost")]).chain(rust).collect()
}

impl Workspace {
    /// The workspace that this xtask was built from.
    pub fn find() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().unwrap_or(manifest).to_path_buf();
        let target = root.join("target");
        Self { root, target }
    }

    /// Tools that xtask installs for itself.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The eBPF object, where router-userspace/build.rs looks for it.
    pub fn ebpf_object(&self) -> PathBuf {
        self.target.join("bpf/roost.o")
    }

    /// The object with a program that passes every packet, for tests and benchmarks.
    pub fn pass_object(&self) -> PathBuf {
        self.target.join("bpf/pass.o")
    }

    /// The object with the least that a program can do, for benchmarks.
    pub fn floor_object(&self) -> PathBuf {
        self.target.join("bpf/floor.o")
    }

    /// The object with programs that make a flood and take it off.
    pub fn flood_object(&self) -> PathBuf {
        self.target.join("bpf/flood.o")
    }

    /// The object with programs that make room at a packet's ends, for a test.
    pub fn room_object(&self) -> PathBuf {
        self.target.join("bpf/room.o")
    }

    /// Peer libraries of the tests: see [`crate::peers`].
    pub fn peers(&self) -> PathBuf {
        self.target.join("peers")
    }

    /// A binary that cargo has built here.
    pub fn binary(&self, profile: Profile, name: &str) -> PathBuf {
        let directory = match profile {
            Profile::Debug => "debug",
            Profile::Release => "release",
        };
        self.target.join(directory).join(name)
    }

    /// Cargo, in the workspace: the same that runs this xtask.
    pub fn cargo(&self) -> Result<Command> {
        let mut command = match env::var_os("CARGO") {
            Some(own) => built(own)?,
            None => CARGO.command()?,
        };
        command.current_dir(&self.root).env_remove("CARGO_TARGET_DIR");
        // What `cargo run` says about this program. Build scripts that look at it (ring's) would run
        // again whenever somebody calls cargo himself in between.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    /// What the demo, the benchmarks and the tests are told about this build.
    pub fn variables(&self, profile: Profile) -> Vec<(&'static str, OsString)> {
        vec![
            ("ROOST_BIN", self.binary(profile, "roost").into()),
            ("ROOST_CHAT_BIN", self.binary(profile, "roost-chat").into()),
            ("ROOST_PASS_OBJECT", self.pass_object().into()),
            ("ROOST_FLOOR_OBJECT", self.floor_object().into()),
            ("ROOST_FLOOD_OBJECT", self.flood_object().into()),
            ("ROOST_ROOM_OBJECT", self.room_object().into()),
            ("ROOST_PEERS", self.peers().into()),
        ]
    }

    /// Keeps a second xtask from installing the same things at the same time.
    pub fn lock(&self) -> Result<File> {
        fs::create_dir_all(self.tools())?;
        let path = self.tools().join("lock");
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say("waiting for another cargo xtask to finish its set-up");
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        Ok(file)
    }
}
