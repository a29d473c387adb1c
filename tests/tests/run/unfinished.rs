//! Segments whose checksum was left to a device: from a sender on the same machine, or merged by the
//! kernel before XDP in generic mode.

use std::net::IpAddr;

use roost_tests::run::{
    Family, Hook, Machine as _,
    frame::{ACK, FIN, PSH, RST, Seg},
    host::Host,
    kernel::Rig,
    on_all,
    talk::{Conn, get},
    world::{Kind, World, client, replica_addr},
};
use router_ebpf::{
    maps::{Link, STATE_EXPIRED},
    verdict::Counter,
};

/// The frame with only the sum of its pseudo-header where the checksum is (RFC 9293 section 3.1), as the
/// kernel leaves it to a device.
fn unfinished(seg: &Seg) -> Vec<u8> {
    let mut frame = seg.bytes();
    let (l4, mut sum) = (seg.l4(), 6u32);
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum()
    };
    for end in [seg.src.ip(), seg.dst.ip()] {
        sum += match end {
            IpAddr::V4(addr) => words(&addr.octets()),
            IpAddr::V6(addr) => words(&addr.octets()),
        };
    }
    sum += (frame.len() - l4) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[l4 + 16..l4 + 18].copy_from_slice(&(sum as u16).to_be_bytes());
    frame
}

#[test]
fn they_are_answered_bound_and_translated_and_stay_unfinished() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        let answer = machine.run(Hook::Ingress, &unfinished(&conn.syn()));
        let answer = answer.counts(&[Counter::SynAnswered]).segment();
        conn.cookie = answer.seq;
        conn.our_ts = answer.timestamps().map_or(0, |(value, _)| value);
        let ack = conn.up(ACK, 0, 0, b"");
        machine.run(Hook::Ingress, &unfinished(&ack)).counts(&[Counter::AckSwallowed]);

        let first = conn.up(PSH | ACK, 0, 0, &get("tea"));
        let bound = machine.run(Hook::Ingress, &unfinished(&first)).counts(&[Counter::Bound]);
        let to = Seg::parse(&bound.frame).expect("a SYN").dst;
        let replica = (0..8).find(|number| replica_addr(family, *number) == to);
        conn.replica = replica.expect("a replica");
        bound.leaves(&unfinished(&conn.replica_syn(&first)));
        conn.first = Some(first);
        conn.accept(machine);

        // As large as what the kernel merges, and as small as an acknowledgement.
        for (at, len) in [(60, 4), (64, 1400), (1464, 1401), (2865, 3000)] {
            let seg = conn.up(PSH | ACK, at, 0, &vec![b'x'; len]);
            machine
                .run(Hook::Ingress, &unfinished(&seg))
                .counts(&[Counter::ToReplica])
                .leaves(&unfinished(&conn.to_replica(&seg)));
        }
        for flags in [ACK, FIN | ACK] {
            let seg = conn.up(flags, 5865, 0, b"");
            machine
                .run(Hook::Ingress, &unfinished(&seg))
                .counts(&[Counter::ToReplica])
                .leaves(&unfinished(&conn.to_replica(&seg)));
        }
    });
}

/// At TC the kernel knows which they are. Test runs have none, so all that look so are wrong there.
#[test]
fn from_inside_only_the_kernel_is_believed() {
    for family in Family::ALL {
        let world = World::default();
        let mut rig = Rig::load(&world).inside().filled(&world.clone().starting_now());
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        rig.run(Hook::Ingress, &unfinished(&conn.syn())).counts(&[Counter::DropChecksum]);
        conn.open(&mut rig);
        let first = conn.up(PSH | ACK, 0, 0, &get("tea"));
        rig.run(Hook::Ingress, &unfinished(&first)).counts(&[Counter::DropChecksum]);
        conn.bind(&mut rig, &get("tea"), &[]);
        conn.accept(&mut rig);
        // Of a flow what was wrong stays wrong.
        let seg = conn.up(PSH | ACK, 60, 0, b"more");
        let gone = rig.run(Hook::Ingress, &unfinished(&seg)).counts(&[Counter::ToReplica]);
        assert_ne!(gone.frame, conn.to_replica(&seg).bytes());
        assert_ne!(gone.frame, unfinished(&conn.to_replica(&seg)));
    }
}

