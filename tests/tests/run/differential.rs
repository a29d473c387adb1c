//! The loaded programs against the same code on the host: random conversations, mutated, must have
//! the same verdicts, bytes, counters and maps.
//!
//! They are the same ones in each run, unless `ROOST_SEED=<number>` asks for others; `ROOST_CASES=<number>`
//! runs more.

use std::{collections::BTreeMap, env};

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, RST, SYN, Seg, icmp_error},
    pair::{OutOfStep, Pair},
    talk::{Conn, Offer, get},
    world::{Kind, REPLICAS, World, client, replica, replica_addr},
};
use router_ebpf::{
    maps::{
        Chat, ChatCookie, Flow, NO_REPLICA, Name, REPLICA_DRAINING, REPLICA_GONE, REPLICA_READY,
        SLOT_COUNT, STATE_EXPIRED,
    },
    steer::chat_key,
    verdict::Counter,
};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A number, more often than not close to where numbers wrap around.
    fn number(&mut self) -> u32 {
        let near = self.pick(&[0, u32::MAX, 0x8000_0000, self.0 as u32]);
        near.wrapping_add(self.below(200) as u32).wrapping_sub(100)
    }
}

/// What the daemon may do meanwhile, to both alike.
fn meanwhile(random: &mut Random, pair: &mut Pair) {
    let flows = pair.host.flows();
    let expired = flows.iter().find(|_| random.one_in(20)).copied();
    let kind = random.pick(&Kind::ALL);
    let number = kind.replica(random.below(REPLICAS as usize) as u32);
    let mut changed = replica(number);
    changed.state = random.pick(&[REPLICA_READY, REPLICA_READY, REPLICA_DRAINING, REPLICA_GONE]);
    let turn = random.below(3) as u32;
    let slots: Vec<u32> =
        (0..SLOT_COUNT).map(|slot| kind.replica((slot + turn) % REPLICAS)).collect();
    let (moves, forgets) = (random.one_in(2), random.one_in(5));
    // Either way no chat is close to the end of its linger when the next packets come: the clocks
    // of the two differ by a little.
    let ended_at = random.pick(&[0, u64::MAX]);
    for machine in [&mut pair.host as &mut dyn Machine, &mut pair.kernel] {
        machine.set_replica(number, &changed);
        if moves {
            machine.set_slots(kind.slots(), &slots);
        }
        if forgets {
            machine.clear_stash();
        }
        for (key, chat) in machine.chats() {
            machine.set_chat(&key, &Chat { ended_at, ..chat });
        }
        if let Some((tuple, flow)) = expired {
            let state = flow.state | STATE_EXPIRED;
            machine.set_flow(&tuple, &Flow { state, ..flow });
        }
    }
}

/// From one of three clients, which are others every few cases: each has a limit of RSTs.
fn conn(random: &mut Random, case: usize) -> Conn {
    let family = random.pick(&Family::ALL);
    let kind = random.pick(&Kind::ALL);
    let (host, port) = ((case / 8 * 3 + random.below(3)) as u16, 1000 + random.below(12) as u16);
    let mut conn = Conn::new(family, kind, host, port);
    let offer = |random: &mut Random| Offer {
        mss: random.pick(&[Some(1460), Some(536), Some(9000), None]),
        scale: random.pick(&[None, Some(0), Some(7), Some(10), Some(14)]),
        sack: !random.one_in(3),
        timestamps: !random.one_in(3),
    };
    (conn.offer, conn.answer) = (offer(random), offer(random));
    (conn.isn, conn.replica_isn) = (random.number(), random.number());
    (conn.client_ts, conn.replica_ts) = (random.number(), random.number());
    conn.vlan = random.pick(&[vec![], vec![], vec![3], vec![3, 4]]);
    conn
}

fn request(random: &mut Random) -> Vec<u8> {
    let words = [
        "GET ",
        "/",
        "?",
        "chat",
        "ch%61t",
        "=",
        "&",
        "%",
        "%4",
        "%41",
        "%zz",
        "+",
        "tea",
        "x",
        " ",
        "HTTP/1.1\r\n",
        "room=7",
        "chat=",
        "POST ",
        "\r\n",
        "chat=tea",
        "?chat=",
    ];
    let chats = ["tea", "coffee", "bound", "pinned", "wide", "%74ea"];
    match random.below(4) {
        0 => {
            let mut text = String::from(random.pick(&["GET /ws?", "GET ", ""]));
            (0..random.below(20)).for_each(|_| text.push_str(random.pick(&words)));
            text.into_bytes()
        }
        1 => {
            let len = 1 + random.below(1200);
            random.bytes(len)
        }
        _ => {
            let mut head = get(random.pick(&chats));
            head.resize(head.len() + random.below(1000), b'.');
            head
        }
    }
}

