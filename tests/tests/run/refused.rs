//! What becomes of packets when a map refuses an entry, by the kernel's reason. On the host alone: the kernel cannot be
//! told to have no memory, or to be busy.

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, PSH, RST, Seg},
    host::Host,
    talk::{Conn, get},
    world::{Kind, World},
};
use router_ebpf::{
    maps::Flow,
    schema::Map,
    tables::Refused::{self, Busy, Fault, Full, NoMemory},
    verdict::Counter,
};

/// Bytes of what the client has said.
const SAID: u32 = 60;

/// A connection that waits for its client's first data.
fn opened() -> (Host, Conn) {
    let mut host = Host::new(&World::default().starting_now());
    let mut conn = Conn::new(Family::V4, Kind::Home, 1, 1000);
    conn.open(&mut host);
    (host, conn)
}

/// One that waits for its replica.
fn bound() -> (Host, Conn) {
    let (mut host, mut conn) = opened();
    conn.bind(&mut host, &get("tea"), &[]);
    (host, conn)
}

/// What a packet counts for while a map refuses.
fn meanwhile(host: &mut Host, map: Map, why: Refused, hook: Hook, seg: &Seg) -> Vec<Counter> {
    host.refuse(Some((map, why)));
    let outcome = host.run(hook, &seg.bytes());
    host.refuse(None);
    outcome.moved.iter().map(|(counter, _)| *counter).collect()
}

#[test]
fn first_data_comes_again() {
    for (why, counter) in
        [(Busy, Counter::DropBusy), (NoMemory, Counter::DropNoMemory), (Fault, Counter::DropFault)]
    {
        let (mut host, mut conn) = opened();
        let first = conn.up(PSH | ACK, 0, 0, &get("tea"));
        let moved = meanwhile(&mut host, Map::Pending, why, Hook::Ingress, &first);
        assert_eq!(moved, [counter], "{why:?}");
        conn.bind(&mut host, &get("tea"), &[]);
        conn.accept(&mut host);
    }
}

#[test]
fn a_flow_is_refused_or_its_replica_answers_again() {
    for (map, why, counter) in
        [Map::FlowsBack, Map::Flows, Map::FlowRing].into_iter().flat_map(|map| {
            [
                (map, Full, Counter::ResetFull),
                (map, NoMemory, Counter::ResetFailed),
                (map, Busy, Counter::EgressDropBusy),
                (map, Fault, Counter::EgressDropFault),
            ]
        })
    {
        let (mut host, conn) = bound();
        let answer = conn.replica_syn_ack();
        let moved = meanwhile(&mut host, map, why, Hook::Egress, &answer);
        assert_eq!(moved, [counter], "{map:?} {why:?}");
        assert!(host.flows().is_empty() && host.flows_back().is_empty(), "{map:?} {why:?}");
        assert_eq!(host.load(conn.replica).0, 0, "{map:?} {why:?}");
        if matches!(why, Busy | Fault) {
            conn.accept(&mut host);
            assert_eq!(host.load(conn.replica), (1, 1), "{map:?} {why:?}");
        }
    }
}

#[test]
fn a_chat_goes_without_an_entry_only_if_there_is_no_room_or_memory() {
    for map in [Map::Chats, Map::ChatRing] {
        for (why, counters) in [
            (Full, vec![Counter::Delivered, Counter::ChatsFull]),
            (NoMemory, vec![Counter::Delivered, Counter::ChatsNoMemory]),
            (Busy, vec![Counter::EgressDropBusy]),
            (Fault, vec![Counter::EgressDropFault]),
        ] {
            let (mut host, conn) = bound();
            let answer = conn.replica_syn_ack();
            let moved = meanwhile(&mut host, map, why, Hook::Egress, &answer);
            assert_eq!(moved, counters, "{map:?} {why:?}");
            assert!(host.chats().is_empty(), "{map:?} {why:?}");
            assert_eq!(host.load(conn.replica).1, 0, "{map:?} {why:?}");
            if matches!(why, Busy | Fault) {
                conn.accept(&mut host);
                assert_eq!(host.load(conn.replica), (1, 1), "{map:?} {why:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_kept_of_an_end_is_counted() {
    for map in [Map::Ended, Map::EndedBack] {
        for why in [NoMemory, Busy] {
            let (mut host, conn) = bound();
            conn.accept(&mut host);
            let reset = conn.up(RST | ACK, SAID, 0, b"");
            let moved = meanwhile(&mut host, map, why, Hook::Ingress, &reset);
            assert_eq!(
                moved,
                [Counter::ToReplica, Counter::Closed, Counter::RemainsLost],
                "{map:?} {why:?}"
            );
            assert!(host.flows().is_empty() && host.flows_back().is_empty());
        }
    }
}

#[test]
fn what_the_hand_cannot_tell_or_put_back_is_counted() {
    let (mut host, conn) = bound();
    conn.accept(&mut host);
    for (map, why) in [(Map::FlowRing, Busy), (Map::ChatRing, Busy)] {
        host.refuse(Some((map, why)));
        assert_eq!(host.look(), [(Counter::Unwatched, 1)], "{map:?}");
    }
    let (mut host, conn) = bound();
    conn.accept(&mut host);
    let (tuple, flow) = host.flows()[0];
    host.set_flow(&tuple, &Flow { last_seen: 0, ..flow });
    host.refuse(Some((Map::Farewells, Full)));
    let moved: Vec<_> = host.look().into_iter().map(|(counter, _)| counter).collect();
    assert_eq!(moved, [Counter::EndedIdle, Counter::Untold]);
    assert!(host.farewells().is_empty());
}
