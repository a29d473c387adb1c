//! Where requests begin: the tricks of `tests/corpus/smuggling`, and random conversations on one connection.

use std::collections::BTreeSet;

use proptest::prelude::*;
use roost_heads::{
    conversation::{Conversation, ODDS},
    corpus,
    random::Random,
    request,
};
use router_ebpf::request::Doubt;

/// How many requests there are, or why nobody can tell where they begin.
const SMUGGLING: &[(&str, Result<usize, Doubt>)] = &[
    ("get-get", Ok(2)),
    ("length", Ok(2)),
    ("length-zero", Ok(2)),
    ("length-no-space", Ok(2)),
    ("length-spaces-and-tabs", Ok(2)),
    ("length-any-case", Ok(2)),
    ("length-on-get", Ok(2)),
    ("length-of-a-request", Ok(2)),
    ("length-too-short", Ok(2)),
    ("length-max", Ok(1)),
    ("length-max-and-one", Err(Doubt::LongBody)),
    ("length-2-32-and-5", Err(Doubt::LongBody)),
    ("length-2-64-and-5", Err(Doubt::LongBody)),
    ("length-leading-zero", Err(Doubt::Length)),
    ("length-twice-zero", Err(Doubt::Length)),
    ("length-plus", Err(Doubt::Length)),
    ("length-minus", Err(Doubt::Length)),
    ("length-hex", Err(Doubt::Length)),
    ("length-fraction", Err(Doubt::Length)),
    ("length-exponent", Err(Doubt::Length)),
    ("length-empty", Err(Doubt::Length)),
    ("length-list", Err(Doubt::Length)),
    ("length-list-other", Err(Doubt::Length)),
    ("length-space-inside", Err(Doubt::Length)),
    ("length-quoted", Err(Doubt::Length)),
    ("length-other-digits", Err(Doubt::Length)),
    ("length-vertical-tab", Err(Doubt::Control)),
    ("length-nul", Err(Doubt::Control)),
    ("length-delete", Err(Doubt::Control)),
    ("length-twice", Err(Doubt::SecondLength)),
    ("length-twice-other", Err(Doubt::SecondLength)),
    ("length-twice-any-case", Err(Doubt::SecondLength)),
    ("length-underscore", Err(Doubt::Length)),
    ("length-longer-name", Ok(2)),
    ("length-in-fold", Err(Doubt::Fold)),
    ("length-behind-line-feed", Err(Doubt::LineEnd)),
    ("length-behind-carriage-return", Err(Doubt::LineEnd)),
    ("length-behind-nul", Err(Doubt::Control)),
    ("length-space-before-colon", Err(Doubt::Name)),
    ("length-tab-before-colon", Err(Doubt::Name)),
    ("length-space-before-name", Err(Doubt::Fold)),
    ("length-space-before-first-name", Err(Doubt::Fold)),
    ("length-no-colon", Err(Doubt::Name)),
    ("length-nul-in-name", Err(Doubt::Name)),
    ("length-high-byte-in-name", Err(Doubt::Name)),
    ("length-in-trailer-place", Err(Doubt::BlankLine)),
    ("cl-te", Err(Doubt::TransferEncoding)),
    ("te-cl", Err(Doubt::TransferEncoding)),
    ("te-plain", Err(Doubt::TransferEncoding)),
    ("te-any-case", Err(Doubt::TransferEncoding)),
    ("te-no-space", Err(Doubt::TransferEncoding)),
    ("te-tab", Err(Doubt::TransferEncoding)),
    ("te-xchunked", Err(Doubt::TransferEncoding)),
    ("te-identity", Err(Doubt::TransferEncoding)),
    ("te-list", Err(Doubt::TransferEncoding)),
    ("te-list-behind", Err(Doubt::TransferEncoding)),
    ("te-quoted", Err(Doubt::TransferEncoding)),
    ("te-empty", Err(Doubt::TransferEncoding)),
    ("te-twice", Err(Doubt::TransferEncoding)),
    ("te-vertical-tab", Err(Doubt::TransferEncoding)),
    ("te-space-before-colon", Err(Doubt::Name)),
    ("te-space-before-name", Err(Doubt::Fold)),
    ("te-fold", Err(Doubt::TransferEncoding)),
    ("te-line-feed-before", Err(Doubt::LineEnd)),
    ("te-carriage-return-before", Err(Doubt::LineEnd)),
    ("te-two-carriage-returns-before", Err(Doubt::LineEnd)),
    ("te-nul-in-name", Err(Doubt::Name)),
    ("te-control-before-name", Err(Doubt::Name)),
    ("te-no-colon", Err(Doubt::Name)),
    ("te-underscore", Err(Doubt::TransferEncoding)),
    ("te-longer-name", Ok(2)),
    ("te-http-1.0", Err(Doubt::TransferEncoding)),
    ("te-chunk-extension", Err(Doubt::TransferEncoding)),
    ("te-chunk-size-with-line-feed", Err(Doubt::TransferEncoding)),
    ("line-0.9", Err(Doubt::Version)),
    ("line-0.9-with-headers", Err(Doubt::Version)),
    ("line-1.2", Err(Doubt::Version)),
    ("line-2.0", Err(Doubt::Version)),
    ("line-1.10", Err(Doubt::Version)),
    ("line-01.1", Err(Doubt::Version)),
    ("line-lower-case-version", Err(Doubt::Version)),
    ("line-space-behind-version", Err(Doubt::Version)),
    ("line-two-spaces", Err(Doubt::Target)),
    ("line-two-spaces-behind", Err(Doubt::Version)),
    ("line-tab", Err(Doubt::Method)),
    ("line-space-in-target", Err(Doubt::Version)),
    ("line-space-first", Err(Doubt::BlankLine)),
    ("line-blank-first", Err(Doubt::BlankLine)),
    ("line-line-feed-first", Err(Doubt::BlankLine)),
    ("line-line-feed", Err(Doubt::LineEnd)),
    ("line-carriage-return", Err(Doubt::LineEnd)),
    ("line-nul-in-target", Err(Doubt::Target)),
    ("line-high-byte-in-target", Err(Doubt::Target)),
    ("line-delete-in-target", Err(Doubt::Target)),
    ("line-absolute", Ok(2)),
    ("line-asterisk", Ok(2)),
    ("line-1.0", Ok(2)),
    ("line-1.0-length", Ok(2)),
    ("line-connect", Err(Doubt::Tunnel)),
    ("line-connect-lower-case", Err(Doubt::Tunnel)),
    ("line-pri", Err(Doubt::Tunnel)),
    ("line-method-bad", Err(Doubt::Method)),
    ("line-method-33-bytes", Err(Doubt::Method)),
    ("line-method-32-bytes", Ok(2)),
    ("line-method-none", Err(Doubt::Method)),
    ("line-only-in-headers", Ok(2)),
    ("end-line-feed", Err(Doubt::LineEnd)),
    ("end-two-line-feeds", Err(Doubt::LineEnd)),
    ("end-carriage-returns", Err(Doubt::LineEnd)),
    ("end-space", Err(Doubt::Fold)),
    ("end-truncated", Ok(0)),
    ("end-none", Ok(0)),
    ("end-at-16384", Ok(1)),
    ("end-at-16385", Err(Doubt::LongHead)),
    ("names-many", Ok(2)),
    ("name-empty", Err(Doubt::Name)),
    ("name-with-slash", Err(Doubt::Name)),
    ("value-high-bytes", Ok(2)),
    ("value-tab", Ok(2)),
    ("value-bell", Err(Doubt::Control)),
    ("expect", Err(Doubt::Expect)),
    ("expect-other", Err(Doubt::Expect)),
    ("expected", Ok(2)),
    ("ntlm", Err(Doubt::Authorization)),
    ("ntlm-alone", Err(Doubt::Authorization)),
    ("negotiate", Err(Doubt::Authorization)),
    ("basic", Ok(2)),
    ("bearer", Ok(2)),
    ("ntlm2", Ok(2)),
    ("authorization-empty", Ok(2)),
    ("upgrade", Ok(2)),
    ("close", Ok(2)),
    ("answer", Err(Doubt::Method)),
    ("tls", Err(Doubt::Method)),
];

