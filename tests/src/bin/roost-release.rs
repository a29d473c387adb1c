//! Keeps this release for the tests of those that follow.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use roost_tests::lab::{Config, Lab, Roost, clean_up_on_signals};
use roost_tests::release;

/// Keep the eBPF object and what the daemon pins, for the tests of releases to come.
#[derive(Parser)]
struct Args {
    /// Take this object, which the daemon contains.
    #[arg(long, value_name = "FILE", default_value = "target/bpf/roost.o")]
    object: PathBuf,
    /// Write it there: a new directory of tests/releases.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    clean_up_on_signals()?;
    // As the test that takes over has it: replicas are known by their addresses.
    let lab = Lab::builder("release").build()?;
    let roost = Roost::start(&lab, &Config::new(&lab).to_string())?;
    let [chat, alias, replica] = release::PINNED;
    roost.text(&["chat", "pin", "chat", chat, "--replica", replica])?;
    roost.text(&["chat", "bind", "chat", alias, "--chat", chat])?;
    release::keep(roost.pin_dir(), &args.object, &args.directory)?;
    eprintln!("kept as {}", args.directory.display());
    Ok(())
}
