//! Who is refused when a table gets full: the largest holders, and nobody else before it is.

use proptest::prelude::*;
use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, PSH, RST, Seg},
    host::Host,
    on_all,
    talk::{Conn, get, reset_for},
    world::{Kind, World, client, mapped, replica, service},
};
use router_ebpf::{
    maps::{
        ALL_SHARES, Chat, Flow, REPLICA_GONE, SERVICE_SHARES, SLOT_COUNT, Service, Share, Sharing,
        TrustedKey, rows,
    },
    shares::{Holder, ITSELF, Table, count_flow, give, is_over, number, prefix, take},
    tables::FlowTables,
    verdict::Counter,
};

/// A world whose tables have room for so many, and so many services.
fn world(flows: u32, chats: u32, services: u32) -> World {
    let (ipv4_prefix, ipv6_prefix) = (32, 128);
    let sharing =
        Sharing { flows, chats, services, ipv4_prefix, ipv6_prefix, ..Sharing::default() };
    World { flows, chats, sharing, ..World::default() }
}

/// The same with these clients trusted.
fn trusting(world: World, hosts: &[u16]) -> World {
    let key =
        |(family, host): (Family, &u16)| (TrustedKey::WHOLE, mapped(client(family, *host, 1).ip()));
    let keys = Family::ALL.into_iter().flat_map(|family| hosts.iter().map(move |h| (family, h)));
    World { trusted: keys.map(key).collect(), ..world }
}

/// What is counted of a client's source, in the row that says less.
fn held(world: &World, machine: &dyn Machine, family: Family, host: u16) -> (u32, u32) {
    let address = mapped(client(family, host, 1).ip());
    let [a, b] = rows(number(&world.secrets.chat, &world.sharing, &address, ITSELF));
    machine.share(a).min(machine.share(b))
}

/// All together, and what is counted of a service.
fn whole(machine: &dyn Machine, kind: Kind) -> [(u32, u32); 2] {
    [machine.share(ALL_SHARES), machine.share(SERVICE_SHARES + kind.number())]
}

/// A connection that has come to its first data.
fn opened(machine: &mut dyn Machine, family: Family, kind: Kind, host: u16, port: u16) -> Conn {
    let mut conn = Conn::new(family, kind, host, port);
    conn.open(machine);
    conn
}

fn establish(machine: &mut dyn Machine, family: Family, kind: Kind, host: u16, port: u16) -> Conn {
    let mut conn = Conn::new(family, kind, host, port);
    conn.establish(machine, "tea");
    conn
}

/// The first data of a connection is answered by an RST.
#[track_caller]
fn refused(machine: &mut dyn Machine, conn: &Conn, chat: &str, why: Counter) {
    let first = conn.up(PSH | ACK, 0, 0, &get(chat));
    let pending = machine.pending().len();
    machine
        .run(Hook::Ingress, &first.bytes())
        .counts(&[Counter::ResetShare, why])
        .leaves(&reset_for(&first).bytes());
    assert!(machine.stash().iter().all(|(tuple, _)| *tuple != conn.vip_side()));
    assert_eq!(machine.pending().len(), pending);
}

/// The client of a connection whose replica accepts gets an RST, and the replica when it asks again.
#[track_caller]
fn refused_late(machine: &mut dyn Machine, conn: &Conn, counters: &[Counter]) {
    let answer = conn.replica_syn_ack();
    let (seq, ack) = (conn.cookie.wrapping_add(1), conn.isn.wrapping_add(1));
    let reset = Seg::new(conn.vip, conn.client, RST | ACK, seq, ack);
    machine.run(Hook::Egress, &answer.bytes()).counts(counters).leaves(&reset.bytes());
    machine
        .run(Hook::Egress, &answer.bytes())
        .counts(&[Counter::ResetReplica])
        .leaves(&reset_for(&answer).bytes());
}

