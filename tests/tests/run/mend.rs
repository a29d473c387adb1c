//! First bytes that Roost has acknowledged to the client and that are lost on the way to the replica.

use etherparse::TcpOptionElement::{Noop, Timestamp};
use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, Seg, options},
    on_all,
    talk::{Conn, Offer, reset_for},
    world::{Kind, REPLICAS, World, replica},
};
use router_ebpf::{
    maps::{REPLICA_GONE, Replica, SLOT_COUNT, STATE_HEAD},
    verdict::Counter,
};

const HEAD: &[u8] = b"GET /ws?lang=en&chat=tea&v=3 HTTP/1.1\r\nHost: chat.example\r\n\r\n";
/// Bytes that were acknowledged.
const ACKED: usize = 10;

/// A connection of whose head these first bytes were acknowledged, and that is delivered.
fn delivered(machine: &mut dyn Machine, conn: Conn, head: &[u8]) -> Conn {
    let mut conn = conn;
    conn.open(machine);
    let first = conn.up(PSH | ACK, 0, 0, &head[..ACKED]);
    machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadKept]);
    machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadAcknowledged]);
    conn.bind_with(machine, conn.up(PSH | ACK, ACKED as u32, 0, &head[ACKED..]), &[]);
    let outcome = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
    assert_eq!(outcome.verdict(), Counter::Delivered);
    assert_eq!(machine.stash().len(), 1);
    conn
}

/// The bytes that are sent to the replica once more, in answer to a segment of its own.
fn again(conn: &Conn, answers: &Seg, at: u32, bytes: &[u8]) -> Seg {
    let seg = Seg { window: 502, ..conn.up(ACK, at, 0, bytes) };
    let made = conn.delivered_like(&seg);
    let turned = |(value, echo)| options(&[Noop, Noop, Timestamp(echo, value)]);
    Seg { options: answers.timestamps().map_or_else(Vec::new, turned), ..made }
}

/// More than what was sent again has to arrive, in the units of `Stash::reading`.
const AGAIN: u32 = 40;

/// Lets that pass.
fn pass(machine: &mut dyn Machine) {
    let [(tuple, mut stash)] = machine.stash()[..] else { panic!("one head") };
    stash.reading = stash.reading.wrapping_sub(AGAIN);
    machine.set_stash(&tuple, &stash);
}

#[track_caller]
fn sent_again(machine: &mut dyn Machine, conn: &Conn, answers: &Seg, at: u32, bytes: &[u8]) {
    pass(machine);
    machine
        .run(Hook::Egress, &answers.bytes())
        .counts(&[Counter::DeliveredAgain])
        .leaves(&again(conn, answers, at, bytes).bytes());
}

fn is_kept(machine: &dyn Machine) -> bool {
    let kept = !machine.stash().is_empty();
    assert!(kept || machine.chunks().is_empty());
    kept
}

#[test]
fn what_the_replica_misses_is_sent_again_until_it_is_acknowledged() {
    on_all(&World::default(), |machine, family| {
        for (port, offer) in [(1000, Offer::ALL), (1001, Offer::NONE)] {
            let conn = Conn { offer, ..Conn::new(family, Kind::Home, 1, port) };
            let conn = delivered(machine, conn, HEAD);
            // All of it was lost: the replica sends its SYN-ACK again.
            sent_again(machine, &conn, &conn.replica_syn_ack(), 0, HEAD);
            sent_again(machine, &conn, &conn.replica_syn_ack(), 0, HEAD);
            // It has four bytes, and says so because others came behind them.
            sent_again(machine, &conn, &conn.down(ACK, 0, 4, b""), 4, &HEAD[4..]);
            // What it sends itself is the client's, however long ago that was.
            pass(machine);
            conn.goes_down(machine, &conn.down(PSH | ACK, 0, 4, b"hello"), &[]);
            conn.goes_down(machine, &conn.down(FIN | ACK, 5, 4, b""), &[]);
            assert!(is_kept(machine));
            // No less and no more than it takes.
            let little = Seg { window: 3, ..conn.down(ACK, 6, 9, b"") };
            let fits = if offer.scale.is_some() { HEAD.len() - 9 } else { 3 };
            sent_again(machine, &conn, &little, 9, &HEAD[9..9 + fits]);
            let none = Seg { window: 0, ..conn.down(ACK, 6, 9, b"") };
            conn.goes_down(machine, &none, &[]);
            let has = conn.down(ACK, 6, ACKED as u32, b"");
            conn.goes_down(machine, &has, &[]);
            assert!(!is_kept(machine));
            // The rest is the client's to send again.
            conn.goes_down(machine, &has, &[]);
            let states = machine.flows_back().into_iter().map(|(_, back)| back.state & STATE_HEAD);
            assert!(states.sum::<u32>() == 0);
        }
    });
}

