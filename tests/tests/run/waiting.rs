//! What heads that wait take: memory, and of whose share.

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, PSH},
    host::Host,
    on_all,
    talk::{Conn, get},
    world::{Kind, World},
};
use router_ebpf::{
    maps::{ALL_SHARES, CHUNKS_OF_HEAD, Chunk, ChunkKey, HEAD_LEN, Sharing, Stash, Tuple},
    verdict::Counter,
};

/// What the kernel's allocator gives to an element of a hash map that is not preallocated, whose own fields take 56 bytes
/// (kernel/bpf/hashtab.c): the next of its sizes, powers of two from here on.
const fn allocated(key: usize, value: usize) -> usize {
    (56 + key.next_multiple_of(8) + value.next_multiple_of(8)).next_power_of_two()
}

/// Bytes that the heads in the maps take.
fn memory(machine: &dyn Machine) -> usize {
    machine.stash().len() * allocated(size_of::<Tuple>(), size_of::<Stash>())
        + machine.chunks().len() * allocated(size_of::<ChunkKey>(), size_of::<Chunk>())
}

#[test]
fn a_head_takes_twice_what_was_sent_and_a_kilobyte() {
    on_all(&World::default(), |machine, family| {
        for (n, segment) in [(1000, 1), (1001, 100), (1002, 1400), (1003, 1200)] {
            let mut conn = Conn::new(family, Kind::Home, 1, n);
            conn.open(machine);
            let head = [b"GET /", &[b'x'; HEAD_LEN][..]].concat();
            let most = if segment < 100 { 2000 } else { HEAD_LEN - segment };
            let mut sent = 0;
            while sent < most {
                let seg = conn.up(ACK, sent as u32, 0, &head[sent..sent + segment]);
                let verdict = machine.run(Hook::Ingress, &seg.bytes()).verdict();
                assert!(matches!(verdict, Counter::HeadKept | Counter::HeadAcknowledged));
                sent += segment;
                let takes = memory(machine);
                assert!(takes <= 1024 + 2 * sent, "{takes} bytes for {sent}, each {segment}");
            }
            machine.clear_stash();
        }
    });
}

/// All of one attacker, from four addresses of a prefix, each with so many ports.
const ADDRESSES: u16 = 4;
const PORTS: u16 = 25_000;
/// Room for heads: what there is by default.
const ROOM: u32 = 65_536;

#[test]
fn a_hundred_thousand_heads_of_one_attacker_take_his_share_and_nobody_elses() {
    let heads = ROOM * CHUNKS_OF_HEAD;
    let sharing =
        Sharing { heads, services: 1, ipv4_prefix: 24, ipv6_prefix: 64, ..Sharing::default() };
    let machine = &mut Host::new(&World { stash: ROOM, sharing, ..World::default() });
    let (mut kept, mut refused) = (0, 0);
    for (host, port) in (0..ADDRESSES).flat_map(|host| (0..PORTS).map(move |port| (host, port))) {
        let mut conn = Conn::new(Family::V4, Kind::Home, 0x0100 + host, 1000 + port);
        conn.open(machine);
        let first = conn.up(ACK, 0, 0, b"GET /ws?chat=");
        let moved = machine.run(Hook::Ingress, &first.bytes()).moved;
        for (counter, times) in moved {
            match counter {
                Counter::HeadKept => kept += 1,
                Counter::DropEarly => refused += 1,
                Counter::OverSourceHeads => {}
                // Where this takes longer than 30 s.
                Counter::EndedHead => kept -= times as u32,
                other => panic!("{other:?} after {kept} heads"),
            }
        }
        // Half of the room is anybody's, and one more tells that it is full.
        assert!(kept <= ROOM / 2 + 1, "{kept}");
    }
    assert!(refused > 0);
    assert_eq!(machine.heads(ALL_SHARES), kept * CHUNKS_OF_HEAD);
    assert_eq!(memory(machine), kept as usize * 1024);
    // Others wait as before, and are served.
    for n in 0..200 {
        let mut conn = Conn::new(Family::V4, Kind::Home, 0x0200 + (n << 8), 1000);
        conn.open(machine);
        let (request, chat) = (get("tea"), 8);
        let first = conn.up(ACK, 0, 0, &request[..chat]);
        let kept = machine.run(Hook::Ingress, &first.bytes()).verdict();
        assert_eq!(kept, Counter::HeadKept);
        conn.bind_with(machine, conn.up(PSH | ACK, chat as u32, 0, &request[chat..]), &[]);
        let answer = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
        assert_eq!(answer.verdict(), Counter::Delivered);
    }
    assert_eq!(machine.heads(ALL_SHARES), machine.stash().len() as u32 * CHUNKS_OF_HEAD);
}
