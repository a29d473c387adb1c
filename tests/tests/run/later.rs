//! Heads of later requests in several segments, byte by byte: nothing of one is anywhere before it is known where it belongs.

use etherparse::TcpOptionElement::{Noop, Timestamp};
use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg, options},
    live, on_all, on_all_and_inside,
    requests::{OK, STAYED, Talk, answered, chats},
    talk::{Conn, Offer, get},
    world::{Kind, World, replica, service, sources},
};
use router_ebpf::{
    maps::{
        CHUNKS_OF_HEAD, KeySource, REPLICA_GONE, REUSE_REBIND, REUSE_RESET, Replica, SLOT_COUNT,
        STATE_HEAD, Sharing, Stash,
    },
    source::KeyKind,
    verdict::Counter,
};

/// A world whose services bind connections again.
fn world() -> World {
    World::default().with_on_reuse(REUSE_REBIND)
}

const KEPT: &[Counter] = &[Counter::HeadKept];
const ACKNOWLEDGED: &[Counter] = &[Counter::HeadAcknowledged];

/// A segment with these of a request's bytes.
fn part(talk: &Talk, request: &[u8], from: usize, to: usize) -> Seg {
    talk.conn.up(PSH | ACK, talk.up + from as u32, talk.down, &request[from..to])
}

#[track_caller]
fn sends(machine: &mut dyn Machine, seg: &Seg, expected: &[Counter]) {
    machine.run(Hook::Ingress, &seg.bytes()).counts(expected);
}

/// Our acknowledgement of a waiting head's first bytes.
fn acknowledgement(talk: &Talk, seg: &Seg, bytes: u32) -> Seg {
    let made = talk.conn.acknowledged(seg, bytes);
    let ts = seg.timestamps().map(|(value, _)| Timestamp(talk.last_timestamp(), value));
    Seg {
        seq: seg.ack,
        ack: talk.asks(b"").seq.wrapping_add(bytes),
        options: ts.map_or_else(Vec::new, |ts| options(&[Noop, Noop, ts])),
        ..made
    }
}

/// The replica is asked where it stands, by this segment.
#[track_caller]
fn asked(machine: &mut dyn Machine, talk: &Talk, seg: &Seg, request: &[u8]) {
    machine
        .run(Hook::Ingress, &seg.bytes())
        .counts(&[Counter::HeadAnnounced])
        .leaves(&talk.announced(seg, request).bytes());
}

/// The one head that waits.
fn waiting(machine: &dyn Machine, talk: &Talk) -> Option<Stash> {
    let own = talk.conn.vip_side();
    machine.stash().into_iter().find(|(tuple, _)| *tuple == own).map(|(_, stash)| stash)
}

/// What is on its way to another replica if its client sends all of it in one segment like this.
fn whole(talk: &Talk, last: &Seg, request: &[u8]) -> Seg {
    Seg { seq: talk.asks(b"").seq, payload: request.to_vec(), ..last.clone() }
}

/// The same conversation, with all that clients and replicas may offer.
fn offers() -> [(Offer, Offer); 3] {
    [(Offer::ALL, Offer::ALL), (Offer::NONE, Offer::ALL), (Offer::ALL, Offer::NONE)]
}

/// A connection whose replica has answered a request for the first chat, where these were offered.
fn answered_by(
    machine: &mut dyn Machine,
    family: Family,
    request: &[u8],
    (offer, answer): (Offer, Offer),
) -> Talk {
    let port = 1000 + machine.ended().len() as u16;
    let conn = Conn { offer, answer, ..Conn::new(family, Kind::Home, 1, port) };
    let mut talk = Talk::begin_as(machine, conn, request, &[]);
    talk.answer(machine, OK, &[]);
    talk
}

