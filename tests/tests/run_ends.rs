//! How flows end, and begin anew on the same tuple: counts are right in any order.

use nix::time::{ClockId, clock_gettime};
use roost_tests::run::{
    Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg},
    live, on_all,
    talk::{Conn, get, reset_for},
    world::{Kind, World, replica},
};
use router_ebpf::{
    maps::{
        Chat, Flow, REPLICA_GONE, STATE_EXPIRED, STATE_SYN_SEEN, STATE_SYN_TICK,
        STATE_SYN_TICK_SHIFT, TICK_SHIFT,
    },
    verdict::Counter,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    ClientFin,
    ReplicaFin,
    ClientReset,
    ReplicaReset,
}

use End::{ClientFin, ClientReset, ReplicaFin, ReplicaReset};

fn end(machine: &mut dyn Machine, conn: &Conn, end: End, also: &[Counter]) {
    match end {
        ClientFin => conn.goes_up(machine, &conn.up(FIN | ACK, 60, 0, b""), also),
        ReplicaFin => conn.goes_down(machine, &conn.down(FIN | ACK, 0, 60, b""), also),
        ClientReset => conn.goes_up(machine, &conn.up(RST | ACK, 60, 0, b""), also),
        ReplicaReset => conn.goes_down(machine, &conn.down(RST, 0, 60, b""), also),
    }
}

#[test]
fn flows_end_once_in_any_order() {
    on_all(&World::default(), |machine, family| {
        let ends = [ClientFin, ReplicaFin, ClientReset, ReplicaReset];
        let mut port = 1000;
        for first in ends {
            for second in ends {
                for third in ends {
                    port += 1;
                    let mut conn = Conn::new(family, Kind::Home, 1, port);
                    conn.establish(machine, "tea");
                    assert_eq!(live(machine), 1);
                    let mut seen = Vec::new();
                    let mut closed = false;
                    for this in [first, second, third] {
                        seen.push(this);
                        let over = matches!(this, ClientReset | ReplicaReset)
                            || (seen.contains(&ClientFin) && seen.contains(&ReplicaFin));
                        let also: &[_] = if over && !closed { &[Counter::Closed] } else { &[] };
                        closed |= over;
                        end(machine, &conn, this, also);
                        assert_eq!(live(machine), u32::from(!closed), "{seen:?}");
                    }
                    // What is late still passes.
                    conn.goes_up(machine, &conn.up(ACK, 61, 1, b""), &[]);
                    if !closed {
                        end(machine, &conn, ClientReset, &[Counter::Closed]);
                    }
                }
            }
        }
    });
}

#[test]
fn flows_of_a_chat_are_counted_together() {
    on_all(&World::default(), |machine, family| {
        let conns: Vec<_> = (0..4)
            .map(|port| {
                let mut conn = Conn::new(family, Kind::Home, port, 1000 + port);
                conn.establish(machine, "tea");
                conn
            })
            .collect();
        assert!(conns.iter().all(|conn| conn.replica == conns[0].replica));
        assert_eq!((machine.chats().len(), live(machine)), (1, 4));
        for (left, at) in [(3, 2), (2, 0), (1, 3), (0, 1)] {
            end(machine, &conns[at], ClientReset, &[Counter::Closed]);
            assert_eq!(live(machine), left);
        }
        assert_eq!(machine.flows().len(), 4, "the sweeper removes what has ended");
    });
}

#[test]
fn a_blind_reset_ends_nothing() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        for flags in [RST, RST | ACK] {
            for far in [1 << 20, 1 << 31, u32::MAX - 60] {
                conn.goes_up(machine, &conn.up(flags, far, 0, b""), &[]);
            }
        }
        // Near is not enough without the other number, or with a wrong one.
        conn.goes_up(machine, &conn.up(RST, 60, 0, b""), &[]);
        conn.goes_up(machine, &conn.up(RST | ACK, 60, 1 << 20, b""), &[]);
        assert_eq!(live(machine), 1);
        conn.goes_down(machine, &conn.down(ACK, 0, 2_000_000, b""), &[]);
        conn.goes_up(machine, &conn.up(RST, 2_000_000, 0, b""), &[Counter::Closed]);
        assert_eq!(live(machine), 0);
    });
}

#[test]
fn a_tuple_can_come_back() {
    on_all(&World::default(), |machine, family| {
        for (port, closed) in [(1000, false), (1001, true)] {
            let mut old = Conn::new(family, Kind::Home, 1, port);
            old.establish(machine, "tea");
            if closed {
                end(machine, &old, ClientReset, &[Counter::Closed]);
            }
            let mut new = Conn { isn: 0x7777_0000, replica_isn: 0x1111_1111, ..old.clone() };
            new.open(machine);
            // The old connection may still have something to say.
            old.goes_up(machine, &old.up(PSH | ACK, 60, 0, b"late"), &[]);
            old.goes_down(machine, &old.down(PSH | ACK, 0, 60, b"late"), &[]);
            let also: &[_] = if closed { &[] } else { &[Counter::Rebound] };
            new.bind(machine, &get("tea"), also);
            assert_eq!(live(machine), 0);
            // A replica that still has the old one says so, and is reset.
            let challenge = Seg { flags: ACK, ..old.down(ACK, 0, 60, b"") };
            machine
                .run(Hook::Egress, &challenge.bytes())
                .counts(&[Counter::ResetReplica])
                .leaves(&reset_for(&challenge).bytes());
            new.bind(machine, &get("tea"), &[]);
            new.accept(machine);
            assert_eq!(live(machine), 1);
            new.goes_up(machine, &new.up(PSH | ACK, 60, 0, b"new"), &[]);
            new.goes_down(machine, &new.down(PSH | ACK, 0, 60, b"new"), &[]);
            end(machine, &new, ReplicaReset, &[Counter::Closed]);
            assert_eq!(live(machine), 0);
        }
    });
}

