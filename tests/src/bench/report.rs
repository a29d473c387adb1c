//! What is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use serde::Serialize;

use super::kernel::{EGRESS, FLOOR_TC, FLOOR_XDP, INGRESS, INSIDE, Verified};
use super::measure::{Case, Effort, Timing, Way};
use super::memory::{Entry, Memory, total};
use super::{FLOWS, REPLICAS, names};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// The aims: instructions that the verifier looks at for a program, bytes of the first connection of a chat
/// and of a further one, milliseconds of the largest slot table.
const AIMS: (u32, [u64; 2], f64) = (300_000, [450, 260], 50.0);

/// The most that a packet is to cost, as a multiple of its floor; both less the control.
const FLOOR_AIMS: [(&str, f64); 8] = [
    (names::LATER, 0.8),
    (names::BIND_AGAIN, 1.2),
    (names::TO_REPLICA, 1.5),
    (names::TO_CLIENT, 2.0),
    (names::TO_REPLICA_RANDOM, 1.15),
    (names::TO_CLIENT_RANDOM, 1.15),
    (names::FROM_POD, 1.5),
    (names::FROM_POD_RANDOM, 1.15),
];

/// The most that a head in eight segments is to cost, as a multiple of one in a single segment.
const EIGHT_SEGMENTS: f64 = 2.0;

/// All results.
pub(super) struct Report<'a> {
    pub cpu: usize,
    pub effort: Effort,
    pub rows: Vec<(&'a Case, Timing)>,
    pub verified: &'a BTreeMap<&'static str, Verified>,
    /// Of IPv4 and of IPv6.
    pub memory: [Memory; 2],
    pub slot_tables: [(usize, f64); REPLICAS.len()],
}

/// The JSON object. Every time is comparable to `control_ns`: a row that was measured in another way
/// than the control is given as the control and what the row costs above its own control.
#[derive(Serialize)]
struct Json {
    control_ns: f64,
    floor_ns: f64,
    ingress_ns: BTreeMap<&'static str, f64>,
    inside_ns: BTreeMap<&'static str, f64>,
    egress_ns: BTreeMap<&'static str, f64>,
    verified: BTreeMap<&'static str, u32>,
    jit_bytes: BTreeMap<&'static str, u32>,
    bytes_per_connection: Bytes,
    slot_table_ms: BTreeMap<String, f64>,
    /// What a connection costs whose head came in eight segments, as a multiple of what it costs in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    eight_segments: Option<f64>,
}

#[derive(Serialize)]
struct Bytes {
    first: ByFamily,
    further: ByFamily,
}

