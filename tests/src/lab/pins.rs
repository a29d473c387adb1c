//! The bpffs, and the directories that labs' daemons pin to.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// Mounts the bpffs where it is expected, if nothing is mounted there.
pub(super) fn mount_bpffs() -> Result<()> {
    let at = statfs(BPFFS).with_context(|| format!("looking for the bpffs at {BPFFS}"))?;
    if at.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mounting the bpffs at {BPFFS} (are you root?)"))
}

pub(super) fn dir_of(prefix: &str) -> PathBuf {
    Path::new(BPFFS).join(prefix)
}

/// Unpins everything: maps go when nobody holds them, links detach.
pub(super) fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("lab: removing {}: {error}", dir.display());
    }
}
