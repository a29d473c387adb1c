//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! Sums are made of 16-bit words as they lie in memory, never byte-swapped: the one's complement
//! sum does not care about byte order, so what is stored back the same way is right everywhere.

use crate::verifier::{index, opaque};

/// A one's complement sum that is not folded yet. Room for 2^31 words of 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// A sum from a folded or 32-bit one.
    #[inline(always)]
    pub const fn from_raw(sum: u32) -> Self {
        Self(sum as u64)
    }

    /// Adds a pair of bytes.
    #[inline(always)]
    pub const fn add2(self, bytes: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(bytes) as u64)
    }

    /// Adds four bytes.
    #[inline(always)]
    pub const fn add4(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(bytes) as u64)
    }

    /// Adds an address.
    #[inline(always)]
    pub fn add16(self, bytes: &[u8; 16]) -> Self {
        let [a, b, c, d] = words(bytes);
        Self(self.0 + a as u64 + b as u64 + c as u64 + d as u64)
    }

    /// Takes a pair of bytes away.
    #[inline(always)]
    pub const fn sub2(self, bytes: [u8; 2]) -> Self {
        Self(self.0 + !u16::from_ne_bytes(bytes) as u64)
    }

    /// Takes four bytes away.
    #[inline(always)]
    pub const fn sub4(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + !u32::from_ne_bytes(bytes) as u64)
    }

    /// Takes an address away.
    #[inline(always)]
    pub fn sub16(self, bytes: &[u8; 16]) -> Self {
        let [a, b, c, d] = words(bytes);
        Self(self.0 + !a as u64 + !b as u64 + !c as u64 + !d as u64)
    }

    /// The sum of both.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// This sum less the other.
    #[inline(always)]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 + !other.fold() as u64)
    }

    /// The sum as it counts where its first byte lies at an odd offset (RFC 1071, section 2(B)).
    #[inline(always)]
    pub const fn at_odd_offset(self) -> Self {
        Self(self.fold().swap_bytes() as u64)
    }

    /// Folds into 16 bits, without the final complement.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        // Of a sum of both halves in both orders the upper half is the sum with its carry.
        let half = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (half.wrapping_add(half.rotate_left(16)) >> 16) as u16
    }

    /// The checksum field for data with this sum (the field itself counted as zero).
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The checksum field `old` after a change with this sum.
    #[inline(always)]
    pub const fn update(self, old: [u8; 2]) -> [u8; 2] {
        self.sub2(old).checksum()
    }
}

#[inline(always)]
fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// The sum of a TCP or ICMPv6 pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
///
/// Mapped IPv4 addresses differ from the four bytes that count by a constant, 0xffff, which is
/// zero in one's complement: one function for both families.
#[inline(always)]
pub fn pseudo_header(src: &[u8; 16], dst: &[u8; 16], protocol: u8, len: u32) -> Sum {
    Sum::ZERO.add16(src).add16(dst).add2([0, protocol]).add4(len.to_be_bytes())
}

/// Bytes that are added up between two looks at the length: the fewer looks, the less the verifier has to
/// look at.
const BLOCK: usize = 64;

/// The sum of the first `len` bytes of `data`, an odd last byte padded with zero.
///
/// Bytes behind `len` do not matter.
#[inline(always)]
pub fn sum_words<const N: usize>(data: &[u8; N], len: usize) -> Sum {
    // Both halves of a word are 16-bit aligned, so they may be added as they lie.
    let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
    let mut sum = 0u64;
    let mut blocks = 0;
    for block in data.as_chunks::<BLOCK>().0 {
        if (blocks + 1) * BLOCK > len {
            break;
        }
        for word in block.as_chunks::<8>().0 {
            sum += halves(u64::from_ne_bytes(*word));
        }
        blocks += 1;
    }
    // Not a constant for each way out of the loop: the verifier would walk through the rest for each.
    let first = opaque(blocks * (BLOCK / 8));
    for i in 0..BLOCK / 8 {
        let at = first + i;
        if at * 8 >= len {
            break;
        }
        if let Some(word) = data.as_chunks::<8>().0.get(index(at as u32)) {
            let left = len - at * 8;
            let behind = if left < 8 { u64::MAX << ((left * 8) & 63) } else { 0 };
            sum += halves((u64::from_le_bytes(*word) & !behind).to_le());
        }
    }
    Sum(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn rfc_1071_section_3_example() {
        let mut data = [0; 8];
        data.copy_from_slice(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum_words(&data, 8).fold().to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn rfc_1624_section_4_example() {
        // A field goes from 0x5555 to 0x3285 in a header whose checksum is 0xdd2f.
        let change = Sum::ZERO.sub2([0x55, 0x55]).add2([0x32, 0x85]);
        assert_eq!(change.update([0xdd, 0x2f]), [0x00, 0x00]);
    }

    #[test]
    fn sums_of_every_length_are_those_of_the_definition() {
        let data: std::vec::Vec<u8> = (0..4096u32).map(|at| (at * 7 + at / 256) as u8).collect();
        for len in (0..=130).chain(4030..=4096) {
            let mut buffer = [0; 4096];
            buffer[..len].copy_from_slice(&data[..len]);
            let sum = u16::from_be_bytes(sum_words(&buffer, len).fold().to_ne_bytes());
            assert_eq!(sum, reference(&data[..len]), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn sums_like_the_definition(data in proptest::collection::vec(any::<u8>(), 0..=64)) {
            let mut buffer = [0; 64];
            buffer[..data.len()].copy_from_slice(&data);
            let sum = u16::from_be_bytes(sum_words(&buffer, data.len()).fold().to_ne_bytes());
            prop_assert_eq!(sum, reference(&data));
        }

        #[test]
        fn update_equals_recomputation(
            mut data in any::<[u8; 64]>(), new in any::<[u8; 4]>(), at in 0usize..15,
        ) {
            let old = sum_words(&data, 64).checksum();
            let mut word = [0; 4];
            word.copy_from_slice(&data[at * 4..at * 4 + 4]);
            let change = Sum::ZERO.sub4(word).add4(new);
            data[at * 4..at * 4 + 4].copy_from_slice(&new);
            prop_assert_eq!(change.update(old), sum_words(&data, 64).checksum());
        }

        #[test]
        fn update_at_an_odd_offset(
            mut data in any::<[u8; 64]>(), new in any::<[u8; 4]>(), at in 0usize..14,
        ) {
            let at = at * 4 + 1;
            let old = sum_words(&data, 64).checksum();
            let mut word = [0; 4];
            word.copy_from_slice(&data[at..at + 4]);
            let change = Sum::ZERO.sub4(word).add4(new).at_odd_offset();
            data[at..at + 4].copy_from_slice(&new);
            prop_assert_eq!(change.update(old), sum_words(&data, 64).checksum());
        }
    }
}
