//! Heads behind the PROXY protocol, packet by packet.

use std::{cell::RefCell, fmt::Debug, net::IpAddr};

use proptest::{prelude::*, sample::Index};
use roost_heads::proxy::header;
use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, Seg},
    host::Host,
    kernel::Rig,
    on_all,
    talk::{Conn, get, reset_for},
    world::{Kind, World, client, mapped, service},
};
use router_ebpf::{
    maps::{FLOW_REQUESTS, PROXIES, Pending, Service, Sharing, SourceRange},
    source::KeyKind,
    verdict::Counter,
};

/// The number of the host from which proxies send to these services, and others do not.
const PROXY: u16 = 256;
const KINDS: [Kind; 3] = [Kind::Home, Kind::Client, Kind::Reject];

/// The clients of a family whose host numbers are 256 to 511 are proxies.
fn believe(machine: &mut dyn Machine, family: Family) {
    // Of IPv4 that are 24 bits.
    let len = 120;
    for kind in KINDS {
        let list = (kind.number() | PROXIES).to_be_bytes();
        let addr = mapped(client(family, PROXY, 0).ip());
        machine.set_source_range(32 + len, &SourceRange { list, addr }, 1);
        let value = Service { proxied: 1, ..service(kind) };
        machine.set_service(kind.number(), &value);
    }
}

fn named(n: u8) -> [IpAddr; 2] {
    [[203, 0, 113, n].into(), [0x2001, 0xdb8, 0, 0, 0xff, 0, 0, n.into()].into()]
}

/// What names this client, in both versions.
fn headers(client: IpAddr) -> [Vec<u8>; 2] {
    let server =
        if client.is_ipv4() { [192, 0, 2, 1].into() } else { "2001:db8::80".parse().unwrap() };
    [1, 2].map(|version| header(version, client, server, (40_000, 80)))
}

fn behind(header: &[u8], head: &[u8]) -> Vec<u8> {
    [header, head].concat()
}

/// Version 2 with this command, kind and rest.
fn second(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let front = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, kind]].concat();
    [front.as_slice(), &(rest.len() as u16).to_be_bytes(), rest].concat()
}

/// What is to be known of the connection that waits for its replica: its key, and whose share it takes.
fn waits(machine: &mut dyn Machine, conn: &Conn) -> (Vec<u8>, [u8; 16]) {
    let pending = machine.pending();
    let found = pending.iter().find(|(tuple, _)| *tuple == conn.replica_side());
    let (_, value) = found.expect("it waits");
    (value.key.kept().to_vec(), value.charged)
}

