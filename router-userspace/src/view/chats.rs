//! `roost chats`: the chats that have a home.

use std::collections::BTreeMap;

use anyhow::Result;
use router_ebpf::maps::{Chat, ChatKey};
use serde::Serialize;

use super::{
    names::{self, Names},
    text::{self, NONE},
};
use crate::{
    cli::{output::Report, table::Table},
    maps::{read, secrets::monotonic, tables::Tables},
};

/// Which chats to show.
#[derive(Debug, Default, clap::Args)]
pub struct ChatsArgs {
    /// Show chats of the service named SERVICE only
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Show chats whose readable key is KEY only
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

/// A chat with a home. JSON: an array of these.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ChatLine {
    /// Its service.
    pub service: String,
    /// The key that came first, readable.
    pub key: String,
    /// What kind of key that is: `query`, `path`, ...; null if it is not known.
    pub key_source: Option<String>,
    /// The name of the replica where it is.
    pub home: String,
    /// Its live flows.
    pub flows: u32,
    /// Milliseconds since it came to this home.
    pub age_ms: u64,
    /// Milliseconds since a connection was bound to it.
    pub bound_ms: u64,
    /// Its cookie.
    pub cookie: String,
    /// The number of its service in the maps.
    pub service_number: u32,
}

/// What `roost chats` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ChatsReport(pub Vec<ChatLine>);

/// Reads the chats.
pub fn chats(tables: &Tables, args: &ChatsArgs) -> Result<ChatsReport> {
    let names = Names::read(tables)?;
    names.check(args.service.as_deref())?;
    let chats = read::sorted(&tables.chats, "CHATS")?;
    Ok(ChatsReport(lines(&names, &chats, args, monotonic())))
}

fn lines(
    names: &Names,
    chats: &BTreeMap<ChatKey, Chat>,
    args: &ChatsArgs,
    now: std::time::Duration,
) -> Vec<ChatLine> {
    let line = |(key, chat): (&ChatKey, &Chat)| ChatLine {
        service: names.service(key.service),
        key: names.chat(key.service, chat),
        key_source: names::key_kind(chat.source),
        home: names.replica(Chat::home(chat.state)),
        flows: Chat::flows(chat.state),
        age_ms: read::ms_since(now, chat.since),
        bound_ms: read::ms_since(now, chat.bound_at),
        cookie: text::hex(key.cookie),
        service_number: key.service,
    };
    let asked = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
    let mut lines: Vec<ChatLine> = chats
        .iter()
        .map(line)
        .filter(|line| asked(&args.service, &line.service) && asked(&args.key, &line.key))
        .collect();
    lines.sort();
    lines
}

impl Report for ChatsReport {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "no chats\n".to_owned();
        }
        let columns = ["service", "chat", "from", "home", ">flows", ">age", ">bound", "cookie"];
        let mut table = Table::new(columns);
        for line in &self.0 {
            table.row([
                line.service.as_str().into(),
                line.key.as_str().into(),
                line.key_source.as_deref().unwrap_or(NONE).into(),
                line.home.as_str().into(),
                line.flows.into(),
                text::age_ms(line.age_ms).into(),
                text::age_ms(line.bound_ms).into(),
                line.cookie.as_str().into(),
            ]);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use router_ebpf::maps::Name;

    use super::*;

    #[test]
    fn chats_are_sorted_by_key_and_filtered() {
        let chat = |key: &[u8], home, flows| Chat {
            state: Chat::pack(home, flows),
            bound_at: 9_000_000_000,
            since: 5_000_000_000,
            key: Name::new(key),
            source: router_ebpf::maps::KEY_QUERY.into(),
        };
        let key = |cookie| ChatKey { cookie, service: 1, reserved: 0 };
        let chats = BTreeMap::from([(key(1), chat(b"zoo", 0, 1)), (key(2), chat(b"a\n", 1, 2))]);
        let now = std::time::Duration::from_secs(10);
        let all = lines(&Names::default(), &chats, &ChatsArgs::default(), now);
        assert_eq!(all.iter().map(|line| line.key.as_str()).collect::<Vec<_>>(), ["a\\n", "zoo"]);
        assert_eq!((all[0].age_ms, all[0].bound_ms, all[0].flows), (5000, 1000, 2));
        let args = ChatsArgs { service: Some("#1".to_owned()), key: Some("zoo".to_owned()) };
        assert_eq!(lines(&Names::default(), &chats, &args, now).len(), 1);
        let args = ChatsArgs { service: Some("other".to_owned()), key: None };
        let none = ChatsReport(lines(&Names::default(), &chats, &args, now));
        assert_eq!(none.text(), "no chats\n");
    }
}
