//! The metrics: from what is known to what Prometheus reads.
//!
//! Nothing is counted here. Each scrape makes the families anew, from the status of the daemon, its
//! last round and the data path's counters, so nothing is shown of what is not there any more.

mod cluster;
mod control;
mod daemon;
mod data_path;
mod family;
mod format;
mod secret;
mod services;

use std::{fmt, path::Path, time::Instant};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};
use router_ebpf::schema::Map;

use crate::{
    kube::Watched,
    lead::Controls,
    maps::read,
    view::{interfaces::InterfaceLine, status::State},
};

pub use family::{Family, Kind};
pub use format::Format;

/// What the metrics are made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What the main loop has told.
    pub state: &'a State,
    /// The data path's counters, summed over all CPUs; empty if they cannot be read.
    pub counters: &'a [u64],
    /// The room in the maps.
    pub rooms: &'a [Room],
    /// Where the programs are attached.
    pub interfaces: &'a [InterfaceLine],
    /// The watches of the cluster, if there is one.
    pub watched: Option<&'a Watched>,
    /// What writes to the cluster, if there is one.
    pub control: Option<&'a Controls>,
    /// The time of the scrape.
    pub now: Instant,
}

/// The room in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The map.
    pub map: Map,
    /// Entries that it takes.
    pub max_entries: u32,
}

/// Asks the kernel for the room in the maps that can fill up.
pub fn rooms(pin_dir: &Path) -> Vec<Room> {
    let room = |map| {
        let info = read::info(pin_dir, map).ok()?;
        Some(Room { map, max_entries: info.max_entries() })
    };
    data_path::BOUNDED.into_iter().filter_map(room).collect()
}

/// All families, also those without a value at present.
pub fn families(facts: &Facts<'_>) -> Vec<Family> {
    let mut all = daemon::families(facts);
    all.extend(data_path::families(facts));
    all.extend(services::families(facts));
    all.extend(cluster::families(facts));
    all.extend(control::families(facts));
    all.extend(secret::families(facts));
    all
}

/// The text of a scrape.
pub fn render(facts: &Facts<'_>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition { families: families(facts), format }));
    let mut body = String::new();
    text::encode_registry(&mut body, &registry)?;
    if format == Format::OpenMetrics {
        text::encode_eof(&mut body)?;
    }
    Ok(body)
}

#[derive(Debug)]
struct Exposition {
    families: Vec<Family>,
    format: Format,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.families.iter().try_for_each(|family| family.encode(&mut encoder, self.format))
    }
}

#[cfg(test)]
mod tests;