/// Ends a connection by an RST of its client, who has sent the request.
fn end(machine: &mut dyn Machine, conn: &Conn) {
    let len = get("tea").len() as u32;
    conn.goes_up(machine, &conn.up(RST | ACK, len, 0, b""), &[Counter::Closed]);
}

#[test]
fn the_largest_source_is_refused_first_and_others_until_the_table_is_full() {
    let world = world(8, 64, 1);
    on_all(&world, |machine, family| {
        // Half a table is anybody's.
        let mut all: Vec<Conn> =
            (0..5).map(|i| establish(machine, family, Kind::Home, 1, 1000 + i)).collect();
        let conn = opened(machine, family, Kind::Home, 1, 1005);
        refused(machine, &conn, "tea", Counter::OverSourceFlows);
        // Others notice nothing, and may have several as long as they are few.
        for (host, port) in [(2, 1000), (2, 1001), (3, 1000)] {
            all.push(establish(machine, family, Kind::Home, host, port));
        }
        assert_eq!(whole(machine, Kind::Home), [(8, 1); 2]);
        let mut last = opened(machine, family, Kind::Home, 4, 1000);
        last.bind(machine, &get("tea"), &[]);
        refused_late(machine, &last, &[Counter::ResetFull]);
        // What was there goes on, and makes room again.
        all[0].goes_up(machine, &all[0].up(PSH | ACK, 60, 0, b"still"), &[]);
        for conn in &all[..5] {
            end(machine, conn);
        }
        assert_eq!(held(&world, machine, family, 1).0, 0);
        establish(machine, family, Kind::Home, 1, 1006);
        assert_eq!(held(&world, machine, family, 1).0, 1);
        assert_eq!(whole(machine, Kind::Home)[0], (4, 1));
    });
}

#[test]
fn what_was_bound_before_is_refused_exactly_when_its_replica_accepts() {
    let world = world(8, 64, 1);
    on_all(&world, |machine, family| {
        let bound: Vec<Conn> = (0..7)
            .map(|i| {
                let mut conn = opened(machine, family, Kind::Home, 1, 1000 + i);
                conn.bind(machine, &get("tea"), &[]);
                conn
            })
            .collect();
        for conn in &bound[..5] {
            conn.accept(machine);
        }
        // A client that sends its head again is not looked at again.
        let first = bound[5].first.clone().unwrap();
        machine.run(Hook::Ingress, &first.bytes()).counts(&[Counter::Bound]);
        for conn in &bound[5..] {
            refused_late(machine, conn, &[Counter::ResetShareLate, Counter::OverSourceFlows]);
        }
        assert_eq!((machine.flows().len(), machine.flows_back().len()), (5, 5));
        assert_eq!(held(&world, machine, family, 1), (5, machine.share(ALL_SHARES).1));
        assert!(machine.pending().is_empty());
    });
}

#[test]
fn a_trusted_source_has_only_the_share_of_its_service_and_a_lone_service_has_all() {
    on_all(&trusting(world(8, 64, 1), &[1]), |machine, family| {
        for i in 0..8 {
            establish(machine, family, Kind::Home, 1, 1000 + i);
        }
        let mut last = opened(machine, family, Kind::Home, 1, 1008);
        last.bind(machine, &get("tea"), &[]);
        refused_late(machine, &last, &[Counter::ResetFull]);
    });
}

#[test]
fn of_two_services_the_greedy_one_is_refused_first() {
    on_all(&trusting(world(10, 64, 2), &[1]), |machine, family| {
        for i in 0..8 {
            establish(machine, family, Kind::Spread, 1, 1000 + i);
        }
        let conn = opened(machine, family, Kind::Spread, 1, 1008);
        refused(machine, &conn, "tea", Counter::OverServiceFlows);
        establish(machine, family, Kind::Home, 1, 2000);
        establish(machine, family, Kind::Home, 2, 2000);
        assert_eq!(whole(machine, Kind::Spread), [(10, 1), (8, 0)]);
        assert_eq!(whole(machine, Kind::Home)[1], (2, 1));
    });
}

