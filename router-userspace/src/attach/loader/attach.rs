//! Attaching to interfaces, and taking attached links over without a gap.

use std::{collections::BTreeSet, fmt, fs, io, path::Path};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
        xdp::{XdpLink, XdpLinkId},
    },
    util::KernelVersion,
};
use tracing::{debug, info, warn};

use crate::os::{
    capabilities,
    netlink::{self, Link},
    sys,
};

use super::{
    DataPath, EGRESS, INGRESS, INSIDE, detach,
    links::{CLSACT, CLSACT_IN, FIRST, HANDLE, LAST, TCX, TCX_IN, XDP, link_path},
    program,
};

/// A program at TC, and its place there.
pub(super) struct Classifier {
    pub(super) program: &'static str,
    pub(super) at: TcAttachType,
    /// Before all others, or behind them.
    pub(super) is_first: bool,
    /// How its pinned link is called.
    pub(super) tcx: &'static str,
    /// How the note of its filter is called, where there is no TCX.
    pub(super) clsact: &'static str,
    pub(super) priority: u16,
}

/// Towards clients: what others do with a packet is done before.
pub(super) const TO_CLIENTS: Classifier = Classifier {
    program: EGRESS,
    at: TcAttachType::Egress,
    is_first: false,
    tcx: TCX,
    clsact: CLSACT,
    priority: LAST,
};

/// From clients on this machine: others see what Roost has made of a packet.
pub(super) const FROM_INSIDE: Classifier = Classifier {
    program: INSIDE,
    at: TcAttachType::Ingress,
    is_first: true,
    tcx: TCX_IN,
    clsact: CLSACT_IN,
    priority: FIRST,
};

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// XDP in the driver.
    Native,
    /// XDP in the network stack: slower.
    Generic,
    /// A TCX link.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
    /// Attached by the daemon before this one: its program was replaced in place.
    TakenOver,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::TakenOver => "taken over",
        })
    }
}

impl DataPath {
    /// Whether this daemon has attached to an interface.
    pub fn is_attached(&self, interface: &str) -> bool {
        self.attached.contains_key(interface)
    }

    /// Attaches both programs to an interface, or replaces those of the daemon before. Returns whether
    /// none were there.
    pub fn attach(&mut self, interface: &str) -> Result<bool> {
        let index = sys::interface_index(interface).map_err(|e| no_interface(interface, &e))?;
        // Egress first: nothing that a client starts may come back untranslated.
        let egress = self.attach_classifier(interface, index, &TO_CLIENTS)?;
        let ingress = self.attach_ingress(interface, index).inspect_err(|_| {
            if egress != Attached::TakenOver {
                detach::interface(&self.pin_dir, interface);
            }
        })?;
        // It may have been a client link, and stays one if this fails.
        detach::hooks(&self.pin_dir, interface, &[TCX_IN, CLSACT_IN]);
        super::stages::unpin_unused(&self.pin_dir, &self.programs);
        info!(interface, %ingress, %egress, "attached");
        self.attached.insert(interface.to_owned(), index);
        Ok(ingress != Attached::TakenOver)
    }

    /// Attaches to a client link, or replaces the programs of the daemon before. What fails leaves nothing there. To be followed
    /// by [`Self::tidy`].
    pub(crate) fn attach_inside(&mut self, link: &str, index: u32) -> Result<()> {
        self.load_inside()?;
        let attached = self
            .attach_classifier(link, index, &TO_CLIENTS)
            .and_then(|egress| Ok((egress, self.attach_classifier(link, index, &FROM_INSIDE)?)));
        let (egress, ingress) = attached.inspect_err(|_| {
            detach::interface(&self.pin_dir, link);
        })?;
        debug!(link, %ingress, %egress, "attached to a client link");
        Ok(())
    }

    /// Detaches from a client link, which may be gone. To be followed by [`Self::tidy`].
    pub(crate) fn detach_inside(&mut self, link: &str) {
        for removed in detach::interface(&self.pin_dir, link) {
            debug!("removed {removed}");
        }
    }

