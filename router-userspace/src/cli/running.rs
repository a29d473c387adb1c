//! Whether a daemon runs: who holds the lock of the pin directory.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::lock;

/// The process id of the daemon that works on a pin directory. Looking does not touch the lock: a
/// daemon that starts at this moment gets it.
pub fn pid(pin_dir: &Path) -> Option<u32> {
    let lock = fs::metadata(lock::path(pin_dir)).ok()?;
    holder(&fs::read_to_string("/proc/locks").ok()?, lock.dev(), lock.ino())
}

/// Whether a process is in another network namespace than this one.
pub fn is_elsewhere(pid: u32) -> bool {
    let namespace = |of: &str| {
        let file = fs::metadata(format!("/proc/{of}/ns/net")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let (its, ours) = (namespace(&pid.to_string()), namespace("self"));
    its.is_some() && its != ours
}

/// Finds who holds a lock in `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF`.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?);
        (kind == "FLOCK" && words.next()? == file).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 00:1a:5678 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 11 00:1a:5679 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 12 00:1a:5678 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 13 00:1a:5678 0 EOF\n";
        let device = rustix::fs::makedev(0, 0x1a);
        assert_eq!(holder(locks, device, 5678), Some(13), "and not who waits for it");
        assert_eq!(holder(locks, device, 1), None);
    }
}
