//! Connections that are used again, byte by byte: requests that go to their own chats' replicas under `on_reuse = "rebind"`.

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg},
    host::Host,
    live, on_all, on_all_and_inside,
    requests::{OK, STAYED, Talk, answered, chats},
    talk::{Conn, Offer, get, reset_for},
    world::{Kind, World, replica},
};
use router_ebpf::{
    maps::{
        FLOW_EXCHANGE, Flow, FlowBack, REPLICA_GONE, REUSE_REBIND, Replica, SLOT_COUNT,
        STATE_CHANGING, STATE_EXPIRED,
    },
    verdict::{Action, Counter},
};

/// A world whose services bind connections again.
fn world() -> World {
    World::default().with_on_reuse(REUSE_REBIND)
}

/// Its replica's next FIN.
fn fin_of(talk: &Talk) -> Seg {
    talk.conn.down(FIN | ACK, talk.down, talk.up, b"")
}

#[test]
fn a_request_for_another_replicas_chat_goes_there() {
    on_all_and_inside(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let mut first = answered(machine, family, &get(&a));
        first.ask(machine, &get(&a), STAYED);
        first.answer(machine, OK, &[]);
        let mut second = first.moves(machine, &get(&b));
        // Nothing has changed yet but that nothing goes between client and replica any more.
        assert_eq!((machine.load(0).0, machine.load(1).0), (1, 0));
        second.accept(machine, &first);
        assert_eq!((machine.load(0).0, machine.load(1).0), (0, 1));
        assert_eq!(live(machine), 1);
        let ([(vip_side, flow)], [(replica_side, back)]) =
            (&machine.flows()[..], &machine.flows_back()[..])
        else {
            panic!("one flow")
        };
        assert_eq!(
            (*vip_side, *replica_side),
            (second.conn.vip_side(), second.conn.replica_side())
        );
        assert_eq!((flow.replica, flow.bound_again), (1, 1));
        assert_eq!((flow.client_isn, flow.server_isn), (first.conn.isn, first.conn.cookie));
        assert_eq!((back.client_isn, back.server_isn), (second.conn.isn, second.conn.cookie));
        assert!(machine.pending().iter().all(|(tuple, _)| tuple != replica_side));
        assert!(machine.stash().iter().all(|(tuple, _)| tuple != vip_side));
        // It goes on there, with the numbers that its client knows.
        second.answer(machine, OK, &[]);
        second.ask(machine, &get(&b), STAYED);
        second.answer(machine, OK, &[]);
        // What the one before still sends is answered as to a connection that is over.
        let [(left, ended)] = machine.ended_back()[..] else { panic!("one that was left") };
        assert_eq!((left, ended.state & STATE_EXPIRED), (first.conn.replica_side(), STATE_EXPIRED));
        let fin = first.conn.down(FIN | ACK, first.down, first.up + 1, b"");
        machine
            .run(Hook::Egress, &fin.bytes())
            .counts(&[Counter::ResetReplica])
            .leaves(&reset_for(&fin).bytes());
        second.leave(machine);
        assert_eq!((machine.load(0).0, machine.load(1).0, live(machine)), (0, 0, 0));
    });
}

/// A client closes behind its last request, and its FIN comes first: the request still goes where it belongs.
#[test]
fn a_fin_that_has_overtaken_a_request_comes_again() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let mut first = Talk::begin(machine, family, &get(&a), &[]);
        let behind = get(&b).len() as u32;
        let fin = |talk: &Talk, at: u32| talk.conn.up(FIN | ACK, at, talk.down, b"");
        // Before the answer, and after it.
        for _ in 0..2 {
            let early = fin(&first, first.up + behind).bytes();
            machine.run(Hook::Ingress, &early).counts(&[Counter::DropRequestEarly]);
            if first.down == 0 {
                first.answer(machine, OK, &[]);
            }
        }
        let mut second = first.goes_on(machine, &get(&b));
        let last = fin(&second, second.up);
        second.conn.goes_up(machine, &last, &[]);
        second.up += 1;
        second.answer(machine, OK, &[]);
    });
}