#[test]
fn one_for_its_own_chat_goes_where_its_connection_is() {
    on_all_and_inside(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        for offered in offers() {
            let mut talk = answered_by(machine, family, &get(&a), offered);
            let request = get(&a);
            for cuts in [&[15][..], &[1, 2, 3, 13, 14], &[14, 15, 16]] {
                let mut at = 0;
                for cut in cuts {
                    sends(machine, &part(&talk, &request, at, *cut), KEPT);
                    at = *cut;
                }
                // Nobody but the client has heard of it, and the replica's words wait, too.
                let early = talk.conn.down(PSH | ACK, talk.down, talk.up, OK);
                machine.run(Hook::Egress, &early.bytes()).counts(&[Counter::EgressDropLeft]);
                let last = part(&talk, &request, at, request.len());
                asked(machine, &talk, &last, &request);
                talk.stays(machine, &last, &request, &[]);
                assert!(
                    waiting(machine, &talk).is_none() && talk.state(machine).1 & STATE_HEAD == 0
                );
                // What comes again is the replica's to drop.
                talk.conn.goes_up(machine, &Seg { ..last }, &[]);
                talk.answer(machine, OK, &[]);
                talk.ask(machine, &get(&a), STAYED);
                talk.answer(machine, OK, &[]);
            }
            assert_eq!(machine.flows()[0].1.bound_again, 0);
            talk.goes_on(machine, &get(&b)).leave(machine);
        }
    });
}

#[test]
fn one_for_another_chat_is_bound_again_as_a_whole() {
    on_all_and_inside(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        for cuts in [&[15][..], &[1, 2, 3, 13, 14]] {
            let first = answered(machine, family, &get(&a));
            let request = get(&b);
            let mut at = 0;
            for cut in cuts {
                sends(machine, &part(&first, &request, at, *cut), KEPT);
                at = *cut;
            }
            let last = part(&first, &request, at, request.len());
            let second = first.at(1, whole(&first, &last, &request), 0);
            machine
                .run(Hook::Ingress, &last.bytes())
                .counts(&[Counter::Bound])
                .leaves(&second.conn.replica_syn(&last).bytes());
            let mut second = second;
            second.accept(machine, &first);
            second.answer(machine, OK, &[]);
            second.ask(machine, &get(&b), STAYED);
            second.answer(machine, OK, &[]);
            second.leave(machine);
            assert_eq!((machine.load(0).0, machine.load(1).0, live(machine)), (0, 0, 0));
        }
    });
}

/// As first ones: in any order, twice, and over each other.
#[test]
fn one_comes_in_any_order() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        let mut talk = answered(machine, family, &get(&a));
        let request = get(&a);
        let sent = |talk: &Talk, from, to| part(talk, &request, from, to);
        // The first one has to be the first.
        sends(machine, &sent(&talk, 5, 9), &[Counter::DropRequestEarly]);
        sends(machine, &sent(&talk, 0, 4), KEPT);
        for (from, to) in [(30, 40), (20, 25), (24, 31), (6, 10), (5, 9)] {
            sends(machine, &sent(&talk, from, to), KEPT);
        }
        // Damaged ones say nothing.
        let mut damaged = sent(&talk, 4, 20).bytes();
        *damaged.last_mut().unwrap() ^= 1;
        machine.run(Hook::Ingress, &damaged).counts(&[Counter::DropChecksum]);
        let last = sent(&talk, 4, 20);
        asked(machine, &talk, &last, &request);
        // What is there by then is delivered.
        talk.stays(machine, &last, &request[..40], &[]);
        talk.ask(machine, &request[40..], &[]);
        talk.answer(machine, OK, &[]);
        talk.ask(machine, &request, STAYED);
    });
}

