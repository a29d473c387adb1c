mod fitting;

use std::net::IpAddr;

use proptest::prelude::*;
use router_ebpf::maps::{
    MISSING_REPLICA, NO_REPLICA, REPLICA_DRAINING, REPLICA_READY, SLOT_COUNT, Service,
};

use crate::plan::config::Config;

use super::*;

const ROOM: Room = Room { services: 8, replicas: 32, vips: 20, ranges: 20 };
const NOW: Duration = Duration::from_secs(1000);
const LATER: Duration = Duration::from_secs(2000);

/// An index with maps that follow it.
struct World {
    index: Index,
    maps: Published,
}

impl World {
    fn new() -> Self {
        Self { index: Index::new(ROOM, Published::default()), maps: Published::default() }
    }

    /// Makes `services` the file's, and returns what was written.
    fn set(&mut self, services: &str) -> Vec<Change> {
        let text = format!("interfaces = [\"eth0\"]\n{services}");
        let config = Config::parse(&text, "r.toml").unwrap();
        self.index.reset(Origin::FILE, config.services);
        self.sync()
    }

    fn sync(&mut self) -> Vec<Change> {
        let Synced { changes, failed } = self.index.sync(&mut self.maps, NOW);
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(self.index.published(), &self.maps);
        changes
    }

    /// The daemon starts anew: all that is left is in the maps.
    fn restart(&mut self) {
        self.index = Index::new(ROOM, self.maps.read().unwrap());
    }

    fn number(&self, name: &str) -> u32 {
        let named = |(_, r): &(&u32, &router_ebpf::maps::Replica)| {
            r.name.kept() == name.as_bytes() && r.state != REPLICA_GONE
        };
        *self.maps.replicas.iter().find(named).unwrap().0
    }

    fn slots(&self, service: &Service) -> Vec<u32> {
        self.maps.slots[&service.slots].to_vec()
    }
}

/// A service in the file's form: name, address and replicas (name, last byte of the address, more).
fn service(name: &str, address: &str, replicas: &[(&str, u8, &str)]) -> String {
    let mut text = format!(
        "[[service]]\nname = {name:?}\naddresses = [{address:?}]\nport = 80\npolicy = \"home\"\n\
         key = \"query:chat\"\n"
    );
    for (name, byte, more) in replicas {
        text +=
            &format!("[[service.replica]]\nname = {name:?}\naddress = \"10.1.0.{byte}\"\n{more}\n");
    }
    text
}

fn kinds(changes: &[Change]) -> String {
    let kind = |change: &Change| match change {
        Change::Replica { value, .. } if value.state == REPLICA_GONE => 'g',
        Change::Replica { .. } => 'r',
        Change::Slots { .. } => 't',
        Change::Service { .. } => 's',
        Change::Vip { .. } => 'v',
        Change::RemoveVip { .. } => 'V',
        Change::RemoveService { .. } => 'S',
        Change::RemoveReplica { .. } => 'R',
        Change::Range { value, .. } => {
            if *value == 1 {
                'p'
            } else {
                'd'
            }
        }
        Change::RemoveRange { .. } => 'P',
    };
    changes.iter().map(kind).collect()
}

#[test]
fn a_first_service_is_written_in_the_safe_order_and_once() {
    let mut world = World::new();
    let text = service("chat", "10.0.0.1", &[("a", 2, ""), ("b", 3, "weight = 2")]);
    assert_eq!(kinds(&world.set(&text)), "rrtsv");
    assert_eq!(world.set(&text), []);
    let chat = world.maps.services[&0];
    assert_eq!((chat.usable, chat.slots, chat.generation), (2, 0, 1));
    assert_eq!((chat.mss4, chat.mss6), (1460, 1440));
    let (a, b) = (world.number("a"), world.number("b"));
    let share = world.slots(&chat).iter().filter(|n| **n == b).count() as f64;
    assert!((share / f64::from(SLOT_COUNT) - 2.0 / 3.0).abs() < 0.03, "{share}");
    assert!(world.slots(&chat).iter().all(|n| *n == a || *n == b));
}

