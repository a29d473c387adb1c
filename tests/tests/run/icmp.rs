//! ICMP errors about translated segments.

use std::net::IpAddr;

use roost_tests::run::{
    Family, Hook,
    frame::{ACK, PSH, RST, Seg, icmp_error},
    on_all,
    talk::{Conn, get},
    world::{Kind, World, client},
};
use router_ebpf::verdict::Counter;

/// Types that are errors.
fn errors(family: Family) -> &'static [(u8, u8)] {
    match family {
        Family::V4 => &[(3, 4), (3, 1), (11, 0), (12, 0)],
        Family::V6 => &[(2, 0), (1, 4), (3, 0), (4, 0)],
    }
}

/// The first bytes of a segment's packet: its IP header and so much of TCP.
fn quoted(seg: &Seg, tcp: usize) -> Vec<u8> {
    let bytes = seg.bytes();
    bytes[seg.l3()..(seg.l4() + tcp).min(bytes.len())].to_vec()
}

/// The same, with the TCP checksum of another segment: that one is not brought up to date.
fn quoted_with_checksum(seg: &Seg, tcp: usize, of: &Seg) -> Vec<u8> {
    let mut bytes = quoted(seg, tcp);
    let at = seg.l4() - seg.l3() + 16;
    if bytes.len() >= at + 2 {
        bytes[at..at + 2].copy_from_slice(&quoted(of, tcp)[at..at + 2]);
    }
    bytes
}

/// The same quotes, and those of packets that were merged to more than 64 KB: with their length in a header between IPv6 and
/// TCP. Their TCP is known by its first bytes.
fn merged(family: Family, quote: &[u8]) -> Vec<Vec<u8>> {
    let mut quotes = vec![quote.to_vec()];
    if family == Family::V6 {
        let mut jumbo = quote.to_vec();
        jumbo[4..7].fill(0);
        jumbo.splice(40..40, [6, 0, 0xc2, 4, 0, 1, 0x20, 0]);
        quotes.push(jumbo);
    }
    quotes
}

const MTU: [u8; 4] = [0, 0, 5, 0x14];

#[test]
fn errors_from_the_client_side_reach_the_replica_in_its_numbers() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let sent = conn.down(PSH | ACK, 500, 60, &[0x77; 200]);
        let known = conn.to_client(&sent);
        let router = client(family, 99, 0).ip();
        for from in [router, conn.client.ip()] {
            for kind in errors(family) {
                for tcp in [8, 20, 32, 33, 100] {
                    let quote = quoted(&known, tcp);
                    // The client knows other options, which are not brought back.
                    let back = Seg { src: sent.src, seq: sent.seq, ..known.clone() };
                    let back = quoted_with_checksum(&back, tcp, &known);
                    for (quote, back) in merged(family, &quote).iter().zip(merged(family, &back)) {
                        let error = icmp_error(from, conn.vip.ip(), *kind, MTU, quote);
                        let expected = icmp_error(from, conn.server().ip(), *kind, MTU, &back);
                        machine
                            .run(Hook::Ingress, &error)
                            .counts(&[Counter::IcmpToReplica])
                            .leaves(&expected);
                    }
                }
            }
        }
    });
}

#[test]
fn errors_about_the_clients_segments_name_the_vip() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        // While the replica is asked, and after.
        for established in [false, true] {
            if established {
                conn.accept(machine);
            }
            let known = conn.up(PSH | ACK, 60, 0, &[0x77; 200]);
            let sent = conn.to_replica(&known);
            let router = client(family, 98, 0).ip();
            for from in [router, conn.server().ip()] {
                for kind in errors(family) {
                    for tcp in [8, 20, 100] {
                        let quote = quoted(&sent, tcp);
                        let back = Seg { dst: known.dst, ..sent.clone() };
                        let back = quoted_with_checksum(&back, tcp, &sent);
                        let as_vip: IpAddr = if from == router { router } else { conn.vip.ip() };
                        for (quote, back) in
                            merged(family, &quote).iter().zip(merged(family, &back))
                        {
                            let error = icmp_error(from, conn.client.ip(), *kind, MTU, quote);
                            let expected = icmp_error(as_vip, conn.client.ip(), *kind, MTU, &back);
                            machine
                                .run(Hook::Egress, &error)
                                .counts(&[Counter::IcmpToClient])
                                .leaves(&expected);
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn other_errors_are_passed() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let kind = errors(family)[0];
        let (vip, router) = (conn.vip.ip(), client(family, 99, 0).ip());
        let known = conn.to_client(&conn.down(PSH | ACK, 500, 60, &[0x77; 200]));
        let stranger = Seg { dst: client(family, 5, 5), ..known.clone() };
        let mut udp = quoted(&known, 20);
        udp[if family == Family::V4 { 9 } else { 6 }] = 17;
        let mut options = [quoted(&known, 20), vec![0; 8]].concat();
        if family == Family::V6 {
            // Another extension header, or more of it, than the kernel has for lengths.
            options[6] = 0;
            options.splice(40..40, [6, 0, 5, 2, 0, 0, 1, 0]);
        } else {
            options[0] = 0x46;
        }
        let query = if family == Family::V4 { (8, 0) } else { (128, 0) };
        for (name, kind, quote) in [
            ("an unknown flow", kind, quoted(&stranger, 8)),
            ("about UDP", kind, udp),
            ("other extensions or options", kind, options),
            ("a quote that is cut short", kind, quoted(&known, 7)),
            ("nothing quoted", kind, Vec::new()),
            ("no error", query, quoted(&known, 8)),
        ] {
            println!("{name}");
            let error = icmp_error(router, vip, kind, MTU, &quote);
            machine.run(Hook::Ingress, &error).counts(&[Counter::IngressPassed]).leaves(&error);
            machine.run(Hook::Egress, &error).counts(&[Counter::EgressPassed]).leaves(&error);
        }
        conn.goes_up(machine, &conn.up(RST | ACK, 60, 0, b""), &[Counter::Closed]);
    });
}
