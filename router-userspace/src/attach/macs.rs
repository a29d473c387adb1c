//! For which MAC addresses frames come to this machine: those of all its interfaces, since a bridge, a bond, a VLAN
//! or a macvlan takes frames that arrive by another one. Roost answers for no other.

use std::{collections::BTreeSet, time::Duration};

use router_ebpf::maps::Mac;
use tracing::{info, warn};

use crate::{
    maps::{handle::Asked, read, tables::Tables},
    os::netlink::{self, LinkChanges},
};

/// For how long what is written is believed without a daemon that writes it again: interfaces may change when none
/// is there to see it.
const BELIEVED: Duration = Duration::from_secs(10);
/// How often it is written again.
const AGAIN: Duration = Duration::from_secs(2);

/// Keeps `MACS` as the interfaces are.
pub(crate) struct Macs {
    changes: Option<LinkChanges>,
    /// When it is to be written again that all are known. `None`: they are not.
    next: Option<Duration>,
    is_well: bool,
}

impl Macs {
    pub(crate) fn new() -> Self {
        let changes = LinkChanges::new()
            .inspect_err(|e| warn!("frames for other MAC addresses are taken, too: {e:#}"));
        Self { changes: changes.ok(), next: None, is_well: true }
    }

    /// The same, and writes again that all are known: before something that takes long.
    pub(crate) fn renew(&mut self, tables: &mut Tables, now: Duration) {
        self.next = self.next.map(|_| now);
        self.follow(tables, now);
    }

    /// Looks whether the interfaces have changed. To be called often: it costs a system call as long as they have
    /// not.
    pub(crate) fn follow(&mut self, tables: &mut Tables, now: Duration) {
        let Some(changes) = &self.changes else { return };
        if changes.any() {
            self.next = None;
        }
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        let until = now + BELIEVED;
        let written = match self.next {
            Some(_) => write_until(tables, until).map_err(Into::into),
            None => netlink::macs().and_then(|macs| Ok(write(tables, &macs, until)?)),
        };
        match &written {
            Ok(()) if !self.is_well => info!("the MAC addresses of the interfaces are known again"),
            Err(e) if self.is_well => warn!(
                "the MAC addresses of the interfaces are not known; after 10 s frames for others \
                 are taken, too: {e:#}"
            ),
            _ => {}
        }
        self.is_well = written.is_ok();
        self.next = written.is_ok().then_some(now + AGAIN);
    }
}

/// Makes `MACS` have these, which are all until then. What is new comes first, and what has gone goes last: in between
/// no frame for us is another's.
fn write(tables: &mut Tables, macs: &BTreeSet<[u8; 6]>, until: Duration) -> Asked<()> {
    let wanted: BTreeSet<Mac> = macs.iter().copied().map(Mac::new).collect();
    let known: BTreeSet<Mac> = read::sorted(&tables.macs)?.into_keys().collect();
    for mac in wanted.difference(&known) {
        tables.macs.set(mac, &0)?;
    }
    write_until(tables, until)?;
    for mac in known.difference(&wanted).filter(|mac| **mac != Mac::ALL_KNOWN) {
        tables.macs.remove(mac)?;
    }
    Ok(())
}

fn write_until(tables: &mut Tables, until: Duration) -> Asked<()> {
    tables.macs.set(&Mac::ALL_KNOWN, &(until.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMaps;

    #[test]
    fn the_map_has_what_there_is_and_says_until_when() {
        let maps = TestMaps::new();
        let mut tables = maps.tables();
        let [a, b, c] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];
        for (all, until) in [(vec![a, b], 5), (vec![b, c], 6), (vec![], 7)] {
            write(&mut tables, &all.iter().copied().collect(), Duration::from_nanos(until))
                .unwrap();
            let mut wanted: Vec<_> = all.into_iter().map(|mac| (Mac::new(mac), 0)).collect();
            wanted.push((Mac::ALL_KNOWN, until));
            assert_eq!(read::sorted(&tables.macs).unwrap().into_iter().collect::<Vec<_>>(), wanted);
        }
        Macs::new().follow(&mut tables, Duration::from_secs(1));
        let found = read::sorted(&tables.macs).unwrap();
        assert_eq!(found[&Mac::ALL_KNOWN], 11_000_000_000);
        assert!(found.contains_key(&Mac::new([0; 6])), "the loopback interface's");
    }
}
