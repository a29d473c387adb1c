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
    assert_eq!(
        room(&tables).unwrap(),
        Room { services: 4, replicas: 32, vips: 1024, ranges: 2048 }
    );
    let mut index = Index::new(room(&tables).unwrap(), tables.read().unwrap());
    index.reset(Origin::FILE, services(ONE));
    assert!(!index.sync(&mut tables, NOW).changes.is_empty());
    let read = tables.read().unwrap();
    assert_eq!(read.vips, index.published().vips);
    assert_eq!(read.ranges, index.published().ranges);
    assert_eq!(read.ranges.values().copied().collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(read.services, index.published().services);
    assert_eq!(read.replicas, index.published().replicas);
    assert_eq!(read.slots, index.published().slots);
    let mut again = Index::new(room(&tables).unwrap(), read);
    again.reset(Origin::FILE, services(ONE));
    assert_eq!(again.sync(&mut tables, NOW).changes, []);
    again.reset(Origin::FILE, []);
    assert!(!again.sync(&mut tables, NOW).changes.is_empty());
    let read = tables.read().unwrap();
    assert!(read.vips.is_empty() && read.services.is_empty() && read.ranges.is_empty());
    assert_eq!(read.replicas.len(), 2);
}

/// What is taken for room is what the kernel takes, to the last entry.
#[test]
fn full_maps_take_what_is_planned_and_a_service_too_many_is_told() {
    let maps = TestMaps::new();
    let mut tables = maps.tables();
    let room = room(&tables).unwrap();
    let mut index = Index::new(room, tables.read().unwrap());
    let with = |name: &str, net: &str, addresses: u32, sources: u32| {
        let list = |net: &str, count: u32| {
            let all = (0..count).map(|i| format!("\"{net}.{}.{}\"", i / 256, i % 256));
            all.collect::<Vec<_>>().join(", ")
        };
        let sources = match sources {
            0 => String::new(),
            _ => format!("allowed_sources = [{}]\n", list("192.0", sources)),
        };
        format!(
            "[[service]]\nname = {name:?}\naddresses = [{}]\nport = 80\npolicy = \"spread\"\n{sources}\
             [[service.replica]]\nname = \"a\"\naddress = \"10.1.0.2\"\n",
            list(net, addresses)
        )
    };
    let sync = |index: &mut Index, tables: &mut Tables, text: &str| {
        index.reset(Origin::FILE, services(text));
        let failed = index.sync(tables, NOW).failed;
        let read = tables.read().unwrap();
        assert_eq!(
            (&read.vips, &read.ranges),
            (&index.published().vips, &index.published().ranges)
        );
        failed.values().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (one, two) = (with("one", "10.2", 1000, 256), with("two", "10.3", room.vips - 1000, 256));
    assert_eq!(sync(&mut index, &mut tables, &format!("{one}{two}")), [""; 0]);
    assert_eq!(index.published().vips.len() as u32, room.vips);
    // An address comes to another service though the map is full.
    let (less, more) = (with("one", "10.2", 999, 256), with("two", "10.3", room.vips - 1000, 256));
    let more = more.replace("addresses = [", "addresses = [\"10.2.3.231\", ");
    assert_eq!(sync(&mut index, &mut tables, &format!("{less}{more}")), [""; 0]);
    let failed = sync(&mut index, &mut tables, &format!("{less}{more}{}", with("x", "10.4", 1, 1)));
    let full = format!("map VIPS has {0} of {0} entries in use, and it needs 1 more", room.vips);
    assert!(failed.len() == 1 && failed[0].contains(&full), "{failed:?}");
    // All prefixes of a service are replaced while there is room for as many again.
    let other = less.replace("\"192.0.", "\"198.51.");
    assert_eq!(sync(&mut index, &mut tables, &format!("{other}{more}")), [""; 0]);
    assert_eq!(index.published().ranges.len(), 512);
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
