//! `cargo xtask`: builds, checks, tests, demonstrates, measures and deploys Roost.
//!
//! Each subcommand is a module. What they share is below them: `toolchain`, `linker` and `ebpf`
//! make the kernel object, `apt` and `peers` bring what tests need, `process` runs commands.

mod apt;
mod bench;
mod build;
mod cluster;
mod demo;
mod ebpf;
mod fresh;
mod fuzz;
mod image;
mod keep;
mod kernels;
mod launch;
mod linker;
mod lint;
mod peers;
mod process;
mod prove;
mod root;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Workspace;

/// Build, test, check, demonstrate, measure and deploy Roost.
///
/// Every subcommand finds or installs what it needs: tools into target/tools, and Debian packages
/// by apt-get. Progress is written to stderr.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Build(build::Options),
    Test(test::Options),
    Lint(lint::Options),
    Demo(demo::Options),
    Bench(bench::Options),
    Prove(prove::Options),
    Fresh(fresh::Options),
    Fuzz(fuzz::Options),
    Image(image::Options),
    Keep(keep::Options),
    Manifests(cluster::ManifestsOptions),
    Deploy(cluster::DeployOptions),
    Undeploy(cluster::UndeployOptions),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let workspace = Workspace::find();
    let result = match command {
        Command::Build(options) => build::run(&workspace, &options),
        Command::Test(options) => test::run(&workspace, &options),
        Command::Lint(options) => lint::run(&workspace, &options),
        Command::Demo(options) => demo::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Prove(options) => prove::run(&workspace, &options),
        Command::Fresh(options) => fresh::run(&workspace, &options),
        Command::Fuzz(options) => fuzz::run(&workspace, &options),
        Command::Image(options) => image::run(&workspace, &options),
        Command::Keep(options) => keep::run(&workspace, &options),
        Command::Manifests(options) => cluster::manifests(&workspace, &options),
        Command::Deploy(options) => cluster::deploy(&workspace, &options),
        Command::Undeploy(options) => cluster::undeploy(&workspace, &options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[test]
    fn unknown_flags_of_the_demo_and_of_scenarios_are_passed_on() {
        for line in [&["--json", "--chats", "5"][..], &["--chats", "5", "--json"]] {
            let words = ["cargo xtask", "demo"].iter().chain(line);
            Command::try_parse_from(words).expect("flags of the demo program");
        }
        for line in [&["orphan", "--json"][..], &["--json", "orphan"], &["orphan", "--help"]] {
            let words = ["cargo xtask", "prove"].iter().chain(line);
            Command::try_parse_from(words).expect("flags of the scenario");
        }
        let build = Command::try_parse_from(["cargo xtask", "build", "--chats"]);
        let refused = build.err().map(|error| error.kind());
        assert_eq!(refused, Some(clap::error::ErrorKind::UnknownArgument));
    }
}
