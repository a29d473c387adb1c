//! From what sources say to what the maps should hold, and the way there.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;
use roost_place::slots::{self, Candidate, SlotTable};
use router_ebpf::maps::{
    Addr, KeySource, MISSING_REJECT, MISSING_REPLICA, MISSING_SPREAD, NO_REPLICA, Name,
    POLICY_HOME, POLICY_SPREAD, REPLICA_DRAINING, REPLICA_GONE, REPLICA_READY, Replica,
    SLOT_STRIDE, SOURCES, SOURCES_OF_SERVICE, Service, SourceRange, Vip,
};

use crate::plan::{
    addr,
    config::{self, OnMissing, Policy, Prefix, State},
};

use super::{Change, Index, PlanError, Published};

/// What the maps should hold. Gone replicas keep their entries, with their state.
pub(super) fn desired(index: &mut Index) -> Result<Published, PlanError> {
    let mut tables = std::mem::take(&mut index.tables);
    let desired = Desired::new(index).build(&mut tables);
    index.tables = tables;
    desired
}

type Tables = BTreeMap<u32, (Vec<(String, u32)>, SlotTable)>;

struct Desired<'a> {
    index: &'a Index,
    out: Published,
    taken_services: BTreeSet<u32>,
    free_replicas: Box<dyn Iterator<Item = u32> + 'a>,
}

/// A replica with its number.
struct Numbered<'a> {
    number: u32,
    replica: &'a config::Replica,
}

impl<'a> Desired<'a> {
    fn new(index: &'a Index) -> Self {
        let published = &index.published;
        let mut out = Published::default();
        for (number, replica) in &published.replicas {
            if !index.unused.contains(number) {
                out.replicas.insert(*number, Replica { state: REPLICA_GONE, ..*replica });
            }
        }
        // Those that are unused are free only once they are cleared: with the next plan.
        let is_free = |number: &u32| !published.replicas.contains_key(number);
        Self {
            index,
            out,
            taken_services: published
                .services
                .keys()
                .chain(index.retired.keys())
                .copied()
                .collect(),
            free_replicas: Box::new((0..index.room.replicas).filter(is_free)),
        }
    }

    fn build(mut self, tables: &mut Tables) -> Result<Published, PlanError> {
        for service in self.index.declared() {
            if !self.index.keep.contains(&service.name) || self.published(&service.name).is_none() {
                self.service(service, tables)?;
            }
        }
        self.keep();
        Ok(self.out)
    }

    fn service(&mut self, service: &config::Service, tables: &mut Tables) -> Result<(), PlanError> {
        let number = self.service_number(service)?;
        let replicas = self.replicas(number, service)?;
        for (prefix, port) in service.vips() {
            let vip = Vip { port: port.to_be_bytes(), addr: addr::to_map(prefix.addr()) };
            self.out.vips.entry((addr::vip_bits(&prefix), vip)).or_insert(number);
        }
        if let Some(sources) = &service.allowed_sources {
            self.out.ranges.extend(ranges(number, service, sources)?);
        }
        let of = |state| replicas.iter().filter(move |r| r.replica.state == state);
        let mut usable: Vec<&Numbered<'_>> = of(State::Ready).collect();
        if usable.is_empty() {
            usable = of(State::Draining).collect();
        }
        let (slots, generation, digest) = self.slots(number, &usable, tables);
        let (on_missing_key, missing_replica) = match &service.on_missing_key {
            OnMissing::Spread => (MISSING_SPREAD, NO_REPLICA),
            OnMissing::Reject => (MISSING_REJECT, NO_REPLICA),
            OnMissing::Replica(name) => {
                let replica = replicas.iter().find(|r| r.replica.name == *name);
                (MISSING_REPLICA, replica.map_or(NO_REPLICA, |r| r.number))
            }
        };
        let mss = self.index.mss.get(&service.name).copied().unwrap_or_default();
        let mut sources = [KeySource::NONE; SOURCES];
        for (to, from) in sources.iter_mut().zip(&service.keys) {
            *to = from.to_map();
        }
        let value = Service {
            digest,
            slots,
            generation,
            usable: usable.len() as u32,
            missing_replica,
            idle_timeout: u32::try_from(service.idle_timeout.as_secs()).unwrap_or(u32::MAX),
            mss4: service.mss.unwrap_or(mss.v4),
            mss6: service.mss.unwrap_or(mss.v6),
            policy: match service.policy {
                Policy::Spread => POLICY_SPREAD,
                Policy::Home => POLICY_HOME,
            },
            on_missing_key,
            width: service.width,
            sources,
            name: Name::new(service.name.as_bytes()),
            linger: u32::try_from(service.linger.as_secs()).unwrap_or(u32::MAX),
            restricted: service.allowed_sources.is_some() as u8,
            reserved: [0; 3],
        };
        self.out.services.insert(number, value);
        Ok(())
    }

