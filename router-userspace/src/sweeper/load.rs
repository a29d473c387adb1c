//! What the maps carry, counted on the way.

use std::collections::BTreeMap;

/// Who carries what, and how full the maps are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// By the numbers of services.
    pub services: BTreeMap<u32, Carried>,
    /// By the numbers of replicas.
    pub replicas: BTreeMap<u32, Carried>,
    /// Entries of the maps, before the sweep removed any.
    pub entries: Entries,
}

/// What a service or a replica carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Live flows.
    pub flows: usize,
    /// Chats with a live flow.
    pub chats: usize,
}

/// Entries of maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// `FLOWS`.
    pub flows: usize,
    /// `CHATS`.
    pub chats: usize,
    /// `CHAT_COOKIES`.
    pub chat_cookies: usize,
    /// `PENDING`.
    pub pending: usize,
}

impl Load {
    pub(super) fn flow(&mut self, service: u32, replica: u32) {
        self.services.entry(service).or_default().flows += 1;
        self.replicas.entry(replica).or_default().flows += 1;
    }

    pub(super) fn chat(&mut self, service: u32, home: u32) {
        self.services.entry(service).or_default().chats += 1;
        self.replicas.entry(home).or_default().chats += 1;
    }
}
