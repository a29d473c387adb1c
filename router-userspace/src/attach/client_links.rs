//! The links of this machine at whose other ends are clients: pods come and go, and their links with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use router_ebpf::maps;
use tracing::{info, warn};

use crate::{
    attach::loader::DataPath,
    maps::{handle::Asked, read, tables::Tables},
    os::netlink::{self, Link, LinkChanges},
    plan::config::LinkPattern,
};

/// How often all links are looked at when nothing says that they have changed: what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// A client link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    index: u32,
    /// The interface by which answers are routed to its clients.
    by: u32,
}

/// Keeps the programs on all client links.
pub(crate) struct ClientLinks {
    changes: Option<LinkChanges>,
    /// Which these are; `None`: nobody has said yet.
    patterns: Option<Vec<LinkPattern>>,
    /// Interfaces whose clients are outside: they are no client links, whatever they are called.
    uplinks: Vec<String>,
    /// Those that the programs are on.
    attached: BTreeMap<String, Found>,
    /// Those that they could not be attached to, said once.
    refused: BTreeMap<String, u32>,
    /// Something else is wanted.
    is_new: bool,
    /// When all are looked at again, if something failed.
    next: Duration,
    is_well: bool,
}

impl ClientLinks {
    pub(crate) fn new() -> Self {
        let changes = LinkChanges::new()
            .inspect_err(|e| warn!("new client links are found within seconds only: {e:#}"));
        Self {
            changes: changes.ok(),
            patterns: None,
            uplinks: Vec::new(),
            attached: BTreeMap::new(),
            refused: BTreeMap::new(),
            is_new: false,
            next: Duration::ZERO,
            is_well: true,
        }
    }

    /// From now on these are wanted.
    pub(crate) fn want(
        &mut self,
        patterns: &[LinkPattern],
        uplinks: &[String],
        data_path: &mut DataPath,
        tables: &mut Tables,
        now: Duration,
    ) {
        if self.patterns.as_deref() != Some(patterns) {
            let links = netlink::links().unwrap_or_default();
            for pattern in patterns {
                if !links.iter().any(|link| pattern.fits(&link.name)) {
                    info!("client_links: no interface is called {pattern} so far");
                }
            }
        }
        (self.patterns, self.uplinks) = (Some(patterns.to_owned()), uplinks.to_owned());
        self.is_new = true;
        self.follow(data_path, tables, now);
    }

    /// Looks whether links have come or gone. To be called often: it costs a system call as long as none has.
    pub(crate) fn follow(&mut self, data_path: &mut DataPath, tables: &mut Tables, now: Duration) {
        let Some(patterns) = self.patterns.clone() else { return };
        let has_changed = self.changes.as_ref().is_some_and(LinkChanges::any);
        let may_fail = self.changes.is_none() || !self.refused.is_empty() || !self.is_well;
        if !(self.is_new || has_changed || may_fail && now >= self.next) {
            return;
        }
        let found = netlink::links().and_then(|links| {
            self.apply(&select(&links, &patterns, &self.uplinks), data_path, tables)
        });
        self.is_new = false;
        // The kernel may have been interrupted while it told of them.
        self.next = if found.is_ok() { now + AGAIN } else { now };
        match &found {
            Ok(()) if !self.is_well => info!("the client links are known again"),
            Err(e) if self.is_well => warn!("the client links are not followed: {e:#}; trying on"),
            _ => {}
        }
        self.is_well = found.is_ok();
    }

    fn apply(
        &mut self,
        wanted: &BTreeMap<String, Found>,
        data_path: &mut DataPath,
        tables: &mut Tables,
    ) -> anyhow::Result<()> {
        let old: BTreeSet<String> = data_path
            .pinned_client_links()
            .into_iter()
            .chain(self.attached.keys().cloned())
            .collect();
        for name in old.iter().filter(|name| !wanted.contains_key(*name)) {
            // What is now an uplink has other programs, and this one's are gone.
            if !self.uplinks.contains(name) {
                data_path.detach_inside(name);
            }
            self.attached.remove(name);
        }
        self.refused.retain(|name, index| wanted.get(name).is_some_and(|now| now.index == *index));
        // Before a program is there that asks.
        for link in wanted.values() {
            note(tables, *link)?;
        }
        for (name, link) in wanted {
            if self.attached.get(name).is_some_and(|there| there.index == link.index) {
                continue;
            }
            match data_path.attach_inside(name, link.index) {
                Ok(()) => {
                    info!("attached to the client link {name}");
                    self.attached.insert(name.clone(), *link);
                    self.refused.remove(name);
                }
                Err(e) if self.refused.insert(name.clone(), link.index).is_none() => {
                    warn!("the client link {name} is not served: {e:#}; trying on");
                }
                Err(_) => {}
            }
        }
        let used: BTreeSet<u32> = wanted.values().map(|link| link.index).collect();
        for index in read::sorted(&tables.links)?.into_keys().filter(|index| !used.contains(index))
        {
            tables.links.remove(&index)?;
        }
        Ok(())
    }
}

/// Says by which interface a link's answers are routed.
fn note(tables: &mut Tables, link: Found) -> Asked<()> {
    let value = maps::Link { by: link.by };
    match tables.links.get(&link.index)? {
        Some(there) if there == value => Ok(()),
        _ => tables.links.set(&link.index, &value),
    }
}

/// Which of all interfaces are client links, by their names.
fn select(links: &[Link], patterns: &[LinkPattern], uplinks: &[String]) -> BTreeMap<String, Found> {
    let is_wanted = |link: &&Link| {
        link.is_ethernet
            && !uplinks.contains(&link.name)
            && patterns.iter().any(|pattern| pattern.fits(&link.name))
    };
    let found = |link: &Link| {
        let by = if link.is_port { link.master } else { link.index };
        (link.name.clone(), Found { index: link.index, by })
    };
    links.iter().filter(is_wanted).map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_links_are_those_with_fitting_names_and_are_answered_where_their_routes_are() {
        let link = |name: &str, index| Link {
            name: name.to_owned(),
            index,
            is_ethernet: true,
            ..Link::default()
        };
        let links = [
            link("eth0", 2),
            link("veth1", 3),
            Link { is_port: true, master: 9, ..link("veth2", 4) },
            // A VRF's: its routes are its own.
            Link { master: 8, ..link("veth3", 5) },
            link("veth-up", 6),
            Link { is_ethernet: false, ..link("veth-tun", 7) },
        ];
        let patterns = ["veth*", "eth0"].map(|text| LinkPattern::parse(text).unwrap());
        let found = select(&links, &patterns, &["veth-up".to_owned(), "eth0".to_owned()]);
        let expected = [("veth1", 3, 3), ("veth2", 4, 9), ("veth3", 5, 5)];
        let expected = expected.map(|(name, index, by)| (name.to_owned(), Found { index, by }));
        assert_eq!(found, BTreeMap::from(expected));
    }
}
