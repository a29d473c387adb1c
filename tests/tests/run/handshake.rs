//! Handshakes, and segments of established flows in both directions.

use etherparse::TcpOptionElement::{Noop, Timestamp};
use roost_tests::run::{
    Hook,
    frame::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Seg, options},
    live, on_all_and_inside,
    talk::{Conn, Offer, get, reset_for},
    world::{Kind, World},
};
use router_ebpf::verdict::Counter;

#[test]
fn a_connection_is_opened_bound_delivered_and_translated() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut port = 1000;
        for vlan in [vec![], vec![7], vec![7, 8]] {
            for timestamps in [true, false] {
                for sack in [true, false] {
                    for scale in [Some(0), Some(7), Some(14), None] {
                        port += 1;
                        let mut conn = Conn::new(family, Kind::Home, 1, port);
                        conn.vlan = vlan.clone();
                        conn.offer = Offer { mss: Some(1460), scale, sack, timestamps };
                        conn.establish(machine, "tea");
                        conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"more"), &[]);
                        conn.goes_down(machine, &conn.down(PSH | ACK, 0, 60, b"answer"), &[]);
                        conn.goes_up(machine, &conn.up(ACK, 64, 6, b""), &[]);
                    }
                }
            }
        }
    });
}

#[test]
fn the_replica_may_answer_less_or_more_than_was_announced() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut port = 1000;
        for client in [Offer::ALL, Offer { scale: Some(2), ..Offer::ALL }, Offer::NONE] {
            for scale in [None, Some(0), Some(7), Some(10), Some(14)] {
                for (sack, timestamps) in [(true, true), (true, false), (false, false)] {
                    port += 1;
                    let mut conn = Conn::new(family, Kind::Home, 1, port);
                    conn.offer = client;
                    conn.answer = Offer { mss: Some(1460), scale, sack, timestamps };
                    // A replica answers only what it was asked.
                    conn.answer.scale = scale.filter(|_| client.remembered().scale.is_some());
                    conn.establish(machine, "tea");
                    conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"more"), &[]);
                    conn.goes_down(machine, &conn.down(PSH | ACK, 0, 60, b"answer"), &[]);
                    let wide = Seg { window: 0xffff, ..conn.up(ACK, 64, 6, b"") };
                    conn.goes_up(machine, &wide, &[]);
                    let wide = Seg { window: 0xffff, ..conn.down(ACK, 6, 64, b"") };
                    conn.goes_down(machine, &wide, &[]);
                    let closed = Seg { window: 0, ..conn.down(ACK, 6, 64, b"") };
                    conn.goes_down(machine, &closed, &[]);
                }
            }
        }
    });
}

#[test]
fn what_a_client_offers_is_remembered_as_far_as_there_is_room_and_the_mss_never_above_the_service()
{
    on_all_and_inside(&World::default(), |machine, family| {
        let sizes = [None, Some(0), Some(500), Some(536), Some(1219), Some(1300), Some(1399)];
        let sizes = sizes.into_iter().chain([Some(1400), Some(1440), Some(9000), Some(65535)]);
        let mut port = 1000;
        for mss in sizes {
            for timestamps in [true, false] {
                for scale in [None, Some(2), Some(6), Some(7), Some(8), Some(14)] {
                    for sack in [true, false] {
                        port += 1;
                        let mut conn = Conn::new(family, Kind::Home, 1, port);
                        conn.offer = Offer { mss, scale, sack, timestamps };
                        conn.establish(machine, "tea");
                    }
                }
            }
        }
    });
}

