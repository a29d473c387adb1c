//! The chats that have a home.

use std::collections::BTreeMap;

use anyhow::Result;
use router_ebpf::maps::{Chat, ChatKey};
use serde::Serialize;

use crate::maps::{
    names::{self, Names},
    read,
    secrets::monotonic,
    tables::Tables,
    text,
};

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
    /// Milliseconds since a connection of it ended; null if none did.
    pub ended_ms: Option<u64>,
    /// Its cookie.
    pub cookie: String,
    /// The number of its service in the maps.
    pub service_number: u32,
}

/// What `roost chats` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ChatsReport(pub Vec<ChatLine>);

/// Reads the chats: all, or those of this service, or with this readable key.
pub fn chats(tables: &Tables, service: Option<&str>, key: Option<&str>) -> Result<ChatsReport> {
    let names = Names::read(tables)?;
    names.check(service)?;
    let chats = read::sorted(&tables.chats)?;
    Ok(ChatsReport(lines(&names, &chats, service, key, monotonic())))
}

fn lines(
    names: &Names,
    chats: &BTreeMap<ChatKey, Chat>,
    service: Option<&str>,
    key: Option<&str>,
    now: std::time::Duration,
) -> Vec<ChatLine> {
    let line = |(key, chat): (&ChatKey, &Chat)| ChatLine {
        service: names.service(key.service),
        key: names.chat(key.service, chat),
        key_source: names::key_kind(chat.source),
        home: names.replica(Chat::home(chat.state)),
        flows: Chat::flows(chat.state),
        age_ms: read::ms_since(now, chat.since),
        ended_ms: read::ms_since_some(now, chat.ended_at),
        cookie: text::hex(key.cookie),
        service_number: key.service,
    };
    let asked = |wanted: Option<&str>, is: &str| wanted.is_none_or(|wanted| wanted == is);
    let mut lines: Vec<ChatLine> = chats
        .iter()
        .map(line)
        .filter(|line| asked(service, &line.service) && asked(key, &line.key))
        .collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use router_ebpf::maps::Name;

    use super::*;

    #[test]
    fn chats_are_sorted_by_key_and_filtered() {
        let chat = |key: &[u8], home, flows| Chat {
            state: Chat::pack(home, flows),
            ended_at: if flows == 1 { 0 } else { 9_000_000_000 },
            since: 5_000_000_000,
            key: Name::new(key),
            source: router_ebpf::source::KeyKind::Query as u32,
            share: 0,
            reserved: 0,
        };
        let key = |cookie| ChatKey { cookie, service: 1, reserved: 0 };
        let chats = BTreeMap::from([(key(1), chat(b"zoo", 0, 1)), (key(2), chat(b"a\n", 1, 2))]);
        let now = std::time::Duration::from_secs(10);
        let all = lines(&Names::default(), &chats, None, None, now);
        assert_eq!(all.iter().map(|line| line.key.as_str()).collect::<Vec<_>>(), ["a\\n", "zoo"]);
        assert_eq!((all[0].age_ms, all[0].ended_ms, all[0].flows), (5000, Some(1000), 2));
        assert_eq!(all[1].ended_ms, None);
        assert_eq!(lines(&Names::default(), &chats, Some("#1"), Some("zoo"), now).len(), 1);
        assert_eq!(lines(&Names::default(), &chats, Some("other"), None, now), []);
    }
}
