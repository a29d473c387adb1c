//! Heads of several segments: in any order, with duplicates and overlaps, delivered in order.

use proptest::prelude::*;
use roost_tests::run::{
    Family, Hook, Machine, Outcome,
    frame::{ACK, FIN, PSH, RST, Seg},
    host::Host,
    kernel::Rig,
    on_all,
    talk::{Conn, Offer, get, reset_for},
    world::{Kind, MSS4, MSS6, REPLICAS, World, replica, replica_addr},
};
use router_ebpf::{
    maps::{KeySource, REPLICA_GONE, Replica, SLOT_COUNT, STASH_CLAIMED, Service, Stash, Tuple},
    source::KeyKind,
    verdict::Counter,
};

/// A typical head.
const HEAD: &str = "GET /ws?lang=en&chat=t%65a&v=3 HTTP/1.1\r\nHost: chat.example\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// Where its key is sure to have ended.
const KEY_ENDS: usize = "GET /ws?lang=en&chat=t%65a&".len();

/// A segment of the head.
fn piece(conn: &Conn, from: usize, to: usize) -> Seg {
    conn.up(PSH | ACK, from as u32, 0, &HEAD.as_bytes()[from..to])
}

/// One that does not complete the key.
#[track_caller]
fn kept(machine: &mut dyn Machine, seg: &Seg) {
    machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::HeadKept]);
}

/// The replica's answer, and what was delivered after it: the bytes of these segments, in segments that it takes.
#[track_caller]
fn accepted(conn: &Conn, machine: &mut dyn Machine, pieces: &[Seg]) -> Outcome {
    let mut head = Vec::new();
    for piece in pieces {
        let at = piece.seq.wrapping_sub(conn.isn).wrapping_sub(1) as usize;
        head.truncate(at);
        assert_eq!(head.len(), at, "nothing is missing");
        head.extend(&piece.payload);
    }
    let all = |flag: u8| pieces.iter().fold(0, |flags, piece| flags | piece.flags & flag);
    let last = pieces.last().expect("a segment");
    accepted_bytes(
        conn,
        machine,
        &head,
        &Seg { flags: ACK | all(PSH) | last.flags & FIN, ..last.clone() },
    )
}

/// The same for these bytes; flags and window of the last segment are those of `like`.
#[track_caller]
fn accepted_bytes(conn: &Conn, machine: &mut dyn Machine, head: &[u8], like: &Seg) -> Outcome {
    let waits = machine.stash().iter().any(|(_, stash)| stash.acked != 0);
    let outcome = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
    let options = conn.delivered_like(like).options.len();
    let fits = if conn.family == Family::V4 { MSS4 } else { MSS6 };
    let most = usize::from(conn.answer.mss.unwrap_or(536).min(fits)) - options;
    let parts: Vec<&[u8]> = head.chunks(most).collect();
    let made = parts.iter().enumerate().map(|(i, part)| {
        let is_last = i + 1 == parts.len();
        let seq = conn.isn.wrapping_add(1).wrapping_add((i * most) as u32);
        let flags = if is_last { like.flags } else { ACK };
        let seg = Seg { seq, flags, payload: part.to_vec(), ..like.clone() };
        conn.delivered_like(&seg)
    });
    let made: Vec<Seg> = made.collect();
    let (last, before) = made.split_last().expect("a segment");
    let outcome = outcome.leaves(&last.bytes());
    assert_eq!(outcome.copies.len(), before.len(), "{:?}", outcome.moved);
    for (copy, expected) in outcome.copies.iter().zip(before) {
        assert!(*copy == expected.bytes(), "{:?}\n{expected:?}", Seg::parse(copy));
    }
    if waits {
        // What was acknowledged is kept until the replica has it.
        assert_eq!(machine.stash().len(), 1);
        conn.goes_down(machine, &conn.down(ACK, 0, head.len() as u32, b""), &[]);
    }
    assert_eq!(machine.stash().len() + machine.chunks().len(), 0, "the stash is empty afterwards");
    outcome
}

#[test]
fn a_head_may_be_split_anywhere() {
    on_all(&World::default(), |machine, family| {
        for at in 1..HEAD.len() {
            println!("split at {at}");
            let mut conn = Conn::new(family, Kind::Home, 1, 1000 + at as u16);
            conn.open(machine);
            let (first, second) = (piece(&conn, 0, at), piece(&conn, at, HEAD.len()));
            let delivered = if at < KEY_ENDS {
                kept(machine, &first);
                conn.bind_with(machine, second.clone(), &[]);
                vec![first, second]
            } else {
                conn.bind_with(machine, first.clone(), &[]);
                kept(machine, &second);
                vec![first, second]
            };
            accepted(&conn, machine, &delivered).counts(&[Counter::Delivered]);
        }
        let chats = machine.chats();
        assert_eq!(chats.len(), 1, "all are the same chat");
        assert_eq!(chats[0].1.key.kept(), b"tea");
    });
}

