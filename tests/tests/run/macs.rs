//! Frames for other MAC addresses, packet by packet.

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg},
    on_all,
    talk::{Conn, get, reset_for},
    world::{Kind, World},
};
use router_ebpf::{maps::Mac, verdict::Counter};

/// What frames of these tests are for, and another machine.
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// The same segment in a frame for another address.
fn to(mac: [u8; 6], seg: &Seg) -> Seg {
    Seg { macs: [seg.macs[0], mac], ..seg.clone() }
}

#[track_caller]
fn passes(machine: &mut dyn Machine, seg: &Seg) {
    machine
        .run(Hook::Ingress, &seg.bytes())
        .counts(&[Counter::PassedOtherMac])
        .leaves(&seg.bytes());
}

fn know(machine: &mut dyn Machine, until: u64) {
    machine.set_mac(&Mac::new(OURS), 0);
    machine.set_mac(&Mac::ALL_KNOWN, until);
}

#[test]
fn what_is_for_another_machine_is_not_answered_bound_or_ended() {
    on_all(&World::default(), |machine, family| {
        know(machine, u64::MAX);
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        passes(machine, &to(OTHER, &conn.syn()));
        conn.open(machine);
        for seg in [conn.up(ACK, 0, 0, b""), conn.up(PSH | ACK, 0, 0, &get("tea"))] {
            passes(machine, &to(OTHER, &seg));
        }
        let mut stray = Conn::new(family, Kind::Home, 1, 1001);
        stray.cookie = 77;
        for seg in [stray.up(ACK, 0, 0, b""), stray.up(RST, 0, 0, b"")] {
            passes(machine, &to(OTHER, &seg));
        }
        assert!(machine.pending().is_empty() && machine.stash().is_empty());

        conn.bind(machine, &get("tea"), &[]);
        conn.accept(machine);
        for flags in [FIN | ACK, RST | ACK] {
            passes(machine, &to(OTHER, &conn.up(flags, 60, 0, b"")));
        }
        passes(machine, &to(OTHER, &conn.syn()));
        // Translated as any other; the kernel takes it no further.
        conn.goes_up(machine, &to(OTHER, &conn.up(ACK, 60, 0, b"")), &[]);
        conn.goes_up(machine, &conn.up(RST | ACK, 60, 0, b""), &[Counter::Closed]);
        passes(machine, &to(OTHER, &conn.up(ACK, 60, 0, b"")));
        conn.goes_up(machine, &conn.up(ACK, 60, 0, b""), &[]);
    });
}

/// Where nobody has said what the machine's addresses are, or not lately, any may be.
#[test]
fn unless_all_addresses_are_known_any_is_taken() {
    on_all(&World::default(), |machine, family| {
        let mut port = 1000;
        let mut next = || {
            port += 1;
            Conn::new(family, Kind::Home, 1, port)
        };
        let answered = |machine: &mut dyn Machine, seg: &Seg| {
            machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::SynAnswered]);
        };
        answered(machine, &to(OTHER, &next().syn()));
        machine.set_mac(&Mac::new(OURS), 0);
        answered(machine, &to(OTHER, &next().syn()));
        know(machine, 1);
        answered(machine, &to(OTHER, &next().syn()));
        know(machine, u64::MAX);
        passes(machine, &to(OTHER, &next().syn()));
        // One more interface.
        machine.set_mac(&Mac::new(OTHER), 0);
        answered(machine, &to(OTHER, &next().syn()));
    });
}

#[test]
fn what_is_for_many_machines_is_never_answered() {
    on_all(&World::default(), |machine, family| {
        let multicast = match family {
            Family::V4 => [1, 0, 0x5e, 0, 0, 1],
            Family::V6 => [0x33, 0x33, 0, 0, 0, 1],
        };
        let conn = Conn::new(family, Kind::Home, 1, 1000);
        let stray = conn.up(ACK, 0, 0, b"");
        for mac in [[0xff; 6], multicast] {
            passes(machine, &to(mac, &conn.syn()));
            passes(machine, &to(mac, &stray));
            // Also not when somebody has given it to an interface.
            machine.set_mac(&Mac::new(mac), 0);
            passes(machine, &to(mac, &conn.syn()));
        }
        machine
            .run(Hook::Ingress, &stray.bytes())
            .counts(&[Counter::ResetUnknown])
            .leaves(&reset_for(&stray).bytes());
    });
}
