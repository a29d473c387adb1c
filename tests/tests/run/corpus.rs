//! The loaded programs on every head of `tests/corpus`, in several segmentations: verdicts, counters,
//! replicas, chats and what is delivered are those of the same code on the host, and the key is the
//! one that the search alone finds.

use std::{collections::BTreeMap, ops::Range};

use roost_heads::{
    check::{arrives, show},
    corpus,
    random::Random,
    search::{Answer, Searcher},
    source::{ALL, Source},
    split::{self, Case, Plan},
    tls,
};
use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, PSH, Seg},
    host::Host,
    kernel::Rig,
    talk::Conn,
    world::{Kind, REPLICAS, World, replica_addr, service, sources},
};
use router_ebpf::{
    key::Reason,
    maps::{HEAD_LEN, KeySource, Name, SOURCES, Service},
    verdict::{Action, Counter},
};

/// What fits into a frame of a test run, with its headers.
const SEGMENT: usize = 1400;

/// What the segments of a connection came to.
#[derive(Debug, PartialEq, Eq)]
struct Course {
    /// What each packet did: counters and action.
    packets: Vec<(Vec<(Counter, u64)>, Action)>,
    /// The number of the replica, if the connection was bound.
    replica: Option<u32>,
    /// What the replica got when it had accepted.
    delivered: Vec<Vec<u8>>,
}

/// Both machines, and the chats that they should have by now.
struct Pair {
    machines: [Box<dyn Machine>; 2],
    world: World,
    chats: BTreeMap<u64, Name>,
    connections: u16,
}

impl Pair {
    fn new() -> Self {
        let world = World { flows: 1 << 15, chats: 1 << 14, ..World::default() };
        let machines: [Box<dyn Machine>; 2] =
            [Box::new(Host::new(&world)), Box::new(Rig::new(&world))];
        Self { machines, world, chats: BTreeMap::new(), connections: 0 }
    }

    /// One connection to a service with these key sources.
    fn run(&mut self, list: &[KeySource], head: &[u8], plan: &[Range<usize>]) {
        self.connections += 1;
        let service = Service { sources: sources(list), ..service(Kind::Home) };
        // Another address each time: the limit on RSTs is for each.
        let (number, family) = (self.connections, Family::ALL[usize::from(self.connections % 2)]);
        let [host, kernel] = self.machines.each_mut().map(|machine| {
            machine.set_service(Kind::Home.number(), &service);
            let mut conn = Conn::new(family, Kind::Home, number, 1000);
            conn.open(&mut **machine);
            course(&mut **machine, conn, head, plan)
        });
        let about = || format!("{plan:?}\n{}", show(list, head));
        assert_eq!(kernel, host, "the kernel and the host: {}", about());
        self.compare(&service, head, plan, &kernel, &about());
    }

    /// The key is the one that the search finds, and a missing one is counted for its reason.
    fn compare(
        &mut self,
        of: &Service,
        head: &[u8],
        plan: &[Range<usize>],
        course: &Course,
        about: &str,
    ) {
        let counted = |counter| {
            let moved = course.packets.iter().flat_map(|(moved, _)| moved);
            moved.filter(|(moved, _)| *moved == counter).map(|(_, count)| count).sum::<u64>()
        };
        let answer = arrives(&mut Default::default(), of, head, plan);
        let missing = match &answer {
            Answer::More => None,
            Answer::Key(key) => {
                let cookie = Searcher::default().cookie(key, &self.world.secrets.chat);
                self.chats.insert(cookie, Name::new(key));
                None
            }
            Answer::Missing(Reason::Unreadable) => Some(Counter::MissingUnreadable),
            Answer::Missing(Reason::Absent) => Some(Counter::MissingAbsent),
            Answer::Missing(Reason::Empty) => Some(Counter::MissingEmpty),
            Answer::Missing(Reason::TooLong) => Some(Counter::MissingTooLong),
        };
        let bound = answer != Answer::More;
        assert_eq!(course.replica.is_some(), bound, "{answer:?}: {about}");
        let once = u64::from(missing.is_some());
        assert_eq!(counted(Counter::MissingKey), once, "{answer:?}: {about}");
        if let Some(reason) = missing {
            assert_eq!(counted(reason), 1, "{answer:?}: {about}");
        }
    }

