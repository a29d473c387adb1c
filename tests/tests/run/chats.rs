//! Which replica a connection goes to.

use std::collections::{BTreeMap, BTreeSet};

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, PSH, RST},
    live, on_all,
    talk::{Conn, get, reset_for},
    world::{Kind, World, client, mapped, replica, replica_addr, service},
};
use router_ebpf::{
    maps::{
        CHAT_COUNTED, Chat, ChatCookie, ChatKey, NO_REPLICA, Name, REPLICA_DRAINING, REPLICA_GONE,
        Replica, SLOT_COUNT,
    },
    verdict::Counter,
};

/// Opens a connection for a chat and gives it back with the key of the chat's entry.
fn visit(machine: &mut dyn Machine, family: Family, port: u16, chat: &str) -> (Conn, ChatKey) {
    let mut conn = Conn::new(family, Kind::Home, 1, port);
    conn.establish(machine, chat);
    (conn, key_of(machine, chat.as_bytes()))
}

fn key_of(machine: &dyn Machine, name: &[u8]) -> ChatKey {
    let chats = machine.chats();
    let chat = chats.iter().find(|(_, chat)| chat.key.kept() == name);
    chat.expect("an entry with this readable key").0
}

fn leave(machine: &mut dyn Machine, conn: &Conn) {
    conn.goes_up(machine, &conn.up(RST | ACK, 60, 0, b""), &[Counter::Closed]);
}

/// A chat whose home is another one than `home`, and a connection to it.
fn elsewhere(machine: &mut dyn Machine, family: Family, home: u32) -> (Conn, ChatKey, String) {
    (0..50)
        .map(|n| format!("other-{n}"))
        .zip(5000..)
        .find_map(|(chat, port)| {
            let (conn, key) = visit(machine, family, port, &chat);
            if conn.replica != home {
                return Some((conn, key, chat));
            }
            leave(machine, &conn);
            None
        })
        .expect("one of fifty chats lives elsewhere")
}

fn entry(cookie: u64) -> ChatCookie {
    ChatCookie { cookie, replica: NO_REPLICA, width: 1, key: Name::EMPTY, chat: Name::EMPTY }
}

#[test]
fn a_key_that_is_bound_to_a_chat_goes_where_that_lives() {
    on_all(&World::default(), |machine, family| {
        let (tea, tea_key) = visit(machine, family, 1000, "tea");
        let (other, other_key, name) = elsewhere(machine, family, tea.replica);
        leave(machine, &other);
        machine.set_chat_cookie(&other_key, &entry(tea_key.cookie));
        let mut conn = Conn::new(family, Kind::Home, 1, 2000);
        conn.open(machine);
        conn.bind(machine, &get(&name), &[Counter::Overridden]);
        conn.accept(machine);
        assert_eq!(conn.replica, tea.replica);
        let chats = machine.chats();
        let chat = chats.iter().find(|(key, _)| *key == tea_key).unwrap().1;
        assert_eq!(chat.state, Chat::pack(tea.replica, 2) | CHAT_COUNTED);
    });
}

#[test]
fn a_pin_counts_while_the_chat_has_no_live_home() {
    on_all(&World::default(), |machine, family| {
        let (tea, key) = visit(machine, family, 1000, "tea");
        let pinned = (tea.replica + 1) % 3;
        machine.set_chat_cookie(&key, &ChatCookie { replica: pinned, ..entry(key.cookie) });
        let mut conn = Conn::new(family, Kind::Home, 1, 2000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[Counter::Overridden]);
        conn.accept(machine);
        assert_eq!(conn.replica, tea.replica, "a live chat stays");
        leave(machine, &conn);
        leave(machine, &tea);
        // As if it had ended long ago.
        let (_, chat) = machine.chats()[0];
        machine.set_chat(&key, &Chat { ended_at: 0, ..chat });
        let mut conn = Conn::new(family, Kind::Home, 1, 3000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[Counter::Overridden]);
        conn.accept(machine);
        assert_eq!(conn.replica, pinned);
        // Live there, it stays there without the pin.
        machine.set_chat_cookie(&key, &entry(key.cookie));
        let mut conn = Conn::new(family, Kind::Home, 1, 4000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[Counter::Overridden, Counter::HomeKept]);
        assert_eq!(conn.replica, pinned);
    });
}

