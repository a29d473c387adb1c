//! The programs that a packet goes through: that each is small, and what becomes of a packet if one is not there.

use roost_tests::run::{
    Family, Hook, Machine as _,
    frame::{ACK, PSH, Seg},
    kernel::{MOST_VERIFIED, Rig, verified},
    talk::{Conn, get},
    world::{Kind, World, client},
};
use router_ebpf::{
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
