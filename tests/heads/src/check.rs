//! What has to hold for every head.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::Range,
};

use router_ebpf::{
    key::{Kind, Reason},
    maps::{HEAD_LEN, HOLES, KeySource, SOURCES, Service},
    source::KeyKind,
    stash::Added,
};

use crate::{
    http, proxy,
    random::Random,
    search::{Answer, Searcher, service},
    source::{ALL, Expected, Source},
    split::{self, Case},
    tls,
};

/// Everything, for a head as it is sent and for each source in [`ALL`]. Panics with what is wrong.
pub fn all(head: &[u8]) {
    let head = &head[..head.len().min(HEAD_LEN)];
    let mut random = Random::of(head);
    let pair = &mut [Searcher::default(), Searcher::default()];
    let [searcher, _] = pair;
    for source in ALL.iter() {
        let service = service(&[source.compiled()]);
        agrees(searcher, source, &service, head);
        let cut = random.below(head.len() + 1);
        grows(searcher, &service, head, cut);
        ends(searcher, source, &service, &head[..cut]);
    }
    for _ in 0..2 {
        let picked = pick(&mut random);
        let service = service(&picked);
        let [searcher, _] = pair;
        in_order(searcher, &picked, head);
        grows(searcher, &service, head, random.below(head.len() + 1));
        arrives(pair, &service, head, &split::random(head.len(), &mut random));
    }
    kinds(&mut pair[0], head, &mut random);
    in_other_records(pair, head, &mut random);
}

/// A head behind what a proxy sends: what it names is the client, and nothing else is found than without it.
pub fn proxied(head: &[u8]) {
    let head = &head[..head.len().min(HEAD_LEN)];
    let mut random = Random::of(head);
    let sender = IpAddr::from([198, 51, 100, 1]);
    let (expected, all) = (proxy::expected(head), Some(Reason::TooLong));
    let [searcher, plain] = &mut [Searcher::default(), Searcher::default()];
    searcher.comes(sender, true);
    let client = KeySource::new(KeyKind::Client, b"");
    let mut sources = pick(&mut random);
    sources.truncate(SOURCES - 1);
    sources.push(client);
    for service in [service(&[client]), service(&sources)] {
        let found = searcher.whole(&service, head, all);
        match &expected {
            proxy::Expected::Header(end, named) => {
                // The unspecified address names nobody.
                let named = named.filter(|client| *client != Ipv6Addr::UNSPECIFIED);
                plain.comes(named.unwrap_or(sender), false);
                let rest = &head[*end..];
                let kind = searcher.kind_of_searched(&service);
                assert_eq!(kind, plain.kind(&service, rest), "{}", escape(head));
                assert_eq!(
                    found,
                    plain.whole(&service, rest, all),
                    "{expected:?}\n{}",
                    escape(head)
                );
                let as_far = plain.whole(&service, rest, None);
                let found = searcher.whole(&service, head, None);
                assert_eq!(found, as_far, "{expected:?}\n{}", escape(head));
                // No byte of it is enough before the last one.
                let before = searcher.whole(&service, &head[..random.below(*end)], None);
                assert_eq!(before, Answer::More, "{expected:?}\n{}", escape(head));
            }
            proxy::Expected::Malformed => {
                assert_eq!(found, Answer::Missing(Reason::Unreadable), "{}", escape(head));
            }
            proxy::Expected::Partial => {
                let seen = matches!(found, Answer::Missing(Reason::TooLong | Reason::Unreadable));
                assert!(seen, "{found:?}\n{}", escape(head));
                let found = searcher.whole(&service, head, None);
                let waits = matches!(found, Answer::More | Answer::Missing(Reason::Unreadable));
                assert!(waits, "{found:?}\n{}", escape(head));
                let cut_off = searcher.whole(&service, head, Some(Reason::Absent));
                assert_eq!(cut_off, Answer::Missing(Reason::Unreadable), "{}", escape(head));
            }
        }
        let cut = random.below(head.len() + 1);
        grows(searcher, &service, head, cut);
        in_two(searcher, &service, head, cut);
    }
}