    /// Unpins what no program needs any more that was on client links: once for many of them.
    pub(crate) fn tidy(&self) {
        super::stages::unpin_unused(&self.pin_dir, &self.programs);
    }

    /// Client links with pinned links of ours, attached by whichever daemon, whole or half.
    pub(crate) fn pinned_client_links(&self) -> BTreeSet<String> {
        detach::pinned_client_links(&self.pin_dir)
    }

    /// Whether both programs are on a client link, as far as pins tell.
    pub(crate) fn is_inside(&self, link: &str) -> bool {
        detach::is_whole(&self.pin_dir, link)
    }

    /// Attaches again where an interface has been made anew under the same name.
    pub fn refresh(&mut self) {
        for (interface, index) in self.attached.clone() {
            match sys::interface_index(&interface) {
                Ok(now) if now == index => {}
                Ok(_) => {
                    if let Err(e) = self.attach(&interface) {
                        warn!(interface, "made anew, and cannot be attached to: {e:#}");
                    }
                }
                Err(e) if index != 0 => {
                    warn!(interface, "is not there any more: {e}");
                    self.attached.insert(interface, 0);
                }
                Err(_) => {}
            }
        }
    }

    /// Detaches from an interface that is client-facing no longer.
    pub fn detach(&mut self, interface: &str) {
        for removed in detach::interface(&self.pin_dir, interface) {
            info!("removed {removed}");
        }
        super::stages::unpin_unused(&self.pin_dir, &self.programs);
        self.attached.remove(interface);
    }

    /// Interfaces with pinned links of ours, attached by whichever daemon.
    pub fn pinned_interfaces(&self) -> Vec<String> {
        detach::pinned_interfaces(&self.pin_dir)
    }

    /// Replaces the programs of the daemon before wherever there are some, also where this one is not to
    /// attach, and whatever the interface is called by now. Ingress everywhere first: what a replica accepts
    /// meanwhile is entered by the old program, and is there for the new one too.
    ///
    /// What cannot be opened is an error, and nothing has changed. A link that then cannot be replaced is
    /// told, and keeps its old program with the old maps.
    pub(super) fn replace_programs(&mut self) -> Result<()> {
        let open = |hook: &str| -> Result<Vec<(String, FdLink)>> {
            let of_hook = detach::links(&self.pin_dir).into_iter().filter(|l| l.hook == hook);
            let open = |link: detach::Link| {
                let path = link_path(&self.pin_dir, &link.interface, hook);
                let pin = PinnedLink::from_pin(&path);
                let pin =
                    pin.with_context(|| format!("opening the pinned link {}", path.display()))?;
                Ok((link.interface, pin.into()))
            };
            of_hook.map(open).collect()
        };
        let (ingress, inside, egress) = (open(XDP)?, open(TCX_IN)?, open(TCX)?);
        for (interface, link) in ingress {
            let replaced = self.replace_ingress(&interface, link);
            replaced.unwrap_or_else(|e| warn!("{e:#}; the old program stays"));
        }
        for (links, of) in [(inside, &FROM_INSIDE), (egress, &TO_CLIENTS)] {
            for (interface, link) in links {
                let replaced = self.replace_classifier(&interface, link, of);
                replaced.unwrap_or_else(|e| warn!("{e:#}; the old program stays"));
            }
            for link in detach::links(&self.pin_dir).iter().filter(|l| l.hook == of.clsact) {
                // Known by the interface's name alone.
                if sys::interface_index(&link.interface).is_ok() {
                    let replaced = self.attach_clsact(&link.interface, of).map(drop);
                    replaced.unwrap_or_else(|e| warn!("{e:#}; the old program stays"));
                }
            }
        }
        Ok(())
    }

    fn replace_ingress(&mut self, interface: &str, link: FdLink) -> Result<()> {
        let xdp: &mut Xdp = program(&mut self.ebpf, INGRESS)?;
        let link = XdpLink::try_from(link)?;
        let id = xdp.attach_to_link(link).with_context(|| replacing(INGRESS, interface))?;
        // The pin holds it.
        drop(xdp.take_link(id)?);
        Ok(())
    }

