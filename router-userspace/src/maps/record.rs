//! What a release writes down of its maps, for the next one: the map `SCHEMA`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use router_ebpf::{
    maps::{Mark, Secrets},
    schema::Map,
    verdict::Counter,
};

use super::handle::{Array, Asked, Hash};

/// What is before a name in `SCHEMA` says what it names.
const MAP: &str = "map:";
const COUNTER: &str = "counter:";
const PROGRAM: &str = "program:";
/// In the maps of a take-over: all programs are replaced, only names are left to change.
const DONE: &str = "done";

/// What is pinned: the maps by name, and what their numbers mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The version of each map.
    pub(crate) maps: BTreeMap<String, u32>,
    /// Where each counter is in `COUNTERS`.
    pub(crate) counters: BTreeMap<String, u32>,
    /// The numbers of the programs that use these maps.
    pub(crate) programs: BTreeSet<u32>,
    /// Whether a take-over has got so far that it cannot go back.
    pub(crate) is_done: bool,
}

impl Record {
    /// That of this release.
    pub(crate) fn own() -> Self {
        let version = |map: &Map| (map.pin().to_owned(), map.version());
        let at = |(at, counter): (u32, &Counter)| (counter.name().to_owned(), at);
        Self {
            maps: Map::ALL.iter().map(version).collect(),
            counters: (0..).zip(Counter::ALL).map(at).collect(),
            ..Self::default()
        }
    }

    /// That of the releases before there was a `SCHEMA` map, which are told by `Secrets::schema` = 4.
    pub(crate) fn before_records() -> Self {
        let at = |(at, name): (u32, &&str)| ((*name).to_owned(), at);
        Self {
            maps: MAPS_BEFORE.iter().map(|name| ((*name).to_owned(), 1)).collect(),
            counters: (0..).zip(COUNTERS_BEFORE).map(at).collect(),
            ..Self::default()
        }
    }