/// A client gives up behind its last request, and its RST comes first: no replica takes that before it has all, and says so.
#[test]
fn an_rst_that_has_overtaken_a_request_ends_nothing() {
    on_all_and_inside(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let reset = |at: u32| first.conn.up(RST | ACK, at, first.down, b"");
        first.conn.goes_up(machine, &reset(first.up + get(&b).len() as u32), &[]);
        let second = first.goes_on(machine, &get(&b));
        second.leave(machine);
        // If that was lost, the client answers what the replica says.
        let first = answered(machine, family, &get(&a));
        let reset = |at: u32| first.conn.up(RST | ACK, at, first.down, b"");
        first.conn.goes_up(machine, &reset(first.up + 100), &[]);
        first.conn.goes_down(machine, &first.conn.down(ACK, first.down, first.up, b""), &[]);
        first.conn.goes_up(machine, &reset(first.up), &[Counter::Closed]);
    });
}

/// What the client sends is on its way to the new replica, and that does not answer.
#[test]
fn a_silent_replica_gets_the_same_syn_again() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let second = first.moves(machine, &get(&b));
        let again = first.asks(&get(&b));
        for _ in 0..2 {
            machine
                .run(Hook::Ingress, &again.bytes())
                .counts(&[Counter::Bound])
                .leaves(&second.conn.replica_syn(&again).bytes());
        }
        // A client that looks whether somebody lives hears of it; what says nothing goes nowhere.
        let probe = first.conn.up(ACK, first.up - 1, first.down, b"\0");
        machine.run(Hook::Ingress, &probe.bytes()).counts(&[Counter::BoundaryAcknowledged]);
        let acks = first.conn.up(ACK, first.up + second.up, first.down, b"");
        machine.run(Hook::Ingress, &acks.bytes()).counts(&[Counter::DropOld]);
        let old = first.conn.up(PSH | ACK, 0, 0, &get(&a));
        machine.run(Hook::Ingress, &old.bytes()).counts(&[Counter::DropOld]);
        second.accept(machine, &first);
    });
}

#[test]
fn a_replica_that_refuses_ends_the_connection() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let second = first.moves(machine, &get(&b));
        let refusal = second.conn.down(RST | ACK, 0, 0, b"");
        let refusal = Seg { seq: 0, options: Vec::new(), ..refusal };
        let told = machine
            .run(Hook::Egress, &refusal.bytes())
            .counts(&[Counter::Refused, Counter::EndedReuse])
            .segment();
        assert_eq!(
            (told.src, told.dst, told.flags),
            (first.conn.vip, first.conn.client, RST | ACK)
        );
        let next = second.asks(b"").seq.wrapping_sub(second.up);
        assert_eq!((told.seq, told.ack), (second.conn.cookie.wrapping_add(1), next));
        assert_eq!((machine.flows().len(), machine.flows_back().len(), live(machine)), (0, 0, 0));
        assert_eq!(machine.farewells().len(), 1);
        let again = first.asks(&get(&b));
        machine.run(Hook::Ingress, &again.bytes()).counts(&[Counter::ResetExpired]);
    });
}

/// The new replica accepts on another CPU while the request comes again on this one.
#[test]
fn a_request_that_comes_again_while_the_replica_accepts_goes_nowhere_else() {
    let world = world();
    for family in Family::ALL {
        let mut moments = 0;
        for after in 0..24 {
            let machine = &mut Host::new(&world.clone().starting_now());
            let [a, b, _] = chats(machine, family);
            let first = answered(machine, family, &get(&a));
            let second = first.moves(machine, &get(&b));
            machine.interrupt(after, &[(Hook::Egress, &second.conn.replica_syn_ack())]);
            let outcome = machine.run(Hook::Ingress, &first.asks(&get(&b)).bytes());
            let is_passed = outcome.action != Action::Drop;
            assert!(!is_passed || outcome.segment().dst == second.conn.server(), "{outcome:?}");
            moments += u32::from(outcome.moved.contains(&(Counter::ReboundRequest, 1)));
            let (moved, back) = (machine.flows()[0].1, machine.flows_back());
            assert_eq!(back.len(), 1, "{after}: {moved:?}");
        }
        assert!(moments > 3, "{moments}");
    }
}

/// A flow that another CPU is changing, and one of which a part is changed.
#[test]
fn a_request_is_not_delivered_by_what_is_changing() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        let mut first = answered(machine, family, &get(&a));
        let [(vip_side, flow)] = machine.flows()[..] else { panic!("one flow") };
        let asks = first.asks(&get(&a)).bytes();
        let other = replica(1);
        let torn = if family == Family::V6 { other.v6 } else { other.v4 };
        for changing in [
            Flow { state: flow.state | STATE_CHANGING, ..flow },
            Flow { replica_addr: torn, ..flow },
        ] {
            machine.set_flow(&vip_side, &changing);
            machine.run(Hook::Ingress, &asks).counts(&[Counter::DropRequestEarly]);
        }
        machine.set_flow(&vip_side, &flow);
        first.ask(machine, &get(&a), STAYED);
    });
}

