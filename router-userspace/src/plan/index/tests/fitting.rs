//! Services that do not fit, or that the maps refuse, beside others.

use super::*;

fn parsed(text: &str) -> Vec<config::Service> {
    Config::parse(&format!("interfaces = [\"eth0\"]\n{text}"), "r.toml").unwrap().services
}

/// Publishes, and returns what has failed: names and the beginnings of what is said.
fn sync(world: &mut World) -> Vec<String> {
    let Synced { failed, .. } = world.index.sync(&mut world.maps, NOW);
    assert_eq!(world.index.published(), &world.maps);
    assert_eq!(world.index.is_behind(), !failed.is_empty());
    is_consistent(&world.maps);
    failed.iter().map(|(name, why)| format!("{name}: {why}")).collect()
}

fn set(world: &mut World, text: &str) -> Vec<String> {
    world.index.reset(Origin::FILE, parsed(text));
    sync(world)
}

fn names(maps: &Published) -> Vec<String> {
    let name = |s: &Service| String::from_utf8_lossy(s.name.kept()).into_owned();
    maps.services.values().map(name).collect()
}

/// The last bytes of the addresses of a service's replicas that are not gone.
fn live(maps: &Published, service: u32) -> Vec<u8> {
    let of = maps.replicas.values().filter(|r| r.service == service && r.state != REPLICA_GONE);
    of.map(|r| r.v4[15]).collect()
}

fn many(name: &str, address: &str, from: u8, count: u8) -> String {
    let names: Vec<String> = (from..from + count).map(|i| format!("r{i}")).collect();
    let replicas: Vec<_> =
        names.iter().zip(from..).map(|(name, i)| (name.as_str(), i, "")).collect();
    service(name, address, &replicas)
}

#[test]
fn a_service_too_many_is_left_out_and_the_others_are_served() {
    let mut world = World::new();
    let all: String = (1..=9)
        .map(|i| service(&format!("s{i}"), &format!("10.0.0.{i}"), &[("a", i, "")]))
        .collect();
    let failed = set(&mut world, &all);
    let says = "s9: no room for \"s9\": map SERVICES has 8 of 8 entries in use, and it needs 1 more; those that \
                were removed but are still in use count, too; raise [limits] services, then `roost detach`";
    assert!(failed.len() == 1 && failed[0].starts_with(says), "{failed:?}");
    assert_eq!(names(&world.maps), (1..=8).map(|i| format!("s{i}")).collect::<Vec<_>>());
    // The others go on being changed, and are removed. Its number rests for a while.
    let less = all.replace("10.1.0.2", "10.1.0.12").replacen("[[service]]\nname = \"s1\"", "", 1);
    let first = less.find("[[service]]").unwrap();
    assert_eq!(set(&mut world, &less[first..]).len(), 1);
    assert_eq!(live(&world.maps, 1), [12]);
    assert!(!names(&world.maps).contains(&"s1".into()));
    world.index.free_unused(&Used::default(), LATER);
    assert_eq!(sync(&mut world), Vec::<String>::new());
    assert!(names(&world.maps).contains(&"s9".into()));
}

#[test]
fn a_service_that_outgrows_its_room_loses_what_has_left_it_all_the_same() {
    let mut world = World::new();
    let beside = many("other", "10.0.0.2", 100, 2);
    set(&mut world, &format!("{}{beside}", many("chat", "10.0.0.1", 1, 3)));
    // 2 of 3 stay, and 28 come: there is room for 27.
    let grown = many("chat", "10.0.0.1", 2, 30).replace("home", "spread");
    let failed = set(&mut world, &format!("{grown}{beside}"));
    let says = "chat: no room for \"chat\": map REPLICAS has 5 of 32 entries in use, and it needs 28 more; those";
    assert!(failed.len() == 1 && failed[0].starts_with(says), "{failed:?}");
    assert!(failed[0].contains("raise [limits] replicas"), "{failed:?}");
    assert_eq!(live(&world.maps, 0), [2, 3]);
    let chat = world.maps.services[&0];
    assert_eq!((chat.usable, chat.policy), (2, router_ebpf::maps::POLICY_HOME));
    // The other one is changed meanwhile, and takes what there is.
    assert_eq!(set(&mut world, &format!("{grown}{}", many("other", "10.0.0.2", 100, 4))).len(), 1);
    assert_eq!(live(&world.maps, 1), [100, 101, 102, 103]);
    // With room it is as its source says.
    let fits = many("chat", "10.0.0.1", 2, 20).replace("home", "spread");
    assert_eq!(set(&mut world, &format!("{fits}{}", many("other", "10.0.0.2", 100, 4))), [""; 0]);
    let chat = world.maps.services[&0];
    assert_eq!((chat.usable, chat.policy), (20, router_ebpf::maps::POLICY_SPREAD));
}