    fn replace_classifier(&mut self, interface: &str, link: FdLink, of: &Classifier) -> Result<()> {
        let classifier: &mut SchedClassifier = program(&mut self.ebpf, of.program)?;
        let link = SchedClassifierLink::try_from(link)?;
        let id =
            classifier.attach_to_link(link).with_context(|| replacing(of.program, interface))?;
        drop(classifier.take_link(id)?);
        Ok(())
    }

    fn attach_ingress(&mut self, interface: &str, index: u32) -> Result<Attached> {
        let path = link_path(&self.pin_dir, interface, XDP);
        if let Some(link) = pinned(&path, index)? {
            return self.replace_ingress(interface, link).map(|()| Attached::TakenOver);
        }
        let xdp: &mut Xdp = program(&mut self.ebpf, INGRESS)?;
        let (id, mode) = attach_xdp(xdp, interface, index)?;
        // A link that fell back to netlink would end unseen with the next change of the interface.
        let link: FdLink = xdp.take_link(id)?.try_into().map_err(|_| {
            anyhow!(
                "{interface}: the kernel has no BPF link for XDP here, so the program could not be \
                 kept when roost stops; Linux 5.9 or newer is needed"
            )
        })?;
        pin(link, &path)?;
        Ok(mode)
    }

    pub(super) fn attach_classifier(
        &mut self,
        interface: &str,
        index: u32,
        of: &Classifier,
    ) -> Result<Attached> {
        let path = link_path(&self.pin_dir, interface, of.tcx);
        if let Some(link) = pinned(&path, index)? {
            return self.replace_classifier(interface, link, of).map(|()| Attached::TakenOver);
        }
        if KernelVersion::current().is_ok_and(|kernel| kernel < KernelVersion::new(6, 6, 0)) {
            return self.attach_clsact(interface, of);
        }
        let classifier: &mut SchedClassifier = program(&mut self.ebpf, of.program)?;
        let order = if of.is_first { LinkOrder::first() } else { LinkOrder::last() };
        let id = classifier
            .attach_with_options(interface, of.at, TcAttachOptions::TcxOrder(order))
            .map_err(|e| attach_error(of.program, interface, &e))?;
        let link: FdLink = classifier.take_link(id)?.try_into()?;
        pin(link, &path)?;
        Ok(Attached::Tcx)
    }

    /// A filter needs no pin to stay. The program is pinned as a note that it is there.
    pub(super) fn attach_clsact(&mut self, interface: &str, of: &Classifier) -> Result<Attached> {
        let path = link_path(&self.pin_dir, interface, of.clsact);
        let classifier: &mut SchedClassifier = program(&mut self.ebpf, of.program)?;
        // It may be there, of ours or of others; if it is not, the filter says so.
        let qdisc = tc::qdisc_add_clsact(interface);
        // Nobody else's has these numbers. Its note may have another name, which the interface had before.
        let ours = SchedClassifierLink::attached(interface, of.at, of.priority, HANDLE, None)?;
        let (id, attached) = match classifier.attach_to_link(ours).ok() {
            Some(id) => (id, Attached::TakenOver),
            None => {
                let options = NlOptions { priority: of.priority, handle: HANDLE, classid: None };
                let options = TcAttachOptions::Netlink(options);
                let id =
                    classifier.attach_with_options(interface, of.at, options).map_err(|e| {
                        let e = attach_error(of.program, interface, &e);
                        match qdisc {
                            Ok(()) => e,
                            Err(qdisc) => e.context(format!("adding the clsact qdisc: {qdisc}")),
                        }
                    })?;
                (id, Attached::Clsact)
            }
        };
        // Dropping it would remove the filter.
        std::mem::forget(classifier.take_link(id)?);
        let _ = fs::remove_file(&path);
        classifier.pin(&path).with_context(|| format!("pinning {}", path.display()))?;
        Ok(attached)
    }
}

