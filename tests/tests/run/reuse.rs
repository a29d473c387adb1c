//! Connections that are used again: what becomes of their later requests under `on_reuse = "reset"`, byte by byte.

use etherparse::TcpOptionElement;
use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg, URG, options},
    host::Host,
    on_all,
    requests::{OK, Talk},
    talk::{Conn, get, reset_for},
    world::{Kind, World},
};
use router_ebpf::{
    maps::{
        FLOW_EXCHANGE, FLOW_REQUESTS, POLICY_SPREAD, REUSE_RESET, REUSE_STAY, STATE_DOUBT,
        STATE_EXCHANGE, STATE_UPGRADED, Service,
    },
    verdict::Counter,
};

/// A world whose services reset connections that are used again for another chat.
fn world() -> World {
    World::default().with_on_reuse(REUSE_RESET)
}

/// The client asks for another chat, and both ends are reset before the replica gets any of it.
#[track_caller]
fn is_reset(talk: &Talk, machine: &mut dyn Machine, request: &[u8]) {
    let seg = talk.asks(request);
    machine
        .run(Hook::Ingress, &seg.bytes())
        .counts(&[Counter::EndedReuse, Counter::ResetExpired])
        .leaves(&reset_for(&seg).bytes());
    assert!(machine.flows().is_empty() && machine.flows_back().is_empty());
    // At once, by the daemon; and with each segment that either still sends.
    let [told] = machine.farewells()[..] else { panic!("one farewell") };
    let delta = talk.conn.delta();
    let first = |isn: u32, bytes: u32| isn.wrapping_add(1).wrapping_add(bytes);
    let down = first(talk.conn.cookie, talk.down);
    assert_eq!(told.to_client, [down, first(talk.conn.isn, talk.up)]);
    assert_eq!(told.to_replica, [first(talk.conn.isn, talk.up), down.wrapping_add(delta)]);
    let late = talk.answers(b"late");
    machine
        .run(Hook::Egress, &late.bytes())
        .counts(&[Counter::ResetReplica])
        .leaves(&reset_for(&late).bytes());
    machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::ResetExpired]);
}

/// Nothing is looked at any more.
#[track_caller]
fn is_left_alone(talk: &mut Talk, machine: &mut dyn Machine) {
    let (flow, back) = talk.state(machine);
    assert_ne!(flow & (STATE_DOUBT | STATE_UPGRADED), 0);
    assert_eq!(back, 0);
    talk.ask(machine, &get("another"), &[]);
    talk.answer(machine, OK, &[]);
    talk.ask(machine, &get("third"), &[]);
    talk.leave(machine);
}

/// A request with a header more.
fn with(header: &str, chat: &str) -> Vec<u8> {
    format!("POST /?chat={chat} HTTP/1.1\r\n{header}\r\n\r\n").into_bytes()
}

const STAYED: &[Counter] = &[Counter::StayedRequest];

#[test]
fn requests_for_the_same_chat_and_without_one_stay() {
    on_all(&world(), |machine, family| {
        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        let flow = machine.flows()[0].1;
        assert_eq!(flow.flags & (FLOW_EXCHANGE | FLOW_REQUESTS), FLOW_EXCHANGE | FLOW_REQUESTS);
        for request in [get("tea"), b"GET /style.css HTTP/1.1\r\n\r\n".to_vec(), get("tea")] {
            talk.answer(machine, OK, &[]);
            talk.ask(machine, &request, STAYED);
        }
        assert_eq!(machine.flows().len(), 1);
    });
}

#[test]
fn a_request_for_another_chat_ends_the_connection_at_both_ends() {
    on_all(&world(), |machine, family| {
        // At another replica, and at the same.
        for n in 0..4 {
            let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
            talk.answer(machine, OK, &[]);
            talk.ask(machine, &get("tea"), STAYED);
            talk.answer(machine, OK, &[]);
            is_reset(&talk, machine, &get(&format!("other-{n}")));
        }
    });
}

#[test]
fn a_first_request_without_a_key_is_no_chat() {
    on_all(&world(), |machine, family| {
        let missing = [Counter::MissingKey, Counter::MissingAbsent];
        let page = b"GET / HTTP/1.1\r\n\r\n";
        let mut talk = Talk::begin(machine, family, page, &missing);
        talk.answer(machine, OK, &[]);
        talk.ask(machine, page, STAYED);
        talk.answer(machine, OK, &[]);
        is_reset(&talk, machine, &get("tea"));
    });
}

