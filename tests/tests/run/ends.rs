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
        Chat, Farewell, Flow, REPLICA_GONE, STATE_COUNTED, STATE_EXPIRED, STATE_SYN_SEEN,
        STATE_SYN_TICK, STATE_SYN_TICK_SHIFT, Sharing, TICK_SHIFT,
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

/// An end of the connection, whose client has sent 60 bytes and whose replica has sent none. Each FIN
/// acknowledges the other one, if that was `fins` before.
fn end(machine: &mut dyn Machine, conn: &Conn, end: End, fins: &[End], also: &[Counter]) {
    let acked = |fin: End| u32::from(fins.contains(&fin));
    match end {
        ClientFin => {
            conn.goes_up(machine, &conn.up(FIN | ACK, 60, acked(ReplicaFin), b""), also);
        }
        ReplicaFin => {
            conn.goes_down(machine, &conn.down(FIN | ACK, 0, 60 + acked(ClientFin), b""), also);
        }
        ClientReset => {
            let (seq, ack) = (60 + acked(ClientFin), acked(ReplicaFin));
            conn.goes_up(machine, &conn.up(RST | ACK, seq, ack, b""), also);
        }
        ReplicaReset => {
            let (seq, ack) = (acked(ReplicaFin), 60 + acked(ClientFin));
            conn.goes_down(machine, &conn.down(RST | ACK, seq, ack, b""), also);
        }
    }
}

/// A flow ends when both FINs are acknowledged, or at an RST, and leaves the live ones at once.
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
                    assert_eq!((live(machine), machine.flows().len()), (1, 1));
                    let mut seen: Vec<End> = Vec::new();
                    let mut closed = false;
                    for this in [first, second, third] {
                        let before = seen.clone();
                        seen.push(this);
                        // The second FIN acknowledges the first; the one that is repeated after that
                        // acknowledges the second.
                        let acked = match (this, &before[..]) {
                            (ClientFin, [ReplicaFin, ClientFin] | [ClientFin, ReplicaFin])
                            | (ReplicaFin, [ClientFin, ReplicaFin] | [ReplicaFin, ClientFin]) => {
                                before[0] == this
                            }
                            _ => false,
                        };
                        let over = matches!(this, ClientReset | ReplicaReset) || acked;
                        let also: &[_] = if over && !closed { &[Counter::Closed] } else { &[] };
                        closed |= over;
                        end(machine, &conn, this, &before, also);
                        assert_eq!(live(machine), u32::from(!closed), "{seen:?}");
                        assert_eq!(machine.flows().len(), usize::from(!closed), "{seen:?}");
                        assert_eq!(machine.flows_back().len(), usize::from(!closed), "{seen:?}");
                    }
                    // What is late still passes.
                    conn.goes_up(machine, &conn.up(ACK, 60, 0, b""), &[]);
                    conn.goes_down(machine, &conn.down(ACK, 0, 60, b""), &[]);
                    if !closed {
                        end(machine, &conn, ClientReset, &seen, &[Counter::Closed]);
                    }
                }
            }
        }
    });
}

/// The FINs themselves end nothing: what was sent before them may have to come again.
#[test]
fn the_last_acknowledgement_ends_a_flow() {
    on_all(&World::default(), |machine, family| {
        for (port, first) in [(1000, ClientFin), (1001, ReplicaFin)] {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.establish(machine, "tea");
            end(machine, &conn, first, &[], &[]);
            let second = if first == ClientFin { ReplicaFin } else { ClientFin };
            end(machine, &conn, second, &[first], &[]);
            assert_eq!((machine.flows().len(), machine.load(conn.replica).0), (1, 1));
            // An acknowledgement of less ends nothing.
            conn.goes_up(machine, &conn.up(ACK, 61, 0, b""), &[]);
            conn.goes_down(machine, &conn.down(ACK, 1, 60, b""), &[]);
            assert_eq!(machine.flows().len(), 1);
            match second {
                ReplicaFin => conn.goes_up(machine, &conn.up(ACK, 61, 1, b""), &[Counter::Closed]),
                _ => conn.goes_down(machine, &conn.down(ACK, 1, 61, b""), &[Counter::Closed]),
            }
            assert_eq!((machine.flows().len(), machine.flows_back().len()), (0, 0));
            assert_eq!(machine.load(conn.replica).0, 0);
            // It did not come, and so the FIN comes again, and with it the acknowledgement.
            for _ in 0..2 {
                conn.goes_down(machine, &conn.down(FIN | ACK, 0, 61, b""), &[]);
                conn.goes_up(machine, &conn.up(ACK, 61, 1, b""), &[]);
            }
        }
    });
}

