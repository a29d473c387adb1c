//! What the node's own processes send and get, packet by packet: the addresses at the two ends of their device.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr};

use roost::plan::addr::to_map;
use roost_tests::run::{
    Family,
    frame::{ACK, PSH, SYN, Seg},
    host::Bytes,
    kernel::Rig,
    talk::get,
    world::{Kind, World, client},
};
use router_ebpf::{
    host::{HostTables, Turn, Way, turn},
    maps::{Addr, Host, HostConn},
};

/// The host's own address, the one that replicas see, a stand-in, and the VIP that it stands for.
struct Ends {
    own: SocketAddr,
    seen: SocketAddr,
    stand_in: SocketAddr,
    vip: SocketAddr,
}

impl Ends {
    fn new(family: Family) -> Self {
        let vip = Kind::Home.vip(family);
        let at = |n| client(family, n, 40_000);
        let stand_in = SocketAddr::new(at(3).ip(), vip.port());
        Self { own: at(1), seen: at(2), stand_in, vip }
    }
}

/// The same knowledge without a kernel.
struct Known(Host, Vec<(Addr, Addr)>, RefCell<BTreeMap<HostConn, Addr>>);

impl Known {
    fn new() -> Self {
        let ends = Family::ALL.map(Ends::new);
        let addr = |of: fn(&Ends) -> SocketAddr| [0, 1].map(|at| to_map(of(&ends[at]).ip()));
        let host = Host { namespace: 1, own: addr(|e| e.own), seen: addr(|e| e.seen) };
        let pair = |e: &Ends| (to_map(e.vip.ip()), to_map(e.stand_in.ip()));
        Self(host, ends.iter().map(pair).collect(), RefCell::default())
    }
}

impl HostTables for Known {
    fn host(&self) -> Option<&Host> {
        Some(&self.0)
    }

    fn stand_in(&self, vip: &Addr) -> Option<Addr> {
        self.1.iter().find(|(of, _)| of == vip).map(|(_, stand_in)| *stand_in)
    }

    fn stands_for(&self, stand_in: &Addr) -> Option<Addr> {
        self.1.iter().find(|(_, of)| of == stand_in).map(|(vip, _)| *vip)
    }

    fn source(&self, conn: &HostConn) -> Option<&Addr> {
        // Few, in a test.
        self.2.borrow().get(conn).map(|source| &*Box::leak(Box::new(*source)))
    }

    fn set_source(&self, conn: &HostConn, source: &Addr) -> Option<()> {
        self.2.borrow_mut().insert(*conn, *source);
        Some(())
    }

    fn remove_source(&self, conn: &HostConn) {
        self.2.borrow_mut().remove(conn);
    }
}

/// Runs a frame on both, which have to agree.
fn run(rig: &mut Rig, known: &Known, way: Way, frame: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Bytes::new(frame.to_vec());
    let turned = turn(&mut bytes, known, &mut Turn::default(), way).map(|()| bytes.frame);
    assert_eq!(rig.run_host(way, frame), turned, "{way:?}: {frame:02x?}");
    turned
}

#[test]
fn segments_of_the_host_get_other_addresses_on_both_ways_and_nothing_else() {
    let known = Known::new();
    let mut rig = Rig::load(&World::default()).with_host(&known.0, &known.1);
    for family in Family::ALL {
        let Ends { own, seen, stand_in, vip } = Ends::new(family);
        for (flags, payload) in [(SYN, vec![]), (PSH | ACK, get("tea")), (ACK, vec![7; 1001])] {
            for (way, from, to) in [
                (Way::Out, (own, stand_in), (seen, vip)),
                (Way::Back, (vip, seen), (stand_in, own)),
            ] {
                let seg = |(src, dst): (SocketAddr, SocketAddr)| Seg {
                    payload: payload.clone(),
                    window: 500,
                    ..Seg::new(src, dst, flags, 1000, 77)
                };
                // With right checksums, by another library.
                let turned = run(&mut rig, &known, way, &seg(from).bytes());
                assert_eq!(turned, Some(seg(to).bytes()), "{family:?} {way:?}");
                if family == Family::V4 {
                    let with = |seg| Seg { ip_options: vec![1; 8], ..seg };
                    let turned = run(&mut rig, &known, way, &with(seg(from)).bytes());
                    assert_eq!(turned, Some(with(seg(to)).bytes()), "with IP options, {way:?}");
                }
            }
        }
    }
}

