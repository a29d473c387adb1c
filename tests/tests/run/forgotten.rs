//! Heads that come to nothing: whose time is over, that another CPU is at, that begin again, or for which there is no room.

use std::time::Duration;

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, PSH, RST, Seg},
    host::Host,
    on_all,
    talk::Conn,
    world::{Kind, World},
};
use router_ebpf::{
    head::seize,
    maps::{ALL_SHARES, CHUNKS_OF_HEAD, STASH_CLAIMED, Stash, Tuple, Watched},
    schema::Map,
    tables::{FlowTables, Refused},
    verdict::Counter,
};

const HEAD: &[u8] = b"GET /ws?lang=en&chat=tea&v=3 HTTP/1.1\r\nHost: chat.example\r\n\r\n";
/// How long a head is waited for, and a replica.
const WAIT: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(120);
/// Less than what a test takes.
const MOMENT: Duration = Duration::from_secs(10);

/// Opens a connection that sends its first bytes, and again if they are to be acknowledged.
fn begun(machine: &mut dyn Machine, family: Family, port: u16, acked: bool) -> Conn {
    let mut conn = Conn::new(family, Kind::Home, 1, port);
    conn.open(machine);
    let first = conn.up(ACK, 0, 0, &HEAD[..10]);
    machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadKept]);
    if acked {
        machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadAcknowledged]);
    }
    conn
}

/// Changes the one entry of `STASH`.
fn change(machine: &mut dyn Machine, change: impl Fn(&mut Stash)) -> Tuple {
    let [(tuple, mut stash)] = machine.stash()[..] else { panic!("one head") };
    change(&mut stash);
    machine.set_stash(&tuple, &stash);
    tuple
}

/// Makes the one head so much older.
fn age(machine: &mut dyn Machine, by: Duration) {
    let by = by.as_nanos() as u64;
    // It is known in its ring by when it began.
    change(machine, |stash| stash.since = stash.since.wrapping_sub(by >> 32 << 32));
}

#[track_caller]
fn nothing_is_left(machine: &dyn Machine) {
    assert_eq!((machine.stash().len(), machine.chunks().len()), (0, 0));
    assert_eq!(machine.heads(ALL_SHARES), 0);
}

#[test]
fn a_head_goes_when_its_time_is_over_and_its_client_is_told() {
    on_all(&World::default(), |machine, family| {
        for (port, acked) in [(1000, false), (1001, true)] {
            let conn = begun(machine, family, port, acked);
            assert_eq!(machine.heads(ALL_SHARES), CHUNKS_OF_HEAD);
            age(machine, WAIT - MOMENT);
            assert_eq!(machine.look(), []);
            age(machine, 2 * MOMENT);
            assert_eq!(machine.look(), [(Counter::EndedHead, 1)]);
            nothing_is_left(machine);
            // Who was told that his bytes are here does not send them again.
            let told = machine.farewells();
            assert_eq!(told.len(), usize::from(acked));
            for farewell in told {
                let expected = [conn.cookie.wrapping_add(1), conn.isn.wrapping_add(11)];
                assert_eq!((farewell.tuple, farewell.to_client), (conn.vip_side(), expected));
                assert_eq!((farewell.replica_addr, farewell.to_replica), ([0; 16], [0; 2]));
            }
        }
    });
}

#[test]
fn one_that_waits_for_its_replica_has_that_time_more() {
    on_all(&World::default(), |machine, family| {
        for (port, acked) in [(1000, false), (1001, true)] {
            let mut conn = begun(machine, family, port, acked);
            conn.bind_with(machine, conn.up(PSH | ACK, 10, 0, &HEAD[10..]), &[]);
            age(machine, WAIT + ANSWER - MOMENT);
            assert_eq!(machine.look(), []);
            age(machine, 2 * MOMENT);
            assert_eq!(machine.look(), [(Counter::EndedHead, 1)]);
            nothing_is_left(machine);
            assert_eq!(machine.farewells().len(), usize::from(acked));
        }
    });
}

/// What was acknowledged is kept behind the acceptance, and not for ever.
#[test]
fn one_that_its_replica_never_acknowledges_ends_the_flow() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, family, 1000);
        age(machine, WAIT + ANSWER + MOMENT);
        assert_eq!(machine.look(), [(Counter::EndedHead, 1), (Counter::EndedLost, 1)]);
        nothing_is_left(machine);
        assert!(machine.flows().is_empty() && machine.flows_back().is_empty());
        let [farewell] = machine.farewells()[..] else { panic!("both ends are told") };
        assert_eq!(farewell.tuple, conn.vip_side());
        assert_ne!(farewell.replica_addr, [0; 16]);
    });
}

