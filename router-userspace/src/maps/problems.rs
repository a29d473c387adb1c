//! Services that are not as their sources say, told to whoever reads the maps.

use std::collections::BTreeMap;

use router_ebpf::maps::{Name, Problem};

use super::{handle::Asked, read, tables::Tables};

/// Replaces what is said: why, by service. As many as there is room for are kept, the first by name.
pub fn set(tables: &mut Tables, problems: &BTreeMap<String, String>) -> Asked<()> {
    let room = tables.problems.room()? as usize;
    let wanted: BTreeMap<Name, Problem> = problems
        .iter()
        .take(room)
        .map(|(service, why)| (Name::new(service.as_bytes()), Problem::new(why)))
        .collect();
    let there = read::sorted(&tables.problems)?;
    for service in there.keys().filter(|service| !wanted.contains_key(*service)) {
        tables.problems.remove(service)?;
    }
    for (service, why) in wanted.iter().filter(|(service, why)| there.get(*service) != Some(*why)) {
        tables.problems.set(service, why)?;
    }
    Ok(())
}

/// What is said.
pub fn read(tables: &Tables) -> Asked<BTreeMap<String, String>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = read::sorted(&tables.problems)?;
    Ok(all.iter().map(|(service, why)| (text(service.kept()), text(why.kept()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMaps;

    #[test]
    fn what_is_said_is_replaced_and_cut_where_there_is_no_room() {
        let maps = TestMaps::new();
        let mut tables = maps.tables();
        let said = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            all.iter().map(|(service, why)| ((*service).into(), (*why).into())).collect()
        };
        for all in [&[("a", "x"), ("b", "y")][..], &[("b", "z"), ("c", "y")], &[]] {
            set(&mut tables, &said(all)).unwrap();
            assert_eq!(read(&tables).unwrap(), said(all));
        }
        let long = "ö".repeat(1000);
        let many = (0..100).map(|i| (format!("{i:03}"), long.clone())).collect();
        set(&mut tables, &many).unwrap();
        let read = read(&tables).unwrap();
        assert_eq!(read.len(), tables.problems.room().unwrap() as usize);
        assert_eq!(read["000"], "ö".repeat(254));
    }
}