#[test]
fn addresses_and_prefixes_have_room_or_are_refused_with_their_service() {
    let mut world = World::new();
    let list = |of: &str, from: u8, count: u8| {
        let all: Vec<_> = (from..from + count).map(|i| format!("\"{of}.{i}\"")).collect();
        all.join(", ")
    };
    let with = |name: &str, of: &str, from: u8, count: u8, sources: u8| {
        let text = service(name, "10.9.9.9", &[("a", 2, "")]);
        let text = text.replace("\"10.9.9.9\"", &list(of, from, count));
        match sources {
            0 => text,
            _ => text.replace(
                "port = 80\n",
                &format!("port = 80\nallowed_sources = [{}]\n", list("192.0.2", 1, sources)),
            ),
        }
    };
    set(&mut world, &with("one", "10.0.1", 1, 12, 12));
    let two = with("two", "10.0.2", 1, 9, 0);
    let failed = set(&mut world, &format!("{}{two}", with("one", "10.0.1", 1, 12, 12)));
    let says = "two: no room for \"two\": map VIPS has 12 of 20 entries in use, and it needs 9 more; raise [limits] \
                services";
    assert!(failed.len() == 1 && failed[0].starts_with(says), "{failed:?}");
    // What leaves makes room, in the same moment and whatever the order: it is the last by name.
    let failed = set(&mut world, &format!("{two}{}", with("zwei", "10.0.3", 1, 11, 0)));
    assert_eq!(failed, [""; 0]);
    assert_eq!(world.maps.vips.len(), 20);
    // One gives addresses up, and the one before it takes as many.
    let taken = with("two", "10.0.2", 1, 12, 0);
    assert_eq!(set(&mut world, &format!("{taken}{}", with("zwei", "10.0.3", 1, 8, 0))), [""; 0]);
    // Other addresses than before, more than there is room for: those before are not answered for.
    let failed = set(&mut world, &format!("{taken}{}", with("zwei", "10.0.3", 8, 9, 0)));
    assert_eq!(failed.len(), 1);
    let at = |addr: u8| world.maps.vips.keys().any(|(_, vip)| vip.addr[14..] == [3, addr]);
    assert!(at(8) && !at(7) && !at(9));

    let mut world = World::new();
    set(
        &mut world,
        &format!("{}{}", with("one", "10.0.1", 1, 1, 12), with("two", "10.0.2", 1, 1, 0)),
    );
    let failed = set(
        &mut world,
        &format!("{}{}", with("one", "10.0.1", 1, 1, 12), with("two", "10.0.2", 1, 1, 9)),
    );
    let says = "two: no room for \"two\": map SOURCE_RANGES has 12 of 20 entries in use, and it needs 9 more";
    assert!(failed.len() == 1 && failed[0].starts_with(says), "{failed:?}");
    // As it was: anybody may connect.
    let restricted = |world: &World, number| world.maps.services[&number].restricted;
    assert_eq!((restricted(&world, 0), restricted(&world, 1)), (1, 0));
    // What was taken off the list is off, also if what was put on does not fit.
    let other = with("one", "10.0.1", 1, 1, 12).replace("192.0.2.1\"", "198.51.100.1\"").replace(
        "allowed_sources = [",
        &format!("allowed_sources = [{}, ", list("203.0.113", 1, 12)),
    );
    assert_eq!(set(&mut world, &other).len(), 1);
    assert_eq!((world.maps.ranges.len(), restricted(&world, 0)), (11, 1));
}

/// Maps that refuse some changes.
struct Refusing {
    maps: Published,
    refuses: fn(&Change) -> bool,
}

impl Maps for Refusing {
    type Error = &'static str;

    fn read(&self) -> Result<Published, Self::Error> {
        Ok(self.maps.clone())
    }

    fn write(&mut self, change: &Change) -> Result<(), Self::Error> {
        if (self.refuses)(change) {
            return Err("no memory");
        }
        self.maps.note(change);
        Ok(())
    }
}