#[test]
fn the_hand_leaves_one_alone_that_another_cpu_is_at() {
    on_all(&World::default(), |machine, family| {
        begun(machine, family, 1000, true);
        age(machine, WAIT + MOMENT);
        change(machine, |stash| stash.owner |= STASH_CLAIMED);
        for _ in 0..3 {
            assert_eq!(machine.look(), []);
        }
        assert_eq!((machine.stash().len(), machine.chunks().len()), (1, 0));
        change(machine, |stash| stash.owner &= !STASH_CLAIMED);
        assert_eq!(machine.look(), [(Counter::EndedHead, 1)]);
        nothing_is_left(machine);
    });
}

/// Each time the one before is forgotten, and stays in the ring, which has room for twice as many as there can be.
#[test]
fn heads_that_begin_again_do_not_fill_the_ring() {
    let world = World::default();
    on_all(&world, |machine, family| {
        let mut conns = [0x1000_0000, 0x7000_0000].map(|isn| {
            let mut conn = Conn { isn, ..Conn::new(family, Kind::Home, 1, 1000) };
            conn.open(machine);
            conn.up(ACK, 0, 0, &HEAD[..10]).bytes()
        });
        for _ in 0..3000 {
            machine.run(Hook::Ingress, &conns[0]).counts(&[Counter::HeadKept]);
            conns.reverse();
        }
        assert_eq!((machine.stash().len(), machine.chunks().len()), (1, 0));
        assert_eq!(machine.heads(ALL_SHARES), CHUNKS_OF_HEAD);
        age(machine, WAIT + MOMENT);
        assert_eq!(machine.look(), [(Counter::EndedHead, 1)]);
        nothing_is_left(machine);
    });
}

/// Whoever looks at the ring puts back what lives, and nothing else, however many have begun within a tick of the clock.
#[test]
fn heads_that_begin_again_are_in_the_ring_once() {
    const OTHERS: u16 = 50;
    let machine = &mut Host::new(&World::default().starting_now());
    for port in 0..OTHERS {
        begun(machine, Family::V4, 2000 + port, false);
    }
    let mut conns = [0x1000_0000, 0x7000_0000].map(|isn| {
        let mut conn = Conn { isn, ..Conn::new(Family::V4, Kind::Home, 1, 1000) };
        conn.open(machine);
        conn.up(ACK, 0, 0, &HEAD[..10]).bytes()
    });
    for _ in 0..3000 {
        machine.run(Hook::Ingress, &conns[0]).counts(&[Counter::HeadKept]);
        conns.reverse();
    }
    assert_eq!(machine.look(), []);
    let (tables, _) = machine.parts();
    let mut watched = Watched::default();
    let entries = (0..3000).take_while(|_| tables.next_head(&mut watched)).count();
    assert_eq!(entries, usize::from(OTHERS) + 1);
}

/// Nobody comes for the head of a client that was told so.
#[test]
fn those_of_connections_that_are_refused_go_with_them() {
    on_all(&World::default(), |machine, family| {
        for (port, acked) in [(1000, false), (1001, true)] {
            let mut conn = begun(machine, family, port, acked);
            conn.bind_with(machine, conn.up(PSH | ACK, 10, 0, &HEAD[10..]), &[]);
            assert_eq!(machine.stash().len(), 1);
            let refusal = conn.down(RST | ACK, 0, 0, b"");
            machine.run(Hook::Egress, &refusal.bytes()).counts(&[Counter::Refused]);
            nothing_is_left(machine);
            assert_eq!(machine.look(), []);
            assert_eq!(machine.farewells(), []);
        }
    });
    for (map, why, counter) in [
        (Map::Flows, Refused::Full, Counter::ResetFull),
        (Map::FlowsBack, Refused::NoMemory, Counter::ResetFailed),
    ] {
        let machine = &mut Host::new(&World::default().starting_now());
        let mut conn = begun(machine, Family::V4, 1000, true);
        conn.bind_with(machine, conn.up(PSH | ACK, 10, 0, &HEAD[10..]), &[]);
        machine.refuse(Some((map, why)));
        machine.run(Hook::Egress, &conn.replica_syn_ack().bytes()).counts(&[counter]);
        nothing_is_left(machine);
    }
}