/// Who has no way back by the link that he came by is not answered, and neither binds nor ends anything.
#[test]
fn from_inside_nobody_is_heard_whose_way_is_another_one() {
    for family in Family::ALL {
        let world = World::default();
        let mut rig = Rig::load(&world).inside().filled(&world.clone().starting_now());
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(&mut rig, "tea");
        let mut other = Conn::new(family, Kind::Home, 2, 1001);
        other.open(&mut rig);
        let unknown = Conn::new(family, Kind::Home, 3, 1002);
        // The namespace of test runs has no routes; and the other one is no index.
        for link in [Link { by: 1 }, Link::REFUSED] {
            rig.set_link(link);
            let (flows, heads) = (rig.flows(), rig.stash());
            for seg in [
                conn.syn(),
                conn.up(FIN | ACK, 60, 0, b""),
                conn.up(RST | ACK, 60, 0, b""),
                other.up(PSH | ACK, 0, 0, &get("tea")),
                unknown.syn(),
                unknown.up(ACK, 0, 0, b""),
                unknown.up(RST, 0, 0, b""),
            ] {
                rig.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::DropOtherLink]);
            }
            assert_eq!((rig.flows(), rig.stash()), (flows, heads));
        }
        // What is only translated is left to the kernel.
        let seg = conn.up(ACK, 60, 0, b"");
        rig.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::ToReplica]);
        // It was for the link, and nothing is left of it.
        rig.set_link(Link::UNCHECKED);
        conn.goes_up(&mut rig, &conn.up(FIN | ACK, 60, 0, b""), &[]);
        other.bind(&mut rig, &get("tea"), &[]);
    }
}

#[test]
fn finished_ones_that_look_like_them_are_told_apart() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let mut seg = conn.up(PSH | ACK, 60, 0, b"..like it");
        // One of all values of two bytes gives it just that checksum.
        let found = (0..=u16::MAX).any(|value| {
            seg.payload[..2].copy_from_slice(&value.to_be_bytes());
            seg.bytes() == unfinished(&seg)
        });
        assert!(found, "no payload gives this checksum");
        conn.goes_up(machine, &seg, &[]);
        // What is wrong stays wrong, and is dropped where it can be known.
        let mut other = Conn::new(family, Kind::Home, 2, 1001);
        other.open(machine);
        // Else its checksum depends on the time, and looks unfinished once in 65536. The lowest bits are the offer.
        other.our_ts = 0x0765_4300 | other.our_ts & 0xff;
        let mut broken = other.up(PSH | ACK, 0, 0, &get("tea")).bytes();
        *broken.last_mut().expect("bytes") ^= 1;
        machine.run(Hook::Ingress, &broken).counts(&[Counter::DropChecksum]);
    });
}

/// In generic mode a frame may be as large as the link carries: finished, and only once in 65536 like one
/// that is not. No test run of the kernel takes such a frame; `generic_mode_works_and_is_warned_of` sends many.
#[test]
fn finished_jumbo_frames_that_look_like_them_are_told_apart() {
    for family in Family::ALL {
        let mut host = Host::new(&World::default().starting_now());
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(&mut host, "tea");
        for len in [4096, 4097, 8192, 8193, 8948, 3 * 4096] {
            let mut seg = conn.up(PSH | ACK, 60, 0, &vec![b'x'; len]);
            host.run(Hook::Ingress, &unfinished(&seg))
                .counts(&[Counter::ToReplica])
                .leaves(&unfinished(&conn.to_replica(&seg)));
            let found = (0..=u16::MAX).any(|value| {
                let at = len & !1;
                seg.payload[at - 2..at].copy_from_slice(&value.to_be_bytes());
                seg.bytes() == unfinished(&seg)
            });
            assert!(found, "no payload of {len} bytes gives this checksum");
            host.run(Hook::Ingress, &seg.bytes())
                .counts(&[Counter::ToReplica])
                .leaves(&conn.to_replica(&seg).bytes());
        }
    }
}

/// Of more than 64 KB IP says no length: they are of a flow, or nobody's. No test run of the kernel takes them either.
#[test]
fn what_is_longer_than_ip_can_say_is_translated_or_dropped() {
    for family in Family::ALL {
        let mut host = Host::new(&World::default().starting_now());
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(&mut host, "tea");
        let up = conn.up(PSH | ACK, 60, 0, b"much");
        host.run(Hook::Ingress, &up.merged())
            .counts(&[Counter::ToReplica])
            .leaves(&conn.to_replica(&up).merged());
        let down = conn.down(PSH | ACK, 0, 60, b"much");
        host.run(Hook::Egress, &down.merged())
            .counts(&[Counter::ToClient])
            .leaves(&conn.to_client(&down).merged());
        let other = Seg { src: client(family, 1, 1001), ..up.clone() };
        host.run(Hook::Ingress, &other.merged()).counts(&[Counter::DropMalformed]);
        // Of one that Roost has ended: who sends it comes again with less, and is told then.
        let (tuple, mut flow) = host.flows()[0];
        flow.state |= STATE_EXPIRED;
        host.set_flow(&tuple, &flow);
        host.run(Hook::Ingress, &up.merged()).counts(&[Counter::DropMalformed]);
        let (tuple, mut back) = host.flows_back()[0];
        back.state |= STATE_EXPIRED;
        host.set_flow_back(&tuple, &back);
        host.run(Hook::Egress, &down.merged()).counts(&[Counter::EgressDropStray]);
    }
}
