//! From what sources say to what the maps should hold. A service that does not fit stays as the maps have
//! it, without what has left it, and harms no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use roost_place::slots::{self, Candidate, SlotTable};
use router_ebpf::{
    maps::{
        Addr, KeySource, MISSING_REJECT, MISSING_REPLICA, MISSING_SPREAD, NO_REPLICA, Name,
        POLICY_HOME, POLICY_SPREAD, PROXIES, REPLICA_DRAINING, REPLICA_GONE, REPLICA_READY,
        REUSE_REBIND, REUSE_RESET, REUSE_STAY, Replica, SLOT_STRIDE, SOURCES, SOURCES_OF_SERVICE,
        Service, SourceRange, Vip,
    },
    schema::Map,
};

use crate::plan::{
    addr,
    config::{self, OnMissing, OnReuse, Policy, Prefix, State},
};

use super::{Index, PlanError, Published};

/// What follows from what sources say.
pub(super) struct Wanted {
    /// What the maps should hold. Gone replicas keep their entries, with their state.
    pub(super) maps: Published,
    /// The services' numbers, in the order in which there was found to be room for them.
    pub(super) order: Vec<u32>,
    /// What does not fit, by service.
    pub(super) refused: BTreeMap<String, PlanError>,
}

/// What follows from what sources say now.
pub(super) fn wanted(index: &mut Index) -> Wanted {
    let mut tables = std::mem::take(&mut index.tables);
    let wanted = Desired::new(index).build(&mut tables);
    index.tables = tables;
    wanted
}

type Tables = BTreeMap<u32, (Vec<(String, u32)>, SlotTable)>;
/// Keys of `VIPS` and of `SOURCE_RANGES`.
type VipKey = (u32, Vip);
type Ranges = BTreeMap<(u32, SourceRange), u32>;

struct Desired<'a> {
    index: &'a Index,
    /// The services of the maps by their names,
    there: BTreeMap<Name, (u32, &'a Service)>,
    /// and what else the maps have of them.
    own: BTreeMap<u32, Own<'a>>,
    out: Wanted,
    taken_services: BTreeSet<u32>,
    /// Numbers of replicas that are free, those first that were found too few for another service.
    spare_replicas: Vec<u32>,
    free_replicas: Box<dyn Iterator<Item = u32> + 'a>,
    /// What is in `VIPS` when the services before this one are written.
    vips: BTreeSet<VipKey>,
    /// How many entries are in `SOURCE_RANGES` then.
    ranges: usize,
}

/// What the maps have of a service.
#[derive(Default)]
struct Own<'a> {
    vips: Vec<VipKey>,
    ranges: Ranges,
    /// Those that are not gone.
    replicas: Vec<(u32, &'a Replica)>,
}

/// What a service is to have in the maps, but for its slot table.
struct Part<'s> {
    number: u32,
    replicas: Vec<Numbered<'s>>,
    vips: Vec<VipKey>,
    ranges: Ranges,
    /// Without what follows from its replicas.
    value: Service,
}

/// A replica with its number and entry.
struct Numbered<'s> {
    number: u32,
    replica: &'s config::Replica,
    entry: Replica,
}

impl<'a> Desired<'a> {
    fn new(index: &'a Index) -> Self {
        let published = &index.published;
        let mut maps = Published::default();
        for (number, replica) in &published.replicas {
            if !index.unused.contains(number) {
                maps.replicas.insert(*number, Replica { state: REPLICA_GONE, ..*replica });
            }
        }
        let there: BTreeMap<_, _> =
            published.services.iter().map(|(number, s)| (s.name, (*number, s))).collect();
        let own = own(published);
        let names = index.services().into_keys().chain(index.keep.iter().map(String::as_str));
        let names: BTreeSet<Name> = names.map(|name| Name::new(name.as_bytes())).collect();
        let stays = |name: &&Name| there.get(*name).map(|(number, _)| own.get(number));
        let living: Vec<&Own<'_>> = names.iter().filter_map(|name| stays(&name)?).collect();
        let vips = living.iter().flat_map(|own| own.vips.iter().copied()).collect();
        let ranges = living.iter().map(|own| own.ranges.len()).sum();
        // Those that are unused are free only once they are cleared: with the next plan.
        let is_free = |number: &u32| !published.replicas.contains_key(number);
        let taken = published.services.keys().chain(index.retired.keys());
        Self {
            index,
            there,
            own,
            out: Wanted { maps, order: Vec::new(), refused: BTreeMap::new() },
            taken_services: taken.copied().collect(),
            spare_replicas: Vec::new(),
            free_replicas: Box::new((0..index.room.replicas).filter(is_free)),
            vips,
            ranges,
        }
    }