#[test]
fn a_new_replica_moves_only_its_slots_into_the_other_region() {
    let mut world = World::new();
    let two = [("a", 2, ""), ("b", 3, "")];
    world.set(&service("chat", "10.0.0.1", &two));
    let before = world.slots(&world.maps.services[&0]);
    let three = [("b", 3, ""), ("c", 4, ""), ("a", 2, "")];
    assert_eq!(kinds(&world.set(&service("chat", "10.0.0.1", &three))), "rts");
    let chat = world.maps.services[&0];
    assert_eq!((chat.generation, chat.slots), (2, router_ebpf::maps::SLOT_STRIDE));
    let c = world.number("c");
    for (before, after) in before.iter().zip(world.slots(&chat)) {
        assert!(*before == after || after == c);
    }
}

#[test]
fn a_removed_replica_is_gone_and_its_number_stays_taken_while_used() {
    let mut world = World::new();
    let all = [("a", 2, ""), ("b", 3, "")];
    world.set(&service("chat", "10.0.0.1", &all));
    let b = world.number("b");
    assert_eq!(kinds(&world.set(&service("chat", "10.0.0.1", &all[..1]))), "tsg");
    let used = Used { services: [0].into(), replicas: [b].into() };
    world.index.free_unused(&used, LATER);
    assert_eq!(world.sync(), []);
    // Not used, but only just gone.
    world.restart();
    world.index.reset(
        Origin::FILE,
        Config::parse(
            &format!("interfaces = [\"eth0\"]\n{}", service("chat", "10.0.0.1", &all[..1])),
            "",
        )
        .unwrap()
        .services,
    );
    world.index.free_unused(&Used::default(), NOW);
    assert_eq!(world.sync(), []);
    world.index.free_unused(&Used::default(), LATER);
    assert_eq!(world.sync(), [Change::RemoveReplica { number: b }]);
    assert_eq!(world.sync(), []);
}

#[test]
fn a_replica_that_comes_back_gets_a_new_number() {
    let mut world = World::new();
    let all = [("a", 2, ""), ("b", 3, "")];
    world.set(&service("chat", "10.0.0.1", &all));
    let b = world.number("b");
    world.set(&service("chat", "10.0.0.1", &all[..1]));
    world.set(&service("chat", "10.0.0.1", &all));
    assert_ne!(world.number("b"), b);
    assert_eq!(world.maps.replicas[&b].state, REPLICA_GONE);
}

#[test]
fn a_replica_that_moves_keeps_its_slots_and_gets_a_new_number() {
    let mut world = World::new();
    world.set(&service("chat", "10.0.0.1", &[("a", 2, ""), ("b", 3, "")]));
    let (before, b) = (world.maps.services[&0], world.number("b"));
    let places: Vec<bool> = world.slots(&before).iter().map(|n| *n == b).collect();
    world.set(&service("chat", "10.0.0.1", &[("a", 2, ""), ("b", 9, "")]));
    let (after, moved) = (world.maps.services[&0], world.number("b"));
    assert_ne!(b, moved);
    assert_eq!(before.digest, after.digest);
    assert_eq!(places, world.slots(&after).iter().map(|n| *n == moved).collect::<Vec<_>>());
    assert_eq!(world.maps.replicas[&b].state, REPLICA_GONE);
}

#[test]
fn draining_replicas_serve_only_when_none_is_ready() {
    let mut world = World::new();
    let drain = "state = \"draining\"";
    world.set(&service("chat", "10.0.0.1", &[("a", 2, ""), ("b", 3, drain)]));
    let (chat, a) = (world.maps.services[&0], world.number("a"));
    assert_eq!(chat.usable, 1);
    assert!(world.slots(&chat).iter().all(|n| *n == a));
    assert_eq!(world.maps.replicas[&world.number("b")].state, REPLICA_DRAINING);
    assert_eq!(world.maps.replicas[&a].state, REPLICA_READY);
    world.set(&service("chat", "10.0.0.1", &[("a", 2, drain), ("b", 3, drain)]));
    assert_eq!(world.maps.services[&0].usable, 2);
}