#[test]
fn smuggling() {
    for (name, bytes) in corpus::files("smuggling") {
        let found = match request::doubt(bytes) {
            Some(doubt) => Err(doubt),
            None => Ok(request::check(bytes).0.len()),
        };
        let expected = SMUGGLING.iter().find(|(trick, _)| *trick == name);
        assert_eq!(Some(&(name, found)), expected, "tests/corpus/smuggling/{name}");
    }
    assert_eq!(SMUGGLING.len(), corpus::files("smuggling").count());
}

#[test]
fn every_doubt_about_a_head_is_in_the_corpus() {
    let seen: BTreeSet<_> = SMUGGLING.iter().filter_map(|(_, found)| found.err()).collect();
    let about_heads = Doubt::ALL.iter().copied().filter(|doubt| *doubt <= Doubt::LongHead);
    assert!(about_heads.eq(seen), "{SMUGGLING:?}");
}

#[test]
fn other_heads() {
    for dir in ["requests", "fuzz/http", "fuzz/requests"] {
        for (_, bytes) in corpus::files(dir) {
            request::check(bytes);
        }
    }
}

/// A request as it is sent by whom one knows.
fn usual() -> impl Strategy<Value = Vec<u8>> {
    let line = "(GET|POST|PUT|DELETE|OPTIONS|x) (/|\\*|http://h/)[!-~]{0,40} HTTP/1\\.[01]\r\n";
    let name = "(Host|Cookie|User-Agent|accept|X-[A-Za-z0-9-]{0,30}|Upgrade|[!#$%&'*+.^_`|~0-9A-Za-z-]{1,3})";
    let value = "[ \t]{0,2}[!-~\u{80}-\u{ff}]([ -~\t]{0,60}[!-~])?[ \t]{0,2}";
    let header = (name, value).prop_map(|(name, value)| format!("{name}:{value}\r\n"));
    let headers = prop::collection::vec(header, 0..6);
    let body = prop::option::of(prop::collection::vec(any::<u8>(), 0..60));
    (line, headers, body, any::<prop::sample::Index>()).prop_map(|(line, mut headers, body, at)| {
        if let Some(body) = &body {
            let at = at.index(headers.len() + 1);
            headers.insert(at, format!("Content-Length: {}\r\n", body.len()));
        }
        [&line, &*headers.concat(), "\r\n"]
            .concat()
            .into_bytes()
            .into_iter()
            .chain(body.unwrap_or_default())
            .collect()
    })
}