#[test]
fn segments_may_come_in_any_order() {
    let cuts = [0, 9, 20, 60, HEAD.len()];
    on_all(&World::default(), |machine, family| {
        for (round, order) in permutations().into_iter().enumerate() {
            let mut conn = Conn::new(family, Kind::Home, 2, 2000 + round as u16);
            conn.open(machine);
            let pieces: Vec<Seg> = cuts.windows(2).map(|w| piece(&conn, w[0], w[1])).collect();
            let mut bound = false;
            let mut seen = [false; 4];
            for i in order {
                seen[i] = true;
                if !bound && seen[..3].iter().all(|seen| *seen) {
                    conn.bind_with(machine, pieces[i].clone(), &[]);
                    bound = true;
                    continue;
                }
                kept(
                    machine,
                    &Conn { replica: u32::MAX, ..conn.clone() }.up(
                        PSH | ACK,
                        cuts[i] as u32,
                        0,
                        &pieces[i].payload,
                    ),
                );
                // Again, which tells nothing new.
                let again = match (bound, seen[0]) {
                    (true, _) => Counter::Bound,
                    (false, true) => Counter::HeadAcknowledged,
                    (false, false) => Counter::DropEarly,
                };
                let (at, payload) = (cuts[i] as u32, &pieces[i].payload);
                let seg = Conn { replica: u32::MAX, ..conn.clone() }.up(PSH | ACK, at, 0, payload);
                machine.run(Hook::Ingress, &seg.bytes()).counts(&[again]);
            }
            accepted(&conn, machine, &pieces);
        }
        assert_eq!(machine.chats().len(), 1);
    });
}

/// All orders of four.
fn permutations() -> Vec<[usize; 4]> {
    let mut all = Vec::new();
    for code in 0..256usize {
        let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
        if (0..4).all(|i| order.contains(&i)) {
            all.push(order);
        }
    }
    assert_eq!(all.len(), 24);
    all
}

#[test]
fn overlaps_are_told_once() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let pieces = [piece(&conn, 0, 10), piece(&conn, 5, 20), piece(&conn, 12, HEAD.len())];
        kept(machine, &pieces[1]);
        kept(machine, &pieces[0]);
        // All of it is there.
        machine
            .run(Hook::Ingress, &piece(&conn, 6, 9).bytes())
            .counts(&[Counter::HeadAcknowledged]);
        conn.bind_with(machine, pieces[2].clone(), &[]);
        assert_eq!(machine.pending()[0].1.key.kept(), b"tea");
        machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
    });
}

/// Our acknowledgement of the first bytes, in answer to a segment.
fn acknowledged(conn: &Conn, seg: &Seg, len: u32) -> Seg {
    let ack = conn.isn.wrapping_add(1).wrapping_add(len);
    let [src, dst] = seg.macs;
    let mut out = Seg::new(conn.vip, conn.client, ACK, conn.cookie.wrapping_add(1), ack);
    out.macs = [dst, src];
    // A usual segment more than is kept.
    let window = 16384 + 1460 - len as u16;
    out.window = if conn.offer.scale.is_some() { window >> 7 } else { window };
    out
}

#[test]
fn what_comes_again_is_acknowledged_so_that_the_client_goes_on() {
    on_all(&World::default(), |machine, family| {
        for (port, offer) in [(1000, Offer::ALL), (1001, Offer::NONE)] {
            let mut conn = Conn { offer, ..Conn::new(family, Kind::Home, 1, port) };
            conn.open(machine);
            let (first, second) = (piece(&conn, 0, 10), piece(&conn, 10, HEAD.len()));
            kept(machine, &first);
            let outcome =
                machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadAcknowledged]);
            let answer = outcome.segment();
            let expected =
                Seg { options: answer.options.clone(), ..acknowledged(&conn, &first, 10) };
            let echo = answer.timestamps().map(|(_, echo)| echo);
            assert_eq!(echo, first.timestamps().map(|(value, _)| value));
            outcome.leaves(&expected.bytes());
            conn.bind_with(machine, second.clone(), &[]);
            // The client does not send the first one any more: the second repeats the SYN.
            machine
                .run(Hook::Ingress, &second.bytes())
                .counts(&[Counter::Bound])
                .leaves(&conn.replica_syn(&second).bytes());
            accepted(&conn, machine, &[first, second]);
        }
    });
}

