//! The sweeper on real maps.

use router_ebpf::maps::{
    ChatCookie, FlowBack, REPLICA_READY, STATE_CLIENT_FIN, STATE_CLOSED, Service,
};

use super::*;
use crate::testing::TestMaps;

const LINGER: Duration = Duration::from_secs(60);
const CHAT: ChatKey = ChatKey { cookie: 7, service: 0, reserved: 0 };

/// A service with an idle timeout of 100 s and the ready replicas 1 and 2.
fn world() -> (TestMaps, Tables, Sweeper) {
    let maps = TestMaps::new();
    let mut tables = maps.tables();
    let service = Service { idle_timeout: 100, ..Service::EMPTY };
    tables.services.set(&0, &service).unwrap();
    for number in [1, 2] {
        set_replica(&mut tables, number, REPLICA_READY, b"a");
    }
    let sweeper = Sweeper::new(&maps.pin_dir, LINGER).unwrap();
    (maps, tables, sweeper)
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

fn tuple(client: u8) -> Tuple {
    Tuple { client: [client; 16], server: [9; 16], client_port: [1, 1], server_port: [0, 80] }
}

/// A flow of chat 7 to replica 1, last seen at second 1000.
fn add_flow(tables: &mut Tables, client: u8, state: u32) -> (Tuple, Tuple) {
    // SAFETY: any bytes are a valid value of the maps' types.
    let zero: Flow = unsafe { std::mem::zeroed() };
    let flow = Flow {
        last_seen: 1_000_000_000_000,
        cookie: CHAT.cookie,
        replica_addr: [1; 16],
        replica_port: [0, 80],
        flags: FLOW_CHAT,
        replica: 1,
        state,
        ..zero
    };
    let tuple = tuple(client);
    let back = back_of(&tuple, &flow);
    tables.flows.set(&tuple, &flow).unwrap();
    // SAFETY: as above.
    tables.flows_back.set(&back, &unsafe { std::mem::zeroed::<FlowBack>() }).unwrap();
    (tuple, back)
}

fn set_chat(tables: &mut Tables, home: u32, flows: u32) {
    let state = Chat::pack(home, flows);
    let chat = Chat { state, bound_at: 1_000_000_000_000, since: 0, key: Name::EMPTY, source: 0 };
    tables.chats.set(&CHAT, &chat).unwrap();
}

fn state_of(tables: &Tables) -> u64 {
    tables.chats.get(&CHAT).unwrap().unwrap().state
}

fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

#[test]
fn an_idle_flow_expires_releases_its_chat_lingers_and_goes() {
    let (_maps, mut tables, mut sweeper) = world();
    let (idle, back) = add_flow(&mut tables, 1, STATE_CLIENT_FIN);
    set_chat(&mut tables, 1, 1);
    let report = sweeper.sweep(at(1099)).unwrap();
    assert_eq!((report.flows, report.expired), (1, 0));
    assert_eq!(report.used, Used { services: [0].into(), replicas: [1].into() });
    assert_eq!(sweeper.sweep(at(1100)).unwrap().expired, 1);
    let flow = tables.flows.get(&idle).unwrap().unwrap();
    assert_eq!(flow.state, STATE_CLIENT_FIN | STATE_EXPIRED);
    assert_eq!(tables.flows_back.get(&back).unwrap().unwrap().state, STATE_EXPIRED);
    assert_eq!(state_of(&tables), Chat::pack(1, 0));
    // Once only, and it is still there for its ends' next segments.
    let report = sweeper.sweep(at(1159)).unwrap();
    assert_eq!((report.expired, report.removed, report.corrected), (0, 0, 0));
    assert_eq!(report.chats_removed, 0, "it lingers");
    assert_eq!(sweeper.sweep(at(1160)).unwrap().removed, 1);
    assert!(
        tables.flows.get(&idle).unwrap().is_none()
            && tables.flows_back.get(&back).unwrap().is_none()
    );
    assert_eq!(sweeper.sweep(at(1221)).unwrap().chats_removed, 1);
    assert_eq!(sweeper.sweep(at(1222)).unwrap(), Report::default());
}

/// A flow that was read before its service and its replica were published is none of a replica that is gone.
#[test]
fn what_is_published_while_flows_are_read_is_not_taken_for_gone() {
    let (_maps, mut tables, mut sweeper) = world();
    let service = tables.services.get(&0).unwrap().unwrap();
    tables.services.remove(&0).unwrap();
    set_replica(&mut tables, 1, 0, b"");
    add_flow(&mut tables, 1, 0);
    let flows = tables.flows.entries().unwrap();
    assert_eq!(flows.len(), 1);
    set_replica(&mut tables, 1, REPLICA_READY, b"a");
    tables.services.set(&0, &service).unwrap();
    let report = sweeper.judge(flows, at(1001)).unwrap();
    assert_eq!((report.flows, report.expired), (1, 0));
}

#[test]
fn a_closed_flow_is_not_released_again() {
    let (_maps, mut tables, mut sweeper) = world();
    add_flow(&mut tables, 1, STATE_CLOSED);
    add_flow(&mut tables, 2, 0);
    set_chat(&mut tables, 1, 1);
    let report = sweeper.sweep(at(1060)).unwrap();
    assert_eq!((report.flows, report.removed, report.chats), (1, 1, 1));
    assert_eq!(state_of(&tables), Chat::pack(1, 1));
}

#[test]
fn a_lone_back_entry_goes_when_it_was_seen_twice() {
    let (_maps, mut tables, mut sweeper) = world();
    let (tuple, back) = add_flow(&mut tables, 1, 0);
    tables.flows.remove(&tuple).unwrap();
    assert_eq!(sweeper.sweep(at(1000)).unwrap().orphans, 0);
    assert_eq!(sweeper.sweep(at(1030)).unwrap().orphans, 1);
    assert!(tables.flows_back.get(&back).unwrap().is_none());
}

#[test]
fn a_chat_without_flows_waits_for_what_is_being_bound() {
    let (_maps, mut tables, mut sweeper) = world();
    set_chat(&mut tables, 1, 0);
    assert_eq!(sweeper.sweep(at(1119)).unwrap().chats, 1);
    assert_eq!(sweeper.sweep(at(1120)).unwrap().chats_removed, 1);
    assert!(tables.chats.get(&CHAT).unwrap().is_none());
}

#[test]
fn a_wrong_count_is_corrected_when_it_stays() {
    let (_maps, mut tables, mut sweeper) = world();
    add_flow(&mut tables, 1, 0);
    set_chat(&mut tables, 1, 3);
    let corrected: Vec<_> =
        (0..4).map(|i| sweeper.sweep(at(1000 + i)).unwrap().corrected).collect();
    assert_eq!(corrected, [0, 0, 1, 0]);
    assert_eq!(state_of(&tables), Chat::pack(1, 1));
}

#[test]
fn flows_of_a_gone_replica_end_and_pins_follow_its_name() {
    let (_maps, mut tables, mut sweeper) = world();
    add_flow(&mut tables, 1, 0);
    set_replica(&mut tables, 1, REPLICA_GONE, b"b");
    set_replica(&mut tables, 2, REPLICA_READY, b"b");
    let pin = ChatCookie { cookie: 7, replica: 1, width: 0, key: Name::EMPTY, chat: Name::EMPTY };
    tables.chat_cookies.set(&CHAT, &pin).unwrap();
    let report = sweeper.sweep(at(1000)).unwrap();
    assert_eq!((report.expired, report.repinned), (1, 1));
    assert_eq!(tables.chat_cookies.get(&CHAT).unwrap().unwrap().replica, 2);
}

#[test]
fn what_belongs_to_no_service_goes() {
    let (_maps, mut tables, mut sweeper) = world();
    add_flow(&mut tables, 1, 0);
    let pin = ChatCookie {
        cookie: 7,
        replica: NO_REPLICA,
        width: 0,
        key: Name::EMPTY,
        chat: Name::EMPTY,
    };
    tables.chat_cookies.set(&CHAT, &pin).unwrap();
    tables.services.remove(&0).unwrap();
    let report = sweeper.sweep(at(1000)).unwrap();
    assert_eq!((report.expired, report.forgotten), (1, 0));
    let report = sweeper.sweep(at(1060)).unwrap();
    assert_eq!((report.removed, report.forgotten), (1, 1));
}
