//! What an outsider can make grow is bounded, and says so.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg},
    live, on_all,
    talk::{Conn, get, reset_for},
    world::{Kind, World},
};
use router_ebpf::verdict::Counter;

#[test]
fn a_flow_too_many_is_refused_and_the_others_go_on() {
    on_all(&World { flows: 1, ..World::default() }, |machine, family| {
        let mut first = Conn::new(family, Kind::Home, 1, 1000);
        first.establish(machine, "tea");
        let mut second = Conn::new(family, Kind::Home, 1, 1001);
        second.open(machine);
        second.bind(machine, &get("tea"), &[]);
        let answer = second.replica_syn_ack();
        let expected = Seg::new(
            second.vip,
            second.client,
            RST | ACK,
            second.cookie.wrapping_add(1),
            second.isn.wrapping_add(1),
        );
        machine
            .run(Hook::Egress, &answer.bytes())
            .counts(&[Counter::ResetFull])
            .leaves(&expected.bytes());
        machine
            .run(Hook::Egress, &answer.bytes())
            .counts(&[Counter::ResetReplica])
            .leaves(&reset_for(&answer).bytes());
        assert_eq!((machine.flows().len(), machine.flows_back().len()), (1, 1));
        assert_eq!((machine.pending().len(), live(machine)), (0, 1));
        first.goes_up(machine, &first.up(PSH | ACK, 60, 0, b"still"), &[]);
        first.goes_down(machine, &first.down(PSH | ACK, 0, 60, b"here"), &[]);
    });
}

#[test]
fn a_chat_too_many_goes_without_an_entry() {
    on_all(&World { chats: 1, ..World::default() }, |machine, family| {
        Conn::new(family, Kind::Home, 1, 1000).establish(machine, "tea");
        let mut conn = Conn::new(family, Kind::Home, 1, 1001);
        conn.open(machine);
        conn.bind(machine, &get("coffee"), &[]);
        conn.accept_with(machine, &[Counter::ChatsFull]);
        conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"more"), &[]);
        conn.goes_down(machine, &conn.down(FIN | ACK, 0, 60, b""), &[]);
        conn.goes_up(machine, &conn.up(FIN | ACK, 64, 1, b""), &[]);
        conn.goes_down(machine, &conn.down(ACK, 1, 65, b""), &[Counter::Closed]);
        assert_eq!((machine.chats().len(), live(machine)), (1, 1));
    });
}

/// A segment of a connection that nobody knows.
fn unknown(family: Family, host: u16, port: u16) -> Seg {
    Conn::new(family, Kind::Home, host, port).up(ACK, 0, 0, b"")
}

fn count(moved: &BTreeMap<Counter, u64>, of: Counter) -> u64 {
    moved.get(&of).copied().unwrap_or(0)
}

/// A node was restarted, and an ingress controller, or a NAT, has not heard of it.
#[test]
fn fifty_thousand_connections_of_one_address_are_told_at_once() {
    on_all(&World::default(), |machine, family| {
        let ports = 1000..51_000;
        let frames: Vec<_> = ports.map(|port| (unknown(family, 1, port).bytes(), 1)).collect();
        let begun = Instant::now();
        let moved = machine.flood(&frames);
        println!("{} {family:?}: in {:?}: {moved:?}", machine.name(), begun.elapsed());
        // One in 2^18 looks as if it belonged to a handshake, until the next tick.
        let early = count(&moved, Counter::DropEarly);
        assert!(early < 10, "{moved:?}");
        assert_eq!(count(&moved, Counter::ResetUnknown), 50_000 - early, "{moved:?}");
        // And those of another one just after that.
        let seg = unknown(family, 2, 1000);
        machine
            .run(Hook::Ingress, &seg.bytes())
            .counts(&[Counter::ResetUnknown])
            .leaves(&reset_for(&seg).bytes());
    });
}

/// How often [`use_up`] sends a segment.
const OFTEN: u32 = 10_000;