#[test]
fn a_map_that_refuses_one_service_keeps_back_no_other() {
    let mut index = Index::new(ROOM, Published::default());
    let mut maps = Refusing { maps: Published::default(), refuses: |_| false };
    let text = |first: &[(&str, u8, &str)], address: &str| {
        let gone = service("zone", "10.0.0.3", &[("a", 9, "")]);
        let second = service("two", "10.0.0.2", &[("a", 4, ""), ("b", 5, "")]);
        let all = format!("{}{second}{gone}", service("one", address, first));
        parsed(&all)
    };
    index.reset(Origin::FILE, text(&[("a", 2, ""), ("b", 3, "")], "10.0.0.1"));
    assert!(index.sync(&mut maps, NOW).failed.is_empty());
    // One loses a replica and an address, and its value cannot be written; two loses a replica, and one goes.
    let mut services = text(&[("a", 2, "")], "10.0.0.4");
    services.remove(2);
    services[1].replicas.pop();
    index.reset(Origin::FILE, services);
    maps.refuses = |change| matches!(change, Change::Service { number: 0, .. });
    let failed = index.sync(&mut maps, NOW).failed;
    let failed: Vec<_> = failed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert_eq!(failed, ["one: no memory"]);
    assert!(index.is_behind());
    assert_eq!(index.published(), &maps.maps);
    // What has left is gone, with all of them.
    assert_eq!((live(&maps.maps, 0), live(&maps.maps, 1)), (vec![2], vec![4]));
    assert_eq!(names(&maps.maps), ["one", "two"]);
    assert!(maps.maps.vips.keys().all(|(_, vip)| ![1, 3, 4].contains(&vip.addr[15])));
    maps.refuses = |_| false;
    assert!(index.sync(&mut maps, NOW).failed.is_empty());
    is_consistent(&maps.maps);
    assert!(!index.is_behind() && maps.maps.vips.keys().any(|(_, vip)| vip.addr[15] == 4));
}

/// An address comes to its next owner at once, and is with nobody if that fails and the one before is gone.
#[test]
fn an_address_whose_next_owner_fails_points_to_no_service_that_is_gone() {
    let mut index = Index::new(ROOM, Published::default());
    let mut maps = Refusing { maps: Published::default(), refuses: |_| false };
    index.reset(Origin::FILE, parsed(&service("old", "10.0.0.1", &[("a", 2, "")])));
    index.sync(&mut maps, NOW);
    index.reset(Origin::FILE, parsed(&service("new", "10.0.0.1", &[("a", 3, "")])));
    maps.refuses = |change| matches!(change, Change::Service { number: 1, .. });
    assert_eq!(index.sync(&mut maps, NOW).failed.len(), 1);
    assert!(maps.maps.vips.is_empty() && maps.maps.services.is_empty());
    assert_eq!(live(&maps.maps, 0), [0; 0]);
    maps.refuses = |_| false;
    assert!(index.sync(&mut maps, NOW).failed.is_empty());
    is_consistent(&maps.maps);
    assert_eq!(names(&maps.maps), ["new"]);
}

/// A slot table of which nobody knows how much is there is written as a whole.
#[test]
fn a_table_that_was_cut_short_is_written_anew() {
    let mut index = Index::new(ROOM, Published::default());
    let mut maps = Refusing { maps: Published::default(), refuses: |_| false };
    for replicas in [&[("a", 2, "")][..], &[("b", 3, "")], &[("a", 2, "")]] {
        index.reset(Origin::FILE, parsed(&service("chat", "10.0.0.1", replicas)));
        assert!(index.sync(&mut maps, NOW).failed.is_empty());
    }
    // Into the region that has a table of before.
    index.reset(Origin::FILE, parsed(&service("chat", "10.0.0.1", &[("a", 2, ""), ("c", 4, "")])));
    maps.refuses = |change| matches!(change, Change::Slots { .. });
    assert_eq!(index.sync(&mut maps, NOW).failed.len(), 1);
    maps.refuses = |_| false;
    let written = index.sync(&mut maps, NOW).changes;
    let slots = written.iter().find_map(|change| match change {
        Change::Slots { slots, .. } => Some(slots.len()),
        _ => None,
    });
    assert_eq!(slots, Some(SLOT_COUNT as usize));
}
