//! Where a connection stands between a request and the next, and what becomes of its segments.

use super::{ANSWER_LEN, Answer, Doubt, Read};

/// How far behind a boundary bytes may be to count as behind it: what is further was sent before. A body has up to
/// 2^31 bytes, so signs do not tell the two apart; no window is larger than 2^30, and half of that is left for
/// old segments that come again from before a longest body.
pub const REACH: u32 = 1 << 29;

/// Where a connection stands. All numbers are those that the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What is waited for.
    pub stage: Stage,
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
pub enum Stage {
    /// An answer.
    Answer,
    /// The next request.
    Request,
    /// Nothing: it speaks another protocol.
    Upgraded,
    /// Nothing: nobody can tell where a request begins.
    Doubt(Doubt),
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
    /// After the first head, or a later one, of which `known` bytes are there from `seq` on, with what came behind it:
    /// its segment acknowledged `answer`.
    #[inline(always)]
    pub const fn begin(&mut self, seq: u32, known: u32, answer: u32, head: Read) {
        self.answer = answer;
        self.stage = match head {
            Read::Whole { head, body } if known.wrapping_sub(head) > body => {
                Stage::Doubt(Doubt::Pipelined)
            }
            Read::Whole { head, body } => {
                self.boundary = seq.wrapping_add(head).wrapping_add(body);
                Stage::Answer
            }
            // A request that comes before that head's end is no request.
            Read::More => Stage::Doubt(Doubt::LongHead),
            Read::Doubt(doubt) => Stage::Doubt(doubt),
        };
    }

    /// Decides about a segment of the client's with `len` bytes of payload.
    #[inline(always)]
    pub const fn decide(&self, seq: u32, ack: u32, len: u32) -> Decision {
        let behind = seq.wrapping_add(len).wrapping_sub(self.boundary);
        if len == 0 || behind == 0 || behind > REACH || self.closing {
            return Decision::Deliver;
        }
        match self.stage {
            Stage::Answer => return Decision::Doubt(Doubt::Pipelined),
            Stage::Request => {}
            Stage::Upgraded | Stage::Doubt(_) => return Decision::Deliver,
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

    /// Looks at a segment of the replica's with `len` bytes of payload, which begins with `first` if it has as many.
    #[inline(always)]
    pub fn hear(&self, seq: u32, len: u32, first: Option<&[u8; ANSWER_LEN]>) -> Heard {
        let before = self.answer.wrapping_sub(seq);
        // Bytes before the answer come again, or its first ones are yet to come.
        if self.stage != Stage::Answer || before >= len {
            return Heard::Nothing;
        }
        Heard::Answer(match first {
            _ if before > 0 => Answer::Doubt(Doubt::MisplacedAnswer),
            Some(first) => Answer::read(first),
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
            self.stage = match answer {
                Answer::Final => Stage::Request,
                Answer::Upgraded => Stage::Upgraded,
                Answer::Doubt(doubt) => Stage::Doubt(doubt),
            };
        }
    }
}

/// Whether a number is behind another one.
#[inline(always)]
const fn is_behind(number: u32, other: u32) -> bool {
    (other.wrapping_sub(number) as i32) < 0
}