#[test]
fn bodies_are_no_requests() {
    on_all(&world(), |machine, family| {
        let inner = get("another");
        let length = format!("Content-Length: {}", 3 * inner.len());
        let mut talk = Talk::begin(machine, family, &with(&length, "tea"), &[]);
        for _ in 0..3 {
            talk.ask(machine, &inner, &[]);
        }
        talk.answer(machine, OK, &[]);
        // The same on a later one, with an answer before the body's end.
        talk.ask(machine, &with(&length, "tea"), STAYED);
        talk.answer(machine, OK, &[]);
        for _ in 0..3 {
            talk.ask(machine, &inner, &[]);
        }
        let ack = talk.answers(b"");
        talk.conn.goes_down(machine, &ack, &[]);
        is_reset(&talk, machine, &inner);
    });
}

#[test]
fn a_boundary_may_be_inside_of_a_segment() {
    on_all(&world(), |machine, family| {
        let mut talk = Talk::begin(machine, family, &with("Content-Length: 9", "tea"), &[]);
        talk.ask(machine, b"body body", &[]);
        talk.answer(machine, OK, &[]);
        // The last of the body comes again, with the next request behind it.
        let again = [b"body", &*get("tea")].concat();
        let seg = talk.conn.up(PSH | ACK, talk.up - 4, talk.down, &again);
        talk.conn.goes_up(machine, &seg, STAYED);
        // And again, when it has been seen.
        talk.conn.goes_up(machine, &seg, &[]);
        talk.up += get("tea").len() as u32;
        talk.answer(machine, OK, &[]);
        is_reset(&talk, machine, &get("another"));
    });
}

#[test]
fn what_is_not_ready_comes_again() {
    on_all(&world(), |machine, family| {
        let early = &[Counter::DropRequestEarly];
        let mut talk = Talk::begin(machine, family, &with("Content-Length: 9", "tea"), &[]);
        let answer = talk.conn.down(PSH | ACK, 0, talk.up, OK);
        talk.ask(machine, b"body body", &[]);
        // It was sent before the body was there.
        talk.conn.goes_down(machine, &answer, &[]);
        talk.down += OK.len() as u32;
        let other = talk.asks(&get("another"));
        machine.run(Hook::Ingress, &other.bytes()).counts(early);
        // What comes behind it, and what acknowledges more than was sent.
        let behind = talk.conn.up(PSH | ACK, talk.up + 5, talk.down, b"GET");
        machine.run(Hook::Ingress, &behind.bytes()).counts(early);
        talk.conn.goes_down(machine, &talk.answers(b""), &[]);
        machine.run(Hook::Ingress, &behind.bytes()).counts(early);
        let unsent = talk.conn.up(PSH | ACK, talk.up, talk.down + 1, &get("another"));
        machine.run(Hook::Ingress, &unsent.bytes()).counts(early);
        // What is damaged says nothing.
        let mut damaged = talk.asks(&get("another")).bytes();
        *damaged.last_mut().unwrap() ^= 1;
        machine.run(Hook::Ingress, &damaged).counts(&[Counter::DropChecksum]);
        is_reset(&talk, machine, &get("another"));
    });
}

#[test]
fn probes_and_old_segments_are_no_requests() {
    on_all(&world(), |machine, family| {
        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        let probe = talk.conn.up(ACK, talk.up - 1, talk.down, b"\0");
        talk.conn.goes_up(machine, &probe, &[]);
        let first = talk.conn.up(PSH | ACK, 0, 0, &get("tea"));
        talk.conn.goes_up(machine, &first, &[]);
        // The answer comes again: no answer to what follows.
        talk.ask(machine, &get("tea"), STAYED);
        let again = talk.conn.down(PSH | ACK, 0, talk.up, OK);
        talk.conn.goes_down(machine, &again, &[]);
        talk.answer(machine, OK, &[]);
        is_reset(&talk, machine, &get("another"));
    });
}