/// Ten segments are a client's first window: it sends no more before it hears of us.
#[test]
fn a_client_that_has_sent_its_first_window_does_not_wait() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        for at in 0..20 {
            let seg = piece(&conn, at, at + 1);
            if at % 10 < 9 {
                kept(machine, &seg);
                continue;
            }
            let outcome =
                machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::HeadAcknowledged]);
            let options = outcome.segment().options;
            let len = at as u32 + 1;
            outcome.leaves(&Seg { options, ..acknowledged(&conn, &seg, len) }.bytes());
        }
        conn.bind_with(machine, piece(&conn, 20, HEAD.len()), &[]);
        assert_eq!(machine.pending()[0].1.key.kept(), b"tea");
    });
}

/// A FIN without data that comes before the replica has accepted is kept with the head.
#[test]
fn a_bare_end_is_kept_with_the_head() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let end = conn.up(FIN | ACK, HEAD.len() as u32, 0, b"");
        let whole = piece(&conn, 0, HEAD.len());
        conn.bind_with(machine, whole.clone(), &[]);
        kept(machine, &end);
        accepted(&conn, machine, &[Seg { flags: FIN | PSH | ACK, ..whole }])
            .counts(&[Counter::Delivered]);
    });
}

/// A segment of a request whose target goes on and on.
fn long(conn: &Conn, at: usize, len: usize) -> Seg {
    let head = [b"GET /", &[b'x'; 20_000][..]].concat();
    conn.up(ACK, at as u32, 0, &head[at..at + len])
}

/// What is announced is what is kept, and a segment that shows that there is more.
#[test]
fn the_window_is_what_is_kept() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn { offer: Offer::NONE, ..Conn::new(family, Kind::Home, 1, 1000) };
        conn.open(machine);
        kept(machine, &long(&conn, 0, 1400));
        let second = long(&conn, 1400, 1400);
        kept(machine, &second);
        machine
            .run(Hook::Ingress, &second.bytes())
            .counts(&[Counter::HeadAcknowledged])
            .leaves(&acknowledged(&conn, &second, 2800).bytes());
    });
}

/// Bytes that [`bound`] has acknowledged, if it has.
const ACKNOWLEDGED: u32 = 1400;

/// A bound connection with three segments, of which the first may have been acknowledged to the client.
fn bound(machine: &mut dyn Machine, family: Family, port: u16, acknowledges: bool) -> Conn {
    let mut conn = Conn::new(family, Kind::Home, 1, port);
    conn.open(machine);
    let first = long(&conn, 0, ACKNOWLEDGED as usize);
    kept(machine, &first);
    if acknowledges {
        machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadAcknowledged]);
    }
    kept(machine, &long(&conn, 1400, 1400));
    conn.bind_with(machine, conn.up(PSH | ACK, 2800, 0, b"&chat=tea HTTP/1.1\r\n\r\n"), MISSING);
    conn
}

/// Of [`bound`]: the request has no `?`.
const MISSING: &[Counter] = &[Counter::MissingKey, Counter::MissingAbsent];

/// The replica accepts with this window, and both ends are reset, because not all can be delivered that was acknowledged.
#[track_caller]
fn lost(conn: &Conn, machine: &mut dyn Machine, window: u16) {
    let answer = Seg { window, ..conn.replica_syn_ack() };
    let reset = machine.run(Hook::Egress, &answer.bytes()).counts(&[Counter::ResetLost]).segment();
    assert_eq!((reset.src, reset.dst), (conn.vip, conn.client));
    assert_eq!((reset.flags, reset.seq), (RST | ACK, conn.cookie.wrapping_add(1)));
    assert!(machine.flows().is_empty() && machine.flows_back().is_empty());
    machine
        .run(Hook::Egress, &answer.bytes())
        .counts(&[Counter::ResetReplica])
        .leaves(&reset_for(&answer).bytes());
    assert!(machine.pending().is_empty());
}