#[test]
fn what_a_proxy_sends_first_is_stepped_over_and_passed_on() {
    let sharing = Sharing { ipv4_prefix: 32, ipv6_prefix: 64, ..Sharing::default() };
    on_all(&World { sharing, ..World::default() }, |machine, family| {
        believe(machine, family);
        let tlv = [&[4, 0, 100][..], &[7; 100]].concat();
        let mut all = vec![
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ::1 who knows\r\n".to_vec(), None),
            (second(0x20, 0, &[]), None),
            (second(0x20, 0x11, &[9; 12]), None),
            (second(0x21, 0, &tlv), None),
            (second(0x21, 0x31, &[b'/'; 216]), None),
        ];
        for client in named(7) {
            all.extend(headers(client).map(|header| (header, Some(client))));
            let IpAddr::V4(v4) = client else { continue };
            let ends = [&v4.octets()[..], &[192, 0, 2, 1, 1, 2, 3, 4]].concat();
            all.push((second(0x21, 0x11, &[&ends[..], &tlv[..]].concat()), Some(client)));
            all.push((b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n".to_vec(), Some(client)));
        }
        for (port, (header, client)) in (1000..).zip(all) {
            let text = header.escape_ascii().to_string();
            let mut conn = Conn::new(family, Kind::Home, PROXY, port);
            let client = mapped(client.unwrap_or(conn.client.ip()));
            conn.open(machine);
            // All of it is in what is delivered to the replica.
            conn.bind(machine, &behind(&header, &get("tea")), &[]);
            assert_eq!(waits(machine, &conn), (b"tea".to_vec(), client), "{text}");
            conn.accept(machine);

            // The replicas are the same ones, so its port is another one.
            let mut conn = Conn::new(family, Kind::Client, PROXY, port + 500);
            conn.open(machine);
            conn.bind(machine, &header, &[]);
            assert_eq!(waits(machine, &conn), (client.to_vec(), client), "{text}");
            conn.accept(machine);
        }
        let shares: Vec<_> = machine.flows().iter().map(|(_, flow)| flow.share).collect();
        let distinct: std::collections::BTreeSet<_> = shares.iter().collect();
        assert_eq!(
            (shares.len(), distinct.len()),
            (24, 5),
            "two that were named in two services, and the proxy"
        );
        // Of each client one chat, and one of the key.
        assert_eq!(machine.chats().len(), 4);
    });
}

#[test]
fn it_comes_in_any_segments() {
    on_all(&World::default(), |machine, family| {
        believe(machine, family);
        let mut port = 1000;
        for client in named(9) {
            for header in headers(client) {
                let head = behind(&header, &get("tea"));
                for cut in 1..header.len() + 17 {
                    port += 1;
                    let mut conn = Conn::new(family, Kind::Home, PROXY, port);
                    conn.open(machine);
                    let (first, second) = head.split_at(cut);
                    let first = conn.up(PSH | ACK, 0, 0, first);
                    machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::HeadKept]);
                    let second = conn.up(PSH | ACK, cut as u32, 0, second);
                    conn.bind_with(machine, second, &[]);
                    let expected = (b"tea".to_vec(), mapped(client));
                    assert_eq!(waits(machine, &conn), expected, "{cut} of {client}");
                }
            }
        }
    });
}

#[test]
fn others_are_not_believed() {
    on_all(&World::default(), |machine, family| {
        believe(machine, family);
        let unreadable = [Counter::MissingKey, Counter::MissingUnreadable];
        for (port, header) in (1000..).zip(headers(named(7)[0])) {
            let head = behind(&header, &get("tea"));
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            let own = mapped(conn.client.ip());
            conn.open(machine);
            // Version 1 begins as a request with the method PROXY.
            let why: &[_] = if header[0] == b'P' {
                &[Counter::MissingKey, Counter::MissingAbsent]
            } else {
                &unreadable
            };
            conn.bind(machine, &head, why);
            assert_eq!(waits(machine, &conn), (vec![], own));
            let mut conn = Conn::new(family, Kind::Client, 1, port);
            conn.open(machine);
            conn.bind(machine, &head, &[]);
            assert_eq!(waits(machine, &conn), (own.to_vec(), own));
            // A service that believes nobody does not believe this one either.
            let mut conn = Conn::new(family, Kind::Spread, PROXY, port);
            conn.open(machine);
            conn.bind(machine, &head, why);
        }
    });
}

#[test]
fn what_is_none_is_unreadable() {
    on_all(&World::default(), |machine, family| {
        believe(machine, family);
        let wrong = [
            get("tea"),
            b"PROXY TCP4 203.0.113.7 192.0.2.1 1 65536\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.007 192.0.2.1 1 2\r\n".to_vec(),
            b"PROXY TCP4  203.0.113.7 192.0.2.1 1 2\r\n".to_vec(),
            b"PROXY TCP6 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(),
            b"PROXY TCP6 1::2::3 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n".to_vec(),
            [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 94]].concat(),
            second(0x22, 0x11, &[1; 12]),
            second(0x11, 0x11, &[1; 12]),
            second(0x21, 0x11, &[1; 11]),
            second(0x21, 0x21, &[1; 35]),
            second(0x21, 0x41, &[1; 36]),
            b"\r\n\r\n\0\r\nQUITE".to_vec(),
        ];
        let unreadable = [Counter::MissingKey, Counter::MissingUnreadable];
        for (port, header) in (1000..).zip(wrong) {
            let head = behind(&header, &get("tea"));
            let mut conn = Conn::new(family, Kind::Client, PROXY, port);
            conn.open(machine);
            conn.bind(machine, &head, &unreadable);
            let own = mapped(conn.client.ip());
            assert_eq!(waits(machine, &conn), (vec![], own), "{}", header.escape_ascii());
            let mut conn = Conn::new(family, Kind::Reject, PROXY, port);
            conn.open(machine);
            let seg = conn.up(PSH | ACK, 0, 0, &head);
            machine
                .run(Hook::Ingress, &seg.bytes())
                .counts(&[unreadable.as_slice(), &[Counter::ResetMissingKey]].concat())
                .leaves(&reset_for(&Seg { payload: head, ..seg }).bytes());
        }
        // The longest line is as long as this.
        let mut conn = Conn::new(family, Kind::Client, PROXY, 2000);
        conn.open(machine);
        let longest = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 91], b"\r\n"].concat();
        conn.bind(machine, &longest, &[]);
        // One that ends before its end.
        let mut conn = Conn::new(family, Kind::Client, PROXY, 2001);
        conn.open(machine);
        let cut_off = conn.up(PSH | ACK | FIN, 0, 0, b"PROXY TCP4 203.0.113.7 192.0");
        conn.bind_with(machine, cut_off, &unreadable);
    });
}

