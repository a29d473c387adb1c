//! Where a daemon runs.

use std::{fs, os::unix::fs::MetadataExt as _};

/// Whether a process is in another network namespace than this one.
pub fn is_elsewhere(pid: u32) -> bool {
    let namespace = |of: &str| {
        let file = fs::metadata(format!("/proc/{of}/ns/net")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let (its, ours) = (namespace(&pid.to_string()), namespace("self"));
    its.is_some() && its != ours
}
