//! The command line: reads the pinned maps, and needs no daemon for it.

pub mod chat;
pub mod chats;
pub mod check;
pub mod counters;
pub mod decode;
pub mod dump;
pub mod explain;
pub mod flows;
pub mod key;
pub mod names;
pub mod netlink;
pub mod output;
pub mod read;
pub mod running;
pub mod services;
pub mod status;
pub mod table;
pub mod text;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand};
use serde::Serialize;

use chat::ChatCommand;
use dump::MapsCommand;
use output::{Format, Report};

use crate::{
    daemon::{self, RunArgs},
    loader,
    tables::Tables,
};

/// Keep every connection of a chat on one replica, in the kernel.
#[derive(Debug, Parser)]
#[command(name = "roost", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Print as FORMAT: `table` for people, `json` for programs
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value = "table",
        hide_possible_values = true
    )]
    pub output: Format,

    /// Find the pinned maps in DIR, which is under a bpffs
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ROOST_PIN_DIR",
        default_value = "/sys/fs/bpf/roost"
    )]
    pub pin_dir: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: load, attach, keep the maps as the configuration says
    ///
    /// Connections do not need it: when it stops, they go on and new ones are taken. A daemon that
    /// starts takes over from the one before.
    Run(RunArgs),
    /// Remove all programs and maps: connections through Roost end
    ///
    /// A daemon that runs has to be stopped before.
    Detach,
    /// Say what this machine and its interfaces can do, and what to do about the rest
    ///
    /// Changes nothing. Exits with 1 if something fails.
    Check(check::CheckArgs),
    /// Show the whole at a glance: daemon, interfaces, services, limits, counters
    Status,
    /// List the services: addresses, policy, key source, slot table
    Services,
    /// List the replicas: address, state, and the slots, chats and flows they carry
    Replicas,
    /// List the chats by their readable key: home, flows, age
    Chats(chats::ChatsArgs),
    /// List the flows: client, VIP, replica, chat, state, age
    Flows(flows::FlowsArgs),
    /// Print what the data path has counted
    Counters {
        /// Print the counters that are zero too
        #[arg(long, short)]
        all: bool,
    },
    /// Say where a connection would go and why, by the same code as the kernel program
    Explain(explain::ExplainArgs),
    /// Bind keys to one chat, pin a chat to a replica, spread a large one
    ///
    /// A key is written by the service's key source: as text for `query`, as an IP address for
    /// `client` and `destination`, as `client:port,vip:port` for `tuple`. A chat is written as one
    /// of its keys, or as any text. Of a service with IPv4 and IPv6 addresses both halves are
    /// changed.
    #[command(subcommand)]
    Chat(ChatCommand),
    /// List the pinned maps, or print what is in them
    #[command(subcommand)]
    Maps(dump::MapsCommand),
    /// Print the completion script for SHELL
    Completions {
        /// The shell that will read it
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
}

/// Runs a command.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { output: format, pin_dir, command } = cli;
    let open = || Tables::open(&pin_dir).map_err(anyhow::Error::from);
    match command {
        Command::Check(args) => {
            let report = check::check(&args, &pin_dir);
            output::print(format, &report)?;
            if report.fails > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Run(args) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(daemon::run(args, &pin_dir))?,
        Command::Status => output::print(format, &status::status(&open()?, &pin_dir)?)?,
        Command::Services => output::print(format, &services::services(&open()?)?)?,
        Command::Replicas => output::print(format, &services::replicas(&open()?)?)?,
        Command::Chats(args) => output::print(format, &chats::chats(&open()?, &args)?)?,
        Command::Flows(args) => output::print(format, &flows::flows(&open()?, &args)?)?,
        Command::Counters { all } => {
            output::print(format, &counters::counters(&open()?, all)?)?;
        }
        Command::Explain(args) => output::print(format, &explain::explain(&open()?, &args)?)?,
        Command::Chat(ChatCommand::List { service }) => {
            output::print(format, &chat::list(&open()?, service.as_deref())?)?;
        }
        Command::Chat(command) => {
            output::print(format, &chat::change(&mut open()?, &command)?)?;
        }
        Command::Maps(MapsCommand::List) => {
            output::print(format, &dump::list(&open()?, &pin_dir)?)?;
        }
        Command::Maps(MapsCommand::Dump { map }) => {
            output::print(format, &dump::dump(&open()?, map)?)?;
        }
        Command::Detach => {
            let removed = loader::detach(&pin_dir)?;
            output::print(format, &DetachReport { removed })?;
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "roost", &mut script);
            output::print_text(&String::from_utf8_lossy(&script))?;
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            output::print_text(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What `roost detach` prints. JSON: `{"removed": [...]}`.
#[derive(Debug, Serialize)]
struct DetachReport {
    removed: Vec<String>,
}

impl Report for DetachReport {
    fn text(&self) -> String {
        if self.removed.is_empty() {
            return "nothing of roost is there\n".to_owned();
        }
        self.removed.iter().map(|what| format!("removed {what}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
