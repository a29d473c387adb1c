//! Conversations on one connection: a client, a network that repeats and reorders, and replicas of which each request
//! has its own. Which request must get where is known from the beginning; what the data path sees of it are segments.

use router_ebpf::request::{ANSWER_LEN, Answer, Decision, Doubt, Exchange, Heard, Read, Standing};

use crate::{random::Random, request};

/// What a client or a replica does that nobody can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// The next request comes before the answer.
    Pipelined,
    /// The next request comes before the end of the answer.
    Hasty,
    /// A `100 Continue` before the answer.
    Interim,
    /// The answer's first segment has some bytes of its first line only.
    Split,
    /// The answer is none.
    Banner,
    /// The answer speaks another protocol.
    Upgrade,
}

/// All of them.
pub const ODDS: [Odd; 6] =
    [Odd::Pipelined, Odd::Hasty, Odd::Interim, Odd::Split, Odd::Banner, Odd::Upgrade];

/// A segment of the client's: where its bytes are in the stream, and what it acknowledges.
#[derive(Clone, Debug)]
struct Segment {
    start: usize,
    end: usize,
    ack: u32,
}

/// A connection whose requests go to `replicas`, one after the other.
pub struct Conversation {
    random: Random,
    /// What the client sends, all of it, and where each request begins.
    stream: Vec<u8>,
    starts: Vec<usize>,
    /// The sequence number of its first byte.
    isn: u32,
    exchange: Exchange,
    /// Which request the connection was bound by last.
    bound: usize,
    /// For each byte of the stream, by which request's binding it was delivered.
    delivered: Vec<Option<usize>>,
}

impl Conversation {
    /// Of as many requests.
    pub fn new(seed: u64, requests: usize) -> Self {
        let mut random = Random::new(seed);
        let (mut stream, mut starts) = (Vec::new(), Vec::new());
        for number in 0..requests {
            starts.push(stream.len());
            let body = [0, 0, 1, 700, 5000][random.below(5)];
            let pad = "p".repeat(random.below(300));
            stream.extend(
                format!("POST /{number}?{pad} HTTP/1.1\r\nContent-Length: {body}\r\n\r\n").bytes(),
            );
            // A body that looks like requests.
            stream.extend(b"GET /0 HTTP/1.1\r\n\r\n".iter().cycle().take(body));
        }
        // Close to where numbers begin anew, or to where their signs change.
        let near = |random: &mut Random| {
            [0u32, 1 << 31][random.below(2)].wrapping_sub(random.below(12_000) as u32)
        };
        let (isn, server) = (near(&mut random), near(&mut random));
        let exchange = Exchange {
            standing: Standing::Request,
            number: 0,
            boundary: isn,
            answer: server,
            sent: server,
            acked: isn,
            closing: false,
            is_left: false,
            tries: 0,
        };
        let delivered = vec![None; stream.len()];
        Self { random, stream, starts, isn, exchange, bound: usize::MAX, delivered }
    }

    /// Runs it, with one that is odd from a request on. Panics with what is wrong.
    pub fn run(mut self, odd: Option<(usize, Odd)>) {
        let count = self.starts.len();
        for number in 0..count {
            let odd = odd.and_then(|(from, odd)| (number == from).then_some(odd));
            self.ask(number, odd == Some(Odd::Pipelined));
            self.answer(number, odd);
            if odd.is_some() {
                self.expect_end(number, odd);
            }
        }
        let first_odd = odd.map_or(count, |(from, _)| from);
        for (at, by) in self.delivered.iter().enumerate() {
            let own = self.starts.iter().rposition(|start| *start <= at);
            assert_eq!(*by, own.map(|own| own.min(first_odd)), "byte {at} of the client's");
        }
    }

    fn end_of(&self, number: usize) -> usize {
        self.starts.get(number + 1).copied().unwrap_or(self.stream.len())
    }

    /// The client sends a request, or two at once, until all of it has got to a replica.
    fn ask(&mut self, number: usize, pipelined: bool) {
        let (start, mut end) = (self.starts[number], self.end_of(number));
        if pipelined {
            end = self.end_of(number + 1);
        }
        let ack = self.exchange.sent;
        let mut waiting = self.segments(start, end, ack);
        while !waiting.is_empty() {
            let segment = waiting.remove(self.random.below(waiting.len().min(3)));
            if !self.send(&segment) {
                waiting.push(segment);
            }
            if self.random.below(3) == 0 {
                self.acknowledge();
            }
        }
    }

    /// A request in segments, the first of which has all of its head; with old ones between them.
    fn segments(&mut self, start: usize, end: usize, ack: u32) -> Vec<Segment> {
        let head = self.stream[start..].windows(4).position(|four| four == b"\r\n\r\n");
        let head_end = start + head.expect("a head") + 4;
        let mut cuts = vec![start, end];
        cuts.extend(
            (0..self.random.below(4)).map(|_| head_end + self.random.below(end - head_end + 1)),
        );
        cuts.sort_unstable();
        cuts.dedup();
        let mut segments: Vec<_> =
            cuts.windows(2).map(|two| Segment { start: two[0], end: two[1], ack }).collect();
        for _ in 0..self.random.below(4) {
            // Something from before comes again; with what follows it, if it is no older than that.
            let from = start.saturating_sub(1 + self.random.below(6000));
            let until = [start, head_end][self.random.below(2)];
            let old = Segment { start: from.min(until), end: until, ack };
            segments.insert(self.random.below(segments.len() + 1), old);
        }
        segments
    }