/// A request of which something may be wrong.
fn odd() -> impl Strategy<Value = Vec<u8>> {
    let line = "(GET|POST|CONNECT|PRI|[ -~]{0,5}) ?(/[ -~]{0,9}|) ?(HTTP/1\\.[0-2]|HTTP/[0-9]{1,2}\\.1|)(\r\n|\n|\r)";
    let name = "(Content-Length|content-length|Transfer-Encoding|TE|Expect|Authorization|Upgrade|Connection|X|\
        Content-Length[ -~]|[ -~]Content-Length|Content.Length|Transfer-Encoding[ -~]|[ -~]{0,3})";
    let value = "([0-9]{0,3}|[0-9]{9,21}|[+-]?[0-9 ,]{0,4}|0x[0-9a-f]|chunked|x?chunked|NTLM|negotiate [!-~]|\
        100-continue|[ -~\t]{0,9}|[\u{0}-\u{ff}]{0,4})";
    let end = "(\r\n|\r\n|\r\n|\r\n|\n|\r|\r\n |)";
    let header = (name, "(:|:|:| :|:\t|)", "[ \t\u{b}]{0,2}", value, end)
        .prop_map(|(a, b, c, d, e)| a + &b + &c + &d + &e);
    let headers = prop::collection::vec(header, 0..5);
    let body = "([0-9a-f]{1,2}(;[a-z=\"]{0,5})?\r\n[ -~]{0,9}\r\n){0,2}(0\r\n\r\n|[ -~]{0,20}|)";
    (line, headers, "(\r\n|\r\n|\n|)", body).prop_map(|(line, headers, end, body)| {
        // Each character of these patterns is one byte.
        (line + &headers.concat() + &end + &body).chars().map(|c| c as u8).collect()
    })
}

/// Some bytes of it changed, removed or put in.
fn mutated(stream: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n :\t0,\x00\x0b+"[..])];
    let change = (any::<prop::sample::Index>(), byte, 0..3);
    (stream, prop::collection::vec(change, 0..4)).prop_map(|(mut bytes, changes)| {
        for (at, byte, how) in changes {
            let at = at.index(bytes.len() + 1);
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn usual_requests_are_beyond_doubt(requests in prop::collection::vec(usual(), 1..4)) {
        let (found, _) = request::check(&requests.concat());
        let ends = |lens: &mut dyn Iterator<Item = usize>| {
            lens.scan(0, |end, len| { *end += len; Some(*end) }).collect::<Vec<_>>()
        };
        let found = found.iter().map(|[_, body]| body.end).collect::<Vec<_>>();
        prop_assert_eq!(found, ends(&mut requests.iter().map(Vec::len)));
    }

    #[test]
    fn odd_requests(requests in prop::collection::vec(prop_oneof![usual().boxed(), odd().boxed()], 1..4)) {
        request::check(&requests.concat());
    }

    #[test]
    fn nearly_requests(stream in mutated(prop::collection::vec(usual(), 1..4).prop_map(|list| list.concat()))) {
        request::check(&stream);
    }

    #[test]
    fn anything(stream in prop::collection::vec(any::<u8>(), 0..300)) {
        request::check(&stream);
    }
}

#[test]
fn conversations() {
    for seed in 0..2000 {
        Conversation::new(seed, 5).run(None);
    }
}

#[test]
fn odd_conversations() {
    for seed in 0..2000 {
        let mut random = Random::new(seed);
        let odd = ODDS[random.below(ODDS.len())];
        // The last one has nobody to be hasty.
        Conversation::new(seed, 5).run(Some((random.below(4), odd)));
    }
}
