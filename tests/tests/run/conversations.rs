//! Random conversations over connections that are used for one request after the other, under `on_reuse = "rebind"`: clients
//! and replicas with a TCP of their own, a network that loses, repeats and reorders, and between them the loaded programs and
//! the same code on the host, which have to do the same. Two parsers that others wrote say where the requests are: each
//! goes, whole, to the replica of its chat and to no other, and of no body a byte is taken for a request.
//!
//! They are the same ones in each run, unless `ROOST_SEED=<number>` asks for others; `ROOST_CASES=<number>` runs more.

mod ends;
mod stream;

use std::{collections::BTreeMap, env, net::SocketAddr, thread, time::Duration};

use ends::{End, Standing};
use roost_heads::{corpus, random::Random, request::lengths};
use roost_tests::run::{
    Family, Hook,
    frame::{SYN, Seg},
    host::Host,
    pair::{OutOfStep, Pair},
    requests::chats,
    talk::{Conn, get},
    world::{Kind, REPLICAS, World, client, replica_addr},
};
use router_ebpf::{
    maps::REUSE_REBIND,
    verdict::{Action, Counter},
};
use stream::{Odd, Request, Stream, answers};

/// What happens in one at the most.
const STEPS: usize = 20_000;
/// Longer than the data path waits before it sends what is missing once more.
const AGAIN: Duration = Duration::from_millis(40);

/// Where a segment is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    FromClient,
    ToClient,
    FromReplica,
    ToReplica,
}

/// One conversation.
struct Talk<'a> {
    random: &'a mut Random,
    pair: &'a mut Pair,
    family: Family,
    vip: SocketAddr,
    at: SocketAddr,
    client: End,
    /// The ends of each replica, the last one first used last; with the next request that each answers.
    replicas: BTreeMap<usize, Vec<(End, usize)>>,
    stream: &'a Stream,
    network: Vec<(Way, Seg)>,
    loses: bool,
    /// What was counted.
    moved: BTreeMap<Counter, u64>,
    log: Vec<String>,
}

