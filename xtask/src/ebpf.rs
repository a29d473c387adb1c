//! The eBPF object: compiled with its own `core`, in a build directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::linker;
use crate::process::{run, say};
use crate::toolchain::{self, Rustc};
use crate::workspace::{Workspace, remapped};

/// The compiler's target: eBPF in the byte order of this machine.
const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Flags that every build of the object has: types for the verifier and the loader, and the
/// first instruction set that has 32-bit arithmetic and atomics (Linux 5.12).
const BASE_FLAGS: &[&str] = &["-Clink-arg=--btf", "-Ctarget-cpu=v3"];

/// Flags for wide copies. They belong together: with both, LLVM copies a 16-byte address from a
/// packet by two loads, without either by 16 loads of a byte. On the eBPF stack an access must
/// be aligned all the same, so what is copied to the stack belongs in aligned types.
const WIDE_FLAGS: &[&str] = &[
    // By the linker, which generates the code: rustc would warn of an unstable feature.
    "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// Where the kernel lets a program read and write a packet at odd offsets.
const WIDE_ARCHITECTURES: &[&str] = &["x86_64", "aarch64"];

/// The compiler and the linker for the object.
pub struct Tools {
    /// A compiler that has the sources of `core`.
    pub rustc: Rustc,
    linker: PathBuf,
}

impl Tools {
    /// Finds them; installs what is missing.
    pub fn ensure(workspace: &Workspace) -> Result<Self> {
        let rustc = toolchain::for_bpf()?;
        let linker = linker::ensure(workspace, &rustc)?;
        Ok(Self { rustc, linker })
    }

    /// `cargo <subcommand>` for the kernel programs, with any further arguments to come.
    pub fn cargo(&self, workspace: &Workspace, subcommand: &str) -> Result<Command> {
        let mut cargo = workspace.cargo()?;
        cargo.args([subcommand, "--package", "router-ebpf", "--features", "hooks"]);
        cargo.args(["--bins", "--profile", "ebpf"]);
        cargo.args(["--target", TARGET, "-Z", "build-std=core"]);
        cargo.arg("--target-dir").arg(build_dir(workspace));
        // `-Z` is for nightly compilers, unless this says otherwise.
        cargo.env("RUSTC_BOOTSTRAP", "1");
        if self.rustc.is_debian() {
            cargo.env("RUSTC", &self.rustc.path);
        }
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.flags(workspace).join("\x1f"));
        Ok(cargo)
    }

    fn flags(&self, workspace: &Workspace) -> Vec<String> {
        let architecture = self.rustc.version.architecture();
        let mut flags = vec![
            // aya-ebpf picks the layout of registers by it.
            format!("--cfg=bpf_target_arch=\"{architecture}\""),
            format!("-Clinker={}", self.linker.display()),
        ];
        // Types and lines say where sources are.
        flags.extend(remapped(workspace, &self.rustc));
        flags.extend(BASE_FLAGS.iter().map(|flag| flag.to_string()));
        if WIDE_ARCHITECTURES.contains(&architecture) {
            flags.extend(WIDE_FLAGS.iter().map(|flag| flag.to_string()));
        }
        flags
    }
}

/// Builds the object and copies it to its fixed place.
pub fn build(workspace: &Workspace) -> Result<Tools> {
    let _lock = workspace.lock()?;
    let tools = Tools::ensure(workspace)?;
    if !build_dir(workspace).join(TARGET).is_dir() {
        say("building the eBPF object, and core for it (about a minute, once)");
    }
    run(&mut tools.cargo(workspace, "build")?)?;
    let built = build_dir(workspace).join(TARGET).join("ebpf");
    publish(&built.join("roost-ebpf"), &workspace.ebpf_object())?;
    publish(&built.join("roost-pass"), &workspace.pass_object())?;
    publish(&built.join("roost-floor"), &workspace.floor_object())?;
    publish(&built.join("roost-flood"), &workspace.flood_object())?;
    publish(&built.join("roost-room"), &workspace.room_object())?;
    Ok(tools)
}

fn build_dir(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bpf")
}

/// Copies a file if its contents are new: a newer date would have the daemon built again.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))
}
