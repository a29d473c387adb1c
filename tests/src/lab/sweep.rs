//! Removing what labs have left: processes, pins and namespaces.

use std::time::Duration;
use std::{fs, thread};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::MARK;
use super::{pins, tools};

/// Removes namespaces, pins and processes of labs whose process is gone.
pub(super) fn remove_leftovers() -> Result<()> {
    let names: Vec<String> = match fs::read_dir("/run/netns") {
        Ok(entries) => entries.flatten().flat_map(|e| e.file_name().into_string()).collect(),
        Err(_) => return Ok(()),
    };
    for name in names {
        let Some(prefix) = dead_prefix(&name) else { continue };
        end_processes(&name, &prefix);
        pins::remove(&pins::dir_of(&prefix));
        // Another process may be removing it too, and gets there first.
        let _ = tools::run("ip", &["netns", "del", &name]);
    }
    pins::remove_leftovers();
    Ok(())
}

/// The lab's prefix, if `name` is a lab's namespace and the lab's process is gone.
fn dead_prefix(name: &str) -> Option<String> {
    let pid = lab_pid(name)?;
    let stem = match name.rsplit_once("-replica-") {
        Some((stem, _)) => stem,
        None => name.rsplit_once('-')?.0,
    };
    (!alive(pid)).then(|| stem.to_owned())
}

/// The process number in `roost-<pid>-...`.
pub(super) fn lab_pid(name: &str) -> Option<i32> {
    name.strip_prefix("roost-")?.split_once('-')?.0.parse().ok()
}

pub(super) fn alive(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}

/// Kills the processes in a namespace that the lab with this prefix has started; others, such as
/// a shell that somebody has opened there, are let alone.
pub(super) fn end_processes(ns: &str, prefix: &str) {
    let mark = format!("{MARK}={prefix}");
    // A killed process is listed until it is reaped or its parent's.
    for _ in 0..100 {
        let Ok(pids) = tools::run("ip", &["netns", "pids", ns]) else { return };
        let mut left = false;
        for pid in pids.lines().filter_map(|line| line.trim().parse::<i32>().ok()) {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                left |= kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
            }
        }
        if !left {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