/// A segment of a conversation, in order or not.
fn client_segment(random: &mut Random, conn: &Conn) -> Seg {
    let (seq, ack) = (random.below(3000) as u32, random.below(3000) as u32);
    match random.below(13) {
        0 => conn.up(ACK, 0, 0, b""),
        // A probe, before anything or behind what may be there.
        1 => {
            let (at, byte) = (random.pick(&[u32::MAX, u32::MAX, 0, seq]), random.below(2));
            Conn { replica: u32::MAX, ..conn.clone() }.up(ACK, at, 0, &[0][..byte])
        }
        2 | 3 => {
            let payload = request(random);
            conn.up(random.pick(&[ACK, PSH | ACK, PSH | ACK | FIN]), 0, 0, &payload)
        }
        4 => conn.up(FIN | ACK, random.pick(&[0, seq]), random.pick(&[0, ack]), b""),
        5 if random.one_in(2) => conn.up(random.pick(&[RST, RST | ACK]), seq, ack, b""),
        6 => {
            let count = 1 + random.below(3);
            let edge = |_| (random.number(), random.number());
            let blocks: Vec<_> = (0..count).map(edge).collect();
            conn.up_sack(seq, ack, &blocks)
        }
        _ => {
            let len = random.below(1000);
            let payload = random.bytes(len);
            conn.up(random.pick(&[ACK, PSH | ACK]), seq, ack, &payload)
        }
    }
}

fn replica_segment(random: &mut Random, conn: &Conn) -> Seg {
    let (seq, ack) = (random.below(3000) as u32, random.below(3000) as u32);
    match random.below(10) {
        0 | 1 => conn.replica_syn_ack(),
        2 if random.one_in(3) => Seg { seq: 0, ..conn.down(RST | ACK, 0, u32::MAX, b"") },
        3 => conn.down(FIN | ACK, seq, ack, b""),
        4 => conn.down(ACK, seq, ack, b""),
        5 => Seg { ack: random.number(), ..conn.replica_syn_ack() },
        _ => {
            let len = random.below(1000);
            let payload = random.bytes(len);
            conn.down(random.pick(&[ACK, PSH | ACK]), seq, ack, &payload)
        }
    }
}

/// What may happen to a segment: still with right checksums.
fn bent(random: &mut Random, mut seg: Seg) -> Seg {
    match random.below(6) {
        0 => seg.flags = random.next() as u8,
        1 => seg.window = random.next() as u16,
        2 => {
            let len = 4 * random.below(11);
            seg.options = random.bytes(len);
        }
        3 => {
            // Options of known kinds, with lengths that are right or not.
            seg.options.clear();
            while seg.options.len() < 30 {
                let kind = random.pick(&[0, 1, 1, 2, 3, 4, 5, 8, 8, 34]);
                let len = random.pick(&[2, 3, 4, 10, 10, 18, 0, 1, 40]);
                if kind == 1 {
                    seg.options.push(1);
                    continue;
                }
                seg.options.extend([kind, len]);
                let rest = usize::from(len).saturating_sub(2);
                seg.options.extend(random.bytes(rest));
            }
            seg.options.truncate(40);
        }
        4 => seg.vlan = random.pick(&[vec![], vec![9], vec![9, 10]]),
        _ if seg.src.is_ipv4() => match random.below(3) {
            0 => seg.ip_options = vec![1; 4 * (1 + random.below(9))],
            1 => seg.fragment = (random.one_in(2), random.below(100) as u16),
            _ => seg.df = false,
        },
        _ => seg.ecn = random.below(4) as u8,
    }
    seg
}

/// What may happen to a frame. A socket buffer for a test run has an IP header at the least.
fn broken(random: &mut Random, mut frame: Vec<u8>) -> Vec<u8> {
    match random.below(4) {
        0 => {
            let least = 62;
            let len = least + random.below(frame.len().saturating_sub(least).max(1));
            frame.truncate(len);
        }
        1 => frame.extend(vec![0; 1 + random.below(40)]),
        _ => {
            for _ in 0..=random.below(3) {
                let at = 12 + random.below(frame.len().min(110) - 12);
                frame[at] ^= 1 << random.below(8);
            }
        }
    }
    frame
}

fn icmp(random: &mut Random, conn: &Conn, hook: Hook) -> Vec<u8> {
    let kinds: &[(u8, u8)] = match conn.family {
        Family::V4 => &[(3, 4), (3, 1), (11, 0), (8, 0)],
        Family::V6 => &[(2, 0), (1, 4), (3, 0), (128, 0)],
    };
    let kind = random.pick(kinds);
    let router = client(conn.family, 99, 0).ip();
    let (from, to, about) = match hook {
        Hook::Ingress => {
            let about = conn.to_client(&conn.down(ACK, 1, 1, b"some data"));
            (random.pick(&[router, conn.client.ip()]), conn.vip.ip(), about)
        }
        Hook::Egress => {
            let about = conn.to_replica(&conn.up(ACK, 1, 1, b"some data"));
            (random.pick(&[router, conn.server().ip()]), conn.client.ip(), about)
        }
    };
    let about = Seg { vlan: Vec::new(), ..about };
    let bytes = about.bytes();
    let len = random.below(bytes.len() - 14);
    icmp_error(from, to, kind, [0, 0, 5, 0x14], &bytes[14..14 + len])
}