/// In two segments it is the same as in one.
fn in_two(searcher: &mut Searcher, service: &Service, head: &[u8], cut: usize) {
    let whole = searcher.whole(service, head, None);
    if cut == 0 || cut == head.len() {
        return;
    }
    searcher.begin();
    searcher.arrive(0, &head[..cut]);
    let mut found = searcher.search(service, None);
    if found == Answer::More {
        searcher.arrive(cut, &head[cut..]);
        found = searcher.search(service, None);
    }
    assert_eq!(found, whole, "cut at {cut}\n{}", escape(head));
}

fn escape(head: &[u8]) -> String {
    head.escape_ascii().to_string()
}

/// Some sources, in some order.
fn pick(random: &mut Random) -> Vec<KeySource> {
    let count = 1 + random.below(SOURCES);
    (0..count).map(|_| ALL[random.below(ALL.len())].compiled()).collect()
}

/// The key is the one that independent parsers find, and it is found as soon as it is there.
pub fn agrees(searcher: &mut Searcher, source: &Source, service: &Service, head: &[u8]) {
    let Some((expected, needed)) = source.expected(head) else {
        // Nothing is known about it, but that it has an answer.
        let last = Some(Reason::TooLong);
        assert_ne!(searcher.whole(service, head, last), Answer::More, "{}", show(source, head));
        return;
    };
    let matches = |found: &Answer| match (&expected, found) {
        (Expected::Key(expected), Answer::Key(found)) => expected == found,
        (Expected::Empty, Answer::Missing(reason)) => *reason == Reason::Empty,
        (Expected::Absent, Answer::Missing(reason)) => *reason != Reason::Empty,
        _ => false,
    };
    for (bytes, last) in [(head, Some(Reason::TooLong)), (&head[..needed], None)] {
        let found = searcher.whole(service, bytes, last);
        assert!(
            matches(&found),
            "found {found:?} in the first {} bytes ({last:?}), expected {expected:?}\n{}",
            bytes.len(),
            show(source, head)
        );
    }
}

/// More bytes may bring an answer, but never change one.
pub fn grows(searcher: &mut Searcher, service: &Service, head: &[u8], cut: usize) {
    let before = searcher.whole(service, &head[..cut], None);
    if before == Answer::More {
        return;
    }
    let after = searcher.whole(service, head, Some(Reason::Absent));
    assert_eq!(before, after, "with {cut} bytes and with all\n{}", show(service, head));
    let early = searcher.whole(service, &head[..cut], Some(Reason::TooLong));
    assert_eq!(before, early, "no more would have come\n{}", show(service, head));
}

/// What ends too early has no key for the reason why it ends.
fn ends(searcher: &mut Searcher, source: &Source, service: &Service, head: &[u8]) {
    if searcher.whole(service, head, None) == Answer::More {
        for reason in [Reason::Absent, Reason::TooLong] {
            let found = searcher.whole(service, head, Some(reason));
            assert_eq!(found, Answer::Missing(reason), "{}", show(source, head));
        }
    }
}

/// The first source that yields a key counts, and one that needs more bytes is waited for.
pub fn in_order(searcher: &mut Searcher, sources: &[KeySource], head: &[u8]) {
    for last in [None, Some(Reason::Absent)] {
        let mut expected = Answer::Missing(Reason::Unreadable);
        for source in sources {
            match (searcher.whole(&service(&[*source]), head, last), &mut expected) {
                // The reason that says most.
                (Answer::Missing(reason), Answer::Missing(most)) => *most = reason.max(*most),
                (found, expected) => {
                    *expected = found;
                    break;
                }
            }
        }
        let found = searcher.whole(&service(sources), head, last);
        assert_eq!(found, expected, "by all and one by one\n{}", show(sources, head));
    }
}

/// Segments in any order come to what their bytes without a gap come to in one segment.
pub fn arrives(
    [searcher, whole]: &mut [Searcher; 2],
    service: &Service,
    head: &[u8],
    plan: &[Range<usize>],
) -> Answer {
    let mut model = Model::default();
    searcher.begin();
    for (number, range) in plan.iter().enumerate() {
        let added = searcher.arrive(range.start, &head[range.clone()]);
        assert_eq!(added, model.arrive(range), "{range:?} of {plan:?}");
        let Some(known) = searcher.known() else { continue };
        assert_eq!(known, model.known(), "bytes without a gap: {plan:?}");
        if added != Added::New {
            continue;
        }
        let last = searcher.last();
        let found = searcher.search(service, last);
        let expected = whole.whole(service, &head[..known], last);
        assert_eq!(
            found,
            expected,
            "after {} of the segments {plan:?}, of which {known} bytes are known ({last:?})\n{}",
            number + 1,
            show(service, head)
        );
        if found != Answer::More {
            return found;
        }
    }
    Answer::More
}

