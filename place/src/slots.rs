//! The slot table: which replica owns which slot.
//!
//! Slot `s` belongs to the replica with the highest weighted rendezvous score over `s` and its
//! identity, `-weight / ln(u)` with `u` in (0, 1) from a hash of both. So a replica that comes or
//! goes moves only the slots that it gets or had, and its share is `weight` over the sum of weights.
//!
//! The table must be the same, bit for bit, on every node: all of it is integer arithmetic. A
//! floating-point `ln` is not rounded the same by every libm, and one differing slot is a split chat.

use std::{num::NonZero, ops::Range, sync::LazyLock, vec, vec::Vec};

use siphasher::sip128::{Hash128, Hasher128, SipHasher24};

use crate::cookie::SLOT_COUNT;

/// A replica that can own slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its identity: unique, and the same on every node.
    pub identity: &'a str,
    /// Its share, at least 1.
    pub weight: u32,
}

/// The owners of all slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    /// For each slot, the index of its owner in the candidates.
    pub owners: Vec<u32>,
    /// Digest of the owners' identities by slot: equal tables have equal digests.
    pub digest: u64,
}

/// Domain separation of the hashes. Changing one of these moves every chat.
const REPLICA_KEY: (u64, u64) = (0x726f_6f73_742e_7265, 0x706c_6963_612e_7631);
const SLOT_KEY: (u64, u64) = (0x726f_6f73_742e_736c, 0x6f74_2e76_312e_2e2e);
const DIGEST_KEY: (u64, u64) = (0x726f_6f73_742e_6469, 0x6765_7374_2e76_312e);

/// Below this many scores the threads cost more than they save.
const SCORES_PER_THREAD: usize = 1 << 20;

static SLOT_HASHES: LazyLock<Vec<Hash128>> =
    LazyLock::new(|| (0..SLOT_COUNT).map(|slot| hash(SLOT_KEY, &slot.to_le_bytes())).collect());

/// Builds the table; `None` without candidates. The order of the candidates does not matter.
pub fn build(candidates: &[Candidate<'_>]) -> Option<SlotTable> {
    if candidates.is_empty() {
        return None;
    }
    let classes = Classes::new(candidates);
    let slots = SLOT_HASHES.as_slice();
    let mut owners = vec![0; slots.len()];
    let useful = candidates.len() * slots.len() / SCORES_PER_THREAD;
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(useful).max(1);
    let part = slots.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for (owners, slots) in owners.chunks_mut(part).zip(slots.chunks(part)) {
            let classes = &classes;
            let mut fill = move || {
                for (owner, slot) in owners.iter_mut().zip(slots) {
                    *owner = classes.owner(slot);
                }
            };
            if threads == 1 {
                fill();
            } else {
                scope.spawn(fill);
            }
        }
    });
    let digest = classes.digest(&owners);
    Some(SlotTable { owners, digest })
}

/// A candidate, hashed.
struct Hashed {
    hash: Hash128,
    /// Its index in the caller's order.
    index: u32,
}

/// The candidates by weight. Among equal weights the highest hash has the highest score, so the
/// logarithm is needed once for each weight, not once for each replica.
struct Classes {
    candidates: Vec<Hashed>,
    /// Each weight, with its part of `candidates`.
    weights: Vec<(u64, Range<usize>)>,
}