#[derive(Serialize)]
struct ByFamily {
    ipv4: u64,
    ipv6: u64,
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
             {:26}{:>9}{:>9}{:>9}{:>8}{:>7}{:>7}   measured{DIM:#}\n",
            self.cpu, "", "time", "control", "above", "noise", "best", "floors"
        );
        for (case, timing) in &self.rows {
            let Timing { ns, control_ns, above_ns, best_ns, noise_ns } = timing;
            let floors = self.floors(case, timing);
            let aim = FLOOR_AIMS.iter().find(|(name, _)| *name == case.name);
            let style = match (floors, aim) {
                (Some(floors), Some((_, aim))) => judged(floors <= *aim),
                _ => Style::new(),
            };
            let floors = floors.map(|floors| format!("{floors:.2}")).unwrap_or_default();
            let way = match case.way {
                Way::Repeat => format!("{repeat} runs on one buffer"),
                Way::Single => format!("{single} runs one by one"),
            };
            let _ = writeln!(
                text,
                "  {:26}{ns:>9.0}{control_ns:>9.0}{above_ns:>9.0}{DIM}{:>8}{best_ns:>7.0}{DIM:#}\
                 {style}{floors:>7}{style:#}   {DIM}{way}{DIM:#}",
                case.name,
                format!("±{noise_ns:.1}"),
            );
        }
        if let Some([one, eight]) = self.eight_segments() {
            let times = eight / one;
            let style = judged(times <= EIGHT_SEGMENTS);
            let _ = writeln!(
                text,
                "\n  From a head in one segment to its delivery: {one:.0} ns. In eight segments, with the key in the last: \
                 {eight:.0} ns,\n  {style}{times:.2}{style:#} times as much {DIM}(aim: at most {EIGHT_SEGMENTS}){DIM:#}."
            );
        }
        let [(_, later), (_, again), (_, up), (_, down), (_, random), ..] = FLOOR_AIMS;
        text + &format!(
            "\n  {DIM}The control is an empty program of the same type (XDP or TC), measured in the same\n  \
             way, in turns. Above it: the median of the rounds, and the best one. A floor parses the packet,\n  \
             looks 36 bytes up in a hash map and passes. At random: each packet is one of {FLOWS} flows.\n  \
             Aims, in floors: {up} to the replica, {down} to the client, {random} at random. The floor of a later\n  \
             request on a connection is a first one that is read to its end: {later}, and {again} if it is bound again.{DIM:#}\n",
        )
    }

    /// What a row costs above its control, as a multiple of what its floor does.
    fn floors(&self, case: &Case, timing: &Timing) -> Option<f64> {
        let floor = self.row(case.floor?)?;
        Some(timing.above_ns / floor.above_ns)
    }

    /// What all packets of a head cost to its delivery, in one segment and in eight, if these rows were measured.
    fn eight_segments(&self) -> Option<[f64; 2]> {
        let above = |name| Some(self.row(name)?.above_ns);
        let one = above(names::BIND_HEADER)? + above(names::ACCEPT)?;
        let waiting = above(names::FIRST_OF_8)? + 6.0 * above(names::FOURTH_OF_8)?;
        Some([one, waiting + above(names::LAST_OF_8)? + above(names::ACCEPT_8)?])
    }

    fn row(&self, name: &str) -> Option<&Timing> {
        self.rows.iter().find(|(case, _)| case.name == name).map(|(_, timing)| timing)
    }

    fn facts(&self) -> String {
        let mut text = format!("\n{BOLD}verifier{BOLD:#}\n\n");
        for (name, Verified { instructions, stack, jit_bytes }) in self.verified {
            let style = judged(*instructions <= AIMS.0);
            let _ = writeln!(
                text,
                "  {name:26}{style}{instructions:>9}{style:#} instructions verified {DIM}(aim: at most {}){DIM:#}\n  \
                 {:26}{jit_bytes:>9} bytes of machine code\n  \
                 {:26}{DIM}stack of each function: {stack} bytes{DIM:#}",
                AIMS.0, "", ""
            );
        }
        let _ = write!(text, "\n{BOLD}map memory{BOLD:#}\n\n");
        for entry in &self.memory[0].first {
            let _ = writeln!(
                text,
                "  {:26}{:>9} bytes {DIM}for an entry ({} as the kernel counts, and what its allocator \
                 adds){DIM:#}",
                entry.map.pin(),
                entry.allocated,
                entry.accounted
            );
        }
        for (family, memory) in ["IPv4", "IPv6"].iter().zip(&self.memory) {
            for (of, aim) in [(&memory.further, AIMS.1[1]), (&memory.first, AIMS.1[0])] {
                let is_first = std::ptr::eq(of, &memory.first);
                let (name, what) = match is_first {
                    false => {
                        (format!("one more connection, {family}"), "in a chat that has one already")
                    }
                    true => (String::new(), "if it is the first of its chat"),
                };
                let bytes = total(of);
                let style = judged(bytes < aim);
                let _ = writeln!(
                    text,
                    "  {name:26}{style}{bytes:>9}{style:#} bytes {DIM}{what}; aim: under {aim}{DIM:#}"
                );
            }
        }
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
        // XDP, by repetition.
        let control = self.row(names::PASS).context("no row for the control")?.control_ns;
        let time = |timing: &Timing| rounded(control + timing.above_ns, 1);
        let rows = |programs: [&str; 2]| {
            let of = self.rows.iter().filter(|(case, _)| programs.contains(&case.program));
            of.filter_map(|(case, timing)| Some((case.key?, time(timing)))).collect()
        };
        let by_family = |of: fn(&Memory) -> &[Entry]| {
            let [ipv4, ipv6] = [0, 1].map(|n| total(of(&self.memory[n])));
            ByFamily { ipv4, ipv6 }
        };
        let verified = |of: fn(&Verified) -> u32| {
            self.verified.iter().map(|(name, verified)| (*name, of(verified))).collect()
        };
        let slots = |(replicas, ms): &(usize, f64)| (replicas.to_string(), rounded(*ms, 3));
        Ok(Json {
            control_ns: rounded(control, 1),
            floor_ns: time(self.row(names::FLOOR_XDP).context("no row for the floor")?),
            ingress_ns: rows([INGRESS, FLOOR_XDP]),
            inside_ns: rows([INSIDE, INSIDE]),
            egress_ns: rows([EGRESS, FLOOR_TC]),
            verified: verified(|verified| verified.instructions),
            jit_bytes: verified(|verified| verified.jit_bytes),
            bytes_per_connection: Bytes {
                first: by_family(|memory| &memory.first),
                further: by_family(|memory| &memory.further),
            },
            slot_table_ms: self.slot_tables.iter().map(slots).collect(),
            eight_segments: self.eight_segments().map(|[one, eight]| rounded(eight / one, 3)),
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
