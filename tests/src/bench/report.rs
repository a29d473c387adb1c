//! What is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use serde::Serialize;

use super::kernel::{EGRESS, INGRESS, Verified};
use super::measure::{Case, Effort, Timing, Way};
use super::memory::Memory;
use super::{REPLICAS, names};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// The aims: nanoseconds of an established packet above the control, bytes of a connection,
/// milliseconds of the largest slot table.
const AIMS: (f64, u64, f64) = (100.0, 512, 50.0);

/// All results.
pub(super) struct Report<'a> {
    pub cpu: usize,
    pub effort: Effort,
    pub rows: Vec<(&'a Case, Timing)>,
    pub verified: &'a BTreeMap<&'static str, Verified>,
    pub memory: Memory,
    pub slot_tables: [(usize, f64); REPLICAS.len()],
}

/// The JSON object. Every time is comparable to `control_ns`: a row that was measured in another way
/// than the control is given as the control and what the row costs above its own control.
#[derive(Serialize)]
struct Json {
    control_ns: f64,
    ingress_ns: Ingress,
    egress_ns: Egress,
    verified_instructions: Instructions,
    bytes_per_connection: u64,
    slot_table_ms: SlotTables,
}

#[derive(Serialize)]
struct Ingress {
    pass: f64,
    syn: f64,
    bind: f64,
    established: f64,
}

#[derive(Serialize)]
struct Egress {
    established: f64,
}

#[derive(Serialize)]
struct Instructions {
    ingress: u32,
    egress: u32,
}

#[derive(Serialize)]
struct SlotTables {
    #[serde(rename = "10")]
    ten: f64,
    #[serde(rename = "100")]
    hundred: f64,
    #[serde(rename = "1000")]
    thousand: f64,
}

impl Report<'_> {
    /// Prints the table, and the JSON object as the last line.
    pub fn print(&self, json: bool) -> Result<()> {
        let mut text = self.times() + &self.facts();
        if json {
            text += &serde_json::to_string(&self.json()?)?;
            text.push('\n');
        }
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to stdout")
    }

    fn times(&self) -> String {
        let Effort { rounds, repeat, single } = self.effort;
        let mut text = format!(
            "\n{BOLD}nanoseconds per packet{BOLD:#}  {DIM}medians of {rounds} rounds on CPU {}\n\n  \
             {:26}{:>9}{:>9}{:>9}{:>8}{:>7}   measured{DIM:#}\n",
            self.cpu, "", "time", "control", "above", "noise", "best"
        );
        for (case, timing) in &self.rows {
            let Timing { ns, control_ns, above_ns, best_ns, noise_ns } = timing;
            let above = format!("{above_ns:.0}");
            let style = match case.name {
                names::TO_REPLICA | names::TO_CLIENT => judged(*above_ns <= AIMS.0),
                _ => Style::new(),
            };
            let way = match case.way {
                Way::Repeat => format!("{repeat} runs on one buffer"),
                Way::Single => format!("{single} runs one by one"),
            };
            let _ = writeln!(
                text,
                "  {:26}{ns:>9.0}{control_ns:>9.0}{style}{above:>9}{style:#}{DIM}{:>8}{best_ns:>7.0}   {way}{DIM:#}",
                case.name,
                format!("±{noise_ns:.1}"),
            );
        }
        text + &format!(
            "\n  {DIM}The control is an empty program of the same type (XDP or TC), measured in the same\n  \
             way, in turns. Above it: the median of the rounds, and the best one.\n  \
             Aim: an established packet within {:.0} ns of it.{DIM:#}\n",
            AIMS.0
        )
    }

    fn facts(&self) -> String {
        let mut text = format!("\n{BOLD}verifier{BOLD:#}\n\n");
        for (name, Verified { instructions, stack }) in self.verified {
            let _ = writeln!(
                text,
                "  {name:26}{instructions:>9} instructions verified {DIM}(limit 1000000){DIM:#}\n  \
                 {:26}{DIM}stack of each function: {stack} bytes{DIM:#}",
                ""
            );
        }
        let _ = write!(text, "\n{BOLD}map memory{BOLD:#}\n\n");
        for entry in &self.memory.entries {
            let _ = writeln!(
                text,
                "  {:26}{:>9} bytes {DIM}for an entry ({} as the kernel counts, and what its allocator \
                 adds){DIM:#}",
                entry.map.pin(),
                entry.allocated,
                entry.accounted
            );
        }
        let first = self.memory.per_connection();
        let style = judged(first < AIMS.1);
        let _ = writeln!(
            text,
            "  {:26}{:>9} bytes {DIM}in a chat that has one already{DIM:#}\n  \
             {:26}{style}{first:>9}{style:#} bytes {DIM}if it is the first of its chat; aim: under {}{DIM:#}",
            "one more connection",
            self.memory.per_flow(),
            "",
            AIMS.1
        );
        let _ = write!(text, "\n{BOLD}slot table{BOLD:#}\n\n");
        for (replicas, ms) in self.slot_tables {
            let style = judged(ms < AIMS.2);
            let name = format!("{replicas} replicas");
            let _ = writeln!(text, "  {name:26}{style}{ms:>9.2}{style:#} ms");
        }
        let _ = writeln!(text, "  {DIM}Aim: under {:.0} ms.{DIM:#}\n", AIMS.2);
        text
    }

    fn json(&self) -> Result<Json> {
        let row = |name: &str| -> Result<&Timing> {
            let found = self.rows.iter().find(|(case, _)| case.name == name);
            found.map(|(_, timing)| timing).with_context(|| format!("no row `{name}`"))
        };
        // XDP, by repetition.
        let control = row(names::PASS)?.control_ns;
        let time = |name| Ok::<_, anyhow::Error>(rounded(control + row(name)?.above_ns, 1));
        let instructions =
            |name: &str| self.verified.get(name).map_or(0, |verified| verified.instructions);
        let [ten, hundred, thousand] = self.slot_tables.map(|(_, ms)| rounded(ms, 3));
        Ok(Json {
            control_ns: rounded(control, 1),
            ingress_ns: Ingress {
                pass: time(names::PASS)?,
                syn: time(names::SYN)?,
                bind: time(names::BIND)?,
                established: time(names::TO_REPLICA)?,
            },
            egress_ns: Egress { established: time(names::TO_CLIENT)? },
            verified_instructions: Instructions {
                ingress: instructions(INGRESS),
                egress: instructions(EGRESS),
            },
            bytes_per_connection: self.memory.per_connection(),
            slot_table_ms: SlotTables { ten, hundred, thousand },
        })
    }
}

fn judged(good: bool) -> Style {
    if good { GOOD } else { BAD }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}
