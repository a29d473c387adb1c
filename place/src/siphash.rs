//! SipHash-2-4 with a 64-bit result (Aumasson and Bernstein, "SipHash: a fast short-input PRF",
//! 2012), written so that the verifier can follow it: no slices of unknown length.

/// A 128-bit key as two words, the first eight bytes little-endian in the first.
pub type Key = [u64; 2];

#[derive(Clone, Copy)]
struct State([u64; 4]);

impl State {
    #[inline(always)]
    const fn new(key: &Key) -> Self {
        Self([
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    const fn round(self) -> Self {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        Self([a, b, c, d])
    }

    #[inline(always)]
    const fn block(mut self, word: u64) -> Self {
        self.0[3] ^= word;
        self = self.round().round();
        self.0[0] ^= word;
        self
    }

    #[inline(always)]
    const fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self = self.round().round().round().round();
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }
}

/// The hash of words so far: of texts that begin alike, that is done once.
#[derive(Clone, Copy)]
pub struct Words {
    state: State,
    count: u64,
}

impl Words {
    /// Of none.
    #[inline(always)]
    pub const fn new(key: &Key) -> Self {
        Self { state: State::new(key), count: 0 }
    }

    /// With `N` more, which are `8 * N` bytes in little-endian order.
    #[inline(always)]
    pub const fn and<const N: usize>(mut self, more: &[u64; N]) -> Self {
        let mut i = 0;
        while i < N {
            self.state = self.state.block(more[i]);
            i += 1;
        }
        self.count += N as u64;
        self
    }

    /// The hash of them.
    #[inline(always)]
    pub const fn finish(self) -> u64 {
        self.state.block((self.count * 8) << 56).finish()
    }
}

/// Hash of `N` words.
#[inline(never)]
pub fn words<const N: usize>(key: &Key, input: &[u64; N]) -> u64 {
    Words::new(key).and(input).finish()
}

/// Hash of the first `len` bytes of `data`; `len` is cut to `N`, a multiple of eight.
///
/// Bytes behind `len` up to the next multiple of eight must be zero.
#[inline(never)]
pub fn bytes<const N: usize>(key: &Key, data: &[u8; N], len: usize) -> u64 {
    let mut state = State::new(key);
    let words = data.as_chunks::<8>().0;
    // Whole words only; the last, partial one carries the length in its upper byte.
    for (i, word) in words.iter().enumerate() {
        if i * 8 + 8 > len {
            break;
        }
        state = state.block(u64::from_le_bytes(*word));
    }
    let mut last = (len as u64 & 0xff) << 56;
    // The verifier does not remember what the loop left: the index is bounded once more.
    if len & 7 != 0
        && let Some(word) = words.get(core::hint::black_box(len / 8))
    {
        last |= u64::from_le_bytes(*word);
    }
    state.block(last).finish()
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;

    /// Appendix A of the paper: key 00..0f, message 00..0e.
    #[test]
    fn vector_of_the_paper() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let mut message = [0; 16];
        for (i, byte) in message.iter_mut().enumerate().take(15) {
            *byte = i as u8;
        }
        assert_eq!(super::bytes(&key, &message, 15), 0xa129_ca61_49be_45e5);
    }

    proptest! {
        #[test]
        fn like_the_siphasher_crate(
            key in any::<[u64; 2]>(),
            data in proptest::collection::vec(any::<u8>(), 0..=512),
        ) {
            let mut buffer = [0; 512];
            buffer[..data.len()].copy_from_slice(&data);
            let mut expected = SipHasher24::new_with_keys(key[0], key[1]);
            expected.write(&data);
            prop_assert_eq!(super::bytes(&key, &buffer, data.len()), expected.finish());
        }

        #[test]
        fn words_are_bytes(key in any::<[u64; 2]>(), input in any::<[u64; 5]>()) {
            let mut expected = SipHasher24::new_with_keys(key[0], key[1]);
            for word in input {
                expected.write(&word.to_le_bytes());
            }
            prop_assert_eq!(super::words(&key, &input), expected.finish());
        }
    }
}
