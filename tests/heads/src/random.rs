//! Numbers that look random and follow from a seed, so that a failure comes again. By hand, so that no new
//! version of a crate changes what is tried.

/// A generator (Steele, Lea, Flood 2014: SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// One with this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One whose seed follows from these bytes (FNV-1a).
    pub fn of(bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// The next number below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}