/// Acknowledgements that come while the head is under way say nothing of a loss.
#[test]
fn only_what_says_the_same_again_is_answered() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, Conn::new(family, Kind::Home, 1, 1000), HEAD);
        for bytes in [3, 5] {
            conn.goes_down(machine, &conn.down(ACK, 0, bytes, b""), &[]);
        }
        sent_again(machine, &conn, &conn.down(ACK, 0, 5, b""), 5, &HEAD[5..]);
        // One that was overtaken says nothing, and one before all of them neither.
        pass(machine);
        conn.goes_down(machine, &conn.down(ACK, 0, 3, b""), &[]);
        conn.goes_down(machine, &conn.down(ACK, 0, 0u32.wrapping_sub(2), b""), &[]);
        assert!(is_kept(machine));
        conn.goes_down(machine, &conn.down(ACK, 0, HEAD.len() as u32, b""), &[]);
        assert!(!is_kept(machine));
    });
}

/// A replica that never takes it, as behind a link that is too narrow, costs no more than so many segments.
#[test]
fn what_never_arrives_ends_the_connection_at_both_ends() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, Conn::new(family, Kind::Home, 1, 1000), HEAD);
        let misses = conn.down(ACK, 0, 0, b"");
        for _ in 0..255 {
            sent_again(machine, &conn, &misses, 0, HEAD);
        }
        pass(machine);
        machine
            .run(Hook::Egress, &misses.bytes())
            .counts(&[Counter::ResetReplica, Counter::EndedLost])
            .leaves(&reset_for(&misses).bytes());
        assert!(!is_kept(machine) && machine.flows().is_empty());
        assert_eq!(machine.farewells().len(), 1);
    });
}

/// Behind one lost segment there may be many: the replica says for each that it misses the same.
#[test]
fn many_that_miss_the_same_end_nothing() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, Conn::new(family, Kind::Home, 1, 1000), HEAD);
        let misses = conn.down(ACK, 0, 0, b"").bytes();
        let verdicts: Vec<_> =
            (0..300).map(|_| machine.run(Hook::Egress, &misses).verdict()).collect();
        assert_eq!(verdicts[0], Counter::DeliveredAgain);
        let again = verdicts.iter().filter(|verdict| **verdict == Counter::DeliveredAgain).count();
        assert!(again < 255, "each {AGAIN} ms at the most: {again}");
        assert!(is_kept(machine) && machine.flows().len() == 1);
    });
}

/// Neither side is believed: who made up numbers does not make the bytes go.
#[test]
fn an_acknowledgement_of_what_was_never_sent_says_nothing() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, Conn::new(family, Kind::Home, 1, 1000), HEAD);
        let whole = HEAD.len() as u32;
        for forged in [
            conn.down(ACK, 0, whole + 2, b""),
            conn.down(ACK, 0, 1 << 30, b""),
            conn.down(ACK, 1 << 30, whole, b""),
            conn.down(ACK, 1 << 31, 0, b""),
        ] {
            conn.goes_down(machine, &forged, &[]);
            assert!(is_kept(machine), "{forged:?}");
        }
    });
}

#[test]
fn what_the_client_has_sent_since_may_be_acknowledged() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, Conn::new(family, Kind::Home, 1, 1000), HEAD);
        let whole = HEAD.len() as u32;
        conn.goes_up(machine, &conn.up(PSH | ACK, whole, 0, b"more of it"), &[]);
        conn.goes_down(machine, &conn.down(ACK, 0, whole + 10, b""), &[]);
        assert!(!is_kept(machine));
    });
}

