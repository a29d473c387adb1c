//! `cargo xtask test --kernels`: the kernel programs on other kernels than this machine's.
//!
//! Each of Debian's kernels is booted in a virtual machine without KVM, from an initramfs whose only
//! process is `roost-guest` (of the package `roost-tests`). That loads every program, with events off
//! and on, and runs the packet tests (`run`). They need nothing but a kernel; the other tests need
//! network tools and the libraries of others, and are about more than the programs.

mod built;
mod debian;
mod initramfs;
mod machine;
mod report;
mod table;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, bail};

use self::{built::Built, debian::Kernel, machine::Machine, report::Report};
use crate::ebpf;
use crate::process::say;
use crate::workspace::Workspace;

/// The kernels that Roost is tested on besides the developer's: of Debian 12, and the long-term one
/// after it.
pub const VERSIONS: &str = "6.1,6.12";

/// Runs it: `arguments` are passed to the test program.
pub fn run(workspace: &Workspace, versions: &[String], arguments: &[OsString]) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("--kernels boots kernels for x86-64; this machine is {}", std::env::consts::ARCH);
    }
    let dir = workspace.target.join("kernels");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let qemu = debian::qemu(&dir)?;
    let kernels: Vec<Kernel> =
        versions.iter().map(|version| debian::kernel(&dir, version)).collect::<Result<_>>()?;

    ebpf::build(workspace)?;
    let built = Built::new(workspace, &dir)?;
    let initrd: PathBuf = dir.join("initramfs");
    initramfs::write(&initrd, workspace, &built, arguments)
        .with_context(|| format!("writing {}", initrd.display()))?;

    say("running the packet tests on each kernel, emulated: this takes a while");
    let reports: Vec<Report> = thread::scope(|scope| {
        let run = |kernel| Machine { qemu: &qemu, kernel, initrd: &initrd, dir: &dir }.run(&built);
        let running: Vec<_> = kernels.iter().map(|k| scope.spawn(move || run(k))).collect();
        running.into_iter().map(|one| one.join().expect("a thread panicked")).collect()
    });

    println!("{}", table::show(&reports));
    let problems: Vec<String> = reports.iter().flat_map(|report| report.problems()).collect();
    if !problems.is_empty() {
        bail!("not right on every kernel:\n  {}", problems.join("\n  "));
    }
    Ok(())
}