/// With little room for live flows, any number may come and go: nothing but the kernel is at work here. A ring has room
/// for twice as many as can live, so whoever comes in looks at those that are over.
#[test]
fn flows_that_have_ended_take_no_room_of_live_ones() {
    for (live, is_known) in [(0, false), (0, true), (3, true)] {
        // At most half of it is in use, so nobody is refused for his share.
        let room = 2 * live + 1;
        let known = if is_known { room } else { 0 };
        let sharing = Sharing { flows: known, chats: known, ..Sharing::default() };
        let world = World { flows: room, chats: room, sharing, ..World::default() };
        on_all(&world, |machine, family| {
            for host in 0..live as u16 {
                Conn::new(family, Kind::Home, 2 + host, 1000).establish(machine, "coffee");
            }
            for port in 0..40 {
                let mut conn = Conn::new(family, Kind::Home, 1, 1000 + port);
                conn.establish(machine, "tea");
                let before = machine.load(conn.replica);
                let how = [ClientReset, ReplicaReset][usize::from(port % 2)];
                end(machine, &conn, how, &[], &[Counter::Closed]);
                let after = machine.load(conn.replica);
                assert_eq!(after, (before.0 - 1, before.1), "the chat lingers");
            }
            assert_eq!(machine.flows().len(), live as usize);
        });
    }
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
            end(machine, &conns[at], ClientReset, &[], &[Counter::Closed]);
            assert_eq!((live(machine), machine.flows().len()), (left, left as usize));
            assert_eq!(machine.load(conns[at].replica), (left.into(), 1));
        }
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

/// The replica's side is believed no more than the client's: another pod may send in its name.
#[test]
fn a_blind_reset_of_a_replica_ends_nothing() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        for flags in [RST, RST | ACK] {
            for far in [1 << 20, 1 << 31, u32::MAX - 60] {
                conn.goes_down(machine, &conn.down(flags, far, 0, b""), &[]);
            }
        }
        conn.goes_down(machine, &conn.down(RST, 60, 0, b""), &[]);
        conn.goes_down(machine, &conn.down(RST | ACK, 60, 1 << 21, b""), &[]);
        assert_eq!(live(machine), 1);
        // What its client has acknowledged is the number that it expects.
        conn.goes_up(machine, &conn.up(ACK, 60, 2_000_000, b""), &[]);
        conn.goes_down(machine, &conn.down(RST, 2_000_000, 0, b""), &[Counter::Closed]);
        assert_eq!(live(machine), 0);
    });
}

/// FINs whose numbers are far from all that was sent close nothing, nor does an acknowledgement of them.
#[test]
fn a_blind_fin_closes_nothing() {
    on_all(&World::default(), |machine, family| {
        let far = 1 << 28;
        for (port, (seq, ack)) in (1000..).zip([(far, 0), (60, far)]) {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.establish(machine, "tea");
            conn.goes_up(machine, &conn.up(FIN | ACK, seq, ack, b""), &[]);
            let mut conn = Conn::new(family, Kind::Home, 2, port);
            conn.establish(machine, "tea");
            conn.goes_down(machine, &conn.down(FIN | ACK, seq, ack, b""), &[]);
        }
        for (_, flow) in machine.flows() {
            assert_eq!(flow.state, STATE_COUNTED, "no FIN was noted");
        }
    });
}

/// A keepalive, or what comes again, does not move back what is known of an end.
#[test]
fn numbers_go_on_and_not_back() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"0123456789"), &[]);
        conn.goes_down(machine, &conn.down(PSH | ACK, 0, 70, b"01234"), &[]);
        conn.goes_up(machine, &conn.up(ACK, 70, 5, b""), &[]);
        let known = |machine: &dyn Machine| {
            let ((_, flow), (_, back)) = (machine.flows()[0], machine.flows_back()[0]);
            [flow.acked, flow.sent, back.acked, back.sent]
        };
        let first = |isn: u32, at: u32| isn.wrapping_add(1 + at);
        let expected = [
            first(conn.cookie, 5),
            first(conn.isn, 70),
            first(conn.isn, 70),
            first(conn.replica_isn, 5),
        ];
        assert_eq!(known(machine), expected);
        conn.goes_up(machine, &conn.up(ACK, 69, 4, b""), &[]);
        conn.goes_down(machine, &conn.down(ACK, 4, 60, b""), &[]);
        assert_eq!(known(machine), expected, "after keepalives");
    });
}

/// As if the client had been silent for so many seconds.
fn silent(machine: &mut dyn Machine, seconds: u64) {
    for (tuple, flow) in machine.flows() {
        let last_seen = flow.last_seen - seconds * 1_000_000_000;
        machine.set_flow(&tuple, &Flow { last_seen, ..flow });
    }
}

