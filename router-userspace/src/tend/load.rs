//! What the maps carry, as the kernel counts it.

use std::collections::BTreeMap;

use router_ebpf::maps::Replica;

use crate::maps::{handle::Asked, tables::Tables};

/// Who carries what, and how full the maps are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// By the numbers of services; those that carry nothing are left out.
    pub services: BTreeMap<u32, Carried>,
    /// By the numbers of replicas, in the same way.
    pub replicas: BTreeMap<u32, Carried>,
    /// Entries of the maps.
    pub entries: Entries,
}

/// What a service or a replica carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Live flows.
    pub flows: usize,
    /// Chats that have their home there, with those that linger.
    pub chats: usize,
}

/// Entries of maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// `FLOWS`.
    pub flows: usize,
    /// `CHATS`.
    pub chats: usize,
    /// `CHAT_COOKIES`, when it was last looked at.
    pub chat_cookies: usize,
}

impl Load {
    /// Reads `LOADS`. The service of a number is that of its replica.
    pub fn read(tables: &Tables, replicas: &BTreeMap<u32, Replica>) -> Asked<Self> {
        let mut load = Self::default();
        for (number, of) in (0..).zip(tables.loads.range(0..tables.loads.room())?) {
            let carried = Carried { flows: of.flows as usize, chats: of.chats as usize };
            if carried == Carried::default() {
                continue;
            }
            load.replicas.insert(number, carried);
            load.entries.flows += carried.flows;
            load.entries.chats += carried.chats;
            if let Some(replica) = replicas.get(&number) {
                let service = load.services.entry(replica.service).or_default();
                service.flows += carried.flows;
                service.chats += carried.chats;
            }
        }
        Ok(load)
    }
}
