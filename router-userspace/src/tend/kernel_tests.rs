//! Rounds on real maps.

use router_ebpf::maps::{
    ChatCookie, ChatKey, Farewell, Flow, Load as Counted, NO_REPLICA, Name, REPLICA_GONE,
    REPLICA_READY, Tuple,
};

use super::*;
use crate::testing::TestMaps;

const KEY: ChatKey = ChatKey { cookie: 7, service: 0, reserved: 0 };

/// A service with the ready replicas 1 and 2.
fn world() -> (TestMaps, Tables, Tender) {
    let maps = TestMaps::new();
    let mut tables = maps.tables();
    tables.services.set(&0, &Service::EMPTY).unwrap();
    for number in [1, 2] {
        set_replica(&mut tables, number, REPLICA_READY, b"a");
    }
    let tender = Tender::new(&maps.pin_dir).unwrap();
    (maps, tables, tender)
}

fn set_replica(tables: &mut Tables, number: u32, state: u8, name: &[u8]) {
    let replica = Replica {
        v4: [number as u8; 16],
        v6: [0; 16],
        port: [0, 80],
        state,
        reserved: 0,
        service: 0,
        weight: 1,
        name: Name::new(name),
    };
    tables.replicas.set(number, &replica).unwrap();
}

fn pin(tables: &mut Tables, replica: u32) {
    let pin = ChatCookie { cookie: 7, replica, width: 0, key: Name::EMPTY, chat: Name::EMPTY };
    tables.chat_cookies.set(&KEY, &pin).unwrap();
}

fn pinned_to(tables: &Tables) -> Option<u32> {
    tables.chat_cookies.get(&KEY).unwrap().map(|entry| entry.replica)
}

fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

fn farewell(port: u8) -> Farewell {
    let address = |last| crate::plan::addr::to_map([127, 0, 0, last].into());
    let (client, server) = (address(2), address(3));
    let tuple = Tuple { client, server, client_port: [200, port], server_port: [0, 80] };
    Farewell { tuple, replica_addr: address(4), replica_port: [0, 80], ..Farewell::default() }
}

#[test]
fn what_the_kernel_counts_is_what_is_carried_and_referred_to() {
    let (_maps, mut tables, mut tender) = world();
    assert_eq!(tender.round(at(0)).unwrap(), Report::default());
    tables.loads.set(1, &Counted { flows: 5, chats: 2 }).unwrap();
    tables.loads.set(2, &Counted { flows: 0, chats: 1 }).unwrap();
    // A number whose replica nobody knows any more, and the last one that there is.
    tables.loads.set(31, &Counted { flows: 1, chats: 0 }).unwrap();
    let report = tender.round(at(1)).unwrap();
    let carried = |flows, chats| Carried { flows, chats };
    assert_eq!(
        report.load,
        Load {
            services: [(0, carried(5, 3))].into(),
            replicas: [(1, carried(5, 2)), (2, carried(0, 1)), (31, carried(1, 0))].into(),
            entries: Entries { flows: 6, chats: 3, chat_cookies: 0 },
        }
    );
    assert_eq!(report.used, Used { services: [0].into(), replicas: [1, 2, 31].into() });
}

#[test]
fn both_ends_of_an_ended_flow_are_told_once() {
    let (_maps, mut tables, tender) = world();
    let mut tender = tender.with_resets(Resets::new().expect("run this as root"));
    assert_eq!(tender.tell().unwrap(), Told::default());
    for port in 0..3 {
        assert!(tables.farewells.put(&farewell(port)).unwrap());
    }
    // The client has begun anew on the second one's ports.
    // SAFETY: any bytes are a valid value of the maps' types.
    let flow: Flow = unsafe { std::mem::zeroed() };
    tables.flows.set(&farewell(1).tuple, &flow).unwrap();
    assert_eq!(tender.round(at(0)).unwrap().told, Told { flows: 3, resets: 4 });
    assert_eq!(tender.tell().unwrap(), Told::default());
}

/// Else what nobody takes would stay, and what is told after the next start would be long over.
#[test]
fn who_cannot_tell_takes_them_all_the_same() {
    let (_maps, mut tables, mut tender) = world();
    assert!(tables.farewells.put(&farewell(0)).unwrap());
    assert_eq!(tender.tell().unwrap(), Told { flows: 1, resets: 0 });
    assert_eq!(tables.farewells.take().unwrap(), None);
}

#[test]
fn a_pin_follows_its_replica_when_that_is_published() {
    let (_maps, mut tables, mut tender) = world();
    pin(&mut tables, 1);
    let report = tender.round(at(0)).unwrap();
    assert_eq!(report.judged, Judged::default());
    assert_eq!(report.used, Used { services: [0].into(), replicas: [1].into() });
    set_replica(&mut tables, 1, REPLICA_GONE, b"b");
    set_replica(&mut tables, 2, REPLICA_READY, b"b");
    let report = tender.round(at(1)).unwrap();
    assert_eq!(report.judged, Judged { repinned: 1, forgotten: 0 });
    assert_eq!(report.used.replicas, [2].into());
    assert_eq!(pinned_to(&tables), Some(2));
}

#[test]
fn what_is_registered_is_read_again_after_half_a_minute() {
    let (_maps, mut tables, mut tender) = world();
    tender.round(at(0)).unwrap();
    pin(&mut tables, 2);
    let seen = |report: Report| (report.load.entries.chat_cookies, report.used.replicas.len());
    assert_eq!(seen(tender.round(at(29)).unwrap()), (0, 0));
    assert_eq!(seen(tender.round(at(30)).unwrap()), (1, 1));
}

#[test]
fn what_belongs_to_no_service_goes_after_a_minute() {
    let (_maps, mut tables, mut tender) = world();
    pin(&mut tables, NO_REPLICA);
    tender.round(at(0)).unwrap();
    let service = tables.services.get(&0).unwrap().unwrap();
    tables.services.remove(&0).unwrap();
    let judged = |seconds, tender: &mut Tender| tender.round(at(seconds)).unwrap().judged;
    assert_eq!(judged(1, &mut tender), Judged::default());
    // It was away for a moment.
    tables.services.set(&0, &service).unwrap();
    assert_eq!(judged(2, &mut tender), Judged::default());
    tables.services.remove(&0).unwrap();
    assert_eq!(judged(3, &mut tender), Judged::default());
    assert_eq!(judged(62, &mut tender), Judged::default());
    assert_eq!(judged(93, &mut tender), Judged { repinned: 0, forgotten: 1 });
    assert_eq!(pinned_to(&tables), None);
}