#[test]
fn an_upgrade_is_seen_behind_it() {
    on_all(&World::default(), |machine, family| {
        believe(machine, family);
        let upgrade = b"GET /ws?chat=tea HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let mut port = 1000;
        for header in headers(named(7)[0]) {
            for (head, flags) in [(get("tea"), FLOW_REQUESTS), (upgrade.to_vec(), 0)] {
                port += 1;
                let mut conn = Conn::new(family, Kind::Home, PROXY, port);
                conn.open(machine);
                conn.bind(machine, &behind(&header, &head), &[]);
                let pending = machine.pending();
                let (_, pending) =
                    pending.iter().find(|(tuple, _)| *tuple == conn.replica_side()).expect("it");
                assert_eq!(pending.flags & FLOW_REQUESTS, flags);
                assert_eq!(pending.source, KeyKind::Query as u32);
            }
        }
    });
}

/// What becomes of a head in two segments: the counters, and what waits then.
fn outcome(
    machine: &mut dyn Machine,
    head: &[u8],
    cut: usize,
    port: u16,
) -> impl PartialEq + Debug + use<> {
    // A client of its own for each, or the limit on RSTs would count in.
    let mut conn = Conn::new(Family::V4, Kind::Client, PROXY + port % 256, port);
    conn.open(machine);
    let mut moved = Vec::new();
    for (at, bytes) in [(0, &head[..cut]), (cut, &head[cut..])] {
        if !bytes.is_empty() && machine.pending().is_empty() {
            let seg = conn.up(PSH | ACK, at as u32, 0, bytes);
            moved.push(machine.run(Hook::Ingress, &seg.bytes()).moved);
        }
    }
    let pending = machine.pending();
    for (tuple, _) in &pending {
        machine.forget_pending(tuple);
    }
    let known = |value: &Pending| (value.key.kept().to_vec(), value.charged, value.replica);
    (moved, pending.iter().map(|(_, value)| known(value)).collect::<Vec<_>>())
}

#[test]
fn the_kernel_does_as_the_host() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) };
    let world = World::default();
    let (mut host, mut kernel) = (Host::new(&world), Rig::new(&world));
    for machine in [&mut host as &mut dyn Machine, &mut kernel] {
        believe(machine, Family::V4);
    }
    let machines = RefCell::new((host, kernel, 1000u16));
    let ends = (1u8..3, any::<IpAddr>(), any::<IpAddr>(), any::<(u16, u16)>());
    let change = prop::option::of((any::<Index>(), any::<u8>()));
    proptest!(config, |((version, client, server, ports) in ends, change in change, cut in any::<Index>())| {
        let mut head = behind(&header(version, client, server, ports), b"GET / HTTP/1.1\r\n");
        if let Some((at, byte)) = change {
            let at = at.index(head.len());
            head[at] = byte;
        }
        let (host, kernel, port) = &mut *machines.borrow_mut();
        *port += 1;
        let cut = cut.index(head.len() + 1);
        prop_assert_eq!(outcome(host, &head, cut, *port), outcome(kernel, &head, cut, *port));
    });
}
