//! What the data path has counted.

use anyhow::Result;
use router_ebpf::verdict::Counter;
use serde::Serialize;

use crate::maps::{read, tables::Tables};

/// A counter, summed over all CPUs. JSON: an array of these.
#[derive(Debug, Serialize)]
pub struct CounterLine {
    /// Its name.
    pub counter: &'static str,
    /// Its value.
    pub packets: u64,
    /// What it counts.
    pub help: &'static str,
}

/// What `roost counters` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct CountersReport(pub Vec<CounterLine>);

/// Reads the counters; without `zero` those that have counted something.
pub fn counters(tables: &Tables, zero: bool) -> Result<CountersReport> {
    let counts = read::counts(&tables.counters)?;
    let line = |(counter, packets): (&Counter, u64)| CounterLine {
        counter: counter.name(),
        packets,
        help: counter.help().trim(),
    };
    let lines = Counter::ALL.iter().zip(counts).map(line);
    Ok(CountersReport(lines.filter(|line| zero || line.packets > 0).collect()))
}
