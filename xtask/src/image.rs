//! `cargo xtask image`: OCI images of one static binary each, on nothing.
//!
//! The binaries are linked with glibc's static library, which every Debian machine with a C linker has;
//! Rust's target for musl would have to be downloaded. The same sources and tools give the same image
//! everywhere: no dates, no paths of this machine.

mod layout;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use roost_programs::Need;

use crate::process::{run as run_command, say};
use crate::workspace::{Profile, Workspace, remapped};
use crate::{apt, ebpf, toolchain};
use layout::Image;

/// As the manifests have it.
const REFERENCE: &str = concat!("localhost/roost:", env!("CARGO_PKG_VERSION"));

/// Build images of roost and of the example's chat server, as archives that need no registry.
#[derive(Args)]
pub struct Options {
    /// Build without optimisation, into target/image/debug [default: target/image].
    #[arg(long)]
    debug: bool,
    /// Name the image NAME:TAG; the chat's is NAME-chat:TAG [default: localhost/roost with this version].
    #[arg(long, value_name = "NAME:TAG")]
    tag: Option<String>,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let profile = if options.debug { Profile::Debug } else { Profile::Release };
    let (name, tag) = reference(options.tag.as_deref().unwrap_or(REFERENCE))?;
    let archives = images(workspace, profile, name, tag)?;
    let archives = archives.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    for (what, command) in [
        ("kind", "kind load image-archive ARCHIVE"),
        ("k3s", "k3s ctr images import ARCHIVE"),
        ("containerd", "ctr --namespace k8s.io images import ARCHIVE"),
        ("podman, CRI-O", "podman load --input ARCHIVE"),
        ("Docker", "docker load --input ARCHIVE"),
    ] {
        eprintln!("  {what:14} {command}");
    }
    say(format_args!(
        "next: bring {} to every node by one of these, then `cargo xtask deploy`",
        archives.join(" and ")
    ));
    Ok(())
}

/// Builds what the tests look at.
pub fn for_tests(workspace: &Workspace) -> Result<()> {
    let (name, tag) = reference(REFERENCE)?;
    images(workspace, Profile::Debug, name, tag).map(drop)
}

/// Builds both images; returns the archives.
fn images(workspace: &Workspace, profile: Profile, name: &str, tag: &str) -> Result<Vec<PathBuf>> {
    let packages = [&apt::programs(&[Need::Image]), apt::IMAGE].concat();
    apt::ensure(&packages, "for the images")?;
    ebpf::build(workspace)?;
    let binaries = binaries(workspace, profile)?;
    let mut directory = workspace.target.join("image");
    if profile == Profile::Debug {
        directory = directory.join("debug");
    }
    let mut archives = Vec::new();
    for (program, suffix) in [("roost", ""), ("roost-chat", "-chat")] {
        let image = Image {
            reference: format!("{name}{suffix}:{tag}"),
            title: program,
            binary: binaries.join(program),
            created: created()?,
        };
        let archive = directory.join(format!("{program}-{tag}.tar"));
        let built = image.write(&archive, &directory.join("work").join(program))?;
        say(format_args!("{}  {}", image.reference, built.digest));
        say(format_args!("{}  {:.1} MB", archive.display(), built.size as f64 / 1e6));
        archives.push(archive);
    }
    Ok(archives)
}

/// Builds static binaries; returns their directory.
fn binaries(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let rustc = toolchain::host()?;
    let host = &rustc.version.host;
    if !host.ends_with("-linux-gnu") {
        bail!("images are built on Linux with glibc, and this compiler is for {host}");
    }
    let (directory, name) = match profile {
        Profile::Debug => ("debug", "DEV"),
        Profile::Release => ("release", "RELEASE"),
    };
    let built = workspace.target.join(host).join(directory);
    if !built.join("roost").exists() {
        say("building static binaries, and everything that they are made of (minutes, once)");
    }
    let mut cargo = workspace.cargo()?;
    cargo.args(["build", "--package", "router-userspace", "--package", "roost-chat", "--bins"]);
    // Named, though it is the host: so build scripts and macros, which are loaded, are not static.
    cargo.args(["--target", host]).arg("--target-dir").arg(&workspace.target);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(remapped(workspace, &rustc));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.env(format!("CARGO_PROFILE_{name}_STRIP"), "symbols");
    cargo.env(format!("CARGO_PROFILE_{name}_DEBUG"), "none").env("CARGO_INCREMENTAL", "0");
    run_command(&mut cargo)?;
    Ok(built)
}

/// When the images say that they were made, in seconds since 1970: what `SOURCE_DATE_EPOCH` says, or 0.
fn created() -> Result<u64> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| {
            format!("SOURCE_DATE_EPOCH={text:?}: write seconds since 1970, such as 1790000000")
        }),
        Err(_) => Ok(0),
    }
}

/// Name and tag.
fn reference(text: &str) -> Result<(&str, &str)> {
    let end = text.rfind('/').map_or(0, |slash| slash + 1);
    let plain = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    match text.rsplit_once(':') {
        Some((name, tag))
            if name.len() >= end
                && plain(name, "._-/:")
                && !name.contains(char::is_uppercase)
                && plain(tag, "._-") =>
        {
            Ok((name, tag))
        }
        _ => bail!(
            "--tag {text:?}: write NAME:TAG in small letters, for example registry.example/roost:0.1.0"
        ),
    }
}

/// A file or directory that is made anew.
fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("removing {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_name_and_a_tag() {
        assert_eq!(reference("localhost/roost:0.1.0").unwrap(), ("localhost/roost", "0.1.0"));
        assert_eq!(reference("r.io:5000/a/roost:1").unwrap(), ("r.io:5000/a/roost", "1"));
        for wrong in ["", "roost", "r.io:5000/roost", "Roost:1", "roost:", ":1", "roost:a b"] {
            assert!(reference(wrong).unwrap_err().to_string().contains("NAME:TAG"), "{wrong}");
        }
    }
}
