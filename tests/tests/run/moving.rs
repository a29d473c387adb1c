//! While a connection is bound again, and just after: who ends it, who comes late, who is first.

use etherparse::TcpOptionElement::{Noop, Timestamp};
use roost_tests::run::{
    Family, Hook, Machine, Outcome,
    frame::{ACK, FIN, PSH, RST, Seg, options},
    host::Host,
    live, on_all,
    requests::{OK, STAYED, Talk, answered, chats},
    talk::{Conn, Offer, get, reset_for},
    world::{Kind, World, replica},
};
use router_ebpf::{
    maps::{
        Flow, REPLICA_GONE, REUSE_REBIND, Replica, SLOT_COUNT, STATE_MOVING, Sharing, Stash, Tuple,
    },
    verdict::Counter,
};

/// A world whose services bind connections again.
fn world() -> World {
    World::default().with_on_reuse(REUSE_REBIND)
}

/// Makes the one flow so many seconds older.
fn age(machine: &mut dyn Machine, seconds: u64) {
    let [(tuple, flow)] = machine.flows()[..] else { panic!("one flow") };
    let last_seen = flow.last_seen.wrapping_sub(seconds * 1_000_000_000);
    machine.set_flow(&tuple, &Flow { last_seen, ..flow });
}

/// What is in `STASH` of it.
fn own_head(machine: &dyn Machine, talk: &Talk) -> (Tuple, Stash) {
    let own = talk.conn.vip_side();
    machine.stash().into_iter().find(|(tuple, _)| *tuple == own).expect("a head")
}

/// The segment with this echo.
fn echoing(seg: Seg, echo: u32) -> Seg {
    let (value, _) = seg.timestamps().expect("timestamps");
    Seg { options: options(&[Noop, Noop, Timestamp(value, echo)]), ..seg }
}

/// The replica of before has acknowledged all, and its client has not heard of it: it repeats nothing else, so without an
/// answer it would wait for ever once the request is lost.
#[test]
fn a_client_hears_again_that_all_before_is_there() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let old = |len: u32| {
            let text = &get(&a)[get(&a).len() - len as usize..];
            first.conn.up(PSH | ACK, first.up - len, first.down, text)
        };
        let second = first.moves(machine, &get(&b));
        // Whether the request is still in the stash or not; and when it is at the new replica.
        for step in 0..3 {
            let sent = if step == 2 { 1 } else { 0 };
            for len in [1, 20, first.up] {
                let seg = old(len);
                let (value, _) = seg.timestamps().unwrap();
                let ack = second.conn.acknowledged(&seg, 0);
                let ts = Timestamp(first.conn.our_ts + 9 + sent, value);
                let ack = Seg { options: options(&[Noop, Noop, ts]), ..ack };
                machine
                    .run(Hook::Ingress, &seg.bytes())
                    .counts(&[Counter::BoundaryAcknowledged])
                    .leaves(&ack.bytes());
            }
            // What its client has sent before it had the answer says nothing of that, and nor does what is empty.
            for seg in [
                Seg { ack: first.conn.cookie.wrapping_add(1), ..old(20) },
                first.conn.up(ACK, first.up - 1, first.down, b""),
            ] {
                machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::DropOld]);
            }
            match step {
                0 => machine.clear_stash(),
                1 => {
                    machine
                        .run(Hook::Ingress, &first.asks(&get(&b)).bytes())
                        .counts(&[Counter::Bound]);
                    second.accept(machine, &first);
                }
                _ => {}
            }
        }
        let mut second = second;
        second.answer(machine, OK, &[]);
        second.ask(machine, &get(&b), STAYED);
        // Now the replica says it.
        second.conn.goes_up(machine, &old(20), &[]);
    });
}

/// A rolling update: the request that is on its way is not the replica's that goes.
#[test]
fn a_replica_that_goes_does_not_take_along_who_leaves_it() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let second = first.moves(machine, &get(&b));
        let left = first.conn.replica;
        machine.set_replica(left, &Replica { state: REPLICA_GONE, ..replica(left) });
        assert_eq!(machine.look(), []);
        second.accept(machine, &first);
        assert_eq!(machine.look(), []);
        // Nor does one live on that has gone to one which goes before it has said a word.
        let came = second.conn.replica;
        machine.set_replica(came, &Replica { state: REPLICA_GONE, ..replica(came) });
        let again = second.conn.first.clone().unwrap();
        machine
            .run(Hook::Ingress, &again.bytes())
            .counts(&[Counter::EndedGone, Counter::ResetGone])
            .leaves(&reset_for(&again).bytes());
    });
}