/// The tick that the clock of both machines is in.
fn tick() -> u32 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
    ((now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64) >> TICK_SHIFT) as u32
}

#[test]
fn a_syn_that_nothing_came_of_is_forgotten() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let spoofed = Conn { isn: 0x7777_0000, ..conn.clone() };
        machine.run(Hook::Ingress, &spoofed.syn().bytes()).counts(&[Counter::SynAnswered]);
        let flow = |machine: &dyn Machine| {
            let flows = machine.flows();
            *flows.iter().find(|(at, _)| *at == conn.vip_side()).map(|(_, flow)| flow).expect("it")
        };
        conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"one"), &[]);
        let state = flow(machine).state;
        assert_ne!(state & STATE_SYN_SEEN, 0, "its connection may come yet");
        // As if it had come so many ticks ago.
        for (ticks, is_there) in [(2, true), (3, false)] {
            loop {
                let now = tick();
                let at = now.wrapping_sub(ticks) << STATE_SYN_TICK_SHIFT;
                let state = state & !STATE_SYN_TICK | at;
                machine.set_flow(&conn.vip_side(), &Flow { state, ..flow(machine) });
                conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"one"), &[]);
                // Else one has ended meanwhile.
                if tick() == now {
                    break;
                }
            }
            assert_eq!(flow(machine).state & STATE_SYN_SEEN != 0, is_there, "{ticks}");
        }
        assert_eq!((flow(machine).state, live(machine)), (0, 1));
    });
}

#[test]
fn an_unused_connection_is_closed_by_a_reset() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let fin = conn.up(FIN | ACK, 0, 0, b"");
        machine
            .run(Hook::Ingress, &fin.bytes())
            .counts(&[Counter::ResetUnused])
            .leaves(&reset_for(&fin).bytes());
    });
}

#[test]
fn an_expired_flow_is_reset_at_both_ends() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        // As the sweeper does.
        let (tuple, mut flow) = machine.flows()[0];
        flow.state |= STATE_EXPIRED;
        machine.set_flow(&tuple, &flow);
        let (tuple, mut back) = machine.flows_back()[0];
        back.state |= STATE_EXPIRED;
        machine.set_flow_back(&tuple, &back);
        let seg = conn.up(PSH | ACK, 60, 0, b"hello?");
        machine
            .run(Hook::Ingress, &seg.bytes())
            .counts(&[Counter::ResetExpired])
            .leaves(&reset_for(&seg).bytes());
        let seg = conn.down(PSH | ACK, 0, 60, b"hello?");
        machine
            .run(Hook::Egress, &seg.bytes())
            .counts(&[Counter::ResetReplica])
            .leaves(&reset_for(&seg).bytes());
        // Nobody answers an RST.
        let rst = conn.up(RST | ACK, 60, 0, b"");
        machine.run(Hook::Ingress, &rst.bytes()).counts(&[Counter::DropStrayReset]);
        let rst = conn.down(RST, 0, 60, b"");
        machine
            .run(Hook::Egress, &rst.bytes())
            .counts(&[Counter::EgressPassed])
            .leaves(&rst.bytes());
    });
}

#[test]
fn flows_of_a_replica_that_is_gone_are_reset_and_its_chats_move() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let gone = conn.replica;
        let mut other = Conn::new(family, Kind::Home, 1, 2000);
        other.open(machine);
        other.bind(machine, &get("tea"), &[]);
        let mut entry = replica(gone);
        entry.state = REPLICA_GONE;
        machine.set_replica(gone, &entry);
        let seg = conn.up(PSH | ACK, 60, 0, b"hello?");
        for _ in 0..2 {
            machine
                .run(Hook::Ingress, &seg.bytes())
                .counts(&[Counter::ResetGone])
                .leaves(&reset_for(&seg).bytes());
            assert_eq!(live(machine), 0);
        }
        // The slot table follows, and the chat with it.
        let to = (gone + 1) % 3;
        machine.set_slots(0, &vec![to; 16381]);
        let mut new = Conn::new(family, Kind::Home, 1, 3000);
        new.establish(machine, "tea");
        assert_eq!((new.replica, live(machine)), (to, 1));
        let homes: Vec<_> = machine.chats().iter().map(|(_, c)| Chat::home(c.state)).collect();
        assert_eq!(homes, [to]);
        // What the gone replica had been asked before it went comes too late.
        let expected = Seg::new(
            other.vip,
            other.client,
            RST | ACK,
            other.cookie.wrapping_add(1),
            other.isn.wrapping_add(1),
        );
        machine
            .run(Hook::Egress, &other.replica_syn_ack().bytes())
            .counts(&[Counter::ResetMoved])
            .leaves(&expected.bytes());
        machine
            .run(Hook::Egress, &other.replica_syn_ack().bytes())
            .counts(&[Counter::ResetReplica])
            .leaves(&reset_for(&other.replica_syn_ack()).bytes());
        assert_eq!((live(machine), machine.pending().len()), (1, 0));
    });
}
