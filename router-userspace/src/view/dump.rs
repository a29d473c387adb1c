//! What every pinned map holds, typed.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData};
use clap::ValueEnum;
use router_ebpf::{
    maps::{NO_REPLICA, SLOT_COUNT, Tuple},
    verdict::Counter,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{decode, names::Names};
use crate::maps::{read, tables::Tables};

/// The maps of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the schema in router_ebpf::maps documents the maps")]
pub enum MapName {
    Vips,
    Services,
    Replicas,
    Slots,
    ChatCookies,
    Chats,
    Pending,
    Stash,
    Flows,
    FlowsBack,
    Secrets,
    Counters,
}

impl MapName {
    /// The name of its pin.
    pub const fn pin(self) -> &'static str {
        match self {
            Self::Vips => "VIPS",
            Self::Services => "SERVICES",
            Self::Replicas => "REPLICAS",
            Self::Slots => "SLOTS",
            Self::ChatCookies => "CHAT_COOKIES",
            Self::Chats => "CHATS",
            Self::Pending => "PENDING",
            Self::Stash => "STASH",
            Self::Flows => "FLOWS",
            Self::FlowsBack => "FLOWS_BACK",
            Self::Secrets => "SECRETS",
            Self::Counters => "COUNTERS",
        }
    }

    /// Entries in use. Of arrays these are the ones that mean something.
    fn used(self, tables: &Tables, names: &Names, max: u32) -> Result<usize> {
        Ok(match self {
            Self::Vips => read::vips(tables)?.len(),
            Self::Services => names.services.len(),
            Self::Replicas => names.replicas.len(),
            Self::Slots => published(names).count() * SLOT_COUNT as usize,
            Self::ChatCookies => read::count(&tables.chat_cookies, max),
            Self::Chats => read::count(&tables.chats, max),
            Self::Pending => read::count(&tables.pending, max),
            Self::Stash => read::count(&tables.stash, max),
            Self::Flows => read::count(&tables.flows, max),
            Self::FlowsBack => read::count(&tables.flows_back, max),
            Self::Secrets => 1,
            Self::Counters => Counter::COUNT,
        })
    }

    fn entries(self, tables: &Tables, names: &Names) -> Result<Vec<Entry>> {
        let pin = self.pin();
        let vip = |((bits, vip), service)| Entry {
            key: decode::vip(bits, &vip),
            value: json!({ "service": service }),
        };
        Ok(match self {
            Self::Vips => read::vips(tables)?.into_iter().map(vip).collect(),
            Self::Services => each(&names.services, |number, service| {
                (json!({ "service": number }), decode::service(service))
            }),
            Self::Replicas => each(&names.replicas, |number, replica| {
                (json!({ "replica": number }), decode::replica(replica))
            }),
            Self::Slots => slots(tables, names)?,
            Self::ChatCookies => each(&read::sorted(&tables.chat_cookies, pin)?, |key, value| {
                (decode::key_hash(key), decode::chat_cookie(names, key.service, value))
            }),
            Self::Chats => each(&read::sorted(&tables.chats, pin)?, |key, value| {
                (decode::chat_key(key), decode::chat(names, key.service, value))
            }),
            Self::Pending => tuples(&tables.pending, pin, decode::pending)?,
            Self::Stash => tuples(&tables.stash, pin, decode::stash)?,
            Self::Flows => tuples(&tables.flows, pin, decode::flow)?,
            Self::FlowsBack => tuples(&tables.flows_back, pin, decode::flow_back)?,
            Self::Secrets => {
                let secrets = tables.secrets.get(&0, 0).context("cannot read map SECRETS")?;
                vec![Entry { key: json!({ "index": 0 }), value: decode::secrets(&secrets) }]
            }
            Self::Counters => counters(&read::counts(&tables.counters)?),
        })
    }
}

/// One entry of a map.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// The key's fields.
    pub key: Value,
    /// The value's fields.
    pub value: Value,
}

fn each<'a, K: 'a, V: 'a>(
    entries: impl IntoIterator<Item = (&'a K, &'a V)>,
    decode: impl Fn(&K, &V) -> (Value, Value),
) -> Vec<Entry> {
    let entry = |(key, value)| {
        let (key, value) = decode(key, value);
        Entry { key, value }
    };
    entries.into_iter().map(entry).collect()
}