/// Nobody answers, and the client says no more, or has said that it never will.
#[test]
fn a_flow_waits_for_its_new_replica_as_long_as_a_head_does() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        for closes in [false, true] {
            let first = answered(machine, family, &get(&a));
            // What it did before does not count.
            age(machine, 1000);
            let second = first.moves(machine, &get(&b));
            if closes {
                let fin = first.conn.up(FIN | ACK, first.up + second.up, first.down, b"");
                machine.run(Hook::Ingress, &fin.bytes()).counts(&[Counter::HeadKept]);
            }
            assert_eq!(machine.look(), []);
            age(machine, 30 + 119);
            assert_eq!(machine.look(), []);
            age(machine, 2);
            assert_eq!(machine.look(), [(Counter::EndedReuse, 1)]);
            let [told] = machine.farewells()[..] else { panic!("one farewell") };
            let next = second.conn.isn.wrapping_add(1);
            let down = second.conn.cookie.wrapping_add(1);
            assert_eq!(
                (told.to_client, told.to_replica),
                ([down, next], [next, down.wrapping_add(first.conn.delta())],)
            );
            machine
                .run(Hook::Egress, &second.conn.replica_syn_ack().bytes())
                .counts(&[Counter::ResetReplica]);
            machine.clear_stash();
            assert_eq!((machine.flows().len(), machine.load(0).0, live(machine)), (0, 0, 0));
        }
    });
}

/// The bytes of a request that its client does not send again are forgotten before its replica has accepted.
#[test]
fn a_moving_flow_whose_head_is_forgotten_is_over() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let second = first.moves(machine, &get(&b));
        let (tuple, mut stash) = own_head(machine, &second);
        stash.acked = 10;
        stash.since = stash.since.wrapping_sub(200_000_000_000 >> 32 << 32);
        machine.set_stash(&tuple, &stash);
        assert_eq!(machine.look(), [(Counter::EndedHead, 1), (Counter::EndedLost, 1)]);
        let [told] = machine.farewells()[..] else { panic!("one farewell") };
        assert_eq!(told.to_client[0], second.conn.cookie.wrapping_add(1));
        assert_ne!(told.to_replica, [0; 2]);
        assert!(machine.flows().is_empty());
    });
}

/// The replica resets the connection while a request on it goes to another one: its client hears of one of the two.
#[test]
fn a_reset_and_a_request_win_or_lose_whole() {
    let world = world();
    for family in Family::ALL {
        let mut ends = [0; 2];
        for after in 0..12 {
            let machine = &mut Host::new(&world.clone().starting_now());
            let [a, b, _] = chats(machine, family);
            let first = answered(machine, family, &get(&a));
            let asks = first.asks(&get(&b));
            let second = first.at(1, asks.clone(), 0);
            let accepts = second.conn.replica_syn_ack();
            machine.interrupt(after, &[(Hook::Ingress, &asks), (Hook::Egress, &accepts)]);
            let rst = first.conn.down(RST | ACK, first.down, first.up, b"");
            let outcome = machine.run(Hook::Egress, &rst.bytes());
            if !machine.was_interrupted() {
                continue;
            }
            let counted = |counter| outcome.moved.contains(&(counter, 1));
            let is_told = counted(Counter::ToClient);
            let is_moved = counted(Counter::ReboundRequest);
            assert!(is_told != is_moved, "{after}: {:?}", outcome.moved);
            // What comes behind its end is for the one that has reset it.
            assert!(!(is_moved && counted(Counter::ToReplica)), "{after}: {:?}", outcome.moved);
            assert_eq!(machine.flows().len(), usize::from(is_moved), "{after}");
            ends[usize::from(is_moved)] += 1;
        }
        assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
    }
}

