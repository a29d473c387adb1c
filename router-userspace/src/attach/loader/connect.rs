//! What is there for processes of this machine without any daemon: the pins of the programs where they connect, and their device.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use router_ebpf::{maps::NEAR_END, stage::CONNECT};

use crate::os::{netlink, sys};

/// The MAC address of both ends of the device: by that they are known.
pub(crate) const MAC: [u8; 6] = [0x02, b'r', b'o', b'o', b's', b't'];

/// Where the links of the programs where processes connect are pinned, under the pin directory. It is there as long as the device is
/// Roost's.
pub(super) const HOST: &str = "host";

/// Whether processes of this machine are to be clients.
pub(crate) fn is_wanted(pin_dir: &Path) -> bool {
    pin_dir.join(HOST).exists()
}

/// Whether they are, for all that is pinned.
pub(crate) fn is_served(pin_dir: &Path) -> bool {
    CONNECT.iter().all(|name| pin_dir.join(HOST).join(name).exists())
}

/// Removes the programs where processes connect.
pub(super) fn detach(pin_dir: &Path) -> Result<()> {
    for name in CONNECT {
        let path = pin_dir.join(HOST).join(name);
        // If that fails, the link ends with its last reference: the pin.
        let _ = sys::detach_pinned_link(&path);
        unpin(&path)?;
        unpin(&path.with_file_name(format!("{name}_new")))?;
    }
    Ok(())
}

pub(super) fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("unpinning {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the device, if it is ours.
pub(crate) fn remove_device() -> Result<()> {
    match netlink::link_by_name(NEAR_END) {
        Ok(link) if link.mac == Some(MAC) => netlink::remove(link.index),
        _ => Ok(()),
    }
}