/// Its client may use the same port to that replica without Roost.
#[test]
fn what_was_left_is_not_looked_at_for_long() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        first.goes_on(machine, &get(&b));
        let data = first.conn.down(PSH | ACK, first.down, first.up + 1, OK).bytes();
        let [(left, ended)] = machine.ended_back()[..] else { panic!("one that was left") };
        let aged = |seconds: u64| FlowBack { exchange: ended.exchange - (seconds << 30), ..ended };
        machine.set_ended_back(&left, &aged(100));
        machine.run(Hook::Egress, &data).counts(&[Counter::ResetReplica]);
        machine.set_ended_back(&left, &aged(120));
        machine.run(Hook::Egress, &data).counts(&[Counter::EgressPassed]).leaves(&data);
        // Or it begins at once.
        machine.set_ended_back(&left, &ended);
        let accepts = Seg { seq: 77, ..first.conn.replica_syn_ack() }.bytes();
        machine.run(Hook::Egress, &accepts).counts(&[Counter::EgressPassed]).leaves(&accepts);
        machine.run(Hook::Egress, &data).counts(&[Counter::EgressPassed]).leaves(&data);
        assert!(machine.ended_back().is_empty());
    });
}

/// The old replica's last words in a race with the request win or lose whole.
#[test]
fn what_the_replica_of_before_says_comes_first_or_never() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let timeout = b"HTTP/1.1 408 Request Timeout\r\n\r\n";
        // Before it: then the request is that replica's, whatever it makes of it.
        let mut first = answered(machine, family, &get(&a));
        let asks = first.asks(&get(&b));
        first.answer(machine, timeout, &[]);
        first.conn.goes_up(machine, &asks, &[Counter::DoubtPipelined]);
        first.up += get(&b).len() as u32;
        first.leave(machine);

        // It may still read: what is its own it gets, and nothing else. Nobody could answer behind its FIN.
        for knows in [0, 1] {
            let mut first = answered(machine, family, &get(&a));
            first.conn.goes_down(machine, &fin_of(&first), &[]);
            first.ask(machine, &get(&a), STAYED);
            first.leave(machine);
            let mut first = answered(machine, family, &get(&a));
            first.conn.goes_down(machine, &fin_of(&first), &[]);
            first.down += knows;
            let asks = first.asks(&get(&b));
            machine
                .run(Hook::Ingress, &asks.bytes())
                .counts(&[Counter::EndedReuse, Counter::ResetExpired])
                .leaves(&reset_for(&asks).bytes());
            assert!(machine.flows().is_empty());
        }

        let first = answered(machine, family, &get(&a));
        let rst = first.conn.down(RST | ACK, first.down, first.up, b"");
        first.conn.goes_down(machine, &rst, &[Counter::Closed]);
        assert!(machine.flows().is_empty());

        // Behind it: nobody hears of it.
        let first = answered(machine, family, &get(&a));
        let second = first.moves(machine, &get(&b));
        let says = |flags, bytes: &[u8]| first.conn.down(flags, first.down, first.up, bytes);
        let words = [
            says(PSH | ACK, timeout),
            says(FIN | ACK, b""),
            says(RST | ACK, b""),
            says(ACK, b""),
            first.conn.down(ACK, first.down - 1, first.up, b"\0"),
        ];
        for word in &words {
            machine.run(Hook::Egress, &word.bytes()).counts(&[Counter::EgressDropLeft]);
        }
        second.accept(machine, &first);
        // And it hears that it is over, if it says more than that it has heard.
        machine.run(Hook::Egress, &words[3].bytes()).counts(&[Counter::EgressDropLeft]);
        for word in words.iter().filter(|word| !word.has(RST) && **word != words[3]) {
            machine
                .run(Hook::Egress, &word.bytes())
                .counts(&[Counter::ResetReplica])
                .leaves(&reset_for(word).bytes());
        }
        assert_eq!(machine.flows()[0].1.replica, second.conn.replica);
        second.leave(machine);
    });
}

