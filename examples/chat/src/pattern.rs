//! The bytes of `GET /bytes`: pseudo-random, and the same for everyone.
//!
//! The stream of seed `s` is a sequence of 64-bit words in little-endian order, cut to the length
//! asked for. Word `i`, from 0, is output `i` of SplitMix64 that starts at `s`, modulo 2^64:
//!
//! ```text
//! z = s + (i + 1) * 0x9e3779b97f4a7c15
//! z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
//! z = (z ^ (z >> 27)) * 0x94d049bb133111eb
//! word = z ^ (z >> 31)
//! ```
//!
//! Random-looking on purpose: a segment that is lost, doubled or swapped cannot go unnoticed, as it
//! could in a stream of zeros or a short cycle.

use ring::digest::{Context, SHA256};

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of the pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
    /// The word being handed out, and how many of its bytes are gone already.
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    /// The stream of `seed`, from its first byte.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    /// Writes the next `out.len()` bytes of the stream.
    pub fn fill(&mut self, mut out: &mut [u8]) {
        if self.used < 8 {
            let take = out.len().min(8 - self.used);
            let (head, rest) = out.split_at_mut(take);
            head.copy_from_slice(&self.word[self.used..self.used + take]);
            self.used += take;
            out = rest;
        }
        let (words, tail) = out.as_chunks_mut::<8>();
        for word in words {
            *word = self.next_word();
        }
        if !tail.is_empty() {
            self.word = self.next_word();
            self.used = tail.len();
            tail.copy_from_slice(&self.word[..self.used]);
        }
    }

    /// Compares the next `got.len()` bytes of the stream with `got`: the index of the first byte
    /// that differs, if one does.
    pub fn mismatch(&mut self, got: &[u8]) -> Option<usize> {
        let mut expected = vec![0; got.len()];
        self.fill(&mut expected);
        if expected == got {
            return None;
        }
        expected.iter().zip(got).position(|(a, b)| a != b)
    }

    fn next_word(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(GAMMA);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

/// The stream of `seed` cut to `length` bytes, in pieces that suit a socket.
#[derive(Clone, Debug)]
pub struct Pieces {
    pattern: Pattern,
    left: u64,
}

impl Pieces {
    /// The largest piece, in bytes.
    pub const SIZE: usize = 64 * 1024;

    /// The first `length` bytes of the stream of `seed`.
    pub fn new(seed: u64, length: u64) -> Self {
        Self { pattern: Pattern::new(seed), left: length }
    }
}

impl Iterator for Pieces {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let size = usize::try_from(self.left).map_or(Self::SIZE, |left| left.min(Self::SIZE));
        if size == 0 {
            return None;
        }
        self.left -= size as u64;
        let mut piece = vec![0; size];
        self.pattern.fill(&mut piece);
        Some(piece)
    }
}

/// The SHA-256 of the first `length` bytes of the stream of `seed`, in lower-case hexadecimal.
pub fn sha256(seed: u64, length: u64) -> String {
    let mut hash = Sha256::new();
    for piece in Pieces::new(seed, length) {
        hash.update(&piece);
    }
    hash.finish()
}

/// A SHA-256 in the making. It is ring's because that one is quick in an unoptimised build too,
/// where tests hash hundreds of megabytes.
pub(crate) struct Sha256(Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in lower-case hexadecimal.
    pub(crate) fn finish(self) -> String {
        self.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_splitmix64() {
        // The first outputs of SplitMix64 for seed 1234567, as published with the generator.
        let mut bytes = [0; 16];
        Pattern::new(1_234_567).fill(&mut bytes);
        assert_eq!(bytes[..8], 6_457_827_717_110_365_317_u64.to_le_bytes());
        assert_eq!(bytes[8..], 3_203_168_211_198_807_973_u64.to_le_bytes());
    }

    #[test]
    fn does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 4099];
        Pattern::new(7).fill(&mut whole);
        for step in [1, 3, 8, 13, 1000] {
            let mut pattern = Pattern::new(7);
            for (i, piece) in whole.chunks(step).enumerate() {
                assert_eq!(pattern.mismatch(piece), None, "piece {i} of {step} bytes");
            }
        }
    }

    #[test]
    fn names_the_first_wrong_byte() {
        let mut bytes = vec![0; 100];
        Pattern::new(1).fill(&mut bytes);
        bytes[41] ^= 1;
        bytes[77] ^= 1;
        assert_eq!(Pattern::new(1).mismatch(&bytes), Some(41));
    }

    #[test]
    fn pieces_add_up() {
        for length in [0, 1, 65_536, 65_537, 200_000] {
            let sum: u64 = Pieces::new(3, length).map(|piece| piece.len() as u64).sum();
            assert_eq!(sum, length);
        }
    }
}
