//! Removing programs and maps.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{TcAttachType, tc::SchedClassifierLink};
use router_ebpf::{maps::NEAR_END, schema::Map};
use tracing::warn;

use crate::os::{lock::Lock, netlink, sys};

use super::{
    bpffs,
    connect::{self, HOST},
    links::{
        CLSACT, CLSACT_BACK, CLSACT_IN, CLSACT_OUT, FIRST, HANDLE, HOOKS, LAST, LINKS, NEXT,
        STAGES, TCX, TCX_IN, XDP, interface_of, link_path,
    },
};

/// Removes everything that is pinned under `pin_dir`, and says what that was. Connections through
/// Roost end. Nothing there is fine.
pub fn detach(pin_dir: &Path) -> Result<Vec<String>> {
    if !pin_dir.exists() {
        return Ok(Vec::new());
    }
    if !bpffs::is_bpffs(pin_dir)? {
        bail!("--pin-dir {} is not on a bpffs: nothing of roost is there", pin_dir.display());
    }
    let _lock = Lock::acquire(pin_dir)?;
    let mut removed = Vec::new();
    if connect::is_wanted(pin_dir) {
        connect::detach(pin_dir)?;
        connect::remove_device()?;
        removed.push(format!("the interface {NEAR_END}"));
    }
    let links = links(pin_dir);
    // Ingress everywhere first: no new connection begins while others lose their way back.
    for hook in HOOKS {
        for link in links.iter().filter(|link| link.hook == hook) {
            removed.extend(remove(pin_dir, link));
        }
    }
    // What says that the others are there goes first: if this is interrupted, the next start is a first one.
    let _ = fs::remove_file(pin_dir.join(NEXT).join(Map::Schema.pin()));
    for map in [Map::Schema, Map::Secrets] {
        if fs::remove_file(pin_dir.join(map.pin())).is_ok() {
            removed.push(format!("map {}", map.pin()));
        }
    }
    for directory in [LINKS, STAGES, NEXT, HOST, ""].map(|name| pin_dir.join(name)) {
        removed.extend(remove_files(&directory)?);
        match fs::remove_dir(&directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("removing {}", directory.display()));
            }
            _ => {}
        }
    }
    removed.push(format!("directory {}", pin_dir.display()));
    Ok(removed)
}

/// A pinned link.
pub(super) struct Link {
    pub(super) interface: String,
    pub(super) hook: String,
}

/// The pinned links.
pub(super) fn links(pin_dir: &Path) -> Vec<Link> {
    let entries = fs::read_dir(pin_dir.join(LINKS));
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let link = |name: std::ffi::OsString| {
        let (interface, hook) = interface_of(name.to_str()?).ok()?;
        Some(Link { interface, hook: hook.to_owned() })
    };
    names.filter_map(link).collect()
}

/// Where the links are pinned.
pub(super) fn link_paths(pin_dir: &Path) -> Vec<PathBuf> {
    links(pin_dir).iter().map(|link| link_path(pin_dir, &link.interface, &link.hook)).collect()
}

/// Client-facing interfaces with pinned links of ours, attached by whichever daemon: those with an ingress program at XDP. What
/// a killed daemon has left half attached is none.
pub(crate) fn pinned_interfaces(pin_dir: &Path) -> Vec<String> {
    let is_outside = |link: &Link| link.hook == XDP;
    let names: BTreeSet<_> =
        links(pin_dir).into_iter().filter(is_outside).map(|link| link.interface).collect();
    names.into_iter().collect()
}

/// All others, the same way: client links, whole or half.
pub(crate) fn pinned_client_links(pin_dir: &Path) -> BTreeSet<String> {
    let outside = pinned_interfaces(pin_dir);
    let names = links(pin_dir).into_iter().map(|link| link.interface);
    names.filter(|name| name != NEAR_END && !outside.contains(name)).collect()
}

/// Whether a program for clients on this machine is pinned anywhere: also where an interface was about to become one whose clients
/// are outside.
pub(super) fn is_any_inside(pin_dir: &Path) -> bool {
    links(pin_dir).iter().any(|link| [TCX_IN, CLSACT_IN].contains(&link.hook.as_str()))
}

/// Whether both programs of a client link are pinned.
pub(super) fn is_whole(pin_dir: &Path, link: &str) -> bool {
    let any = |hooks: [&str; 2]| hooks.iter().any(|hook| link_path(pin_dir, link, hook).exists());
    any([TCX, CLSACT]) && any([TCX_IN, CLSACT_IN])
}

/// Detaches from one interface.
pub(super) fn interface(pin_dir: &Path, interface: &str) -> Vec<String> {
    hooks(pin_dir, interface, &HOOKS)
}

/// Removes what is at some hooks of an interface.
pub(super) fn hooks(pin_dir: &Path, interface: &str, hooks: &[&str]) -> Vec<String> {
    let link = |hook: &&str| Link { interface: interface.to_owned(), hook: (*hook).to_owned() };
    hooks.iter().filter_map(|hook| remove(pin_dir, &link(hook))).collect()
}

/// Removes one link, if it is there.
fn remove(pin_dir: &Path, link: &Link) -> Option<String> {
    let Link { interface, hook } = link;
    let path = link_path(pin_dir, interface, hook);
    let filter = match hook.as_str() {
        CLSACT => Some((TcAttachType::Egress, LAST)),
        CLSACT_IN | CLSACT_BACK => Some((TcAttachType::Ingress, FIRST)),
        CLSACT_OUT => Some((TcAttachType::Egress, LAST)),
        _ => None,
    };
    if filter.is_none() {
        // If that fails, the link ends with its last reference: the pin.
        let _ = sys::detach_pinned_link(&path);
    }
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            warn!(path = %path.display(), "cannot be unpinned: {e}");
            return None;
        }
    }
    if let Some((at, priority)) = filter {
        remove_filter(pin_dir, link, |name| {
            drop(SchedClassifierLink::attached(name, at, priority, HANDLE, None));
        });
    }
    Some(format!("program on {interface} ({hook})"))
}

/// Removes a filter, by `from` the interface of a name. If there is none of that name, it is gone and the filter with it, or it is
/// called otherwise now: it is one of those that nothing of ours is noted for.
fn remove_filter(pin_dir: &Path, link: &Link, from: impl Fn(&str)) {
    if sys::interface_index(&link.interface).is_ok() {
        return from(&link.interface);
    }
    let all = netlink::links().inspect_err(|e| {
        warn!("whether {} is called otherwise now is not known: {e:#}", link.interface);
    });
    let is_noted = |name: &str| link_path(pin_dir, name, &link.hook).exists();
    for other in all.into_iter().flatten().filter(|other| !is_noted(&other.name)) {
        from(&other.name);
    }
}

fn remove_files(directory: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(removed),
        Err(e) => return Err(e).with_context(|| format!("reading {}", directory.display())),
    };
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            fs::remove_file(&path).with_context(|| format!("unpinning {}", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            removed.push(format!("map {name}"));
        }
    }
    removed.sort();
    Ok(removed)
}
