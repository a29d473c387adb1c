//! `roost counters`: what the data path has counted.

use anyhow::Result;
use router_ebpf::verdict::Counter;
use serde::Serialize;

use crate::{
    cli::{
        output::Report,
        table::{Cell, Table},
    },
    maps::{read, tables::Tables},
};

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

impl Report for CountersReport {
    fn text(&self) -> String {
        table(&self.0)
    }
}

/// The counters as a table.
pub fn table(counters: &[CounterLine]) -> String {
    if counters.is_empty() {
        return "nothing was counted yet\n".to_owned();
    }
    let mut table = Table::new(["counter", ">packets", "what it counts"]);
    let dimmed = anstyle::Style::new().dimmed();
    for line in counters {
        table.row([line.counter.into(), line.packets.into(), Cell::styled(line.help, dimmed)]);
    }
    table.to_string()
}
