//! What a replica's answer begins with.

use super::Doubt;

/// Bytes that have to be in the answer's first segment: version, status, and what is behind it.
pub const ANSWER_LEN: usize = 13;

/// How a replica answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to the request has begun.
    Final,
    /// The connection speaks another protocol from here on.
    Upgraded,
    /// Nobody can tell where it ends.
    Doubt(Doubt),
}

impl Answer {
    /// Reads the first bytes of a status line (RFC 9112 section 4), which are those of a segment.
    #[inline(always)]
    pub const fn read(bytes: &[u8; ANSWER_LEN]) -> Self {
        let [h, t, u, p, slash, one, dot, minor, space, a, b, c, behind] = *bytes;
        // As words, because a constant array would be memory to look up.
        let version = u64::from_be_bytes([h, t, u, p, slash, one, dot, minor]);
        const V1_0: u64 = u64::from_be_bytes(*b"HTTP/1.0");
        const V1_1: u64 = u64::from_be_bytes(*b"HTTP/1.1");
        let (a, b, c) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'), c.wrapping_sub(b'0'));
        let is_number = a < 10 && b < 10 && c < 10;
        if (version != V1_0 && version != V1_1)
            || space != b' '
            || !is_number
            || (behind != b' ' && behind != b'\r')
        {
            return Self::Doubt(Doubt::OddAnswer);
        }
        match a {
            1 if b == 0 && c == 1 => Self::Upgraded,
            1 => Self::Doubt(Doubt::Interim),
            2..=5 => Self::Final,
            _ => Self::Doubt(Doubt::OddAnswer),
        }
    }
}
