//! Finds the eBPF object that is built into the daemon, and names it to the compiler.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// The object's path: read here as an override, and given to the crate for `include_bytes!`.
const OBJECT: &str = "ROOST_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let path = match env::var_os(OBJECT) {
        Some(path) => PathBuf::from(path),
        None => {
            let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
            Path::new(&manifest).join("../target/bpf/roost.o")
        }
    };
    println!("cargo::rerun-if-changed={}", path.display());
    // `include_bytes!` would take a relative path as relative to the source file.
    match fs::canonicalize(&path) {
        Ok(path) => println!("cargo::rustc-env={OBJECT}={}", path.display()),
        Err(error) => {
            println!(
                "cargo::error=no eBPF object at {} ({error}): run `cargo xtask build`",
                path.display()
            );
            process::exit(1);
        }
    }
}