#[test]
fn numbers_wrap_around() {
    on_all_and_inside(&World::default(), |machine, family| {
        let edges = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffb0, 0xffff_fffe, 0xffff_ffff];
        let mut port = 1000;
        for isn in edges {
            for replica_isn in edges {
                port += 1;
                let mut conn = Conn::new(family, Kind::Home, 1, port);
                (conn.isn, conn.replica_isn) = (isn, replica_isn);
                (conn.client_ts, conn.replica_ts) = (replica_isn | 1, isn | 1);
                conn.establish(machine, "tea");
                conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"more"), &[]);
                conn.goes_down(machine, &conn.down(PSH | ACK, 0, 60, b"answer"), &[]);
                let near = conn.cookie.wrapping_neg();
                let blocks = [(near.wrapping_sub(3), near.wrapping_add(5))];
                let seg = conn.up_sack(64, 6, &blocks);
                machine
                    .run(Hook::Ingress, &seg.bytes())
                    .counts(&[Counter::ToReplica])
                    .leaves(&conn.to_replica_sack(&seg, &blocks).bytes());
            }
        }
    });
}

#[test]
fn sack_blocks_are_translated() {
    on_all_and_inside(&World::default(), |machine, family| {
        for (port, timestamps) in [(1000, true), (1001, false)] {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.offer.timestamps = timestamps;
            conn.establish(machine, "tea");
            let most = if timestamps { 3 } else { 4 };
            let all = [(100, 200), (300, 450), (501, 777), (1000, 0x7fff_0000)];
            for count in 1..=most {
                let seg = conn.up_sack(60, 50, &all[..count]);
                machine
                    .run(Hook::Ingress, &seg.bytes())
                    .counts(&[Counter::ToReplica])
                    .leaves(&conn.to_replica_sack(&seg, &all[..count]).bytes());
            }
            // Those of the replica are in the client's numbers already.
            let down = conn.down(ACK, 0, 60, b"");
            let sack = conn.up_sack(0, 0, &all[..1]).options;
            if !timestamps {
                conn.goes_down(machine, &Seg { options: sack, ..down }, &[]);
            }
        }
    });
}

#[test]
fn options_at_odd_offsets_are_translated() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        for nops in 0..=9 {
            let pad = |value, echo| {
                let mut list = vec![Noop; nops];
                list.push(Timestamp(value, echo));
                options(&list)
            };
            let (value, echo) = (conn.client_ts + 77, conn.our_ts.wrapping_add(4));
            let seg = Seg { options: pad(value, echo), ..conn.up(PSH | ACK, 60, 0, b"odd") };
            let out = conn.to_replica(&seg);
            let out = Seg { options: pad(value, echo.wrapping_sub(conn.ts_delta())), ..out };
            machine
                .run(Hook::Ingress, &seg.bytes())
                .counts(&[Counter::ToReplica])
                .leaves(&out.bytes());
        }
    });
}

#[test]
fn segments_keep_what_is_not_translated() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let seg = Seg { ecn: 3, id: 0xbeef, ttl: 3, ..conn.up(PSH | ACK | ECE | CWR, 60, 0, b"x") };
        conn.goes_up(machine, &seg, &[]);
        let seg = Seg { ecn: 2, id: 0xbeef, ttl: 3, ..conn.down(PSH | ACK | ECE, 0, 60, b"x") };
        conn.goes_down(machine, &seg, &[]);
        // A frame that was padded to the least length stays padded.
        let seg = conn.up(ACK, 60, 0, b"");
        let pad = |seg: &Seg| [seg.bytes(), vec![0; 6]].concat();
        machine
            .run(Hook::Ingress, &pad(&seg))
            .counts(&[Counter::ToReplica])
            .leaves(&pad(&conn.to_replica(&seg)));
        // Without an ACK flag there is no acknowledgement to translate.
        let seg = Seg { ack: 0, ..conn.up(PSH, 60, 0, b"strange") };
        conn.goes_up(machine, &seg, &[]);
        // A wrong checksum stays wrong by as much: the replica sees it. It is the same in each run, because
        // one in 65536 looks unfinished.
        let ts = Timestamp(conn.client_ts.wrapping_add(5), 0x0765_4321);
        let options = options(&[Noop, Noop, ts]);
        let seg = Seg { options, ..conn.up(PSH | ACK, 60, 0, b"data") };
        let wrong = |seg: &Seg| {
            let mut bytes = seg.bytes();
            *bytes.last_mut().unwrap() ^= 0x55;
            bytes
        };
        machine
            .run(Hook::Ingress, &wrong(&seg))
            .counts(&[Counter::ToReplica])
            .leaves(&wrong(&conn.to_replica(&seg)));
    });
}