/// A client that hears nothing sends nothing else: what was acknowledged to it is kept until the replica has it.
#[test]
fn what_its_client_hears_of_is_kept_for_the_replica() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        for offered in offers() {
            let mut talk = answered_by(machine, family, &get(&a), offered);
            let request = get(&a);
            let again = part(&talk, &request, 0, 9);
            sends(machine, &again, KEPT);
            for _ in 0..2 {
                machine
                    .run(Hook::Ingress, &again.bytes())
                    .counts(ACKNOWLEDGED)
                    .leaves(&acknowledgement(&talk, &again, 9).bytes());
            }
            let last = part(&talk, &request, 9, request.len());
            asked(machine, &talk, &last, &request);
            // A replica without room for it is asked again: it stays ours to deliver.
            let full = Seg { window: 0, ..talk.conn.down(ACK, talk.down, talk.up, b"") };
            machine.run(Hook::Egress, &full.bytes()).counts(&[Counter::EgressDropBusy]);
            asked(machine, &talk, &last, &request);
            let before = talk.clone();
            talk.stays(machine, &last, &request, &[]);
            assert_eq!(talk.state(machine).1 & STATE_HEAD, STATE_HEAD);
            // It was lost: the client sends what it has not heard of, and the replica says what it misses.
            talk.conn.goes_up(machine, &last, &[]);
            let misses = before.conn.down(ACK, before.down, before.up, b"");
            let outcome = machine
                .run(Hook::Egress, &misses.bytes())
                .counts(&[Counter::DeliveredAgain])
                .segment();
            assert_eq!((&outcome.payload, outcome.dst), (&request, talk.conn.server()));
            assert_eq!(outcome.seq, before.asks(b"").seq);
            talk.answer(machine, OK, &[]);
            assert!(waiting(machine, &talk).is_none() && talk.state(machine).1 & STATE_HEAD == 0);
            talk.ask(machine, &request, STAYED);
            talk.leave(machine);
        }
    });
}

/// Nor is it forgotten when the head's end goes by before the replica has said anything.
#[test]
fn what_its_client_hears_of_is_kept_beyond_the_end_of_its_head() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        let mut talk = answered(machine, family, &get(&a));
        let request = get(&a);
        let again = part(&talk, &request, 0, 9);
        sends(machine, &again, KEPT);
        sends(machine, &again, ACKNOWLEDGED);
        let known = request.len() - 4;
        let last = part(&talk, &request, 9, known);
        asked(machine, &talk, &last, &request[..known]);
        let before = talk.clone();
        talk.stays(machine, &last, &request[..known], &[]);
        talk.ask(machine, &request[known..], &[]);
        // All of that was lost but for its end.
        let misses = before.conn.down(ACK, before.down, before.up, b"");
        let outcome =
            machine.run(Hook::Egress, &misses.bytes()).counts(&[Counter::DeliveredAgain]).segment();
        assert_eq!((outcome.seq, &outcome.payload[..]), (before.asks(b"").seq, &request[..known]));
        talk.answer(machine, OK, &[]);
        assert!(waiting(machine, &talk).is_none() && talk.state(machine).1 & STATE_HEAD == 0);
        talk.ask(machine, &request, STAYED);
        talk.leave(machine);
    });
}

/// Without room for it its client is told at once: on a new connection it may need none.
#[test]
fn one_that_may_not_wait_ends_its_connection() {
    let sharing = Sharing {
        heads: 8 * CHUNKS_OF_HEAD,
        services: 1,
        ipv4_prefix: 32,
        ipv6_prefix: 64,
        ..Sharing::default()
    };
    on_all(&World { sharing, ..world() }, |machine, family| {
        let request = get("tea");
        let talk = answered(machine, family, &request);
        let mut waits = |port| {
            let mut first = Conn::new(family, Kind::Home, 1, port);
            first.open(machine);
            let seg = first.up(ACK, 0, 0, &request[..15]);
            machine.run(Hook::Ingress, &seg.bytes()).verdict() == Counter::HeadKept
        };
        let waiting = (2000..2009).take_while(|port| waits(*port)).count();
        assert!((1..8).contains(&waiting), "{waiting}");
        let ended = [Counter::OverSourceHeads, Counter::EndedReuse, Counter::ResetShare];
        let told = machine
            .run(Hook::Ingress, &part(&talk, &request, 0, 15).bytes())
            .counts(&ended)
            .segment();
        assert_eq!((told.dst, told.flags & RST), (talk.conn.client, RST));
        assert_eq!((live(machine), machine.farewells().len()), (0, 1));
    });
}

