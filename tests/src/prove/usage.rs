//! What processes and the kernel use, by `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Time that a process has had a CPU (proc_pid_stat(5): utime and stime).
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // Behind the name, which may have spaces in it.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    let ticks = fields.and_then(|fields| {
        let tick = |n: usize| fields.get(n)?.parse::<u64>().ok();
        Some(tick(11)? + tick(12)?)
    });
    let ticks = ticks.with_context(|| format!("no times in {path}: {stat}"))?;
    duration(ticks)
}

/// Time that the threads of these processes have run, and the kernel for packets: whatever else the machine does is not in it.
pub(super) fn ran(pids: &[u32]) -> Result<Duration> {
    let kernel = threads("/proc", "ksoftirqd/")?;
    let own = pids.iter().map(|pid| threads(&format!("/proc/{pid}/task"), ""));
    let own = own.collect::<Result<Vec<_>>>()?;
    let ran = kernel.iter().chain(own.iter().flatten()).sum();
    // What a process does for packets at the end of a system call is its own time, unless the kernel takes the
    // time of interrupts apart: then it also says who has waited for them.
    let is_apart = fs::exists("/proc/pressure/irq").unwrap_or(false);
    Ok(if is_apart { ran + soft_interrupts()? } else { ran })
}

/// How long each thread of a directory has run whose name begins so (`/proc/PID/schedstat`, in nanoseconds).
fn threads(directory: &str, name: &str) -> Result<Vec<Duration>> {
    let entries = fs::read_dir(directory).with_context(|| format!("reading {directory}"))?;
    let of = |path: std::path::PathBuf| -> Option<Duration> {
        if !fs::read_to_string(path.join("comm")).ok()?.starts_with(name) {
            return None;
        }
        let times = fs::read_to_string(path.join("schedstat")).ok()?;
        Some(Duration::from_nanos(times.split(' ').next()?.parse().ok()?))
    };
    // Those that have ended meanwhile are no matter.
    Ok(entries.flatten().filter_map(|entry| of(entry.path())).collect())
}

/// Time that all CPUs have spent in soft interrupts (proc_stat(5)).
pub(super) fn soft_interrupts() -> Result<Duration> {
    duration(stat()?[6])
}

/// Time that all CPUs have spent with anything.
pub(super) fn busy() -> Result<Duration> {
    let [user, nice, system, _idle, _waiting, interrupts, soft] = stat()?;
    duration(user + nice + system + interrupts + soft)
}

/// What all CPUs have spent, in clock ticks: the fields of the first line of proc_stat(5).
fn stat() -> Result<[u64; 7]> {
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let mut words = stat.split_whitespace().skip(1);
    let ticks = [(); 7].map(|()| words.next().and_then(|word| word.parse().ok()));
    let all: Option<Vec<u64>> = ticks.into_iter().collect();
    let all = all.and_then(|all| <[u64; 7]>::try_from(all).ok());
    all.with_context(|| format!("no times in /proc/stat: {stat}"))
}

fn duration(ticks: u64) -> Result<Duration> {
    let second = sysconf(SysconfVar::CLK_TCK)?.context("this system has no clock ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / second as f64))
}

/// Memory of a process, in MB (proc_pid_status(5): VmRSS).
pub(super) fn resident(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kb.with_context(|| format!("no VmRSS in {path}"))? / 1000.0)
}