#[test]
fn what_was_acknowledged_is_delivered_or_both_ends_are_reset() {
    on_all(&World::default(), |machine, family| {
        for (port, window) in [(1000, 0), (1001, 1152), (1002, ACKNOWLEDGED as u16 - 1)] {
            let conn = bound(machine, family, port, true);
            lost(&conn, machine, window);
            assert_eq!(machine.stash().len() + machine.chunks().len(), 0);
        }
        // All of it fits: the client sends the rest again.
        let window = ACKNOWLEDGED as u16;
        for (port, acknowledges, window) in [(1003, true, window), (1004, false, 1152)] {
            let conn = bound(machine, family, port, acknowledges);
            let answer = Seg { window, ..conn.replica_syn_ack() };
            let outcome = machine.run(Hook::Egress, &answer.bytes());
            assert_eq!(outcome.verdict(), Counter::Delivered);
            let frames = outcome.copies.iter().chain([&outcome.frame]);
            let sent: usize = frames.map(|frame| Seg::parse(frame).unwrap().payload.len()).sum();
            assert_eq!(sent, usize::from(window));
            assert_eq!(machine.stash().len(), usize::from(acknowledges));
            conn.goes_down(machine, &conn.down(ACK, 0, sent as u32, b""), &[]);
            assert_eq!(machine.stash().len() + machine.chunks().len(), 0);
            conn.goes_up(machine, &long(&conn, sent, 1400), &[]);
        }
    });
}

/// Changes the one entry of `STASH`, and returns it as it was.
fn change(machine: &mut dyn Machine, change: impl Fn(&mut Stash)) -> (Tuple, Stash) {
    let [(tuple, before)] = machine.stash()[..] else { panic!("one head") };
    let mut stash = before;
    change(&mut stash);
    machine.set_stash(&tuple, &stash);
    (tuple, before)
}

#[test]
fn what_was_acknowledged_and_is_gone_resets_both_ends() {
    on_all(&World::default(), |machine, family| {
        let conn = bound(machine, family, 1000, true);
        machine.clear_stash();
        lost(&conn, machine, 65160);
        // A part of it is.
        let conn = bound(machine, family, 1001, true);
        change(machine, |stash| stash.chunks &= !2);
        lost(&conn, machine, 65160);
        // Or the place is another connection's, which keeps it.
        let conn = bound(machine, family, 1002, true);
        change(machine, |stash| stash.owner ^= 1 << 40);
        lost(&conn, machine, 65160);
        let stash = machine.stash();
        assert_eq!((stash.len(), stash[0].1.owner & STASH_CLAIMED), (1, 0));
        machine.clear_stash();
        // The client sends again what was not acknowledged.
        let conn = bound(machine, family, 1003, false);
        change(machine, |stash| stash.chunks &= !2);
        let answer = conn.replica_syn_ack();
        machine.run(Hook::Egress, &answer.bytes()).counts(&[Counter::DeliveredEmpty]);
        conn.goes_up(machine, &long(&conn, 0, 1400), &[]);
        assert!(machine.stash().is_empty());
    });
}

#[test]
fn a_head_that_another_cpu_is_at_has_the_answer_come_again() {
    on_all(&World::default(), |machine, family| {
        for (port, acknowledges) in [(1000, true), (1001, false)] {
            let conn = bound(machine, family, port, acknowledges);
            let (tuple, free) = change(machine, |stash| stash.owner |= STASH_CLAIMED);
            let answer = conn.replica_syn_ack().bytes();
            let flows = machine.flows().len();
            machine.run(Hook::Egress, &answer).counts(&[Counter::EgressDropBusy]);
            assert_eq!((machine.flows().len(), machine.flows_back().len()), (flows, flows));
            machine.set_stash(&tuple, &free);
            let head = [b"GET /", &[b'x'; 2795][..], b"&chat=tea HTTP/1.1\r\n\r\n"].concat();
            let like = conn.first.clone().unwrap();
            accepted_bytes(&conn, machine, &head, &like);
        }
    });
}

/// In the kernel, whose interface has been set down meanwhile.
#[test]
fn copies_that_the_interface_does_not_take_are_a_failed_delivery() {
    for (acknowledges, family) in
        [true, false].into_iter().flat_map(|a| Family::ALL.map(|f| (a, f)))
    {
        let machine = &mut Rig::new(&World::default().starting_now());
        let conn = bound(machine, family, 1000, acknowledges);
        machine.close();
        let outcome = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
        assert_eq!(outcome.verdict(), Counter::EgressDropFault);
        let ends = outcome.moved.iter().any(|(counter, _)| *counter == Counter::EndedLost);
        assert_eq!((ends, machine.flows().is_empty()), (acknowledges, acknowledges));
        assert_eq!(machine.stash().len() + machine.chunks().len(), 0);
        if !acknowledges {
            conn.goes_up(machine, &long(&conn, 0, 1400), &[]);
        }
    }
}

