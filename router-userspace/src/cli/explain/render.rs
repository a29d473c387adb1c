//! The way of a connection, for people.

use std::fmt::Write as _;

use super::{
    super::{output::Report, text},
    Explained, Overridden,
};

impl Report for Explained {
    fn text(&self) -> String {
        let bold = anstyle::Style::new().bold();
        let mut lines = vec![
            ("service", format!("{}, policy {}", self.service, self.policy)),
            (
                "key",
                match &self.key {
                    Some(key) => format!("`{key}` from {}", self.key_sources.join(" or ")),
                    None => {
                        format!("none, though {} should give one", self.key_sources.join(" or "))
                    }
                },
            ),
        ];
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
            lines.push(("cookie", cookie.clone()));
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
        let mut text = String::new();
        for (step, found) in lines {
            let _ = writeln!(text, "{step:<10} {found}");
        }
        let (replica, why) = (self.replica.as_deref(), self.why_text());
        let to = match (replica, self.replica_addresses.join(" and ")) {
            (Some(replica), at) if at.is_empty() => format!("{bold}{replica}{bold:#}: "),
            (Some(replica), at) => format!("{bold}{replica}{bold:#} at {at}: "),
            (None, _) => format!("{bold}reset{bold:#}: "),
        };
        let _ = writeln!(text, "{:<10} {to}{why}", "goes to");
        for note in &self.notes {
            let _ = writeln!(text, "{:<10} {note}", "note");
        }
        text
    }
}

impl Explained {
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
        if self.width > 1 {
            says.push(format!("spread over {} parts", self.width));
        }
        says.join(", ")
    }
}