#[test]
fn the_first_segment_may_be_sent_again_while_the_replica_is_asked() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        conn.bind(machine, &get("tea"), &[]);
        assert_eq!((machine.pending().len(), live(machine)), (1, 0));
        conn.accept(machine);
        assert_eq!((machine.pending().len(), live(machine)), (0, 1));
        // The answer to the other SYN, and the segment a third time.
        machine
            .run(Hook::Egress, &conn.replica_syn_ack().bytes())
            .counts(&[Counter::DropSynAckAgain]);
        let first = conn.first.clone().unwrap();
        conn.goes_up(machine, &first, &[]);
        assert_eq!(live(machine), 1);
    });
}

#[test]
fn a_segment_before_the_first_waits_for_it() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let bare = conn.up(ACK, 1000, 0, b"");
        machine.run(Hook::Ingress, &bare.bytes()).counts(&[Counter::DropEarly]);
        let second = conn.up(PSH | ACK, 1000, 0, b"second");
        machine.run(Hook::Ingress, &second.bytes()).counts(&[Counter::HeadKept]);
        conn.bind(machine, &get("tea"), &[]);
        // What comes again repeats the SYN.
        machine
            .run(Hook::Ingress, &second.bytes())
            .counts(&[Counter::Bound])
            .leaves(&conn.replica_syn(&second).bytes());
        // What is behind a hole is left to its client, who has not heard of it.
        conn.first = Some(conn.up(PSH | ACK, 0, 0, &get("tea")));
        conn.accept(machine);
        conn.goes_up(machine, &second, &[]);
    });
}

#[test]
fn where_a_segment_belongs_is_known_before_the_first_one_is_there() {
    on_all_and_inside(&World::default(), |machine, family| {
        for timestamps in [true, false] {
            let mut conn = Conn::new(family, Kind::Home, 1, 1000 + u16::from(timestamps));
            conn.offer.timestamps = timestamps;
            conn.open(machine);
            // The last place that the cookie can tell, and the next: before there is a head, and after.
            let (last, next) = (conn.up(ACK, 16382, 0, b"far"), conn.up(ACK, 16383, 0, b"far"));
            machine
                .run(Hook::Ingress, &next.bytes())
                .counts(&[Counter::ResetUnknown])
                .leaves(&reset_for(&next).bytes());
            assert_eq!(machine.stash().len(), usize::from(!timestamps));
            machine.run(Hook::Ingress, &last.bytes()).counts(&[Counter::HeadKept]);
            machine.run(Hook::Ingress, &next.bytes()).counts(&[Counter::DropEarly]);
        }
    });
}

#[test]
fn the_offer_is_in_our_timestamp_and_comes_back_with_its_echo() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        // MSS 1460 is class 5, the scale 7, and SACK is permitted.
        assert_eq!(conn.our_ts & 0xff, 5 << 5 | 7 << 1 | 1);
        let first = |conn: &Conn| conn.up(PSH | ACK, 0, 0, &get("tea"));
        let other = Conn { our_ts: conn.our_ts ^ 1, ..conn.clone() };
        let without = Seg { options: Vec::new(), ..first(&conn) };
        for seg in [first(&other), without] {
            machine
                .run(Hook::Ingress, &seg.bytes())
                .counts(&[Counter::ResetUnknown])
                .leaves(&reset_for(&seg).bytes());
        }
        // Whatever else a client echoes: the replica's timestamps go on from there.
        conn.our_ts ^= 0x1234_5600;
        conn.bind(machine, &get("tea"), &[]);
        conn.accept(machine);
        conn.goes_down(machine, &conn.down(PSH | ACK, 0, 60, b"answer"), &[]);
        conn.goes_up(machine, &conn.up(ACK, 60, 6, b""), &[]);
    });
}