#[test]
fn a_source_of_many_chats_gets_no_new_one_but_may_join() {
    let world = world(64, 8, 1);
    on_all(&world, |machine, family| {
        // One is bound before the table is half full, and accepted when it is.
        let mut late = opened(machine, family, Kind::Home, 1, 999);
        late.bind(machine, &get("late"), &[]);
        for i in 0..5 {
            let mut conn = opened(machine, family, Kind::Home, 1, 1000 + i);
            conn.bind(machine, &get(&format!("chat-{i}")), &[]);
            conn.accept(machine);
        }
        assert_eq!(held(&world, machine, family, 1), (5, 5));
        let conn = opened(machine, family, Kind::Home, 1, 1005);
        refused(machine, &conn, "chat-5", Counter::OverSourceChats);
        refused_late(machine, &late, &[Counter::ResetShareLate, Counter::OverSourceChats]);
        Conn::new(family, Kind::Home, 1, 1006).establish(machine, "chat-4");
        Conn::new(family, Kind::Home, 1, 1007).establish(machine, "chat-3");
        // Of a service without chats none is taken.
        establish(machine, family, Kind::Spread, 1, 2000);
        Conn::new(family, Kind::Home, 2, 1000).establish(machine, "chat-5");
        assert_eq!(whole(machine, Kind::Home), [(9, 6), (8, 6)]);
        // The clock hand gives back what is over, to those who made it.
        let over = Service { idle_timeout: 0, linger: 0, ..service(Kind::Home) };
        machine.set_service(Kind::Home.number(), &over);
        machine.look();
        machine.look();
        assert!(machine.chats().is_empty());
        assert_eq!(whole(machine, Kind::Home), [(1, 0), (0, 0)]);
        assert_eq!(held(&world, machine, family, 1), (1, 0));
        assert_eq!(held(&world, machine, family, 2), (0, 0));
    });
}

#[test]
fn a_tuple_that_comes_back_is_counted_once_and_one_of_a_release_before_is_adopted() {
    let world = world(8, 64, 1);
    on_all(&world, |machine, family| {
        let mut conn = establish(machine, family, Kind::Home, 1, 1000);
        conn.isn = conn.isn.wrapping_add(99_999_999);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[Counter::Rebound]);
        assert_eq!(held(&world, machine, family, 1).0, 0);
        conn.accept(machine);
        assert_eq!(held(&world, machine, family, 1), (1, 1));
        // As if a release without shares had entered it.
        let (tuple, flow) = machine.flows()[0];
        for index in [ALL_SHARES, SERVICE_SHARES].into_iter().chain(rows(flow.share)) {
            machine.set_share(index, &Share { flows: 0, chats: 1, ..Share::default() });
        }
        machine.set_flow(&tuple, &Flow { state: 0, share: 0, ..flow });
        machine.look();
        assert_eq!(machine.flows()[0].1.share, flow.share);
        assert_eq!((held(&world, machine, family, 1).0, whole(machine, Kind::Home)[1].0), (1, 1));
        machine.look();
        end(machine, &conn);
        assert_eq!((held(&world, machine, family, 1).0, whole(machine, Kind::Home)[1].0), (0, 0));
    });
}

#[test]
fn for_what_was_counted_off_twice_nobody_is_refused() {
    let world = world(8, 64, 1);
    on_all(&world, |machine, family| {
        let less = Share { flows: u32::MAX - 1, chats: u32::MAX, ..Share::default() };
        machine.set_share(ALL_SHARES, &less);
        for i in 0..5 {
            establish(machine, family, Kind::Home, 1, 1000 + i);
        }
        assert_eq!(whole(machine, Kind::Home), [(3, 0), (5, 1)]);
        establish(machine, family, Kind::Home, 1, 1005);
    });
}