/// Ten segments are what a client sends before it hears of anything.
#[test]
fn a_dribbling_client_hears_of_each_tenth() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let request = |chat: &str| format!("GET /?{}&chat={chat} HTTP/1.1\r\n\r\n", "x".repeat(15));
        let talk = answered(machine, family, &get(&a));
        // The key ends behind its 30 bytes or so.
        let dribble = |machine: &mut dyn Machine, talk: &Talk, bytes: &[u8]| {
            for at in 0..bytes.len() {
                let seg = part(talk, bytes, at, at + 1);
                let outcome = machine.run(Hook::Ingress, &seg.bytes());
                match outcome.verdict() {
                    Counter::HeadKept => assert_ne!(at % 10, 9, "{at}"),
                    Counter::HeadAcknowledged => {
                        assert_eq!(at % 10, 9, "{at}");
                        let expected = acknowledgement(talk, &seg, at as u32 + 1);
                        outcome.leaves(&expected.bytes());
                    }
                    _ => return (at + 1, seg, outcome),
                }
            }
            panic!("its key is nowhere");
        };
        let own = request(&a).into_bytes();
        let (known, seg, outcome) = dribble(machine, &talk, &own);
        outcome.counts(&[Counter::HeadAnnounced]).leaves(&talk.announced(&seg, &own).bytes());
        let mut talk = talk;
        talk.stays(machine, &seg, &own[..known], &[]);
        // It is read on as it goes by, though the replica has yet to say that it has it.
        talk.ask(machine, &own[known..known + 3], &[]);
        talk.conn.goes_down(machine, &talk.conn.down(ACK, talk.down, talk.up, b""), &[]);
        talk.ask(machine, &own[known + 3..], &[]);
        talk.answer(machine, OK, &[]);
        talk.ask(machine, &get(&a), STAYED);
        talk.answer(machine, OK, &[]);
        let other = request(&b).into_bytes();
        let (known, seg, outcome) = dribble(machine, &talk, &other);
        let second = talk.at(1, whole(&talk, &seg, &other[..known]), 0);
        outcome.counts(&[Counter::Bound]).leaves(&second.conn.replica_syn(&seg).bytes());
        let mut second = second;
        second.accept(machine, &talk);
        second.ask(machine, &other[known..], &[]);
        second.answer(machine, OK, &[]);
        second.ask(machine, &get(&b), STAYED);
    });
}

/// Another chat that lives at the same replica.
#[test]
fn one_for_a_neighbour_of_its_chat_counts_for_that() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        let other = (0..)
            .map(|n| "x".repeat(n + 1))
            .find(|chat| {
                let mut conn = Conn::new(family, Kind::Home, 9, 3000 + chat.len() as u16);
                conn.open(machine);
                conn.bind(machine, &get(chat), &[]);
                conn.replica == 0
            })
            .unwrap();
        let mut talk = answered(machine, family, &get(&a));
        let cookie = machine.flows()[0].1.cookie;
        let request = get(&other);
        sends(machine, &part(&talk, &request, 0, 15), KEPT);
        let last = part(&talk, &request, 15, request.len());
        asked(machine, &talk, &last, &request);
        assert_eq!(machine.flows()[0].1.cookie, cookie);
        talk.stays(machine, &last, &request, &[]);
        assert_ne!(machine.flows()[0].1.cookie, cookie);
        assert_eq!((live(machine), machine.load(0)), (1, (1, 2)));
        talk.answer(machine, OK, &[]);
        talk.leave(machine);
        assert_eq!(live(machine), 0);
    });
}

/// Without a key it may be anywhere, unless that is not allowed.
#[test]
fn one_without_a_key_stays_or_is_rejected() {
    on_all(&world(), |machine, family| {
        let request = &b"GET /page HTTP/1.1\r\nHost: h\r\n\r\n"[..];
        let [a, ..] = chats(machine, family);
        let mut talk = answered(machine, family, &get(&a));
        sends(machine, &part(&talk, request, 0, 9), KEPT);
        let last = part(&talk, request, 9, request.len());
        asked(machine, &talk, &last, request);
        talk.stays(machine, &last, request, &[]);
        assert_eq!(live(machine), 1);
        talk.answer(machine, OK, &[]);
        talk.leave(machine);

        let conn = Conn::new(family, Kind::Reject, 1, 2000);
        let mut talk = Talk::begin_as(machine, conn, &get("tea"), &[]);
        talk.answer(machine, OK, &[]);
        sends(machine, &part(&talk, request, 0, 9), KEPT);
        let last = part(&talk, request, 9, request.len());
        sends(machine, &last, &[Counter::EndedReuse, Counter::ResetExpired]);
        assert!(machine.flows().is_empty() && waiting(machine, &talk).is_none());
    });
}

