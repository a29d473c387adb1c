//! A head in segments: in any order, more than once, and overlapping.

use std::ops::Range;

use router_ebpf::maps::{HEAD_LEN, HOLES, SOURCES};

use crate::{random::Random, source::ALL};

/// Segments of a fuzzer's case, and one more.
const MOST: usize = 9;

/// Which bytes arrive, one segment after the other.
pub type Plan = Vec<Range<usize>>;

/// So many bytes in up to five segments, cut at random places and in random order; some come again,
/// some overlap, and all of them come.
pub fn random(len: usize, random: &mut Random) -> Plan {
    if len == 0 {
        return Plan::new();
    }
    let mut cuts: Vec<usize> = (0..random.below(HOLES + 1)).map(|_| random.below(len)).collect();
    cuts.extend([0, len]);
    cuts.sort_unstable();
    cuts.dedup();
    let mut plan: Plan = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
    for range in &mut plan {
        // Overlap with what is before or behind.
        if random.below(4) == 0 {
            range.start -= random.below(range.start.min(9) + 1);
        }
        if random.below(4) == 0 {
            range.end += random.below((len - range.end).min(9) + 1);
        }
    }
    for at in (1..plan.len()).rev() {
        plan.swap(at, random.below(at + 1));
    }
    if random.below(3) == 0 {
        let again = plan[random.below(plan.len())].clone();
        plan.insert(random.below(plan.len() + 1), again);
    }
    plan
}

/// What a fuzzer says.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// Numbers of key sources in [`ALL`].
    pub sources: Vec<usize>,
    /// The segments.
    pub plan: Plan,
    /// The head.
    pub head: &'a [u8],
}

impl<'a> Case<'a> {
    /// A byte with the number of sources and one for each, a byte with the number of segments and
    /// four for each: its begin and its length. Then the head.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first()?;
        let (sources, rest) = rest.split_at_checked(1 + usize::from(*count) % SOURCES)?;
        let (count, rest) = rest.split_first()?;
        let (segments, head) = rest.split_at_checked(4 * (usize::from(*count) % MOST))?;
        let head = &head[..head.len().min(HEAD_LEN)];
        let segment = |word: &[u8; 4]| {
            let [a, b, c, d] = *word;
            let start = usize::from(u16::from_le_bytes([a, b])) % head.len().max(1);
            let len = usize::from(u16::from_le_bytes([c, d]));
            start..(start + len).min(head.len())
        };
        let plan = segments.as_chunks::<4>().0.iter().map(segment);
        Some(Self {
            sources: sources.iter().map(|number| usize::from(*number) % ALL.len()).collect(),
            plan: plan.filter(|range| !range.is_empty()).collect(),
            head,
        })
    }
}