/// Takes entries of heads for a client, and gives the number of its source.
fn taken_of(
    tables: &impl FlowTables,
    service: u32,
    host: u16,
    entries: u32,
) -> Result<u32, Counter> {
    let address = mapped(client(Family::V4, host, 1).ip());
    let mut holder = Holder::default();
    holder.set(tables, service, &address, &address);
    let mut key = TrustedKey { prefix_len: 0, addr: [0; 16] };
    match take(tables, Table::Heads, &holder, entries, &mut key) {
        Some(why) => Err(why),
        None => Ok(holder.source),
    }
}

#[test]
fn heads_are_taken_and_given_back_by_entries() {
    let sharing = Sharing { heads: 1000, services: 1, ipv4_prefix: 32, ..Sharing::default() };
    let world = trusting(World { sharing, ..World::default() }, &[3]);
    let mut host = Host::new(&world);
    let tables = host.parts().0;
    let taken = |host, entries| taken_of(tables, 7, host, entries);
    let held = |index| tables.share(index).unwrap().heads();
    // A hundred heads of one stranger, each of seven chunks. Half a table is his, and what he began there.
    let mut heads = Vec::new();
    while let Ok(source) = taken(1, 7) {
        heads.push(source);
    }
    assert_eq!(heads.len(), 72, "504 of 1000 entries");
    assert_eq!(taken(1, 1), Err(Counter::OverSourceHeads));
    // Others notice nothing, nor does who is trusted.
    let other = taken(2, 20).unwrap();
    let trusted = taken(3, 400).unwrap();
    assert!(taken(3, 10).is_ok(), "though this is more than what is left");
    let [a, b] = rows(heads[0]);
    assert_eq!(
        [held(ALL_SHARES), held(SERVICE_SHARES + 7), held(a), held(b)],
        [934, 934, 504, 504]
    );
    heads.iter().for_each(|source| give(tables, Table::Heads, 7, *source, 7));
    give(tables, Table::Heads, 7, other, 20);
    give(tables, Table::Heads, 7, trusted, 410);
    assert_eq!([held(ALL_SHARES), held(SERVICE_SHARES + 7), held(a), held(b)], [0; 4]);
    // Another table is not touched by it.
    assert!(taken(1, 501).is_ok() && taken(1, 1).is_err());
    let counts = tables.share(ALL_SHARES).unwrap();
    assert_eq!((counts.flows(), counts.chats()), (0, 0));
    // Of two services one may have four fifths.
    let sharing = Sharing { services: 2, ..sharing };
    let mut host = Host::new(&trusting(World { sharing, ..World::default() }, &[3]));
    let tables = host.parts().0;
    assert!(taken_of(tables, 7, 3, 800).is_ok());
    assert_eq!(taken_of(tables, 7, 3, 1), Err(Counter::OverServiceHeads));
    assert!(taken_of(tables, 8, 3, 1).is_ok());
}

#[test]
fn sixty_five_thousand_prefixes_take_no_more_room_and_hardly_count_for_others() {
    let world = World {
        sharing: Sharing { flows: 1 << 18, ipv4_prefix: 32, ipv6_prefix: 64, ..Sharing::default() },
        ..World::default()
    };
    let mut host = Host::new(&world);
    let source = |text: [u16; 8]| {
        let address = std::net::Ipv6Addr::from(text).octets();
        number(&world.secrets.chat, &world.sharing, &address, ITSELF)
    };
    for net in 0..=u16::MAX {
        let stranger = source([0x2001, 0xdb8, 1, net, 0, 0, 0, 1]);
        count_flow(host.parts().0, 0, 0, stranger, 1);
    }
    assert_eq!(host.share(ALL_SHARES), (1 << 16, 0));
    let counts: Vec<u32> = (0..1000)
        .map(|net| {
            let [a, b] = rows(source([0x2001, 0xdb8, 2, net, 0, 0, 0, 1]));
            host.share(a).0.min(host.share(b).0)
        })
        .collect();
    let none = counts.iter().filter(|count| **count == 0).count();
    assert!(counts.iter().all(|count| *count <= 3) && none > 900, "{none} of 1000 have none");
}

