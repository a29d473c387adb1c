//! Puts the corpus into the library: the tests that need it also run where there is no checkout.

use std::{
    env, fs,
    io::{self, Write as _},
    path::Path,
};

/// The directories of the corpus.
const DIRS: [&str; 9] = [
    "requests",
    "smuggling",
    "hellos",
    "proxied",
    "fuzz/http",
    "fuzz/requests",
    "fuzz/tls",
    "fuzz/segments",
    "fuzz/proxy",
];

fn main() -> io::Result<()> {
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let corpus = Path::new(&manifest).join("../corpus");
    println!("cargo::rerun-if-changed={}", corpus.display());
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("corpus.rs");
    let mut out = fs::File::create(out)?;
    writeln!(out, "&[")?;
    for dir in DIRS {
        let mut paths: Vec<_> = fs::read_dir(corpus.join(dir))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        paths.sort();
        for path in paths {
            let name = path.file_name().expect("a file").to_string_lossy();
            writeln!(out, "    ({dir:?}, {name:?}, include_bytes!({path:?})),")?;
        }
    }
    writeln!(out, "]")
}
