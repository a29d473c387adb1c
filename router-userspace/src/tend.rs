//! What only userspace can do, once in a while: tell the ends of flows that the kernel has ended, let pins follow
//! their replica, forget what was said for services that are no more, and learn what the maps refer to.
//!
//! Flows and chats are the kernel's to end and to count. Nothing here walks them, so a round costs the same
//! however many there are.

mod farewell;
mod load;
mod pins;
mod resets;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use router_ebpf::maps::{Replica, Service};

use crate::{
    maps::{
        handle::{Asked, Fault},
        tables::{Tables, TablesError},
    },
    plan::index::Used,
};

pub use farewell::Told;
pub use load::{Carried, Entries, Load};
pub use pins::Judged;
use pins::Pins;
pub use resets::Resets;

/// What a round found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the maps refer to.
    pub used: Used,
    /// Who carries what, and how full the maps are.
    pub load: Load,
    /// Who was told of ended flows.
    pub told: Told,
    /// What became of what is registered.
    pub judged: Judged,
}

/// Makes the rounds.
pub struct Tender {
    tables: Tables,
    /// Tells the ends of ended flows; without, they learn it with their next segment.
    resets: Option<Resets>,
    pins: Pins,
}

/// What is published, as a round has read it.
struct Published {
    services: BTreeMap<u32, Service>,
    replicas: BTreeMap<u32, Replica>,
}

impl Tender {
    /// Of the maps pinned under `pin_dir`.
    pub fn new(pin_dir: &Path) -> Result<Self, TablesError> {
        Ok(Self { tables: Tables::open(pin_dir)?, resets: None, pins: Pins::default() })
    }

    /// Tells the ends of ended flows.
    pub fn with_resets(self, resets: Resets) -> Self {
        Self { resets: Some(resets), ..self }
    }

    /// Makes a round. `now` is of the monotonic clock.
    pub fn round(&mut self, now: Duration) -> Result<Report, Fault> {
        let told = self.tell()?;
        let published = Published::read(&self.tables)?;
        let mut load = Load::read(&self.tables, &published.replicas)?;
        let judged = self.pins.look(&mut self.tables, &published, now)?;
        load.entries.chat_cookies = self.pins.entries;
        let carrying = load.replicas.keys().copied();
        let used = Used {
            services: load.services.keys().chain(&self.pins.services).copied().collect(),
            replicas: carrying.chain(self.pins.replicas.iter().copied()).collect(),
        };
        Ok(Report { used, load, told, judged })
    }

    /// Tells the ends of flows that were ended since the last time; of very many the rest is for the next time.
    pub fn tell(&mut self) -> Asked<Told> {
        farewell::tell(&mut self.tables, self.resets.as_ref())
    }
}

impl Published {
    fn read(tables: &Tables) -> Asked<Self> {
        Ok(Self {
            services: tables.services.entries()?.into_iter().collect(),
            replicas: tables.all_replicas()?.into_iter().collect(),
        })
    }
}

/// Numbers of services or replicas.
type Numbers = BTreeSet<u32>;

#[cfg(test)]
mod kernel_tests;
