//! How long to wait after a failure. Ten lines by hand: what the server asks for is the least, and
//! chance must not take from it.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);

/// Waits that double, each with a part left to chance: the daemons of a cluster lose their API server
/// at the same moment, and are not to come back at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(MOST)
    }
}

impl Backoff {
    /// With another longest wait than most have.
    pub(crate) fn up_to(most: Duration) -> Self {
        Self { failures: 0, most }
    }

    /// The next wait. `least` is what the server asks for.
    pub(crate) fn next(&mut self, least: Duration) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(self.most).max(least);
        self.failures += 1;
        // Never less than the server has asked for.
        if whole == least { whole + jitter(whole / 2) } else { whole / 2 + jitter(whole / 2) }
    }

    /// It works again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random time up to this.
pub(crate) fn jitter(most: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness, no jitter.
    let _ = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
    most.mul_f64(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let mut least = FIRST / 2;
        for _ in 0..40 {
            let wait = backoff.next(Duration::ZERO);
            assert!((least..=least * 2).contains(&wait), "{wait:?}");
            least = (least * 2).min(MOST / 2);
        }
        assert!(backoff.next(Duration::from_secs(100)) >= Duration::from_secs(100));
        backoff.reset();
        assert!(backoff.next(Duration::ZERO) <= FIRST);
    }
}