/// The pinned link, if there is one of this very interface. One of an interface that was made anew
/// or renamed since is removed.
fn pinned(path: &Path, index: u32) -> Result<Option<FdLink>> {
    let context = || format!("opening the pinned link {}", path.display());
    match sys::pinned_link_interface(path) {
        Ok(there) if there == index => {
            Ok(Some(PinnedLink::from_pin(path).with_context(context)?.into()))
        }
        Ok(_) => {
            fs::remove_file(path).with_context(|| format!("unpinning {}", path.display()))?;
            Ok(None)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(context),
    }
}

fn pin(link: FdLink, path: &Path) -> Result<()> {
    link.pin(path).with_context(|| format!("pinning the link {}", path.display()))?;
    Ok(())
}

fn replacing(program: &str, interface: &str) -> String {
    format!("{interface}: replacing {program} in its pinned link")
}

fn no_interface(interface: &str, error: &io::Error) -> anyhow::Error {
    // Of our network namespace, which /sys may not show.
    let list = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names: Vec<_> =
        list.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    anyhow!("interface {interface:?}: {error}; there are: {}", names.join(", "))
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}

/// The error and its cause in one line.
fn plain(error: &ProgramError) -> String {
    match error {
        ProgramError::SyscallError(e) => format!("{}: {}", e.call, e.io_error),
        error => error.to_string(),
    }
}

/// Whether the driver cannot do native XDP, as it is set up now.
fn is_unsupported(error: &ProgramError) -> bool {
    /// Of the kernel, and in some drivers' answers; libc does not have it.
    const ENOTSUPP: i32 = 524;
    let no = [libc::EOPNOTSUPP, ENOTSUPP, libc::ENOSYS, libc::ERANGE, libc::EINVAL, libc::ENOMEM];
    errno(error).is_some_and(|e| no.contains(&e))
}

/// Attaches in the driver if that works, else in the network stack.
fn attach_xdp(xdp: &mut Xdp, interface: &str, index: u32) -> Result<(XdpLinkId, Attached)> {
    let link = netlink::link_by_index(index)?;
    let why = match loses_frames(&link) {
        Some(why) => why,
        None => match xdp.attach(interface, XdpMode::Driver) {
            Ok(id) => return Ok((id, Attached::Native)),
            Err(e) if is_unsupported(&e) => {
                format!("The driver refuses native mode: {}", plain(&e))
            }
            Err(e) => return Err(attach_error(INGRESS, interface, &e)),
        },
    };
    let id =
        xdp.attach(interface, XdpMode::Skb).map_err(|e| attach_error(INGRESS, interface, &e))?;
    warn!(
        interface,
        "XDP in generic mode: several times slower, and every packet is copied. {why}. `roost check \
         --interface {interface}` says more"
    );
    Ok((id, Attached::Generic))
}

/// Why frames that XDP sends back out of an interface in native mode would be lost, if they would: the
/// other end of a veth takes them only if it has an XDP program itself (`veth_xdp_flush`).
pub fn loses_frames(link: &Link) -> Option<String> {
    if link.kind != "veth" {
        return None;
    }
    match netlink::other_end(link) {
        Ok(other) if other.xdp_mode == Some(netlink::XdpMode::Native) => None,
        Ok(other) => Some(format!(
            "This is a veth whose other end, {}, has no XDP program, and would not take what XDP sends \
             back natively",
            other.name
        )),
        Err(e) => Some(format!(
            "This is a veth, and whether its other end would take what XDP sends back natively is not \
             known: {e:#}"
        )),
    }
}

fn attach_error(program: &str, interface: &str, error: &ProgramError) -> anyhow::Error {
    let hint = match errno(error) {
        Some(libc::EBUSY | libc::EEXIST) => {
            "; another program is attached there (`ip link show` names it): remove it first"
                .to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => capabilities::hint(),
        _ => String::new(),
    };
    anyhow!("{interface}: attaching {program}: {}{hint}", plain(error))
}