/// What nobody can follow stays where it is, and is counted, whatever its key is.
#[test]
fn one_that_is_in_doubt_stays() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        for (request, doubt) in [
            (format!("POST /?x&chat={b} HTTP/1.1\r\nExpect: x\r\n\r\n"), Counter::DoubtExpect),
            (
                format!("POST /?x&chat={b} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"),
                Counter::DoubtTransferEncoding,
            ),
            (format!("{}{}", str::from_utf8(&get(&b)).unwrap(), "GET /"), Counter::DoubtPipelined),
        ] {
            let mut talk = answered(machine, family, &get(&a));
            let request = request.as_bytes();
            sends(machine, &part(&talk, request, 0, 12), KEPT);
            let last = part(&talk, request, 12, request.len());
            asked(machine, &talk, &last, request);
            talk.stays(machine, &last, request, &[doubt]);
            talk.answer(machine, OK, &[]);
            talk.ask(machine, &get(&b), &[]);
            talk.leave(machine);
        }
        // Nobody knows where it ends, so its client may take it for whole.
        let mut world = service(Kind::Home);
        world.sources = sources(&[KeySource::new(KeyKind::Cookie, b"chat")]);
        world.on_reuse = REUSE_REBIND;
        machine.set_service(Kind::Home.number(), &world);
        let cookie = format!("GET / HTTP/1.1\r\nCookie: chat={a}\r\n\r\n");
        let mut talk = answered(machine, family, cookie.as_bytes());
        let request = &b"GET / HTTP/1.1\r\nCookie: x=y\rchat"[..];
        sends(machine, &part(&talk, request, 0, 20), KEPT);
        let last = part(&talk, request, 20, request.len());
        sends(machine, &last, KEPT);
        asked(machine, &talk, &last, request);
        talk.stays(machine, &last, request, &[Counter::DoubtHead]);
        talk.leave(machine);
    });
}

/// Only one that stands where it should gets anything.
#[test]
fn a_replica_that_is_asked_may_say_anything() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        let request = get(&a);
        let begun = |machine: &mut dyn Machine| {
            let talk = answered(machine, family, &request);
            sends(machine, &part(&talk, &request, 0, 15), KEPT);
            let last = part(&talk, &request, 15, request.len());
            asked(machine, &talk, &last, &request);
            (talk, last)
        };
        let (mut talk, last) = begun(machine);
        let says =
            |talk: &Talk, flags, seq, ack, bytes: &[u8]| talk.conn.down(flags, seq, ack, bytes);
        for words in [
            says(&talk, ACK, talk.down - 1, talk.up, b""),
            says(&talk, ACK, talk.down, talk.up - 1, b""),
            says(&talk, ACK, talk.down, talk.up + 1, b""),
            says(&talk, PSH | ACK, talk.down, talk.up, OK),
            says(&talk, FIN | ACK, talk.down, talk.up, b""),
            says(&talk, RST | ACK, talk.down + 1, talk.up, b""),
        ] {
            machine.run(Hook::Egress, &words.bytes()).counts(&[Counter::EgressDropLeft]);
        }
        // No room: it is asked again.
        let full = Seg { window: 0, ..says(&talk, ACK, talk.down, talk.up, b"") };
        machine.run(Hook::Egress, &full.bytes()).counts(&[Counter::EgressDropBusy]);
        asked(machine, &talk, &last, &request);
        talk.stays(machine, &last, &request, &[]);
        // Once: what else it says is its client's.
        talk.conn.goes_down(machine, &says(&talk, ACK, talk.down, talk.up - 5, b""), &[]);
        talk.answer(machine, OK, &[]);
        talk.leave(machine);

        // It has closed, which its client has yet to hear.
        let (mut talk, last) = begun(machine);
        talk.down += 1;
        let stands = says(&talk, ACK, talk.down, talk.up, b"");
        talk.down -= 1;
        let outcome = machine.run(Hook::Egress, &stands.bytes()).counts(&[
            Counter::Delivered,
            Counter::StayedRequest,
            Counter::DoubtAnswer,
        ]);
        let delivered = outcome.segment();
        assert_eq!((delivered.ack, &delivered.payload), (stands.seq - 1, &request));
        talk.up += request.len() as u32;
        talk.conn.goes_down(machine, &says(&talk, FIN | ACK, talk.down, talk.up, b""), &[]);
        drop(last);
        talk.leave(machine);

        // It knows nothing of it.
        let (talk, _) = begun(machine);
        let gone = Seg { options: Vec::new(), ..says(&talk, RST, talk.down, talk.up, b"") };
        let told = machine
            .run(Hook::Egress, &gone.bytes())
            .counts(&[Counter::Refused, Counter::EndedReuse])
            .segment();
        assert_eq!((told.dst, told.seq), (talk.conn.client, talk.asks(b"").ack));
        assert!(machine.flows().is_empty() && waiting(machine, &talk).is_none());
        assert_eq!(live(machine), 0);
    });
}

