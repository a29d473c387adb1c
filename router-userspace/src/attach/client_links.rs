//! The links of this machine at whose other ends are clients: pods come and go, and their links with them.

mod select;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context as _;
use router_ebpf::maps;
use tracing::{info, warn};

use crate::{
    attach::loader::DataPath,
    maps::{handle::Asked, read, tables::Tables},
    os::netlink::{self, LinkChanges},
    plan::config::LinkPattern,
};

use select::{Found, Selected, select};
pub(crate) use select::{routed, way};

/// How often all links are looked at when nothing says that they have changed: what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

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
    failed: BTreeMap<String, u32>,
    /// What was said of those that are not served.
    said: BTreeMap<String, String>,
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
            failed: BTreeMap::new(),
            said: BTreeMap::new(),
            is_new: false,
            next: Duration::ZERO,
            is_well: true,
        }
    }

    /// From now on these are wanted. Their programs are loaded if there are any, and not when the first link comes: then what the
    /// kernel takes for it would be in the way of everything else.
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
        if !patterns.is_empty()
            && let Err(e) = data_path.load_inside()
        {
            warn!("no client link can be served: {e:#}; trying on");
        }
        (self.patterns, self.uplinks) = (Some(patterns.to_owned()), uplinks.to_owned());
        self.is_new = true;
        self.follow(data_path, tables, now);
    }

    /// Looks whether links have come or gone. To be called often: it costs a system call as long as none has.
    pub(crate) fn follow(&mut self, data_path: &mut DataPath, tables: &mut Tables, now: Duration) {
        let Some(patterns) = self.patterns.clone() else { return };
        let has_changed = self.changes.as_ref().is_some_and(LinkChanges::any);
        let may_fail = self.changes.is_none() || !self.failed.is_empty() || !self.is_well;
        if !(self.is_new || has_changed || may_fail && now >= self.next) {
            return;
        }
        let found = netlink::links().and_then(|links| {
            let selected = select(&links, &patterns, &self.uplinks);
            self.tell(&selected);
            let applied = self.apply(&selected, data_path, tables);
            data_path.tidy();
            applied
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

    /// Whether the programs are on a link.
    pub(crate) fn serves(&self, link: &str) -> bool {
        self.attached.contains_key(link)
    }

    /// Says once of each link that is not served why.
    fn tell(&mut self, selected: &Selected) {
        let mut said = BTreeMap::new();
        for (name, uplink) in &selected.beneath {
            let what = format!("{name} is no client link: it is under the uplink {uplink}");
            if self.said.get(name) != Some(&what) {
                info!("{what}");
            }
            said.insert(name.clone(), what);
        }
        for (name, (_, why)) in &selected.refused {
            if self.said.get(name) != Some(why) {
                warn!("the client link {name} is not served: {why}");
            }
            said.insert(name.clone(), why.clone());
        }
        self.said = said;
    }

    fn apply(
        &mut self,
        selected: &Selected,
        data_path: &mut DataPath,
        tables: &mut Tables,
    ) -> anyhow::Result<()> {
        let served = &selected.served;
        let pinned = data_path.pinned_client_links();
        let old: BTreeSet<_> = pinned.into_iter().chain(self.attached.keys().cloned()).collect();
        for name in old.iter().filter(|name| !served.contains_key(*name)) {
            // What is now an uplink has other programs, and this one's are gone.
            if !self.uplinks.contains(name) {
                data_path.detach_inside(name);
            }
            self.attached.remove(name);
        }
        let refused: Vec<Found> = selected.refused.values().map(|(found, _)| *found).collect();
        forget_others(tables, served.values().chain(&refused))?;
        self.failed.retain(|name, index| served.get(name).is_some_and(|now| now.index == *index));
        for (name, link) in served {
            match self.serve(name, *link, data_path, tables) {
                Ok(()) => drop(self.failed.remove(name)),
                Err(e) if self.failed.insert(name.clone(), link.index).is_none() => {
                    warn!("the client link {name} is not served: {e:#}; trying on");
                }
                Err(_) => {}
            }
        }
        // For those who ask what there is.
        for link in refused {
            note(tables, link)?;
        }
        Ok(())
    }

    /// Has the programs on one link. Pins are believed, and not what was done before: a file that was refused in the end may have
    /// taken them away.
    fn serve(
        &mut self,
        name: &str,
        link: Found,
        data_path: &mut DataPath,
        tables: &mut Tables,
    ) -> anyhow::Result<()> {
        // Before a program is there that asks.
        note(tables, link).context("noting by which interface it is answered")?;
        let is_there = self.attached.get(name).is_some_and(|there| there.index == link.index);
        if !is_there || !data_path.is_inside(name) {
            data_path.attach_inside(name, link.index)?;
            info!("attached to the client link {name}");
        }
        self.attached.insert(name.to_owned(), link);
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

/// Forgets what was said of other links than these.
fn forget_others<'a>(tables: &mut Tables, links: impl Iterator<Item = &'a Found>) -> Asked<()> {
    let used: BTreeSet<u32> = links.map(|link| link.index).collect();
    for index in read::sorted(&tables.links)?.into_keys().filter(|index| !used.contains(index)) {
        tables.links.remove(&index)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        os::sys,
        testing::{LIMITS, TestMaps, in_namespace},
    };

    const LO: &str = "lo";

    /// Neither a link whose note has no room, nor one that a refused file has taken away, keeps others from being served.
    #[test]
    fn each_link_is_served_for_itself_whatever_was_done_before() {
        in_namespace(|| {
            let maps = TestMaps::new();
            let mut data_path = DataPath::load(&maps.pin_dir, &LIMITS, false).unwrap();
            let mut tables = maps.tables();
            let index = sys::interface_index(LO).unwrap();
            let lo = Found { index, by: index };
            let mut selected = Selected::default();
            selected.served.insert(LO.to_owned(), lo);
            let mut links = ClientLinks::new();
            links.apply(&selected, &mut data_path, &mut tables).unwrap();
            assert!(data_path.is_inside(LO));

            data_path.detach_inside(LO);
            links.apply(&selected, &mut data_path, &mut tables).unwrap();
            assert!(data_path.is_inside(LO), "what was done before is not what there is");

            data_path.detach_inside(LO);
            // One more than there is room for, and all before this one.
            let room = tables.links.room().unwrap();
            for n in 0..room {
                let (name, index) = (format!("gone{n}"), 1000 + n);
                selected.served.insert(name, Found { index, by: index });
            }
            links.apply(&selected, &mut data_path, &mut tables).unwrap();
            assert_eq!(tables.links.count().unwrap(), room as usize);
            assert!(data_path.is_inside(LO));
            assert_eq!(links.failed.len(), room as usize);

            links.apply(&Selected::default(), &mut data_path, &mut tables).unwrap();
            assert!(!data_path.is_inside(LO));
            assert_eq!(tables.links.count().unwrap(), 0);
        });
    }
}