#[test]
fn a_client_that_resets_while_it_waits_is_gone() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let second = first.moves(machine, &get(&b));
        let rst = first.conn.up(RST | ACK, first.up + second.up, first.down, b"");
        first.conn.goes_up(machine, &rst, &[Counter::Closed]);
        let accepts = second.conn.replica_syn_ack();
        machine
            .run(Hook::Egress, &accepts.bytes())
            .counts(&[Counter::ResetReplica])
            .leaves(&reset_for(&accepts).bytes());
        assert!(machine.flows().is_empty() && machine.flows_back().is_empty());
        assert_eq!((machine.load(0).0, machine.load(1).0, live(machine)), (0, 0, 0));
        // What its RST has overtaken is not for the replica of before, which is told of the RST only.
        for late in [first.asks(&get(&b)), first.conn.up(FIN | ACK, first.up, first.down, b"")] {
            machine.run(Hook::Ingress, &late.bytes()).counts(&[Counter::DropOld]);
        }
        first.conn.goes_up(machine, &rst, &[]);
    });
}

#[test]
fn a_client_that_closes_while_it_waits_gets_its_answer() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let second = first.moves(machine, &get(&b));
        let fin = first.conn.up(FIN | ACK, first.up + second.up, first.down, b"");
        machine.run(Hook::Ingress, &fin.bytes()).counts(&[Counter::HeadKept]);
        let with_fin = Seg { flags: FIN | PSH | ACK, ..second.conn.first.clone().unwrap() };
        let with_fin =
            Talk { conn: Conn { first: Some(with_fin), ..second.conn.clone() }, ..second };
        with_fin.accept(machine, &first);
        let mut second = Talk { up: with_fin.up + 1, ..with_fin };
        second.answer(machine, OK, &[]);
        let fin = second.conn.down(FIN | ACK, second.down, second.up, b"");
        second.conn.goes_down(machine, &fin, &[]);
        let last = second.conn.up(ACK, second.up, second.down + 1, b"");
        second.conn.goes_up(machine, &last, &[Counter::Closed]);
    });
}

/// It still has the connection that was left, because its server has not closed it.
#[test]
fn a_replica_that_is_come_back_to_gives_up_its_old_connection_first() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let mut second = first.goes_on(machine, &get(&b));
        second.answer(machine, OK, &[]);
        let third = second.moves(machine, &get(&a));
        assert_eq!(third.conn.replica, first.conn.replica);
        // Its challenge (RFC 5961 section 4): what it expects on the old one, behind our FIN.
        let challenge = first.conn.down(ACK, first.down, first.up + 1, b"");
        let syn = third.conn.replica_syn(third.conn.first.as_ref().unwrap());
        let rst = reset_for(&challenge);
        let syn = Seg { macs: rst.macs, ttl: 64, window: u16::MAX, ..syn };
        let outcome = machine
            .run(Hook::Egress, &challenge.bytes())
            .counts(&[Counter::ResetReplica, Counter::SynRepeated])
            .leaves(&syn.bytes());
        assert_eq!(outcome.copies, [rst.bytes()]);
        let mut third = third;
        third.accept(machine, &second);
        third.answer(machine, OK, &[]);
        third.ask(machine, &get(&a), STAYED);
    });
}

#[test]
fn three_bindings_and_then_the_very_first_segment() {
    on_all(&world(), |machine, family| {
        let [a, b, c] = chats(machine, family);
        let mut first = answered(machine, family, &get(&a));
        let very_first = first.conn.first.clone().unwrap();
        first.ask(machine, &get(&a), STAYED);
        first.answer(machine, OK, &[]);
        let mut second = first.goes_on(machine, &get(&b));
        second.answer(machine, OK, &[]);
        let mut third = second.goes_on(machine, &get(&c));
        // While the new replica may not have heard of its client, what is from before would make it reset.
        for old in
            [&very_first, &first.asks(b""), &second.asks(b""), &second.conn.up(ACK, 0, 0, b"x")]
        {
            machine.run(Hook::Ingress, &old.bytes()).counts(&[Counter::DropOld]);
        }
        third.answer(machine, OK, &[]);
        third.ask(machine, &get(&c), STAYED);
        // Then it judges by itself. Not even behind a SYN of somebody's is it a new connection.
        let syn = Seg { seq: first.conn.isn.wrapping_add(77), ..first.conn.syn() };
        machine.run(Hook::Ingress, &syn.bytes()).counts(&[Counter::SynAnswered]);
        third.conn.goes_up(machine, &very_first, &[]);
        assert_eq!(machine.flows()[0].1.bound_again, 2);
        third.answer(machine, OK, &[]);
        third.leave(machine);
    });
}

