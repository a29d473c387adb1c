//! What is changed in the maps from one release to the next: the written steps, and what becomes of each
//! map by them.

use std::{collections::BTreeMap, fmt};

use router_ebpf::{
    maps::{
        CLIENT_CLOSED_TIMEOUT, CLOSING_TIMEOUT, HANDSHAKE_TIMEOUT, LINGER, REPLICA_CLOSED_TIMEOUT,
    },
    schema::Map,
};

use crate::maps::record::Record;

/// An entry of one version of a map as that of the next version, key and value. `None`: it is not needed
/// any more.
pub(super) type Convert = fn(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;

/// From one version of a map to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// The name of its pin.
    pub(super) map: &'static str,
    /// The version that it begins with.
    pub(super) from: u32,
    /// What becomes of an entry.
    pub(super) convert: Convert,
}

/// The steps that a release knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    /// Changes of maps.
    pub(super) changed: &'static [Step],
    /// Maps of releases before that are not needed any more.
    pub(super) removed: &'static [&'static str],
}

/// Those of this release. To add one: raise the map's `version` in `router_ebpf::schema`, and write here
/// what becomes of an entry. The releases in `tests/releases` are taken over in a test.
pub(super) static STEPS: Steps = Steps {
    changed: &[
        Step { map: Map::Services.pin(), from: 1, convert: services_2 },
        Step { map: Map::Services.pin(), from: 2, convert: services_3 },
        Step { map: Map::Chats.pin(), from: 1, convert: chats_2 },
        Step { map: Map::Pending.pin(), from: 1, convert: pending_2 },
        Step { map: Map::Flows.pin(), from: 1, convert: flows_2 },
        Step { map: Map::FlowsBack.pin(), from: 1, convert: flows_back_2 },
        Step { map: Map::EndedBack.pin(), from: 1, convert: flows_back_2 },
        Step { map: Map::Stash.pin(), from: 1, convert: not_needed },
        Step { map: Map::Stash.pin(), from: 2, convert: not_needed },
    ],
    removed: &[],
};

/// For maps whose entries come again: what `STASH` lacks, clients send once more.
fn not_needed(_: &[u8], _: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    None
}

/// Version 2 of `SERVICES`: how long chats linger comes behind what was there.
fn services_2(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), [value, &LINGER.to_ne_bytes(), &[0; 4]].concat()))
}

/// Version 3 of `SERVICES`: the time-outs of the states of a flow come behind what was there.
fn services_3(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let added = [HANDSHAKE_TIMEOUT, CLIENT_CLOSED_TIMEOUT, REPLICA_CLOSED_TIMEOUT, CLOSING_TIMEOUT];
    Some((key.to_vec(), [value, added.map(u32::to_ne_bytes).as_flattened()].concat()))
}

/// Version 2 of `CHATS`: when a connection was bound, or the last flow ended, counts as the end of the last flow. That
/// no source counts for the chat comes behind what was there.
fn chats_2(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), [value, &[0; 8]].concat()))
}

/// Version 2 of `PENDING`: the cookie of the whole chat, which is that of its part as far as it is known, no
/// readable key, nobody whom a proxy has named, and no next request come behind what was there.
fn pending_2(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let cookie = value.get(..8)?;
    Some((key.to_vec(), [value, cookie, &[0; 96]].concat()))
}

/// Version 2 of `FLOWS`: how far the client's directions are, which its next segment tells, and the ends of FINs
/// come behind what was there.
fn flows_2(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let [client_isn, server_isn] =
        [64, 68].map(|at| Some(u32::from_ne_bytes(value.get(at..at + 4)?.try_into().ok()?)));
    let next = [server_isn?, client_isn?].map(|isn| isn.wrapping_add(1).to_ne_bytes());
    Some((key.to_vec(), [value, next.as_flattened(), &[0; 16]].concat()))
}

/// Version 2 of `FLOWS_BACK` and `ENDED_BACK`: where requests stand, and what it takes to bind again, come behind what was
/// there. Nobody looks at those of connections that another release has bound.
fn flows_back_2(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), [value, &[0; 32]].concat()))
}

/// What becomes of a map.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// It stays as it is.
    Kept,
    /// It is new.
    New,
    /// It is made anew, with the entries of the one before.
    Changed(Vec<Convert>),
    /// It is made anew with other counters, whose counts go by name.
    Recounted,
}

/// What becomes of all maps.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Those of this release.
    pub(super) fates: BTreeMap<Map, Fate>,
    /// Those that are left over then.
    pub(super) removed: Vec<String>,
}

/// Why maps cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    map: String,
    found: u32,
    own: Option<u32>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, found, own } = self;
        match own {
            None => write!(f, "its map {map} (version {found}) is none of this version's"),
            Some(own) if found > own => write!(
                f,
                "its map {map} has version {found}, and this version of roost knows {own}"
            ),
            Some(own) => write!(
                f,
                "its map {map} has version {found}, and this version of roost knows no way from there \
                 to {own}"
            ),
        }
    }
}

impl Plan {
    /// For a start where nothing is pinned.
    pub(super) fn first() -> Self {
        let fates = Map::ALL.iter().map(|map| (*map, Fate::New)).collect();
        Self { fates, removed: Vec::new() }
    }

