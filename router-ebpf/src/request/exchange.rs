//! Where a connection stands between a request and the next, and what becomes of its segments.

use super::{Answer, Doubt, Read};
use crate::wire::is_near;

/// How far behind a boundary bytes may be to count as behind it: what is further was sent before. A body has up to
/// 2^31 bytes, so signs do not tell the two apart; no window is larger than 2^30, and half of that is left for
/// old segments that come again from before a longest body.
pub const REACH: u32 = 1 << 29;
/// How far a client's acknowledgement may be behind what was sent to it, for a segment to be believed that changes
/// anything for good: as for a FIN. What is further comes again, if it is the client's. And how far a replica's numbers may
/// be from its last ones.
const NEAR: u32 = 1 << 24;
/// How far a segment that leaves nothing certain may begin from what its replica has acknowledged: as far as an RST.
const PLACE: u32 = 1 << 20;
/// How often a request is dropped because its connection is not ready for it: so that nothing waits for ever for what
/// nobody would say again.
const TRIES: u8 = 6;

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
    /// It has ended, or a FIN of the client's was seen.
    pub closing: bool,
    /// A FIN of the replica's was seen: it answers no more, though it may read on.
    pub is_left: bool,
    /// How often the next request was dropped, up to seven times.
    pub tries: u8,
}

/// What is waited for on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An answer.
    Answer,
    /// The next request.
    Request,
    /// Another replica, for the request at the boundary; or its end. Only who has made it so leaves it.
    Moving,
    /// Nothing: it has gone on at another replica, or ended instead. Nobody leaves that.
    Left,
    /// More of the request's head, which begins at the boundary.
    Reading,
    /// Until the numbers of a request that begins are written. The same.
    Changing,
    /// Nothing: it speaks another protocol.
    Upgraded,
    /// Nothing: nobody can tell where a request begins.
    Doubt(Doubt),
}

impl Standing {
    const ANSWER: u16 = 0;
    const REQUEST: u16 = 1;
    const UPGRADED: u16 = 2;
    const MOVING: u16 = 3;
    const CHANGING: u16 = 4;
    const READING: u16 = 5;
    const LEFT: u16 = 6;
    /// And a [`Doubt`].
    const DOUBT: u16 = 0x100;

    #[inline(always)]
    const fn number(self) -> u16 {
        match self {
            Self::Answer => Self::ANSWER,
            Self::Request => Self::REQUEST,
            Self::Moving => Self::MOVING,
            Self::Left => Self::LEFT,
            Self::Changing => Self::CHANGING,
            Self::Reading => Self::READING,
            Self::Upgraded => Self::UPGRADED,
            Self::Doubt(doubt) => Self::DOUBT | doubt as u16,
        }
    }

    #[inline(always)]
    const fn of(number: u16) -> Self {
        match number {
            Self::ANSWER => Self::Answer,
            Self::REQUEST => Self::Request,
            Self::MOVING => Self::Moving,
            Self::LEFT => Self::Left,
            Self::CHANGING => Self::Changing,
            Self::READING => Self::Reading,
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
    /// The head of the request that is delivered goes on in it, at so many bytes of its payload.
    More(u32),
    /// It belongs to a request that is on its way to another replica, but for so many bytes of its payload.
    Move(u32),
    /// It is dropped: it says nothing.
    Nothing,
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
            is_left: false,
            tries: 0,
        }
    }

    /// After the first head, or a later one, of which `known` bytes are there from `seq` on, with what came behind it:
    /// its segment acknowledged `answer`.
    #[inline(always)]
    pub const fn begin(&mut self, seq: u32, known: u32, answer: u32, head: Read) {
        self.answer = answer;
        self.number = self.number.wrapping_add(1);
        self.tries = 0;
        self.standing = match head {
            Read::Whole { head, body } if known.wrapping_sub(head) > body => {
                Standing::Doubt(Doubt::Pipelined)
            }
            Read::Whole { head, body } => {
                self.boundary = seq.wrapping_add(head).wrapping_add(body);
                Standing::Answer
            }
            Read::More => {
                self.boundary = seq.wrapping_add(known);
                Standing::Reading
            }
            Read::Doubt(doubt) => Standing::Doubt(doubt),
        };
    }

