//! The bpffs: mounted where it is expected, if it is not.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, mount};
use tracing::{info, warn};

/// Where the kernel expects it.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of `linux/magic.h`.
const MAGIC: u32 = 0xcafe_4a11;

/// Makes sure that `pin_dir` is, or can be made, on a bpffs.
pub(super) fn prepare(pin_dir: &Path) -> Result<()> {
    if !pin_dir.is_absolute() {
        bail!("--pin-dir {}: write an absolute path, under {BPFFS}", pin_dir.display());
    }
    if is_bpffs(pin_dir)? {
        return Ok(());
    }
    if !pin_dir.starts_with(BPFFS) {
        bail!(
            "--pin-dir {} is not on a bpffs; write a directory under {BPFFS}, or mount one there: \
             mount -t bpf bpf DIRECTORY",
            pin_dir.display()
        );
    }
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), None)
        .with_context(|| format!("mounting the bpffs at {BPFFS} (this needs CAP_SYS_ADMIN)"))?;
    info!("mounted the bpffs at {BPFFS}");
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    if namespace("self") != namespace("1") {
        warn!(
            "the bpffs at {BPFFS} is in a mount namespace of its own: programs and maps end with \
             it; mount a bpffs outside (`mount -t bpf bpf {BPFFS}`) to keep them"
        );
    }
    Ok(())
}

/// Whether a path, or its nearest parent that is there, is on a bpffs.
pub(super) fn is_bpffs(path: &Path) -> Result<bool> {
    let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statfs(there).with_context(|| format!("statfs {}", there.display()))?;
    Ok(stat.f_type as u32 == MAGIC)
}