    fn build(mut self, tables: &mut Tables) -> Wanted {
        for service in self.index.declared() {
            let there = self.published(&service.name);
            if there.is_some() && self.index.keep.contains(&service.name) {
                continue;
            }
            match (self.whole(service), there) {
                (Ok(part), _) => self.take(part, tables),
                (Err(e), there) => {
                    self.out.refused.insert(service.name.clone(), e);
                    if let Some((number, old)) = there {
                        let part = self.what_is_left(service, number, old);
                        self.take(part, tables);
                    }
                }
            }
        }
        self.keep();
        self.out
    }

    fn published(&self, name: &str) -> Option<(u32, &'a Service)> {
        self.there.get(&Name::new(name.as_bytes())).copied()
    }

    /// The service as its source says, if there is room for it.
    fn whole<'s>(&mut self, service: &'s config::Service) -> Result<Part<'s>, PlanError> {
        let index = self.index;
        let number = self.service_number(service)?;
        let vips = self.unclaimed(service);
        let ranges = ranges(number, service);
        let allowed = service.allowed_sources.as_ref().map_or(0, Vec::len);
        let wanted = allowed + service.proxy_protocol_from.len();
        if wanted > SOURCES_OF_SERVICE as usize {
            let (service, room) = (service.name.clone(), SOURCES_OF_SERVICE);
            return Err(PlanError::Sources { service, wanted, room });
        }
        let fits = |map, there: usize, more: usize, room: u32| match there + more > room as usize {
            false => Ok(()),
            true => Err(no_room(service, map, there, more, room)),
        };
        let more = vips.iter().filter(|key| !self.vips.contains(*key)).count();
        fits(Map::Vips, self.vips.len(), more, index.room.vips)?;
        let more = ranges.keys().filter(|key| !index.published.ranges.contains_key(*key)).count();
        fits(Map::SourceRanges, self.ranges, more, index.room.ranges)?;
        let replicas = self.replicas(number, service)?;
        self.taken_services.insert(number);
        let mut value = settings(service);
        let mss = index.mss.get(&service.name).copied().unwrap_or_default();
        (value.mss4, value.mss6) = (service.mss.unwrap_or(mss.v4), service.mss.unwrap_or(mss.v6));
        if let OnMissing::Replica(name) = &service.on_missing_key {
            let replica = replicas.iter().find(|r| r.replica.name == *name);
            value.missing_replica = replica.map_or(NO_REPLICA, |r| r.number);
        }
        Ok(Part { number, replicas, vips, ranges, value })
    }

    /// The service as the maps have it, without what its source does not name any more: that has to go
    /// whether there is room for the rest or not.
    fn what_is_left<'s>(
        &self,
        service: &'s config::Service,
        number: u32,
        old: &Service,
    ) -> Part<'s> {
        let published = &self.index.published;
        let here = |key: &VipKey| published.vips.get(key) == Some(&number);
        let replicas: Vec<_> = self.known(number, service).into_iter().flatten().collect();
        let mut ranges = self.own.get(&number).map_or_else(Ranges::new, |own| own.ranges.clone());
        let wanted = self::ranges(number, service);
        let is_open = service.allowed_sources.is_none();
        ranges.retain(|key, may| {
            *may == 0 || is_open && !key.1.is_proxy() || wanted.contains_key(key)
        });
        let mut value = *old;
        if replicas.iter().all(|r| r.number != value.missing_replica) {
            value.missing_replica = NO_REPLICA;
        }
        let vips = self.unclaimed(service).into_iter().filter(here).collect();
        Part { number, replicas, vips, ranges, value }
    }

    /// Enters a service, with its slot table.
    fn take(&mut self, part: Part<'_>, tables: &mut Tables) {
        let Part { number, replicas, vips, ranges, mut value } = part;
        let of = |state| replicas.iter().filter(move |r| r.replica.state == state);
        let mut usable: Vec<&Numbered<'_>> = of(State::Ready).collect();
        if usable.is_empty() {
            usable = of(State::Draining).collect();
        }
        value.usable = usable.len() as u32;
        (value.slots, value.generation, value.digest) = self.slots(number, &usable, tables);
        value.reading = self.reading(number, &value, &ranges);
        let out = &mut self.out;
        out.maps.replicas.extend(replicas.iter().map(|r| (r.number, r.entry)));
        out.maps.vips.extend(vips.iter().map(|key| (*key, number)));
        out.maps.services.insert(number, value);
        out.order.push(number);
        // What this service gives up is gone when the next one is written.
        if let Some(own) = self.own.get(&number) {
            for key in own.vips.iter().filter(|key| !out.maps.vips.contains_key(key)) {
                self.vips.remove(key);
            }
            self.ranges = self.ranges.saturating_sub(own.ranges.len());
        }
        self.vips.extend(vips);
        self.ranges += ranges.len();
        out.maps.ranges.extend(ranges);
    }

    /// Leaves services as they are that are to be kept.
    fn keep(&mut self) {
        let published = &self.index.published;
        for name in &self.index.keep {
            let Some((number, service)) = self.published(name) else { continue };
            let out = &mut self.out.maps;
            out.services.insert(number, *service);
            if let Some(table) = published.slots.get(&service.slots) {
                out.slots.insert(service.slots, Arc::clone(table));
            }
            let Some(own) = self.own.get(&number) else { continue };
            out.replicas.extend(own.replicas.iter().map(|(at, replica)| (*at, **replica)));
            out.ranges.extend(&own.ranges);
            for vip in &own.vips {
                out.vips.entry(*vip).or_insert(number);
            }
        }
    }

    /// The service's number, or one that is free.
    fn service_number(&self, service: &config::Service) -> Result<u32, PlanError> {
        if let Some((number, _)) = self.published(&service.name) {
            return Ok(number);
        }
        let room = self.index.room.services;
        let free = (0..room).find(|n| !self.taken_services.contains(n));
        free.ok_or_else(|| no_room(service, Map::Services, self.taken_services.len(), 1, room))
    }

    /// The service's addresses that no other has claimed before.
    fn unclaimed(&self, service: &config::Service) -> Vec<VipKey> {
        let key = |(prefix, port): (Prefix, u16)| {
            let vip = Vip { port: port.to_be_bytes(), addr: addr::to_map(prefix.addr()) };
            (addr::vip_bits(&prefix), vip)
        };
        let mut keys: Vec<_> = service.vips().map(key).collect();
        keys.retain(|key| !self.out.maps.vips.contains_key(key));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// All replicas of a service, with new numbers for those that have none.
    fn replicas<'s>(
        &mut self,
        number: u32,
        service: &'s config::Service,
    ) -> Result<Vec<Numbered<'s>>, PlanError> {
        let known = self.known(number, service);
        let more = known.iter().filter(|known| known.is_none()).count();
        while self.spare_replicas.len() < more
            && let Some(free) = self.free_replicas.next()
        {
            self.spare_replicas.push(free);
        }
        if self.spare_replicas.len() < more {
            let room = self.index.room.replicas;
            let there = room as usize - self.spare_replicas.len();
            return Err(no_room(service, Map::Replicas, there, more, room));
        }
        let mut free = self.spare_replicas.drain(..more);
        let new = |(known, replica): (Option<Numbered<'s>>, &'s config::Replica)| {
            known.unwrap_or_else(|| Numbered {
                number: free.next().expect("as many as there are new ones"),
                replica,
                entry: entry(number, replica),
            })
        };
        Ok(known.into_iter().zip(&service.replicas).map(new).collect())
    }

    /// The replicas of a service, as far as they have numbers. One that was gone comes back under a new one:
    /// its chats may live elsewhere by now, and flows of its former time are not to be taken for live ones.
    fn known<'s>(&self, number: u32, service: &'s config::Service) -> Vec<Option<Numbered<'s>>> {
        let known = self.own.get(&number).map_or(&[][..], |own| &own.replicas[..]);
        let find = |replica: &'s config::Replica| {
            let entry = entry(number, replica);
            // An address may come to a replica, but none that a flow may use changes or goes.
            let fits = |old: Addr, new: Addr| old == new || old == Addr::default();
            let same = |r: &Replica| {
                (r.name, r.port) == (entry.name, entry.port)
                    && fits(r.v4, entry.v4)
                    && fits(r.v6, entry.v6)
            };
            let (number, _) = known.iter().find(|(_, r)| same(r))?;
            Some(Numbered { number: *number, replica, entry })
        };
        service.replicas.iter().map(find).collect()
    }

    /// What the service's [`Service::reading`] is: heads that wait are read anew from the first byte if it changes.
    fn reading(&self, number: u32, new: &Service, ranges: &Ranges) -> u8 {
        let Some(old) = self.index.published.services.get(&number) else { return 0 };
        let none = Ranges::new();
        let before = self.own.get(&number).map_or(&none, |own| &own.ranges);
        let same = (old.sources, old.proxied) == (new.sources, new.proxied)
            && proxies(before).eq(proxies(ranges));
        old.reading.wrapping_add(!same as u8)
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
        let regions = regions(service);
        let current = published.map(|s| s.slots);
        let there =
            current.and_then(|first| Some((first, self.index.published.slots.get(&first)?)));
        if let Some((first, there)) = there
            && **there == wanted
        {
            self.out.maps.slots.insert(first, Arc::clone(there));
            return (first, generation, table.digest);
        }
        let first = if current == Some(regions[0]) { regions[1] } else { regions[0] };
        self.out.maps.slots.insert(first, Arc::new(wanted));
        (first, generation.wrapping_add(1), table.digest)
    }
}

