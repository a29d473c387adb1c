//! Removing what labs have left: processes, pins, namespaces and files.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, fs, io, thread};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_programs::IP;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::addr::HOST_DEVICE;
use super::netns::MARK;
use super::{pins, tools};

const NAMESPACES: &str = "/run/netns";

/// Held while a lab of this process is made.
static MAKING: Mutex<()> = Mutex::new(());

/// Set when a signal has come: from then on only the thread that takes signals removes labs.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Does not return when a signal has come. Whoever holds a lab notices the end of its processes
/// and would end this one, before all is cleaned up and with another status.
pub(super) fn stay_if_ending() {
    while ENDING.load(Ordering::SeqCst) {
        thread::park();
    }
}

pub(super) fn making() -> MutexGuard<'static, ()> {
    MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on SIGINT, SIGTERM and SIGHUP remove all labs of this process before it ends.
pub fn clean_up_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        ENDING.store(true, Ordering::SeqCst);
        // Never given back: nothing is made any more.
        let _making = making();
        // Whoever has read that may be gone, too: no reason to leave the lab and wait for ever.
        let _ = writeln!(io::stderr(), "\nending: removing the lab");
        remove_labs(|pid| pid == process::id() as i32);
        process::exit(128 + signal);
    })?;
    Ok(())
}

/// Removes all that labs have left whose process is gone.
pub(super) fn remove_leftovers() {
    remove_labs(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true));
}

fn remove_labs(whose: impl Fn(i32) -> bool) {
    let ours = |name: &String| lab_pid(name).is_some_and(&whose);
    let namespaces: Vec<_> = names_in(Path::new(NAMESPACES)).filter(ours).collect();
    let prefixes: BTreeSet<_> = namespaces.iter().filter_map(|ns| prefix_of(ns)).collect();
    // As in the drop of a lab: a daemon that still runs would pin again.
    for ns in &namespaces {
        if let Some(prefix) = prefixes.iter().find(|prefix| ns.starts_with(*prefix)) {
            end_processes(ns, prefix);
        }
    }
    for dir in names_in(pins::BPFFS.as_ref()).filter(ours) {
        pins::remove(&Path::new(pins::BPFFS).join(dir));
    }
    remove_host_link(|prefix| lab_pid(prefix).is_some_and(&whose));
    for ns in namespaces {
        // Somebody else may be removing it too, and get there first.
        let _ = tools::run(IP, &["netns", "del", &ns]);
    }
    for dir in names_in(&env::temp_dir()).filter(ours) {
        let _ = fs::remove_dir_all(env::temp_dir().join(dir));
    }
}

/// Removes the link to the machine's own namespace if it is of a lab with such a prefix. It would
/// go with the lab's namespace, but that stays until its last unanswered connection has timed out.
pub(super) fn remove_host_link(whose: impl Fn(&str) -> bool) {
    let alias = fs::read_to_string(format!("/sys/class/net/{HOST_DEVICE}/ifalias"));
    if alias.is_ok_and(|alias| whose(alias.trim())) {
        let _ = tools::run(IP, &["link", "del", HOST_DEVICE]);
    }
}

fn names_in(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The process number in `roost-<pid>-...`.
fn lab_pid(name: &str) -> Option<i32> {
    name.strip_prefix("roost-")?.split_once('-')?.0.parse().ok()
}

/// The lab's prefix of a namespace's name.
fn prefix_of(namespace: &str) -> Option<String> {
    let stem = namespace.rsplit_once("-replica-").or_else(|| namespace.rsplit_once('-'));
    stem.map(|(stem, _)| stem.to_owned())
}

/// Kills the processes in a namespace that the lab with this prefix has started; others, such as
/// a shell that somebody has opened there, are let alone.
pub(super) fn end_processes(ns: &str, prefix: &str) {
    let mark = format!("{MARK}={prefix}");
    // Again until there is none: what was killed takes a moment to go.
    for _ in 0..100 {
        let Ok(pids) = tools::run(IP, &["netns", "pids", ns]) else { return };
        let mut left = false;
        let pids = pids.lines().filter_map(|line| line.trim().parse::<i32>().ok());
        for pid in pids.filter(|pid| *pid != process::id() as i32) {
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