#[test]
fn one_that_the_ring_does_not_take_back_is_ended() {
    for acked in [false, true] {
        let machine = &mut Host::new(&World::default().starting_now());
        begun(machine, Family::V4, 1000, acked);
        machine.refuse(Some((Map::HeadRing, Refused::Busy)));
        assert_eq!(machine.look(), [(Counter::Unwatched, 1), (Counter::EndedHead, 1)]);
        nothing_is_left(machine);
        assert_eq!(machine.farewells().len(), usize::from(acked));
    }
}

/// A connection whose first bytes were acknowledged, and delivered.
fn delivered(machine: &mut dyn Machine, family: Family, port: u16) -> Conn {
    let mut conn = begun(machine, family, port, true);
    conn.bind_with(machine, conn.up(PSH | ACK, 10, 0, &HEAD[10..]), &[]);
    let answer = conn.replica_syn_ack();
    assert_eq!(machine.run(Hook::Egress, &answer.bytes()).verdict(), Counter::Delivered);
    assert_eq!(machine.stash().len(), 1);
    conn
}

/// One that was kept until its replica has it is nobody's any more: the hand sees that in a turn, and tells nobody.
#[test]
fn one_of_a_flow_that_has_ended_goes_with_it() {
    on_all(&World::default(), |machine, family| {
        for (port, from_client) in [(1000, false), (1001, true)] {
            let conn = delivered(machine, family, port);
            if from_client {
                conn.goes_up(
                    machine,
                    &conn.up(RST | ACK, HEAD.len() as u32, 0, b""),
                    &[Counter::Closed],
                );
            } else {
                conn.goes_down(machine, &conn.down(RST | ACK, 0, 0, b""), &[Counter::Closed]);
            }
            assert_eq!(machine.look(), []);
            nothing_is_left(machine);
            assert_eq!(machine.farewells(), []);
        }
        // The tuple comes back: what is there then is another connection's.
        let before = delivered(machine, family, 1002);
        before.goes_down(machine, &before.down(RST | ACK, 0, 0, b""), &[Counter::Closed]);
        let mut conn = Conn { isn: 0x4000_0000, ..Conn::new(family, Kind::Home, 1, 1002) };
        conn.open(machine);
        let first = conn.up(ACK, 0, 0, &HEAD[..10]);
        machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadKept]);
        assert_eq!(machine.look(), []);
        assert_eq!((machine.stash().len(), machine.heads(ALL_SHARES)), (1, CHUNKS_OF_HEAD));
    });
}

/// Its last acknowledgement found another CPU at the head, and it says nothing more.
#[test]
fn one_that_its_replica_has_ends_nothing() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, family, 1000);
        change(machine, |stash| stash.owner |= STASH_CLAIMED);
        conn.goes_down(machine, &conn.down(ACK, 0, 10, b""), &[]);
        change(machine, |stash| stash.owner &= !STASH_CLAIMED);
        age(machine, WAIT + ANSWER + MOMENT);
        assert_eq!(machine.look(), [(Counter::EndedHead, 1)]);
        nothing_is_left(machine);
        assert_eq!((machine.flows().len(), machine.farewells().len()), (1, 0));
        conn.goes_up(machine, &conn.up(PSH | ACK, HEAD.len() as u32, 0, b"more"), &[]);
    });
}

/// What it says to have beyond all that there is does not make up for what it has not.
#[test]
fn one_that_its_replica_lies_about_ends_the_flow() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, family, 1000);
        conn.goes_down(machine, &conn.down(ACK, 0, HEAD.len() as u32 + 2, b""), &[]);
        age(machine, WAIT + ANSWER + MOMENT);
        assert_eq!(machine.look(), [(Counter::EndedHead, 1), (Counter::EndedLost, 1)]);
        nothing_is_left(machine);
        assert!(machine.flows().is_empty());
    });
}

/// A client that gives up takes its head with it; who does not know its numbers does not.
#[test]
fn one_whose_client_resets_it_goes() {
    on_all(&World::default(), |machine, family| {
        for (port, acked) in [(1000, false), (1001, true)] {
            let conn = begun(machine, family, port, acked);
            let reset = conn.up(RST | ACK, 10, 0, b"");
            for forged in [
                Seg { ack: reset.ack.wrapping_add(1), ..reset.clone() },
                Seg { seq: reset.seq.wrapping_add(1 << 16), ..reset.clone() },
                Seg { seq: conn.isn.wrapping_sub(1), ..reset.clone() },
            ] {
                machine.run(Hook::Ingress, &forged.bytes()).counts(&[Counter::DropStrayReset]);
                assert_eq!(machine.stash().len(), 1, "{forged:?}");
            }
            let mut damaged = reset.bytes();
            *damaged.last_mut().expect("it has options") ^= 1;
            machine.run(Hook::Ingress, &damaged).counts(&[Counter::DropStrayReset]);
            assert_eq!(machine.stash().len(), 1);
            machine.run(Hook::Ingress, &reset.bytes()).counts(&[Counter::DropStrayReset]);
            nothing_is_left(machine);
            assert_eq!(machine.look(), []);
        }
        // Its replica is asked already, and is told by its client.
        let mut conn = begun(machine, family, 1002, true);
        conn.bind_with(machine, conn.up(PSH | ACK, 10, 0, &HEAD[10..]), &[]);
        let reset = conn.up(RST | ACK, HEAD.len() as u32, 0, b"");
        machine.run(Hook::Ingress, &reset.bytes()).counts(&[Counter::DropStrayReset]);
        assert_eq!(machine.stash().len(), 1);
    });
}

