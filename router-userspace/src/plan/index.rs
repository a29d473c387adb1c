//! The index: what sources say about services and replicas, and the changes that bring the maps
//! there. Pure: the maps are a value ([`Published`]) or a trait ([`Maps`]), so it is tested without a
//! kernel.
//!
//! Numbers are stable without a register of their own: what the maps hold is the register. A service
//! keeps its number by name, a replica by service, name, addresses and port. A number that is not
//! needed any more is given away only when nothing refers to it ([`Index::free_unused`]).

mod plan;
mod published;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use roost_place::slots::SlotTable;
use router_ebpf::maps::REPLICA_GONE;
use thiserror::Error;

use crate::plan::{config, origin::Origin};

pub use published::{Change, Maps, Published};

/// How long a number stays taken at least after it was given up: longer than any connection waits
/// for its replica.
const QUARANTINE: Duration = Duration::from_secs(60);

/// Room in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Services.
    pub services: u32,
    /// Replicas.
    pub replicas: u32,
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

/// Why the wanted state does not fit into the maps.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// More services than there is room for.
    #[error("{}", no_room("services", *.room, .service))]
    Services {
        /// There is room for these.
        room: u32,
        /// This one found none.
        service: String,
    },
    /// More replicas than there is room for.
    #[error("{}", no_room("replicas", *.room, .replica))]
    Replicas {
        /// There is room for these.
        room: u32,
        /// This one found none.
        replica: String,
    },
    /// A service with more prefixes of clients than one may have.
    #[error("{service:?} has {wanted} prefixes in SOURCE_RANGES; a service has at most {room}")]
    Sources {
        /// A service may have these.
        room: u32,
        /// This one has these.
        wanted: usize,
        /// Its name.
        service: String,
    },
}

fn no_room(what: &str, room: u32, name: &str) -> String {
    format!(
        "no room for {name:?}: the maps were made for {room} {what}, with those that are gone but still \
         in use; raise [limits] {what}, then `roost detach` and start anew (ends the connections)"
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
    /// A write has failed.
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

    /// The same, but a service that does not fit into the maps stays as it was, and harms no other.
    /// Returns those.
    pub fn reset_what_fits(
        &mut self,
        source: Origin,
        services: Vec<config::Service>,
    ) -> Vec<(String, PlanError)> {
        let before = self.reset(source, services.clone());
        if self.plan().is_ok() {
            return Vec::new();
        }
        // What leaves makes room. The rest is tried one by one.
        let stays = |old: &config::Service| services.iter().any(|new| new.name == old.name);
        self.reset(source, before.into_iter().filter(stays));
        let mut refused = Vec::new();
        for service in services {
            let name = service.name.clone();
            let old = self.delete(source, &name);
            self.apply(source, service);
            if let Err(e) = self.plan() {
                self.delete(source, &name);
                if let Some(old) = old {
                    self.apply(source, old);
                }
                refused.push((name, e));
            }
        }
        refused
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

    /// The changes that bring the maps to the wanted state, in an order in which every step leaves
    /// them consistent: replicas, slot tables in free regions, services (each change selects its
    /// table), VIPs; then removals, the other way round.
    pub fn plan(&mut self) -> Result<Vec<Change>, PlanError> {
        let desired = plan::desired(self)?;
        Ok(plan::changes(&self.published, &desired))
    }

    /// Whether there may be something to write though no source has said anything: numbers to free,
    /// or what could not be written before.
    pub fn is_behind(&self) -> bool {
        self.is_behind || !self.unused.is_empty()
    }

    /// Plans and writes. After an error the rest is in the next plan.
    pub fn sync<M: Maps>(
        &mut self,
        maps: &mut M,
        now: Duration,
    ) -> Result<Vec<Change>, SyncError<M::Error>> {
        let changes = self.plan().map_err(SyncError::Plan)?;
        self.is_behind = true;
        for change in &changes {
            maps.write(change).map_err(SyncError::Write)?;
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
        self.is_behind = false;
        Ok(changes)
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

/// Why the maps are not in the wanted state.
#[derive(Debug, Error)]
pub enum SyncError<E> {
    /// It does not fit; nothing was written.
    #[error("{0}")]
    Plan(PlanError),
    /// A map refused.
    #[error("{0}")]
    Write(E),
}

#[cfg(test)]
mod tests;