/// The interface takes no more copies: what is left of the head goes in any case.
#[test]
fn a_delivery_that_fails_leaves_nothing_behind() {
    for (acknowledges, copies, ends) in
        [(false, 0, false), (false, 1, false), (true, 0, true), (true, 2, true), (true, 3, false)]
    {
        for family in Family::ALL {
            let machine = &mut Host::new(&World::default());
            let mut conn = bound(machine, family, 1000, acknowledges);
            // 600 bytes fit: five segments.
            conn.answer.mss = Some(612);
            machine.limit_copies(copies);
            let outcome = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
            let told = |counter| outcome.moved.iter().any(|(of, _)| *of == counter);
            assert_eq!(outcome.verdict(), Counter::EgressDropFault);
            assert_eq!(told(Counter::EndedLost), ends, "{:?}", outcome.moved);
            assert_eq!(outcome.copies.len(), copies);
            let waits = acknowledges && !ends;
            assert_eq!(
                (machine.stash().len(), machine.chunks().is_empty()),
                (usize::from(waits), !waits)
            );
            assert!(machine.pending().is_empty());
            assert_eq!(machine.flows().is_empty(), ends);
            assert_eq!(machine.farewells().len(), usize::from(ends));
            let again = long(&conn, 0, 1400);
            if ends {
                machine.run(Hook::Ingress, &again.bytes()).counts(&[Counter::ResetExpired]);
            } else {
                conn.goes_up(machine, &again, &[]);
            }
        }
    }
}

/// Segments that leave so few bytes of what is kept.
fn fill(conn: &Conn, machine: &mut dyn Machine) -> usize {
    let all = 11 * 1400;
    for at in (0..all).step_by(1400) {
        let seg = long(conn, at, 1400);
        let counter = if at == 9 * 1400 { Counter::HeadAcknowledged } else { Counter::HeadKept };
        machine.run(Hook::Ingress, &seg.bytes()).counts(&[counter]);
    }
    all
}

#[test]
fn what_is_too_much_goes_without_a_key() {
    for (kind, also) in [(Kind::Home, None), (Kind::Reject, Some(Counter::ResetMissingKey))] {
        on_all(&World::default(), |machine, family| {
            let mut conn = Conn::new(family, kind, 1, 1000);
            conn.open(machine);
            let at = fill(&conn, machine);
            // Its first bytes fit, and are kept.
            let last = long(&conn, at, 1400);
            let reasons = [Counter::MissingKey, Counter::MissingTooLong];
            match also {
                None => {
                    conn.bind_with(machine, last, &reasons);
                    let head = [b"GET /", &[b'x'; 16_379][..]].concat();
                    let like = Conn { replica: u32::MAX, ..conn.clone() }.up(ACK, 0, 0, b"");
                    accepted_bytes(&conn, machine, &head, &like);
                    conn.goes_up(machine, &long(&conn, at, 1400), &[]);
                }
                Some(counter) => {
                    let counters = [&[counter], &reasons[..]].concat();
                    machine
                        .run(Hook::Ingress, &last.bytes())
                        .counts(&counters)
                        .leaves(&reset_for(&last).bytes());
                    assert_eq!(machine.stash().len() + machine.chunks().len(), 0);
                }
            }
        });
    }
}

#[test]
fn there_are_four_holes_at_the_most() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        for at in [10, 30, 50, 70] {
            kept(machine, &piece(&conn, at, at + 5));
        }
        let fifth = piece(&conn, 90, 95);
        machine.run(Hook::Ingress, &fifth.bytes()).counts(&[Counter::DropEarly]);
        // One that fills a hole, or makes it smaller, leaves as many or fewer.
        kept(machine, &piece(&conn, 72, 80));
        kept(machine, &piece(&conn, 33, 52));
        kept(machine, &fifth);
        let last = piece(&conn, 95, HEAD.len());
        kept(machine, &last);
        conn.bind_with(machine, piece(&conn, 0, 70), &[]);
        assert_eq!(machine.pending()[0].1.key.kept(), b"tea");
        // The one hole that is left.
        let conn = Conn { replica: u32::MAX, ..conn };
        machine.run(Hook::Ingress, &piece(&conn, 80, 90).bytes()).counts(&[Counter::HeadKept]);
        assert_eq!(machine.stash()[0].1.known as usize, HEAD.len());
    });
}