fn tuples<V: aya::Pod>(
    map: &HashMap<MapData, Tuple, V>,
    pin: &str,
    decode: fn(&V) -> Value,
) -> Result<Vec<Entry>> {
    let entries = read::sorted(map, pin)?;
    Ok(each(&entries, |tuple, value| (decode::tuple(tuple), decode(value))))
}

/// The published slot tables: service number and first index.
fn published(names: &Names) -> impl Iterator<Item = (u32, u32)> {
    let tables = names.services.iter().map(|(number, service)| (*number, service.slots));
    tables.filter(|(_, first)| *first != NO_REPLICA)
}

fn slots(tables: &Tables, names: &Names) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (service, first) in published(names) {
        let end = first.saturating_add(SLOT_COUNT);
        let replicas = read::range(&tables.slots, "SLOTS", first..end)?;
        entries.extend((0u32..).zip(replicas).map(|(slot, replica)| Entry {
            key: json!({ "service": service, "slot": slot }),
            value: json!({ "replica": replica }),
        }));
    }
    Ok(entries)
}

fn counters(counts: &[u64]) -> Vec<Entry> {
    let entry = |(counter, packets): (&Counter, &u64)| Entry {
        key: json!({ "counter": counter.name() }),
        value: json!({ "packets": packets }),
    };
    Counter::ALL.iter().zip(counts).map(entry).collect()
}

/// A map and its entries.
#[derive(Debug, Serialize)]
pub struct Dumped {
    /// The map's name.
    pub map: &'static str,
    /// Its entries, in the order of their keys.
    pub entries: Vec<Entry>,
}

/// What `roost maps dump` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct DumpReport(pub Vec<Dumped>);

/// Reads one map or all of them. `SLOTS` has thousands of entries for each service: it has to be
/// asked for.
pub fn dump(tables: &Tables, map: Option<MapName>) -> Result<DumpReport> {
    let names = Names::read(tables)?;
    let asked = |name: &&MapName| map.map_or(**name != MapName::Slots, |map| map == **name);
    let read =
        |name: &MapName| Ok(Dumped { map: name.pin(), entries: name.entries(tables, &names)? });
    let dumped: Result<Vec<Dumped>> =
        MapName::value_variants().iter().filter(asked).map(read).collect();
    Ok(DumpReport(dumped?))
}

/// What is known about a map.
#[derive(Debug, Serialize)]
pub struct MapLine {
    /// Its name.
    pub name: &'static str,
    /// Its type in the kernel.
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value; of one CPU's for a per-CPU map.
    pub value_size: u32,
    /// Entries in use.
    pub entries: usize,
    /// Entries it has room for.
    pub max_entries: u32,
    /// Bytes of memory it takes now; null if the kernel does not say.
    pub memory_bytes: Option<u64>,
}

/// What `roost maps list` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ListReport(pub Vec<MapLine>);

/// Asks the kernel about every map.
pub fn list(tables: &Tables, pin_dir: &Path) -> Result<ListReport> {
    lines(tables, pin_dir, MapName::value_variants()).map(ListReport)
}

/// Asks the kernel about these maps.
pub fn lines(tables: &Tables, pin_dir: &Path, maps: &[MapName]) -> Result<Vec<MapLine>> {
    let names = Names::read(tables)?;
    let line = |name: &MapName| {
        let info = read::info(pin_dir, name.pin())?;
        Ok(MapLine {
            name: name.pin(),
            kind: kind(info.map_type().context("unknown type of map")?),
            key_size: info.key_size(),
            value_size: info.value_size(),
            entries: name.used(tables, &names, info.max_entries())?,
            max_entries: info.max_entries(),
            memory_bytes: read::memory(&info)?,
        })
    };
    maps.iter().map(line).collect()
}

fn kind(kind: aya::maps::MapType) -> String {
    use aya::maps::MapType;
    match kind {
        MapType::Hash => "hash".to_owned(),
        MapType::LruHash => "lru_hash".to_owned(),
        MapType::Array => "array".to_owned(),
        MapType::PerCpuArray => "percpu_array".to_owned(),
        MapType::LpmTrie => "lpm_trie".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_are_those_of_the_arguments() {
        for map in MapName::value_variants() {
            let value = map.to_possible_value().unwrap();
            assert_eq!(value.get_name(), map.pin());
        }
    }
}
