//! Services and replicas, and what they carry.

use std::collections::BTreeMap;

use router_ebpf::maps::{REPLICA_DRAINING, REPLICA_GONE, REPLICA_READY, Service};

use crate::{
    maps::{
        names::{self, Names},
        text,
    },
    plan::addr,
    tend::{Carried, Load},
};

use super::{Facts, Family};

const SERVICE: &[&str] = &["service"];
const REPLICA: &[&str] = &["service", "replica"];
const STATES: [u8; 2] = [REPLICA_READY, REPLICA_DRAINING];

pub(super) fn families(facts: &Facts<'_>) -> Vec<Family> {
    let names = &*facts.state.maps.names;
    let rounds = &facts.state.rounds;
    let load = rounds.done_at.is_some().then_some(&rounds.load);
    let mut all = services(names);
    all.extend(states(names));
    all.extend(carried_by_services(names, load));
    all.extend(replicas(names));
    all.extend(carried_by_replicas(names, load));
    all
}

fn services(names: &Names) -> Vec<Family> {
    let mut info = Family::gauge(
        "service_info",
        "1 for each service, with its policy and its key sources.",
        &["service", "policy", "key"],
    );
    let mut table = Family::gauge(
        "service_table_info",
        "1 for each service, with the digest of its slot table: equal on every node with the same replicas.",
        &["service", "digest"],
    );
    let mut generation = Family::gauge(
        "service_table_generation",
        "How often a slot table of the service was published.",
        SERVICE,
    );
    let mut usable = Family::gauge(
        "service_usable_replicas",
        "Replicas that a new chat can go to. 0: every connection is refused.",
        SERVICE,
    );
    for service in names.services.values() {
        let name = &text::name(&service.name);
        let Service { policy, digest, .. } = service;
        info.add([name, &names::policy(*policy), &names::key_sources(service).join(",")], 1);
        table.add([name, &text::hex(*digest)], 1);
        generation.add([name], service.generation.into());
        usable.add([name], service.usable.into());
    }
    vec![info, table, generation, usable]
}

fn states(names: &Names) -> Option<Family> {
    let mut counts: BTreeMap<(u32, u8), u64> = BTreeMap::new();
    for replica in names.replicas.values() {
        *counts.entry((replica.service, replica.state)).or_default() += 1;
    }
    let mut family = Family::gauge(
        "service_replicas",
        "Replicas of the service by state. Those that are gone are kept until nothing refers to them.",
        &["service", "state"],
    );
    for (number, service) in &names.services {
        for state in [REPLICA_READY, REPLICA_DRAINING, REPLICA_GONE] {
            let count = counts.get(&(*number, state)).copied().unwrap_or(0);
            family.add([&text::name(&service.name), &names::replica_state(state)], count);
        }
    }
    Some(family)
}

fn carried_by_services(names: &Names, load: Option<&Load>) -> [Family; 2] {
    let mut flows = Family::gauge("service_flows", "Live flows, at the last round.", SERVICE);
    let mut chats = Family::gauge(
        "service_chats",
        "Chats with a home, those that linger too, at the last round; each part of one with a width.",
        SERVICE,
    );
    for (number, service) in names.services.iter().filter(|_| load.is_some()) {
        let carried = load.and_then(|load| load.services.get(number)).copied().unwrap_or_default();
        let name = &text::name(&service.name);
        flows.add([name], carried.flows as u64);
        chats.add([name], carried.chats as u64);
    }
    [flows, chats]
}

fn replicas(names: &Names) -> [Family; 3] {
    let mut info = Family::gauge(
        "replica_info",
        "1 for each address of a replica, with its number in the maps.",
        &["service", "replica", "number", "address", "port"],
    );
    let mut state = Family::gauge(
        "replica_state",
        "1 for the state that a replica is in, 0 for the other one.",
        &["service", "replica", "state"],
    );
    let mut weight = Family::gauge(
        "replica_weight",
        "The replica's share of new chats is its weight by the sum of those of ready replicas.",
        REPLICA,
    );
    for (number, replica) in names.replicas.iter().filter(|(_, r)| r.state != REPLICA_GONE) {
        let service = &names.service(replica.service);
        let name = &text::name(&replica.name);
        let port = u16::from_be_bytes(replica.port).to_string();
        for address in addr::of_replica(replica) {
            info.add([service, name, &number.to_string(), &address.to_string(), &port], 1);
        }
        for one in STATES {
            let is_it = u64::from(replica.state == one);
            state.add([service, name, &names::replica_state(one)], is_it);
        }
        weight.add([service, name], replica.weight.into());
    }
    [info, state, weight]
}

/// A name may have a number that is gone and a new one: they count together. One that is gone and
/// carries nothing is left out.
fn carried_by_replicas(names: &Names, load: Option<&Load>) -> [Family; 2] {
    let mut by_name: BTreeMap<(String, String), Carried> = BTreeMap::new();
    for (number, replica) in names.replicas.iter().filter(|_| load.is_some()) {
        let found = load.and_then(|load| load.replicas.get(number)).copied();
        if found.is_none() && replica.state == REPLICA_GONE {
            continue;
        }
        let name = (names.service(replica.service), text::name(&replica.name));
        let carried = by_name.entry(name).or_default();
        let found = found.unwrap_or_default();
        carried.flows += found.flows;
        carried.chats += found.chats;
    }
    let mut flows =
        Family::gauge("replica_flows", "Live flows to the replica, at the last round.", REPLICA);
    let mut chats = Family::gauge(
        "replica_chats",
        "Chats whose home is the replica, those that linger too, at the last round.",
        REPLICA,
    );
    for ((service, replica), carried) in &by_name {
        flows.add([service, replica], carried.flows as u64);
        chats.add([service, replica], carried.chats as u64);
    }
    [flows, chats]
}
