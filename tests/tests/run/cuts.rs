//! A head in 2 to 60 segments, cut everywhere: the loaded programs find its key wherever that is, and deliver it whole.

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, PSH, Seg},
    on_all,
    talk::Conn,
    world::{Kind, World, sources},
};
use router_ebpf::{maps::KeySource, source::KeyKind, verdict::Counter};

const HEAD: &[u8] = b"GET /ws?lang=en&chat=t%65a&v=3 HTTP/1.1\r\nHost: chat.example\r\n\
    X-Chat: coffee\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// The head in so many segments, of which the first has `first` bytes: so that over all of both it is cut everywhere.
fn cuts(segments: usize, first: usize) -> Vec<(usize, usize)> {
    let rest = HEAD.len() - first;
    let end = |n: usize| first + rest * n / (segments - 1);
    let ends = (0..segments).map(end);
    let begins = [0].into_iter().chain((0..segments - 1).map(end));
    begins.zip(ends).collect()
}

/// Sends the segments in an order, and tells the key, and the bytes that were delivered.
fn sent(
    machine: &mut dyn Machine,
    family: Family,
    port: u16,
    cuts: &[(usize, usize)],
    backwards: bool,
) -> (Vec<u8>, Vec<u8>) {
    let mut conn = Conn::new(family, Kind::Home, port, port);
    conn.open(machine);
    let segment =
        |&(from, to): &(usize, usize)| conn.up(PSH | ACK, from as u32, 0, &HEAD[from..to]);
    let mut segments: Vec<Seg> = cuts.iter().map(segment).collect();
    if backwards {
        // The second half in pairs that have changed places: no more holes than are allowed.
        let half = segments.len() / 2;
        segments[half..].chunks_mut(2).for_each(<[Seg]>::reverse);
    }
    let mut bound = false;
    for seg in &segments {
        let outcome = machine.run(Hook::Ingress, &seg.bytes());
        match outcome.verdict() {
            Counter::Bound => {
                assert!(!bound, "bound twice");
                bound = true;
            }
            Counter::HeadKept | Counter::HeadAcknowledged => {}
            other => panic!("{other:?} for {} to {:?}", seg.seq.wrapping_sub(conn.isn), cuts),
        }
    }
    let pending = machine.pending();
    let [(tuple, pending)] = &pending[..] else { panic!("{} are bound: {cuts:?}", pending.len()) };
    conn.replica = (0..8)
        .find(|replica| Conn { replica: *replica, ..conn.clone() }.replica_side() == *tuple)
        .expect("a replica");
    let key = pending.key.kept().to_vec();
    let outcome = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
    assert_eq!(outcome.verdict(), Counter::Delivered, "{cuts:?}");
    let frames = outcome.copies.iter().chain([&outcome.frame]);
    let payloads = frames.map(|frame| Seg::parse(frame).expect("a segment").payload);
    (key, payloads.collect::<Vec<_>>().concat())
}

#[test]
fn a_key_is_found_in_any_number_of_segments_cut_anywhere() {
    let query = KeySource::new(KeyKind::Query, b"chat");
    let header = KeySource::new(KeyKind::Header, b"x-chat");
    for (source, key) in [(query, &b"tea"[..]), (header, b"coffee")] {
        let mut world = World::default();
        world.services[Kind::Home as usize].1.sources = sources(&[source]);
        on_all(&world, |machine, family| {
            let mut port = 1000;
            let mut cut = vec![false; HEAD.len()];
            for segments in 2..=60 {
                for backwards in [false, true] {
                    port += 1;
                    let first = match segments {
                        2 => HEAD.len() - 1,
                        _ => 1 + (port as usize * 7) % (HEAD.len() - 60),
                    };
                    let cuts = cuts(segments, first);
                    cuts.iter().for_each(|(from, _)| cut[*from] = true);
                    let (found, delivered) = sent(machine, family, port, &cuts, backwards);
                    assert_eq!(found, key, "{cuts:?}");
                    assert_eq!(delivered, HEAD, "{cuts:?}");
                }
            }
            assert!(cut.iter().all(|cut| *cut), "it was cut everywhere: {cut:?}");
        });
    }
}