    /// Standing, tries, number and `sent` in one word, which is swapped as a whole.
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        let tries = (self.tries as u64 & 7) << 12;
        (self.sent as u64) << 32
            | (self.number as u64) << 16
            | tries
            | self.standing.number() as u64
    }

    /// The same, and what else is known, as it was before.
    #[inline(always)]
    pub const fn of(word: u64, boundary: u32, answer: u32, acked: u32) -> Self {
        let (standing, number, sent) =
            (Standing::of(word as u16 & 0xfff), (word >> 16) as u16, (word >> 32) as u32);
        let tries = (word >> 12) as u8 & 7;
        let (closing, is_left) = (false, false);
        Self { standing, number, boundary, answer, sent, acked, closing, is_left, tries }
    }

    /// Decides about a segment of the client's with `len` bytes of payload.
    #[inline(always)]
    pub const fn decide(&self, seq: u32, ack: u32, len: u32) -> Decision {
        let behind = seq.wrapping_add(len).wrapping_sub(self.boundary);
        if len == 0 || behind == 0 || behind > REACH || self.closing {
            return Decision::Deliver;
        }
        match self.standing {
            Standing::Answer | Standing::Request | Standing::Reading => {}
            Standing::Upgraded | Standing::Doubt(_) => return Decision::Deliver,
            Standing::Moving | Standing::Left | Standing::Changing => return Decision::Again,
        }
        // It comes again from a client, and never from who guesses; or it acknowledges what was never sent.
        if !self.is_heard(ack) {
            return self.again(behind > len);
        }
        // What is missing before the boundary is in it: it can neither be dropped nor go elsewhere.
        let is_reading = matches!(self.standing, Standing::Reading);
        if !is_reading && behind < len && self.acked != self.boundary {
            return Decision::Doubt(Doubt::Pipelined);
        }
        if matches!(self.standing, Standing::Answer) {
            return self.doubt(seq, Doubt::Pipelined);
        }
        if is_reading {
            return if behind > len { Decision::Again } else { Decision::More(len - behind) };
        }
        // What comes before it is missing, or the replica has yet to acknowledge the request before.
        if behind > len || self.acked != self.boundary {
            return self.again(behind > len);
        }
        // Behind a FIN nothing goes on anywhere, so it need not be certain where.
        if ack != self.sent && !self.is_left {
            return Decision::Doubt(Doubt::Pipelined);
        }
        Decision::Request(len - behind)
    }

    /// Whether what begins at `seq` has overtaken a request.
    #[inline(always)]
    pub const fn is_ahead(&self, seq: u32) -> bool {
        let ahead = seq.wrapping_sub(self.boundary);
        !self.closing
            && ahead.wrapping_sub(1) < REACH
            && matches!(self.standing, Standing::Answer | Standing::Request | Standing::Reading)
    }

    /// The same for one with urgent data, of which nobody knows how the replica counts it.
    #[inline(always)]
    pub const fn decide_urgent(&self, seq: u32, ack: u32) -> Decision {
        match self.standing {
            _ if self.closing => Decision::Deliver,
            Standing::Upgraded | Standing::Doubt(_) => Decision::Deliver,
            Standing::Answer | Standing::Request | Standing::Reading if self.is_heard(ack) => {
                self.doubt(seq, Doubt::Urgent)
            }
            _ => Decision::Again,
        }
    }

    /// Whether an acknowledgement of the client's is near what was sent to it.
    #[inline(always)]
    const fn is_heard(&self, ack: u32) -> bool {
        self.sent.wrapping_sub(ack) <= NEAR
    }

    /// Believes a segment that leaves nothing certain, if it begins near what the replica has acknowledged, which is a number
    /// that nobody moves but the replica. One that does not comes again, if it is the client's, and then what it begins with does first.
    #[inline(always)]
    const fn doubt(&self, seq: u32, why: Doubt) -> Decision {
        match is_near(seq, self.acked, PLACE) {
            true => Decision::Doubt(why),
            false => Decision::Again,
        }
    }

    /// Lets a segment come again, unless it has too often. `is_later`: another one has the request's beginning.
    #[inline(always)]
    const fn again(&self, is_later: bool) -> Decision {
        match is_later {
            false if self.tries >= TRIES => Decision::Doubt(Doubt::Pipelined),
            _ => Decision::Again,
        }
    }

    /// After a segment of `len` bytes was dropped that is to come again. Whatever it acknowledges: else numbers that somebody
    /// forged in the replica's name would hold the client up for ever.
    #[inline(always)]
    pub const fn tried(&self, seq: u32, len: u32) -> Self {
        let behind = seq.wrapping_add(len).wrapping_sub(self.boundary);
        let tries = match behind <= len && self.tries < TRIES {
            true => self.tries + 1,
            false => self.tries,
        };
        Self { tries, ..*self }
    }

    /// The same while the connection waits for another replica: what may be new to that one is for it. `fin`: the segment
    /// has one.
    #[inline(always)]
    pub const fn go_on(&self, seq: u32, ack: u32, len: u32, fin: bool) -> Decision {
        let (ahead, before) = (seq.wrapping_sub(self.boundary), self.boundary.wrapping_sub(seq));
        if ack != self.sent || len == 0 && !fin {
            return Decision::Nothing;
        }
        if ahead <= REACH {
            return Decision::Move(0);
        }
        if before > REACH || before > len || before == len && !fin {
            return Decision::Nothing;
        }
        Decision::Move(before)
    }

    /// Whether it waits for another replica, or has gone on there: nothing of this one's reaches its client.
    #[inline(always)]
    pub const fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Moving | Standing::Left)
    }

    /// Whether a segment is from before a binding whose first byte of the client's is `seq`, which acknowledged `ack`.
    /// `end`: what follows the segment's bytes.
    #[inline(always)]
    pub const fn is_before(binding: (u32, u32), end: u32, ack: u32) -> bool {
        let (first, acked) = binding;
        // Within a reach: what is further may as well be far ahead, as a long body is.
        first.wrapping_sub(end) <= REACH || acked.wrapping_sub(ack).wrapping_sub(1) < REACH
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

    /// Whether a segment of the replica's may have been sent by it. `ack`: what it acknowledges; `client`: what follows the
    /// highest byte of its client's. Either that or its own last acknowledgement has to be near: who can speak for one end only
    /// does not decide.
    #[inline(always)]
    pub const fn is_credible(&self, seq: u32, ack: u32, client: u32) -> bool {
        is_near(seq, self.sent, NEAR)
            && (is_near(ack, self.acked, NEAR) || is_near(ack, client, NEAR))
    }

    /// Notes such a segment before it goes on to the client. `end`: what follows its bytes, and its FIN.
    #[inline(always)]
    pub const fn note(&mut self, end: u32, heard: Heard) {
        if end.wrapping_sub(self.sent) as i32 > 0 {
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