impl Classes {
    fn new(candidates: &[Candidate<'_>]) -> Self {
        let mut sorted: Vec<_> = candidates.iter().zip(0u32..).collect();
        // In this order ties, however unlikely, fall the same way on every node.
        sorted.sort_unstable_by_key(|(c, _)| (std::cmp::Reverse(c.weight), c.identity));
        let mut weights: Vec<(u64, Range<usize>)> = Vec::new();
        for (i, (candidate, _)) in sorted.iter().enumerate() {
            let weight = u64::from(candidate.weight.max(1));
            match weights.last_mut() {
                Some((last, range)) if *last == weight => range.end = i + 1,
                _ => weights.push((weight, i..i + 1)),
            }
        }
        let candidates = sorted
            .into_iter()
            .map(|(c, index)| Hashed { hash: hash(REPLICA_KEY, c.identity.as_bytes()), index })
            .collect();
        Self { candidates, weights }
    }

    /// The index, in the caller's order, of the slot's owner.
    fn owner(&self, slot: &Hash128) -> u32 {
        let mut best: Option<Best> = None;
        for (weight, range) in &self.weights {
            let (mut top, mut owner) = (0, 0);
            for candidate in &self.candidates[range.clone()] {
                let score = mix(slot, &candidate.hash);
                if score >= top {
                    (top, owner) = (score, candidate.index);
                }
            }
            best = Best::of(best, Best { distance: Distance::Hash(top), weight: *weight, owner });
        }
        best.map_or(0, |best| best.owner)
    }

    fn digest(&self, owners: &[u32]) -> u64 {
        let mut identities = vec![0; self.candidates.len()];
        for candidate in &self.candidates {
            identities[candidate.index as usize] = candidate.hash.h1;
        }
        let bytes: Vec<u8> =
            owners.iter().flat_map(|owner| identities[*owner as usize].to_le_bytes()).collect();
        hash(DIGEST_KEY, &bytes).h1
    }
}

/// How far a hash is from the top, `-log2(u)`: as the hash itself until it is needed.
enum Distance {
    Hash(u64),
    Log(u64),
}

/// The best of the weights so far: the smallest distance over weight.
struct Best {
    distance: Distance,
    weight: u64,
    owner: u32,
}

impl Best {
    fn of(best: Option<Self>, other: Self) -> Option<Self> {
        let Some(mut best) = best else { return Some(other) };
        let (mine, hash) = match (&best.distance, &other.distance) {
            (Distance::Hash(mine), Distance::Hash(hash)) => (minus_log2(*mine), *hash),
            (Distance::Log(mine), Distance::Hash(hash)) => (*mine, *hash),
            (_, Distance::Log(_)) => return Some(best),
        };
        best.distance = Distance::Log(mine);
        // `-log2(1 - x) >= 1.44 x`: most are beaten without their logarithm. Small `x`, where the
        // logarithm's rounding could matter, take the long way.
        let x = !hash >> (64 - LOG_BITS);
        if x >= 1024 && scaled(x, best.weight) > scaled(mine, other.weight) {
            return Some(best);
        }
        let theirs = minus_log2(hash);
        if scaled(theirs, best.weight) < scaled(mine, other.weight) {
            best = Self { distance: Distance::Log(theirs), ..other };
        }
        Some(best)
    }
}

fn scaled(distance: u64, weight: u64) -> u128 {
    u128::from(distance) * u128::from(weight)
}

/// Bits behind the point of a logarithm.
const LOG_BITS: u32 = 40;

/// `-log2(u)` of `u = (hash + 1) / 2^64`, with [`LOG_BITS`] bits behind the point: the integer part
/// from the leading zeros, then a bit for each squaring.
fn minus_log2(hash: u64) -> u64 {
    let Some(u) = hash.checked_add(1) else { return 0 };
    let shift = u.leading_zeros();
    let mut mantissa = u << shift; // 1.63
    let mut log = u64::from(63 - shift);
    for _ in 0..LOG_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa); // 2.126
        let carry = (square >> 127) as u64;
        mantissa = (square >> (63 + carry)) as u64;
        log = log << 1 | carry;
    }
    (64 << LOG_BITS) - log
}

/// The hash of a slot and a replica: one folded multiplication of two pairs of strong hashes. With
/// 16 million of them for 1000 replicas, this is what the time goes to.
fn mix(slot: &Hash128, replica: &Hash128) -> u64 {
    let product = u128::from(slot.h1 ^ replica.h1) * u128::from(slot.h2 ^ replica.h2);
    (product >> 64) as u64 ^ product as u64
}

fn hash(key: (u64, u64), bytes: &[u8]) -> Hash128 {
    use std::hash::Hasher;
    let mut hasher = SipHasher24::new_with_keys(key.0, key.1);
    hasher.write(bytes);
    hasher.finish128()
}

#[cfg(test)]
mod tests;