#[test]
fn numbers_may_begin_anew() {
    on_all(&world(), |machine, family| {
        let [a, b, c] = chats(machine, family);
        for behind in [1u32, 40, 100, 150, 300] {
            let port = 1000 + machine.ended().len() as u16;
            let conn =
                Conn { isn: behind.wrapping_neg(), ..Conn::new(family, Kind::Home, 1, port) };
            let conn =
                Conn { replica_isn: 20u32.wrapping_neg(), replica_ts: 3u32.wrapping_neg(), ..conn };
            let mut talk = Talk::begin_as(machine, conn, &get(&a), &[]);
            for chat in [&b, &c, &a, &b] {
                talk.answer(machine, OK, &[]);
                talk = talk.goes_on(machine, &get(chat));
            }
            talk.answer(machine, OK, &[]);
            talk.leave(machine);
        }
    });
}

/// The client's handshake was one, and each replica makes of it what it can.
#[test]
fn replicas_may_speak_differently() {
    on_all(&world(), |machine, family| {
        let [a, b, c] = chats(machine, family);
        let plain = Offer { mss: Some(1220), scale: None, sack: false, timestamps: false };
        let other = Offer { scale: Some(2), ..Offer::ALL };
        for (offer, answers) in [
            (Offer::ALL, [Offer::ALL, other, plain]),
            (Offer::ALL, [plain, Offer::ALL, other]),
            (Offer { timestamps: false, ..Offer::ALL }, [Offer::ALL, plain, other]),
            (Offer::NONE, [plain, plain, plain]),
        ] {
            let port = 1000 + machine.ended().len() as u16;
            let conn = Conn { offer, answer: answers[0], ..Conn::new(family, Kind::Home, 1, port) };
            let mut talk = Talk::begin_as(machine, conn, &get(&a), &[]);
            talk.answer(machine, OK, &[]);
            for (chat, answer) in [(&b, answers[1]), (&c, answers[2])] {
                let next = talk.moves(machine, &get(chat)).answering(answer);
                next.accept(machine, &talk);
                talk = next;
                talk.answer(machine, OK, &[]);
            }
            talk.leave(machine);
        }
    });
}

#[test]
fn another_chat_of_the_same_replica_is_counted_there() {
    on_all(&world(), |machine, family| {
        let chats = chats(machine, family);
        let missing = [Counter::MissingKey, Counter::MissingAbsent];
        let mut talk = Talk::begin(machine, family, b"GET / HTTP/1.1\r\n\r\n", &missing);
        talk.answer(machine, OK, &[]);
        let own = chats[talk.conn.replica as usize].clone();
        let other = (0..)
            .map(|n| format!("other-{n}"))
            .find(|chat| {
                let mut conn = Conn::new(family, Kind::Home, 9, 3000);
                conn.open(machine);
                conn.bind(machine, &get(chat), &[]);
                machine.forget_pending(&conn.replica_side());
                machine.clear_stash();
                conn.replica == talk.conn.replica
            })
            .unwrap();
        assert_eq!(live(machine), 0);
        for chat in [&own, &other, &own] {
            talk.ask(machine, &get(chat), STAYED);
            talk.answer(machine, OK, &[]);
            assert_eq!(live(machine), 1, "one chat has the flow: {chat}");
        }
        assert_eq!(machine.load(talk.conn.replica).0, 1);
        talk.leave(machine);
        assert_eq!((live(machine), machine.load(talk.conn.replica).0), (0, 0));
    });
}

