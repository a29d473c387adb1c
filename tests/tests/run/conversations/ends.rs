//! An end of a connection: as much of TCP as it takes to lose segments, to repeat them and to put them in order.

use std::{collections::BTreeMap, net::SocketAddr};

use etherparse::TcpOptionElement::{Noop, Timestamp};
use roost_heads::random::Random;
use roost_tests::run::{
    frame::{ACK, FIN, PSH, RST, SYN, Seg, options},
    talk::Offer,
};

/// Bytes of a segment at the most.
const SEGMENT: usize = 1300;
/// What is further ahead is not of this connection.
const WINDOW: usize = 1 << 20;

/// How far an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has sent its SYN.
    Opening,
    /// It knows the other one.
    Open,
    /// It was reset.
    Reset,
}

/// An end.
#[derive(Clone, Debug)]
pub struct End {
    from: SocketAddr,
    to: SocketAddr,
    isn: u32,
    pub standing: Standing,
    /// All that it says, and whether it closes behind that.
    pub out: Vec<u8>,
    pub closes: bool,
    /// Where its answers begin.
    pub answers: Vec<usize>,
    /// How much of it was sent, and how much was acknowledged; its FIN counts as one.
    sent: usize,
    pub acked: usize,
    /// The number of the other's first byte.
    pub first: u32,
    /// What the other has said, without a hole; what is behind one; where it has closed.
    pub got: Vec<u8>,
    early: BTreeMap<usize, Vec<u8>>,
    closed: Option<usize>,
    /// Its clock, and the last of the other's; whether they are told.
    clock: u32,
    echo: u32,
    timestamps: bool,
    /// Whether its segments are short now and then.
    pub dribbles: bool,
}

impl End {
    /// One that opens a connection.
    pub fn new(from: SocketAddr, to: SocketAddr, random: &mut Random, timestamps: bool) -> Self {
        let number = |random: &mut Random| {
            // Close to where numbers begin anew, or to where their signs change, more often than not.
            let near = [0, 1 << 31, random.below(1 << 32) as u32][random.below(3)];
            near.wrapping_sub(random.below(9000) as u32)
        };
        Self {
            from,
            to,
            isn: number(random),
            standing: Standing::Opening,
            out: Vec::new(),
            closes: false,
            answers: Vec::new(),
            sent: 0,
            acked: 0,
            first: 0,
            got: Vec::new(),
            early: BTreeMap::new(),
            closed: None,
            clock: number(random),
            echo: 0,
            timestamps,
            dribbles: false,
        }
    }

    /// One that has got this SYN.
    pub fn accepting(syn: &Seg, random: &mut Random) -> Self {
        let mut end = Self::new(syn.dst, syn.src, random, syn.timestamps().is_some());
        end.standing = Standing::Open;
        end.first = syn.seq.wrapping_add(1);
        end.echo = syn.timestamps().map_or(0, |(value, _)| value);
        end
    }

    const fn offer(&self) -> Offer {
        Offer { timestamps: self.timestamps, ..Offer::ALL }
    }

    /// The SYN of one that opens.
    pub fn syn(&mut self) -> Seg {
        self.clock = self.clock.wrapping_add(1);
        let options = self.offer().syn_options((self.clock, 0));
        Seg { window: 64240, options, ..Seg::new(self.from, self.to, SYN, self.isn, 0) }
    }

    /// The SYN-ACK of one that accepts.
    pub fn syn_ack(&mut self) -> Seg {
        self.clock = self.clock.wrapping_add(1);
        let options = self.offer().syn_options((self.clock, self.echo));
        let seg = Seg::new(self.from, self.to, SYN | ACK, self.isn, self.first);
        Seg { window: 65160, options, ..seg }
    }

    /// A segment with these of its bytes, and its FIN if that follows.
    fn segment(&mut self, at: usize, len: usize) -> Seg {
        self.clock = self.clock.wrapping_add(1);
        let payload = self.out[at.min(self.out.len())..at + len].to_vec();
        let ends = self.closes && at + len == self.out.len();
        let flags = ACK | if ends { FIN } else { 0 } | if len > 0 { PSH } else { 0 };
        self.sent = self.sent.max(at + len + usize::from(ends));
        let seq = self.isn.wrapping_add(1).wrapping_add(at as u32);
        let options = match self.timestamps {
            true => options(&[Noop, Noop, Timestamp(self.clock, self.echo)]),
            false => Vec::new(),
        };
        let seg = Seg::new(self.from, self.to, flags, seq, self.next());
        Seg { window: 501, options, payload, ..seg }
    }

    /// What it expects next.
    fn next(&self) -> u32 {
        let fin = usize::from(self.closed == Some(self.got.len()));
        self.first.wrapping_add((self.got.len() + fin) as u32)
    }

    /// A bare acknowledgement.
    pub fn acknowledge(&mut self) -> Seg {
        let (closes, at) = (self.closes, self.sent);
        self.closes = false;
        let mut seg = self.segment(at.min(self.out.len()), 0);
        self.closes = closes;
        seg.seq = self.isn.wrapping_add(1).wrapping_add(at as u32);
        self.sent = at;
        seg
    }

    /// An RST.
    pub fn reset(&mut self) -> Seg {
        self.standing = Standing::Reset;
        Seg { flags: RST | ACK, ..self.acknowledge() }
    }

    /// Closes behind what it has said so far.
    pub fn finish(&mut self) {
        if !self.closes {
            self.out.truncate(self.sent);
            self.closes = true;
        }
    }