/// A replica's segment that its client would not take: of an older connection, damaged, or of somebody else's.
#[test]
fn what_is_not_the_replicas_changes_nothing() {
    on_all(&world(), |machine, family| {
        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        let says = talk.answers(b"");
        let noted = |machine: &dyn Machine| {
            let back = machine.flows_back()[0].1;
            (back.exchange, back.ts_sent)
        };
        let before = noted(machine);
        for (seq, ack) in [(1 << 25, 0), (1 << 29, 0), (1 << 31, 0), (1, 1 << 25), (3, 1 << 31)] {
            let (seq, ack) = (says.seq.wrapping_add(seq), says.ack.wrapping_sub(ack));
            let newer = talk.conn.replica_ts.wrapping_add(1 << 30);
            let ts = TcpOptionElement::Timestamp(newer, talk.conn.client_ts);
            let options = options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, ts]);
            let odd = Seg { seq, ack, options, ..says.clone() };
            machine.run(Hook::Egress, &odd.bytes()).counts(&[Counter::ToClient]);
            assert_eq!(noted(machine), before, "{seq} {ack}");
            // And the next one says what it did.
            talk.conn.goes_down(machine, &says, &[]);
        }
        talk.ask(machine, &get("tea"), STAYED);
    });
}

#[test]
fn an_upgrade_ends_all_looking() {
    on_all(&world(), |machine, family| {
        let request = with("Upgrade: websocket", "tea");
        let mut talk = Talk::begin(machine, family, &request, &[]);
        assert_eq!(talk.state(machine).1, STATE_EXCHANGE);
        talk.answer(machine, b"HTTP/1.1 101 Switching Protocols\r\n\r\n", &[]);
        is_left_alone(&mut talk, machine);
    });
}

