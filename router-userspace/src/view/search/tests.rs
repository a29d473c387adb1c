use percent_encoding::percent_decode_str;
use proptest::prelude::*;

use super::*;
use crate::testing::service;

fn found(source: &str, bytes: &[u8]) -> Outcome {
    search(&service(&[source]), &Tuple::default(), bytes)
}

/// The key, or why there is none.
fn key(source: &str, head: &str) -> String {
    match found(source, head.as_bytes()) {
        Outcome::Found { key, .. } => String::from_utf8(key).unwrap(),
        Outcome::Missing(reason) => reason_word(reason).to_owned(),
        Outcome::More => "more".to_owned(),
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn templates_fit_paths_as_they_are_documented() {
    let rows = [
        ("path:1", "/lobby", "lobby"),
        ("path:2", "/rooms/lobby/ws?x=1", "lobby"),
        ("path:2", "/rooms/", "empty"),
        ("path:2", "/rooms", "absent"),
        ("path:2", "//lobby", "lobby"),
        ("path:/rooms/{chat}", "/rooms/lobby", "lobby"),
        ("path:/rooms/{chat}", "/rooms/lobby/", "absent"),
        ("path:/rooms/{chat}", "/rooms/lobby/ws", "absent"),
        ("path:/rooms/{chat}", "/Rooms/lobby", "absent"),
        ("path:/rooms/{chat}", "/rooms//lobby", "absent"),
        ("path:/rooms/{chat}", "/rooms/a%2Fb", "a/b"),
        ("path:/rooms/{chat}", "/rooms/a+b#top", "a+b"),
        ("path:/rooms/{chat}", "/r%6Foms/%C3%A9", "é"),
        ("path:/rooms/{chat}", "http://host/rooms/lobby", "lobby"),
        ("path:/rooms/{chat}", "/x/../rooms/lobby", "absent"),
        ("path:/rooms/{chat}/", "/rooms/lobby/", "lobby"),
        ("path:/rooms/{chat}/", "/rooms/lobby", "absent"),
        ("path:/rooms/{chat}/**", "/rooms/lobby", "lobby"),
        ("path:/rooms/{chat}/**", "/rooms/lobby/", "lobby"),
        ("path:/rooms/{chat}/**", "/rooms/lobby/a/b?c", "lobby"),
        ("path:/room-{chat}", "/room-7", "7"),
        ("path:/room-{chat}", "/room-", "empty"),
        ("path:/room-{chat}", "/room7", "absent"),
        ("path:/*/{chat}", "//lobby", "lobby"),
        ("path:/*/{chat}/ws", "/v1/lobby/ws", "lobby"),
        ("path:/*/{chat}/ws", "/v1/lobby/wss", "absent"),
        ("path:/{chat}/a%2A", "/lobby/a*", "lobby"),
    ];
    for (source, target, expected) in rows {
        assert_eq!(key(source, &get(target)), expected, "{source} of {target}");
    }
}

#[test]
fn the_first_source_that_yields_a_key_counts() {
    let service = service(&["query:chat", "cookie:chat", "client"]);
    let tuple = Tuple { client: [7; 16], ..Tuple::default() };
    let found = |head: &str| match search(&service, &tuple, head.as_bytes()) {
        Outcome::Found { source, .. } => source.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found("GET /?chat=1 HTTP/1.1\r\nCookie: chat=2\r\n\r\n"), "query:chat");
    assert_eq!(found("GET /?chat= HTTP/1.1\r\nCookie: a=b; chat=2\r\n\r\n"), "cookie:chat");
    assert_eq!(found("GET / HTTP/1.1\r\n\r\n"), "client");
}

#[test]
fn a_head_that_is_not_complete_waits_and_one_that_is_too_long_does_not() {
    assert_eq!(key("query:chat", "GET /?chat=lob"), "more");
    assert_eq!(
        key("header:x", &format!("GET / HTTP/1.1\r\na: {}", "b".repeat(17_000))),
        "too_long"
    );
    assert_eq!(key("query:chat", "\u{16}\u{3}\u{1}"), "unreadable");
}

/// A client that names no host waits for its answer: nothing more will come.
#[test]
fn a_client_hello_without_a_name_is_known_to_have_none() {
    let hello = |extensions: &[u8]| {
        let mut hello = [&[3, 3], [0; 32].as_slice(), &[0, 0, 2, 0x13, 0x01, 1, 0]].concat();
        hello.extend(extensions);
        let len = hello.len() as u8;
        [&[22, 3, 1, 0, len + 4, 1, 0, 0, len], hello.as_slice()].concat()
    };
    let versions = [0, 43, 0, 3, 2, 3, 4];
    for extensions in [
        &[][..],
        &[0, 0],
        &[&[0, 7], versions.as_slice()].concat(),
        &[&[0, 11], versions.as_slice(), &[0, 0, 0, 0]].concat(),
        &[0, 6, 0, 0, 0, 2, 0, 0],
    ] {
        let whole = hello(extensions);
        assert_eq!(found("sni", &whole), Outcome::Missing(Reason::Absent), "{extensions:?}");
        assert_eq!(found("sni", &whole[..40]), Outcome::More, "{extensions:?}");
    }
}

/// A template by the book: split at slashes, compared one by one.
fn by_segments(template: &str, path: &str) -> Option<Vec<u8>> {
    let decode = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let (template, has_rest) = match template.strip_suffix("/**") {
        Some(template) => (template, true),
        None => (template, false),
    };
    let wanted: Vec<&str> = template.split('/').collect();
    let there: Vec<&str> = path.split('/').collect();
    if there.len() < wanted.len() || !has_rest && there.len() > wanted.len() {
        return None;
    }
    let mut key = None;
    for (wanted, there) in wanted.iter().zip(&there) {
        if *wanted == "*" {
            continue;
        }
        let there = decode(there);
        match wanted.strip_suffix("{chat}") {
            Some(literal) => key = Some(there.strip_prefix(decode(literal).as_slice())?.to_vec()),
            None if decode(wanted) == there => {}
            None => return None,
        }
    }
    key.filter(|key| !key.is_empty())
}

/// A path's segment that is likely to be near to one of a template.
const SEGMENT: &str = "(a|b|ab|%61|a%62|room-|room-7|room-%37|7|%|%2F|a%2Fb|%zz|[!$&'()+.:;=@_~-]|\
                       \u{e9}|%C3%A9||[ab7.%]{0,4})";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn a_compiled_template_fits_what_one_by_the_book_fits(
        before in prop::collection::vec("(a|b|\\*|ab|%61|\u{e9}||room-7)", 0..3),
        literal in "(|room-|a|%41)",
        behind in prop::collection::vec("(a|b|\\*|ab||%37)", 0..3),
        rest in "(|/\\*\\*)",
        path in prop::collection::vec(SEGMENT, 1..6),
        end in "(|\\?a/b|#a/b|\\?)",
    ) {
        let own = [before, vec![format!("{literal}{{chat}}")], behind].concat().join("/");
        let template = format!("/{own}{rest}");
        let path = format!("/{}", path.join("/"));
        let found = match found(&format!("path:{template}"), get(&format!("{path}{end}")).as_bytes()) {
            Outcome::Found { key, .. } => Some(key),
            Outcome::Missing(_) => None,
            Outcome::More => panic!("the head is complete"),
        };
        prop_assert_eq!(found, by_segments(&template, &path), "{} of {}", template, path);
    }

    /// Random paths seldom fit: these are made from the template.
    #[test]
    fn a_path_made_from_a_template_fits_it(
        before in prop::collection::vec("(a|\\*|room-7|%2A)", 0..3),
        literal in "(|room-|a|%41)",
        behind in prop::collection::vec("(a|\\*|%37)", 0..3),
        key in "(7|room|%|%2F|%41|\u{e9}|\\+|[a-z.%]{1,5})",
        any in "[a-z%]{0,3}",
        more in prop::option::of("[a-z/]{0,5}"),
    ) {
        let own = [before, vec![format!("{literal}{{chat}}")], behind].concat().join("/");
        let template = format!("/{own}{}", if more.is_some() { "/**" } else { "" });
        let path = format!("/{}", own.replace('*', &any).replace("{chat}", &key));
        let path = more.map_or(path.clone(), |more| format!("{path}/{more}"));
        let expected: Vec<u8> = percent_decode_str(&key).collect();
        prop_assert_eq!(by_segments(&template, &path), Some(expected.clone()));
        let found = found(&format!("path:{template}"), get(&path).as_bytes());
        let fits = matches!(&found, Outcome::Found { key, .. } if *key == expected);
        prop_assert!(fits, "{:?}: {} of {}", found, template, path);
    }

    #[test]
    fn a_numbered_segment_is_the_one_that_is_counted(
        number in 1_usize..6,
        path in prop::collection::vec(SEGMENT, 1..6),
    ) {
        let target = format!("/{}", path.join("/"));
        let expected = path.get(number - 1).map(|s| percent_decode_str(s).collect::<Vec<u8>>());
        let found = match found(&format!("path:{number}"), get(&target).as_bytes()) {
            Outcome::Found { key, .. } => Some(key),
            _ => None,
        };
        prop_assert_eq!(found, expected.filter(|key| !key.is_empty()), "{} of {}", number, target);
    }
}
