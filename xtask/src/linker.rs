//! bpf-linker, in a version that knows the LLVM of the compiler.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{run_quietly, say};
use crate::toolchain::Rustc;
use crate::workspace::Workspace;

/// A release of bpf-linker.
#[derive(Debug, PartialEq, Eq)]
pub struct Release {
    llvm: u32,
    version: &'static str,
    /// The feature that makes it load the compiler's own LLVM at run time, so that no LLVM has to
    /// be installed to build it.
    feature: &'static str,
}

/// bpf-linker reads the bitcode of one LLVM only. Its releases from 0.11 on have to be linked to
/// an installed LLVM, so they are not here.
const RELEASES: &[Release] = &[Release { llvm: 22, version: "0.10.1", feature: "rust-llvm-22" }];

/// The release for a compiler with this LLVM.
pub fn release_for(llvm: u32) -> Result<&'static Release> {
    RELEASES.iter().find(|release| release.llvm == llvm).with_context(|| {
        let known: Vec<String> = RELEASES.iter().map(|r| r.llvm.to_string()).collect();
        format!("no bpf-linker is known for LLVM {llvm}, only for LLVM {}", known.join(", "))
    })
}

/// Installs bpf-linker for this compiler if it is missing; returns the program to run.
pub fn ensure(workspace: &Workspace, rustc: &Rustc) -> Result<PathBuf> {
    let release = release_for(rustc.version.llvm)?;
    let name = format!("bpf-linker-{}-llvm-{}", release.version, release.llvm);
    let root = workspace.tools().join(name);
    let program = root.join("bin/bpf-linker");
    if !program.is_file() {
        install(workspace, release, &root)?;
    }
    wrap(workspace, &program, &rustc.llvm_library()?)
}

fn install(workspace: &Workspace, release: &Release, root: &Path) -> Result<()> {
    let Release { llvm, version, feature } = release;
    say(format_args!(
        "installing bpf-linker {version} for LLVM {llvm} into target/tools (about 2 minutes, once)"
    ));
    let mut cargo = workspace.cargo()?;
    cargo.args(["install", "bpf-linker", "--locked", "--version", version]);
    cargo.args(["--no-default-features", "--features", feature]);
    run_quietly(cargo.arg("--root").arg(root))
}

/// bpf-linker loads the first libLLVM that it meets in LD_LIBRARY_PATH, and rustup puts its own
/// first. So a wrapper shows it the one that belongs to the compiler, and no other.
fn wrap(workspace: &Workspace, program: &Path, library: &Path) -> Result<PathBuf> {
    let dir = workspace.tools().join("linker");
    let libraries = dir.join("lib");
    fs::create_dir_all(&libraries)?;
    let link = libraries.join("libLLVM.so");
    if fs::read_link(&link).ok().as_deref() != Some(library) {
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        symlink(library, &link)?;
    }
    // rustc takes the linker's kind from the file name.
    let wrapper = dir.join("bpf-linker");
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={} exec {} \"$@\"\n",
        quote(&libraries),
        quote(program),
    );
    if fs::read_to_string(&wrapper).ok().as_deref() != Some(&text) {
        fs::write(&wrapper, text)?;
        fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
    }
    Ok(wrapper)
}

/// A path as one word of the shell.
fn quote(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_release_of_the_llvm() {
        assert_eq!(release_for(22).expect("known").version, "0.10.1");
        let error = release_for(99).expect_err("unknown").to_string();
        assert!(error.contains("LLVM 99") && error.contains("22"), "{error}");
    }

    #[test]
    fn quotes_for_the_shell() {
        assert_eq!(quote(Path::new("/a b/c")), "'/a b/c'");
        assert_eq!(quote(Path::new("it's")), r"'it'\''s'");
    }
}
