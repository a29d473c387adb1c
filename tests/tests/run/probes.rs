//! Probes of clients that wait, such as keepalives: before their first data, within their head, and on tuples that
//! were used before.

use roost_tests::run::{
    Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg},
    live, on_all,
    talk::{Conn, Offer, get},
    world::{Kind, World},
};
use router_ebpf::verdict::Counter;

/// The probe is answered: that so many bytes are here. It costs no more bytes than it has itself.
#[track_caller]
fn answered(machine: &mut dyn Machine, conn: &Conn, probe: &Seg, bytes: u32) {
    let answer = conn.acknowledged(probe, bytes).bytes();
    let outcome = machine.run(Hook::Ingress, &probe.bytes()).counts(&[Counter::ProbeAcknowledged]);
    assert!(outcome.frame.len() <= probe.bytes().len());
    outcome.leaves(&answer);
}

/// Those of a client that has sent nothing: without a byte and with one, as older systems send it.
fn before_all(conn: &Conn) -> [Seg; 2] {
    let conn = Conn { replica: u32::MAX, ..conn.clone() };
    [conn.up(ACK, u32::MAX, 0, b""), conn.up(ACK, u32::MAX, 0, b"\0")]
}

#[test]
fn a_client_that_has_sent_nothing_hears_that_its_connection_lives() {
    on_all(&World::default(), |machine, family| {
        let edges = [0x1234_5678, 0, 1, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff];
        let mut port = 1000;
        for (vlan, isn) in [vec![], vec![7], vec![7, 8]].into_iter().cycle().zip(edges) {
            for timestamps in [true, false] {
                for sack in [true, false] {
                    for scale in [None, Some(0), Some(7), Some(8), Some(14)] {
                        port += 1;
                        let mut conn = Conn::new(family, Kind::Home, 1, port);
                        (conn.vlan, conn.isn, conn.client_ts) = (vlan.clone(), isn, !isn);
                        conn.offer = Offer { mss: Some(1460), scale, sack, timestamps };
                        conn.open(machine);
                        for probe in before_all(&conn) {
                            answered(machine, &conn, &probe, 0);
                        }
                        // Later its clock has gone on, and ours stands.
                        conn.client_ts = conn.client_ts.wrapping_add(5000);
                        answered(machine, &conn, &before_all(&conn)[0], 0);
                        conn.bind(machine, &get("tea"), &[]);
                        conn.accept(machine);
                        conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"more"), &[]);
                        conn.goes_down(machine, &conn.down(PSH | ACK, 0, 60, b"answer"), &[]);
                    }
                }
            }
        }
    });
}

#[test]
fn a_probe_changes_nothing_and_has_the_right_flags() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        for probe in before_all(&conn) {
            answered(machine, &conn, &Seg { flags: PSH | ACK, ..probe.clone() }, 0);
            let fin = Seg { flags: FIN | ACK, ..probe.clone() };
            machine.run(Hook::Ingress, &fin.bytes()).counts(&[Counter::DropEarly]);
            let rst = Seg { flags: RST | ACK, ..probe.clone() };
            machine.run(Hook::Ingress, &rst.bytes()).counts(&[Counter::DropStrayReset]);
            let bare = Seg { flags: PSH, ..probe };
            machine.run(Hook::Ingress, &bare.bytes()).counts(&[Counter::DropFlags]);
        }
        // A frame that was padded to the least length becomes one that is not.
        let bare = Conn { offer: Offer::NONE, ..Conn::new(family, Kind::Home, 1, 1001) };
        let mut conn = bare;
        conn.open(machine);
        let probe = &before_all(&conn)[0];
        machine
            .run(Hook::Ingress, &[probe.bytes(), vec![0; 6]].concat())
            .counts(&[Counter::ProbeAcknowledged])
            .leaves(&conn.acknowledged(probe, 0).bytes());
        assert_eq!(
            (machine.stash().len(), machine.pending().len(), machine.flows().len()),
            (0, 0, 0)
        );
    });
}

#[test]
fn numbers_of_no_handshake_are_no_probe() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let [probe, _] = before_all(&conn);
        for other in [
            Seg { seq: probe.seq.wrapping_sub(1), ..probe.clone() },
            Seg { ack: probe.ack.wrapping_add(1), ..probe.clone() },
            Conn { our_ts: conn.our_ts ^ 1, ..conn.clone() }.up(ACK, u32::MAX, 0, b""),
            Seg { options: Vec::new(), ..probe },
        ] {
            machine.run(Hook::Ingress, &other.bytes()).counts(&[Counter::ResetUnknown]);
        }
    });
}

