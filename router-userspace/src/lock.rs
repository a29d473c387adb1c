//! One daemon for each pin directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

const DIRECTORY: &str = "/run/roost";

/// Held while something changes what is pinned under a directory.
#[derive(Debug)]
pub struct Lock {
    /// Locked until it is closed.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of a pin directory, or says who has it.
    pub fn acquire(pin_dir: &Path) -> Result<Self> {
        let path = path(pin_dir);
        fs::create_dir_all(DIRECTORY).with_context(|| format!("creating {DIRECTORY}"))?;
        loop {
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
                    "another roost (pid {holder}) works on {pin_dir}: stop it first (`kill \
                     {holder}`; connections go on), or give this one another --pin-dir"
                );
            }
            // The holder before may have removed the file between our opening and locking it.
            let ours = file.metadata()?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Self { _file: file, path });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked: who has the file open already will find that it is not there any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// The lock file of a pin directory.
pub(crate) fn path(pin_dir: &Path) -> PathBuf {
    let name = pin_dir.to_string_lossy().trim_matches('/').replace('/', "-");
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

    #[test]
    fn one_at_a_time_and_nothing_is_left() {
        let pin_dir = PathBuf::from(format!("/roost-unit-{}-lock", std::process::id()));
        let first = Lock::acquire(&pin_dir).expect("this test writes to /run: run it as root");
        let e = Lock::acquire(&pin_dir).unwrap_err().to_string();
        assert!(e.contains(&format!("another roost (pid {})", std::process::id())), "{e}");
        drop(first);
        assert!(!path(&pin_dir).exists());
        drop(Lock::acquire(&pin_dir).unwrap());
    }
}
