//! One packet each: what goes in, the verdict, the exact bytes that come out, the exact counters.

use std::net::SocketAddr;

use etherparse::{
    PacketBuilder,
    TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    },
};
use roost_tests::run::{
    Family, Hook,
    frame::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Seg, options},
    on_all,
    talk::{Conn, Offer, get, reset_for},
    world::{Kind, World, client, replica_addr},
};
use router_ebpf::verdict::Counter;

/// What becomes of the bytes.
enum Left {
    Same,
    Dropped,
    As(Vec<u8>),
}

struct Row(&'static str, Vec<u8>, Counter, Left);

#[track_caller]
fn check(world: &World, hook: Hook, rows: impl Fn(Family) -> Vec<Row>) {
    on_all(world, |machine, family| {
        for Row(name, frame, counter, left) in rows(family) {
            println!("{} {family:?}: {name}", machine.name());
            // The kernel makes no socket buffer of a frame that ends before its IP header.
            if hook == Hook::Egress && frame.len() < 34 && machine.name() == "kernel" {
                continue;
            }
            let outcome = machine.run(hook, &frame).counts(&[counter]);
            match left {
                Left::Same => drop(outcome.leaves(&frame)),
                Left::As(expected) => drop(outcome.leaves(&expected)),
                Left::Dropped => {}
            }
        }
        assert!(machine.flows().is_empty() && machine.pending().is_empty(), "no state is made");
        assert!(machine.chats().is_empty(), "no state is made");
    });
}

/// A frame with another byte at this place of the IP header.
fn with_ip(seg: &Seg, at: usize, byte: u8) -> Vec<u8> {
    let mut frame = seg.bytes();
    frame[seg.l3() + at] = byte;
    frame
}

/// A frame with another byte at this place of the TCP header.
fn with_tcp(seg: &Seg, at: usize, byte: u8) -> Vec<u8> {
    let mut frame = seg.bytes();
    frame[seg.l4() + at] = byte;
    frame
}

/// A frame with this data offset, in words.
fn with_offset(seg: &Seg, words: u8) -> Vec<u8> {
    with_tcp(seg, 12, words << 4)
}

fn udp(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = match (src, dst) {
        (SocketAddr::V4(src), SocketAddr::V4(dst)) => {
            builder.ipv4(src.ip().octets(), dst.ip().octets(), 64)
        }
        (SocketAddr::V6(src), SocketAddr::V6(dst)) => {
            builder.ipv6(src.ip().octets(), dst.ip().octets(), 64)
        }
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    builder.udp(src.port(), dst.port()).write(&mut frame, b"datagram").unwrap();
    frame
}

fn echo_request(family: Family) -> Vec<u8> {
    let kind = if family == Family::V4 { 8 } else { 128 };
    let (src, dst) = (client(family, 1, 0).ip(), Kind::Home.vip(family).ip());
    roost_tests::run::frame::icmp_error(src, dst, (kind, 0), [0, 1, 0, 1], &[0x5a; 64])
}

/// What is passed at both hooks, made of a segment that would otherwise be looked at.
fn not_ours(family: Family, seg: &Seg) -> Vec<Row> {
    let hook_passes = |name, frame| Row(name, frame, Counter::IngressPassed, Left::Same);
    let mut rows = vec![
        hook_passes("ARP", {
            let mut frame = vec![0xff; 42];
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            frame
        }),
        hook_passes("UDP", udp(seg.src, seg.dst)),
        hook_passes("an Ethernet header alone", seg.bytes()[..14].to_vec()),
        hook_passes("cut within the IP header", seg.bytes()[..seg.l3() + 10].to_vec()),
        hook_passes("cut within the TCP header", seg.bytes()[..seg.l4() + 10].to_vec()),
        hook_passes("cut by a byte", seg.bytes()[..seg.bytes().len() - 1].to_vec()),
        hook_passes("another IP version", with_ip(seg, 0, 0x55)),
        hook_passes("three VLAN tags", {
            let mut frame = Seg { vlan: vec![1, 2], ..seg.clone() }.bytes();
            frame.splice(12..12, [0x88, 0xa8, 0, 9]);
            frame
        }),
        hook_passes("a VLAN tag and nothing", {
            let mut frame = seg.bytes()[..12].to_vec();
            frame.extend([0x81, 0, 0, 1]);
            frame
        }),
        hook_passes("ICMP echo", echo_request(family)),
    ];
    if family == Family::V4 {
        rows.extend([
            hook_passes("a first fragment", Seg { fragment: (true, 0), ..seg.clone() }.bytes()),
            hook_passes("a later fragment", Seg { fragment: (false, 90), ..seg.clone() }.bytes()),
            hook_passes("a middle one", Seg { fragment: (true, 4096), ..seg.clone() }.bytes()),
            hook_passes("an IP header that is too short", with_ip(seg, 0, 0x44)),
            hook_passes("a length below the IP header's", {
                let mut frame = with_ip(seg, 3, 19);
                frame[seg.l3() + 2] = 0;
                frame
            }),
        ]);
    } else {
        for (name, next) in [("a fragment", 44), ("hop-by-hop options", 0), ("routing", 43)] {
            rows.push(hook_passes(name, with_ip(seg, 6, next)));
        }
        rows.push(hook_passes("no room for a TCP header", {
            let mut frame = with_ip(seg, 5, 19);
            frame[seg.l3() + 4] = 0;
            frame
        }));
    }
    rows
}

#[test]
fn what_is_not_ours_is_passed_from_the_client_side() {
    check(&World::default(), Hook::Ingress, |family| {
        let syn = Conn::new(family, Kind::Home, 1, 1000).syn();
        let mut rows = not_ours(family, &syn);
        let other_port = SocketAddr::new(syn.dst.ip(), 7);
        let other_addr = SocketAddr::new(replica_addr(family, 0).ip(), syn.dst.port());
        for (name, dst) in [("another port", other_port), ("another address", other_addr)] {
            let seg = Seg { dst, ..syn.clone() };
            rows.push(Row(name, seg.bytes(), Counter::IngressPassed, Left::Same));
        }
        rows
    });
}

#[test]
fn what_is_not_ours_is_passed_to_the_client_side() {
    check(&World::default(), Hook::Egress, |family| {
        let from = replica_addr(family, 0);
        let seg = Seg::new(from, client(family, 1, 1000), SYN | ACK, 1, 2);
        let mut rows = not_ours(family, &seg);
        for (name, flags) in [
            ("SYN-ACK", SYN | ACK),
            ("SYN", SYN),
            ("RST", RST),
            ("ACK", ACK),
            ("FIN", FIN | ACK),
            ("no flags", 0),
        ] {
            let seg = Seg { flags, ..seg.clone() };
            rows.push(Row(name, seg.bytes(), Counter::EgressPassed, Left::Same));
        }
        rows.push(Row("data offset", with_offset(&seg, 4), Counter::EgressPassed, Left::Same));
        for row in &mut rows {
            row.2 = Counter::EgressPassed;
        }
        rows
    });
}

#[test]
fn what_is_ours_and_broken_is_dropped() {
    check(&World::default(), Hook::Ingress, |family| {
        let conn = Conn::new(family, Kind::Home, 1, 1000);
        let syn = conn.syn();
        let drops = |name, frame, counter| Row(name, frame, counter, Left::Dropped);
        let mut rows = vec![
            drops("a data offset of 4", with_offset(&syn, 4), Counter::DropMalformed),
            drops("a data offset of 0", with_offset(&syn, 0), Counter::DropMalformed),
            drops("a data offset beyond the end", with_offset(&syn, 15), Counter::DropMalformed),
            drops("a wrong checksum", with_tcp(&syn, 16, 0x11), Counter::DropChecksum),
            drops("a wrong window", with_tcp(&syn, 14, 0x77), Counter::DropChecksum),
            drops("a wrong option", with_tcp(&syn, 22, 0x77), Counter::DropChecksum),
        ];
        for (name, flags) in [
            ("SYN and ACK", SYN | ACK),
            ("SYN and RST", SYN | RST),
            ("SYN and FIN", SYN | FIN),
            ("all", 0xff),
            ("none", 0),
            ("FIN", FIN),
            ("PSH", PSH),
        ] {
            let seg = Seg { flags, ..syn.clone() };
            rows.push(drops(name, seg.bytes(), Counter::DropFlags));
        }
        for (name, flags) in [("RST", RST), ("RST and ACK", RST | ACK)] {
            let seg = Seg { flags, ..syn.clone() };
            rows.push(drops(name, seg.bytes(), Counter::DropStrayReset));
        }
        if family == Family::V4 {
            let seg = Seg { ip_options: vec![1, 1, 1, 0], ..syn.clone() };
            rows.push(drops("IPv4 options", seg.bytes(), Counter::DropMalformed));
        }
        rows
    });
}

#[test]
fn what_belongs_to_nothing_is_reset() {
    check(&World::default(), Hook::Ingress, |family| {
        let conn = Conn::new(family, Kind::Home, 1, 1000);
        let resets = |name, seg: &Seg, counter| {
            Row(name, seg.bytes(), counter, Left::As(reset_for(seg).bytes()))
        };
        let mut rows = Vec::new();
        for vlan in [vec![], vec![5], vec![5, 6]] {
            let seg = Seg { vlan: vlan.clone(), ecn: 1, ..conn.up(ACK, 0, 0, b"") };
            rows.push(resets("ACK", &seg, Counter::ResetUnknown));
            let seg = Seg { payload: b"data".to_vec(), ..seg };
            rows.push(resets("data", &seg, Counter::ResetUnknown));
            let seg = Seg { flags: FIN | ACK, ..seg };
            rows.push(resets("FIN", &seg, Counter::ResetUnknown));
            let empty = Conn::new(family, Kind::Empty, 1, 1000);
            let syn = Seg { vlan, ..empty.syn() };
            rows.push(resets("no replica", &syn, Counter::ResetNoReplica));
            let syn = Seg { payload: b"early".to_vec(), ..syn };
            rows.push(resets("no replica, data in the SYN", &syn, Counter::ResetNoReplica));
        }
        rows
    });
}

#[test]
fn without_secrets_nothing_is_answered() {
    let mut world = World::default();
    world.secrets.schema = 0;
    check(&world, Hook::Ingress, |family| {
        let conn = Conn::new(family, Kind::Home, 1, 1000);
        let fault = |name, seg: Seg| Row(name, seg.bytes(), Counter::DropFault, Left::Dropped);
        vec![fault("SYN", conn.syn()), fault("data", conn.up(ACK, 0, 0, b"data"))]
    });
}

/// A SYN, and what is offered back.
#[test]
fn a_syn_is_answered_in_kind() {
    on_all(&World::default(), |machine, family| {
        let all = [MaximumSegmentSize(1460), WindowScale(7), SelectiveAcknowledgementPermitted];
        let stamp = Timestamp(0x0abc_def0, 0);
        let rest = [vec![all[1].clone(), all[2].clone()], vec![stamp, Noop]].concat();
        let odd = [options(&rest), options(&[all[0].clone()])].concat();
        let unknown = [vec![34, 6, 1, 2, 3, 4, 254, 4, 9, 9], Offer::ALL.syn_options((7, 0))];
        let base = Conn::new(family, Kind::Home, 1, 1000);
        let mut port = 1000;
        let mut answered = |name: &str, offer: Offer, change: &dyn Fn(Seg) -> Seg| {
            port += 1;
            println!("{} {family:?}: {name}", machine.name());
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.offer = offer;
            let syn = change(conn.syn());
            conn.client_ts = syn.timestamps().map_or(0, |(value, _)| value);
            let outcome = machine.run(Hook::Ingress, &syn.bytes()).counts(&[Counter::SynAnswered]);
            let answer = outcome.segment();
            conn.cookie = answer.seq;
            conn.our_ts = answer.timestamps().map_or(0, |(value, _)| value);
            outcome.leaves(&conn.syn_ack().bytes());
            let ack = conn.up(ACK, 0, 0, b"");
            machine.run(Hook::Ingress, &ack.bytes()).counts(&[Counter::AckSwallowed]);
        };
        answered("plain", Offer::ALL, &|seg| seg);
        answered("with data", Offer::ALL, &|seg| Seg { payload: b"early data".to_vec(), ..seg });
        answered("with ECN", Offer::ALL, &|seg| Seg { flags: SYN | ECE | CWR, ecn: 1, ..seg });
        answered("with PSH", Offer::ALL, &|seg| Seg { flags: SYN | PSH, ..seg });
        answered("no options", Offer::NONE, &|seg| Seg { options: Vec::new(), ..seg });
        answered("another order", Offer::ALL, &|seg| Seg { options: odd.clone(), ..seg });
        answered("unknown options", Offer::ALL, &|seg| Seg {
            options: [unknown[0].clone(), vec![1, 1], unknown[1].clone()].concat(),
            ..seg
        });
        let ended = Offer { mss: Some(1460), ..Offer::NONE };
        answered("an end before the rest", ended, &|seg| Seg {
            options: [options(&all[..1]), vec![0; 4], options(&all[1..])].concat(),
            ..seg
        });
        for (name, bad) in [
            ("a length of 0", [3, 0, 7, 1]),
            ("a length of 1", [3, 1, 7, 1]),
            ("a length beyond the end", [3, 50, 7, 1]),
            ("an option without a length", [1, 1, 1, 3]),
        ] {
            answered(name, ended, &|seg| Seg {
                options: [options(&all[..1]), bad.to_vec()].concat(),
                ..seg
            });
        }
        answered("lengths that do not fit their kind", Offer::NONE, &|seg| Seg {
            options: vec![2, 3, 5, 3, 4, 7, 7, 8, 4, 0, 0, 4, 3, 0, 1, 1],
            ..seg
        });
        let wide = Offer { scale: Some(20), ..Offer::ALL };
        answered("a scale beyond the largest", wide, &|seg| seg);
        let padded = base.syn();
        let padded = [padded.bytes(), vec![0xee; 20]].concat();
        let outcome = machine.run(Hook::Ingress, &padded).counts(&[Counter::SynAnswered]);
        outcome.segment();
    });
}

#[test]
fn a_broken_first_segment_binds_nothing() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        // Else its checksum depends on the time, and looks unfinished once in 65536.
        conn.our_ts = 0x0765_4300 | conn.our_ts & 0xff;
        let first = conn.up(PSH | ACK, 0, 0, &get("tea"));
        for at in [16, 14, 24, 40, 60] {
            let bytes = with_tcp(&first, at, first.bytes()[first.l4() + at] ^ 1);
            machine.run(Hook::Ingress, &bytes).counts(&[Counter::DropChecksum]);
        }
        // A cookie of another handshake, tuple or ISN.
        for (name, seg) in [
            ("another port", Seg { src: client(family, 1, 1001), ..first.clone() }),
            ("another client", Seg { src: client(family, 2, 1000), ..first.clone() }),
            ("another service", Seg { dst: Kind::Spread.vip(family), ..first.clone() }),
            ("another cookie", Seg { ack: first.ack ^ 0x4000_0000, ..first.clone() }),
        ] {
            println!("{name}");
            machine
                .run(Hook::Ingress, &seg.bytes())
                .counts(&[Counter::ResetUnknown])
                .leaves(&reset_for(&seg).bytes());
        }
        let seg = Seg { seq: first.seq + 0x10, ..first };
        machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::HeadKept]);
        assert!(machine.pending().is_empty() && machine.chats().is_empty());
    });
}
