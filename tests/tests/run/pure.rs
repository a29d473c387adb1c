//! Parts of the data path alone, on the host.

use proptest::prelude::*;
use roost_tests::run::{
    Machine as _,
    host::Host,
    world::{Kind, World, service, sources},
};
use router_ebpf::{
    chats::{self, Acquired},
    key::{Reason, Search, search},
    maps::{Chat, FLOW_CHAT, HEAD_LEN, KeySource, Service},
    source::KeyKind,
    steer::chat_key,
    translate::rescale,
};

/// The key of a request, by the data path.
fn key(machine: &mut Host, service: &Service, head: &[u8]) -> Option<Vec<u8>> {
    let (tables, scratch) = machine.parts();
    scratch.stash.set(0, &[0xaa; HEAD_LEN]);
    scratch.stash.set(0, head);
    let found = search(tables, service, Some(Reason::Absent), scratch);
    (found == Search::Found).then(|| scratch.key.bytes[..scratch.key.len as usize].to_vec())
}

/// The key of a query, by an independent parser of forms.
fn by_form(query: &str, name: &str) -> Option<String> {
    let query = query.split('#').next().expect("what is before the fragment");
    let mut found = form_urlencoded::parse(query.as_bytes());
    let value = found.find(|(found, _)| found == name)?.1;
    (!value.is_empty()).then(|| value.into_owned())
}

fn asked_for(name: &str) -> Service {
    let source = KeySource::new(KeyKind::Query, name.as_bytes());
    Service { sources: sources(&[source]), ..service(Kind::Home) }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn the_key_is_what_a_form_parser_finds(
        query in "(chat|ch%61t|c|room|Chat|chats|cha|%63%68at|[a-z+%]{0,4}|=|&|%[0-7][0-9a-f]|\
            [!-$'-~]{0,3}|tea|\\?|%|%[0-9g]|\\+|chat=|&chat=){0,12}",
        path in "/[a-z/.%+=&]{0,12}",
        name in "(chat|c|room)",
    ) {
        let mut machine = Host::new(&World::default());
        let head = format!("GET {path}?{query} HTTP/1.1\r\nHost: a?chat=b&chat=c\r\n\r\n");
        let found = key(&mut machine, &asked_for(&name), head.as_bytes());
        // That parser makes text of it, with replacements for what is none.
        let found = found.map(|key| String::from_utf8_lossy(&key).into_owned());
        prop_assert_eq!(found, by_form(&query, &name), "{}", head);
    }

    #[test]
    fn a_longer_name_is_another_one(name in "[a-z]{1,31}", more in "[a-z]", value in "[a-z]{1,9}") {
        let mut machine = Host::new(&World::default());
        let head = format!("GET /?{name}{more}=no&{name}={value} HTTP/1.1\r\n\r\n");
        let found = key(&mut machine, &asked_for(&name), head.as_bytes());
        prop_assert_eq!(found, Some(value.into_bytes()));
    }

    #[test]
    fn a_window_never_promises_more(window: u16, from in 0u8..=14, to in 0u8..=14) {
        let (there, here) = (u64::from(window) << from, u64::from(rescale(window, from, to)) << to);
        prop_assert!(here <= there);
        // And it loses no more than it must: a unit of the scale, or what a field cannot say.
        prop_assert!(here + (1 << to) > there || rescale(window, from, to) == 0xffff);
        let up = rescale(window, from, 0);
        prop_assert_eq!(u64::from(up), there.min(0xffff));
    }

    /// Flows of chats come and go in any order, by replicas that are the home or are not, some of them undone as
    /// soon as they are counted, with the clock hand in between.
    #[test]
    fn counts_of_chats_end_at_zero(
        steps in prop::collection::vec((0u64..3, 0u32..3, 0u8..5), 1..60),
    ) {
        let mut machine = Host::new(&World::default());
        let mut owed: Vec<(u64, u32)> = Vec::new();
        for (cookie, replica, then) in steps {
            let is_home = owed.iter().all(|(other, home)| *other != cookie || *home == replica);
            let (tables, scratch) = machine.parts();
            scratch.chat_key = chat_key(0, cookie);
            scratch.flow.replica = replica;
            scratch.flow.flags = FLOW_CHAT;
            match chats::acquire(tables, scratch) {
                // One that was undone has not lived, nor has one that lingers no more.
                Acquired::First => prop_assert!(owed.iter().all(|(other, _)| *other != cookie)),
                Acquired::Counted => prop_assert!(is_home),
                // It has flows elsewhere, or lingers there.
                Acquired::Elsewhere => {
                    let chats = machine.chats();
                    let chat = chats.iter().find(|(key, _)| key.cookie == cookie).unwrap().1;
                    prop_assert_ne!(Chat::home(chat.state), replica);
                    continue;
                }
                other => prop_assert!(false, "there is room, and no other CPU: {:?}", other),
            }
            match then {
                0 => chats::undo(tables, &chat_key(0, cookie), replica),
                1 => chats::release(tables, &chat_key(0, cookie), replica),
                _ => owed.push((cookie, replica)),
            }
            let total: u32 = machine.chats().iter().map(|(_, c)| Chat::flows(c.state)).sum();
            prop_assert_eq!(total as usize, owed.len());
            // One home for each chat.
            for (cookie, home) in &owed {
                let chats = machine.chats();
                let chat = chats.iter().find(|(key, _)| key.cookie == *cookie).unwrap().1;
                prop_assert_eq!(Chat::home(chat.state), *home);
            }
            if then == 3 {
                let (cookie, home) = owed.swap_remove(cookie as usize % owed.len());
                let (tables, _) = machine.parts();
                chats::release(tables, &chat_key(0, cookie), home);
            }
            if then == 4 {
                machine.look();
            }
            // Each replica is the home of as many as it is counted for.
            for replica in 0..3 {
                let at_home = |(_, chat): &&(_, Chat)| Chat::home(chat.state) == replica;
                let homes = machine.chats().iter().filter(at_home).count();
                prop_assert_eq!(machine.load(replica).1, homes as u64);
            }
        }
        for (cookie, home) in owed {
            let (tables, _) = machine.parts();
            chats::release(tables, &chat_key(0, cookie), home);
        }
        prop_assert!(machine.chats().iter().all(|(_, chat)| Chat::flows(chat.state) == 0));
    }
}