    fn published(&self, name: &str) -> Option<(u32, &'a Service)> {
        let name = Name::new(name.as_bytes());
        let mut all = self.index.published.services.iter();
        all.find(|(_, s)| s.name == name).map(|(number, s)| (*number, s))
    }

    /// Leaves services as they are that are to be kept.
    fn keep(&mut self) {
        let published = &self.index.published;
        for name in &self.index.keep {
            let Some((number, service)) = self.published(name) else { continue };
            self.out.services.insert(number, *service);
            if let Some(table) = published.slots.get(&service.slots) {
                self.out.slots.insert(service.slots, Arc::clone(table));
            }
            let here = |r: &Replica| r.service == number && r.state != REPLICA_GONE;
            for (at, replica) in published.replicas.iter().filter(|(_, r)| here(r)) {
                self.out.replicas.insert(*at, *replica);
            }
            let own = number.to_be_bytes();
            let ranges = published.ranges.iter().filter(|((_, range), _)| range.service == own);
            self.out.ranges.extend(ranges);
            for (vip, _) in published.vips.iter().filter(|(_, owner)| **owner == number) {
                self.out.vips.entry(*vip).or_insert(number);
            }
        }
    }

    fn service_number(&mut self, service: &config::Service) -> Result<u32, PlanError> {
        let name = Name::new(service.name.as_bytes());
        let known = self.index.published.services.iter().find(|(_, s)| s.name == name);
        if let Some((number, _)) = known {
            return Ok(*number);
        }
        let room = self.index.room.services;
        let number = (0..room)
            .find(|n| !self.taken_services.contains(n))
            .ok_or_else(|| PlanError::Services { room, service: service.name.clone() })?;
        self.taken_services.insert(number);
        Ok(number)
    }

    fn replicas<'s>(
        &mut self,
        service: u32,
        config: &'s config::Service,
    ) -> Result<Vec<Numbered<'s>>, PlanError> {
        let known: Vec<_> =
            self.index.published.replicas.iter().filter(|(_, r)| r.service == service).collect();
        let mut all = Vec::new();
        for replica in &config.replicas {
            let address = |is: fn(&IpAddr) -> bool| {
                let found = replica.addresses.iter().copied().find(is);
                found.map_or(Addr::default(), addr::to_map)
            };
            let value = Replica {
                v4: address(IpAddr::is_ipv4),
                v6: address(IpAddr::is_ipv6),
                port: replica.port.to_be_bytes(),
                state: match replica.state {
                    State::Ready => REPLICA_READY,
                    State::Draining | State::Unready => REPLICA_DRAINING,
                },
                reserved: 0,
                service,
                weight: replica.weight,
                name: Name::new(replica.name.as_bytes()),
            };
            // An address may come to a replica, but none that a flow may use changes or goes.
            let fits = |old: Addr, new: Addr| old == new || old == Addr::default();
            // One that was gone comes back under a new number: its chats may live elsewhere by now,
            // and flows of its former time are not to be taken for live ones.
            let same = |r: &Replica| {
                r.state != REPLICA_GONE
                    && (r.name, r.port) == (value.name, value.port)
                    && fits(r.v4, value.v4)
                    && fits(r.v6, value.v6)
            };
            let number = match known.iter().find(|(_, r)| same(r)) {
                Some((number, _)) => **number,
                None => self.free_replicas.next().ok_or_else(|| PlanError::Replicas {
                    room: self.index.room.replicas,
                    replica: format!("{}/{}", config.name, replica.name),
                })?,
            };
            self.out.replicas.insert(number, value);
            all.push(Numbered { number, replica });
        }
        Ok(all)
    }

    /// Where the service's table begins, its generation and digest. The table goes to the published
    /// place if it is there already, else to the other of the service's two.
    fn slots(
        &mut self,
        service: u32,
        usable: &[&Numbered<'_>],
        tables: &mut Tables,
    ) -> (u32, u32, u64) {
        let published = self.index.published.services.get(&service);
        let generation = published.map_or(0, |s| s.generation);
        let from: Vec<_> =
            usable.iter().map(|r| (r.replica.name.clone(), r.replica.weight)).collect();
        if tables.get(&service).is_none_or(|(old, _)| *old != from) {
            let candidates: Vec<_> = from
                .iter()
                .map(|(identity, weight)| Candidate { identity, weight: *weight })
                .collect();
            match slots::build(&candidates) {
                Some(table) => tables.insert(service, (from, table)),
                None => tables.remove(&service),
            };
        }
        let Some((_, table)) = tables.get(&service) else {
            return (NO_REPLICA, generation, 0);
        };
        let number = |owner: &u32| usable[*owner as usize].number;
        let wanted: Vec<u32> = table.owners.iter().map(number).collect();
        let regions = [2 * service * SLOT_STRIDE, (2 * service + 1) * SLOT_STRIDE];
        let current = published.map(|s| s.slots);
        let there =
            current.and_then(|first| Some((first, self.index.published.slots.get(&first)?)));
        if let Some((first, there)) = there
            && **there == wanted
        {
            self.out.slots.insert(first, Arc::clone(there));
            return (first, generation, table.digest);
        }
        let first = if current == Some(regions[0]) { regions[1] } else { regions[0] };
        self.out.slots.insert(first, Arc::new(wanted));
        (first, generation.wrapping_add(1), table.digest)
    }
}