/// How long ago the only connection was bound says nothing: a chat lives while it has one, and lingers after it.
#[test]
fn a_chat_lingers_after_its_last_flow_has_ended() {
    on_all(&World::default(), |machine, family| {
        let (tea, key) = visit(machine, family, 1000, "tea");
        let (_, chat) = machine.chats()[0];
        machine.set_chat(&key, &Chat { ended_at: 0, ..chat });
        leave(machine, &tea);
        let (_, left) = machine.chats()[0];
        assert_eq!(left.state, Chat::pack(tea.replica, 0) | CHAT_COUNTED);
        assert!(left.ended_at > 0, "it lingers from the end of its last flow on");
        // The table gives every slot to another replica now.
        let other = (tea.replica + 1) % 3;
        machine.set_slots(0, &vec![other; SLOT_COUNT as usize]);
        let back = |machine: &mut dyn Machine, port, also: &[Counter]| {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.open(machine);
            conn.bind(machine, &get("tea"), also);
            conn.replica
        };
        assert_eq!(back(machine, 2000, &[Counter::HomeKept]), tea.replica, "a reload comes back");
        let (_, chat) = machine.chats()[0];
        machine.set_chat(&key, &Chat { ended_at: 0, ..chat });
        assert_eq!(back(machine, 3000, &[]), other, "it has lingered long enough");
    });
}

/// Who binds keys that no replica has accepted makes no chat of them.
#[test]
fn a_chat_begins_when_its_replica_accepts() {
    on_all(&World { chats: 1, ..World::default() }, |machine, family| {
        for port in 0..10 {
            let mut conn = Conn::new(family, Kind::Home, 1, 1000 + port);
            conn.open(machine);
            conn.bind(machine, &get(&format!("random-{port}")), &[]);
            assert_eq!(machine.chats().len(), 0);
        }
        let (conn, _) = visit(machine, family, 2000, "tea");
        let (_, chat) = machine.chats()[0];
        assert_eq!((chat.key.kept(), live(machine)), (&b"tea"[..], 1));
        assert_eq!(machine.load(conn.replica), (1, 1));
    });
}

/// Two tabs of a chat are bound, a table later; whichever replica answers first, they meet.
#[test]
fn a_table_that_changes_before_a_replica_answers_splits_nothing() {
    on_all(&World::default(), |machine, family| {
        for (port, first_is_old) in [(1000, true), (2000, false)] {
            let chat = format!("chat-{port}");
            machine.set_slots(0, &vec![0; SLOT_COUNT as usize]);
            let mut old = Conn::new(family, Kind::Home, 1, port);
            old.open(machine);
            old.bind(machine, &get(&chat), &[]);
            machine.set_slots(0, &vec![1; SLOT_COUNT as usize]);
            let mut new = Conn::new(family, Kind::Home, 1, port + 1);
            new.open(machine);
            new.bind(machine, &get(&chat), &[]);
            assert_eq!((old.replica, new.replica), (0, 1));
            let moved = |machine: &mut dyn Machine, conn: &mut Conn, also: &[Counter]| {
                let answer = conn.replica_syn_ack();
                machine
                    .run(Hook::Egress, &answer.bytes())
                    .counts(&[Counter::DecidedAgain])
                    .leaves(&reset_for(&answer).bytes());
                assert!(machine.flows_back().iter().all(|(at, _)| *at != conn.replica_side()));
                // Its client sees nothing of that, and sends its first segment again.
                conn.bind(machine, &get(&chat), also);
                conn.accept(machine);
                assert_eq!(conn.replica, 1);
            };
            if first_is_old {
                moved(machine, &mut old, &[]);
                new.accept(machine);
            } else {
                new.accept(machine);
                moved(machine, &mut old, &[]);
            }
            assert_eq!(key_of(machine, chat.as_bytes()).service, Kind::Home as u32);
            leave(machine, &old);
            leave(machine, &new);
            assert_eq!((machine.load(0), machine.load(1).0), ((0, 0), 0));
            // What was undone leaves nothing behind that is counted.
            assert_eq!(live(machine), 0);
        }
    });
}

