//! One daemon for each pin directory.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, anyhow};
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
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| format!("opening the lock {}", path.display()))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                let holder = holder(pin_dir);
                return Err(taken(pin_dir, holder, holder.is_some_and(is_in_container)));
            }
            // The holder before may have removed the file between our opening and locking it.
            let ours = file.metadata()?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
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
fn path(pin_dir: &Path) -> PathBuf {
    let name = pin_dir.to_string_lossy().trim_matches('/').replace('/', "-");
    Path::new(DIRECTORY).join(format!("{name}.lock"))
}

/// The process id of the daemon that works on a pin directory, as this process sees it; `None` also if
/// its PID namespace is not visible from here. Looking does not touch the lock: a daemon that starts at
/// this moment gets it.
pub(crate) fn holder(pin_dir: &Path) -> Option<u32> {
    let lock = fs::metadata(path(pin_dir)).ok()?;
    holder_of(&fs::read_to_string("/proc/locks").ok()?, lock.dev(), lock.ino())
}

/// Finds who holds a lock in `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF`.
fn holder_of(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?);
        (kind == "FLOCK" && words.next()? == file).then(|| pid.parse().ok())?
    })
}

/// Whether a process has another PID namespace than this one, as those of pods have.
fn is_in_container(pid: u32) -> bool {
    let namespace = |of: &str| {
        let file = fs::metadata(format!("/proc/{of}/ns/pid")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let (its, ours) = (namespace(&pid.to_string()), namespace("self"));
    its.is_some() && its != ours
}

/// Whoever starts a pod again would do so after a `kill`.
fn taken(pin_dir: &Path, holder: Option<u32>, in_container: bool) -> Error {
    let (who, how) = match holder {
        Some(pid) if !in_container => (format!("pid {pid}"), format!("`kill {pid}`")),
        Some(pid) => (format!("pid {pid}, in a container"), "end its pod".into()),
        None => ("in a pod or another PID namespace".into(), "end it there".into()),
    };
    anyhow!(
        "another roost ({who}) works on {}: stop it first ({how}; connections go on), or give this one \
         another --pin-dir",
        pin_dir.display()
    )
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
    };

    use roost_programs::UNSHARE;

    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 00:1a:5678 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 11 00:1a:5679 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 12 00:1a:5678 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 13 00:1a:5678 0 EOF\n";
        let device = rustix::fs::makedev(0, 0x1a);
        assert_eq!(holder_of(locks, device, 5678), Some(13), "and not who waits for it");
        assert_eq!(holder_of(locks, device, 1), None);
    }

    #[test]
    fn a_daemon_in_a_pod_is_not_to_be_killed_by_its_number_there() {
        let pin_dir = PathBuf::from(format!("/roost-unit-{}-pod", std::process::id()));
        fs::create_dir_all(DIRECTORY).expect("this test writes to /run: run it as root");
        let mut pod = UNSHARE
            .command()
            .expect("unshare")
            .args(["--pid", "--fork", "--kill-child", "flock"])
            .arg(path(&pin_dir))
            .args(["sh", "-c", "echo locked; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        BufReader::new(pod.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        let e = Lock::acquire(&pin_dir).unwrap_err().to_string();
        drop(pod.stdin.take());
        pod.wait().unwrap();
        fs::remove_file(path(&pin_dir)).unwrap();
        assert!(e.contains(", in a container) works on") && !e.contains("kill"), "{e}");
        assert!(!e.contains("(pid 1,"), "{e}");
        let unseen = taken(&pin_dir, None, false).to_string();
        assert!(unseen.contains("in a pod or another PID namespace"), "{unseen}");
        assert!(!unseen.contains("kill"), "{unseen}");
    }

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
        assert!(
            e.contains(&format!(
                "another roost (pid {0}) works on {1}: stop it first (`kill {0}`",
                std::process::id(),
                pin_dir.display()
            )),
            "{e}"
        );
        drop(first);
        assert!(!path(&pin_dir).exists());
        drop(Lock::acquire(&pin_dir).unwrap());
    }
}