/// A rule that masquerades all that leaves gives a connection another address, which it gets back with the answers. One that has
/// the host's own on the same ports later is another connection.
#[test]
fn a_connection_that_a_rule_has_given_another_address_gets_its_answers_there() {
    let known = Known::new();
    let mut rig = Rig::load(&World::default()).with_host(&known.0, &known.1);
    for family in Family::ALL {
        let Ends { own, seen, stand_in, vip } = Ends::new(family);
        let [given, other] = [9, 10].map(|n| client(family, n, own.port()));
        for source in [given, given, own, other, given, own] {
            let out = |src, dst| Seg::new(src, dst, ACK, 1000, 77).bytes();
            let turned = run(&mut rig, &known, Way::Out, &out(source, stand_in));
            assert_eq!(turned, Some(out(seen, vip)), "{family:?} {source}");
            let turned = run(&mut rig, &known, Way::Back, &out(vip, seen));
            assert_eq!(turned, Some(out(stand_in, source)), "{family:?} {source}");
        }
        // Of another port nobody has said anything.
        let next = SocketAddr::new(seen.ip(), seen.port() + 1);
        let frame = Seg::new(vip, next, ACK, 1, 1).bytes();
        let there = SocketAddr::new(own.ip(), next.port());
        let turned = run(&mut rig, &known, Way::Back, &frame);
        assert_eq!(turned, Some(Seg::new(stand_in, there, ACK, 1, 1).bytes()));
    }
}

#[test]
fn nothing_else_passes_the_device() {
    let known = Known::new();
    let mut rig = Rig::load(&World::default()).with_host(&known.0, &known.1);
    for family in Family::ALL {
        let Ends { own, seen, stand_in, vip } = Ends::new(family);
        let stranger = client(family, 9, 40_000);
        for (way, src, dst) in [
            (Way::Out, seen, stand_in),
            (Way::Out, own, stranger),
            (Way::Out, own, vip),
            (Way::Out, vip, seen),
            (Way::Back, stranger, seen),
            (Way::Back, vip, stranger),
            (Way::Back, vip, own),
            (Way::Back, own, stand_in),
        ] {
            let frame = Seg::new(src, dst, ACK, 1, 1).bytes();
            assert_eq!(run(&mut rig, &known, way, &frame), None, "{way:?} {src} {dst}");
        }
        let whole = Seg::new(own, stand_in, ACK, 1, 1).bytes();
        // The kernel runs nothing that ends within an IP header.
        for len in 0..whole.len() - 3 {
            let cut = Bytes::new(whole[..len].to_vec());
            assert_eq!(
                turn(&mut { cut }, &known, &mut Turn::default(), Way::Out),
                None,
                "{len} bytes"
            );
        }
        assert_eq!(rig.run_host(Way::Out, &whole[..whole.len() - 3]), None);
        let mut other = whole.clone();
        other[14 + if family == Family::V4 { 9 } else { 6 }] = 17;
        assert_eq!(run(&mut rig, &known, Way::Out, &other), None, "UDP");
        other = whole.clone();
        other[12] = 0x81;
        assert_eq!(run(&mut rig, &known, Way::Out, &other), None, "another protocol");
        if family == Family::V4 {
            for fragment in [(true, 0), (false, 2)] {
                let part = Seg { fragment, df: false, ..Seg::new(own, stand_in, ACK, 1, 1) };
                assert_eq!(run(&mut rig, &known, Way::Out, &part.bytes()), None, "{fragment:?}");
            }
        }
    }
}