/// The replica that was asked accepts at the very moment when the request is found to belong where its connection is.
#[test]
fn a_request_that_comes_back_is_not_delivered_twice() {
    let world = world();
    for family in Family::ALL {
        let mut ends = [0; 2];
        for after in 0..30 {
            let machine = &mut Host::new(&world.clone().starting_now());
            let [a, b, _] = chats(machine, family);
            // Whose chat lives there, so that nobody else decides when it accepts.
            Conn::new(family, Kind::Home, 2, 999).establish(machine, &b);
            let first = answered(machine, family, &get(&a));
            let second = first.moves(machine, &get(&b));
            let gone = Replica { state: REPLICA_GONE, ..replica(second.conn.replica) };
            machine.set_replica(second.conn.replica, &gone);
            let own = first.conn.replica;
            machine.set_slots(Kind::Home.slots(), &vec![own; SLOT_COUNT as usize]);
            // Its replica is asked where it stands, and says so.
            let stands = first.conn.down(ACK, first.down, first.up, b"");
            machine.interrupt(
                after,
                &[(Hook::Ingress, &first.asks(&get(&b))), (Hook::Egress, &stands)],
            );
            let outcome = machine.run(Hook::Egress, &second.conn.replica_syn_ack().bytes());
            if !machine.was_interrupted() {
                continue;
            }
            let counted = |counter| outcome.moved.iter().any(|(moved, _)| *moved == counter);
            let goes_there = counted(Counter::ReboundRequest);
            let comes_back = counted(Counter::StayedRequest);
            assert!(!(goes_there && comes_back), "{after}: {:?}", outcome.moved);
            ends[usize::from(goes_there)] += 1;
        }
        assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
    }
}

/// One connection behind a proxy asks for more chats than are its source's share: it goes on, and its neighbours, too.
#[test]
fn more_chats_than_its_share_end_no_connection() {
    let sharing = Sharing {
        flows: 64,
        chats: 6,
        services: 1,
        ipv4_prefix: 32,
        ipv6_prefix: 128,
        ..Sharing::default()
    };
    let world = World { sharing, ..world() };
    on_all(&world, |machine, family| {
        let names: Vec<String> = (0..12).map(|n| format!("many-{n}")).collect();
        let replicas: Vec<u32> = names
            .iter()
            .zip(5000..)
            .map(|(name, port)| {
                let mut conn = Conn::new(family, Kind::Home, 7, port);
                conn.open(machine);
                conn.bind(machine, &get(name), &[]);
                conn.replica
            })
            .collect();
        let mut talk = answered(machine, family, &get(&names[0]));
        let (mut beside, mut elsewhere) = (0, 0);
        for (name, replica) in names.iter().zip(replicas).skip(1) {
            let asks = talk.clone().answering(Offer::ALL).asks(&get(name));
            let outcome = machine.run(Hook::Ingress, &asks.bytes());
            let is_over =
                |outcome: &Outcome| i32::from(outcome.moved.contains(&(Counter::ChatsShare, 1)));
            if replica == talk.conn.replica {
                assert_eq!(outcome.verdict(), Counter::ToReplica, "{:?}", outcome.moved);
                beside += is_over(&outcome);
                talk.up += asks.payload.len() as u32;
            } else {
                assert_eq!(outcome.verdict(), Counter::Bound, "{:?}", outcome.moved);
                talk = talk.at(replica, asks, 0);
                let accepts = talk.conn.replica_syn_ack();
                let outcome = machine.run(Hook::Egress, &accepts.bytes());
                assert_eq!(outcome.verdict(), Counter::Delivered, "{:?}", outcome.moved);
                elsewhere += is_over(&outcome);
            }
            talk.answer(machine, OK, &[]);
            assert_eq!(machine.load(talk.conn.replica).0, 1);
        }
        assert!(beside > 0 && elsewhere > 0, "{beside} {elsewhere}");
        talk.leave(machine);
        assert_eq!(live(machine), 0);
    });
}

#[test]
fn a_full_map_of_flows_has_room_for_one_that_is_bound_again() {
    on_all(&World { flows: 1, ..world() }, |machine, family| {
        let [a, b, _] = chats(machine, family);
        answered(machine, family, &get(&a)).goes_on(machine, &get(&b)).leave(machine);
    });
}

/// They cannot be parted, and go where their connection is.
#[test]
fn two_requests_in_one_segment_move_nothing() {
    on_all(&world(), |machine, family| {
        let [a, b, c] = chats(machine, family);
        for second in [&a, &b, &c] {
            let mut talk = answered(machine, family, &get(&a));
            let both = [get(&b), get(second)].concat();
            talk.ask(machine, &both, &[Counter::DoubtPipelined, Counter::StayedRequest]);
            talk.leave(machine);
        }
    });
}