    /// All chats are there, with their cookies, names and homes, and no others.
    fn finish(self) {
        let [host, kernel] = self.machines.each_ref().map(|machine| {
            let chats = machine.chats().into_iter();
            chats
                .map(|(key, chat)| (key.cookie, (chat.key, chat.state)))
                .collect::<BTreeMap<_, _>>()
        });
        assert_eq!(kernel, host, "the chats of kernel and host");
        let names: BTreeMap<u64, Name> =
            kernel.into_iter().map(|(cookie, (name, _))| (cookie, name)).collect();
        assert_eq!(names, self.chats, "the chats of the kernel, and the keys that were found");
        assert!(self.connections > 100 && !self.chats.is_empty(), "hardly anything was tried");
    }
}

/// Sends the segments, lets the replica accept if there is one, and tells all.
fn course(machine: &mut dyn Machine, mut conn: Conn, head: &[u8], plan: &[Range<usize>]) -> Course {
    let mut course = Course { packets: Vec::new(), replica: None, delivered: Vec::new() };
    for range in plan {
        let seg = conn.up(PSH | ACK, range.start as u32, 0, &head[range.clone()]);
        let outcome = machine.run(Hook::Ingress, &seg.bytes());
        if outcome.verdict() == Counter::Bound {
            let to = outcome.segment().dst;
            course.replica = (0..REPLICAS).find(|number| replica_addr(conn.family, *number) == to);
        }
        course.packets.push((outcome.moved, outcome.action));
    }
    if let Some(replica) = course.replica {
        conn.replica = replica;
        let outcome = machine.run(Hook::Egress, &conn.replica_syn_ack().bytes());
        let segments = outcome.copies.iter().chain([&outcome.frame]);
        // Not the whole frames: numbers and timestamps depend on the clock of each.
        course.delivered =
            segments.map(|frame| Seg::parse(frame).expect("a segment").payload).collect();
        course.packets.push((outcome.moved, outcome.action));
    }
    course
}

/// In full segments, in order.
fn in_order(len: usize) -> Plan {
    (0..len).step_by(SEGMENT).map(|start| start..(start + SEGMENT).min(len)).collect()
}

/// In some other way, of which every segment fits into a frame.
fn in_some_order(len: usize, random: &mut Random) -> Plan {
    let plan = split::random(len, random);
    let fits = plan.iter().all(|range| range.len() <= SEGMENT);
    if fits { plan } else { in_order(len) }
}

/// A head by each source alone that reads such, and by some lists of all in some segmentations.
fn thoroughly(pair: &mut Pair, head: &[u8], of: impl Fn(&Source) -> bool) {
    let head = &head[..head.len().min(HEAD_LEN)];
    for source in ALL.iter().filter(|source| of(source)) {
        pair.run(&[source.compiled()], head, &in_order(head.len()));
    }
    some(pair, head, 4);
}

/// A head by some lists of sources in some segmentations.
fn some(pair: &mut Pair, head: &[u8], times: usize) {
    let head = &head[..head.len().min(HEAD_LEN)];
    let mut random = Random::of(head);
    for _ in 0..times {
        let count = 1 + random.below(SOURCES);
        let list: Vec<KeySource> =
            (0..count).map(|_| ALL[random.below(ALL.len())].compiled()).collect();
        let plan = in_some_order(head.len(), &mut random);
        pair.run(&list, head, &plan);
    }
}

#[test]
fn requests() {
    let mut pair = Pair::new();
    for (_, head) in corpus::files("requests") {
        thoroughly(&mut pair, head, |source| !source.is_tls());
    }
    for (_, head) in corpus::files("fuzz/http") {
        some(&mut pair, head, 3);
    }
    pair.finish();
}

#[test]
fn hellos() {
    let mut pair = Pair::new();
    for (_, head) in corpus::files("hellos") {
        thoroughly(&mut pair, head, Source::is_tls);
    }
    for (_, bytes) in corpus::files("fuzz/tls") {
        match *bytes {
            [22, ..] => some(&mut pair, bytes, 3),
            _ => some(&mut pair, &tls::client_hello(bytes), 3),
        }
    }
    pair.finish();
}

#[test]
fn segments() {
    let mut pair = Pair::new();
    for (_, bytes) in corpus::files("fuzz/segments") {
        let Some(Case { sources, plan, head }) = Case::read(bytes) else { continue };
        let list: Vec<KeySource> = sources.iter().map(|number| ALL[*number].compiled()).collect();
        let shortened = plan.iter().map(|range| range.start..range.end.min(range.start + SEGMENT));
        pair.run(&list, head, &shortened.collect::<Plan>());
    }
    // What a browser sends, cut at every place.
    let head = corpus::file("requests", "chromium-tab");
    for at in 1..head.len() {
        let list = [ALL[0].compiled()];
        pair.run(&list, head, &[0..at, at..head.len()]);
        pair.run(&list, head, &[at..head.len(), 0..at]);
    }
    pair.finish();
}