#[test]
fn a_service_without_replicas_has_no_table() {
    let mut world = World::new();
    assert_eq!(kinds(&world.set(&service("chat", "10.0.0.1", &[]))), "sv");
    let chat = world.maps.services[&0];
    assert_eq!((chat.usable, chat.slots, chat.digest), (0, NO_REPLICA, 0));
}

#[test]
fn both_families_share_a_service_and_its_replicas() {
    let dual = |second: &str| {
        format!(
            "[[service]]\nname = \"chat\"\naddresses = [\"10.0.0.1\"{second}]\nport = 80\n\
             policy = \"home\"\nkey = \"query:chat\"\non_missing_key = \"b\"\n\
             [[service.replica]]\nname = \"a\"\naddress = [\"10.1.0.2\", \"fd00::2\"]\n\
             [[service.replica]]\nname = \"b\"\naddress = [\"fd00::3\", \"10.1.0.3\"]\n"
        )
    };
    let mut world = World::new();
    world.set(&dual(", \"2001:db8::/64\""));
    assert_eq!((world.maps.services.len(), world.maps.replicas.len()), (1, 2));
    let vips: Vec<_> = world.maps.vips.iter().map(|((len, _), n)| (*len, *n)).collect();
    assert_eq!(vips, [(80, 0), (144, 0)]);
    let chat = world.maps.services[&0];
    assert_eq!(chat.on_missing_key, MISSING_REPLICA);
    let b = world.maps.replicas[&chat.missing_replica];
    assert_eq!((b.name.kept(), b.v4[15], b.v6[15]), (&b"b"[..], 3, 3));
    assert_eq!(kinds(&world.set(&dual(""))), "V");
}

#[test]
fn an_address_comes_to_a_replica_but_none_changes() {
    let one = |addresses: &str| {
        format!(
            "[[service]]\nname = \"chat\"\naddresses = [\"10.0.0.1\"]\nport = 80\n\
             policy = \"spread\"\n[[service.replica]]\nname = \"a\"\naddress = [{addresses}]\n"
        )
    };
    let mut world = World::new();
    world.set(&one("\"10.1.0.2\""));
    assert_eq!(kinds(&world.set(&one("\"10.1.0.2\", \"fd00::2\""))), "r");
    assert_eq!(world.number("a"), 0);
    assert_eq!(kinds(&world.set(&one("\"10.1.0.2\", \"fd00::3\""))), "rtsg");
    assert_eq!(world.number("a"), 1);
}

