//! What an outsider can make grow is bounded, and says so.

use std::{thread, time::Duration};

use roost_tests::run::{
    Hook,
    frame::{ACK, FIN, PSH, RST, Seg},
    live, on_all,
    talk::{Conn, get, reset_for},
    world::{Kind, World, client},
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
        conn.bind(machine, &get("coffee"), &[Counter::ChatsFull]);
        conn.accept(machine);
        conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"more"), &[]);
        conn.goes_down(machine, &conn.down(FIN | ACK, 0, 60, b""), &[]);
        conn.goes_up(machine, &conn.up(FIN | ACK, 64, 1, b""), &[Counter::Closed]);
        assert_eq!((machine.chats().len(), live(machine)), (1, 1));
    });
}

#[test]
fn resets_are_limited() {
    on_all(&World::default(), |machine, family| {
        let conn = Conn::new(family, Kind::Home, 1, 1000);
        let seg = Seg { options: Vec::new(), ..conn.up(ACK, 0, 0, b"") };
        let mut sent = 0;
        loop {
            let outcome = machine.run(Hook::Ingress, &seg.bytes());
            if outcome.verdict() == Counter::DropResetLimit {
                outcome.counts(&[Counter::DropResetLimit]);
                break;
            }
            outcome.counts(&[Counter::ResetUnknown]).leaves(&reset_for(&seg).bytes());
            sent += 1;
            assert!(sent < 100_000, "no limit after {sent} RSTs");
        }
        assert!(sent >= 64, "a burst of 64 is allowed, but only {sent} were sent");
        // What tells that a number was nearly right costs as much. A slow machine may earn an RST between
        // the two, and then keeps such a segment.
        let limited = (2000..2100).any(|port| {
            let mut opened = Conn::new(family, Kind::Home, 1, port);
            opened.greet(machine);
            while machine.run(Hook::Ingress, &seg.bytes()).verdict() != Counter::DropResetLimit {}
            let early = opened.up(ACK, 1000, 0, b"early");
            let verdict = machine.run(Hook::Ingress, &early.bytes()).verdict();
            let is_known = matches!(verdict, Counter::DropResetLimit | Counter::HeadKept);
            assert!(is_known, "{verdict:?}");
            verdict == Counter::DropResetLimit
        });
        assert!(limited, "no segment that came early was limited");
        // Another client has a limit of its own, as most others do.
        let other = Seg { src: client(family, 2, 1000), ..seg.clone() };
        machine.run(Hook::Ingress, &other.bytes()).counts(&[Counter::ResetUnknown]);
        thread::sleep(Duration::from_millis(30));
        machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::ResetUnknown]);
    });
}
