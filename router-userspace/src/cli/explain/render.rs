//! The way of a connection, for people.

use std::fmt::Write as _;

use super::{Explained, Overridden};
use crate::{cli::output::Report, view::text};

impl Report for Explained {
    fn text(&self) -> String {
        let bold = anstyle::Style::new().bold();
        let mut lines = vec![
            ("service", format!("{}, policy {}", self.service, self.policy)),
            ("key", self.key_text()),
        ];
        if self.why == "incomplete" {
            return lines_text(&lines, "nowhere yet: Roost waits for more bytes", &self.notes);
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
                Some(chat) => format!(
                    "{} with {} flows, last bound {} ago",
                    chat.home,
                    chat.flows,
                    text::age_ms(chat.bound_ms)
                ),
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
                    _ => "it is not within the first 4 segments and 4096 bytes",
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