impl Talk<'_> {
    /// Runs it until it is over. `aborts`: the client resets it after so many steps.
    fn run(&mut self, aborts: Option<usize>, half_closes: bool) -> Result<(), OutOfStep> {
        for step in 0..STEPS {
            if aborts == Some(step) && self.client.standing == Standing::Open {
                let reset = self.client.reset();
                self.network.push((Way::FromClient, reset));
            }
            if self.client.is_over() && self.network.is_empty() {
                return Ok(());
            }
            if self.network.is_empty() || self.random.below(6) == 0 {
                self.act(half_closes);
                if step % 100 == 99 && self.network.is_empty() {
                    thread::sleep(AGAIN);
                }
            } else {
                self.carry()?;
            }
        }
        panic!("it does not end: {:?}\n{}", self.moved, self.log());
    }

    /// One of the ends does something by itself.
    fn act(&mut self, half_closes: bool) {
        let quiet = self.network.is_empty();
        if self.client.standing == Standing::Opening {
            if quiet {
                let syn = self.client.syn();
                self.network.push((Way::FromClient, syn));
            }
            return;
        }
        let numbers: Vec<usize> = self.replicas.keys().copied().collect();
        let turn = self.random.below(numbers.len() + 1);
        if let Some(number) = numbers.get(turn) {
            self.replica_acts(*number, quiet);
        } else if self.client.standing == Standing::Open {
            self.client_acts(half_closes, quiet);
        }
    }

    fn client_acts(&mut self, half_closes: bool, quiet: bool) {
        let requests = &self.stream.requests;
        let answered = answers(&self.client.got).len();
        let mut last = answered.min(requests.len() - 1);
        if self.stream.odd_at(last) == Some(Odd::Pipelined) {
            last = (last + 1).min(requests.len() - 1);
        }
        let limit = requests[last].end;
        if self.client.heard_all() {
            self.client.finish();
        }
        let limit = limit.min(self.client.out.len());
        let has_said = half_closes && self.client.has_said(limit);
        if last + 1 == requests.len() && (answered == requests.len() || has_said) {
            self.client.closes = true;
        }
        if !self.client.has_said(limit) {
            let seg = self.client.say(limit, self.random);
            self.network.push((Way::FromClient, seg));
        } else if quiet && let Some(seg) = self.client.repeat(self.random) {
            self.network.push((Way::FromClient, seg));
        }
    }

    fn replica_acts(&mut self, number: usize, quiet: bool) {
        let stream = self.stream;
        let Some((end, next)) = self.replicas.get_mut(&number).and_then(|ends| ends.last_mut())
        else {
            return;
        };
        if end.standing == Standing::Reset {
            return;
        }
        let base = end.first.wrapping_sub(self.client.begins()) as usize;
        let request = stream.requests.get(*next);
        // Some answer as soon as they have the head.
        let is_eager = self.random.below(12) == 0 && stream.odd.is_none();
        let needs = |request: &Request| if is_eager { request.head } else { request.end };
        let has_said = end.has_said(end.out.len());
        if let Some(request) = request
            && base <= request.start
            && has_said
            && !end.closes
            && needs(request) <= base + end.got.len()
        {
            end.answers.push(end.out.len());
            end.out.extend(stream.answer(*next, number, self.random));
            end.closes |= stream.odd_at(*next) == Some(Odd::Close);
            *next += 1;
        }
        if end.heard_all() {
            end.closes = true;
        }
        let limit = end.out.len();
        if !end.has_said(limit) {
            let is_split = stream.odd_at(next.wrapping_sub(1)) == Some(Odd::Split);
            let seg = end.answer(is_split, self.random);
            self.network.push((Way::FromReplica, seg));
        } else if quiet && let Some(seg) = end.repeat(self.random) {
            self.network.push((Way::FromReplica, seg));
        } else if quiet && end.got.is_empty() {
            let seg = end.syn_ack();
            self.network.push((Way::FromReplica, seg));
        }
    }

    /// A segment goes a step further, or is lost.
    fn carry(&mut self) -> Result<(), OutOfStep> {
        let most = if self.loses { 3 } else { 1 };
        let at = self.random.below(self.network.len().min(most));
        let (way, seg) = self.network.remove(at);
        if self.loses && self.random.below(20) == 0 {
            self.log.push(format!("lost {way:?} {seg:?}"));
            return Ok(());
        }
        if self.loses && self.random.below(20) == 0 {
            self.network.push((way, seg.clone()));
        }
        match way {
            Way::FromClient => self.pass(Hook::Ingress, &seg)?,
            Way::FromReplica => self.pass(Hook::Egress, &seg)?,
            Way::ToClient => {
                let answer = self.client.hear(&seg);
                self.network.extend(answer.map(|seg| (Way::FromClient, seg)));
            }
            Way::ToReplica => self.reaches(&seg),
        }
        Ok(())
    }

    /// A segment reaches the node.
    fn pass(&mut self, hook: Hook, seg: &Seg) -> Result<(), OutOfStep> {
        let outcome = self.pair.run(hook, &seg.bytes())?;
        let brief = |seg: &Seg| {
            let Seg { src, dst, seq, ack, flags, .. } = seg;
            format!("{src} > {dst} {seq} {ack} {flags:#x} {}", seg.payload.len())
        };
        self.log.push(format!("{hook:?} {} {:?}", brief(seg), outcome.moved));
        for (counter, by) in &outcome.moved {
            *self.moved.entry(*counter).or_default() += by;
        }
        if outcome.action == Action::Drop {
            return Ok(());
        }
        for frame in outcome.copies.iter().chain([&outcome.frame]) {
            let seg = Seg::parse(frame).expect("a segment");
            assert_eq!(seg.bytes(), *frame, "its checksums are right");
            if seg.dst == self.at {
                assert_eq!(seg.src, self.vip, "it left untranslated: {}", self.log());
                self.network.push((Way::ToClient, seg));
            } else {
                self.network.push((Way::ToReplica, seg));
            }
        }
        Ok(())
    }

    /// A segment reaches a replica.
    fn reaches(&mut self, seg: &Seg) {
        let number = (0..REPLICAS)
            .find(|number| replica_addr(self.family, *number) == seg.dst)
            .unwrap_or_else(|| panic!("{} is no replica", seg.dst)) as usize;
        let last = self.replicas.get(&number).and_then(|ends| ends.last());
        let is_new = last.is_none_or(|(end, _)| {
            end.is_over() || end.got.is_empty() && end.first != seg.seq.wrapping_add(1)
        });
        let answer = if seg.has(SYN) && is_new {
            let mut end = End::accepting(seg, self.random);
            let next = self.begins(&end);
            let answer = end.syn_ack();
            self.replicas.entry(number).or_default().push((end, next));
            Some(answer)
        } else {
            let ends = self.replicas.get_mut(&number).and_then(|ends| ends.last_mut());
            ends.and_then(|(end, _)| match seg.has(SYN) && end.got.is_empty() {
                true => Some(end.syn_ack()),
                false => end.hear(seg),
            })
        };
        self.network.extend(answer.map(|seg| (Way::FromReplica, seg)));
    }

    /// The number of the request that a replica's connection begins with.
    fn begins(&self, end: &End) -> usize {
        let base = end.first.wrapping_sub(self.client.begins()) as usize;
        let next = self.stream.requests.iter().position(|request| request.start == base);
        let next = next.unwrap_or_else(|| panic!("no request begins at {base}\n{}", self.log()));
        if let Some((at, odd)) = self.stream.odd {
            let may_be = next <= at || odd.may_be_followed();
            assert!(may_be, "request {next} was followed behind {odd:?}\n{}", self.log());
        }
        next
    }

    /// What was said, and what has happened.
    fn log(&self) -> String {
        let Stream { bytes, requests, odd, .. } = self.stream;
        let log = self.log.join("\n");
        format!("{}\n{requests:?}\n{odd:?}\n{log}", bytes.escape_ascii())
    }

    /// Whether somebody has said that he follows no longer.
    fn doubts(&self) -> bool {
        self.moved.keys().any(|counter| counter.name().starts_with("doubt"))
    }

    /// Each request is at one replica, that of its chat.
    fn check(&self) {
        let about = || self.log();
        let mut at_last = None;
        for (number, request) in self.stream.requests.iter().enumerate() {
            let mut holders = Vec::new();
            for (replica, ends) in &self.replicas {
                for (end, _) in ends {
                    let base = end.first.wrapping_sub(self.client.begins()) as usize;
                    let said = &self.stream.bytes[base..base + end.got.len()];
                    assert!(end.got == said, "other bytes than were sent: {}", about());
                    if base < request.end && request.start < base + end.got.len() {
                        holders.push((*replica, base + end.got.len()));
                    }
                }
            }
            assert!(holders.len() < 2, "request {number} is at {holders:?}\n{}", about());
            let Some((replica, _)) = holders.first() else { break };
            let is_odd = self.stream.odd.is_some_and(|(at, _)| at <= number)
                || self.stream.is_trick
                || self.doubts();
            let belongs = request.owner.or(at_last) == Some(*replica);
            // Without a key, or where nobody knows what it is, anywhere at first.
            let is_anywhere = number == 0 && (request.owner.is_none() || is_odd);
            assert!(
                belongs || is_anywhere || is_odd && at_last == Some(*replica),
                "request {number} is at {replica}\n{}",
                about()
            );
            at_last = Some(*replica);
        }
        for (number, (replica, to)) in answers(&self.client.got).into_iter().enumerate() {
            assert_eq!(to, number, "the answer of {replica}\n{}", about());
        }
    }
}