/// A chat of a release before, whose home has gone before the clock hand has counted it.
#[test]
fn a_chat_that_was_never_counted_counts_once_when_it_moves() {
    on_all(&World::default(), |machine, family| {
        let first = establish(machine, family, Kind::Home, 1, 1000);
        first.goes_up(machine, &first.up(RST | ACK, 60, 0, b""), &[Counter::Closed]);
        let (key, chat) = machine.chats()[0];
        machine.set_chat(&key, &Chat { state: Chat::pack(first.replica, 0), share: 0, ..chat });
        for index in [ALL_SHARES, SERVICE_SHARES + Kind::Home.number()] {
            machine.set_share(index, &Share::default());
        }
        let mut gone = replica(first.replica);
        gone.state = REPLICA_GONE;
        machine.set_replica(first.replica, &gone);
        let to = (first.replica + 1) % 3;
        machine.set_slots(0, &vec![to; SLOT_COUNT as usize]);
        let second = establish(machine, family, Kind::Home, 1, 2000);
        assert_eq!(second.replica, to);
        assert_eq!(whole(machine, Kind::Home), [(1, 1); 2]);
    });
}

proptest! {
    #[test]
    fn a_share_binds_only_beyond_half_and_only_holders(
        (room, used) in (2..1u32 << 26).prop_flat_map(|room| (Just(room), 0..=room)),
        held in 0..1u32 << 26,
        factor in 1..5u32,
    ) {
        let held = held.min(used);
        let over = is_over(held, used, room, factor);
        prop_assert!(!over || held > 0 && used > room / 2);
        // Who holds more is refused before, at the same moment and at any later one.
        prop_assert!(!over || is_over(used, used, room, factor));
        prop_assert!(!over || used == room || is_over(held, used + 1, room, factor));
        // Beyond half, who holds all is over.
        prop_assert!(used <= room / 2 || is_over(used, used, room, 1));
    }

    /// However many take what they can, one more finds room, and none of the greedy has more than the others.
    #[test]
    fn greedy_sources_share_evenly_and_leave_room(sources in 1..50usize, room in 64..4096u32) {
        let mut held = vec![0u32; sources];
        loop {
            let mut has_grown = false;
            for i in 0..sources {
                let used = held.iter().sum();
                if used < room && !is_over(held[i], used, room, 1) {
                    held[i] += 1;
                    has_grown = true;
                }
            }
            if !has_grown {
                break;
            }
        }
        let used: u32 = held.iter().sum();
        prop_assert!(used > room / 2);
        let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{held:?}");
        prop_assert!(!is_over(0, used, room, 1));
        prop_assert!((room - used) as usize * (sources + 1) + 2 * sources >= room as usize,
            "{used} of {room}");
    }

    #[test]
    fn a_source_is_a_prefix(address: [u8; 16], v4: bool, bit in 0..128u8, len in 1..=128u8) {
        let mut address = address;
        if v4 {
            address[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        }
        let before = if v4 { 96 } else { 0 };
        let (len, bit) = if v4 { ((len - 1) % 32 + 1, before + bit % 32) } else { (len, bit) };
        let sharing = Sharing { ipv4_prefix: len, ipv6_prefix: len, ..Sharing::default() };
        let mut other = address;
        other[bit as usize / 8] ^= 0x80 >> (bit % 8);
        let is_v4 = |a: &[u8; 16]| a[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        prop_assume!(is_v4(&address) == is_v4(&other));
        let same = prefix(&address, &sharing) == prefix(&other, &sharing);
        prop_assert_eq!(same, bit >= before + len);
    }

    #[test]
    fn two_sources_never_share_both_places(a: u32, b: u32, low in 0..1u32 << 14) {
        prop_assume!(a != b);
        prop_assert_ne!(rows(a), rows(b));
        // Nor if the first place is the same.
        let near = a ^ low << 18;
        prop_assert!(near == a || rows(near)[0] == rows(a)[0] && rows(near)[1] != rows(a)[1]);
    }
}