#[test]
fn the_stashed_segment_has_any_length_and_flags() {
    on_all_and_inside(&World::default(), |machine, family| {
        for (port, len) in (1000..).zip([18, 19, 100, 101, 1024, 1389]) {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.offer.timestamps = len % 2 == 0;
            conn.open(machine);
            let mut payload = get("tea");
            payload.resize(len.max(payload.len()), b'.');
            let flags = ACK | if len > 100 { PSH | ECE } else { 0 };
            conn.replica = u32::MAX;
            let first = Seg { ecn: 2, ..conn.up(flags, 0, 0, &payload) };
            conn.bind_with(machine, first, &[]);
            conn.accept(machine);
        }
    });
}

#[test]
fn an_early_fin_is_delivered_and_noted() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        conn.replica = u32::MAX;
        let first = conn.up(PSH | ACK | FIN, 0, 0, &get("tea"));
        conn.bind_with(machine, first, &[]);
        conn.accept(machine);
        assert_eq!(live(machine), 1);
        let sent = get("tea").len() as u32;
        conn.goes_down(machine, &conn.down(FIN | ACK, 0, sent + 1, b""), &[]);
        assert_eq!(live(machine), 1);
        conn.goes_up(machine, &conn.up(ACK, sent + 1, 1, b""), &[Counter::Closed]);
        assert_eq!(live(machine), 0);
    });
}

#[test]
fn without_its_stash_the_replica_is_acknowledged_and_the_client_sends_again() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        machine.clear_stash();
        let expected = Seg { window: 1, flags: ACK, payload: Vec::new(), ..conn.delivered() };
        machine
            .run(Hook::Egress, &conn.replica_syn_ack().bytes())
            .counts(&[Counter::DeliveredEmpty])
            .leaves(&expected.bytes());
        let first = conn.first.clone().unwrap();
        conn.goes_up(machine, &first, &[]);
    });
}

#[test]
fn a_refusal_reaches_the_client() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.vlan = vec![9];
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        let no = conn.down(RST | ACK, 0, 0, b"");
        let no = Seg { seq: 0, options: Vec::new(), window: 0, ..no };
        let expected = Seg {
            vlan: vec![9],
            ..Seg::new(
                conn.vip,
                conn.client,
                RST | ACK,
                conn.cookie.wrapping_add(1),
                conn.isn.wrapping_add(1),
            )
        };
        machine
            .run(Hook::Egress, &no.bytes())
            .counts(&[Counter::Refused])
            .leaves(&expected.bytes());
        assert_eq!((machine.pending().len(), machine.flows().len(), live(machine)), (0, 0, 0));
        // A second one belongs to nothing.
        machine.run(Hook::Egress, &no.bytes()).counts(&[Counter::EgressPassed]).leaves(&no.bytes());
    });
}

#[test]
fn an_answer_to_another_syn_is_reset() {
    on_all_and_inside(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        let answer = conn.replica_syn_ack();
        for flags in [SYN | ACK, ACK] {
            let stale = Seg { ack: answer.ack.wrapping_add(77), flags, ..answer.clone() };
            let expected = reset_for(&stale);
            machine
                .run(Hook::Egress, &stale.bytes())
                .counts(&[Counter::ResetReplica])
                .leaves(&expected.bytes());
        }
        for (flags, ack) in [(RST | ACK, answer.ack ^ 1), (RST, answer.ack)] {
            let stray = Seg { ack, flags, ..answer.clone() };
            machine.run(Hook::Egress, &stray.bytes()).counts(&[Counter::EgressDropStray]);
        }
        conn.accept(machine);
    });
}
