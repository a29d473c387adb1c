//! The index: what sources say about services and replicas, and the changes that bring the maps
//! there. Pure: the maps are a value ([`Published`]) or a trait ([`Maps`]), so it is tested without a
//! kernel.
//!
//! Numbers are stable without a register of their own: what the maps hold is the register. A service
//! keeps its number by name, a replica by service, name, addresses and port. A number that is not
//! needed any more is given away only when nothing refers to it ([`Index::free_unused`]).

mod plan;
mod published;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use roost_place::slots::SlotTable;
use router_ebpf::{
    maps::{REPLICA_GONE, Vip},
    schema::{Limits, Map},
};
use thiserror::Error;

use crate::plan::{config, origin::Origin};

pub use published::{Change, Maps, Published};
use steps::{Group, Steps};

/// How long a number stays taken at least after it was given up: longer than any connection waits for its replica,
/// of which nothing else is known here.
const QUARANTINE: Duration = config::MOST_HANDSHAKE.saturating_add(Duration::from_secs(60));

/// Room in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Services.
    pub services: u32,
    /// Replicas.
    pub replicas: u32,
    /// Addresses.
    pub vips: u32,
    /// Prefixes of clients.
    pub ranges: u32,
}

impl Room {
    /// That of new maps.
    pub fn of(limits: &Limits) -> Self {
        let size = |map: Map| map.size(limits);
        Self {
            services: size(Map::Services),
            replicas: size(Map::Replicas),
            vips: size(Map::Vips),
            ranges: size(Map::SourceRanges),
        }
    }
}

/// The largest segments that clients and replicas of a service may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mss {
    /// Over IPv4.
    pub v4: u16,
    /// Over IPv6.
    pub v6: u16,
}

impl Default for Mss {
    /// An Ethernet's.
    fn default() -> Self {
        Self { v4: 1460, v6: 1440 }
    }
}

/// What the maps refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Services of flows, chats and pins.
    pub services: BTreeSet<u32>,
    /// Replicas of flows, chats and pins.
    pub replicas: BTreeSet<u32>,
}

/// Why a service does not fit into the maps.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A map has no room for what it needs.
    #[error(
        "no room for {service:?}: map {} has {there} of {room} entries in use, and it needs {wanted} more; {}",
        .map.pin(),
        raise(*.map)
    )]
    Room {
        /// The service.
        service: String,
        /// The map.
        map: Map,
        /// Entries that are in use.
        there: usize,
        /// Entries that it needs in addition.
        wanted: usize,
        /// Entries that the map takes.
        room: u32,
    },
    /// A service with more prefixes of clients than one may have.
    #[error(
        "no room for {service:?}: it has {wanted} prefixes of clients for map SOURCE_RANGES, and a service may \
         have {room}"
    )]
    Sources {
        /// Its name.
        service: String,
        /// It has these.
        wanted: usize,
        /// A service may have these.
        room: u32,
    },
}

impl PlanError {
    /// The same in words that stay as long as the service and the maps' sizes do: what is in use differs
    /// from node to node, and from one moment to the next.
    pub fn lasting(&self) -> String {
        match self {
            Self::Room { service, map, room, .. } => {
                let (map, raise) = (map.pin(), raise(*map));
                format!("no room for {service:?} in map {map}, which takes {room} entries; {raise}")
            }
            Self::Sources { .. } => self.to_string(),
        }
    }
}

/// What gives a map more room.
fn raise(map: Map) -> String {
    let limit = if map == Map::Replicas { "replicas" } else { "services" };
    let gone = match map {
        Map::Replicas => "those that are gone but still in use count, too; ",
        Map::Services => "those that were removed but are still in use count, too; ",
        _ => "",
    };
    format!(
        "{gone}raise [limits] {limit}, then `roost detach` and start anew (ends the connections)"
    )
}