#[test]
fn an_upgrade_that_is_refused_goes_on_as_http() {
    on_all(&world(), |machine, family| {
        let request = with("Upgrade: websocket", "tea");
        let mut talk = Talk::begin(machine, family, &request, &[]);
        talk.answer(machine, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", &[]);
        is_reset(&talk, machine, &get("another"));
    });
}

#[test]
fn what_is_in_doubt_is_left_alone() {
    on_all(&world(), |machine, family| {
        for (header, doubt) in [
            ("Transfer-Encoding: chunked", Counter::DoubtTransferEncoding),
            ("Content-Length: 2147483648", Counter::DoubtLength),
            ("Content-Length: 4294967297", Counter::DoubtLength),
            ("Content-Length: 18446744073709551617", Counter::DoubtLength),
            ("Content-Length: 1, 1", Counter::DoubtLength),
            ("Content_Length: 1", Counter::DoubtLength),
            ("Transfer_Encoding: chunked", Counter::DoubtTransferEncoding),
            ("Proxy-Authorization: Negotiate x", Counter::DoubtAuthorization),
            ("Expect: 100-continue", Counter::DoubtExpect),
            ("Authorization: NTLM x", Counter::DoubtAuthorization),
            ("X : y", Counter::DoubtHead),
        ] {
            // A first request, behind which nothing is looked at.
            let talk = Talk::begin(machine, family, &with(header, "tea"), &[doubt]);
            assert_eq!(machine.flows()[0].1.flags & FLOW_EXCHANGE, 0);
            talk.leave(machine);
            // A later one, which is the last that is.
            let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
            talk.answer(machine, OK, &[]);
            talk.ask(machine, &with(header, "tea"), &[doubt, Counter::StayedRequest]);
            is_left_alone(&mut talk, machine);
        }
    });
}

#[test]
fn two_requests_at_once_are_left_alone() {
    on_all(&world(), |machine, family| {
        // In one segment, before the answer, and before its end.
        let both = [get("tea"), get("another")].concat();
        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        talk.ask(machine, &both, &[Counter::DoubtPipelined, Counter::StayedRequest]);
        is_left_alone(&mut talk, machine);

        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.ask(machine, &get("another"), &[Counter::DoubtPipelined]);
        is_left_alone(&mut talk, machine);

        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        let seg = talk.asks(&get("another"));
        talk.answer(machine, b"more", &[]);
        talk.conn.goes_up(machine, &seg, &[Counter::DoubtPipelined]);
    });
}

#[test]
fn odd_answers_are_left_alone() {
    on_all(&world(), |machine, family| {
        for (answer, doubt) in [
            (&b"HTTP/1.1 100 Continue\r\n\r\n"[..], Counter::DoubtInterim),
            (b"HTTP/1.1 103 Early Hints\r\n\r\n", Counter::DoubtInterim),
            (b"HTTP/1.1 2", Counter::DoubtAnswer),
            (b"SSH-2.0-OpenSSH_9.2p1", Counter::DoubtAnswer),
            (b"HTTP/2.0 200 OK\r\n\r\n", Counter::DoubtAnswer),
        ] {
            let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
            talk.answer(machine, answer, &[doubt]);
            is_left_alone(&mut talk, machine);
        }
    });
}

/// It is read as it goes by.
#[test]
fn a_head_in_several_segments_is_read_to_its_end() {
    on_all(&world(), |machine, family| {
        let body = get("another");
        let request = [
            with(&format!("X-Pad: {}\r\nContent-Length: {}", "x".repeat(60), body.len()), "tea"),
            body,
        ]
        .concat();
        for cuts in [&[40, 70, 71, 90][..], &[100], &[30, request.len() - 1]] {
            let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
            talk.answer(machine, OK, &[]);
            let mut at = 0;
            for (n, cut) in cuts.iter().chain([&request.len()]).enumerate() {
                // What is behind comes too early, and what is damaged says nothing.
                if n > 0 && *cut < request.len() {
                    let behind = talk.conn.up(PSH | ACK, talk.up + 3, talk.down, b"behind");
                    machine
                        .run(Hook::Ingress, &behind.bytes())
                        .counts(&[Counter::DropRequestEarly]);
                    let mut damaged = talk.asks(&request[at..*cut]).bytes();
                    *damaged.last_mut().unwrap() ^= 1;
                    machine.run(Hook::Ingress, &damaged).counts(&[Counter::DropChecksum]);
                }
                talk.ask(machine, &request[at..*cut], if n == 0 { STAYED } else { &[] });
                // What comes again is the replica's to drop.
                let again =
                    talk.conn.up(PSH | ACK, talk.up - 2, talk.down, &request[*cut - 2..*cut]);
                talk.conn.goes_up(machine, &again, &[]);
                at = *cut;
            }
            assert!(machine.stash().is_empty(), "the reader is gone");
            talk.answer(machine, OK, &[]);
            talk.ask(machine, &get("tea"), STAYED);
            talk.answer(machine, OK, &[]);
            is_reset(&talk, machine, &get("another"));
        }
    });
}

/// A server leaves an urgent byte out, so nobody knows how many it counts.
#[test]
fn urgent_data_is_left_alone() {
    on_all(&world(), |machine, family| {
        // In a body, in a later head, and without any: it may be in what follows.
        for (request, answers) in [(&b"x"[..], false), (&get("another"), true), (b"", true)] {
            let mut talk = Talk::begin(machine, family, &with("Content-Length: 1", "tea"), &[]);
            if answers {
                talk.ask(machine, b"x", &[]);
                talk.answer(machine, OK, &[]);
            }
            let urgent = |seg: Seg| Seg { flags: seg.flags | URG, ..seg };
            // Nobody else's.
            for (seq, ack) in [(1 << 21, 0), (0, 1 << 25)] {
                let seg = urgent(talk.asks(request));
                let (seq, ack) = (seg.seq.wrapping_add(seq), seg.ack.wrapping_sub(ack));
                machine
                    .run(Hook::Ingress, &Seg { seq, ack, ..seg }.bytes())
                    .counts(&[Counter::DropRequestEarly]);
            }
            let seg = urgent(talk.asks(request));
            talk.conn.goes_up(machine, &seg, &[Counter::DoubtUrgent]);
            talk.up += request.len() as u32;
            is_left_alone(&mut talk, machine);
        }
    });
}

/// It ends the connection, whatever is in it.
#[test]
fn a_reset_with_data_is_no_request() {
    on_all(&world(), |machine, family| {
        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        let rst = Seg { flags: RST | ACK, ..talk.asks(&get("another")) };
        talk.conn.goes_up(machine, &rst, &[Counter::Closed]);
        assert!(machine.flows().is_empty());
    });
}

/// Those who belong to no connection do not take the RSTs of those who do.
#[test]
fn there_is_an_rst_for_each_connection_that_is_ended() {
    for family in Family::ALL {
        let machine = &mut Host::new(&world().starting_now());
        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        let allowance = &mut machine.parts().1.allowance;
        while allowance.may_reset(0, u64::MAX / 2) {}
        let stray = Conn::new(family, Kind::Home, 1, 9).up(ACK, 0, 0, b"");
        machine.run(Hook::Ingress, &stray.bytes()).counts(&[Counter::DropResetLimit]);
        let seg = talk.asks(&get("another"));
        machine
            .run(Hook::Ingress, &seg.bytes())
            .counts(&[Counter::EndedReuse, Counter::ResetExpired])
            .leaves(&reset_for(&seg).bytes());
        machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::DropResetLimit]);
    }
}

