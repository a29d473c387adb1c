//! One daemon for each pin directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

const DIRECTORY: &str = "/run/roost";

/// Held while something changes what is pinned under a directory.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a pin directory, or says who has it.
    pub fn acquire(pin_dir: &Path) -> Result<Self> {
        let path = path(pin_dir);
        fs::create_dir_all(DIRECTORY).with_context(|| format!("creating {DIRECTORY}"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("opening the lock {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim();
            let pin_dir = pin_dir.display();
            bail!(
                "another roost (pid {holder}) works on {pin_dir}: stop it first (`kill {holder}`; \
                 connections go on), or give this one another --pin-dir"
            );
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// The file is left when the lock is given back: removing it would race with the next holder.
pub(crate) fn path(pin_dir: &Path) -> PathBuf {
    let name: String = pin_dir
        .to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|c| if c == '/' { '-' } else { c })
        .collect();
    Path::new(DIRECTORY).join(format!("{name}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pin_directory_has_its_own_file() {
        let path = path(Path::new("/sys/fs/bpf/roost"));
        assert_eq!(path, Path::new("/run/roost/sys-fs-bpf-roost.lock"));
    }
}
