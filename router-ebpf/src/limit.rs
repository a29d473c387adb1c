//! How much is answered to those who belong to no connection: RSTs for each CPU, and for each client's share
//! of them; and how many segments that are early are kept.
//!
//! An RST is no larger than what it answers, and a SYN always gets its answer: so this is not about the one who
//! gets them, but about the CPU and the link. After a restart of a node all connections of an ingress controller
//! are unknown at once, and behind one address: it has to be told of all of them within seconds.

use crate::verifier::index;

/// Shares of a CPU's RSTs.
const SHARES: usize = 256;
/// RSTs of a CPU. More a second would be felt beside a flood of acknowledgements.
const ALL: Rate = Rate::new(1 << 16, 1 << 12);
/// RSTs of one share: all at once, and half of what comes after that.
const SHARE: Rate = Rate::new(1 << 16, 1 << 11);
/// Segments that are kept before their first one, of a CPU: who has only guessed that they belong to a handshake
/// would take the room of others in `STASH` with more.
const EARLY: Rate = Rate::new(256, 256);

/// So many at once, and one more after each interval.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u64,
    /// In nanoseconds.
    interval: u64,
}

impl Rate {
    const fn new(burst: u64, per_second: u64) -> Self {
        Self { burst, interval: 1_000_000_000 / per_second }
    }
}

/// A token bucket. Zeros are a full one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it last gained a token, in nanoseconds.
    at: u64,
    /// How many it has.
    tokens: u64,
}

impl Bucket {
    /// Takes a token if there is one.
    #[inline(always)]
    fn take(&mut self, now: u64, rate: Rate) -> bool {
        let earned = now.saturating_sub(self.at) / rate.interval;
        if earned > 0 {
            self.at += earned * rate.interval;
            self.tokens = (self.tokens + earned).min(rate.burst);
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

/// The lowest bits of when a head began, about a millisecond: a number stands there.
const NUMBERS: u64 = (1 << 20) - 1;

/// What a CPU may still send or keep.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    all: Bucket,
    early: Bucket,
    /// Heads that have begun.
    begun: u64,
    shares: [Bucket; SHARES],
}

impl Allowance {
    /// Whether an RST may be sent, to a client whose address has this hash, which it cannot know: so nobody uses
    /// up what belongs to one that he has chosen, but once in 256.
    #[inline(always)]
    pub fn may_reset(&mut self, hash: u64, now: u64) -> bool {
        let Some(share) = self.shares.get_mut(index(hash as u32) % SHARES) else {
            return false;
        };
        share.take(now, SHARE) && self.all.take(now, ALL)
    }

    /// Whether a segment may be kept before its first one.
    #[inline(always)]
    pub fn may_keep_early(&mut self, now: u64) -> bool {
        self.early.take(now, EARLY)
    }

    /// When a head begins: now, with a number in place of what is below a millisecond, so that no other one of its tuple
    /// has begun then. Within a tick of the coarse clock there may be thousands of them.
    #[inline(always)]
    pub fn begin_head(&mut self, now: u64) -> u64 {
        self.begun = self.begun.wrapping_add(1);
        now & !NUMBERS | self.begun & NUMBERS
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NEW: Allowance = Allowance {
        all: Bucket { at: 0, tokens: 0 },
        early: Bucket { at: 0, tokens: 0 },
        begun: 0,
        shares: [Bucket { at: 0, tokens: 0 }; SHARES],
    };

    /// How many of so many may be reset at one time.
    fn may(limits: &mut Allowance, hash: u64, now: u64, wanted: u32) -> u32 {
        (0..wanted).map(|_| u32::from(limits.may_reset(hash, now))).sum()
    }

    #[test]
    fn one_address_is_told_of_many_connections_at_once_and_of_more_each_second() {
        let (mut limits, begin) = (NEW, 1000 * SECOND);
        assert_eq!(may(&mut limits, 7, begin, 50_000), 50_000);
        assert_eq!(may(&mut limits, 7, begin, 50_000), 65_536 - 50_000);
        // A rate is a rate, however often somebody looks.
        let earned: u32 =
            (1..=1000).map(|ms| may(&mut limits, 7, begin + ms * SECOND / 1000, 100)).sum();
        assert!((2047..=2048).contains(&earned), "{earned}");
    }

    #[test]
    fn one_address_leaves_as_much_to_others_and_all_are_bounded() {
        let (mut limits, begin) = (NEW, 1000 * SECOND);
        assert_eq!(may(&mut limits, 1, begin, 1 << 20), 1 << 16);
        assert_eq!(may(&mut limits, 2, begin, 1 << 20), 0);
        let later = begin + SECOND;
        assert_eq!(may(&mut limits, 1, later, 1 << 20), 1 << 11);
        assert_eq!((3..256).map(|hash| may(&mut limits, hash, later, 1000)).sum::<u32>(), 1 << 11);
    }

    #[test]
    fn no_two_heads_begin_at_the_same_time() {
        let (mut limits, now) = (NEW, 1000 * SECOND);
        let begun: BTreeSet<u64> = (0..1 << 20).map(|_| limits.begin_head(now)).collect();
        assert_eq!(begun.len(), 1 << 20);
        assert!(begun.iter().all(|begun| begun.abs_diff(now) <= NUMBERS));
    }

    #[test]
    fn early_segments_are_bounded() {
        let (mut limits, begin) = (NEW, 1000 * SECOND);
        let kept =
            |limits: &mut Allowance, now| (0..1000).filter(|_| limits.may_keep_early(now)).count();
        assert_eq!(kept(&mut limits, begin), 256);
        assert_eq!(kept(&mut limits, begin + SECOND / 2), 128);
    }
}
