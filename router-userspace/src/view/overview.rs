//! `roost status`: the whole at a glance.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    counters::{self, CounterLine},
    dump::{self, MapName},
    services::{self, ServiceLine},
    text::NONE,
};
use crate::{
    attach::loader::interface_of,
    cli::{
        output::Report,
        table::{Cell, Table},
    },
    maps::tables::Tables,
    os::{lock, netlink, running, sys},
};

const ELSEWHERE: &str = "cannot be seen from this network namespace";

/// Maps whose filling is watched.
const BOUNDED: [MapName; 5] =
    [MapName::Flows, MapName::Chats, MapName::ChatCookies, MapName::Pending, MapName::Stash];

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
    /// How full the maps are that can fill up.
    pub limits: Vec<LimitLine>,
    /// The counters that are not zero, as `roost counters` lists them.
    pub counters: Vec<CounterLine>,
}

/// A client-facing interface.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceLine {
    /// Its name.
    pub interface: String,
    /// How packets from clients are met: `native` or `generic`; null if they are not.
    pub ingress: Option<&'static str>,
    /// How packets from replicas are met: `tcx` or `clsact`; null if they are not.
    pub egress: Option<&'static str>,
    /// What is wrong with it; empty if nothing is.
    pub problem: String,
}

/// A map that can fill up.
#[derive(Debug, Serialize)]
pub struct LimitLine {
    /// The map.
    pub map: &'static str,
    /// Entries in use.
    pub entries: usize,
    /// Entries it has room for.
    pub max_entries: u32,
}

/// Looks at everything that is pinned.
pub fn status(tables: &Tables, pin_dir: &Path) -> Result<StatusReport> {
    let limit = |map: dump::MapLine| LimitLine {
        map: map.name,
        entries: map.entries,
        max_entries: map.max_entries,
    };
    let maps = dump::lines(tables, pin_dir, &BOUNDED)?;
    let daemon_pid = lock::holder(pin_dir);
    let services = services::services(tables)?.0;
    let mut sources: Vec<&str> = services.iter().map(source).collect();
    sources.sort_unstable();
    sources.dedup();
    Ok(StatusReport {
        daemon_pid,
        sources,
        pin_dir: pin_dir.to_owned(),
        interfaces: interfaces(pin_dir, daemon_pid.is_some_and(running::is_elsewhere))?,
        services,
        limits: maps.into_iter().map(limit).collect(),
        counters: counters::counters(tables, false)?.0,
    })
}

/// A cluster's services are called `NAMESPACE/SERVICE:PORT`.
fn source(service: &ServiceLine) -> &'static str {
    if crate::kube::is_named_like(&service.service) { "kubernetes" } else { "file" }
}

/// The interfaces that have pinned links; they may all be in another network namespace.
pub fn interfaces(pin_dir: &Path, elsewhere: bool) -> Result<Vec<InterfaceLine>> {
    let mut lines: BTreeMap<String, InterfaceLine> = BTreeMap::new();
    let links = pin_dir.join("links");
    let entries = match fs::read_dir(&links) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", links.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", links.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok((interface, hook)) = interface_of(name) else { continue };
        let line = lines.entry(interface.clone()).or_default();
        line.interface = interface;
        if elsewhere {
            line.problem = ELSEWHERE.to_owned();
        } else if let Err(problem) = look_at(line, &path, hook) {
            line.problem = problem;
        }
    }
    for line in lines.values_mut().filter(|line| line.problem == ELSEWHERE) {
        (line.ingress, line.egress) = (None, None);
    }
    Ok(lines.into_values().collect())
}

/// Fills in what a pinned link does, or says what is wrong with it.
fn look_at(line: &mut InterfaceLine, path: &Path, hook: &str) -> Result<(), String> {
    let by_name = netlink::link_by_name(&line.interface);
    if hook == "clsact" {
        // What is pinned is no link: there is nothing to compare.
        by_name.map_err(|error| format!("{error:#}"))?;
        line.egress = Some("clsact");
        return Ok(());
    }
    let index = sys::pinned_link_interface(path).map_err(|error| error.to_string())?;
    match by_name {
        Ok(link) if link.index == index => {
            // An index can be the same in another network namespace, what is attached cannot.
            let mode = link.xdp_mode.ok_or(ELSEWHERE)?;
            match hook {
                "tcx" => line.egress = Some("tcx"),
                _ => line.ingress = Some(mode.word()),
            }
            Ok(())
        }
        Ok(_) if index == 0 => Err("was made anew: the programs are not on it".to_owned()),
        Err(error) if index == 0 => Err(format!("{error:#}")),
        _ => match netlink::link_by_index(index) {
            Ok(link) if link.xdp_mode.is_some() => {
                Err(format!("the programs are on {}: was it renamed?", link.name))
            }
            _ => Err(ELSEWHERE.to_owned()),
        },
    }
}

impl Report for StatusReport {
    fn text(&self) -> String {
        let mut text = String::new();
        let daemon = match self.daemon_pid {
            Some(pid) => format!("running, pid {pid}"),
            None => "not running: connections go on, changes are not seen".to_owned(),
        };
        let sources = if self.sources.is_empty() { NONE } else { &self.sources.join(", ") };
        let pin_dir = self.pin_dir.display();
        let _ = writeln!(text, "daemon  {daemon}\npins    {pin_dir}\nsources {sources}\n");
        text.push_str(&self.interfaces_text());
        let _ = writeln!(text, "\n{}", services::table(&self.services));
        let mut limits = Table::new(["map", ">entries", ">max", ">full"]);
        for limit in &self.limits {
            let full = 100.0 * limit.entries as f64 / f64::from(limit.max_entries.max(1));
            limits.row([
                limit.map.into(),
                limit.entries.into(),
                limit.max_entries.into(),
                format!("{full:.1} %").into(),
            ]);
        }
        let _ = writeln!(text, "{limits}");
        text + &counters::table(&self.counters)
    }
}

impl StatusReport {
    fn interfaces_text(&self) -> String {
        if self.interfaces.is_empty() {
            return "not attached to any interface\n".to_owned();
        }
        let red = anstyle::AnsiColor::Red.on_default();
        let mut table = Table::new(["interface", "ingress", "egress", "problem"]);
        for line in &self.interfaces {
            table.row([
                line.interface.as_str().into(),
                line.ingress.unwrap_or(NONE).into(),
                line.egress.unwrap_or(NONE).into(),
                Cell::styled(&line.problem, red),
            ]);
        }
        table.to_string()
    }
}