/// Uses up what a client's address is allowed, by a segment that costs as much as an RST and stays what it is.
fn use_up(machine: &mut dyn Machine, early: &Seg) {
    let mut dropped = 0;
    loop {
        let moved = machine.flood(&[(early.bytes(), OFTEN)]);
        dropped += count(&moved, Counter::DropEarly);
        let limited = count(&moved, Counter::DropResetLimit);
        assert_eq!(count(&moved, Counter::DropEarly) + limited, u64::from(OFTEN), "{moved:?}");
        if limited > 0 {
            break;
        }
        assert!(dropped < 10_000_000, "no limit after {dropped} segments");
    }
    assert!(dropped >= 1 << 16, "a burst is allowed, but there were only {dropped}");
}

/// Sends segments of a client that is allowed no more: as many as were earned meanwhile get what they would, and
/// all the others are dropped.
fn are_limited(machine: &mut dyn Machine, early: &Seg, segs: &[Seg], get: &[Counter]) {
    let frames: Vec<_> = segs.iter().map(|seg| (seg.bytes(), 1)).collect();
    let begun = Instant::now();
    machine.flood(&[(early.bytes(), OFTEN)]);
    let moved = machine.flood(&frames);
    let earned = (begun.elapsed().as_secs_f64() * 2048.0) as u64;
    let got: u64 = get.iter().map(|counter| count(&moved, *counter)).sum();
    println!("{}: {got} of {}, {earned} were earned", machine.name(), segs.len());
    assert_eq!(got + count(&moved, Counter::DropResetLimit), segs.len() as u64, "{moved:?}");
    // The kernel's clock has steps.
    assert!(got <= earned + 100, "{got}, but {earned} were earned");
}

#[test]
fn resets_are_limited_and_guesses_that_are_near_cost_as_much() {
    on_all(&World::default(), |machine, family| {
        let mut opened = Conn::new(family, Kind::Home, 1, 1000);
        opened.greet(machine);
        let early = opened.up(ACK, 1000, 0, b"");
        // What is near and has data would be kept.
        let near = (1001..3001).map(|port| {
            let mut near = Conn::new(family, Kind::Home, 1, port);
            near.greet(machine);
            near.up(ACK, 1000, 0, b"early")
        });
        let near: Vec<_> = near.collect();
        // What looks whether we live is answered.
        let probes = (8001..10_001).map(|port| {
            let mut waiting = Conn::new(family, Kind::Home, 1, port);
            waiting.greet(machine);
            waiting.up(ACK, u32::MAX, 0, b"")
        });
        let probes: Vec<_> = probes.collect();
        let unknown_ones: Vec<_> = (3001..8001).map(|port| unknown(family, 1, port)).collect();
        use_up(machine, &early);
        // One in 2^18 is near.
        are_limited(machine, &early, &unknown_ones, &[Counter::ResetUnknown, Counter::DropEarly]);
        are_limited(machine, &early, &near, &[Counter::HeadKept, Counter::DropEarly]);
        are_limited(machine, &early, &probes, &[Counter::ProbeAcknowledged]);
        // Another client has a limit of its own, as most others do.
        let other = unknown(family, 2, 1000);
        machine.run(Hook::Ingress, &other.bytes()).counts(&[Counter::ResetUnknown]);
        thread::sleep(Duration::from_millis(30));
        let seg = unknown(family, 1, 1001);
        machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::ResetUnknown]);
    });
}

#[test]
fn few_are_kept_before_their_first_segment() {
    on_all(&World::default(), |machine, family| {
        let greeted = (1000..2000).map(|port| {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.greet(machine);
            (conn.up(ACK, 1000, 0, b"early").bytes(), 1)
        });
        let frames: Vec<_> = greeted.collect();
        let moved = machine.flood(&frames);
        let (kept, dropped) = (count(&moved, Counter::HeadKept), count(&moved, Counter::DropEarly));
        assert!(kept >= 256 && dropped > 0, "{moved:?}");
        assert_eq!(kept + dropped, 1000, "{moved:?}");
        assert_eq!(machine.stash().len() as u64, kept);
        // First segments are no guesses.
        Conn::new(family, Kind::Home, 1, 999).establish(machine, "tea");
    });
}
