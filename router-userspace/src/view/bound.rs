//! What was said of chats by hand.

use anyhow::Result;
use router_ebpf::maps::{ChatCookie, ChatKey, NO_REPLICA};
use serde::Serialize;

use crate::maps::{chat::Changed, names::Names, read, tables::Tables, text};

/// An entry of `CHAT_COOKIES`. JSON: an array of these.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BoundLine {
    /// The service.
    pub service: String,
    /// The chat: the key itself, or the one that it is bound to.
    pub chat: String,
    /// The key.
    pub key: String,
    /// The replica that the chat is pinned to, or null.
    pub replica: Option<String>,
    /// How many parts the chat has.
    pub width: u32,
    /// The cookie of the chat.
    pub cookie: String,
    /// The number of the service in the maps.
    pub service_number: u32,
}

impl BoundLine {
    fn new(names: &Names, at: &ChatKey, entry: &ChatCookie) -> Self {
        let key = names.key(at.service, &entry.key);
        let is_own = entry.cookie == at.cookie;
        Self {
            service: names.service(at.service),
            chat: if is_own { key.clone() } else { names.key(at.service, &entry.chat) },
            key,
            replica: (entry.replica != NO_REPLICA).then(|| names.replica(entry.replica)),
            width: match names.services.get(&at.service) {
                Some(service) if entry.width == 0 => u32::from(service.width).max(1),
                _ => entry.width.max(1),
            },
            cookie: text::hex(entry.cookie),
            service_number: at.service,
        }
    }
}

/// What was bound, pinned and spread.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct BoundReport(pub Vec<BoundLine>);

/// Reads what was bound, pinned and spread.
pub fn list(tables: &Tables, service: Option<&str>) -> Result<BoundReport> {
    let names = Names::read(tables)?;
    names.check(service)?;
    let entries = read::sorted(&tables.chat_cookies)?;
    let lines = entries.iter().map(|(at, entry)| BoundLine::new(&names, at, entry));
    let asked = |line: &BoundLine| service.is_none_or(|service| line.service == service);
    let mut lines: Vec<BoundLine> = lines.filter(asked).collect();
    lines.sort();
    Ok(BoundReport(lines))
}

/// What a change did: the entry that was set or removed. JSON: this object.
#[derive(Debug, Serialize)]
pub struct ChangeReport {
    /// Whether the entry was removed.
    pub removed: bool,
    /// The hash of the key whose entry it is.
    pub key_hash: String,
    /// The number of the service in the maps.
    pub service_number: u32,
    /// The entry that was set; null if it was removed.
    pub entry: Option<BoundLine>,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// Reports a change.
pub fn changed(names: &Names, changed: Changed) -> ChangeReport {
    let Changed { at, entry, notes } = changed;
    ChangeReport {
        removed: entry.is_none(),
        key_hash: text::hex(at.cookie),
        service_number: at.service,
        entry: entry.map(|entry| BoundLine::new(names, &at, &entry)),
        notes,
    }
}