    /// What is pinned here; `None` if nothing is, or nothing that a daemon has filled.
    pub(crate) fn read(pin_dir: &Path) -> Asked<Option<Self>> {
        match Hash::<Mark, u32>::open(pin_dir, Map::Schema) {
            Ok(schema) => {
                let found = Self::from_entries(schema.entries()?);
                return Ok((found.maps != BTreeMap::new()).then_some(found));
            }
            Err(e) if e.errno() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e),
        }
        match Array::<Secrets>::open(pin_dir, Map::Secrets) {
            Ok(secrets) => {
                let is_filled = secrets.get(0)?.schema == SCHEMA_BEFORE;
                Ok(is_filled.then(Self::before_records))
            }
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn from_entries(entries: impl IntoIterator<Item = (Mark, u32)>) -> Self {
        let mut record = Self::default();
        for (mark, number) in entries {
            let Some(name) = mark.text() else { continue };
            if let Some(map) = name.strip_prefix(MAP) {
                record.maps.insert(map.to_owned(), number);
            } else if let Some(counter) = name.strip_prefix(COUNTER) {
                record.counters.insert(counter.to_owned(), number);
            } else if name.starts_with(PROGRAM) {
                record.programs.insert(number);
            } else if name == DONE {
                record.is_done = true;
            }
        }
        record
    }

    /// Writes it into an empty map, without the programs, which are not there yet.
    pub(crate) fn write(&self, schema: &mut Hash<Mark, u32>) -> Asked<()> {
        let maps = self.maps.iter().map(|(name, number)| (MAP, name, number));
        let counters = self.counters.iter().map(|(name, number)| (COUNTER, name, number));
        for (kind, name, number) in maps.chain(counters) {
            schema.set(&Mark::new(&format!("{kind}{name}")), number)?;
        }
        Ok(())
    }

    /// Notes a program that uses the maps.
    pub(crate) fn note_program(schema: &mut Hash<Mark, u32>, id: u32) -> Asked<()> {
        schema.set(&Mark::new(&format!("{PROGRAM}{id}")), &id)
    }

    /// Notes that nothing but names is left to change.
    pub(crate) fn note_done(schema: &mut Hash<Mark, u32>) -> Asked<()> {
        schema.set(&Mark::new(DONE), &1)
    }

    /// Whether maps and counters are this release's.
    pub(crate) fn is_own(&self) -> bool {
        let own = Self::own();
        (&self.maps, &self.counters) == (&own.maps, &own.counters)
    }

    /// A map that is not as this release has it, and its version. Other counters are told by
    /// [`Self::is_own`] alone.
    pub(crate) fn other(&self) -> Option<(Map, u32)> {
        let version = |map: &Map| (*map, self.maps.get(map.pin()).copied().unwrap_or(0));
        Map::ALL.iter().map(version).find(|(map, version)| *version != map.version())
    }
}

/// `Secrets::schema` of the releases before there was a `SCHEMA` map.
const SCHEMA_BEFORE: u32 = 4;

/// Their maps.
const MAPS_BEFORE: &[&str] = &[
    "VIPS",
    "SERVICES",
    "REPLICAS",
    "SLOTS",
    "CHAT_COOKIES",
    "CHATS",
    "PENDING",
    "STASH",
    "FLOWS",
    "FLOWS_BACK",
    "SECRETS",
    "COUNTERS",
];

/// Their counters, in the order of `COUNTERS`.
const COUNTERS_BEFORE: &[&str] = &[
    "ingress_passed",
    "syn_answered",
    "ack_swallowed",
    "bound",
    "head_kept",
    "head_acknowledged",
    "to_replica",
    "reset_no_replica",
    "reset_missing_key",
    "reset_unknown",
    "reset_unused",
    "reset_gone",
    "reset_expired",
    "reset_conflict",
    "drop_reset_limit",
    "drop_stray_reset",
    "drop_malformed",
    "drop_flags",
    "drop_checksum",
    "drop_early",
    "drop_oversize",
    "drop_fault",
    "icmp_to_replica",
    "egress_passed",
    "delivered",
    "delivered_empty",
    "to_client",
    "drop_syn_ack_again",
    "refused",
    "reset_full",
    "reset_moved",
    "reset_replica",
    "egress_drop_stray",
    "egress_drop_fault",
    "icmp_to_client",
    "overridden",
    "home_kept",
    "delivered_more",
    "missing_key",
    "missing_unreadable",
    "missing_absent",
    "missing_empty",
    "missing_too_long",
    "affinity_violation",
    "chats_full",
    "rebound",
    "closed",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(record: &Record) -> Vec<(Mark, u32)> {
        let maps = record.maps.iter().map(|(name, at)| (format!("{MAP}{name}"), *at));
        let counters = record.counters.iter().map(|(name, at)| (format!("{COUNTER}{name}"), *at));
        maps.chain(counters).map(|(name, number)| (Mark::new(&name), number)).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        for record in [Record::own(), Record::before_records()] {
            assert!(record.maps.len() >= 12 && record.counters.len() >= 43, "{record:?}");
            assert_eq!(Record::from_entries(entries(&record)), record);
        }
        let more = [("program:7", 7), ("done", 1), ("", 3), ("later:thing", 4)];
        let more = more.map(|(name, number)| (Mark::new(name), number));
        let read = Record::from_entries(more);
        assert_eq!(read.programs, BTreeSet::from([7]));
        assert!(read.is_done && read.maps.is_empty() && read.counters.is_empty());
    }

    #[test]
    fn what_differs_is_named() {
        let own = Record::own();
        assert_eq!(own.other(), None);
        let mut newer = own.clone();
        newer.maps.insert("FLOWS".to_owned(), Map::Flows.version() + 1);
        assert_eq!(newer.other(), Some((Map::Flows, Map::Flows.version() + 1)));
        let mut less = own.clone();
        less.maps.remove("CHATS");
        assert_eq!(less.other(), Some((Map::Chats, 0)));
        let mut more = own.clone();
        more.counters.insert("no_such".to_owned(), 99);
        assert!(own.is_own() && !more.is_own() && !newer.is_own());
    }
}