/// It has heard that its client is gone, and may be at work: an RST would be an error to it.
#[test]
fn what_was_left_may_say_that_it_has_heard() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let mut second = first.goes_on(machine, &get(&b));
        let says = |flags, before: u32, ack: u32, bytes: &[u8]| {
            first.conn.down(flags, first.down - before, first.up + ack, bytes)
        };
        for ack in [0, 1] {
            machine
                .run(Hook::Egress, &says(ACK, 0, ack, b"").bytes())
                .counts(&[Counter::EgressDropLeft]);
        }
        // What it has to say, a probe, and what acknowledges more than it got.
        for word in [
            says(PSH | ACK, 0, 1, b"more"),
            says(FIN | ACK, 0, 1, b""),
            says(ACK, 1, 1, b""),
            says(ACK, 0, 2, b""),
        ] {
            machine
                .run(Hook::Egress, &word.bytes())
                .counts(&[Counter::ResetReplica])
                .leaves(&reset_for(&word).bytes());
        }
        second.answer(machine, OK, &[]);
        // A challenge to the SYN that brings its client back gets it, and the SYN once more. The next one gets it alone.
        let third = second.moves(machine, &get(&a));
        let challenge = says(ACK, 0, 1, b"");
        machine
            .run(Hook::Egress, &challenge.bytes())
            .counts(&[Counter::ResetReplica, Counter::SynRepeated]);
        for _ in 0..3 {
            machine
                .run(Hook::Egress, &challenge.bytes())
                .counts(&[Counter::ResetReplica])
                .leaves(&reset_for(&challenge).bytes());
        }
        third.accept(machine, &second);
    });
}

/// Linux takes no older one from 6.15 on, as long as it has not heard of its client.
#[test]
fn echoes_of_the_replica_before_become_the_new_ones() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let mut second = first.goes_on(machine, &get(&b));
        let again = second.conn.first.clone().unwrap();
        let cases = [(0, 0), (1, 0), (1 << 30, 0), (u32::MAX, 1), (7u32.wrapping_neg(), 7)];
        for (before, newer) in cases {
            let seg = echoing(again.clone(), second.conn.our_ts.wrapping_sub(before));
            let gets = echoing(second.conn.to_replica(&seg), second.conn.replica_ts + newer);
            machine
                .run(Hook::Ingress, &seg.bytes())
                .counts(&[Counter::ToReplica])
                .leaves(&gets.bytes());
        }
        // When it has acknowledged something, it may see what its client echoes.
        second.answer(machine, OK, &[]);
        machine.run(Hook::Ingress, &again.bytes()).counts(&[Counter::ToReplica]);
        assert_eq!(second.state(machine).0 & STATE_MOVING, 0);
        second.conn.goes_up(machine, &again, &[]);
    });
}

/// A request that comes in one merged packet with a part of its body.
#[test]
fn a_merged_packet_goes_to_its_replica() {
    for family in Family::ALL {
        let machine = &mut Host::new(&world().starting_now());
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let len = 100_000;
        let head = format!("POST /?chat={b} HTTP/1.1\r\nContent-Length: {len}\r\n\r\n");
        let body = get(&a).repeat(len / get(&a).len() + 1)[..len].to_vec();
        let whole = [head.as_bytes(), &body].concat();
        let merged = 65_000;
        let seg = first.clone().answering(Offer::ALL).asks(&whole[..merged]);
        let second = first.moves_with(machine, seg, 0, &[]);
        let outcome = machine.run(Hook::Egress, &second.conn.replica_syn_ack().bytes());
        assert!(outcome.moved.contains(&(Counter::ReboundRequest, 1)), "{:?}", outcome.moved);
        let mut got: Vec<u8> = Vec::new();
        for copy in &outcome.copies {
            let seg = Seg::parse(copy).expect("a segment");
            assert_eq!(seg.seq, second.conn.isn.wrapping_add(1 + got.len() as u32));
            got.extend(seg.payload);
        }
        assert_eq!(got[..], whole[..16_384]);
        // The rest is its client's to send.
        let mut second = Talk { up: 16_384, down: 0, ..second };
        second.ask(machine, &whole[16_384..merged], &[]);
        second.answer(machine, OK, &[]);
        second.ask(machine, &whole[merged..], &[]);
        second.conn.goes_down(machine, &second.answers(b""), &[]);
        second.goes_on(machine, &get(&a));
    }
}