#[test]
fn a_body_behind_the_request_goes_with_it() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let inner = get(&a);
        let head =
            format!("POST /?chat={b} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", 3 * inner.len());
        let mut first = answered(machine, family, &get(&a));
        let second = first.moves(machine, head.as_bytes());
        // Two parts of it come while the new replica is asked, the second one first.
        first.up += second.up;
        for n in [1, 0] {
            let seg =
                first.conn.up(PSH | ACK, first.up + n * inner.len() as u32, first.down, &inner);
            machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::HeadKept]);
        }
        first.up -= second.up;
        let whole = [head.as_bytes(), &inner, &inner].concat();
        let seg = Seg { payload: whole.clone(), ..second.conn.first.clone().unwrap() };
        let second = Talk {
            up: whole.len() as u32,
            conn: Conn { first: Some(seg), ..second.conn },
            ..second
        };
        let mut second = second;
        second.accept(machine, &first);
        // And the last one behind it. None of it is a request.
        second.ask(machine, &inner, &[]);
        second.answer(machine, OK, &[]);
        second.ask(machine, &get(&b), STAYED);
        second.answer(machine, OK, &[]);
        second.goes_on(machine, &inner);
    });
}

#[test]
fn a_boundary_may_be_inside_of_a_segment() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let post = format!("POST /?chat={a} HTTP/1.1\r\nContent-Length: 9\r\n\r\n");
        let mut first = Talk::begin(machine, family, post.as_bytes(), &[]);
        first.ask(machine, b"body body", &[]);
        first.answer(machine, OK, &[]);
        let both = [b"body", &*get(&b)].concat();
        let seg = first.conn.up(PSH | ACK, first.up - 4, first.down, &both);
        let second = first.moves_with(machine, seg, 4, &[]);
        second.accept(machine, &first);
    });
}

/// Bytes that only this segment has, and the next request: they cannot be parted, so they stay.
#[test]
fn a_boundary_behind_what_is_missing_is_left_alone() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let post = format!("POST /?chat={a} HTTP/1.1\r\nContent-Length: 9\r\n\r\n");
        let mut first = Talk::begin(machine, family, post.as_bytes(), &[]);
        first.ask(machine, b"body ", &[]);
        first.answer(machine, OK, &[]);
        first.ask(machine, &[b"body", &*get(&b)].concat(), &[Counter::DoubtPipelined]);
        first.answer(machine, OK, &[]);
        first.ask(machine, &get(&b), &[]);
    });
}

/// What the head does not end in is a doubt, wherever its key would lead.
#[test]
fn a_head_that_is_in_doubt_stays() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        for (header, doubt) in [
            ("Transfer-Encoding: chunked", Counter::DoubtTransferEncoding),
            ("Expect: 100-continue", Counter::DoubtExpect),
            ("Content-Length: 1, 1", Counter::DoubtLength),
        ] {
            let mut talk = answered(machine, family, &get(&a));
            let request = format!("POST /?chat={b} HTTP/1.1\r\n{header}\r\n\r\n");
            talk.ask(machine, request.as_bytes(), &[doubt, Counter::StayedRequest]);
            talk.answer(machine, OK, &[]);
            talk.ask(machine, &get(&b), &[]);
            talk.leave(machine);
        }
    });
}

/// Its first segment says where it belongs, and the others follow.
#[test]
fn a_head_in_several_segments_goes_with_its_first() {
    on_all_and_inside(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let pad = "x".repeat(60);
        let request = format!("GET /ws?chat={b} HTTP/1.1\r\nX-Pad: {pad}\r\n\r\n").into_bytes();
        // All of it is there when the new replica accepts, or not.
        for is_whole in [true, false] {
            let first = answered(machine, family, &get(&a));
            let mut second = first.moves(machine, &request[..60]);
            let rest = first.conn.up(PSH | ACK, first.up + 60, first.down, &request[60..]);
            if is_whole {
                machine.run(Hook::Ingress, &rest.bytes()).counts(&[Counter::HeadKept]);
                let whole = Seg { payload: request.clone(), ..second.conn.first.clone().unwrap() };
                second = Talk {
                    up: request.len() as u32,
                    conn: Conn { first: Some(whole), ..second.conn },
                    ..second
                };
            }
            second.accept(machine, &first);
            if !is_whole {
                second.ask(machine, &request[60..], &[]);
            }
            second.answer(machine, OK, &[]);
            second.ask(machine, &get(&b), STAYED);
            second.answer(machine, OK, &[]);
            second.goes_on(machine, &get(&a)).leave(machine);
        }
    });
}