/// A client that gives up takes its head with it; and so does time.
#[test]
fn one_whose_flow_ends_goes_with_it() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        let request = get(&a);
        let talk = answered(machine, family, &request);
        sends(machine, &part(&talk, &request, 0, 15), KEPT);
        let reset = talk.conn.up(RST | ACK, talk.up + 15, talk.down, b"");
        talk.conn.goes_up(machine, &reset, &[Counter::Closed]);
        assert!(waiting(machine, &talk).is_none());

        // It ends in another way: with the next look.
        for acked in [false, true] {
            let talk = answered(machine, family, &request);
            let seg = part(&talk, &request, 0, 15);
            sends(machine, &seg, KEPT);
            if acked {
                sends(machine, &seg, ACKNOWLEDGED);
            }
            let [(tuple, flow)] = machine.flows()[..] else { panic!("one flow") };
            let aged = |seconds: u64| {
                let last_seen = flow.last_seen.wrapping_sub(seconds * 1_000_000_000);
                router_ebpf::maps::Flow { last_seen, ..flow }
            };
            machine.set_flow(&tuple, &aged(200));
            let looked = machine.look();
            assert!(looked.contains(&(Counter::EndedReuse, 1)), "{looked:?}");
            machine.look();
            assert!(waiting(machine, &talk).is_none(), "{acked}");
            machine.farewells();
        }
    });
}

#[test]
fn one_that_waits_too_long_is_forgotten() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        let request = get(&a);
        for acked in [false, true] {
            let mut talk = answered(machine, family, &request);
            let seg = part(&talk, &request, 0, 15);
            sends(machine, &seg, KEPT);
            if acked {
                sends(machine, &seg, ACKNOWLEDGED);
            }
            let own = talk.conn.vip_side();
            let stash = waiting(machine, &talk).unwrap();
            let since = stash.since.wrapping_sub(8 << 32);
            machine.set_stash(&own, &Stash { since, ..stash });
            let looked = machine.look();
            assert!(waiting(machine, &talk).is_none());
            if acked {
                assert_eq!(looked, [(Counter::EndedHead, 1), (Counter::EndedLost, 1)]);
                assert_eq!(machine.farewells().len(), 1);
                continue;
            }
            // Its client sends all of it again.
            assert_eq!(looked, [(Counter::EndedHead, 1)]);
            sends(machine, &seg, KEPT);
            let last = part(&talk, &request, 15, request.len());
            asked(machine, &talk, &last, &request);
            talk.stays(machine, &last, &request, &[]);
            talk.leave(machine);
        }
    });
}

/// The replica of before goes while its connection waits.
#[test]
fn one_whose_replica_goes_meanwhile_is_bound_to_another() {
    on_all(&world(), |machine, family| {
        let [a, ..] = chats(machine, family);
        let first = answered(machine, family, &get(&a));
        let request = get(&a);
        sends(machine, &part(&first, &request, 0, 15), KEPT);
        let last = part(&first, &request, 15, request.len());
        asked(machine, &first, &last, &request);
        machine.set_replica(0, &Replica { state: REPLICA_GONE, ..replica(0) });
        machine.set_slots(Kind::Home.slots(), &vec![1; SLOT_COUNT as usize]);
        let second = first.at(1, whole(&first, &last, &request), 0);
        machine
            .run(Hook::Ingress, &last.bytes())
            .counts(&[Counter::Bound])
            .leaves(&second.conn.replica_syn(&last).bytes());
        // What it says to the question from before counts no longer.
        for flags in [ACK, RST] {
            let late = first.conn.down(flags, first.down, first.up, b"");
            machine.run(Hook::Egress, &late.bytes()).counts(&[Counter::EgressDropLeft]);
        }
        second.accept(machine, &first);
        second.leave(machine);
    });
}