#[test]
fn a_service_that_leaves_takes_everything_along_and_its_number_rests() {
    let mut world = World::new();
    let one = service("one", "10.0.0.1", &[("a", 2, "")]);
    world.set(&one);
    let two = service("two", "10.0.0.2", &[("a", 2, "")]);
    assert_eq!(kinds(&world.set(&two)), "VSgrtsv");
    assert_eq!(world.maps.services.keys().copied().collect::<Vec<_>>(), [1]);
    // After a restart the number is only known to be used by what still refers to it.
    world.restart();
    world.index.free_unused(&Used { services: [0].into(), ..Used::default() }, NOW);
    world.set(&format!("{two}{}", service("three", "10.0.0.3", &[])));
    assert_eq!(world.maps.services.keys().copied().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn unready_replicas_keep_their_numbers_and_serve_never() {
    let mut world = World::new();
    world.set(&service("chat", "10.0.0.1", &[("a", 2, ""), ("b", 3, "")]));
    let (a, b) = (world.number("a"), world.number("b"));
    let mut services = world.index.reset(Origin::FILE, []);
    for (unready, usable) in [(1, 1), (2, 0)] {
        for replica in &mut services[0].replicas[..unready] {
            replica.state = config::State::Unready;
        }
        world.index.reset(Origin::FILE, services.clone());
        world.sync();
        let chat = world.maps.services[&0];
        assert_eq!(chat.usable, usable);
        assert_eq!(world.maps.replicas[&a].state, REPLICA_DRAINING);
        assert_ne!(world.maps.replicas[&b].state, REPLICA_GONE);
    }
}

#[test]
fn other_vips_have_their_own_port_and_the_first_claim_holds() {
    let mut world = World::new();
    let text = service("chat", "10.0.0.1", &[("a", 2, "")]);
    world.set(&text);
    let mut chat = world.index.services()["chat"].clone();
    let other = |addr: &str| config::Prefix::from(addr.parse::<IpAddr>().unwrap());
    chat.name = "another".into();
    chat.other_vips = vec![(other("10.0.0.9"), 30080), (other("10.0.0.1"), 80)];
    chat.addresses.clear();
    world.index.reset(Origin::KUBERNETES, [chat]);
    world.sync();
    let vips: Vec<_> = world
        .maps
        .vips
        .iter()
        .map(|((_, vip), n)| (vip.addr[15], u16::from_be_bytes(vip.port), *n))
        .collect();
    assert_eq!(vips, [(1, 80, 0), (9, 30080, 1)]);
}

#[test]
fn the_rank_of_a_source_decides_and_not_what_it_is_called() {
    const ETCD: Origin = Origin::new(2, "etcd");
    let sources = [Origin::FILE, Origin::KUBERNETES, ETCD];
    assert!(ETCD.name() < Origin::FILE.name(), "it would be the first by name");
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut world = World::new();
        // All claim one name, and each a name of its own with one address and port.
        for i in order {
            let replica = ["of-file", "of-cluster", "of-etcd"][i];
            let shared = service("shared", "10.0.0.1", &[(replica, 2 + i as u8, "")]);
            // By name the file's would be the last.
            let own = service(["c", "b", "a"][i], "10.0.0.9", &[(replica, 2 + i as u8, "")]);
            let text = format!("interfaces = [\"eth0\"]\n{shared}{own}");
            world.index.reset(sources[i], Config::parse(&text, "r.toml").unwrap().services);
        }
        for (i, [replica, owner]) in
            [["of-file", "c"], ["of-cluster", "b"], ["of-etcd", "a"]].into_iter().enumerate()
        {
            world.sync();
            let number = |name: &str| {
                let named = |(_, s): &(&u32, &Service)| s.name.kept() == name.as_bytes();
                *world.maps.services.iter().find(named).unwrap().0
            };
            let of = |name: &str| {
                let own = number(name);
                let replicas = world.maps.replicas.values();
                let mut live = replicas.filter(|r| r.service == own && r.state != REPLICA_GONE);
                String::from_utf8(live.next().unwrap().name.kept().to_vec()).unwrap()
            };
            assert_eq!(of("shared"), replica, "{order:?}");
            let mut vips = world.maps.vips.iter();
            let vip = vips.find(|((_, vip), _)| vip.addr[15] == 9).unwrap();
            assert_eq!(*vip.1, number(owner), "{order:?}");
            // When it says nothing more, the next has what it had.
            world.index.reset(sources[i], []);
        }
    }
}

#[test]
fn what_is_kept_stays_until_it_is_not() {
    let mut world = World::new();
    let one = service("one", "10.0.0.1", &[("a", 2, ""), ("b", 3, "")]);
    let two = service("two", "10.0.0.2", &[("c", 4, "")]);
    world.set(&format!("{one}{two}"));
    // The source has not spoken yet.
    world.restart();
    world.index.keep(["two".into()].into());
    assert_eq!(world.set(&one), []);
    // It has, and says less than is believed.
    world.index.keep(["one".into(), "two".into(), "unknown".into()].into());
    assert_eq!(world.set(&service("one", "10.0.0.1", &[])), []);
    world.index.free_unused(&Used::default(), LATER);
    assert_eq!(world.sync(), []);
    world.index.keep(BTreeSet::new());
    assert_eq!(kinds(&world.sync()), "VSgsgg");
}

#[test]
fn what_is_kept_gives_way_to_a_claim() {
    let mut world = World::new();
    world.set(&service("one", "10.0.0.1", &[("a", 2, "")]));
    world.restart();
    world.index.keep(["one".into()].into());
    let changes = world.set(&service("two", "10.0.0.1", &[("b", 3, "")]));
    assert_eq!(kinds(&changes), "rtsv");
    assert_eq!(world.maps.services.len(), 2);
}

/// Nobody is read as a proxy who is none, and what a proxy sends is read before it counts.
#[test]
fn proxies_come_before_they_count_and_go_after() {
    let mut world = World::new();
    let with = |lines: &str| {
        let text = service("chat", "10.0.0.1", &[("a", 2, "")]);
        text.replace("port = 80\n", &format!("port = 80\n{lines}\n"))
    };
    world.set(&with(""));
    let flags = |world: &World| {
        let service = &world.maps.services[&0];
        (service.restricted, service.proxied)
    };
    assert_eq!(kinds(&world.set(&with("proxy_protocol_from = [\"192.0.2.0/24\"]"))), "ps");
    assert_eq!(flags(&world), (0, 1));
    // The same prefix in the other list is another entry.
    let both =
        with("proxy_protocol_from = [\"192.0.2.0/24\"]\nallowed_sources = [\"192.0.2.0/24\"]");
    assert_eq!(kinds(&world.set(&both)), "ps");
    assert_eq!((flags(&world), world.maps.ranges.len()), ((1, 1), 2));
    world.restart();
    assert_eq!(world.set(&both), []);
    assert_eq!(kinds(&world.set(&with("allowed_sources = [\"192.0.2.0/24\"]"))), "sP");
    assert_eq!(flags(&world), (1, 0));
    world.set(&both);
    assert_eq!(kinds(&world.set("")), "VSPPg");
    assert_eq!(world.maps.ranges, BTreeMap::new());
}

/// Heads that wait are read anew if they are read otherwise now, and only then.
#[test]
fn changes_of_how_heads_are_read_are_counted() {
    let mut world = World::new();
    let with = |key: &str, proxies: &str, replicas: &[(&str, u8, &str)]| {
        let text = service("chat", "10.0.0.1", replicas).replace("query:chat", key);
        let list = format!("port = 80\nproxy_protocol_from = [{proxies}]\n");
        if proxies.is_empty() { text } else { text.replace("port = 80\n", &list) }
    };
    let (one, two) = ([("a", 2, "")], [("a", 2, ""), ("b", 3, "")]);
    let (some, more) = ("\"192.0.2.0/24\"", "\"192.0.2.0/24\", \"198.51.100.0/24\"");
    for (text, reading) in [
        (with("query:chat", "", &one), 0),
        (with("query:chat", "", &two), 0),
        (with("query:room", "", &two), 1),
        (with("query:room", some, &two), 2),
        (with("query:room", more, &two), 3),
        (with("query:room", more, &one), 3),
        (with("query:room", some, &one), 4),
        (with("query:room", "", &one), 5),
    ] {
        world.set(&text);
        assert_eq!(world.maps.services[&0].reading, reading, "{text}");
        world.restart();
        assert_eq!(world.set(&text), []);
    }
}

/// Never are there fewer ranges than are meant while only they may connect, and never may anybody connect
/// while not all of them are there.
#[test]
fn ranges_are_replaced_in_the_safe_order() {
    let mut world = World::new();
    let with = |sources: &str| {
        let text = service("chat", "10.0.0.1", &[("a", 2, "")]);
        text.replace("port = 80\n", &format!("port = 80\n{sources}\n"))
    };
    world.set(&with(""));
    let restricted = |world: &World| world.maps.services[&0].restricted;
    // First the ranges, then that they count.
    assert_eq!(kinds(&world.set(&with("allowed_sources = [\"192.0.2.0/24\"]"))), "ps");
    assert_eq!(restricted(&world), 1);
    // The new ones before the old ones go.
    let other = with("allowed_sources = [\"198.51.100.0/24\", \"2001:db8::/32\"]");
    assert_eq!(kinds(&world.set(&other)), "ppP");
    world.restart();
    assert_eq!(world.set(&other), []);
    // All of IPv6 has IPv4 in it, as the maps keep it: that is not meant, and said before.
    assert_eq!(kinds(&world.set(&with("allowed_sources = [\"::/0\"]"))), "dpPP");
    assert_eq!(kinds(&world.set(&with("allowed_sources = [\"::/0\", \"0.0.0.0/0\"]"))), "p");
    let one = with("allowed_sources = [\"::/0\"]");
    assert_eq!(kinds(&world.set(&one)), "d");
    // Who keeps out goes last.
    let changes = world.set(&with("allowed_sources = [\"192.0.2.0/24\"]"));
    assert_eq!(kinds(&changes), "pPP");
    let bits = |change: &Change| match change {
        Change::RemoveRange { prefix_len, .. } => Some(*prefix_len),
        _ => None,
    };
    assert_eq!(changes.iter().filter_map(bits).collect::<Vec<_>>(), [32, 128]);
    // First that they do not count, then they go.
    assert_eq!(kinds(&world.set(&with(""))), "sP");
    assert_eq!(restricted(&world), 0);
    world.set(&other);
    assert_eq!(kinds(&world.set("")), "VSPPg");
    assert_eq!(world.maps.ranges, BTreeMap::new());
}

/// What the data path relies on at any moment.
fn is_consistent(maps: &Published) {
    for number in maps.vips.values() {
        let service = &maps.services[number];
        let owner = number;
        if service.usable == 0 {
            continue;
        }
        for number in &*maps.slots[&service.slots] {
            let replica = &maps.replicas[number];
            assert_eq!(replica.service, *owner);
            assert_ne!(replica.state, REPLICA_GONE);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Random files one after the other, with restarts: every single write leaves the maps
    /// consistent, and a restarted daemon finds nothing to write.
    #[test]
    fn every_step_is_consistent(
        files in prop::collection::vec(
            (prop::collection::btree_map(2u8..9, (0u8..3, 0u8..2, 1u32..4), 0..6), any::<bool>()), 1..6)
    ) {
        let mut world = World::new();
        for (replicas, restart) in files {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
            let text: String = (0..3u8).map(|s| {
                let of: Vec<_> = replicas.iter().filter(|(_, r)| r.0 == s).map(|(byte, r)| {
                    let state = if r.1 == 0 { "ready" } else { "draining" };
                    (names[usize::from(*byte)], *byte, format!("state = {state:?}\nweight = {}", r.2))
                }).collect();
                let of: Vec<_> = of.iter().map(|(n, b, m)| (*n, *b, m.as_str())).collect();
                if of.is_empty() && s > 0 { String::new() }
                else { service(&format!("s{s}"), &format!("10.0.0.{s}"), &of) }
            }).collect();
            let mut step = world.maps.clone();
            for change in world.set(&text.replace("10.0.0.0", "10.0.0.100")) {
                step.note(&change);
                is_consistent(&step);
            }
            prop_assert_eq!(&step, &world.maps);
            world.index.free_unused(&Used::default(), LATER);
            for change in world.sync() {
                let freed = matches!(change, Change::RemoveReplica { .. });
                prop_assert!(freed);
            }
            if restart {
                let services = world.index.reset(Origin::FILE, []);
                world.restart();
                world.index.reset(Origin::FILE, services);
                prop_assert_eq!(world.sync(), []);
            }
        }
    }
}
