//! Takes what the kernel has ended, and tells both ends.

use std::ops::AddAssign;

use super::resets::Resets;
use crate::maps::{handle::Asked, tables::Tables};

/// Flows at the most whose ends are told at a time: what the queue holds, once or a little more than that.
const AT_ONCE: usize = 8192;

/// Who was told of ended flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Flows that the kernel has ended.
    pub flows: usize,
    /// RSTs that were sent to their ends: two for each, if all goes well.
    pub resets: usize,
}

impl AddAssign for Told {
    fn add_assign(&mut self, other: Self) {
        self.flows += other.flows;
        self.resets += other.resets;
    }
}

/// Takes them from `FAREWELLS`.
pub(super) fn tell(tables: &mut Tables, resets: Option<&Resets>) -> Asked<Told> {
    let mut told = Told::default();
    while told.flows < AT_ONCE
        && let Some(farewell) = tables.farewells.take()?
    {
        told.flows += 1;
        // One that has waited for a daemon: its ends have begun anew, and the numbers are of another connection.
        if tables.flows.get(&farewell.tuple)?.is_some() {
            continue;
        }
        // Whatever the way to an end says: it is told again when it sends something.
        told.resets += resets.map_or(0, |resets| resets.send(&farewell));
    }
    Ok(told)
}
