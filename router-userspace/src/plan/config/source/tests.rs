use proptest::prelude::*;
use router_ebpf::source::{KeyKind::*, PATH_ANY, PATH_KEY, PATH_REST};

use super::*;

fn read(text: &str) -> KeySource {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// What a text is for the data path, and how it is written again.
#[track_caller]
fn compiles(text: &str, kind: KeyKind, bytes: &[u8], written: &str) {
    let source = read(text);
    let map = source.to_map();
    assert_eq!((map.kind, map.text()), (kind as u8, bytes), "{text}");
    assert_eq!(source.to_string(), written, "{text}");
    assert_eq!(read(written), source, "{text}");
    assert_eq!(KeySource::from_map(&map), Some(source), "{text}");
}

#[test]
fn texts_become_what_the_data_path_compares() {
    const ANY: char = PATH_ANY as char;
    const KEY: char = PATH_KEY as char;
    const REST: char = PATH_REST as char;
    for word in ["client", "destination", "tuple", "sni", "sni:label"] {
        let kinds = [Client, Destination, Tuple, Sni, SniLabel];
        let kind = kinds.into_iter().find(|kind| {
            KeySource::from_map(&maps::KeySource::new(*kind, b"")).unwrap().to_string() == word
        });
        compiles(word, kind.unwrap(), b"", word);
    }
    let query = |text, bytes: &str, written| compiles(text, Query, bytes.as_bytes(), written);
    query("query:chat", "chat", "query:chat");
    query("query:ch%61t", "chat", "query:chat");
    query("query:chat[id]", "chat[id]", "query:chat%5Bid%5D");
    query("query:a,b c", "a,b c", "query:a%2Cb%20c");
    query("query:raum%C3%BC", "raumü", "query:raumü");
    compiles("query:%FF%01", Query, b"\xff\x01", "query:%FF%01");
    compiles("header:X-Chat", Header, b"x-chat", "header:x-chat");
    compiles("cookie:Chat_Id", Cookie, b"Chat_Id", "cookie:Chat_Id");
    compiles(
        "sni:label.Rooms.example.COM",
        SniLabel,
        b".rooms.example.com",
        "sni:label.rooms.example.com",
    );
    let path = |text, bytes: &str, written| compiles(text, Path, bytes.as_bytes(), written);
    path("path:1", &format!("/{KEY}{REST}"), "path:1");
    path("path:3", &format!("/{ANY}/{ANY}/{KEY}{REST}"), "path:3");
    path("path:/*/{chat}/**", &format!("/{ANY}/{KEY}{REST}"), "path:2");
    path("path:/rooms/{chat}/ws", &format!("/rooms/{KEY}/ws"), "path:/rooms/{chat}/ws");
    path("path:/a/*/{chat}", &format!("/a/{ANY}/{KEY}"), "path:/a/*/{chat}");
    path("path:/{chat}/", &format!("/{KEY}/"), "path:/{chat}/");
    path("path:/room-{chat}/**", &format!("/room-{KEY}{REST}"), "path:/room-{chat}/**");
    path("path:/%2A%7B%7d/{chat}", &format!("/*{{}}/{KEY}"), "path:/%2A%7B%7D/{chat}");
    path("path:/caf%c3%a9/{chat}", &format!("/café/{KEY}"), "path:/café/{chat}");
}

#[test]
fn only_host_names_lose_their_case() {
    for text in ["sni", "sni:label", "sni:label.a.b", "header:Host"] {
        assert!(read(text).folds_case(), "{text}");
    }
    for text in ["query:host", "header:x-host", "cookie:host", "path:1", "client"] {
        assert!(!read(text).folds_case(), "{text}");
    }
}

#[test]
fn what_is_no_key_source_is_refused_with_what_would_be_right() {
    let long = format!("query:{}", "x".repeat(65));
    let long_path = format!("path:/{}/{{chat}}", "x".repeat(62));
    let rows = [
        ("", "\"\" is no key source; write \"query:NAME\""),
        ("url:x", "is no key source; write"),
        ("Query:chat", "is no key source"),
        ("query", "does not say which; write \"query:chat\""),
        ("query:", "no name behind it"),
        ("query:%4", "two hex digits"),
        ("query:%+1", "two hex digits"),
        (&long, "has 65 bytes; 64 are the most"),
        ("client:1", "nothing can follow; write \"client\""),
        ("tuple:", "nothing can follow"),
        ("header", "write \"header:x-chat\""),
        ("header:", "no name behind it"),
        ("header:x chat", "it has ' '"),
        ("header:x-chat:", "it has ':'"),
        ("header:é", "it has 'é'"),
        ("cookie:a=b", "it has '='"),
        ("sni:", "write \"sni\", \"sni:label\""),
        ("sni:name", "write \"sni\", \"sni:label\""),
        ("sni:label.", "a label is empty"),
        ("sni:label..com", "a label is empty"),
        ("sni:label.example.com.", "a label is empty"),
        ("sni:label.-a.com", "hyphen"),
        ("sni:label.müller.de", "xn--"),
        ("sni:label.*.com", "letters, digits and hyphens"),
        ("path", "write \"path:2\" or"),
        ("path:", "neither a number nor a path"),
        ("path:rooms/{chat}", "neither a number nor a path"),
        ("path:0", "counted from 1 to 31"),
        ("path:32", "counted from 1 to 31"),
        ("path:99999999999999999999999", "counted from 1 to 31"),
        ("path:+2", "neither a number"),
        ("path:/rooms", "has no {chat}"),
        ("path:/**", "write %2A"),
        ("path:/rooms/{room}", "{chat} is the only thing in braces; write %7B"),
        ("path:/{chat}/{chat}", "more than one {chat}"),
        ("path:/{chat}{chat}", "more than one {chat}"),
        ("path:/{chat}.json", "end the segment with {chat}"),
        ("path:/a*/{chat}", "write %2A"),
        ("path:/*{chat}", "write %2A"),
        ("path:/{chat}/**/x", "write %2A"),
        ("path:/{chat}?x=1", "a path ends before ?"),
        ("path:/a#b/{chat}", "a path ends before #"),
        ("path:/a%2fb/{chat}", "an encoded slash"),
        ("path:/%02/{chat}", "control character 0x02"),
        ("path:/%00/{chat}", "control character 0x00"),
        ("path:/%g0/{chat}", "two hex digits"),
        (&long_path, "65 bytes; 64 are the most"),
    ];
    for (text, says) in rows {
        let error = text.parse::<KeySource>().unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn a_list_is_in_order_and_every_source_of_it_can_be_used() {
    let problem = |texts: &[&str]| {
        let problems = key_sources(texts.iter().copied()).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        (problems[0].index, problems[0].message.clone())
    };
    let four = key_sources(["sni", "cookie:chat", "query:chat", "client"]).unwrap();
    assert_eq!(
        four.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        "sni cookie:chat query:chat client"
    );
    assert_eq!(problem(&[]), (0, "has 0 key sources; write 1 to 4 of them".to_owned()));
    let (index, message) = problem(&["query:a", "query:b", "query:c", "query:d", "query:e"]);
    assert_eq!((index, message.as_str()), (5, "has 5 key sources; write 1 to 4 of them"));
    let (index, message) = problem(&["client", "query:chat"]);
    assert_eq!(index, 1);
    assert!(message.contains("\"query:chat\" is behind \"client\""), "{message}");
    assert_eq!(problem(&["client", "client"]).0, 1);
    let (index, message) = problem(&["path:2", "query:a", "path:/*/{chat}/**"]);
    assert_eq!((index, message.as_str()), (2, "\"path:2\" is listed twice; leave one out"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn names_are_written_as_they_are_read(name in prop::collection::vec(any::<u8>(), 1..=64)) {
        let source = KeySource(maps::KeySource::new(Query, &name));
        let text = source.to_string();
        prop_assert_eq!(text.parse::<KeySource>(), Ok(source), "{}", text);
        prop_assert!(!text.contains(|c: char| c.is_control() || c.is_whitespace() || c == ','));
    }

    #[test]
    fn whatever_is_read_can_be_written(
        text in "(query:|path:/?|path:/|header:|cookie:|sni:label\\.?|sni|client)\
            (\\{chat\\}|/|\\*|%[0-9a-f]{2}|[a-z0-9._-]{1,6}|[ -~]|\u{e9}){0,6}(/\\*\\*)?",
    ) {
        if let Ok(source) = text.parse::<KeySource>() {
            let written = source.to_string();
            prop_assert_eq!(written.parse::<KeySource>(), Ok(source), "{}", written);
            prop_assert_eq!(KeySource::from_map(&source.to_map()), Some(source));
        }
    }

    #[test]
    fn no_text_is_too_odd(text in "\\PC{0,40}") {
        let _ = text.parse::<KeySource>();
        let _ = key_sources([text.as_str(), "client"]);
    }
}
