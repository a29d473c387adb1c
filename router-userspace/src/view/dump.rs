//! What every pinned map holds, typed.

use std::path::Path;

use anyhow::{Result, bail};
use router_ebpf::{
    maps::{CHUNK, FLOW_ENTRIES, HEAD_ENTRIES, NO_REPLICA, Ring, SLOT_COUNT, Share, Tuple},
    schema::{Kind, Map},
    verdict::Counter,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::decode;
use crate::{
    maps::{handle::Hash, names::Names, problems, read, shares::trusted, tables::Tables},
    plan::addr::{from_map, prefix_of},
    tend::{Entries, Load},
};

/// Entries in use. Of arrays these are the ones that mean something; of queues nobody knows. Those of live flows and
/// of chats are the kernel's own counts, so that nothing walks them.
fn used(map: Map, tables: &Tables, names: &Names, entries: &Entries) -> Result<Option<usize>> {
    Ok(Some(match map {
        Map::Vips => tables.vips.entries()?.len(),
        Map::SourceRanges => tables.source_ranges.entries()?.len(),
        Map::Services => names.services.len(),
        Map::Replicas => names.replicas.len(),
        Map::Slots => published(names).count() * SLOT_COUNT as usize,
        Map::ChatCookies => tables.chat_cookies.count()?,
        Map::Chats => entries.chats,
        Map::Pending => tables.pending.count()?,
        Map::Stash => tables.stash.count()?,
        Map::Chunks => tables.chunks.count()?,
        Map::Flows | Map::FlowsBack => entries.flows,
        Map::Ended => tables.ended.count()?,
        Map::EndedBack => tables.ended_back.count()?,
        Map::Rings => RINGS.len(),
        Map::Loads => names.replicas.len(),
        Map::Shares => shares(tables)?.count(),
        Map::Sharing => 1,
        Map::Trusted => tables.trusted.entries()?.len(),
        Map::FlowRing | Map::ChatRing | Map::HeadRing | Map::Farewells => return Ok(None),
        Map::Macs => tables.macs.count()?,
        Map::Links => tables.links.count()?,
        Map::Host => 1,
        Map::StandIns => tables.stand_ins.count()?,
        Map::StandsFor => tables.stands_for.count()?,
        Map::HostSources => tables.host_sources.count()?,
        Map::Problems => tables.problems.count()?,
        Map::Secrets => 1,
        Map::Counters => Counter::COUNT,
        Map::Schema => tables.schema.count()?,
    }))
}

/// All entries that are in use, decoded.
fn entries(map: Map, tables: &Tables, names: &Names) -> Result<Vec<Entry>> {
    let vip = |((bits, vip), service)| Entry {
        key: decode::vip(bits, &vip),
        value: json!({ "service": service }),
    };
    Ok(match map {
        Map::Vips => read::vips(tables)?.into_iter().map(vip).collect(),
        Map::SourceRanges => source_ranges(tables)?,
        Map::Services => each(&names.services, |number, service| {
            (json!({ "service": number }), decode::service(service))
        }),
        Map::Replicas => each(&names.replicas, |number, replica| {
            (json!({ "replica": number }), decode::replica(replica))
        }),
        Map::Slots => slots(tables, names)?,
        Map::ChatCookies => each(&read::sorted(&tables.chat_cookies)?, |key, value| {
            (decode::key_hash(key), decode::chat_cookie(names, key.service, value))
        }),
        Map::Chats => each(&read::sorted(&tables.chats)?, |key, value| {
            (decode::chat_key(key), decode::chat(names, key.service, value))
        }),
        Map::Pending => tuples(&tables.pending, decode::pending)?,
        Map::Stash => tuples(&tables.stash, decode::stash)?,
        Map::Chunks => each(&read::sorted(&tables.chunks)?, |key, _| {
            (decode::chunk(key), json!({ "bytes": CHUNK }))
        }),
        Map::Flows => tuples(&tables.flows, decode::flow)?,
        Map::FlowsBack => tuples(&tables.flows_back, decode::flow_back)?,
        Map::Ended => tuples(&tables.ended, decode::flow)?,
        Map::EndedBack => tuples(&tables.ended_back, decode::flow_back)?,
        Map::FlowRing | Map::ChatRing | Map::HeadRing | Map::Farewells => bail!(
            "map {} is a queue, which cannot be shown: to read an entry of it is to take it",
            map.pin()
        ),
        Map::Rings => rings(tables)?,
        Map::Loads => loads(tables, names)?,
        Map::Macs => each(&read::sorted(&tables.macs)?, |mac, value| decode::mac(mac, *value)),
        Map::Links => each(&read::sorted(&tables.links)?, |index, link| {
            (json!({ "interface": index }), json!({ "answers_by": link.by }))
        }),
        Map::Host => {
            vec![Entry { key: json!({ "index": 0 }), value: decode::host(&tables.host.get(0)?) }]
        }
        Map::StandIns => each(&read::sorted(&tables.stand_ins)?, |vip, stand_in| {
            (json!({ "vip": from_map(*vip) }), json!({ "stand_in": from_map(*stand_in) }))
        }),
        Map::StandsFor => each(&read::sorted(&tables.stands_for)?, |stand_in, vip| {
            (json!({ "stand_in": from_map(*stand_in) }), json!({ "vip": from_map(*vip) }))
        }),
        Map::HostSources => each(&read::sorted(&tables.host_sources)?, |conn, source| {
            (decode::host_conn(conn), json!({ "source": from_map(*source) }))
        }),
        Map::Problems => each(&problems::read(tables)?, |service, why| {
            (json!({ "service": service }), json!({ "problem": why }))
        }),
        Map::Shares => shares(tables)?
            .map(|(index, share)| Entry {
                key: decode::share_index(index),
                value: decode::share(&share),
            })
            .collect(),
        Map::Sharing => {
            let sharing = tables.sharing.get(0)?;
            vec![Entry { key: json!({ "index": 0 }), value: decode::sharing(&sharing) }]
        }
        Map::Trusted => each(&trusted(tables)?, |(bits, addr), value| {
            let prefix = prefix_of(*bits, *addr).to_string();
            (json!({ "prefix": prefix }), json!({ "trusted": *value == 1 }))
        }),
        Map::Secrets => {
            let secrets = tables.secrets.get(0)?;
            vec![Entry { key: json!({ "index": 0 }), value: decode::secrets(&secrets) }]
        }
        Map::Counters => counters(&read::counts(&tables.counters)?),
        Map::Schema => each(&read::sorted(&tables.schema)?, |mark, number| {
            (json!({ "name": mark.text() }), json!({ "number": number }))
        }),
    })
}

fn source_ranges(tables: &Tables) -> Result<Vec<Entry>> {
    let mut entries = tables.source_ranges.entries()?;
    entries.sort_by_key(|(bits, range, _)| (*range, *bits));
    let entry = |(bits, range, value)| Entry {
        key: decode::source_range(bits, &range),
        value: json!({ "listed": value == 1 }),
    };
    Ok(entries.into_iter().map(entry).collect())
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

fn tuples<V: aya::Pod>(map: &Hash<Tuple, V>, decode: fn(&V) -> Value) -> Result<Vec<Entry>> {
    let entries = read::sorted(map)?;
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
        let replicas = tables.slots.range(first..end)?;
        entries.extend((0u32..).zip(replicas).map(|(slot, replica)| Entry {
            key: json!({ "service": service, "slot": slot }),
            value: json!({ "replica": replica }),
        }));
    }
    Ok(entries)
}

/// The rings that are counted, by their indexes in `RINGS`.
const RINGS: [(u32, Map); 2] = [(FLOW_ENTRIES, Map::FlowRing), (HEAD_ENTRIES, Map::HeadRing)];

fn rings(tables: &Tables) -> Result<Vec<Entry>> {
    let entry = |(index, ring): (u32, Map)| {
        let Ring { entries, .. } = tables.rings.get(index)?;
        Ok(Entry { key: json!({ "ring": ring.pin() }), value: json!({ "entries": entries }) })
    };
    RINGS.into_iter().map(entry).collect()
}

fn loads(tables: &Tables, names: &Names) -> Result<Vec<Entry>> {
    let entry = |number: &u32| -> Result<Entry> {
        let load = tables.loads.get(*number)?;
        Ok(Entry { key: json!({ "replica": number }), value: decode::load(&load) })
    };
    names.replicas.keys().map(entry).collect()
}

/// What is held of the tables that are shared, by whoever holds something.
fn shares(tables: &Tables) -> Result<impl Iterator<Item = (u32, Share)>> {
    let all = tables.shares.range(0..tables.shares.room())?;
    Ok((0..).zip(all).filter(|(_, share)| *share != Share::default()))
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
/// asked for. Queues cannot be shown.
pub fn dump(tables: &Tables, map: Option<Map>) -> Result<DumpReport> {
    let names = Names::read(tables)?;
    let by_itself = |one: Map| one != Map::Slots && one.kind() != Kind::Queue;
    let asked = |one: &&Map| map.map_or(by_itself(**one), |map| map == **one);
    let read = |map: &Map| Ok(Dumped { map: map.pin(), entries: entries(*map, tables, &names)? });
    let dumped: Result<Vec<Dumped>> = Map::ALL.iter().filter(asked).map(read).collect();
    Ok(DumpReport(dumped?))
}

/// What is known about a map.
#[derive(Debug, Serialize)]
pub struct MapLine {
    /// Its name.
    pub name: &'static str,
    /// Its type in the kernel.
    pub kind: &'static str,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value; of one CPU's for a per-CPU map.
    pub value_size: u32,
    /// Entries in use; null of a queue.
    pub entries: Option<usize>,
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
    lines(tables, pin_dir, Map::ALL, None).map(ListReport)
}

/// Asks the kernel about these maps. Of one that has room for more bytes than `most` and whose entries are not
/// counted by the kernel it is not asked how many there are.
pub fn lines(
    tables: &Tables,
    pin_dir: &Path,
    maps: &[Map],
    most: Option<usize>,
) -> Result<Vec<MapLine>> {
    let names = Names::read(tables)?;
    let entries = Load::read(tables, &names.replicas)?.entries;
    let line = |map: &Map| {
        let info = read::info(pin_dir, *map)?;
        let bytes = info.max_entries() as usize * (map.key_size() + map.value_size());
        let is_asked = is_counted(*map) || most.is_none_or(|most| bytes <= most);
        Ok(MapLine {
            name: map.pin(),
            kind: word(map.kind()),
            key_size: info.key_size(),
            value_size: info.value_size(),
            entries: match is_asked {
                true => used(*map, tables, &names, &entries)?,
                false => None,
            },
            max_entries: info.max_entries(),
            memory_bytes: read::memory(&info)?,
        })
    };
    maps.iter().map(line).collect()
}

/// Whether the kernel counts its entries.
const fn is_counted(map: Map) -> bool {
    matches!(map, Map::Flows | Map::FlowsBack | Map::Chats)
}

/// The word for a type of map, as the kernel's own tools have it.
const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::HashMap => "hash",
        Kind::LruHashMap => "lru_hash",
        Kind::Array => "array",
        Kind::PerCpuArray => "percpu_array",
        Kind::LpmTrie => "lpm_trie",
        Kind::Queue => "queue",
    }
}