#[test]
fn a_client_that_waits_within_its_head_hears_what_is_here() {
    on_all(&World::default(), |machine, family| {
        let head = get("tea");
        for (port, offer) in [(1000, Offer::ALL), (1001, Offer::NONE)] {
            let mut conn = Conn { offer, ..Conn::new(family, Kind::Home, 1, port) };
            conn.open(machine);
            let mut sent = 0;
            for len in [1, 9, 5] {
                let piece = conn.up(PSH | ACK, sent, 0, &head[sent as usize..][..len as usize]);
                sent += len;
                machine.run(Hook::Ingress, &piece.bytes()).counts(&[Counter::HeadKept]);
                machine.run(Hook::Ingress, &piece.bytes()).counts(&[Counter::HeadAcknowledged]);
                // Its client sends the last byte again, or none.
                let probe = conn.up(ACK, sent - 1, 0, b"");
                answered(machine, &conn, &probe, sent);
                let with_a_byte = conn.up(ACK, sent - 1, 0, b"\0");
                machine
                    .run(Hook::Ingress, &with_a_byte.bytes())
                    .counts(&[Counter::HeadAcknowledged])
                    .leaves(&conn.acknowledged(&with_a_byte, sent).bytes());
                // Its next byte is not before anything: an acknowledgement that ends a handshake, or none.
                let bare = conn.up(ACK, sent, 0, b"");
                machine.run(Hook::Ingress, &bare.bytes()).counts(&[Counter::DropEarly]);
            }
            let early = conn.up(ACK, 3, 0, b"");
            machine.run(Hook::Ingress, &early.bytes()).counts(&[Counter::DropEarly]);
            let again = conn.up(ACK, 0, 0, b"");
            machine.run(Hook::Ingress, &again.bytes()).counts(&[Counter::AckSwallowed]);
            // Sent before the first byte, and overtaken.
            answered(machine, &conn, &before_all(&conn)[0], 0);
            // The bytes that came with probes are none of the head's.
            let rest = conn.up(PSH | ACK, sent, 0, &head[sent as usize..]);
            conn.bind_with(machine, rest, &[]);
            assert_eq!(machine.pending()[0].1.key.kept(), b"tea");
            machine.forget_pending(&conn.replica_side());
        }
    });
}

/// What is kept for a connection says nothing about the next one on its tuple.
#[test]
fn what_another_connection_has_sent_is_not_here() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let piece = conn.up(PSH | ACK, 0, 0, b"GET /");
        machine.run(Hook::Ingress, &piece.bytes()).counts(&[Counter::HeadKept]);
        machine.run(Hook::Ingress, &piece.bytes()).counts(&[Counter::HeadAcknowledged]);
        let mut next = Conn { isn: 0x7777_0000, ..conn.clone() };
        next.open(machine);
        let probe = next.up(ACK, 4, 0, b"");
        machine.run(Hook::Ingress, &probe.bytes()).counts(&[Counter::DropEarly]);
        answered(machine, &conn, &conn.up(ACK, 4, 0, b""), 5);
    });
}

#[test]
fn a_client_that_waits_for_its_replica_hears_that_its_connection_lives() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        for probe in before_all(&conn) {
            answered(machine, &conn, &probe, 0);
        }
        let waiting = Conn { replica: u32::MAX, ..conn.clone() };
        let len = get("tea").len() as u32;
        // A client sends again what was not acknowledged, and does not probe.
        let early = waiting.up(ACK, len - 1, 0, b"");
        machine.run(Hook::Ingress, &early.bytes()).counts(&[Counter::DropEarly]);
        conn.accept(machine);
        // From then on the replica answers.
        let probe = conn.up(ACK, len - 1, 0, b"");
        conn.goes_up(machine, &probe, &[]);
        conn.goes_up(machine, &conn.up(ACK, u32::MAX, 0, b""), &[]);
    });
}

#[test]
fn a_probe_of_a_new_connection_is_not_the_old_ones() {
    on_all(&World::default(), |machine, family| {
        for (port, closed) in [(1000, false), (1001, true)] {
            let mut old = Conn::new(family, Kind::Home, 1, port);
            old.establish(machine, "tea");
            if closed {
                old.goes_up(machine, &old.up(RST | ACK, 60, 0, b""), &[Counter::Closed]);
            }
            let mut new = Conn { isn: 0x7777_0000, replica_isn: 0x1111_1111, ..old.clone() };
            new.open(machine);
            for probe in before_all(&new) {
                answered(machine, &new, &probe, 0);
            }
            assert_eq!(live(machine), u32::from(!closed));
            // The flow's own goes where it belongs.
            old.goes_up(machine, &old.up(ACK, u32::MAX, 0, b""), &[]);
            let also: &[_] = if closed { &[] } else { &[Counter::Rebound] };
            new.bind(machine, &get("tea"), also);
        }
    });
}
