//! The record of a Lease: what is read from it, and what is written. Pure.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use tokio::time::Instant;

/// The Lease as it was last seen, and when its record was first seen so.
pub(super) struct Observed {
    pub(super) lease: Lease,
    pub(super) changed: Instant,
}

impl Observed {
    /// The observation that follows on another one.
    pub(super) fn after(before: Option<Self>, lease: Lease, now: Instant) -> Self {
        let same = before.filter(|before| before.lease.spec == lease.spec);
        Self { lease, changed: same.map_or(now, |before| before.changed) }
    }

    /// Whether a Lease from a cache is older than this one. Versions that cannot be compared are not.
    pub(super) fn is_newer_than(&self, lease: &Lease) -> bool {
        let version =
            |lease: &Lease| lease.metadata.resource_version.as_ref()?.parse::<u128>().ok();
        matches!((version(&self.lease), version(lease)), (Some(own), Some(other)) if own > other)
    }

    pub(super) fn spec(&self) -> LeaseSpec {
        self.lease.spec.clone().unwrap_or_default()
    }

    pub(super) fn holder(&self) -> Option<String> {
        self.spec().holder_identity.filter(|holder| !holder.is_empty())
    }

    /// Whether it belongs to somebody, who has not been silent for too long.
    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held_for(now).is_some()
    }

    /// How much longer it belongs to somebody who stays silent.
    pub(super) fn held_for(&self, now: Instant) -> Option<Duration> {
        let seconds = self.spec().lease_duration_seconds.unwrap_or_default();
        let lease = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let end = self.changed + lease;
        (self.holder().is_some() && now < end).then(|| end - now)
    }
}

/// The record that this candidate writes over another one.
pub(super) fn claimed(
    before: &LeaseSpec,
    identity: &str,
    lease: Duration,
    now: Timestamp,
) -> LeaseSpec {
    let is_mine = before.holder_identity.as_deref() == Some(identity);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        // Whole seconds, at least one.
        lease_duration_seconds: Some(lease.as_secs().clamp(1, 3600) as i32),
        renew_time: Some(MicroTime(now)),
        acquire_time: match &before.acquire_time {
            Some(time) if is_mine => Some(time.clone()),
            _ => Some(MicroTime(now)),
        },
        lease_transitions: Some(match before.lease_transitions {
            Some(transitions) if is_mine => transitions,
            Some(transitions) => transitions.saturating_add(1),
            None => 0,
        }),
        ..LeaseSpec::default()
    }
}

/// The record of a Lease that its holder gives back.
pub(super) fn released(before: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        acquire_time: Some(MicroTime(now)),
        lease_transitions: before.lease_transitions,
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    const LONG: Duration = Duration::from_secs(15);

    fn lease(spec: LeaseSpec) -> Lease {
        Lease { metadata: ObjectMeta::default(), spec: Some(spec) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_lease_is_held_for_its_time_after_a_change_was_seen() {
        // Its times are of a clock that is far behind.
        let old = claimed(&LeaseSpec::default(), "a", LONG, at(5));
        let begin = Instant::now();
        let seen = Observed::after(None, lease(old.clone()), begin);
        assert!(seen.is_held(begin) && seen.is_held(begin + LONG - Duration::from_millis(1)));
        assert!(!seen.is_held(begin + LONG));
        // Seen again, it is as old as it was.
        let seen = Observed::after(Some(seen), lease(old.clone()), begin + LONG / 2);
        assert!(!seen.is_held(begin + LONG));
        let renewed = claimed(&old, "a", LONG, at(4));
        let seen = Observed::after(Some(seen), lease(renewed), begin + LONG / 2);
        assert!(seen.is_held(begin + LONG));
        assert!(!seen.is_held(begin + LONG / 2 + LONG));
    }

    #[test]
    fn a_lease_that_was_given_back_is_nobodys() {
        let now = Instant::now();
        let held = claimed(&LeaseSpec::default(), "a", LONG, at(5));
        let free = released(&held, at(6));
        assert!(!Observed::after(None, lease(free.clone()), now).is_held(now));
        let empty = LeaseSpec { holder_identity: Some(String::new()), ..held };
        assert!(!Observed::after(None, lease(empty), now).is_held(now));
        assert!(!Observed::after(None, Lease::default(), now).is_held(now));
        assert_eq!(claimed(&free, "a", LONG, at(9)).lease_transitions, Some(1));
    }

    #[test]
    fn a_record_says_who_since_when_and_how_often_that_has_changed() {
        let first = claimed(&LeaseSpec::default(), "a", LONG, at(5));
        assert_eq!((first.lease_transitions, first.lease_duration_seconds), (Some(0), Some(15)));
        let renewed = claimed(&first, "a", LONG, at(7));
        assert_eq!(renewed.acquire_time, Some(MicroTime(at(5))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(7))));
        assert_eq!(renewed.lease_transitions, Some(0));
        let taken = claimed(&renewed, "b", LONG, at(9));
        assert_eq!(taken.acquire_time, Some(MicroTime(at(9))));
        assert_eq!(taken.lease_transitions, Some(1));
        let json = serde_json::to_value(&taken).unwrap();
        assert_eq!(json["renewTime"], "1970-01-01T00:00:09.000000Z");
    }
}