#[test]
fn a_long_head_is_sent_again_in_small_segments() {
    let long = [b"GET /ws?chat=tea&more=", &[b'x'; 2000][..], b" HTTP/1.1\r\n\r\n"].concat();
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, Conn::new(family, Kind::Home, 1, 1000), &long);
        // How much fits is said in the handshake only.
        sent_again(machine, &conn, &conn.down(ACK, 0, 0, b""), 0, &long[..524]);
        let fits = if family == Family::V4 { 1448 } else { 1428 };
        pass(machine);
        let again = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
        let again = again.counts(&[Counter::DeliveredAgain]).segment();
        assert!(again.payload.len() <= fits && again.payload.len() > 524);
        assert_eq!(again.payload, long[..again.payload.len()]);
    });
}

/// Two replicas were asked, because the first could not be used for a while: the one that answers late is told that it has no
/// client. Its client is told nothing, and what is kept for the first one stays, whatever room the second has.
#[test]
fn a_second_replica_that_accepts_resets_nobody() {
    on_all(&World::default(), |machine, family| {
        for (port, has_it) in [(1000, true), (1001, false)] {
            let mut first = Conn::new(family, Kind::Home, 1, port);
            first.open(machine);
            let begin = first.up(PSH | ACK, 0, 0, &HEAD[..ACKED]);
            machine.run(Hook::Ingress, &begin.bytes()).counts(&[Counter::HeadKept]);
            machine.run(Hook::Ingress, &begin.bytes()).counts(&[Counter::HeadAcknowledged]);
            let mut second = first.clone();
            let rest = first.up(PSH | ACK, ACKED as u32, 0, &HEAD[ACKED..]);
            first.bind_with(machine, rest.clone(), &[]);
            let number = Kind::Home.replica(first.replica);
            let (known, slots) = (replica(number), Kind::Home.slots());
            let turned = |by: u32| -> Vec<u32> {
                (0..SLOT_COUNT).map(|slot| Kind::Home.replica((slot + by) % REPLICAS)).collect()
            };
            machine.set_replica(number, &Replica { state: REPLICA_GONE, ..known });
            machine.set_slots(slots, &turned(1));
            second.bind_with(machine, rest, &[]);
            assert_ne!(first.replica, second.replica);
            machine.set_replica(number, &known);
            machine.set_slots(slots, &turned(0));
            let accepted = machine.run(Hook::Egress, &first.replica_syn_ack().bytes());
            assert_eq!(accepted.verdict(), Counter::Delivered);
            if has_it {
                first.goes_down(machine, &first.down(ACK, 0, HEAD.len() as u32, b""), &[]);
                assert!(!is_kept(machine));
            }
            let late = Seg { window: 1, ..second.replica_syn_ack() };
            machine
                .run(Hook::Egress, &late.bytes())
                .counts(&[Counter::ResetReplica])
                .leaves(&reset_for(&late).bytes());
            if !has_it {
                sent_again(machine, &first, &first.down(ACK, 0, 0, b""), 0, HEAD);
            }
            first.goes_up(machine, &first.up(PSH | ACK, HEAD.len() as u32, 0, b"more"), &[]);
        }
    });
}

/// One that was forgotten meanwhile, or gave way to another connection's on its tuple, is missed by nobody else.
#[test]
fn a_head_that_is_gone_is_asked_for_once() {
    on_all(&World::default(), |machine, family| {
        let conn = delivered(machine, Conn::new(family, Kind::Home, 1, 1000), HEAD);
        let (tuple, mut other) = machine.stash()[0];
        machine.clear_stash();
        conn.goes_down(machine, &conn.down(ACK, 0, 0, b""), &[]);
        assert!(machine.flows_back().iter().all(|(_, back)| back.state & STATE_HEAD == 0));
        let conn = delivered(machine, Conn::new(family, Kind::Home, 1, 1001), HEAD);
        other.owner ^= 1 << 40;
        let (there, _) = machine.stash()[0];
        assert_ne!(there, tuple);
        machine.set_stash(&there, &other);
        conn.goes_down(machine, &conn.down(ACK, 0, 0, b""), &[]);
        assert!(machine.flows_back().iter().all(|(_, back)| back.state & STATE_HEAD == 0));
        assert_eq!(machine.stash()[0].1.owner, other.owner);
    });
}