/// The kernel uses the memory of an entry again at once: what was found there may be another tuple's by now, or nobody's.
#[test]
fn an_entry_that_is_not_there_any_more_is_not_claimed() {
    for other in [false, true] {
        let machine = &mut Host::new(&World::default().starting_now());
        begun(machine, Family::V4, 1000, false);
        let [(tuple, stash)] = machine.stash()[..] else { panic!("one head") };
        let (tables, _) = machine.parts();
        let found = tables.stash(&tuple).expect("it is there");
        tables.remove_stash(&tuple);
        if other {
            tables.add_stash(&tuple, &stash).expect("room");
        }
        assert!(!seize(tables, &tuple, found));
        assert_eq!(found.owner() & STASH_CLAIMED, 0, "whoever has it now can claim it");
        assert_eq!(tables.stash(&tuple).is_some_and(|there| seize(tables, &tuple, there)), other);
    }
}

fn long(conn: &Conn, at: u32, len: usize) -> Seg {
    let head = [b"GET /", &[b'x'; 8000][..]].concat();
    conn.up(ACK, at, 0, &head[at as usize..at as usize + len])
}

/// Some chunks were written when there was no room for the next one.
#[test]
fn one_that_was_written_in_part_leaves_nothing_behind() {
    for after in 0..3 {
        let machine = &mut Host::new(&World::default().starting_now());
        let mut conn = Conn::new(Family::V4, Kind::Home, 1, 1000);
        conn.open(machine);
        machine.refuse_after(after, (Map::Chunks, Refused::Full));
        let first = long(&conn, 0, 2800);
        machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::DropEarly]);
        nothing_is_left(machine);
        // One that was there before stays as it was.
        machine.refuse(None);
        machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadKept]);
        let (before, chunks) = (machine.stash(), machine.chunks().len());
        machine.refuse_after(after, (Map::Chunks, Refused::NoMemory));
        let second = long(&conn, 2800, 2800);
        machine.run(Hook::Ingress, &second.bytes()).counts(&[Counter::DropEarly]);
        machine.refuse(None);
        assert_eq!((machine.stash(), machine.chunks().len()), (before, chunks));
        assert_eq!(machine.heads(ALL_SHARES), CHUNKS_OF_HEAD);
        machine.run(Hook::Ingress, &second.bytes()).counts(&[Counter::HeadKept]);
        assert_eq!(machine.stash()[0].1.known, 5600);
        // What the first try has left in the ring is nobody's.
        assert_eq!(machine.look(), []);
    }
}

/// Nothing would ever remove one that the ring does not take.
#[test]
fn one_that_the_hand_would_not_see_is_not_kept() {
    for why in [Refused::Full, Refused::Busy] {
        let machine = &mut Host::new(&World::default().starting_now());
        let mut conn = Conn::new(Family::V4, Kind::Home, 1, 1000);
        conn.open(machine);
        machine.refuse(Some((Map::HeadRing, why)));
        let first = long(&conn, 0, 1400);
        machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::DropEarly]);
        nothing_is_left(machine);
        machine.refuse(None);
        machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadKept]);
    }
}

#[test]
fn one_that_is_refused_leaves_nothing_behind() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Reject, 1, 1000);
        conn.open(machine);
        for at in [1400, 0] {
            let seg = long(&conn, at, 1400);
            machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::HeadKept]);
        }
        let last = conn.up(PSH | ACK, 2800, 0, b" HTTP/1.1\r\n\r\n");
        machine.run(Hook::Ingress, &last.bytes()).counts(&[
            Counter::ResetMissingKey,
            Counter::MissingKey,
            Counter::MissingAbsent,
        ]);
        nothing_is_left(machine);
        assert_eq!(machine.look(), []);
    });
}