/// A fuzzer's segments, with the bytes of one head and with bytes that contradict each other.
pub fn segments(bytes: &[u8]) {
    let Some(Case { sources, plan, head }) = Case::read(bytes) else { return };
    let sources: Vec<KeySource> = sources.iter().map(|number| ALL[*number].compiled()).collect();
    let service = service(&sources);
    let pair = &mut [Searcher::default(), Searcher::default()];
    arrives(pair, &service, head, &plan);
    contradicts(&mut pair[0], &service, head, &plan);
}

/// The bytes of a client that says something else each time have an answer, too.
fn contradicts(searcher: &mut Searcher, service: &Service, head: &[u8], plan: &[Range<usize>]) {
    searcher.begin();
    for (number, range) in plan.iter().enumerate() {
        let bytes: Vec<u8> = head[range.clone()].iter().map(|byte| byte ^ number as u8).collect();
        searcher.arrive(range.start, &bytes);
        if searcher.known().is_some() {
            searcher.search(service, searcher.last());
            assert_ne!(searcher.search(service, Some(Reason::TooLong)), Answer::More);
        }
    }
}

/// What is there of a head, byte by byte.
#[derive(Default)]
pub struct Model(Vec<bool>);

impl Model {
    /// What becomes of a segment.
    pub fn arrive(&mut self, range: &Range<usize>) -> Added {
        let range = range.start..range.end.min(HEAD_LEN);
        if range.is_empty() {
            return Added::No;
        }
        let mut after = self.0.clone();
        after.resize(after.len().max(range.end), false);
        if after[range.clone()].iter().all(|there| *there) {
            return Added::Known;
        }
        after[range].fill(true);
        if holes(&after) > HOLES {
            return Added::No;
        }
        self.0 = after;
        Added::New
    }

    /// How many bytes are there without a gap.
    pub fn known(&self) -> usize {
        self.0.iter().position(|there| !there).unwrap_or(self.0.len())
    }
}

/// How many holes there are.
fn holes(bytes: &[bool]) -> usize {
    bytes.chunk_by(|a, b| a == b).filter(|run| !run[0]).count()
}

/// A request is taken for an upgrade if it is one.
fn kinds(searcher: &mut Searcher, head: &[u8], random: &mut Random) {
    let service = service(&pick(random));
    let found = searcher.kind(&service, head);
    match http::is_upgrade(head) {
        Some(true) => assert_eq!(found, Kind::Upgrade, "{}", show("Upgrade", head)),
        Some(false) => assert_eq!(found, Kind::Request, "{}", show("Upgrade", head)),
        None => {}
    }
    let before = searcher.kind(&service, &head[..random.below(head.len() + 1)]);
    if before != Kind::Request {
        assert_eq!(before, found, "more bytes make it another kind\n{}", show("Upgrade", head));
    }
}

/// A ClientHello may be split into records anywhere.
fn in_other_records(pair: &mut [Searcher; 2], head: &[u8], random: &mut Random) {
    let Some(message) = tls::message(head) else { return };
    for records in [1, 2, 9] {
        let other = tls::in_records(&message.bytes, records, random);
        if other.len() > HEAD_LEN {
            continue;
        }
        for source in ALL.iter().filter(|source| source.is_tls()) {
            let service = service(&[source.compiled()]);
            let [searcher, _] = pair;
            agrees(searcher, source, &service, &other);
            let first = searcher.whole(&service, &head[..message.end], None);
            let found = searcher.whole(&service, &other, None);
            assert_eq!(first, found, "in {records} records\n{}", show(source, &other));
            arrives(pair, &service, &other, &split::random(other.len(), random));
        }
    }
}

/// A head, for a message.
pub fn show(what: impl std::fmt::Debug, head: &[u8]) -> String {
    format!("looking for {what:?} in {} bytes: {}", head.len(), head.escape_ascii())
}