/// Under `on_reuse = "reset"` the connection ends before anything of it is anywhere.
#[test]
fn one_for_another_chat_may_end_its_connection() {
    on_all(&World::default().with_on_reuse(REUSE_RESET), |machine, family| {
        let [a, b, _] = chats(machine, family);
        let mut talk = answered(machine, family, &get(&a));
        let own = get(&a);
        sends(machine, &part(&talk, &own, 0, 15), KEPT);
        let last = part(&talk, &own, 15, own.len());
        asked(machine, &talk, &last, &own);
        talk.stays(machine, &last, &own, &[]);
        talk.answer(machine, OK, &[]);
        let other = get(&b);
        sends(machine, &part(&talk, &other, 0, 15), KEPT);
        let last = part(&talk, &other, 15, other.len());
        sends(machine, &last, &[Counter::EndedReuse, Counter::ResetExpired]);
        assert!(machine.flows().is_empty() && waiting(machine, &talk).is_none());
        assert_eq!(machine.farewells().len(), 1);
    });
}

/// Longer than a segment, a chunk and a replica's smallest segments: with cookies before the key.
#[test]
fn a_long_one_is_delivered_in_its_order() {
    on_all(&world(), |machine, family| {
        let [a, b, _] = chats(machine, family);
        for len in [1600, 9000, 15_900] {
            let cookies = "c".repeat(len);
            let request = |chat: &str| {
                format!("GET /?{cookies}&chat={chat} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
            };
            let mut talk = answered(machine, family, &get(&a));
            let own = request(&a);
            let mut at = 0;
            while at + 1400 < own.len() {
                let seg = part(&talk, &own, at, at + 1400);
                let verdict = machine.run(Hook::Ingress, &seg.bytes()).verdict();
                assert!(matches!(verdict, Counter::HeadKept | Counter::HeadAcknowledged));
                at += 1400;
            }
            let last = part(&talk, &own, at, own.len());
            asked(machine, &talk, &last, &own);
            let stands = talk.conn.down(ACK, talk.down, talk.up, b"");
            let outcome = machine.run(Hook::Egress, &stands.bytes());
            assert_eq!(outcome.verdict(), Counter::Delivered);
            let mut got = Vec::new();
            for frame in outcome.copies.iter().chain([&outcome.frame]) {
                let seg = Seg::parse(frame).expect("a segment");
                assert_eq!(seg.bytes(), *frame);
                assert_eq!(seg.seq, talk.asks(b"").seq.wrapping_add(got.len() as u32));
                assert!(seg.payload.len() <= 536);
                got.extend(seg.payload);
            }
            assert!(got == own);
            talk.up += own.len() as u32;
            talk.answer(machine, OK, &[]);
            assert!(waiting(machine, &talk).is_none());
            // And one for another chat.
            let other = request(&b);
            sends(machine, &part(&talk, &other, 0, 1400), KEPT);
            let mut at = 1400;
            while at + 1400 < other.len() {
                machine.run(Hook::Ingress, &part(&talk, &other, at, at + 1400).bytes());
                at += 1400;
            }
            let last = part(&talk, &other, at, other.len());
            let second = talk.at(1, whole(&talk, &last, &other), 0);
            machine
                .run(Hook::Ingress, &last.bytes())
                .counts(&[Counter::Bound])
                .leaves(&second.conn.replica_syn(&last).bytes());
            let outcome = machine.run(Hook::Egress, &second.conn.replica_syn_ack().bytes());
            let got: Vec<u8> = outcome
                .copies
                .iter()
                .flat_map(|frame| Seg::parse(frame).expect("a segment").payload)
                .collect();
            assert!(got == other, "{} of {}", got.len(), other.len());
            let mut second = second;
            second.answer(machine, OK, &[]);
            second.leave(machine);
        }
    });
}