/// The ranges that send the PROXY protocol.
fn proxies(ranges: &Ranges) -> impl Iterator<Item = (&(u32, SourceRange), &u32)> {
    ranges.iter().filter(|(key, _)| key.1.is_proxy())
}

/// Where a service's two tables begin in `SLOTS`.
fn regions(service: u32) -> [u32; 2] {
    [2 * service * SLOT_STRIDE, (2 * service + 1) * SLOT_STRIDE]
}

fn no_room(
    service: &config::Service,
    map: Map,
    there: usize,
    wanted: usize,
    room: u32,
) -> PlanError {
    PlanError::Room { service: service.name.clone(), map, there, wanted, room }
}

/// What a service's value says but for its replicas and their MSS.
fn settings(service: &config::Service) -> Service {
    let mut sources = [KeySource::NONE; SOURCES];
    for (to, from) in sources.iter_mut().zip(&service.keys) {
        *to = from.to_map();
    }
    Service {
        idle_timeout: seconds(service.idle_timeout),
        policy: match service.policy {
            Policy::Spread => POLICY_SPREAD,
            Policy::Home => POLICY_HOME,
        },
        on_missing_key: match service.on_missing_key {
            OnMissing::Spread => MISSING_SPREAD,
            OnMissing::Reject => MISSING_REJECT,
            OnMissing::Replica(_) => MISSING_REPLICA,
        },
        on_reuse: match service.on_reuse {
            OnReuse::Stay => REUSE_STAY,
            OnReuse::Reset => REUSE_RESET,
            OnReuse::Rebind => REUSE_REBIND,
        },
        width: service.width,
        sources,
        name: Name::new(service.name.as_bytes()),
        linger: seconds(service.linger),
        restricted: service.allowed_sources.is_some() as u8,
        proxied: !service.proxy_protocol_from.is_empty() as u8,
        handshake_timeout: seconds(service.handshake_timeout),
        client_closed_timeout: seconds(service.client_closed_timeout),
        replica_closed_timeout: seconds(service.replica_closed_timeout),
        closing_timeout: seconds(service.closing_timeout),
        ..Service::EMPTY
    }
}

