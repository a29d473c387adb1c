//! `roost chat`.

use anyhow::Result;
use clap::Subcommand;

use super::{
    form::FormArgs,
    output::{Format, Report, print},
    table::Table,
};
use crate::{
    maps::{
        chat::{Change, MOST_PARTS, change},
        names::Names,
        tables::Tables,
        text::NONE,
    },
    view::bound::{BoundReport, ChangeReport, changed, list},
};

/// What to do with chats.
#[derive(Debug, Subcommand)]
pub enum ChatCommand {
    /// Let KEY belong to the chat CHAT, so that its connections go where that chat is
    Bind {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The key that joins: text, an IP address, or `client:port,vip:port`
        #[arg(value_name = "KEY")]
        key: String,
        /// The chat that it joins: one of its keys, or any text
        #[arg(long, value_name = "CHAT")]
        chat: String,
        /// How keys are written.
        #[command(flatten)]
        form: FormArgs,
    },
    /// Let KEY be a chat of its own again
    Unbind {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The key that leaves its chat
        #[arg(value_name = "KEY")]
        key: String,
        /// How keys are written.
        #[command(flatten)]
        form: FormArgs,
    },
    /// Let CHAT live on the replica REPLICA as soon as it has no live flow elsewhere
    Pin {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The chat: one of its keys, or any text
        #[arg(value_name = "CHAT")]
        chat: String,
        /// The name of the replica
        #[arg(long, value_name = "REPLICA")]
        replica: String,
        /// How keys are written.
        #[command(flatten)]
        form: FormArgs,
    },
    /// Let CHAT live where its slot is
    Unpin {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The chat: one of its keys, or any text
        #[arg(value_name = "CHAT")]
        chat: String,
        /// How keys are written.
        #[command(flatten)]
        form: FormArgs,
    },
    /// Spread CHAT, which is too large for one replica, over N of them
    Width {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The chat: one of its keys, or any text
        #[arg(value_name = "CHAT")]
        chat: String,
        /// How many parts it has; 1 puts it together again
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_PARTS.into()))]
        width: u32,
        /// How keys are written.
        #[command(flatten)]
        form: FormArgs,
    },
    /// List what was bound, pinned and spread
    List {
        /// List those of the service named SERVICE only
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
    },
}

/// Runs one of these commands.
pub fn run(format: Format, tables: &mut Tables, command: &ChatCommand) -> Result<()> {
    let (service, form, wanted) = match command {
        ChatCommand::List { service } => return print(format, &list(tables, service.as_deref())?),
        ChatCommand::Bind { service, key, chat, form } => {
            (service, form, Change::Bind { key, chat })
        }
        ChatCommand::Unbind { service, key, form } => (service, form, Change::Unbind { key }),
        ChatCommand::Pin { service, chat, replica, form } => {
            (service, form, Change::Pin { chat, replica })
        }
        ChatCommand::Unpin { service, chat, form } => (service, form, Change::Unpin { chat }),
        ChatCommand::Width { service, chat, width, form } => {
            (service, form, Change::Width { chat, width: *width })
        }
    };
    let names = Names::read(tables)?;
    let done = change(tables, &names, service, form.form(), &wanted)?;
    print(format, &changed(&names, done))
}

impl Report for BoundReport {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "no chat is bound, pinned or spread\n".to_owned();
        }
        let columns = ["service", "chat", "key", "pinned to", ">width", "cookie"];
        let mut table = Table::new(columns);
        for line in &self.0 {
            table.row([
                line.service.as_str().into(),
                line.chat.as_str().into(),
                line.key.as_str().into(),
                line.replica.as_deref().unwrap_or(NONE).into(),
                line.width.into(),
                line.cookie.as_str().into(),
            ]);
        }
        table.to_string()
    }
}

impl Report for ChangeReport {
    fn text(&self) -> String {
        let done = if self.removed { "removed" } else { "set" };
        let notes = self.notes.iter().map(|note| format!("note: {note}\n"));
        format!("{done} an entry of CHAT_COOKIES\n{}", notes.collect::<String>())
    }
}
