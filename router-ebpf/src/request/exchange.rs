//! Where a connection stands between a request and the next, and what becomes of its segments.

use super::{Answer, Doubt, Read};

/// How far behind a boundary bytes may be to count as behind it: what is further was sent before. A body has up to
/// 2^31 bytes, so signs do not tell the two apart; no window is larger than 2^30, and half of that is left for
/// old segments that come again from before a longest body.
pub const REACH: u32 = 1 << 29;

/// Where a connection stands. All numbers are those that the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What is waited for.
    pub standing: Standing,
    /// Which request it is at, modulo 2^16.
    pub number: u16,
    /// The client's sequence number of the next request's first byte.
    pub boundary: u32,
    /// The sequence number where the answer to the request begins: what the request's first byte acknowledged.
    pub answer: u32,
    /// What follows the highest byte that was ever sent to the client.
    pub sent: u32,
    /// What follows the highest byte that the replica has acknowledged.
    pub acked: u32,
    /// A FIN or an RST of either end was seen.
    pub closing: bool,
}

/// What is waited for on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An answer.
    Answer,
    /// The next request.
    Request,
    /// Nothing: it speaks another protocol.
    Upgraded,
    /// Nothing: nobody can tell where a request begins.
    Doubt(Doubt),
}

impl Standing {
    const ANSWER: u16 = 0;
    const REQUEST: u16 = 1;
    const UPGRADED: u16 = 2;
    /// And a [`Doubt`].
    const DOUBT: u16 = 0x100;

    #[inline(always)]
    const fn number(self) -> u16 {
        match self {
            Self::Answer => Self::ANSWER,
            Self::Request => Self::REQUEST,
            Self::Upgraded => Self::UPGRADED,
            Self::Doubt(doubt) => Self::DOUBT | doubt as u16,
        }
    }

    #[inline(always)]
    const fn of(number: u16) -> Self {
        match number {
            Self::ANSWER => Self::Answer,
            Self::REQUEST => Self::Request,
            Self::UPGRADED => Self::Upgraded,
            _ => match Doubt::of((number & 0xff) as u32) {
                Some(doubt) => Self::Doubt(doubt),
                None => Self::Doubt(Doubt::LongHead),
            },
        }
    }
}

/// What becomes of a client's segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes where the connection is.
    Deliver,
    /// It is dropped: it comes again, and may be decided then.
    Again,
    /// A request begins in it, at so many bytes of its payload.
    Request(u32),
    /// It goes where the connection is, which nothing will move any more.
    Doubt(Doubt),
}

/// What a replica's segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing new.
    Nothing,
    /// What it begins with.
    Answer(Answer),
}

impl Exchange {
    /// After the first request of a connection, whose answer begins at `answer`.
    #[inline(always)]
    pub const fn first(boundary: u32, answer: u32) -> Self {
        let acked = boundary;
        Self {
            standing: Standing::Answer,
            number: 0,
            boundary,
            answer,
            sent: answer,
            acked,
            closing: false,
        }
    }

    /// After the first head, or a later one, of which `known` bytes are there from `seq` on, with what came behind it:
    /// its segment acknowledged `answer`.
    #[inline(always)]
    pub const fn begin(&mut self, seq: u32, known: u32, answer: u32, head: Read) {
        self.answer = answer;
        self.number = self.number.wrapping_add(1);
        self.standing = match head {
            Read::Whole { head, body } if known.wrapping_sub(head) > body => {
                Standing::Doubt(Doubt::Pipelined)
            }
            Read::Whole { head, body } => {
                self.boundary = seq.wrapping_add(head).wrapping_add(body);
                Standing::Answer
            }
            Read::More => Standing::Doubt(Doubt::SplitHead),
            Read::Doubt(doubt) => Standing::Doubt(doubt),
        };
    }

    /// Standing, number and `sent` in one word, which is swapped as a whole.
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        (self.sent as u64) << 32 | (self.number as u64) << 16 | self.standing.number() as u64
    }

    /// The same, and what else is known, as it was before.
    #[inline(always)]
    pub const fn of(word: u64, boundary: u32, answer: u32, acked: u32, closing: bool) -> Self {
        let (standing, number, sent) =
            (Standing::of(word as u16), (word >> 16) as u16, (word >> 32) as u32);
        Self { standing, number, boundary, answer, sent, acked, closing }
    }

    /// Decides about a segment of the client's with `len` bytes of payload.
    #[inline(always)]
    pub const fn decide(&self, seq: u32, ack: u32, len: u32) -> Decision {
        let behind = seq.wrapping_add(len).wrapping_sub(self.boundary);
        if len == 0 || behind == 0 || behind > REACH || self.closing {
            return Decision::Deliver;
        }
        match self.standing {
            Standing::Answer => return Decision::Doubt(Doubt::Pipelined),
            Standing::Request => {}
            Standing::Upgraded | Standing::Doubt(_) => return Decision::Deliver,
        }
        // What comes before it is missing, it acknowledges what was never sent, or the replica has yet to
        // acknowledge the request before.
        if behind > len || is_behind(ack, self.sent) || self.acked != self.boundary {
            return Decision::Again;
        }
        if ack != self.sent {
            return Decision::Doubt(Doubt::Pipelined);
        }
        Decision::Request(len - behind)
    }

    /// Looks at a segment of the replica's with `len` bytes of payload, and what it would be if an answer began there:
    /// nothing if it is too short for one.
    #[inline(always)]
    pub fn hear(&self, seq: u32, len: u32, answer: Option<Answer>) -> Heard {
        let before = self.answer.wrapping_sub(seq);
        // Bytes before the answer come again, or its first ones are yet to come.
        if self.standing != Standing::Answer || before >= len {
            return Heard::Nothing;
        }
        Heard::Answer(match answer {
            _ if before > 0 => Answer::Doubt(Doubt::MisplacedAnswer),
            Some(answer) => answer,
            None => Answer::Doubt(Doubt::SplitAnswer),
        })
    }

    /// Notes such a segment before it goes on to the client. `end`: what follows its bytes, and its FIN.
    #[inline(always)]
    pub const fn note(&mut self, end: u32, heard: Heard) {
        if is_behind(end, self.sent) {
            self.sent = end;
        }
        if let Heard::Answer(answer) = heard {
            self.standing = match answer {
                Answer::Final => Standing::Request,
                Answer::Upgraded => Standing::Upgraded,
                Answer::Doubt(doubt) => Standing::Doubt(doubt),
            };
        }
    }
}

/// Whether a number is behind another one.
#[inline(always)]
const fn is_behind(number: u32, other: u32) -> bool {
    (other.wrapping_sub(number) as i32) < 0
}