/// Two requests that are there before the replica has accepted are both delivered, so nobody can tell them apart.
#[test]
fn requests_at_once_before_the_replica_accepts_are_left_alone() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        conn.bind(machine, &get(&a), &[]);
        let len = get(&a).len() as u32;
        let next = Conn { replica: u32::MAX, ..conn.clone() }.up(PSH | ACK, len, 0, &get(&b));
        machine.run(Hook::Ingress, &next.bytes()).counts(&[Counter::HeadKept]);
        let both = [get(&a), get(&b)].concat();
        let first = Seg { payload: both.clone(), ..conn.first.clone().unwrap() };
        conn.first = Some(first);
        conn.accept_with(machine, &[Counter::DoubtPipelined]);
        assert_eq!(machine.flows()[0].1.flags & FLOW_EXCHANGE, 0);
        let mut talk = Talk { conn, up: both.len() as u32, down: 0 };
        talk.answer(machine, OK, &[]);
        talk.answer(machine, OK, &[]);
        talk.ask(machine, &get(&b), &[]);
        talk.answer(machine, OK, &[]);
        talk.leave(machine);
    });
}

/// Nobody else would say what it waits for.
#[test]
fn a_request_is_not_dropped_for_ever() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let mut talk = Talk::begin(machine, family, &get(&a), &[]);
        // It answers and acknowledges nothing.
        let answer = talk.conn.down(PSH | ACK, 0, talk.up - 1, OK);
        talk.conn.goes_down(machine, &answer, &[]);
        talk.down += OK.len() as u32;
        let asks = talk.asks(&get(&b));
        for _ in 0..6 {
            machine.run(Hook::Ingress, &asks.bytes()).counts(&[Counter::DropRequestEarly]);
        }
        talk.ask(machine, &get(&b), &[Counter::DoubtPipelined]);
    });
}

/// Who sees neither end's numbers changes nothing, and nor does what is damaged.
#[test]
fn what_is_not_the_clients_changes_nothing() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let mut first = Talk::begin(machine, family, &get(&a), &[]);
        // While the answer is waited for: a request then would be in doubt.
        let mut damaged = first.asks(&get(&b)).bytes();
        *damaged.last_mut().unwrap() ^= 1;
        machine.run(Hook::Ingress, &damaged).counts(&[Counter::DropChecksum]);
        let asks = first.asks(&get(&b));
        for ack in [1 << 25, 1 << 31, 1u32.wrapping_neg()] {
            let guess = Seg { ack: asks.ack.wrapping_sub(ack), ..asks.clone() };
            machine.run(Hook::Ingress, &guess.bytes()).counts(&[Counter::DropRequestEarly]);
        }
        // Nor who sees what was acknowledged, and not where the client is.
        for seq in [1 << 21, 1 << 25, 1 << 28] {
            let guess = Seg { seq: asks.seq.wrapping_add(seq), ..asks.clone() };
            for _ in 0..8 {
                machine.run(Hook::Ingress, &guess.bytes()).counts(&[Counter::DropRequestEarly]);
            }
        }
        first.answer(machine, OK, &[]);
        first.goes_on(machine, &get(&b));
    });
}

#[test]
fn without_its_stash_a_client_sends_the_request_again() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let second = first.moves(machine, &get(&b));
        machine.clear_stash();
        let outcome = machine.run(Hook::Egress, &second.conn.replica_syn_ack().bytes()).counts(&[
            Counter::DeliveredEmpty,
            Counter::ReboundRequest,
            Counter::LeftReplica,
        ]);
        let empty = Seg { payload: Vec::new(), flags: ACK, window: 1, ..second.conn.delivered() };
        assert_eq!(outcome.copies, [empty.bytes()]);
        let again = second.conn.first.clone().unwrap();
        machine.run(Hook::Ingress, &again.bytes()).counts(&[Counter::ToReplica]);
        let mut second = second;
        second.answer(machine, OK, &[]);
        second.ask(machine, &get(&b), STAYED);
    });
}

/// The replica that was asked is gone before it has answered, and the chat belongs where the connection is by now.
#[test]
fn a_request_may_come_back_to_where_it_is() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        first.moves(machine, &get(&b));
        let gone = Replica { state: REPLICA_GONE, ..replica(1) };
        machine.set_replica(1, &gone);
        machine.set_slots(Kind::Home.slots(), &vec![0; SLOT_COUNT as usize]);
        let again = first.asks(&get(&b));
        machine
            .run(Hook::Ingress, &again.bytes())
            .counts(&[Counter::HeadAnnounced])
            .leaves(&first.announced(&again, &get(&b)).bytes());
        let mut first = first;
        first.stays(machine, &again, &get(&b), &[]);
        first.answer(machine, OK, &[]);
        first.leave(machine);
    });
}
