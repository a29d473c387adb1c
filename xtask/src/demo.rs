//! `cargo xtask demo`.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::launch::launch;
use crate::peers;
use crate::workspace::Workspace;

/// Show the main job in network namespaces: tabs of one chat meet on one replica.
///
/// Needs root. The exit status says whether the policy `home` kept every chat whole.
#[derive(Args)]
pub struct Options {
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    json: bool,
    /// Come from inside: through nginx in a pod that ends TLS, from another pod, and from outside, with 3, 6, 2 and 4
    /// replicas.
    #[arg(long)]
    inside: bool,
    /// Leave everything running, and print what to try next.
    #[arg(long)]
    keep: bool,
    /// Pass these on too: `--chats 20`, `--tabs 5`, `--ipv6`; target/release/roost-demo --help has all.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the subcommand. Returns only if the demo cannot be started.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.inside {
        peers::ensure_proxies(workspace)?;
    }
    let flags = [(options.inside, "--inside"), (options.json, "--json"), (options.keep, "--keep")];
    let flags = flags.iter().filter(|(given, _)| *given).map(|(_, flag)| OsString::from(flag));
    let arguments: Vec<OsString> = flags.chain(options.arguments.iter().cloned()).collect();
    launch(workspace, "roost-demo", &arguments)
}
