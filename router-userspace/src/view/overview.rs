//! The whole at a glance.

use std::path::{Path, PathBuf};

use anyhow::Result;
use router_ebpf::schema::Map;
use serde::Serialize;

use super::{
    counters::{self, CounterLine},
    dump,
    interfaces::{self, InterfaceLine},
    services::{self, ServiceLine},
};
use crate::{
    kube,
    maps::{problems, tables::Tables},
    os::{lock, running},
    plan::origin::Origin,
};

/// Maps whose filling is watched.
const BOUNDED: [Map; 5] = [Map::Flows, Map::Chats, Map::ChatCookies, Map::Pending, Map::Stash];

/// Bytes of keys and values that a map may hold of which they are read to be counted: some milliseconds.
const CHEAP: usize = 16 << 20;

/// What `roost status` prints. JSON: one object with these fields.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// The process id of the daemon; null if none runs.
    pub daemon_pid: Option<u32>,
    /// The directory of the pinned maps.
    pub pin_dir: PathBuf,
    /// Where the services are from, by their names: `file`, `kubernetes`.
    pub sources: Vec<&'static str>,
    /// Where the programs are attached.
    pub interfaces: Vec<InterfaceLine>,
    /// The services, as `roost services` lists them.
    pub services: Vec<ServiceLine>,
    /// Services that are not as their sources say, as many as there is room to tell of.
    pub problems: Vec<ProblemLine>,
    /// How full the maps are that can fill up.
    pub limits: Vec<LimitLine>,
    /// The counters that are not zero, as `roost counters` lists them.
    pub counters: Vec<CounterLine>,
}

/// A service that is not as its source says: it does not fit, or a map refuses it. It is tried again.
#[derive(Debug, Serialize)]
pub struct ProblemLine {
    /// Its name.
    pub service: String,
    /// Why.
    pub problem: String,
}

/// A map that can fill up.
#[derive(Debug, Serialize)]
pub struct LimitLine {
    /// The map.
    pub map: &'static str,
    /// Entries in use; null if so many would have to be read to know.
    pub entries: Option<usize>,
    /// Entries it has room for.
    pub max_entries: u32,
}

/// Looks at everything that is pinned.
pub fn overview(tables: &Tables, pin_dir: &Path) -> Result<StatusReport> {
    let limit = |map: dump::MapLine| LimitLine {
        map: map.name,
        entries: map.entries,
        max_entries: map.max_entries,
    };
    let maps = dump::lines(tables, pin_dir, &BOUNDED, Some(CHEAP))?;
    let daemon_pid = lock::holder(pin_dir);
    let services = services::services(tables)?.0;
    let mut sources: Vec<&str> = services.iter().map(source).collect();
    sources.sort_unstable();
    sources.dedup();
    Ok(StatusReport {
        daemon_pid,
        sources,
        pin_dir: pin_dir.to_owned(),
        interfaces: interfaces::all(
            tables,
            pin_dir,
            daemon_pid.is_some_and(running::is_elsewhere),
        )?,
        services,
        problems: problems::read(tables)?
            .into_iter()
            .map(|(service, problem)| ProblemLine { service, problem })
            .collect(),
        limits: maps.into_iter().map(limit).collect(),
        counters: counters::counters(tables, false)?.0,
    })
}

/// A cluster's services are called `NAMESPACE/SERVICE:PORT`.
fn source(service: &ServiceLine) -> &'static str {
    let is_cluster = kube::is_named_like(&service.service);
    if is_cluster { Origin::KUBERNETES.name() } else { Origin::FILE.name() }
}
