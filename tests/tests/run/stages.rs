//! The programs that a packet goes through: that each is small, and what becomes of a packet if one is not there.

use roost_tests::run::{
    Family, Hook, Machine as _,
    frame::{ACK, FIN, PSH, RST, SYN, Seg},
    host::{Bytes, Host},
    kernel::{MOST_VERIFIED, Rig, verified},
    talk::{Conn, Offer, get},
    world::{Kind, World, client},
};
use router_ebpf::{
    shortcut::Short,
    stage::Stage,
    verdict::{Action, Counter},
};

/// On this kernel; `cargo xtask test --kernels` asks the same of others.
#[test]
fn the_verifier_has_little_to_look_at() {
    for events in [false, true] {
        for (program, instructions) in verified(events) {
            let with = if events { "with events" } else { "" };
            println!("{program:14} {instructions:>7} {with}");
            assert!(instructions <= MOST_VERIFIED, "{program}: {instructions} {with}");
        }
    }
}

/// What is ours is dropped and counted then, and nothing else is touched.
#[test]
fn without_the_program_that_goes_on_a_packet_is_dropped() {
    for family in Family::ALL {
        let world = World::default();
        let mut rig = Rig::new(&world);
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(&mut rig);
        rig.remove(Stage::Bind);
        let first = conn.up(PSH | ACK, 0, 0, &get("tea"));
        rig.run(Hook::Ingress, &first.bytes()).counts(&[Counter::DropFault]);
        rig.remove(Stage::Open);
        rig.run(Hook::Ingress, &conn.syn().bytes()).counts(&[Counter::DropFault]);
        let other = Seg { dst: client(family, 9, 80), ..conn.syn() }.bytes();
        rig.run(Hook::Ingress, &other).counts(&[Counter::IngressPassed]).leaves(&other);

        let mut rig = Rig::new(&world);
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(&mut rig);
        conn.bind(&mut rig, &get("tea"), &[]);
        rig.remove(Stage::Answer);
        let answer = conn.replica_syn_ack();
        let dropped = rig.run(Hook::Egress, &answer.bytes()).counts(&[Counter::EgressDropFault]);
        assert_eq!(dropped.action, Action::Drop);
        let other = Seg { dst: client(family, 9, 80), ..answer }.bytes();
        rig.run(Hook::Egress, &other).counts(&[Counter::EgressPassed]).leaves(&other);
    }
}

/// What goes the short way leaves like what goes the long way; what is anything special takes the long way, and
/// has not been touched before. (The tests of packets compare the two, too: only the kernel has a short way.)
#[test]
fn usual_segments_go_the_short_way_and_others_the_long_one() {
    for (family, offer) in [
        (Family::V4, Offer::ALL),
        (Family::V6, Offer::ALL),
        (Family::V4, Offer::NONE),
        (Family::V6, Offer::NONE),
    ] {
        let mut host = Host::new(&World::default().starting_now());
        // Its segments are not looked at for requests.
        let mut conn = Conn::new(family, Kind::Spread, 1, 1000);
        conn.offer = offer;
        conn.establish(&mut host, "tea");
        let short = |host: &mut Host, hook: Hook, frame: &[u8]| {
            let stage = if hook == Hook::Ingress { Stage::Ingress } else { Stage::Egress };
            let mut packet = Bytes::new(frame.to_vec());
            let (tables, scratch) = host.parts();
            let verdict = stage.run_short(&mut packet, tables, scratch);
            assert!(verdict.is_some() || packet.frame == frame, "it was touched");
            verdict.map(|verdict| (verdict, packet.frame))
        };
        for payload in [&b""[..], b"a longer one"] {
            let up = conn.up(PSH | ACK, 60, 0, payload);
            let gone = short(&mut host, Hook::Ingress, &up.bytes());
            assert_eq!(
                gone,
                Some((Short::Passed(Counter::ToReplica), conn.to_replica(&up).bytes()))
            );
            let down = conn.down(PSH | ACK, 0, 60, payload);
            let gone = short(&mut host, Hook::Egress, &down.bytes());
            assert_eq!(
                gone,
                Some((Short::Passed(Counter::ToClient), conn.to_client(&down).bytes()))
            );
            let others = [
                Seg { vlan: vec![7], ..up.clone() },
                Seg { flags: FIN | ACK, ..up.clone() },
                Seg { flags: RST, ..up.clone() },
                Seg { flags: SYN, ..up.clone() },
                Seg { flags: PSH, ..up.clone() },
                conn.up_sack(60, 0, &[(100, 200)]),
            ];
            for other in others {
                assert_eq!(short(&mut host, Hook::Ingress, &other.bytes()), None, "{other:?}");
            }
            let other = Seg { dst: Kind::Home.vip(family), ..up.clone() }.bytes();
            let known = short(&mut host, Hook::Ingress, &other);
            assert_eq!(known, Some((Short::Absent, other)), "that it has no flow is known");
            // Of more than 64 KB: it is refused on the long way.
            let merged = Seg { dst: Kind::Home.vip(family), ..up.clone() }.merged();
            assert_eq!(short(&mut host, Hook::Ingress, &merged), None);
            host.run(Hook::Ingress, &merged).counts(&[Counter::DropMalformed]);
            let padded = [up.bytes(), vec![0; 6]].concat();
            let expected = [conn.to_replica(&up).bytes(), vec![0; 6]].concat();
            assert_eq!(
                short(&mut host, Hook::Ingress, &padded),
                Some((Short::Passed(Counter::ToReplica), expected))
            );
            let mut cut = up.bytes();
            cut.pop();
            assert_eq!(short(&mut host, Hook::Ingress, &cut), None);
        }
        // Not ours.
        let far = Seg { dst: client(family, 9, 80), ..conn.up(ACK, 0, 0, b"not ours") }.bytes();
        assert_eq!(
            short(&mut host, Hook::Ingress, &far),
            Some((Short::Passed(Counter::IngressPassed), far.clone()))
        );
        assert_eq!(
            short(&mut host, Hook::Egress, &far),
            Some((Short::Passed(Counter::EgressPassed), far.clone()))
        );
        // Of a flow that a new connection may take the place of.
        host.run(Hook::Ingress, &conn.syn().bytes());
        let up = conn.up(ACK, 60, 0, b"").bytes();
        assert_eq!(short(&mut host, Hook::Ingress, &up), None);
    }
}