/// Each state has its time, after which the clock hand ends the flow, whoever is alive or not.
#[test]
fn each_state_has_its_time() {
    let mut world = World::default();
    let service = &mut world.services[Kind::Home as usize].1;
    (service.idle_timeout, service.client_closed_timeout) = (1000, 100);
    (service.replica_closed_timeout, service.closing_timeout) = (200, 50);
    on_all(&world, |machine, family| {
        let states: [(&[End], u64, Counter); 4] = [
            (&[], 1000, Counter::EndedIdle),
            (&[ClientFin], 100, Counter::EndedHalfClosed),
            (&[ReplicaFin], 200, Counter::EndedHalfClosed),
            (&[ClientFin, ReplicaFin], 50, Counter::EndedClosing),
        ];
        for (port, (ends, seconds, counter)) in (1000..).zip(states) {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.establish(machine, "tea");
            for (at, this) in ends.iter().enumerate() {
                // Its time counts from then on.
                silent(machine, 2000);
                end(machine, &conn, *this, &ends[..at], &[]);
            }
            if ends == [ReplicaFin] {
                conn.goes_up(machine, &conn.up(ACK, 60, 1, b""), &[]);
            }
            silent(machine, seconds - 2);
            assert_eq!(machine.look(), [], "{ends:?}");
            assert_eq!(machine.load(conn.replica), (1, 1));
            silent(machine, 2);
            assert_eq!(machine.look()[0].0, counter, "{ends:?}");
            assert_eq!((machine.flows().len(), machine.flows_back().len()), (0, 0));
            assert_eq!(machine.load(conn.replica).0, 0);
            let told = machine.farewells();
            if counter == Counter::EndedClosing {
                assert_eq!(told, [], "both have said that it is over");
                continue;
            }
            let fins = |fin| u32::from(ends.contains(&fin));
            let to_client =
                [conn.cookie.wrapping_add(1 + fins(ReplicaFin)), conn.isn.wrapping_add(1)];
            assert_eq!(told.len(), 1);
            let Farewell { tuple, replica_addr, replica_port, to_replica, .. } = told[0];
            assert_eq!((tuple, told[0].to_client[0]), (conn.vip_side(), to_client[0]));
            let side = conn.replica_side();
            assert_eq!((replica_addr, replica_port), (side.server, side.server_port));
            assert_eq!(
                to_replica[0], told[0].to_client[1],
                "what it expects is what it has acknowledged"
            );
            // Each is told with all that it still sends.
            for _ in 0..2 {
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
            }
        }
    });
}

/// What the clock hand counts anew was entered by a release that had none.
#[test]
fn the_hand_counts_a_flow_of_a_release_before() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let (tuple, flow) = machine.flows()[0];
        machine.set_flow(&tuple, &Flow { state: flow.state & !STATE_COUNTED, ..flow });
        for _ in 0..2 {
            assert_eq!(machine.look(), []);
            assert_eq!(machine.load(conn.replica).0, 2, "once more, and only once");
            assert_ne!(machine.flows()[0].1.state & STATE_COUNTED, 0);
        }
    });
}

#[test]
fn a_tuple_can_come_back() {
    on_all(&World::default(), |machine, family| {
        for (port, closed) in [(1000, false), (1001, true)] {
            let mut old = Conn::new(family, Kind::Home, 1, port);
            old.establish(machine, "tea");
            if closed {
                end(machine, &old, ClientReset, &[], &[Counter::Closed]);
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
            end(machine, &new, ReplicaReset, &[], &[Counter::Closed]);
            assert_eq!((live(machine), machine.farewells()), (0, vec![]));
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
        assert_eq!((flow(machine).state, live(machine)), (STATE_COUNTED, 1));
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
        // As if another CPU were just ending it.
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
        machine.run(Hook::Egress, &rst.bytes()).counts(&[Counter::EgressDropStray]);
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
        machine
            .run(Hook::Ingress, &seg.bytes())
            .counts(&[Counter::ResetGone, Counter::EndedGone])
            .leaves(&reset_for(&seg).bytes());
        machine
            .run(Hook::Ingress, &seg.bytes())
            .counts(&[Counter::ResetExpired])
            .leaves(&reset_for(&seg).bytes());
        assert_eq!((live(machine), machine.farewells().len()), (0, 1));
        // The slot table follows, and the chat with it.
        let to = (gone + 1) % 3;
        machine.set_slots(0, &vec![to; 16381]);
        let mut new = Conn::new(family, Kind::Home, 1, 3000);
        new.establish(machine, "tea");
        assert_eq!((new.replica, live(machine)), (to, 1));
        assert_eq!((machine.load(gone), machine.load(to)), ((0, 0), (1, 1)));
        let homes: Vec<_> = machine.chats().iter().map(|(_, c)| Chat::home(c.state)).collect();
        assert_eq!(homes, [to]);
        // What the gone replica had been asked before it went comes too late: it is reset, and its client's next
        // segment is decided anew.
        machine
            .run(Hook::Egress, &other.replica_syn_ack().bytes())
            .counts(&[Counter::DecidedAgain])
            .leaves(&reset_for(&other.replica_syn_ack()).bytes());
        assert_eq!((live(machine), machine.pending().len()), (1, 0));
        other.replica = u32::MAX;
        other.bind(machine, &get("tea"), &[]);
        other.accept(machine);
        assert_eq!((other.replica, live(machine)), (to, 2));
    });
}

/// The clock hand ends the flows of a replica that is gone, and tells its clients.
#[test]
fn the_hand_ends_flows_of_a_replica_that_is_gone() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let mut entry = replica(conn.replica);
        entry.state = REPLICA_GONE;
        machine.set_replica(conn.replica, &entry);
        assert_eq!(machine.look(), [(Counter::EndedGone, 1)]);
        assert_eq!((machine.flows().len(), machine.farewells().len()), (0, 1));
    });
}
