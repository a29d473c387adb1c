//! How time is measured.
//!
//! The kernel's clock, around the program itself (`bpf_test_run` in net/bpf/test_run.c): neither the
//! system call nor the preparation of the packet counts. There are two ways, and each row is compared
//! with the empty program measured in the same way, in turns with it:
//!
//! - `repeat`: the kernel runs the program many times on one buffer and gives the mean. It does not
//!   restore the buffer, so this is for what leaves a packet as it found it: packets that are not
//!   ours, and flows whose replica has the address and port of the VIP itself, which are translated
//!   like any other and come out the same. (Only the top bit of one timestamp changes back and forth:
//!   a timestamp that is not shifted at all would be skipped.)
//! - `single`: one run for each system call, from the same bytes each time; the median of many. Caches
//!   and branch predictors have seen a system call in between, so this is the slower, and for a single
//!   packet the more realistic way. The clock's own cost is in it, and in its control.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use router_ebpf::verdict::Counter;

use super::kernel::Kernel;

/// How a row is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Many runs on one buffer.
    Repeat,
    /// One run for each system call.
    Single,
}

/// Makes the packet of a run, by its number, and whatever has to come before it.
pub type Packets = Box<dyn Fn(&Kernel, u32) -> Result<Vec<u8>>>;

/// What is measured.
pub struct Case {
    /// Its name in the table.
    pub name: &'static str,
    /// Its name in the JSON object, if it is there.
    pub key: Option<&'static str>,
    /// The program.
    pub program: &'static str,
    /// How.
    pub way: Way,
    /// What every run must count for; nothing, if it is no program of Roost.
    pub verdict: Option<Counter>,
    /// The row of the floor that it is compared with.
    pub floor: Option<&'static str>,
    /// Packets; the first only, if it is measured by repetition.
    pub packets: Packets,
    /// Whether it is always the same packet.
    pub constant: bool,
}

/// Times of one case, in nanoseconds.
pub struct Timing {
    /// The median of the rounds.
    pub ns: f64,
    /// The same of the empty program.
    pub control_ns: f64,
    /// The median of the differences, taken round by round.
    pub above_ns: f64,
    /// The least of them: what a machine with nothing else to do comes near to.
    pub best_ns: f64,
    /// Half of the rounds are nearer to the median than this.
    pub noise_ns: f64,
}

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Rounds, each of which measures every case once.
    pub rounds: u32,
    /// Runs in a round by repetition.
    pub repeat: u32,
    /// Runs in a round one by one.
    pub single: u32,
}

/// Measures all cases in turns, so that a machine that is slower for a while is so for all.
pub fn measure(kernel: &mut Kernel, cases: &[Case], effort: Effort) -> Result<Vec<Timing>> {
    let mut samples: Vec<Vec<[f64; 2]>> = cases.iter().map(|_| Vec::new()).collect();
    let mut number = 0;
    // The first round warms up.
    for round in 0..=effort.rounds {
        for (case, samples) in cases.iter().zip(&mut samples) {
            let sample = sample(kernel, case, effort, number)
                .with_context(|| format!("measuring `{}`", case.name))?;
            kernel.forget_heads()?;
            number += effort.single;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    Ok(samples.iter().map(|samples| timing(samples)).collect())
}

/// The case and its control, once.
fn sample(kernel: &Kernel, case: &Case, effort: Effort, number: u32) -> Result<[f64; 2]> {
    let numbers = match (case.way, case.constant) {
        (Way::Repeat, _) => 0..1,
        (Way::Single, true) => number..number + 1,
        (Way::Single, false) => number..number + effort.single,
    };
    let packets: Result<Vec<_>> = numbers.map(|n| (case.packets)(kernel, n)).collect();
    let packets = packets?;
    let before = kernel.counters()?;
    let (runs, sample) = match case.way {
        Way::Repeat => {
            let packet = &packets[0];
            let control = kernel.run_control(case.program, packet, effort.repeat)?;
            let run = kernel.run(case.program, packet, effort.repeat)?;
            (effort.repeat, [nanos(run), nanos(control)])
        }
        Way::Single => {
            let (mut runs, mut controls) = (Vec::new(), Vec::new());
            for packet in packets.iter().cycle().take(effort.single as usize) {
                controls.push(nanos(kernel.run_control(case.program, packet, 1)?));
                runs.push(nanos(kernel.run(case.program, packet, 1)?));
            }
            (effort.single, [median(&mut runs), median(&mut controls)])
        }
    };
    check(case, &before, &kernel.counters()?, runs.into())?;
    Ok(sample)
}

/// A fast wrong way must not be taken for a fast right one: every run has to count for its verdict.
fn check(
    case: &Case,
    before: &BTreeMap<Counter, u64>,
    after: &BTreeMap<Counter, u64>,
    runs: u64,
) -> Result<()> {
    for (counter, after) in after {
        let moved = after - before[counter];
        if Some(*counter) == case.verdict {
            ensure!(moved == runs, "{moved} of {runs} runs were {}", counter.name());
        } else if moved != 0 && counter.action().is_some() {
            bail!("{moved} of {runs} runs were {}", counter.name());
        }
    }
    Ok(())
}

fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

fn timing(samples: &[[f64; 2]]) -> Timing {
    let mut times: Vec<_> = samples.iter().map(|[time, _]| *time).collect();
    let mut controls: Vec<_> = samples.iter().map(|[_, control]| *control).collect();
    let mut above: Vec<_> = samples.iter().map(|[time, control]| time - control).collect();
    let middle = median(&mut above);
    let mut deviations: Vec<_> = above.iter().map(|above| (above - middle).abs()).collect();
    Timing {
        ns: median(&mut times),
        control_ns: median(&mut controls),
        above_ns: middle,
        best_ns: above.first().copied().unwrap_or(0.0),
        noise_ns: median(&mut deviations),
    }
}

/// The value in the middle, or the mean of the two there; 0 of nothing.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values {
        [] => 0.0,
        _ if values.len() % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median(&mut [3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 100.0]), 3.5);
    }

    #[test]
    fn a_disturbed_round_does_not_count() {
        let timing =
            timing(&[[50.0, 10.0], [52.0, 10.0], [900.0, 11.0], [51.0, 10.0], [51.0, 9.0]]);
        assert_eq!((timing.ns, timing.control_ns), (51.0, 10.0));
        assert_eq!((timing.best_ns, timing.above_ns, timing.noise_ns), (40.0, 42.0, 1.0));
    }
}