#[test]
fn one_that_is_too_long_and_bound_repeats_its_syn() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let at = fill(&conn, machine);
        let reasons = [Counter::MissingKey, Counter::MissingTooLong];
        let first = long(&conn, 0, 1400);
        conn.bind_with(machine, long(&conn, at, 1400), &reasons);
        let replica = conn.replica;
        // That it has no key is counted once.
        conn.bind_with(machine, first, &[]);
        assert_eq!(conn.replica, replica);
    });
}

#[test]
fn what_was_decided_holds_while_the_replica_is_asked() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Spread, 1, 1000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        let chosen = conn.replica;
        // Another table says another one.
        let number = |n: u32| Kind::Spread.replica(n % REPLICAS);
        let table = |n: u32| vec![number(n); SLOT_COUNT as usize];
        machine.set_slots(Kind::Spread.slots(), &table(chosen + 1));
        conn.bind(machine, &get("tea"), &[]);
        assert_eq!(conn.replica, chosen);
        // One that is gone is asked no more: what is stashed decides anew.
        let asked = replica(number(chosen));
        machine.set_replica(number(chosen), &Replica { state: REPLICA_GONE, ..asked });
        conn.bind(machine, &get("tea"), &[]);
        assert_eq!(conn.replica, (chosen + 1) % REPLICAS);
        conn.accept(machine);
        machine.set_replica(number(chosen), &asked);
        // So does one that was forgotten.
        let mut conn = Conn::new(family, Kind::Spread, 1, 1001);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        let other = (conn.replica + 1) % REPLICAS;
        machine.set_slots(Kind::Spread.slots(), &table(other));
        machine.forget_pending(&conn.replica_side());
        conn.bind(machine, &get("tea"), &[]);
        assert_eq!(conn.replica, other);
        conn.accept(machine);
    });
}

/// A search goes on where it was, and there is none for what comes again.
#[test]
fn bytes_are_searched_once() {
    let target = [&b"GET /ws?long="[..], &[b'x'; 3900], b"&chat=tea HTTP/1.1\r\n\r\n"].concat();
    let key = [b"GET /ws?chat=", &[b'k'; 100][..], b"%6b", b" HTTP/1.1\r\n\r\n"].concat();
    let long_key = [b"GET /ws?chat=", &[b'k'; 1000][..], b" HTTP/1.1\r\n\r\n"].concat();
    let world = World::default();
    let (number, before) = world.services[Kind::Home as usize];
    for (head, most_again) in [(target, 0), (key, 0), (long_key, 1600)] {
        let mut machine = Host::new(&world);
        let mut whole = 0;
        for pieces in 1..=4 {
            let mut conn = Conn::new(Family::V4, Kind::Home, 1, 1000 + pieces as u16);
            conn.open(&mut machine);
            machine.steps();
            let size = head.len().div_ceil(pieces);
            let segs = head.chunks(size).enumerate();
            let segs: Vec<Seg> =
                segs.map(|(i, part)| conn.up(ACK, (i * size) as u32, 0, part)).collect();
            let (last, first) = segs.split_last().unwrap();
            for seg in first {
                kept(&mut machine, seg);
            }
            // Another slot table says nothing of heads.
            let generation = before.generation + pieces as u32;
            machine.set_service(number, &Service { generation, ..before });
            conn.bind_with(&mut machine, last.clone(), &[]);
            let steps = machine.steps();
            println!("{} bytes in {pieces} segments: {steps} steps", head.len());
            if pieces == 1 {
                whole = steps;
            }
            // At the end of a segment there is nothing to step over in words of eight bytes, or to go on with.
            let most = whole + 8 * pieces as u64 + most_again;
            assert!(steps <= most, "{steps}, and {whole} at once");
            for seg in &segs {
                machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::Bound]);
            }
            assert_eq!(machine.steps(), 0, "what comes again is not searched");
        }
        let pending = machine.pending();
        assert!(pending.iter().all(|(_, p)| p.cookie == pending[0].1.cookie), "all are one chat");
    }
}