/// Its service leaves connections where they are from now on.
#[test]
fn a_service_may_change() {
    on_all(&world(), |machine, family| {
        let (number, service) = world().services[Kind::Home.number() as usize];
        for changed in [
            Service { on_reuse: REUSE_STAY, ..service },
            Service { policy: POLICY_SPREAD, ..service },
        ] {
            let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
            talk.answer(machine, OK, &[]);
            machine.set_service(number, &changed);
            talk.ask(machine, &get("another"), &[Counter::DoubtStays, Counter::StayedRequest]);
            machine.set_service(number, &service);
            talk.answer(machine, OK, &[]);
            talk.ask(machine, &get("third"), &[]);
            talk.leave(machine);
        }
    });
}

/// An answer that says so in its first line only together with its second segment, whichever comes first.
#[test]
fn an_upgrade_in_two_segments_is_left_alone() {
    on_all(&world(), |machine, family| {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        for cut in [1, 9, 12] {
            for overtakes in [false, true] {
                let mut talk = Talk::begin(machine, family, &with("Upgrade: x", "tea"), &[]);
                let parts = [&answer[..cut], &answer[cut..]];
                if overtakes {
                    let behind = talk.conn.down(PSH | ACK, cut as u32, talk.up, parts[1]);
                    talk.conn.goes_down(machine, &behind, &[]);
                }
                talk.answer(machine, parts[0], &[Counter::DoubtAnswer]);
                talk.answer(machine, parts[1], &[]);
                is_left_alone(&mut talk, machine);
            }
        }
        // One that is lost on the way and comes again, alone or with what follows.
        for more in [&b""[..], b"\x81\x05hello"] {
            let mut talk = Talk::begin(machine, family, &with("Upgrade: x", "tea"), &[]);
            talk.conn.goes_down(machine, &talk.answers(answer), &[]);
            talk.answer(machine, &[&answer[..], more].concat(), &[]);
            is_left_alone(&mut talk, machine);
        }
    });
}

/// Whoever answers before the head is whole has not read it: nobody can tell what is answered next.
#[test]
fn an_answer_within_a_head_is_left_alone() {
    on_all(&world(), |machine, family| {
        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        let request = with(&format!("X-Pad: {}", "x".repeat(60)), "tea");
        talk.ask(machine, &request[..50], STAYED);
        talk.answer(machine, b"HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n", &[]);
        talk.ask(machine, &request[50..], &[Counter::DoubtAnswer]);
        is_left_alone(&mut talk, machine);
    });
}

#[test]
fn a_first_head_in_several_segments_is_read_to_its_end() {
    on_all(&world(), |machine, family| {
        let request = with(&format!("X-Pad: {}\r\nContent-Length: 4", "x".repeat(900)), "tea");
        let first = &request[..50];
        // All of it is there when the replica accepts, or not.
        for is_whole in [true, false] {
            let port = 1000 + machine.ended().len() as u16;
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.open(machine);
            conn.bind(machine, first, &[]);
            let unbound = Conn { replica: u32::MAX, ..conn.clone() };
            let rest = unbound.up(PSH | ACK, first.len() as u32, 0, &request[first.len()..]);
            let mut up = first.len() as u32;
            if is_whole {
                machine.run(Hook::Ingress, &rest.bytes()).counts(&[Counter::HeadKept]);
                up = request.len() as u32;
                let whole = Seg { payload: request.clone(), ..conn.first.clone().unwrap() };
                conn.first = Some(whole);
            }
            conn.accept(machine);
            let mut talk = Talk { conn, up, down: 0 };
            if !is_whole {
                talk.ask(machine, &request[first.len()..], &[]);
            }
            assert!(machine.stash().is_empty(), "nothing is kept any more");
            talk.ask(machine, b"body", &[]);
            talk.answer(machine, OK, &[]);
            talk.ask(machine, &get("tea"), STAYED);
            talk.answer(machine, OK, &[]);
            is_reset(&talk, machine, &get("another"));
        }
    });
}

#[test]
fn a_replica_that_has_closed_gets_what_still_comes() {
    on_all(&world(), |machine, family| {
        let mut talk = Talk::begin(machine, family, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        let fin = talk.conn.down(FIN | ACK, talk.down, talk.up, b"");
        talk.conn.goes_down(machine, &fin, &[]);
        // Before the client has heard of it. What is not its own it does not get: see rebind.rs.
        talk.ask(machine, &get("tea"), STAYED);
    });
}