/// The clock hand removes a chat when it has lingered.
#[test]
fn a_chat_goes_when_it_has_lingered() {
    on_all(&World::default(), |machine, family| {
        let (tea, key) = visit(machine, family, 1000, "tea");
        assert_eq!(machine.look(), []);
        assert_eq!(machine.chats().len(), 1, "it has a flow");
        leave(machine, &tea);
        machine.look();
        assert_eq!((machine.chats().len(), machine.load(tea.replica)), (1, (0, 1)), "it lingers");
        let (_, chat) = machine.chats()[0];
        let ended_at = chat.ended_at - 31 * 1_000_000_000;
        machine.set_chat(&key, &Chat { ended_at, ..chat });
        machine.look();
        assert_eq!((machine.chats().len(), machine.load(tea.replica)), (0, (0, 0)));
        // It is looked at no more, and begins anew.
        machine.look();
        let (tea, _) = visit(machine, family, 2000, "tea");
        assert_eq!(machine.load(tea.replica), (1, 1));
    });
}

#[test]
fn a_wide_chat_is_spread() {
    on_all(&World::default(), |machine, family| {
        let (_, key) = visit(machine, family, 1000, "tea");
        machine.set_chat_cookie(&key, &ChatCookie { width: 3, ..entry(key.cookie) });
        let mut homes = BTreeSet::new();
        for port in 2000..2040 {
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.open(machine);
            conn.bind(machine, &get("tea"), &[Counter::Overridden]);
            conn.accept(machine);
            homes.insert(conn.replica);
        }
        let parts = machine.chats().len() - 1;
        assert_eq!(parts, 3, "one entry for each part");
        assert!(homes.len() <= 3);
        assert_eq!(live(machine), 41);
    });
}

#[test]
fn a_service_says_how_many_parts_its_chats_have() {
    let mut world = World::default();
    world.services[Kind::Home as usize].1.width = 3;
    on_all(&world, |machine, family| {
        let mut ports = 2000..;
        let mut visit = |machine: &mut dyn Machine, also: &[Counter]| -> Conn {
            let mut conn = Conn::new(family, Kind::Home, 1, ports.next().expect("a port"));
            conn.open(machine);
            conn.bind(machine, &get("tea"), also);
            conn.accept(machine);
            conn
        };
        let home = |machine: &dyn Machine, conn: &Conn| {
            let flows = machine.flows();
            let (_, flow) = flows.iter().find(|(at, _)| *at == conn.vip_side()).expect("a flow");
            (flow.cookie, flow.replica)
        };
        let tabs: Vec<Conn> = (0..40).map(|_| visit(machine, &[])).collect();
        assert_eq!((machine.chats().len(), live(machine)), (3, 40), "one entry for each part");
        let homes: BTreeMap<u64, u32> = tabs.iter().map(|tab| home(machine, tab)).collect();
        assert!(tabs.iter().all(|tab| home(machine, tab).1 == homes[&home(machine, tab).0]));
        // Each part keeps its own home when the slot table says something else of all.
        let to = (homes.values().next().expect("a home") + 1) % 3;
        machine.set_slots(0, &vec![to; SLOT_COUNT as usize]);
        for _ in 0..20 {
            let port = ports.next().expect("a port");
            let mut conn = Conn::new(family, Kind::Home, 1, port);
            conn.open(machine);
            let first = conn.up(PSH | ACK, 0, 0, &get("tea"));
            let outcome = machine.run(Hook::Ingress, &first.bytes());
            assert_eq!(outcome.verdict(), Counter::Bound);
            let found = outcome.segment().dst;
            let of = (0..3).find(|n| replica_addr(family, *n) == found).expect("a replica");
            assert!(homes.values().any(|home| *home == of), "{of} of {homes:?}");
        }
    });
}

