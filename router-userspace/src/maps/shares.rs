//! How the tables are shared that a stranger could fill: `SHARING` and `TRUSTED`.

use std::collections::{BTreeMap, BTreeSet};

use router_ebpf::maps::{Addr, Sharing};

use super::{handle::Asked, tables::Tables};
use crate::plan::{
    addr::clients,
    config::{Prefix, Shares},
};

/// Says how the tables are shared among so many services. `nodes`: what is trusted of the cluster, if the file
/// trusts it; while that is not known, whoever is trusted stays so.
///
/// Who is trusted anew is so before anybody is no longer: a prefix that another one replaces is never without both.
/// Where that fails, some are trusted still that should not be, and nobody else is refused.
pub fn set(
    tables: &mut Tables,
    shares: &Shares,
    nodes: Option<&BTreeSet<Prefix>>,
    services: usize,
) -> Asked<()> {
    let sharing = Sharing {
        flows: tables.flows.room()?,
        chats: tables.chats.room()?,
        heads: tables.chunks.room()?,
        services: services.try_into().unwrap_or(u32::MAX),
        ipv4_prefix: shares.ipv4_prefix,
        ipv6_prefix: shares.ipv6_prefix,
        reserved: [0; 2],
    };
    if tables.sharing.get(0)? != sharing {
        tables.sharing.set(0, &sharing)?;
    }
    let nobody = BTreeSet::new();
    let nodes = if shares.trust_cluster { nodes } else { Some(&nobody) };
    let wanted = clients(shares.trusted_sources.iter().chain(nodes.unwrap_or(&nobody)));
    let there = trusted(tables)?;
    for ((bits, addr), value) in &wanted {
        if there.get(&(*bits, *addr)) != Some(value) {
            tables.trusted.set(*bits, *addr, value)?;
        }
    }
    let left = if nodes.is_some() { there } else { BTreeMap::new() };
    for (bits, addr) in left.keys().filter(|key| !wanted.contains_key(*key)) {
        tables.trusted.remove(*bits, *addr)?;
    }
    Ok(())
}

/// What `TRUSTED` holds: prefix length in bits, address, and whether it is trusted.
pub fn trusted(tables: &Tables) -> Asked<BTreeMap<(u32, Addr), u32>> {
    let entries = tables.trusted.entries()?.into_iter();
    Ok(entries.map(|(bits, addr, value)| ((bits, addr), value)).collect())
}

#[cfg(test)]
mod tests {
    use router_ebpf::maps::CHUNKS_OF_HEAD;

    use super::*;
    use crate::{
        plan::config::source_prefix,
        testing::{LIMITS, TestMaps},
    };

    fn shares(trusted: &[&str]) -> Shares {
        let trusted_sources = trusted.iter().map(|text| source_prefix(text).unwrap()).collect();
        Shares { trusted_sources, ..Shares::default() }
    }

    fn there(tables: &Tables) -> Vec<(String, u32)> {
        let shown =
            |((bits, addr), value)| (crate::plan::addr::prefix_of(bits, addr).to_string(), value);
        let mut all: Vec<_> = trusted(tables).unwrap().into_iter().map(shown).collect();
        all.sort();
        all
    }

    #[test]
    fn what_is_trusted_is_what_the_file_and_the_cluster_say() {
        let maps = TestMaps::new();
        let mut tables = maps.tables();
        assert_eq!(tables.sharing.get(0).unwrap(), Sharing::default());
        let (nodes, nobody) =
            (BTreeSet::from([source_prefix("fd00::/64").unwrap()]), BTreeSet::new());
        set(&mut tables, &shares(&["10.0.0.0/8", "::/0"]), Some(&nodes), 3).unwrap();
        let sharing = tables.sharing.get(0).unwrap();
        let rooms = [sharing.flows, sharing.chats, sharing.heads];
        assert_eq!(rooms, [LIMITS.flows, LIMITS.chats, LIMITS.stash * CHUNKS_OF_HEAD]);
        assert_eq!((sharing.services, sharing.ipv4_prefix, sharing.ipv6_prefix), (3, 32, 64));
        let all = [("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("::/0", 1), ("fd00::/64", 1)];
        assert_eq!(there(&tables), all.map(|(text, value)| (text.to_owned(), value)));
        // A narrower prefix comes before the wider one goes; one that both say stays when one says so no longer.
        set(&mut tables, &shares(&["10.1.0.0/16", "fd00::/64"]), Some(&nobody), 1).unwrap();
        let all = [("10.1.0.0/16", 1), ("fd00::/64", 1)];
        assert_eq!(there(&tables), all.map(|(text, value)| (text.to_owned(), value)));
        assert_eq!(tables.sharing.get(0).unwrap().services, 1);
        set(&mut tables, &shares(&["0.0.0.0/0", "::/0"]), Some(&nobody), 1).unwrap();
        let all = [("0.0.0.0/0", 1), ("::/0", 1)];
        assert_eq!(there(&tables), all.map(|(text, value)| (text.to_owned(), value)));
        // A daemon that does not know the cluster yet lets nobody go.
        set(&mut tables, &shares(&["10.0.0.0/8"]), None, 1).unwrap();
        assert_eq!(there(&tables).len(), 3);
        set(&mut tables, &shares(&[]), Some(&nodes), 1).unwrap();
        assert_eq!(there(&tables), [("fd00::/64".to_owned(), 1)]);
        // Where the file says so, none of the cluster is trusted, known or not.
        let not = Shares { trust_cluster: false, ..shares(&["10.0.0.0/8"]) };
        for nodes in [Some(&nodes), None] {
            set(&mut tables, &not, nodes, 1).unwrap();
            assert_eq!(there(&tables), [("10.0.0.0/8".to_owned(), 1)]);
        }
    }
}