/// A world whose services bind connections again.
fn world() -> World {
    World::default().with_on_reuse(REUSE_REBIND)
}

/// A connection on which this is said.
fn talk<'a>(
    random: &'a mut Random,
    pair: &'a mut Pair,
    family: Family,
    case: usize,
    stream: &'a Stream,
) -> Talk<'a> {
    let (host, port) = ((case / 8) as u16, 1000 + (case % 8) as u16);
    let (at, vip) = (client(family, host, port), Kind::Home.vip(family));
    let timestamps = random.below(4) != 0;
    let mut client = End::new(at, vip, random, timestamps);
    client.out.clone_from(&stream.bytes);
    client.dribbles = random.below(4) == 0;
    let loses = random.below(2) == 0;
    let (replicas, network, moved, log) = Default::default();
    Talk { random, pair, family, vip, at, client, replicas, stream, network, loses, moved, log }
}

/// What the conversations are made from.
const SEED: u64 = 20_261_130;

/// Conversations on the same maps.
const ROUND: usize = 300;

#[test]
fn each_request_gets_to_its_own_replica() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("ROOST_SEED").unwrap_or(SEED);
    let cases = number("ROOST_CASES").unwrap_or(300) as usize;
    println!("ROOST_SEED={seed}");
    let names = Family::ALL.map(|family| chats(&mut Host::new(&world().starting_now()), family));
    let mut pair = Pair::new(&world());
    let (mut usual, mut doubted, mut whole) = (0, 0, 0);
    for case in 0..cases {
        if case > 0 && case % ROUND == 0 {
            // What has ended may be forgotten when its maps have filled.
            drop(pair);
            pair = Pair::new(&world());
        }
        let mut random = Random::new(seed.wrapping_mul(1 << 20).wrapping_add(case as u64));
        let which = random.below(2);
        let is_odd = random.below(3) == 0;
        let count = 1 + random.below(6);
        let stream = Stream::new(&mut random, &names[which], count, is_odd);
        for (number, request) in stream.requests.iter().enumerate() {
            if stream.odd.is_none_or(|(odd, _)| number < odd) {
                let (head, end) = (request.head - request.start, request.end - request.head);
                assert_eq!(lengths(&stream.bytes[request.start..]), Some((head, end)));
            }
        }
        let aborts = (random.below(8) == 0).then(|| random.below(200));
        let half_closes = random.below(3) == 0;
        let mut talk = talk(&mut random, &mut pair, Family::ALL[which], case, &stream);
        println!("case {case}: {count} requests, odd: {:?}, loss: {}", stream.odd, talk.loses);
        if talk.run(aborts, half_closes).is_err() {
            continue;
        }
        talk.check();
        let (doubts, all) = (talk.doubts(), answers(&talk.client.got).len() == count);
        usual += u32::from(!is_odd);
        doubted += u32::from(!is_odd && doubts);
        whole += u32::from(!is_odd && all);
        if case % 20 == 0 {
            pair.same_maps();
        }
    }
    pair.same_maps();
    println!("{usual} usual: {whole} whole, {doubted} doubted; {:?}", pair.verdicts);
}

/// The tricks of request smuggling, as first requests and as later ones: behind one of which two parsers do not say the same,
/// or nothing, none goes elsewhere.
#[test]
fn no_trick_is_followed() {
    let world = world();
    let mut pair = Pair::new(&world);
    let number = |chat: &str| {
        let mut conn = Conn::new(Family::V4, Kind::Home, 7, 2000);
        let machine = &mut Host::new(&world.clone().starting_now());
        conn.open(machine);
        conn.bind(machine, &get(chat), &[]);
        conn.replica
    };
    assert_eq!([number("a"), number("b")], stream::AT, "chats of two replicas");
    let (mut case, mut certain) = (0, 0);
    for (name, bytes) in corpus::files("smuggling") {
        for is_first in [false, true] {
            case += 1;
            println!("{name} {is_first}");
            let stream = Stream::trick(bytes, is_first);
            certain += u32::from(stream.odd.is_none());
            let mut random = Random::new(case as u64);
            let mut talk = talk(&mut random, &mut pair, Family::V4, case, &stream);
            talk.loses = false;
            if talk.run(None, false).is_ok() {
                talk.check();
            }
        }
    }
    pair.same_maps();
    println!("{case} tricks, {certain} without doubt; {:?}", pair.verdicts);
}