    /// Whether all of its bytes before `limit` were sent.
    pub fn has_said(&self, limit: usize) -> bool {
        self.sent >= limit + usize::from(self.closes && limit == self.out.len())
    }

    /// Whether everything was acknowledged, and both ends have closed.
    pub fn is_over(&self) -> bool {
        self.standing == Standing::Reset
            || self.closes
                && self.acked > self.out.len()
                && self.closed.is_some_and(|at| at <= self.got.len())
    }

    /// Its next segment, before `limit`.
    pub fn say(&mut self, limit: usize, random: &mut Random) -> Seg {
        let most = if self.dribbles && random.below(3) == 0 { 40 } else { SEGMENT };
        let len = if random.below(3) == 0 { 1 + random.below(most) } else { most };
        self.segment(self.sent.min(limit), len.min(limit - self.sent.min(limit)))
    }

    /// The next segment of answers: the first one of each has its first line, or some bytes of that.
    pub fn answer(&mut self, is_split: bool, random: &mut Random) -> Seg {
        /// Bytes of such a line up to the status.
        const LINE: usize = 13;
        let (at, all) = (self.sent, self.out.len());
        if !self.answers.contains(&at) {
            return self.say(all, random);
        }
        if is_split {
            return self.segment(at, 1 + random.below(LINE - 1));
        }
        self.segment(at, (LINE + random.below(SEGMENT)).min(all - at))
    }

    /// What was not acknowledged in time: the first segment of it, of another length maybe; none if that is all.
    pub fn repeat(&mut self, random: &mut Random) -> Option<Seg> {
        if self.acked >= self.sent {
            return None;
        }
        let most = self.sent.min(self.out.len()) - self.acked.min(self.out.len());
        let len = if random.below(2) == 0 { SEGMENT } else { 1 + random.below(SEGMENT) };
        Some(self.segment(self.acked.min(self.out.len()), len.min(most)))
    }

    /// Takes a segment of the other's. Returns what it answers.
    pub fn hear(&mut self, seg: &Seg) -> Option<Seg> {
        match self.standing {
            Standing::Reset => return None,
            Standing::Opening if seg.has(RST) => {
                self.standing = Standing::Reset;
                return None;
            }
            Standing::Opening if seg.has(SYN | ACK) => {
                assert_eq!(seg.ack, self.isn.wrapping_add(1), "an answer to this SYN");
                self.standing = Standing::Open;
                self.first = seg.seq.wrapping_add(1);
                self.timestamps &= seg.timestamps().is_some();
                self.echo = seg.timestamps().map_or(0, |(value, _)| value);
                return Some(self.acknowledge());
            }
            Standing::Opening => return None,
            Standing::Open => {}
        }
        if seg.has(SYN) {
            return Some(self.acknowledge());
        }
        if seg.has(RST) {
            if seg.seq == self.next() {
                self.standing = Standing::Reset;
            }
            return None;
        }
        // Older than what was seen (PAWS, RFC 7323 section 5).
        let value = seg.timestamps().map_or(self.echo, |(value, _)| value);
        if self.timestamps && (value.wrapping_sub(self.echo) as i32) < 0 {
            return Some(self.acknowledge());
        }
        let acked = seg.ack.wrapping_sub(self.isn).wrapping_sub(1);
        if (acked as i32) > 0 {
            assert!(acked as usize <= self.sent, "{acked} of {} were acknowledged", self.sent);
            self.acked = self.acked.max(acked as usize);
        }
        let at = seg.seq.wrapping_sub(self.first) as i32;
        if at > self.got.len() as i32 + WINDOW as i32 {
            return Some(self.acknowledge());
        }
        if at <= self.got.len() as i32 {
            self.echo = value;
        }
        let says_nothing = seg.payload.is_empty() && !seg.has(FIN);
        if at >= 0 {
            self.take(at as usize, seg);
        } else if let Some(rest) = seg.payload.get(at.unsigned_abs() as usize..) {
            self.take(0, &Seg { payload: rest.to_vec(), ..seg.clone() });
        }
        let is_odd = seg.seq.wrapping_add(seg.payload.len() as u32) != self.next();
        (!says_nothing || is_odd).then(|| self.acknowledge())
    }

    fn take(&mut self, at: usize, seg: &Seg) {
        if seg.has(FIN) {
            let end = at + seg.payload.len();
            assert!(self.closed.is_none_or(|before| before == end), "two ends of one stream");
            self.closed = Some(end);
        }
        // What asks only where it stands has a byte that is none (RFC 9293 section 3.8.4).
        if seg.payload.len() == 1 && at + 1 == self.got.len() {
            return;
        }
        let known = self.got.len().saturating_sub(at).min(seg.payload.len());
        assert!(
            known == 0 || self.got[at..at + known] == seg.payload[..known],
            "other bytes in the same place"
        );
        let longest = self.early.entry(at).or_default();
        if longest.len() < seg.payload.len() {
            longest.clone_from(&seg.payload);
        }
        while let Some((at, bytes)) = self.early.pop_first() {
            if at > self.got.len() {
                self.early.insert(at, bytes);
                break;
            }
            let known = self.got.len() - at;
            self.got.extend(bytes.get(known..).unwrap_or_default());
        }
    }

    /// Whether the other one has closed, and all before that is here.
    pub fn heard_all(&self) -> bool {
        self.closed == Some(self.got.len())
    }

    /// The number of its own first byte.
    pub const fn begins(&self) -> u32 {
        self.isn.wrapping_add(1)
    }
}
