//! How what is attached is found again: by the names of pinned links, or by a filter's numbers.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use aya::programs::tc::TcHandle;

/// Where links are pinned, under the pin directory.
pub(super) const LINKS: &str = "links";

/// Where new maps are pinned until the new programs are at work, under the pin directory.
pub(super) const NEXT: &str = "next";

/// Where the arrays are pinned in which programs find those that go on, under the pin directory.
pub(super) const STAGES: &str = "stages";

/// With the classic TC hook (before Linux 6.6) our filters are known by these numbers. Filters go by their priority: the one
/// towards clients is to be the last, the one for clients on this machine the first.
pub(super) const LAST: u16 = 0x7273;
pub(super) const FIRST: u16 = 1;
pub(super) const HANDLE: TcHandle = TcHandle::new(0, 0x7273);

/// The hooks, as they are written in the names of pinned links.
pub(super) const XDP: &str = "xdp";
pub(super) const TCX: &str = "tcx";
pub(super) const CLSACT: &str = "clsact";
/// The same at ingress, for clients on this machine.
pub(super) const TCX_IN: &str = "tcxin";
pub(super) const CLSACT_IN: &str = "clsactin";
/// Those of the device of the host's own connections, out of the host and back to it.
pub(super) const TCX_OUT: &str = "tcxout";
pub(super) const CLSACT_OUT: &str = "clsactout";
pub(super) const TCX_BACK: &str = "tcxback";
pub(super) const CLSACT_BACK: &str = "clsactback";
/// In the order in which they are to be removed: ingress first.
pub(super) const HOOKS: [&str; 9] =
    [XDP, TCX_IN, CLSACT_IN, TCX_OUT, CLSACT_OUT, TCX_BACK, CLSACT_BACK, TCX, CLSACT];

/// Where the link of the ingress program is pinned.
pub(crate) fn xdp_link(pin_dir: &Path, interface: &str) -> PathBuf {
    link_path(pin_dir, interface, XDP)
}

/// Where a link is pinned. A bpffs takes no dots in names, and interfaces of VLANs have them.
pub(super) fn link_path(pin_dir: &Path, interface: &str, hook: &str) -> PathBuf {
    let name = interface.replace('%', "%25").replace('.', "%2e");
    pin_dir.join(LINKS).join(format!("{name}-{hook}"))
}

/// The interface's name and the hook's, which stand in a pinned link's name.
pub(crate) fn interface_of(name: &str) -> Result<(String, &str)> {
    match name.rsplit_once('-') {
        Some((interface, hook)) => Ok((interface.replace("%2e", ".").replace("%25", "%"), hook)),
        None => bail!("{name:?} is not a link of ours"),
    }
}
