//! `roost status`: the whole at a glance.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result};
use serde::Serialize;

use super::{
    counters::{self, CounterLine},
    dump::{self, MapName},
    netlink::{self, XdpMode},
    output::Report,
    running,
    services::{self, ServiceLine},
    table::{Cell, Table},
    text::NONE,
};
use crate::{sys, tables::Tables};

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
    Ok(StatusReport {
        daemon_pid: running::pid(pin_dir),
        pin_dir: pin_dir.to_owned(),
        interfaces: interfaces(pin_dir)?,
        services: services::services(tables)?.0,
        limits: maps.into_iter().map(limit).collect(),
        counters: counters::counters(tables, false)?.0,
    })
}

/// The interfaces that have pinned links.
fn interfaces(pin_dir: &Path) -> Result<Vec<InterfaceLine>> {
    let mut lines: BTreeMap<String, InterfaceLine> = BTreeMap::new();
    let links = pin_dir.join("links");
    let entries = match fs::read_dir(&links) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", links.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", links.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((interface, hook)) = interface_and_hook(name) else { continue };
        let line = lines.entry(interface.clone()).or_default();
        line.interface = interface;
        look_at(line, &path, hook);
    }
    Ok(lines.into_values().collect())
}

/// The name of a pinned link is the interface's, with `%2e` for dots, and the hook's.
fn interface_and_hook(name: &str) -> Option<(String, &str)> {
    let (interface, hook) = name.rsplit_once('-')?;
    Some((interface.replace("%2e", ".").replace("%25", "%"), hook))
}

fn look_at(line: &mut InterfaceLine, path: &Path, hook: &str) {
    let link = match netlink::link_by_name(&line.interface) {
        Ok(link) => link,
        Err(error) => {
            line.problem = format!("{error:#}");
            return;
        }
    };
    match hook {
        "clsact" => {
            line.egress = Some("clsact");
            return;
        }
        "tcx" => line.egress = Some("tcx"),
        _ => line.ingress = link.xdp_mode.map(XdpMode::word),
    }
    match sys::pinned_link_interface(path) {
        Ok(index) if index == link.index => {}
        Ok(_) => line.problem = "was made anew: the programs are not on it".to_owned(),
        Err(error) => line.problem = Error::from(error).to_string(),
    }
}

impl Report for StatusReport {
    fn text(&self) -> String {
        let mut text = String::new();
        let daemon = match self.daemon_pid {
            Some(pid) => format!("running, pid {pid}"),
            None => "not running: connections go on, changes are not seen".to_owned(),
        };
        let _ = writeln!(text, "daemon  {daemon}\npins    {}\n", self.pin_dir.display());
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
