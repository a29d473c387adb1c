//! What can be asked for. The comments are the help.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{
    chat::ChatCommand, chats::ChatsArgs, check::CheckArgs, dump::MapsCommand, explain::ExplainArgs,
    flows::FlowsArgs, output::Format, sources::SourcesArgs,
};
use crate::{daemon::RunArgs, maps::tables::PIN_DIR};

const AFTER_HELP: &str = "\
With `-o json` a command prints one object or array. Names are snake_case, counts are numbers; \
addresses are text, and so are cookies, hashes and digests: 16 hexadecimal digits. Ages end in \
`_ms`. The long help of a command names the fields.

Errors go to standard error, with exit status 1; wrong arguments with 2.";

/// Keep every connection of a chat on one replica, in the kernel
#[derive(Debug, Parser)]
#[command(
    name = "roost",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_long_help = AFTER_HELP
)]
pub struct Cli {
    /// Print as FORMAT: `table` for people, `json` for programs
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value = "table",
        hide_possible_values = true,
        help_heading = "Options of all commands"
    )]
    pub output: Format,

    /// Find the pinned maps in DIR, which is under a bpffs
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ROOST_PIN_DIR",
        default_value = PIN_DIR,
        help_heading = "Options of all commands"
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
    ///
    /// JSON: `{removed: [text]}`.
    Detach,

    /// Say what this machine and its interfaces can do, and what to do about the rest
    ///
    /// Changes nothing. Exits with 1 if something fails.
    ///
    /// JSON: `{fails, warns, findings: [{level, interface, check, found, advice}]}`; the level is
    /// `ok`, `warn` or `fail`.
    Check(CheckArgs),

    /// Show the whole at a glance: daemon, interfaces, services, limits, counters
    ///
    /// JSON: `{daemon_pid, pin_dir, interfaces: [{interface, clients, ingress, egress,
    /// problem}], services,
    /// limits: [{map, entries, max_entries}], counters}`; services and counters as their commands
    /// print them.
    Status,

    /// List the services: addresses, policy, key sources, slot table
    ///
    /// Nodes with the same replicas have the same digest.
    ///
    /// JSON: `[{service, number, addresses: [text], port, policy, key_sources: [text],
    /// on_missing_key, on_reuse, replicas, usable, flows, chats, generation, digest, idle_timeout_s,
    /// linger_s, mss4, mss6}]`.
    Services,

    /// List the replicas: address, state, and the slots, chats and flows they carry
    ///
    /// JSON: `[{service, replica, number, addresses: [text], port, state, weight, slots, chats,
    /// flows}]`; the state is `ready`, `draining` or `gone`.
    Replicas,

    /// List the chats by their readable key: home, flows, age
    ///
    /// A chat keeps its home while it has a live flow. Of a long key the first 64 bytes are known.
    ///
    /// JSON: `[{service, key, key_source, home, flows, age_ms, bound_ms, cookie, service_number}]`.
    Chats(ChatsArgs),

    /// List the flows: client, VIP, replica, chat, how often bound, state, age
    ///
    /// Bound is how often: once, and again with each request that took it to another replica.
    ///
    /// JSON: `[{client, vip, service, replica, replica_address, chat, bound, state, age_ms, idle_ms,
    /// ends_in_ms}]`; the state is `established`, `client_closed`, `replica_closed`, `closing` or `ended`.
    Flows(FlowsArgs),

    /// List the sources that hold most connections: prefix of clients, flows, chats that they have made
    ///
    /// When a table is more than half full, they are refused first, all but those that are trusted
    /// (`[shares]`). The chats are those that the source has made, whoever is in them now.
    ///
    /// JSON: `[{source, flows, chats, trusted}]`.
    Sources(SourcesArgs),

    /// Print what the data path has counted
    ///
    /// JSON: `[{counter, packets, help}]`.
    Counters {
        /// Print the counters that are zero too
        #[arg(long, short)]
        all: bool,
    },

    /// Say where a connection would go and why, by the same code as the kernel program
    ///
    /// The connection is given by its key, by its two ends, or by the first bytes that its client
    /// sends: from a file, or made from a URL or a host name.
    ///
    /// JSON: `{service, service_number, policy, key_sources: [text], key_source, key, missing,
    /// key_hash, overridden, cookie, chat, slot, slot_replica, replica, replica_addresses: [text], why,
    /// notes}`; the reason is `slot`, `pinned`, `live_home` or `missing_key`, of a reset `rejected` or
    /// `no_replica`, and `incomplete` if more bytes have to come. What is missing is `unreadable`,
    /// `absent`, `empty` or `too_long`.
    Explain(ExplainArgs),

    /// Bind keys to one chat, pin a chat to a replica, spread a large one
    ///
    /// A key is written by the service's key sources: as an IP address for `client` and
    /// `destination`, as `client:port,vip:port` for `tuple`, as text for all others. With sources of
    /// both kinds, what reads as an address is one, unless `--text` says that it is text. A chat is
    /// written as one of its keys, or as any text.
    ///
    /// JSON of a change: `{removed, key_hash, service_number, entry, notes}`; of the list:
    /// `[{service, chat, key, replica, width, cookie, service_number}]`.
    #[command(subcommand)]
    Chat(ChatCommand),

    /// List the pinned maps, or print what is in them
    #[command(subcommand)]
    Maps(MapsCommand),

    /// Print the completion script for SHELL
    Completions {
        /// The shell that will read it
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },

    /// Print the manual page, in roff
    Man {
        /// Write a page for each command into the directory DIR instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_has_a_help_text() {
        fn look(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.starts_with(char::is_uppercase), "{path}: `{about}`");
            assert!(!about.ends_with('.'), "{path}: `{about}`");
            for arg in command.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.starts_with(char::is_uppercase), "{path} {}: `{help}`", arg.get_id());
                assert!(!help.ends_with('.'), "{path} {}: `{help}`", arg.get_id());
            }
            command.get_subcommands().for_each(|command| look(command, &path));
        }
        look(&Cli::command(), "");
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let refused = |line: &str| parse(line).err().map(|error| error.kind());
        let (missing, conflict) = (ErrorKind::MissingRequiredArgument, ErrorKind::ArgumentConflict);
        assert_eq!(refused("roost explain --service s"), Some(missing), "nothing to explain");
        let both = "roost explain --service s --key k --address 1.2.3.4";
        assert_eq!(refused(both), Some(conflict));
        assert!(parse("roost explain --service s --key k --tuple 1.2.3.4:5,6.7.8.9:80").is_ok());
        assert!(parse("roost explain --service s --request -").is_ok());
        assert!(parse("roost explain --service s --url /a --header a:b --header c:d").is_ok());
        let header = "roost explain --service s --header a:b";
        assert_eq!(refused(header), Some(missing), "of what request?");
        assert_eq!(refused("roost explain --service s --key k --url /a"), Some(conflict));
        assert_eq!(refused("roost explain --service s --sni a --url /a"), Some(conflict));
        assert!(parse("roost explain --service s --sni a --tuple 1.2.3.4:5,6.7.8.9:80").is_ok());
        assert!(parse("roost chat bind s 192.0.2.1 --chat c --text").is_ok());
        let width = refused("roost chat width s c 0");
        assert!(matches!(width, Some(ErrorKind::ValueValidation | ErrorKind::InvalidValue)));
        assert!(parse("roost maps dump chat_cookies -o json --pin-dir /x").is_ok());
        assert_eq!(refused("roost maps dump NOTHING"), Some(ErrorKind::InvalidValue));
    }
}