fn converse(random: &mut Random, pair: &mut Pair, case: usize) -> Result<u32, OutOfStep> {
    let mut conn = conn(random, case);
    conn.replica = random.below(REPLICAS as usize) as u32;
    let mut packets = 0;
    let mut bound = false;
    for step in 0..4 + random.below(14) {
        let hook = if bound && random.one_in(2) { Hook::Egress } else { Hook::Ingress };
        let frame = if step == 0 || random.one_in(12) {
            conn.syn().bytes()
        } else if bound && random.one_in(8) {
            icmp(random, &conn, hook)
        } else {
            let in_order = step < 5 && !random.one_in(4);
            let mut seg = match hook {
                Hook::Ingress if in_order && !bound => {
                    // Nothing of the replica's is known to the client yet.
                    let payload = request(random);
                    Conn { replica: u32::MAX, ..conn.clone() }.up(PSH | ACK, 0, 0, &payload)
                }
                Hook::Ingress => client_segment(random, &conn),
                Hook::Egress if in_order => conn.replica_syn_ack(),
                Hook::Egress => replica_segment(random, &conn),
            };
            if random.one_in(6) {
                seg = bent(random, seg);
            }
            seg.bytes()
        };
        let hook = if frame == conn.syn().bytes() { Hook::Ingress } else { hook };
        let frame =
            if random.one_in(8) && frame.len() > 70 { broken(random, frame) } else { frame };
        let outcome = pair.run(hook, &frame)?;
        packets += 1;
        match outcome.verdict() {
            Counter::SynAnswered => {
                let answer = Seg::parse(&outcome.frame).expect("a SYN-ACK");
                if answer.dst == conn.client && answer.ack == conn.isn.wrapping_add(1) {
                    conn.cookie = answer.seq;
                    conn.our_ts = answer.timestamps().map_or(0, |(value, _)| value);
                }
            }
            Counter::Bound => {
                let syn = Seg::parse(&outcome.frame).expect("a SYN");
                assert_eq!(syn.flags, SYN);
                let to = |number: &u32| replica_addr(conn.family, *number) == syn.dst;
                if let Some(replica) = (0..REPLICAS).find(to) {
                    conn.replica = replica;
                    bound = true;
                }
            }
            _ => {}
        }
    }
    Ok(packets)
}

fn worlds() -> [World; 3] {
    let world = World::default();
    [world.clone(), World { flows: 6, ..world.clone() }, World { chats: 3, ..world }]
}

fn pair(world: &World) -> Pair {
    let mut pair = Pair::new(world);
    // Learn the keys of three chats, and bind, pin and widen those.
    let mut keys = BTreeMap::new();
    for (port, name) in [(50_000, "tea"), (50_001, "bound"), (50_002, "pinned")] {
        for machine in [&mut pair.host as &mut dyn Machine, &mut pair.kernel] {
            let mut conn = Conn::new(Family::V4, Kind::Home, 9999, port);
            conn.greet(machine);
            conn.bind(machine, &get(name), &[]);
            let cookie = machine.pending()[0].1.cookie;
            keys.insert(name, chat_key(Kind::Home.number(), cookie));
            // Nothing stays that has a clock's time in it.
            let refusal = conn.down(RST | ACK, 0, 0, b"");
            machine.run(Hook::Egress, &refusal.bytes()).counts(&[Counter::Refused]);
        }
    }
    let key = |name| keys[name];
    let entry = |cookie, replica, width| ChatCookie {
        cookie,
        replica,
        width,
        key: Name::EMPTY,
        chat: Name::EMPTY,
    };
    let tea = key("tea").cookie;
    for machine in [&mut pair.host as &mut dyn Machine, &mut pair.kernel] {
        machine.set_chat_cookie(&key("bound"), &entry(tea, NO_REPLICA, 1));
        let pinned = key("pinned");
        machine.set_chat_cookie(&pinned, &entry(pinned.cookie, 1, 0));
        machine.set_chat_cookie(&key("tea"), &entry(tea, NO_REPLICA, 2));
    }
    pair
}

/// What the conversations are made from.
const SEED: u64 = 20_261_122;
/// Conversations on the same maps.
const ROUND: usize = 500;

#[test]
fn the_kernel_and_the_host_agree() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("ROOST_SEED").unwrap_or(SEED);
    let cases = number("ROOST_CASES").unwrap_or(1500) as usize;
    println!("ROOST_SEED={seed}");
    let mut random = Random(seed);
    // New maps for each round: PENDING may forget what is old when it has filled.
    for (_, world) in (0..cases.div_ceil(ROUND)).zip(worlds().iter().cycle()) {
        let mut pair = pair(world);
        let mut packets = 0;
        for case in 0..ROUND {
            match converse(&mut random, &mut pair, case) {
                Ok(count) => packets += count,
                Err(OutOfStep) => continue,
            }
            if case % 10 == 0 {
                pair.same_maps();
                meanwhile(&mut random, &mut pair);
            }
        }
        pair.same_maps();
        println!("{packets} packets: {:?}", pair.verdicts);
        assert!(packets > ROUND as u32, "only {packets} packets were compared");
    }
}
