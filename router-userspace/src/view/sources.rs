//! Who holds most of the tables that are shared.

use std::{cmp::Reverse, collections::HashMap};

use anyhow::Result;
use aya::maps::lpm_trie;
use router_ebpf::{
    maps::{Addr, Sharing, TrustedKey},
    shares::{ITSELF, number, prefix},
};
use serde::Serialize;

use crate::{
    maps::{read, tables::Tables},
    plan::addr::{MAPPED_BITS, from_map, prefix_of},
};

/// A source. JSON: an array of these.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct SourceLine {
    /// The addresses that are one source.
    pub source: String,
    /// Its live flows.
    pub flows: u64,
    /// Chats that it has made.
    pub chats: u64,
    /// Whether all of its clients that have a flow are trusted: then it has no share but its service's.
    pub trusted: bool,
}

/// What `roost sources` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct SourcesReport(pub Vec<SourceLine>);

/// Reads who holds most flows, and then most chats: so many sources. One that has chats only and no flow is known by a
/// number that says nothing to people, and left out.
pub fn sources(tables: &Tables, most: usize) -> Result<SourcesReport> {
    let (sharing, secrets) = (tables.sharing.get(0)?, tables.secrets.get(0)?);
    let mut clients: HashMap<Addr, u64> = HashMap::new();
    for tuple in read::sorted(&tables.flows)?.into_keys() {
        *clients.entry(tuple.client).or_default() += 1;
    }
    // Of a chat only the number of its source is known.
    let mut chats: HashMap<u32, u64> = HashMap::new();
    for chat in read::sorted(&tables.chats)?.into_values() {
        *chats.entry(chat.share).or_default() += 1;
    }
    let mut lines: HashMap<[u64; 2], SourceLine> = HashMap::new();
    for (client, flows) in clients {
        let whole = lpm_trie::Key::new(TrustedKey::WHOLE, client);
        let trusted = tables.trusted.find(&whole)? == Some(1);
        let line = lines.entry(prefix(&client, &sharing)).or_insert_with(|| SourceLine {
            source: name(&client, &sharing),
            flows: 0,
            chats: chats.remove(&number(&secrets.chat, &sharing, &client, ITSELF)).unwrap_or(0),
            trusted: true,
        });
        line.flows += flows;
        line.trusted &= trusted;
    }
    let mut lines: Vec<SourceLine> = lines.into_values().collect();
    lines.sort_by(|a, b| {
        let size = |line: &SourceLine| Reverse((line.flows, line.chats));
        (size(a), &a.source).cmp(&(size(b), &b.source))
    });
    lines.truncate(most);
    Ok(SourcesReport(lines))
}

/// A client's source as people write it: `192.0.2.7`, `2001:db8::/64`.
fn name(client: &Addr, sharing: &Sharing) -> String {
    let bits = match from_map(*client).is_ipv4() {
        true => MAPPED_BITS + u32::from(sharing.ipv4_prefix),
        false => u32::from(sharing.ipv6_prefix),
    };
    let [high, low] = prefix(client, sharing);
    let addr = u128::from(high) << 64 | u128::from(low);
    prefix_of(bits, addr.to_be_bytes()).to_string()
}