/// A head that waits is read as the service is configured when its key is there, from its first byte on.
#[test]
fn other_key_sources_hold_for_heads_that_wait() {
    let world = World::default();
    let Some((number, before)) = world.services.get(Kind::Home as usize).copied() else { panic!() };
    let other = KeySource::new(KeyKind::Query, b"lang");
    on_all(&world, |machine, family| {
        let others = [other, KeySource::NONE, KeySource::NONE, KeySource::NONE];
        for (port, sources, reading, service, key) in [
            (1000, before.sources, 0, number, "tea"),
            // The key of the other source has been passed over, and is complete.
            (1001, others, 1, number, "en"),
            // The VIP was another service's, which was as often changed.
            (1002, others, 0, number + 1, "en"),
        ] {
            machine.set_service(number, &before);
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.open(machine);
            kept(machine, &piece(&conn, 0, 20));
            let heads = machine.stash();
            let (tuple, stash) = heads.iter().find(|head| head.0 == conn.vip_side()).unwrap();
            machine.set_stash(tuple, &Stash { service, ..*stash });
            // Another slot table says nothing of heads.
            let generation = before.generation + 1;
            machine.set_service(number, &Service { sources, reading, generation, ..before });
            conn.bind_with(machine, piece(&conn, 20, KEY_ENDS), &[]);
            let pending = machine.pending();
            let pending = pending.iter().find(|(tuple, _)| *tuple == conn.replica_side());
            assert_eq!(pending.unwrap().1.key.kept(), key.as_bytes());
        }
    });
}

#[test]
fn the_end_of_a_connection_ends_its_head() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        kept(machine, &conn.up(ACK, 0, 0, b"GET /ws?chat="));
        let last = conn.up(FIN | PSH | ACK, 13, 0, b"tea");
        conn.bind_with(machine, last, &[Counter::MissingKey, Counter::MissingAbsent]);
    });
}

#[test]
fn an_end_that_comes_with_known_bytes_is_one() {
    on_all(&World::default(), |machine, family| {
        let head = b"GET /ws?chat=tea";
        let ends = |conn: &Conn| conn.up(FIN | PSH | ACK, 0, 0, head);
        let missing = [Counter::MissingKey, Counter::MissingAbsent];
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        kept(machine, &conn.up(PSH | ACK, 0, 0, head));
        conn.bind_with(machine, ends(&conn), &missing);
        let last = ends(&conn);
        accepted(&conn, machine, &[last]).counts(&[Counter::Delivered]);
        // Also if what is before it comes later, and in two segments.
        let mut conn = Conn::new(family, Kind::Home, 1, 1001);
        conn.open(machine);
        kept(machine, &conn.up(PSH | ACK, 8, 0, &head[8..]));
        let last = conn.up(FIN | PSH | ACK, 8, 0, &head[8..]);
        kept(machine, &last);
        conn.bind_with(machine, conn.up(PSH | ACK, 0, 0, &head[..8]), &missing);
        // It is noted once.
        let mut conn = Conn::new(family, Kind::Reject, 1, 1002);
        conn.open(machine);
        kept(machine, &conn.up(PSH | ACK, 8, 0, &head[8..]));
        kept(machine, &conn.up(FIN | PSH | ACK, 8, 0, &head[8..]));
        machine
            .run(Hook::Ingress, &conn.up(FIN | PSH | ACK, 8, 0, &head[8..]).bytes())
            .counts(&[Counter::DropEarly]);
    });
}

#[test]
fn a_head_of_another_connection_is_forgotten() {
    on_all(&World::default(), |machine, family| {
        let mut old = Conn::new(family, Kind::Home, 1, 1000);
        old.open(machine);
        kept(machine, &old.up(PSH | ACK, 0, 0, b"GET /ws?chat=cof"));
        let mut new = Conn { isn: 0x7000_0000, ..Conn::new(family, Kind::Home, 1, 1000) };
        new.open(machine);
        // One that comes before the first must not push out what is there.
        let second = new.up(PSH | ACK, 9, 0, b"chat=tea HTTP/1.1\r\n\r\n");
        machine.run(Hook::Ingress, &second.bytes()).counts(&[Counter::DropEarly]);
        kept(machine, &new.up(PSH | ACK, 0, 0, b"GET /ws?"));
        let second = new.up(PSH | ACK, 8, 0, b"chat=tea HTTP/1.1\r\n\r\n");
        new.bind_with(machine, second, &[]);
        assert_eq!(machine.pending()[0].1.key.kept(), b"tea");
    });
}

#[test]
fn the_first_segment_again_repeats_the_syn_and_keeps_the_others() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let (first, second) = (piece(&conn, 0, KEY_ENDS), piece(&conn, KEY_ENDS, HEAD.len()));
        conn.bind_with(machine, first.clone(), &[]);
        kept(machine, &second);
        conn.bind_with(machine, first.clone(), &[]);
        accepted(&conn, machine, &[first, second]);
    });
}