#[test]
fn what_is_said_of_a_chat_comes_before_what_its_service_says() {
    let mut world = World::default();
    world.services[Kind::Home as usize].1.width = 3;
    on_all(&world, |machine, family| {
        let mut conn = Conn::new(family, Kind::Reject, 1, 1000);
        conn.establish(machine, "tea");
        // The cookie of a chat that is whole is the hash of its key.
        let key = ChatKey { service: Kind::Home as u32, ..key_of(machine, b"tea") };
        // Those of the widths before are still there.
        for (width, entries) in [(1, 1), (2, 3), (0, 4)] {
            machine.set_chat_cookie(&key, &ChatCookie { width, ..entry(key.cookie) });
            for port in 0..40 {
                let mut conn = Conn::new(family, Kind::Home, 1, 2000 + 100 * width as u16 + port);
                conn.open(machine);
                conn.bind(machine, &get("tea"), &[Counter::Overridden]);
                conn.accept(machine);
                leave(machine, &conn);
            }
            let of_service = |(at, _): &(ChatKey, Chat)| at.service == Kind::Home as u32;
            assert_eq!(
                machine.chats().iter().filter(|c| of_service(c)).count(),
                entries,
                "{width}"
            );
        }
    });
}

#[test]
fn a_live_chat_stays_when_the_slot_table_changes() {
    on_all(&World::default(), |machine, family| {
        let (tea, _) = visit(machine, family, 1000, "tea");
        let to = (tea.replica + 1) % 3;
        machine.set_slots(0, &vec![to; SLOT_COUNT as usize]);
        let mut conn = Conn::new(family, Kind::Home, 1, 2000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[Counter::HomeKept]);
        conn.accept(machine);
        assert_eq!(conn.replica, tea.replica);
        let (new, _) = visit(machine, family, 3000, "new");
        assert_eq!(new.replica, to);
        // A home that drains keeps its chats; one that is gone does not.
        let mut drains = replica(tea.replica);
        drains.state = REPLICA_DRAINING;
        machine.set_replica(tea.replica, &drains);
        let mut conn = Conn::new(family, Kind::Home, 1, 4000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[Counter::HomeKept]);
        assert_eq!(conn.replica, tea.replica);
        drains.state = REPLICA_GONE;
        machine.set_replica(tea.replica, &drains);
        let mut conn = Conn::new(family, Kind::Home, 1, 5000);
        conn.open(machine);
        conn.bind(machine, &get("tea"), &[]);
        assert_eq!(conn.replica, to);
    });
}

#[test]
fn both_families_of_a_chat_meet() {
    on_all(&World::default(), |machine, _| {
        let (four, key) = visit(machine, Family::V4, 1000, "tea");
        let (six, same) = visit(machine, Family::V6, 1000, "tea");
        assert_eq!((four.replica, key), (six.replica, same));
        assert_eq!(live(machine), 2);
    });
}

#[test]
fn a_missing_key_is_a_decision() {
    on_all(&World::default(), |machine, family| {
        let heads: [(&[u8], Counter); 5] = [
            (b"GET /ws HTTP/1.1\r\n\r\n", Counter::MissingAbsent),
            (b"POST /ws HTTP/1.1\r\n\r\n", Counter::MissingAbsent),
            (b"GET /ws?chat= HTTP/1.1\r\n\r\n", Counter::MissingEmpty),
            (b"\x16\x03\x01", Counter::MissingUnreadable),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Counter::MissingUnreadable),
        ];
        let mut port = 1000;
        let mut homes = BTreeSet::new();
        for (head, why) in heads {
            for _ in 0..10 {
                port += 1;
                let mut conn = Conn::new(family, Kind::Home, 1, port);
                conn.open(machine);
                conn.bind(machine, head, &[Counter::MissingKey, why]);
                conn.accept(machine);
                homes.insert(conn.replica);
            }
            let mut conn = Conn::new(family, Kind::Fixed, 1, port);
            conn.open(machine);
            // Unless the port is taken by the connection before, which went to the same replica.
            conn.client.set_port(port + 5000);
            conn.open(machine);
            conn.bind(machine, head, &[Counter::MissingKey, why]);
            assert_eq!(conn.replica, 2);
            let mut conn = Conn::new(family, Kind::Reject, 1, port);
            conn.open(machine);
            conn.replica = u32::MAX;
            let seg = conn.up(PSH | ACK, 0, 0, head);
            machine
                .run(Hook::Ingress, &seg.bytes())
                .counts(&[Counter::ResetMissingKey, Counter::MissingKey, why])
                .leaves(&reset_for(&seg).bytes());
        }
        assert_eq!(homes.len(), 3);
        assert!(machine.chats().is_empty());
    });
}

