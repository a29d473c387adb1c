//! The way from what the maps hold to what they should, in groups: what is written for one service does not
//! depend on what becomes of another.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use router_ebpf::maps::{REPLICA_GONE, Replica, SLOT_STRIDE, SourceRange};

use super::{Change, Published, plan::Wanted};

/// What is to be written for a service.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// What comes, in the order in which each step leaves the maps consistent: replicas, the slot table in
    /// a free region, who may connect, the service (which selects the table), addresses.
    pub(super) comes: Vec<Change>,
    /// What goes then, the other way round.
    pub(super) goes: Vec<Change>,
}

/// All that is to be written.
pub(super) struct Steps {
    /// Services that are no more, and whose addresses nobody takes.
    pub(super) first: Vec<(u32, Group)>,
    /// Services that there are to be, and the numbers of replicas that become free.
    pub(super) then: Vec<(u32, Group)>,
    /// Services that are no more, whose addresses have come to others by then.
    pub(super) last: Vec<(u32, Group)>,
    /// Numbers of replicas that become free.
    pub(super) freed: Vec<Change>,
}

pub(super) fn steps(from: &Published, wanted: &Wanted) -> Steps {
    let to = &wanted.maps;
    let mut groups = groups(from, to);
    let mut then = Vec::new();
    for number in &wanted.order {
        then.extend(groups.remove(number).map(|group| (*number, group)));
    }
    let moves = |(key, owner): &(&_, &u32)| to.vips.get(key).is_some_and(|new| new != *owner);
    let givers: BTreeSet<u32> = from.vips.iter().filter(moves).map(|(_, owner)| *owner).collect();
    let (last, first) = groups.into_iter().partition(|(number, _)| givers.contains(number));
    let unused = from.replicas.keys().filter(|number| !to.replicas.contains_key(number));
    let freed = unused.map(|number| Change::RemoveReplica { number: *number }).collect();
    Steps { first, then, last, freed }
}

/// All changes by the number of their service, but for numbers of replicas that become free.
fn groups(from: &Published, to: &Published) -> BTreeMap<u32, Group> {
    let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
    let mut comes =
        |number: u32, change: Change| groups.entry(number).or_default().comes.push(change);
    let changed = || to.replicas.iter().filter(|(at, value)| from.replicas.get(at) != Some(value));
    let is_gone = |(_, replica): &(&u32, &Replica)| replica.state == REPLICA_GONE;
    for (number, value) in changed().filter(|replica| !is_gone(replica)) {
        comes(value.service, Change::Replica { number: *number, value: *value });
    }
    for (first, wanted) in &to.slots {
        let there = from.slots.get(first);
        let differs = |(slot, replica): &(u32, u32)| {
            there.and_then(|there| there.get(*slot as usize)) != Some(replica)
        };
        let slots: Vec<_> = (0..).zip(wanted.iter().copied()).filter(differs).collect();
        if !slots.is_empty() {
            comes(first / (2 * SLOT_STRIDE), Change::Slots { first: *first, slots });
        }
    }
    let of = SourceRange::service;
    let mut ranges: Vec<_> = to.ranges.iter().collect();
    // What lets nobody in first.
    ranges.sort_by_key(|(_, value)| **value);
    for (key @ (prefix_len, range), value) in ranges {
        if from.ranges.get(key) != Some(value) {
            let (prefix_len, range, value) = (*prefix_len, *range, *value);
            comes(of(&range), Change::Range { prefix_len, range, value });
        }
    }
    for (number, value) in &to.services {
        if from.services.get(number) != Some(value) {
            comes(*number, Change::Service { number: *number, value: Box::new(*value) });
        }
    }
    for (key @ (prefix_len, vip), service) in &to.vips {
        if from.vips.get(key) != Some(service) {
            let (prefix_len, vip, service) = (*prefix_len, *vip, *service);
            comes(service, Change::Vip { prefix_len, vip, service });
        }
    }
    let mut goes =
        |number: u32, change: Change| groups.entry(number).or_default().goes.push(change);
    for (key @ (prefix_len, vip), owner) in &from.vips {
        if !to.vips.contains_key(key) {
            goes(*owner, Change::RemoveVip { prefix_len: *prefix_len, vip: *vip });
        }
    }
    for number in from.services.keys() {
        if !to.services.contains_key(number) {
            goes(*number, Change::RemoveService { number: *number });
        }
    }
    let mut ranges: Vec<_> = from.ranges.iter().collect();
    // What lets nobody in last.
    ranges.sort_by_key(|(_, value)| Reverse(**value));
    for (key @ (prefix_len, range), _) in ranges {
        if !to.ranges.contains_key(key) {
            goes(of(range), Change::RemoveRange { prefix_len: *prefix_len, range: *range });
        }
    }
    for (number, value) in changed().filter(is_gone) {
        goes(value.service, Change::Replica { number: *number, value: *value });
    }
    groups
}
