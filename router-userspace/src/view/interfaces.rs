//! Where the programs are attached.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use router_ebpf::maps::{self, FAR_END, NEAR_END};
use serde::Serialize;

use crate::{
    attach::{
        client_links::{routed, way},
        loader::{interface_of, is_host_served, is_host_wanted, pinned_client_links},
    },
    maps::{read, tables::Tables},
    os::{
        netlink::{self, Link},
        sys,
    },
};

/// Where clients are.
pub const OUTSIDE: &str = "outside";
/// On this machine.
pub const INSIDE: &str = "inside";
/// This machine's own processes.
pub const HOST: &str = "host";

const NO_ROUTE: &str = "no route leaves by it: its clients are reached by another interface, and what they send to a VIP is dropped";
const ELSEWHERE: &str = "cannot be seen from this network namespace";

/// An interface by which clients come.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceLine {
    /// Its name.
    pub interface: String,
    /// Where its clients are: `outside`, `inside` of this machine: a client link, or this machine's own processes: `host`.
    pub clients: &'static str,
    /// How packets from clients are met: `native` or `generic` outside, `tcx` or `clsact` inside; null if they are not.
    pub ingress: Option<&'static str>,
    /// How packets from replicas are met: `tcx` or `clsact`; null if they are not.
    pub egress: Option<&'static str>,
    /// What is wrong with it; empty if nothing is.
    pub problem: String,
}

/// Those that have pinned links, and client links that are not served.
pub fn all(tables: &Tables, pin_dir: &Path, elsewhere: bool) -> Result<Vec<InterfaceLine>> {
    let mut lines = interfaces(pin_dir, elsewhere)?;
    if !elsewhere {
        unrouted(tables, &mut lines)?;
        lines.extend(refused(tables)?);
        lines.sort_by(|a, b| a.interface.cmp(&b.interface));
    }
    Ok(lines)
}

/// Says of client links that are served and lead nowhere that they do.
fn unrouted(tables: &Tables, lines: &mut [InterfaceLine]) -> Result<()> {
    let mut inside: Vec<_> =
        lines.iter_mut().filter(|line| line.clients == INSIDE && line.problem.is_empty()).collect();
    if inside.is_empty() {
        return Ok(());
    }
    let (links, noted, routed) = (netlink::links()?, read::sorted(&tables.links)?, routed());
    for line in &mut inside {
        // A VRF's have routes of their own, and the others are answered by something else.
        let is_answered_by_itself = links.iter().any(|link| {
            link.name == line.interface
                && link.master == 0
                && noted.get(&link.index) == Some(&maps::Link { by: link.index })
        });
        if is_answered_by_itself && !routed.contains(&line.interface) {
            line.problem = NO_ROUTE.to_owned();
        }
    }
    Ok(())
}

/// Client links that are not served because of what they belong to.
fn refused(tables: &Tables) -> Result<Vec<InterfaceLine>> {
    let noted = read::sorted(&tables.links)?;
    if !noted.values().any(|noted| *noted == maps::Link::REFUSED) {
        return Ok(Vec::new());
    }
    let links = netlink::links()?;
    let is_refused = |link: &&Link| noted.get(&link.index) == Some(&maps::Link::REFUSED);
    let line = |link: &Link| InterfaceLine {
        interface: link.name.clone(),
        clients: INSIDE,
        problem: way(link, &links).err().unwrap_or_else(|| "is not served yet".to_owned()),
        ..InterfaceLine::default()
    };
    Ok(links.iter().filter(is_refused).map(line).collect())
}

/// The interfaces that have pinned links; they may all be in another network namespace.
pub fn interfaces(pin_dir: &Path, elsewhere: bool) -> Result<Vec<InterfaceLine>> {
    let mut lines: BTreeMap<String, InterfaceLine> = BTreeMap::new();
    let links = pin_dir.join("links");
    let entries = match fs::read_dir(&links) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", links.display()))?,
    };
    let inside = pinned_client_links(pin_dir);
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", links.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok((interface, hook)) = interface_of(name) else { continue };
        if interface == NEAR_END {
            continue;
        }
        let line = lines.entry(interface.clone()).or_default();
        line.clients = match &interface {
            name if name == FAR_END => HOST,
            name if inside.contains(name) => INSIDE,
            _ => OUTSIDE,
        };
        line.interface = interface;
        if elsewhere {
            line.problem = ELSEWHERE.to_owned();
        } else if let Err(problem) = look_at(line, &path, hook) {
            line.problem = problem;
        }
    }
    if is_host_wanted(pin_dir) {
        let line = lines.entry(FAR_END.to_owned()).or_insert_with(|| InterfaceLine {
            interface: FAR_END.to_owned(),
            clients: HOST,
            ..InterfaceLine::default()
        });
        if line.problem.is_empty() && (line.ingress.is_none() || !is_host_served(pin_dir)) {
            line.problem = "is not served: the daemon's log says why".to_owned();
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
    let (place, word) = match hook {
        "clsact" | "tcx" => (&mut line.egress, if hook == "tcx" { "tcx" } else { "clsact" }),
        "clsactin" => (&mut line.ingress, "clsact"),
        _ => (&mut line.ingress, "tcx"),
    };
    if hook.starts_with("clsact") {
        // What is pinned is no link: there is nothing to compare.
        by_name.map_err(|error| format!("{error:#}"))?;
        *place = Some(word);
        return Ok(());
    }
    let index = sys::pinned_link_interface(path).map_err(|error| error.to_string())?;
    // An index can be the same in another network namespace, what is attached cannot. Of client links nothing tells.
    let is_here = |link: &Link| link.xdp_mode.is_some() || line.clients != OUTSIDE;
    match by_name {
        Ok(link) if link.index == index => {
            if !is_here(&link) {
                return Err(ELSEWHERE.to_owned());
            }
            *place = match hook {
                "xdp" => link.xdp_mode.map(netlink::XdpMode::word),
                _ => Some(word),
            };
            Ok(())
        }
        Ok(_) if index == 0 => Err("was made anew: the programs are not on it".to_owned()),
        Err(error) if index == 0 => Err(format!("{error:#}")),
        _ => match netlink::link_by_index(index) {
            Ok(link) if is_here(&link) => {
                Err(format!("the programs are on {}: was it renamed?", link.name))
            }
            _ => Err(ELSEWHERE.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMaps;

    #[test]
    fn a_client_link_that_is_not_served_is_shown_with_the_reason() {
        const LOOPBACK: u32 = 1;
        let pinned = TestMaps::new();
        let mut tables = pinned.tables();
        assert_eq!(all(&tables, &pinned.pin_dir, false).unwrap(), []);
        tables.links.set(&LOOPBACK, &maps::Link::REFUSED).unwrap();
        let line = InterfaceLine {
            interface: "lo".to_owned(),
            clients: INSIDE,
            problem: "is not served yet".to_owned(),
            ..InterfaceLine::default()
        };
        assert_eq!(all(&tables, &pinned.pin_dir, false).unwrap(), [line]);
        // Indexes of another network namespace say nothing here.
        assert_eq!(all(&tables, &pinned.pin_dir, true).unwrap(), []);
        tables.links.set(&LOOPBACK, &maps::Link { by: LOOPBACK }).unwrap();
        assert_eq!(all(&tables, &pinned.pin_dir, false).unwrap(), []);
    }
}
