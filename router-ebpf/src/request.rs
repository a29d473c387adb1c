//! Where requests begin on a connection that is used again: what is known of it, and never guessed. A body that is
//! taken for a request would let one client speak for another behind the same proxy.
//!
//! Three parts, pure and each by itself: [`Head`] reads a request's head to its end, and so knows where the next
//! request begins; [`Answer`] tells when a replica begins to answer; [`Exchange`] decides about each segment.
//!
//! Strict where HTTP is not: a head that two servers could understand differently ends all looking, for good and by
//! a [`Doubt`]. The connection then stays where it is.

mod answer;
mod exchange;
mod head;
#[cfg(test)]
mod tests;

pub use self::{
    answer::{ANSWER_LEN, Answer},
    exchange::{Decision, Exchange, Heard, REACH, Standing},
    head::{Head, MAX_HEAD, MAX_LENGTH, Read},
};

use crate::verdict::Counter;

/// Where a request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// Where its connection is, and counts.
    Here,
    /// There as well, whatever its chat is; and so do all others.
    Always,
    /// At the same replica, but for another chat.
    Beside,
    /// At another replica.
    Elsewhere,
    /// Nowhere its connection could go.
    Nowhere,
    /// Nobody can tell before more of its head is there.
    Unknown,
}

macro_rules! doubts {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal,)+) => {
        /// Why it is not known where the next request of a connection begins, and never will be.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Doubt {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Doubt {
            /// All of them, each at its number less one.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The one with this number, if there is one.
            #[inline(always)]
            pub const fn of(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

doubts! {
    /// An empty line, or white space, before a request.
    BlankLine = 1,
    /// The method is no token, or has more than 32 bytes.
    Method = 2,
    /// `CONNECT`, which makes a tunnel, or `PRI`, which begins HTTP/2.
    Tunnel = 3,
    /// The target has a byte that is not printable ASCII, or none.
    Target = 4,
    /// Neither `HTTP/1.1` nor `HTTP/1.0` and the end of the line behind the target.
    Version = 5,
    /// A line feed without a carriage return, or the other way round.
    LineEnd = 6,
    /// A line that begins with white space (obs-fold).
    Fold = 7,
    /// A header's name that is no token, or white space before its colon.
    Name = 8,
    /// A control byte in a header's value.
    Control = 9,
    /// A `Content-Length` that is not one number of digits.
    Length = 10,
    /// A second `Content-Length`.
    SecondLength = 11,
    /// A `Content-Length` of more than 2^31 - 1.
    LongBody = 12,
    /// A `Transfer-Encoding`.
    TransferEncoding = 13,
    /// An `Expect`: whether the body comes depends on the answer.
    Expect = 14,
    /// `Authorization: NTLM` or `Negotiate`: they authenticate the connection, not the request.
    Authorization = 15,
    /// A head of more than 16,384 bytes.
    LongHead = 16,
    /// An answer with 1xx that is not `101`: another one will follow.
    Interim = 17,
    /// An answer whose first line is in several segments.
    SplitAnswer = 18,
    /// An answer that does not begin where it should.
    MisplacedAnswer = 19,
    /// An answer that is none of HTTP/1.
    OddAnswer = 20,
    /// A request before the answer to the one before, or before its client had all that was sent.
    Pipelined = 21,
    /// A later head in several segments of which it was forgotten what was read, or that there was no room for.
    SplitHead = 22,
    /// Urgent data, of which servers leave a byte out.
    Urgent = 23,
    /// Its service has changed: it leaves connections where they are.
    Stays = 24,
}

impl Doubt {
    /// What counts it.
    pub const fn counter(self) -> Counter {
        match self {
            Self::BlankLine
            | Self::Method
            | Self::Target
            | Self::Version
            | Self::LineEnd
            | Self::Fold
            | Self::Name
            | Self::Control => Counter::DoubtHead,
            Self::Tunnel => Counter::DoubtTunnel,
            Self::Length | Self::SecondLength | Self::LongBody => Counter::DoubtLength,
            Self::TransferEncoding => Counter::DoubtTransferEncoding,
            Self::Expect => Counter::DoubtExpect,
            Self::Authorization => Counter::DoubtAuthorization,
            Self::LongHead => Counter::DoubtLongHead,
            Self::Interim => Counter::DoubtInterim,
            Self::SplitAnswer | Self::MisplacedAnswer | Self::OddAnswer => Counter::DoubtAnswer,
            Self::Pipelined => Counter::DoubtPipelined,
            Self::SplitHead => Counter::DoubtSplitHead,
            Self::Urgent => Counter::DoubtUrgent,
            Self::Stays => Counter::DoubtStays,
        }
    }
}