    /// For what a release before has left.
    pub(super) fn new(found: &Record, steps: &Steps) -> Result<Self, Unknown> {
        let mut plan = Self { fates: BTreeMap::new(), removed: Vec::new() };
        for map in Map::ALL {
            let fate = match found.maps.get(map.pin()) {
                // Each release writes its own.
                _ if *map == Map::Schema => Fate::New,
                None => Fate::New,
                Some(version) if *version != map.version() => {
                    Fate::Changed(way(*map, *version, steps)?)
                }
                Some(_) if *map == Map::Counters && found.counters != Record::own().counters => {
                    Fate::Recounted
                }
                Some(_) => Fate::Kept,
            };
            plan.fates.insert(*map, fate);
        }
        for (map, version) in &found.maps {
            if steps.removed.contains(&map.as_str()) {
                plan.removed.push(map.clone());
            } else if Map::named(map).is_none() {
                return Err(Unknown { map: map.clone(), found: *version, own: None });
            }
        }
        Ok(plan)
    }

    /// The maps that are made anew in place of others, which other programs use.
    pub(super) fn replaced(&self) -> impl Iterator<Item = (Map, &Fate)> {
        let is_replaced = |fate: &Fate| matches!(fate, Fate::Changed(_) | Fate::Recounted);
        self.fates.iter().filter(move |(_, fate)| is_replaced(fate)).map(|(map, fate)| (*map, fate))
    }
}

/// The steps from a version of a map to this release's.
fn way(map: Map, found: u32, steps: &Steps) -> Result<Vec<Convert>, Unknown> {
    let unknown = || Unknown { map: map.pin().to_owned(), found, own: Some(map.version()) };
    let step = |from| steps.changed.iter().find(|step| step.map == map.pin() && step.from == from);
    if found > map.version() {
        return Err(unknown());
    }
    (found..map.version()).map(|from| step(from).map(|s| s.convert).ok_or_else(unknown)).collect()
}

/// What becomes of an entry by several steps.
pub(super) fn convert(steps: &[Convert], key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let entry = (key.to_vec(), value.to_vec());
    steps.iter().try_fold(entry, |(key, value), step| step(&key, &value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longer(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        (value[0] != 9).then(|| (key.to_vec(), [value, &[0]].concat()))
    }

    fn doubled(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        Some((key.to_vec(), [value, value].concat()))
    }

    /// What a release has left whose FLOWS were `older` versions back.
    fn found(older: u32) -> Record {
        let mut found = Record::own();
        found.maps.insert("FLOWS".to_owned(), Map::Flows.version() - older);
        found
    }

    /// What a release has left that has this map besides.
    fn with(map: &str, version: u32) -> Record {
        let mut found = Record::own();
        found.maps.insert(map.to_owned(), version);
        found
    }

    const FROM_BEFORE: Steps = Steps {
        changed: &[Step { map: "FLOWS", from: Map::Flows.version() - 1, convert: longer }],
        removed: &["OLD"],
    };

    fn refused(found: &Record, steps: &Steps) -> String {
        Plan::new(found, steps).expect_err("it was taken").to_string()
    }

    #[test]
    fn the_own_maps_are_kept() {
        let plan = Plan::new(&Record::own(), &STEPS).unwrap();
        assert_eq!(plan.fates.len(), Map::ALL.len());
        for (map, fate) in &plan.fates {
            let is_right = match map {
                Map::Schema => matches!(fate, Fate::New),
                _ => matches!(fate, Fate::Kept),
            };
            assert!(is_right, "{map:?}: {fate:?}");
        }
        assert_eq!(plan.replaced().count() + plan.removed.len(), 0);
    }

    #[test]
    fn this_release_takes_over_from_those_without_a_record() {
        Plan::new(&Record::before_records(), &STEPS).unwrap();
    }

    #[test]
    fn an_older_map_goes_by_the_written_step_and_not_without() {
        let plan = Plan::new(&found(1), &FROM_BEFORE).unwrap();
        let replaced: Vec<_> = plan.replaced().collect();
        let [(Map::Flows, Fate::Changed(steps))] = replaced[..] else { panic!("{replaced:?}") };
        assert_eq!(convert(steps, &[1], &[2]), Some((vec![1], vec![2, 0])));
        let none = Steps { changed: &[], removed: &[] };
        let text = refused(&found(1), &none);
        assert!(
            text.contains("FLOWS has version 1, and this version of roost knows no way"),
            "{text}"
        );
        let text = refused(&with("FLOWS", Map::Flows.version() + 1), &FROM_BEFORE);
        assert!(text.contains("FLOWS has version 3, and this version of roost knows 2"), "{text}");
    }

    #[test]
    fn steps_follow_each_other_and_may_leave_an_entry_out() {
        assert_eq!(convert(&[longer, doubled], &[1], &[2]), Some((vec![1], vec![2, 0, 2, 0])));
        assert_eq!(convert(&[longer, doubled], &[1], &[9]), None);
        assert_eq!(convert(&[], &[1], &[9]), Some((vec![1], vec![9])));
    }

    #[test]
    fn a_map_that_nobody_knows_is_refused_and_one_that_is_over_removed() {
        let text = refused(&with("NEWER", 3), &STEPS);
        assert!(text.contains("NEWER (version 3) is none of this version's"), "{text}");
        let plan = Plan::new(&with("OLD", 3), &FROM_BEFORE).unwrap();
        assert_eq!(plan.removed, ["OLD"]);
    }

    #[test]
    fn other_counters_are_counted_on_by_name() {
        let mut less = Record::own();
        less.counters.remove("bound");
        let plan = Plan::new(&less, &STEPS).unwrap();
        let replaced: Vec<_> = plan.replaced().collect();
        assert!(matches!(replaced[..], [(Map::Counters, Fate::Recounted)]), "{replaced:?}");
    }
}