/// What `SOURCE_RANGES` has for a service.
fn ranges(
    number: u32,
    service: &config::Service,
    sources: &[Prefix],
) -> Result<BTreeMap<(u32, SourceRange), u32>, PlanError> {
    let key = |prefix: &Prefix| {
        let addr = addr::to_map(prefix.addr());
        (addr::source_bits(prefix), SourceRange { service: number.to_be_bytes(), addr })
    };
    let mut ranges: BTreeMap<_, _> = sources.iter().map(|prefix| (key(prefix), 1)).collect();
    // Prefixes of IPv6 that IPv4 is mapped into are not meant for that.
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    if sources.iter().any(|prefix| prefix.contains(&IpAddr::V6(mapped))) {
        let all = IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("a length of none");
        ranges.entry(key(&all.into())).or_insert(0);
    }
    let room = SOURCES_OF_SERVICE;
    let wanted = sources.len();
    if wanted > room as usize {
        return Err(PlanError::Sources { room, wanted, service: service.name.clone() });
    }
    Ok(ranges)
}

/// The writes that lead from one state to the other, in the safe order.
pub(super) fn changes(from: &Published, to: &Published) -> Vec<Change> {
    let mut changes = Vec::new();
    let replica = |(number, value): (&u32, &Replica)| {
        let differs = from.replicas.get(number) != Some(value);
        differs.then_some(Change::Replica { number: *number, value: *value })
    };
    let (gone, here): (Vec<_>, Vec<_>) =
        to.replicas.iter().partition(|(_, r)| r.state == REPLICA_GONE);
    changes.extend(here.into_iter().filter_map(replica));
    for (first, wanted) in &to.slots {
        let there = from.slots.get(first);
        let differs = |(slot, replica): &(u32, u32)| {
            there.and_then(|there| there.get(*slot as usize)) != Some(replica)
        };
        let slots: Vec<_> = (0..).zip(wanted.iter().copied()).filter(differs).collect();
        if !slots.is_empty() {
            changes.push(Change::Slots { first: *first, slots });
        }
    }
    let differs = |(key, value): &(&(u32, SourceRange), &u32)| from.ranges.get(key) != Some(value);
    let mut ranges: Vec<_> = to.ranges.iter().filter(differs).collect();
    // What lets nobody in first.
    ranges.sort_by_key(|(_, value)| **value);
    changes.extend(ranges.into_iter().map(|((prefix_len, range), value)| Change::Range {
        prefix_len: *prefix_len,
        range: *range,
        value: *value,
    }));
    for (number, value) in &to.services {
        if from.services.get(number) != Some(value) {
            changes.push(Change::Service { number: *number, value: Box::new(*value) });
        }
    }
    for (key @ (prefix_len, vip), service) in &to.vips {
        if from.vips.get(key) != Some(service) {
            changes.push(Change::Vip { prefix_len: *prefix_len, vip: *vip, service: *service });
        }
    }
    for key @ (prefix_len, vip) in from.vips.keys() {
        if !to.vips.contains_key(key) {
            changes.push(Change::RemoveVip { prefix_len: *prefix_len, vip: *vip });
        }
    }
    for number in from.services.keys() {
        if !to.services.contains_key(number) {
            changes.push(Change::RemoveService { number: *number });
        }
    }
    let is_gone = |(key, _): &(&(u32, SourceRange), &u32)| !to.ranges.contains_key(key);
    let mut ranges: Vec<_> = from.ranges.iter().filter(is_gone).collect();
    // What lets nobody in last.
    ranges.sort_by_key(|(_, value)| Reverse(**value));
    changes.extend(ranges.into_iter().map(|((prefix_len, range), _)| Change::RemoveRange {
        prefix_len: *prefix_len,
        range: *range,
    }));
    changes.extend(gone.into_iter().filter_map(replica));
    for number in from.replicas.keys() {
        if !to.replicas.contains_key(number) {
            changes.push(Change::RemoveReplica { number: *number });
        }
    }
    changes
}