#[test]
fn connections_are_spread_without_a_home() {
    on_all(&World::default(), |machine, family| {
        let mut homes = BTreeSet::new();
        for port in 1000..1040 {
            let mut conn = Conn::new(family, Kind::Spread, 1, port);
            conn.establish(machine, "tea");
            homes.insert(conn.replica);
        }
        assert_eq!(homes.len(), 3);
        assert!(machine.chats().is_empty());
    });
}

#[test]
fn the_other_key_sources() {
    on_all(&World::default(), |machine, family| {
        for port in 1000..1004 {
            let mut conn = Conn::new(family, Kind::Client, 7, port);
            conn.establish(machine, "any");
        }
        let key = key_of(machine, &mapped(client(family, 7, 0).ip()));
        assert_eq!(machine.chats(), [(key, machine.chats()[0].1)]);
        assert_eq!(live(machine), 4);
        for host in 1..4 {
            let mut conn = Conn::new(family, Kind::Destination, host, 1000);
            conn.establish(machine, "any");
        }
        key_of(machine, &mapped(Kind::Destination.vip(family).ip()));
        assert_eq!((machine.chats().len(), live(machine)), (2, 7));
        for port in 1000..1003 {
            let mut conn = Conn::new(family, Kind::Tuple, 9, port);
            conn.establish(machine, "any");
            let tuple = conn.vip_side();
            let name = [&tuple.client[..], &tuple.server, &tuple.client_port, &tuple.server_port];
            key_of(machine, &name.concat());
        }
        assert_eq!((machine.chats().len(), live(machine)), (5, 10));
    });
}

#[test]
fn a_client_port_is_taken_while_its_flow_lives() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Fixed, 1, 1000);
        conn.open(machine);
        conn.bind(
            machine,
            b"GET / HTTP/1.1\r\n\r\n",
            &[Counter::MissingKey, Counter::MissingAbsent],
        );
        conn.accept(machine);
        // All to the replica of the first one.
        machine.set_slots(0, &vec![2; SLOT_COUNT as usize]);
        let mut other = Conn::new(family, Kind::Home, 1, 1000);
        other.open(machine);
        other.replica = u32::MAX;
        let seg = other.up(PSH | ACK, 0, 0, &get("tea"));
        machine
            .run(Hook::Ingress, &seg.bytes())
            .counts(&[Counter::ResetConflict])
            .leaves(&reset_for(&seg).bytes());
        conn.goes_up(machine, &conn.up(RST | ACK, 60, 0, b""), &[Counter::Closed]);
        other.bind(machine, &get("tea"), &[]);
        other.accept(machine);
        assert_eq!((machine.flows().len(), machine.flows_back().len()), (1, 1));
    });
}

#[test]
fn a_service_that_lost_its_replicas_resets() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.open(machine);
        let mut none = service(Kind::Home);
        (none.usable, none.slots) = (0, NO_REPLICA);
        machine.set_service(Kind::Home.number(), &none);
        conn.replica = u32::MAX;
        for seg in [conn.syn(), conn.up(PSH | ACK, 0, 0, &get("tea"))] {
            machine
                .run(Hook::Ingress, &seg.bytes())
                .counts(&[Counter::ResetNoReplica])
                .leaves(&reset_for(&seg).bytes());
        }
    });
}

/// No system takes what comes from its own address: its client is told at once.
#[test]
fn a_client_whose_chat_lives_in_itself_is_reset() {
    on_all(&World::default(), |machine, family| {
        let mut conn = Conn::new(family, Kind::Home, 1, 1000);
        conn.establish(machine, "tea");
        let itself = mapped(client(family, 1, 0).ip());
        let number = conn.replica;
        machine.set_replica(number, &Replica { v4: itself, v6: itself, ..replica(number) });
        let mut other = Conn::new(family, Kind::Home, 1, 1001);
        other.open(machine);
        let first = other.up(PSH | ACK, 0, 0, &get("tea"));
        machine
            .run(Hook::Ingress, &first.bytes())
            .counts(&[Counter::ResetItself])
            .leaves(&reset_for(&first).bytes());
        assert!(machine.stash().is_empty() && machine.pending().is_empty());
    });
}