#[test]
fn an_upgrade_for_another_chat_on_the_same_connection_is_seen() {
    on_all(&World::default(), |machine, family| {
        let chats: Vec<(String, u32)> = (0..20)
            .map(|i| {
                let chat = format!("room{i}");
                let mut conn = Conn::new(family, Kind::Home, 3, 3000 + i);
                conn.establish(machine, &chat);
                (chat, conn.replica)
            })
            .collect();
        let (own, home) = &chats[0];
        let (other, _) = chats.iter().find(|(_, at)| at != home).expect("two homes");
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, own);
        let mut at = get(own).len() as u32;
        let upgrade = |chat: &str| {
            format!("GET /ws?chat={chat} HTTP/1.1\r\nuPgrade: websocket\r\n\r\n").into_bytes()
        };
        let mut send = |machine: &mut dyn Machine, payload: &[u8], also: &[Counter]| {
            conn.goes_up(machine, &conn.up(PSH | ACK, at, 0, payload), also);
            at += payload.len() as u32;
        };
        send(machine, &get(other), &[]);
        send(machine, b"GET", &[]);
        send(machine, &upgrade(other), &[Counter::AffinityViolation]);
        // From now on it is no HTTP any more.
        send(machine, &upgrade(other), &[]);
        let mut conn = Conn::new(family, Kind::Home, 1, 1001);
        conn.establish(machine, own);
        let at = get(own).len() as u32;
        conn.goes_up(machine, &conn.up(PSH | ACK, at, 0, &upgrade(own)), &[]);
        // One that began with an upgrade is not looked at.
        let mut conn = Conn::new(family, Kind::Home, 1, 1002);
        conn.open(machine);
        conn.bind(machine, &upgrade(own), &[]);
        conn.accept(machine);
        let at = upgrade(own).len() as u32;
        conn.goes_up(machine, &conn.up(PSH | ACK, at, 0, &upgrade(other)), &[]);
    });
}

#[test]
fn an_upgrade_without_a_key_counts_no_connection() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let at = get("tea").len() as u32;
        let upgrade = b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        conn.goes_up(machine, &conn.up(PSH | ACK, at, 0, upgrade), &[]);
    });
}

#[test]
fn a_chat_of_several_parts_is_no_violation() {
    let mut world = World::default();
    world.services[Kind::Home as usize].1.width = 16;
    on_all(&world, |machine, family| {
        for port in 1000..1040 {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.establish(machine, "tea");
            let at = get("tea").len() as u32;
            let upgrade = b"GET /ws?chat=coffee HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
            conn.goes_up(machine, &conn.up(PSH | ACK, at, 0, upgrade), &[]);
        }
    });
}

/// What one packet counted.
type Moved = Vec<(Counter, u64)>;

/// Runs the segments until the connection is bound, and tells the verdicts, the chat and its home.
fn verdicts(
    machine: &mut dyn Machine,
    cuts: &[(usize, usize)],
    port: u16,
) -> (Vec<Moved>, Vec<Vec<u8>>) {
    // A client of its own for each, or the limit on RSTs would count in.
    let mut conn = Conn::new(Family::V4, Kind::Home, port, port);
    conn.open(machine);
    let mut all = Vec::new();
    for (from, to) in cuts {
        let outcome = machine.run(Hook::Ingress, &piece(&conn, *from, *to).bytes());
        if outcome.verdict() == Counter::Bound {
            let to = outcome.segment().dst;
            conn.replica =
                (0..8).find(|number| replica_addr(Family::V4, *number) == to).expect("a replica");
        }
        all.push(outcome.moved);
    }
    let mut delivered = Vec::new();
    if conn.replica != u32::MAX {
        let outcome = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
        all.push(outcome.moved.clone());
        // What differs between the two are their clocks: numbers and timestamps.
        let segments = outcome.copies.iter().chain([&outcome.frame]);
        delivered = segments.map(|frame| Seg::parse(frame).expect("a segment").payload).collect();
    }
    (all, delivered)
}

#[test]
fn the_kernel_does_as_the_host() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
    let world = World::default();
    let machines = std::cell::RefCell::new((Host::new(&world), Rig::new(&world), 1000u16));
    let cut = (0..HEAD.len() - 1).prop_flat_map(|from| (Just(from), from + 1..HEAD.len()));
    let cuts = prop::collection::vec(cut, 1..7);
    proptest!(config, |(mut cuts in cuts, whole in any::<bool>(), at in 0usize..7)| {
        if whole {
            // Often enough there must be a key.
            cuts.insert(at.min(cuts.len()), (0, KEY_ENDS));
        }
        let (host, kernel, port) = &mut *machines.borrow_mut();
        *port += 1;
        prop_assert_eq!(verdicts(host, &cuts, *port), verdicts(kernel, &cuts, *port));
    });
}
