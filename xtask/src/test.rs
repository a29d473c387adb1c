//! `cargo xtask test`.

use std::ffi::OsString;

use anyhow::{Context, Result};
use clap::Args;
use roost_programs::Need;

use crate::process::{run as run_command, run_with_stdout};
use crate::root::Root;
use crate::workspace::{Profile, Workspace};
use crate::{apt, ebpf, image, kernels, peers, toolchain};

/// Run all tests, those with network namespaces and eBPF too.
///
/// Needs root. Without it the tests are built as this user and run through sudo.
#[derive(Args)]
pub struct Options {
    /// Test only this package [default: all].
    #[arg(short, long)]
    package: Vec<String>,
    /// Run only this integration test, by its file's name [default: all].
    #[arg(long)]
    test: Vec<String>,
    /// Run only the packet tests (`run`), on Debian's kernels of these versions in virtual machines.
    ///
    /// Loads every eBPF program there, too, and says how much the verifier had to look at. Needs no
    /// KVM and no root, but long: `-- stages::` alone is minutes, all a quarter done after ten.
    #[arg(
        long,
        value_name = "VERSION",
        value_delimiter = ',',
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = kernels::VERSIONS,
        conflicts_with_all = ["package", "test"]
    )]
    kernels: Vec<String>,
    /// Pass these to the test programs: a filter, --nocapture, ...
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if !options.kernels.is_empty() {
        return kernels::run(workspace, &options.kernels, &options.arguments);
    }
    let root = Root::find("the tests make network namespaces and load eBPF, which")?;
    let mut packages = apt::programs(&[Need::Network, Need::Tests, Need::Kubectl, Need::Image]);
    packages.extend([apt::TESTS, apt::IMAGE].concat());
    apt::ensure(&packages, "for the tests")?;
    peers::ensure(workspace)?;
    ebpf::build(workspace)?;

    let is_asked_for =
        |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
    if is_asked_for(&options.package, "roost-tests") && is_asked_for(&options.test, "image") {
        image::for_tests(workspace)?;
    }

    // The programs that tests start; not every one belongs to the package of its tests.
    let mut build = workspace.cargo()?;
    build.args(["build", "--workspace", "--bins"]);
    run_command(build.arg("--target-dir").arg(&workspace.target))?;

    let variables = workspace.variables(Profile::Debug);
    let mut cargo = workspace.cargo()?;
    cargo.args(["test", "--no-fail-fast"]).arg("--target-dir").arg(&workspace.target);
    if options.package.is_empty() {
        cargo.arg("--workspace");
    }
    cargo.args(options.package.iter().flat_map(|name| ["--package", name]));
    cargo.args(options.test.iter().flat_map(|name| ["--test", name]));
    cargo.arg("--").args(&options.arguments);
    match root {
        Root::Already => {
            cargo.envs(variables);
        }
        Root::Sudo => {
            // Cargo builds as this user; only the test programs run as root.
            let (name, value) = runner(&toolchain::host()?.version.host, &root.prefix(&variables))?;
            cargo.env(name, value);
        }
    }
    run_with_stdout(&mut cargo)
}

/// Cargo's variable for what runs test programs. It splits the value at spaces.
fn runner(host: &str, words: &[OsString]) -> Result<(String, String)> {
    let name = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
    let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
    let words = words.filter(|words| !words.iter().any(|word| word.contains(char::is_whitespace)));
    let words = words.context(
        "PATH or the checkout's path has a space in it, which cargo cannot pass to sudo: \
         run the tests as root",
    )?;
    Ok((name, words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_is_named_after_the_host() {
        let words = ["sudo", "env", "A=b"].map(OsString::from);
        let (name, value) = runner("x86_64-unknown-linux-gnu", &words).expect("no spaces");
        assert_eq!(name, "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER");
        assert_eq!(value, "sudo env A=b");
    }

    #[test]
    fn runner_refuses_what_cargo_would_split() {
        let error = runner("x", &["PATH=/a b".into()]).expect_err("a space");
        assert!(error.to_string().contains("as root"), "{error}");
    }
}
