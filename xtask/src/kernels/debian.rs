//! Kernels and the emulator from Debian's archive, unpacked into target/kernels: nothing is installed.
//! A kernel must not become this machine's, and the emulator's packages refuse to be beside some
//! that a developer has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use roost_programs::{APT_CACHE, APT_GET, QEMU, built};

use crate::apt::{unpack, with_index};
use crate::process::read;

/// Where its packages have shared libraries, and what the emulated machine starts with.
const LIBRARIES: &[&str] = &["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib"];
const FIRMWARE: &[&str] = &["usr/share/qemu", "usr/share/seabios"];
/// The distribution's release is older than some of its kernels: their meta-packages have the
/// version in the name.
const RELEASE_KERNEL: &str = "6.1";

/// A kernel, unpacked.
pub struct Kernel {
    /// As it was asked for: 6.12.
    pub version: String,
    /// What the boot loader takes.
    pub image: PathBuf,
}

/// The emulator.
pub struct Qemu {
    program: PathBuf,
    /// Where it was unpacked, if this machine has none of its own.
    root: Option<PathBuf>,
}

impl Qemu {
    /// A command that starts it.
    pub fn command(&self) -> Result<Command> {
        let mut command = built(&self.program)?;
        if let Some(root) = &self.root {
            let libraries = LIBRARIES.iter().map(|dir| root.join(dir));
            // None of these has a colon: they are below target.
            let path = std::env::join_paths(libraries).unwrap_or_default();
            command.env("LD_LIBRARY_PATH", path);
            for dir in FIRMWARE {
                command.arg("-L").arg(root.join(dir));
            }
        }
        Ok(command)
    }
}

/// Finds the emulator or unpacks it.
pub fn qemu(dir: &Path) -> Result<Qemu> {
    if let Some(program) = QEMU.find() {
        return Ok(Qemu { program, root: None });
    }
    let root = dir.join("qemu");
    let program = root.join("usr/bin").join(QEMU.name);
    if !program.is_file() {
        let options = ["install", "--simulate", "--no-install-recommends", QEMU.package];
        let plan = with_index(|| {
            let plan = read(APT_GET.command()?.arg("-q").args(options).env("LC_ALL", "C"))?;
            let plan = to_be_installed(&plan);
            if plan.is_empty() { bail!("apt-get would install nothing") } else { Ok(plan) }
        });
        let plan = plan.with_context(|| format!("looking for {}", QEMU.package))?;
        unpack(&plan, &root)?;
    }
    Ok(Qemu { program, root: Some(root) })
}

/// Finds a kernel or unpacks it.
pub fn kernel(dir: &Path, version: &str) -> Result<Kernel> {
    let meta = meta_package(version)?;
    let package = with_index(|| {
        let answer = read(APT_CACHE.command()?.args(["depends", &meta]).env("LC_ALL", "C"))?;
        dependency(&answer).with_context(|| format!("{meta} depends on no kernel"))
    });
    let package = package.with_context(|| format!("looking for Linux {version} in {meta}"))?;
    let root = dir.join(&package);
    let image = |root: &Path| -> Option<PathBuf> {
        let mut files = fs::read_dir(root.join("boot")).ok()?.flatten().map(|file| file.path());
        files.find(|path| {
            path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-"))
        })
    };
    if image(&root).is_none() {
        unpack(std::slice::from_ref(&package), &root)?;
    }
    let image = image(&root).with_context(|| format!("{package} has no boot/vmlinuz-*"))?;
    Ok(Kernel { version: version.to_owned(), image })
}

/// The package that depends on the newest kernel of a version. The flavour for clouds is smaller, and
/// has all that is needed built in.
fn meta_package(version: &str) -> Result<String> {
    let numbers = version.split_once('.').map(|(a, b)| [a, b].map(str::parse::<u16>));
    match numbers {
        Some([Ok(_), Ok(_)]) if version == RELEASE_KERNEL => Ok("linux-image-cloud-amd64".into()),
        Some([Ok(_), Ok(_)]) => Ok(format!("linux-image-{version}-cloud-amd64")),
        _ => bail!("--kernels={version}: a version has two numbers, such as 6.12"),
    }
}

/// The one package that a meta-package depends on, from what `apt-cache depends` says.
fn dependency(answer: &str) -> Option<String> {
    let mut names = answer.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// What `apt-get --simulate install` would install. Removals are of no interest: nothing is installed.
fn to_be_installed(plan: &str) -> Vec<String> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines.filter_map(|rest| rest.split(' ').next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_and_the_later_kernels_have_their_names() {
        assert_eq!(meta_package("6.1").expect("6.1"), "linux-image-cloud-amd64");
        assert_eq!(meta_package("6.12").expect("6.12"), "linux-image-6.12-cloud-amd64");
        for wrong in ["6", "6.x", "", "newest", "6.12.3"] {
            let error = meta_package(wrong).expect_err(wrong).to_string();
            assert!(error.contains("such as 6.12"), "{error}");
        }
    }

    #[test]
    fn the_newest_kernel_is_what_the_meta_package_depends_on() {
        let answer =
            "linux-image-6.12-cloud-amd64\n  Depends: linux-image-6.12.117+deb12-cloud-amd64\n";
        let name = "linux-image-6.12.117+deb12-cloud-amd64";
        assert_eq!(dependency(answer).as_deref(), Some(name));
        assert_eq!(dependency("linux-image-6.12-cloud-amd64\n  Recommends: any\n"), None);
    }

    #[test]
    fn a_plan_names_what_would_come() {
        let plan = "Reading package lists...\nRemv qemu-utils [1:10.0]\n\
                    Inst libfdt1 (1.6.1-4 Debian:12 [amd64])\n\
                    Inst seabios [1.16.1] (1.16.2-1 Debian:12 [all]) []\n\
                    Conf libfdt1 (1.6.1-4 Debian:12 [amd64])\n";
        assert_eq!(to_be_installed(plan), ["libfdt1", "seabios"]);
    }
}