/// What sources say, and what the maps hold.
pub struct Index {
    room: Room,
    /// By source, the first in rank first, and by service name. The first that knows a name has it.
    sources: BTreeMap<Origin, BTreeMap<String, config::Service>>,
    /// Names of services that stay as the maps have them.
    keep: BTreeSet<String>,
    mss: BTreeMap<String, Mss>,
    published: Published,
    /// Numbers of services that were removed, since when (monotonic time).
    retired: BTreeMap<u32, Duration>,
    /// Numbers of replicas that are gone, since when.
    gone: BTreeMap<u32, Duration>,
    /// Numbers of gone replicas that nothing refers to.
    unused: BTreeSet<u32>,
    /// The last slot table of each service number, and what it was built from.
    tables: BTreeMap<u32, (Vec<(String, u32)>, SlotTable)>,
    /// Something did not fit, or a write has failed.
    is_behind: bool,
}

impl Index {
    /// An index over what the maps hold now.
    pub fn new(room: Room, published: Published) -> Self {
        Self {
            room,
            sources: BTreeMap::new(),
            keep: BTreeSet::new(),
            mss: BTreeMap::new(),
            published,
            retired: BTreeMap::new(),
            gone: BTreeMap::new(),
            unused: BTreeSet::new(),
            tables: BTreeMap::new(),
            is_behind: false,
        }
    }

    /// A source adds or changes a service.
    pub fn apply(&mut self, source: Origin, service: config::Service) {
        let services = self.sources.entry(source).or_default();
        services.insert(service.name.clone(), service);
    }

    /// A source removes a service. Returns what it was.
    pub fn delete(&mut self, source: Origin, name: &str) -> Option<config::Service> {
        self.sources.get_mut(&source)?.remove(name)
    }

    /// A source says all that it knows. Returns what it knew before.
    pub fn reset(
        &mut self,
        source: Origin,
        services: impl IntoIterator<Item = config::Service>,
    ) -> Vec<config::Service> {
        let services = services.into_iter().map(|s| (s.name.clone(), s)).collect();
        let before = self.sources.insert(source, services);
        before.into_iter().flat_map(BTreeMap::into_values).collect()
    }

    /// Sets which services stay as the maps have them, whatever sources say: what is said of them is
    /// not believed yet.
    pub fn keep(&mut self, names: BTreeSet<String>) {
        self.keep = names;
    }

    /// Sets what the paths of a service can carry.
    pub fn set_mss(&mut self, service: &str, mss: Mss) {
        self.mss.insert(service.to_owned(), mss);
    }

    /// The services of all sources, by name.
    pub fn services(&self) -> BTreeMap<&str, &config::Service> {
        let mut all = BTreeMap::new();
        for (name, service) in self.sources.values().flatten() {
            all.entry(name.as_str()).or_insert(service);
        }
        all
    }

    /// The same, by the rank of their source and then by name: where two services claim a VIP, the
    /// first has it.
    fn declared(&self) -> Vec<&config::Service> {
        let mut names = BTreeSet::new();
        let all = self.sources.values().flatten();
        all.filter(|(name, _)| names.insert(name.as_str())).map(|(_, service)| service).collect()
    }

    /// What the maps hold.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// What does not fit into the maps as they are, by service.
    pub fn refused(&mut self) -> BTreeMap<String, PlanError> {
        plan::wanted(self).refused
    }

    /// Whether there may be something to write though no source has said anything: numbers to free,
    /// or what did not fit or could not be written before.
    pub fn is_behind(&self) -> bool {
        self.is_behind || !self.unused.is_empty()
    }

    /// Plans and writes, each service by itself, and what goes before what comes. What fails is tried again
    /// by the next call.
    pub fn sync<M: Maps>(&mut self, maps: &mut M, now: Duration) -> Synced<M::Error> {
        let mut out = Synced { changes: Vec::new(), failed: BTreeMap::new() };
        for _ in 0..2 {
            let begin = out.changes.len();
            self.sync_once(maps, now, &mut out);
            let freed = out.changes[begin..].iter().any(Change::makes_room);
            // What has gone may be the room that was missing.
            if !freed || !out.failed.values().any(|why| matches!(why, SyncError::Plan(_))) {
                break;
            }
        }
        self.is_behind = !out.failed.is_empty();
        out
    }

