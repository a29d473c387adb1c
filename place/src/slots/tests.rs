use std::{collections::BTreeMap, format, println, string::String, time::Instant};

use proptest::prelude::*;

use super::*;

type Weights = BTreeMap<String, u32>;

fn candidates(weights: &Weights) -> Vec<Candidate<'_>> {
    weights.iter().map(|(identity, weight)| Candidate { identity, weight: *weight }).collect()
}

/// The identity that owns each slot.
fn owners(weights: &Weights) -> Vec<&str> {
    let candidates = candidates(weights);
    let table = build(&candidates).unwrap();
    table.owners.iter().map(|i| candidates[*i as usize].identity).collect()
}

fn replicas() -> impl Strategy<Value = Weights> {
    prop::collection::btree_map("[a-z0-9-]{1,12}", 1u32..=100, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn removing_a_replica_moves_only_its_slots(mut weights in replicas(), pick in any::<prop::sample::Index>()) {
        let before_weights = weights.clone();
        let before = owners(&before_weights);
        let gone = weights.keys().nth(pick.index(weights.len())).unwrap().clone();
        weights.remove(&gone);
        prop_assume!(!weights.is_empty());
        for (before, after) in before.iter().zip(owners(&weights)) {
            prop_assert!(*before == after || *before == gone);
        }
    }

    #[test]
    fn a_heavier_replica_only_gains(mut weights in replicas(), pick in any::<prop::sample::Index>()) {
        let before_weights = weights.clone();
        let before = owners(&before_weights);
        let heavier = weights.keys().nth(pick.index(weights.len())).unwrap().clone();
        *weights.get_mut(&heavier).unwrap() += 10;
        for (before, after) in before.iter().zip(owners(&weights)) {
            prop_assert!(*before == after || after == heavier);
        }
    }

    #[test]
    fn order_does_not_matter(weights in replicas(), seed in any::<u64>()) {
        let sorted = candidates(&weights);
        let mut shuffled = sorted.clone();
        shuffled.sort_by_key(|c| hash((seed, 0), c.identity.as_bytes()).h1);
        let (a, b) = (build(&sorted).unwrap(), build(&shuffled).unwrap());
        prop_assert_eq!(a.digest, b.digest);
        for (a, b) in a.owners.iter().zip(&b.owners) {
            prop_assert_eq!(sorted[*a as usize].identity, shuffled[*b as usize].identity);
        }
    }

    #[test]
    fn shares_follow_the_weights(weights in replicas()) {
        let total: u32 = weights.values().sum();
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for owner in owners(&weights) {
            *counts.entry(owner).or_default() += 1;
        }
        for (identity, weight) in &weights {
            let share = f64::from(*weight) / f64::from(total);
            let expected = share * f64::from(SLOT_COUNT);
            let sigma = (expected * (1.0 - share)).sqrt();
            let count = f64::from(counts.get(identity.as_str()).copied().unwrap_or(0));
            // Of some 250 shares in a run, one would be so far off in 10^11 runs.
            prop_assert!((count - expected).abs() < 8.0 * sigma + 5.0, "{identity}: {count} of {expected}");
        }
    }

    #[test]
    fn the_logarithm_is_close_and_never_rises(hash in any::<u64>(), other in any::<u64>()) {
        let exact = -((hash as f64 + 1.0) / 2f64.powi(64)).log2();
        let close = minus_log2(hash) as f64 / 2f64.powi(LOG_BITS as i32);
        prop_assert!((exact - close).abs() < 1e-9, "{exact} {close}");
        if hash <= other {
            prop_assert!(minus_log2(hash) >= minus_log2(other));
        }
    }
}

#[test]
fn the_logarithm_has_its_ends() {
    assert_eq!(minus_log2(u64::MAX), 0);
    assert_eq!(minus_log2((1 << 63) - 1), 1 << LOG_BITS);
    assert_eq!(minus_log2(0), 64 << LOG_BITS);
}

#[test]
fn nothing_owns_nothing() {
    assert_eq!(build(&[]), None);
}

/// If this fails, nodes of two versions disagree about every chat: that needs another SCHEMA.
#[test]
fn the_table_is_the_same_in_every_version() {
    let weights: Weights =
        [("replica-1", 1), ("replica-2", 1), ("replica-3", 2)].map(|(n, w)| (n.into(), w)).into();
    let table = build(&candidates(&weights)).unwrap();
    assert_eq!(format!("{:016x}", table.digest), "1b2e0dc5422167e7");
}

#[test]
fn a_thousand_replicas_are_even() {
    let weights: Weights = (0..1000).map(|i| (format!("replica-{i}"), 1)).collect();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let start = Instant::now();
    let owners = owners(&weights);
    println!("1000 replicas: {:?}", start.elapsed());
    for owner in owners {
        *counts.entry(owner).or_default() += 1;
    }
    // Chi-squared with 999 degrees of freedom: mean 999, deviation 45.
    let expected = f64::from(SLOT_COUNT) / 1000.0;
    let chi: f64 = weights
        .keys()
        .map(|name| (f64::from(counts.get(name.as_str()).copied().unwrap_or(0)) - expected).powi(2))
        .sum::<f64>()
        / expected;
    assert!((800.0..1200.0).contains(&chi), "{chi}");
}
