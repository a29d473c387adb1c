//! `roost explain`: the way of a connection, for people.

mod head;

use std::{fmt::Write as _, net::IpAddr};

use anyhow::Result;
use clap::ArgGroup;

pub use self::head::HeadArgs;
use super::{form::FormArgs, output::Report};
use crate::{
    maps::{names::Names, tables::Tables},
    view::{
        explain::{Explained, Given, Overridden},
        units,
    },
};

/// Which connection to explain.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("connection").required(true).multiple(true))]
pub struct ExplainArgs {
    /// Explain a connection to the service named SERVICE
    #[arg(long, value_name = "SERVICE")]
    pub service: String,
    /// Take KEY as its key: an IP address for `client` and `destination`, `client:port,vip:port` for
    /// `tuple`, text for all other key sources
    #[arg(long, value_name = "KEY", group = "connection")]
    pub key: Option<String>,
    /// Take the IP address ADDRESS as its key: of the client or of the VIP, by the key source
    #[arg(long, value_name = "ADDRESS", group = "connection", conflicts_with = "key")]
    pub address: Option<IpAddr>,
    /// Explain the connection from CLIENT:PORT to VIP:PORT; without a key too if the key source is
    /// the request
    #[arg(long, value_name = "CLIENT:PORT,VIP:PORT", group = "connection")]
    pub tuple: Option<String>,
    /// How keys are written.
    #[command(flatten)]
    pub form: FormArgs,
    /// What its client sends.
    #[command(flatten)]
    pub head: HeadArgs,
}

/// Explains a connection.
pub fn explain(tables: &Tables, args: &ExplainArgs) -> Result<Explained> {
    // First, because it may wait for standard input.
    let names = Names::read(tables)?;
    names.find(&args.service)?;
    let head = args.head.read()?;
    let given = match (&head, &args.key, args.address) {
        (Some(bytes), ..) if args.head.request.is_some() => Given::Bytes(bytes),
        (Some(bytes), ..) => Given::Head(bytes),
        (None, Some(key), _) => Given::Key(key, args.form.form()),
        (None, None, Some(address)) => Given::Address(address),
        (None, None, None) => Given::Ends,
    };
    let ends = args.tuple.as_deref();
    let mut explained = crate::view::explain::explain(tables, &names, &args.service, ends, given)?;
    explained.notes.extend(args.head.note());
    Ok(explained)
}

impl Report for Explained {
    fn text(&self) -> String {
        let bold = anstyle::Style::new().bold();
        let mut lines = vec![
            ("service", format!("{}, policy {}", self.service, self.policy)),
            ("key", self.key_text()),
        ];
        if let Some(client) = &self.client {
            lines.insert(1, ("client", format!("{client}, named by a proxy")));
        }
        if self.why == "incomplete" {
            return lines_text(&lines, "nowhere yet: Roost waits for more bytes", &self.notes);
        }
        if self.why == "source" {
            let why = "nowhere: dropped, its client is none of the service's allowed_sources";
            return lines_text(&lines, why, &self.notes);
        }
        if let Some(hash) = &self.key_hash {
            let of = if self.key.is_some() { "" } else { " of the 4-tuple" };
            lines.push(("key hash", format!("{hash}{of}")));
        }
        lines.push((
            "override",
            match &self.overridden {
                None => "none in CHAT_COOKIES".to_owned(),
                Some(overridden) => overridden.text(),
            },
        ));
        if let Some(cookie) = &self.cookie {
            let of = match self.width {
                1 => String::new(),
                width => format!(" of one part of {width}"),
            };
            lines.push(("cookie", format!("{cookie}{of}")));
        }
        lines.push((
            "live home",
            match &self.chat {
                None => "none in CHATS".to_owned(),
                Some(chat) => {
                    let ended = match chat.ended_ms {
                        Some(ms) => format!(", the last one ended {} ago", units::age_ms(ms)),
                        None => String::new(),
                    };
                    format!("{} with {} flows{ended}", chat.home, chat.flows)
                }
            },
        ));
        if let Some(slot) = self.slot {
            let owner = self.slot_replica.as_deref().unwrap_or("no replica");
            lines.push(("slot", format!("{slot} of {owner}")));
        }
        let (replica, why) = (self.replica.as_deref(), self.why_text());
        let to = match (replica, self.replica_addresses.join(" and ")) {
            (Some(replica), at) if at.is_empty() => format!("{bold}{replica}{bold:#}: {why}"),
            (Some(replica), at) => format!("{bold}{replica}{bold:#} at {at}: {why}"),
            (None, _) => format!("{bold}reset{bold:#}: {why}"),
        };
        lines_text(&lines, &to, &self.notes)
    }
}

fn lines_text(lines: &[(&str, String)], goes_to: &str, notes: &[String]) -> String {
    let steps = lines.iter().map(|(step, found)| (*step, found.as_str()));
    let notes = notes.iter().map(|note| ("note", note.as_str()));
    let mut text = String::new();
    for (step, found) in steps.chain([("goes to", goes_to)]).chain(notes) {
        let _ = writeln!(text, "{step:<10} {found}");
    }
    text
}

impl Explained {
    fn key_text(&self) -> String {
        let sources = self.key_sources.join(" or ");
        match (&self.key, &self.key_source, self.missing) {
            (Some(key), Some(source), _) => format!("`{key}` from {source}"),
            (Some(key), None, _) => format!("`{key}` from {sources}"),
            (None, _, None) if self.why == "incomplete" => {
                format!("not known yet from {sources}: the head is not complete")
            }
            (None, _, None) => format!("none, though {sources} should give one"),
            (None, _, Some(reason)) => {
                let why = match reason {
                    "unreadable" => "the first bytes are of no protocol that is read for it",
                    "absent" => "the first bytes have none",
                    "empty" => "it is empty",
                    _ => "it is not within the first 16,384 bytes, or has more than 4096",
                };
                format!("none from {sources}: {why}")
            }
        }
    }

    fn why_text(&self) -> &'static str {
        match self.why {
            "slot" if self.chat.is_some() => "the chat has no live flow, the slot table decides",
            "slot" => "the slot table decides",
            "pinned" => "the chat is pinned to it",
            "live_home" => "the chat lives there",
            "missing_key" => "the service names it for connections without a key",
            "rejected" => "the service rejects connections without a key",
            _ => "no usable replica",
        }
    }
}

impl Overridden {
    fn text(&self) -> String {
        let mut says = Vec::new();
        if let Some(chat) = &self.chat {
            says.push(format!("bound to chat `{chat}`"));
        }
        if let Some(replica) = &self.pinned_to {
            says.push(format!("pinned to {replica}"));
        }
        match self.width {
            None => {}
            Some(1) => says.push("in one part".to_owned()),
            Some(width) => says.push(format!("spread over {width} parts")),
        }
        says.join(", ")
    }
}