    fn sync_once<M: Maps>(&mut self, maps: &mut M, now: Duration, out: &mut Synced<M::Error>) {
        let wanted = plan::wanted(self);
        let Steps { first, then, last, freed } = steps::steps(&self.published, &wanted);
        out.failed = wanted.refused.into_iter().map(|(name, e)| (name, e.into())).collect();
        let freed = [(None, Group { comes: Vec::new(), goes: freed })];
        let numbered = |(number, group)| (Some(number), group);
        let before = first.into_iter().map(numbered).chain(freed);
        let after = then.into_iter().chain(last).map(numbered);
        for (number, mut group) in before.chain(after) {
            let name = match number {
                Some(number) => self.name(number, &wanted.maps),
                None => "(replicas that are gone)".to_owned(),
            };
            if number.is_some_and(|number| !wanted.maps.services.contains_key(&number)) {
                // Those that should have come to others by now.
                let kept = self.published.vips.iter().filter(|(_, owner)| Some(**owner) == number);
                let remove = |(prefix_len, vip): &(u32, Vip)| Change::RemoveVip {
                    prefix_len: *prefix_len,
                    vip: *vip,
                };
                let kept: Vec<_> = kept.map(|(key, _)| remove(key)).collect();
                group.goes.retain(|change| !kept.contains(change));
                group.goes.splice(0..0, kept);
            }
            if let Some(e) = self.write(maps, group, now, &mut out.changes) {
                out.failed.insert(name, SyncError::Write(e));
            }
        }
    }

    /// Writes what is to be written for a service.
    fn write<M: Maps>(
        &mut self,
        maps: &mut M,
        group: Group,
        now: Duration,
        done: &mut Vec<Change>,
    ) -> Option<M::Error> {
        let mut failed = None;
        for change in group.comes.into_iter().chain(group.goes) {
            // Whatever has failed: a replica that is gone gets no more packets, which are for somebody else
            // at its address by then, and an address that was given up is not answered for.
            if failed.is_some() && !change.must_be() {
                continue;
            }
            match maps.write(&change) {
                Ok(()) => {
                    self.note(&change, now);
                    done.push(change);
                }
                Err(e) => {
                    if let Change::Slots { first, .. } = change {
                        // Nobody knows what of it is there: it is written as a whole.
                        self.published.slots.remove(&first);
                    }
                    failed.get_or_insert(e);
                }
            }
        }
        failed
    }

    fn note(&mut self, change: &Change, now: Duration) {
        self.published.note(change);
        match change {
            Change::Replica { number, value } if value.state == REPLICA_GONE => {
                self.gone.insert(*number, now);
            }
            Change::RemoveService { number } => {
                self.retired.insert(*number, now);
                self.tables.remove(number);
            }
            Change::RemoveReplica { number } => {
                self.unused.remove(number);
            }
            _ => {}
        }
    }

    /// What a service is called that is or is to be.
    fn name(&self, number: u32, wanted: &Published) -> String {
        let value = self.published.services.get(&number).or_else(|| wanted.services.get(&number));
        value.map_or_else(String::new, |s| String::from_utf8_lossy(s.name.kept()).into_owned())
    }

    /// Learns what the maps refer to. Numbers that are gone, long enough and referred to by nothing
    /// become free with the next plan.
    pub fn free_unused(&mut self, used: &Used, now: Duration) {
        let over = |since: &Duration| now.saturating_sub(*since) >= QUARANTINE;
        for number in &used.services {
            if !self.published.services.contains_key(number) {
                self.retired.entry(*number).or_insert(now);
            }
        }
        self.retired.retain(|number, since| used.services.contains(number) || !over(since));
        for (number, replica) in &self.published.replicas {
            if replica.state == REPLICA_GONE {
                self.gone.entry(*number).or_insert(now);
            } else {
                self.gone.remove(number);
            }
        }
        self.gone.retain(|number, _| self.published.replicas.contains_key(number));
        let unused = |(number, since): (&u32, &Duration)| {
            (over(since) && !used.replicas.contains(number)).then_some(*number)
        };
        self.unused = self.gone.iter().filter_map(unused).collect();
    }
}

/// What became of bringing the maps to the wanted state.
#[derive(Debug)]
pub struct Synced<E> {
    /// What was written.
    pub changes: Vec<Change>,
    /// Services that are not as their sources say, and why.
    pub failed: BTreeMap<String, SyncError<E>>,
}

/// Why a service is not as its source says.
#[derive(Debug, Error)]
pub enum SyncError<E> {
    /// It does not fit: but for what has gone, it stays as it was.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// A map refused.
    #[error("{0}")]
    Write(E),
}

#[cfg(test)]
mod tests;