    /// Decides about a segment. Returns whether it was delivered.
    fn send(&mut self, segment: &Segment) -> bool {
        let Segment { start, end, ack } = *segment;
        let seq = self.isn.wrapping_add(start as u32);
        match self.exchange.decide(seq, ack, (end - start) as u32) {
            Decision::Again => return false,
            Decision::Deliver => {}
            Decision::Move(_) | Decision::Nothing => unreachable!("nobody moves it"),
            Decision::More(_) => unreachable!("each head is whole"),
            Decision::Doubt(doubt) => self.exchange.standing = Standing::Doubt(doubt),
            Decision::Request(at) => {
                let at = start + at as usize;
                let found = self.starts.binary_search(&at);
                let number = found.unwrap_or_else(|_| panic!("a request at byte {at}"));
                let head = request::read(&self.stream[at..end], &[]).read();
                assert!(matches!(head, Read::Whole { .. }), "{head:?}");
                let seq = self.isn.wrapping_add(at as u32);
                self.exchange.begin(seq, (end - at) as u32, ack, head);
                self.bound = number;
                return self.deliver(at, end);
            }
        }
        self.deliver(start, end)
    }

    fn deliver(&mut self, start: usize, end: usize) -> bool {
        for byte in &mut self.delivered[start..end] {
            // What comes again is the replica's to drop.
            byte.get_or_insert(self.bound);
        }
        true
    }

    /// The replica has acknowledged what it has without a gap.
    fn acknowledge(&mut self) {
        let known = self.delivered.iter().position(Option::is_none);
        let known = known.unwrap_or(self.stream.len());
        self.exchange.acked = self.isn.wrapping_add(known as u32);
    }

    /// The replica answers, in segments of any length, of which some come again.
    fn answer(&mut self, number: usize, odd: Option<Odd>) {
        let status = match odd {
            Some(Odd::Interim) => "HTTP/1.1 100 Continue",
            Some(Odd::Upgrade) => "HTTP/1.1 101 Switching Protocols",
            Some(Odd::Banner) => "SSH-2.0-OpenSSH_9.2",
            _ => ["HTTP/1.1 200 OK", "HTTP/1.0 404 ", "HTTP/1.1 500\r"][self.random.below(3)],
        };
        let answer = format!("{status}\r\n{}", "a".repeat(self.random.below(4000)));
        let answer = answer.as_bytes();
        let first = self.exchange.sent;
        let mut at = 0;
        if self.random.below(2) == 0 {
            self.acknowledge();
        }
        while at < answer.len() {
            let least = if at == 0 { ANSWER_LEN } else { 1 };
            let len = match odd {
                Some(Odd::Split) if at == 0 => 1 + self.random.below(ANSWER_LEN - 1),
                _ => least + self.random.below(answer.len() - at - least + 1),
            };
            self.hear(first, at, &answer[at..at + len]);
            at += len;
            if odd == Some(Odd::Hasty) && at < answer.len() && number + 1 < self.starts.len() {
                // Acknowledges less than was sent by the time it is there.
                let ack = self.exchange.sent;
                self.hear(first, at, &answer[at..=at]);
                at += 1;
                self.acknowledge();
                let start = self.starts[number + 1];
                self.send(&Segment { start, end: self.end_of(number + 1), ack });
            }
            if self.random.below(3) == 0 {
                let from = self.random.below(at);
                self.hear(first, from, &answer[from..at]);
            }
        }
        self.acknowledge();
    }

    fn hear(&mut self, first: u32, at: usize, bytes: &[u8]) {
        let seq = first.wrapping_add(at as u32);
        let heard =
            self.exchange.hear(seq, bytes.len() as u32, bytes.first_chunk().map(Answer::read));
        if at > 0 && self.exchange.standing == Standing::Request {
            assert_eq!(heard, Heard::Nothing);
        }
        self.exchange.note(seq.wrapping_add(bytes.len() as u32), heard);
    }

    /// From here on nothing is looked at.
    fn expect_end(&self, number: usize, odd: Option<Odd>) {
        let expected = match odd {
            Some(Odd::Upgrade) => Standing::Upgraded,
            Some(Odd::Interim) => Standing::Doubt(Doubt::Interim),
            Some(Odd::Split) => Standing::Doubt(Doubt::SplitAnswer),
            Some(Odd::Banner) => Standing::Doubt(Doubt::OddAnswer),
            Some(Odd::Pipelined | Odd::Hasty) | None => Standing::Doubt(Doubt::Pipelined),
        };
        assert_eq!(self.exchange.standing, expected, "after request {number}, {odd:?}");
    }
}
