//! The index on real maps.

use std::time::Duration;

use router_ebpf::schema::Map;

use super::*;
use crate::{
    plan::{config::Config, index::Index, origin::Origin},
    testing::TestMaps,
};

const NOW: Duration = Duration::from_secs(1);

fn services(text: &str) -> Vec<crate::plan::config::Service> {
    Config::parse(&format!("interfaces = [\"eth0\"]\n{text}"), "r.toml").unwrap().services
}

const ONE: &str = "[[service]]\nname = \"chat\"\naddresses = [\"10.0.0.1\", \"2001:db8::/64\"]\n\
    port = 80\n\
    allowed_sources = [\"192.0.2.0/24\", \"::/0\"]\npolicy = \"home\"\nkey = \"query:chat\"\n\
    [[service.replica]]\nname = \"a\"\naddress = [\"10.1.0.2\", \"fd00::2\"]\n\
    [[service.replica]]\nname = \"b\"\naddress = [\"10.1.0.3\", \"fd00::3\"]\n";

#[test]
fn what_is_written_is_read_back_and_not_written_again() {
    let maps = TestMaps::new();
    let mut tables = maps.tables();
    assert_eq!(room(&tables).unwrap(), Room { services: 4, replicas: 32 });
    let mut index = Index::new(room(&tables).unwrap(), tables.read().unwrap());
    index.reset(Origin::FILE, services(ONE));
    assert!(!index.sync(&mut tables, NOW).unwrap().is_empty());
    let read = tables.read().unwrap();
    assert_eq!(read.vips, index.published().vips);
    assert_eq!(read.ranges, index.published().ranges);
    assert_eq!(read.ranges.values().copied().collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(read.services, index.published().services);
    assert_eq!(read.replicas, index.published().replicas);
    assert_eq!(read.slots, index.published().slots);
    let mut again = Index::new(room(&tables).unwrap(), read);
    again.reset(Origin::FILE, services(ONE));
    assert_eq!(again.sync(&mut tables, NOW).unwrap(), []);
    again.reset(Origin::FILE, []);
    assert!(!again.sync(&mut tables, NOW).unwrap().is_empty());
    let read = tables.read().unwrap();
    assert!(read.vips.is_empty() && read.services.is_empty() && read.ranges.is_empty());
    assert_eq!(read.replicas.len(), 2);
}

#[test]
fn maps_of_other_versions_are_refused() {
    let maps = TestMaps::new();
    let mut tables = maps.unfilled();
    let Err(e) = Tables::open(&maps.pin_dir.join("nowhere")) else { panic!("nothing is there") };
    assert!(e.is_absent() && e.to_string().contains("--pin-dir"), "{e}");
    let text = format!(
        "map {} at {} cannot be opened: No such file or directory (os error 2); is roost running, or was \
         it detached? Another directory: --pin-dir",
        e.map.pin(),
        e.path.display()
    );
    assert_eq!(e.to_string(), text);
    let refused = |says: &str| {
        let Err(e) = Tables::open(&maps.pin_dir) else { panic!("taken: {says}") };
        assert!(e.to_string().contains(says), "{e}");
    };
    let mark = router_ebpf::maps::Mark::new;
    tables.schema.set(&mark("map:FLOWS"), &99).unwrap();
    refused("version 99 of the map; this program has");
    tables.schema.set(&mark("map:FLOWS"), &Map::Flows.version()).unwrap();
    maps.tables();
    tables.schema.remove(&mark("counter:bound")).unwrap();
    refused("which has other counters");
    let secrets = tables.secrets.get(0).unwrap();
    tables.secrets.set(0, &router_ebpf::maps::Secrets { schema: 0, ..secrets }).unwrap();
    refused("never filled");
}