/// What `REPLICAS` has for a replica.
fn entry(service: u32, replica: &config::Replica) -> Replica {
    let address = |is: fn(&IpAddr) -> bool| {
        let found = replica.addresses.iter().copied().find(is);
        found.map_or(Addr::default(), addr::to_map)
    };
    Replica {
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
    }
}

/// What `SOURCE_RANGES` is to have for a service.
fn ranges(number: u32, service: &config::Service) -> Ranges {
    let clients = service.allowed_sources.iter().flatten().collect::<Vec<_>>();
    let proxies = service.proxy_protocol_from.iter().collect();
    let mut ranges = Ranges::new();
    for (list, prefixes) in [(number, clients), (number | PROXIES, proxies)] {
        let list = list.to_be_bytes();
        let key = |bits, addr| (addr::LIST_BITS + bits, SourceRange { list, addr });
        let all = addr::clients(prefixes).into_iter();
        ranges.extend(all.map(|((bits, addr), value)| (key(bits, addr), value)));
    }
    ranges
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// What the maps have, by services.
fn own(published: &Published) -> BTreeMap<u32, Own<'_>> {
    let mut own: BTreeMap<u32, Own<'_>> = BTreeMap::new();
    for (key, number) in &published.vips {
        own.entry(*number).or_default().vips.push(*key);
    }
    for (key, may) in &published.ranges {
        own.entry(key.1.service()).or_default().ranges.insert(*key, *may);
    }
    for (number, replica) in &published.replicas {
        if replica.state != REPLICA_GONE {
            own.entry(replica.service).or_default().replicas.push((*number, replica));
        }
    }
    own
}
