//! Processes of this machine as clients. They send by a device of Roost's own, whose other end is a client link, and replicas see an
//! address that belongs to no interface; what they connect to in place of a VIP is an address of the same range. See
//! `router_ebpf::host`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use router_ebpf::{
    maps::{Addr, FAR_END, Host, NEAR_END, VipKey},
    schema::STAND_INS,
};
use tracing::{debug, info, warn};

use crate::{
    attach::loader::{DataPath, MAC, remove_device},
    maps::{handle::Asked, read, tables::Tables},
    os::{netlink, sys},
    plan::{
        addr::{Family, from_map, to_map},
        index::Published,
    },
};

/// How often the device is looked at, and what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// The addresses of the device. Numbers from the begin of the range: the host's own, the one that replicas see, and stand-ins.
const OWN: u16 = 1;
const SEEN: u16 = 2;
const FIRST: u16 = 16;

/// A number in the range of a family.
const fn address(family: Family, number: u16) -> IpAddr {
    match family {
        Family::V4 => {
            let [high, low] = number.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(169, 254, 192 + high, low))
        }
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd52, 0x6f6f, 0x7374, 0xffff, 0, 0, 0, number)),
    }
}

/// The range of a family: `STAND_INS` addresses.
const fn range(family: Family) -> netlink::Bits {
    let bits = match family {
        Family::V4 => 20,
        Family::V6 => 116,
    };
    (address(family, 0), bits)
}

/// The addresses as which replicas see this machine.
pub(crate) fn seen() -> [IpAddr; 2] {
    Family::ALL.map(|family| address(family, SEEN))
}

/// Keeps the device and the programs.
#[derive(Debug, Default)]
pub(crate) struct HostClients {
    /// Whose processes are clients; `None`: nobody's.
    wanted: Option<Cgroup>,
    /// The host's end of the device, by its index, when it is whole.
    device: Option<u32>,
    /// The families that it has.
    families: Vec<Family>,
    /// Where the programs at the device are, by that index.
    attached: Option<u32>,
    /// Whether those are attached where processes connect.
    is_connected: bool,
    /// When the device is looked at again.
    next: Duration,
    /// When attaching is tried again, if it has failed.
    again: Duration,
    /// What is wrong, said once.
    problem: Option<String>,
}

impl HostClients {
    /// From now on processes under this cgroup are clients; `None`: none are.
    pub(crate) fn want(
        &mut self,
        cgroup: Option<Cgroup>,
        data_path: &DataPath,
        tables: &mut Tables,
    ) {
        if cgroup.is_none()
            && data_path.is_host_noted()
            && let Err(e) = give_up(data_path, tables)
        {
            warn!("processes of this machine are clients no longer, but something is left: {e:#}");
        }
        if self.wanted != cgroup {
            *self = Self { wanted: cgroup, ..Self::default() };
        }
    }

    /// Keeps the device there. To be called before client links are followed.
    pub(crate) fn follow(&mut self, data_path: &DataPath, tables: &mut Tables, now: Duration) {
        if self.wanted.is_none() || now < self.next {
            return;
        }
        self.next = now + AGAIN;
        match data_path.note_host().and_then(|()| device()) {
            Ok((index, families)) => {
                if self.device != Some(index) || self.families != families {
                    let names = families.iter().map(|family| family.name()).collect::<Vec<_>>();
                    info!("processes of this machine: {}", names.join(" and "));
                    self.attached = None;
                }
                self.device = Some(index);
                self.families = families;
            }
            Err(e) => {
                // Without the device what they connect to is not turned: then it goes where it would go without Roost.
                if let Err(e) = tables.host.set(0, &Host::default()) {
                    warn!("processes of this machine are still sent to {NEAR_END}: {e}");
                }
                self.device = None;
                self.attached = None;
                self.fails(&e);
            }
        }
    }

    /// Attaches the programs when the device is there and its other end is served. To be called after client links were followed.
    pub(crate) fn attach(
        &mut self,
        is_served: bool,
        data_path: &mut DataPath,
        tables: &mut Tables,
        published: &Published,
        now: Duration,
    ) {
        let (Some(cgroup), Some(device)) = (&self.wanted, self.device) else { return };
        if !is_served || self.attached == Some(device) || now < self.again {
            return;
        }
        self.again = now + AGAIN;
        let attached = data_path.attach_host(device).and_then(|()| {
            tables.host.set(0, &host(&self.families)?)?;
            if !self.is_connected {
                data_path.attach_connect(&cgroup.open()?)?;
            }
            Ok(())
        });
        match attached {
            Ok(()) => {
                info!("attached to where processes of this machine connect");
                self.attached = Some(device);
                self.is_connected = true;
                self.publish(tables, published);
                self.again = Duration::ZERO;
                self.problem = None;
            }
            Err(e) => self.fails(&e),
        }
    }

    /// Lets the addresses of these services have stand-ins.
    pub(crate) fn publish(&self, tables: &mut Tables, published: &Published) {
        if self.attached.is_some()
            && let Err(e) = fill(tables, published, &self.families)
        {
            warn!("not all VIPs are served to processes of this machine: {e:#}");
        }
    }

    fn fails(&mut self, error: &anyhow::Error) {
        let problem = format!("{error:#}");
        // The verifier's log is not the same each time.
        let first = problem.lines().next().map(str::to_owned);
        if self.problem != first {
            warn!("processes of this machine are not served: {problem}; trying on");
        }
        self.problem = first;
    }
}

/// The processes under a cgroup (v2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// Under that which is mounted somewhere, or all.
    Any,
    /// Under the one at a directory, or in its `unified`, as with systemd and cgroup v1.
    At(PathBuf),
}

impl Cgroup {
    fn open(&self) -> Result<OwnedFd> {
        let path = match self {
            Self::At(path) if sys::is_cgroup(path) => path.clone(),
            Self::At(path) => path.join("unified"),
            Self::Any => {
                let mounts =
                    fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
                match mount_in(&mounts) {
                    Some(path) => path,
                    None => {
                        return sys::cgroup_root().context(
                            "no cgroup v2 is mounted here, and it cannot be: name the directory where one is, --cgroup DIRECTORY",
                        );
                    }
                }
            }
        };
        let file = File::open(&path);
        Ok(file.with_context(|| format!("opening the cgroup {}", path.display()))?.into())
    }
}

/// The first mount of cgroup v2.
fn mount_in(mounts: &str) -> Option<PathBuf> {
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = lines.find(|words| words.get(2) == Some(&"cgroup2"))?;
    Some(PathBuf::from(line.get(1)?))
}

/// The device, made if it is not there: the index of the host's end, and the families that it has. Its addresses and routes are put back
/// each time: they go when it is set down, or with a `flush`.
fn device() -> Result<(u32, Vec<Family>)> {
    let there = |name| sys::interface_index(name).is_ok();
    if !there(NEAR_END) && !there(FAR_END) {
        netlink::make_pair([NEAR_END, FAR_END], MAC)?;
    }
    let [near, far] = [NEAR_END, FAR_END].map(|name| {
        let link = netlink::link_by_name(name)?;
        ensure!(
            link.kind == "veth" && link.mac == Some(MAC),
            "there is an interface {name} that is not of Roost's making; rename it"
        );
        Ok(link)
    });
    let (near, far) = (near?, far?);
    if near.link != far.index {
        bail!("{NEAR_END} and {FAR_END} are not the two ends of one device; remove them");
    }
    for link in [&near, &far].into_iter().filter(|link| !link.up) {
        netlink::set_up(link.index)?;
    }
    let mut families = Vec::new();
    for family in Family::ALL {
        let (own, seen) = (address(family, OWN), address(family, SEEN));
        let added = netlink::add_address(near.index, own)
            .and_then(|()| netlink::add_route(range(family), near.index, Some(own)))
            .and_then(|()| netlink::add_route((seen, netlink::whole(seen)), far.index, None));
        match added {
            Ok(()) => families.push(family),
            Err(e) => debug!("{} of processes of this machine is not served: {e:#}", family.name()),
        }
    }
    ensure!(!families.is_empty(), "{NEAR_END} takes no address");
    Ok((near.index, families))
}

fn host(families: &[Family]) -> Result<Host> {
    let mut host = Host { namespace: sys::network_namespace()?, ..Host::default() };
    for (at, family) in Family::ALL.into_iter().enumerate() {
        if families.contains(&family) {
            host.own[at] = to_map(address(family, OWN));
            host.seen[at] = to_map(address(family, SEEN));
        }
    }
    Ok(host)
}

/// Lets each address of a service have a stand-in, and keeps those that there are: connections by them may live. Only when none is left are
/// those of no service given away. An error is one of those that have none, and keeps no others from theirs.
fn fill(tables: &mut Tables, published: &Published, families: &[Family]) -> Result<()> {
    let mut there = read::sorted(&tables.stand_ins)?;
    let wanted = wanted(published, families);
    let mut used: BTreeSet<Addr> = there.values().copied().collect();
    let mut result = Ok(());
    for vip in &wanted {
        if there.contains_key(vip) {
            continue;
        }
        let family = Family::of(from_map(*vip));
        if free(&used, family).is_none() {
            for (old, stand_in) in there.extract_if(.., |old, _| !wanted.contains(old)) {
                tables.stand_ins.remove(&old)?;
                tables.stands_for.remove(&stand_in)?;
                used.remove(&stand_in);
            }
        }
        let Some(free) = free(&used, family) else {
            result = Err(anyhow!("there is no stand-in left for {}", from_map(*vip)));
            continue;
        };
        // The way back is known before anybody goes.
        tables.stands_for.set(&free, vip)?;
        tables.stand_ins.set(vip, &free)?;
        used.insert(free);
    }
    result
}

/// The addresses of services. Prefixes have none: nobody knows which of them are connected to.
fn wanted(published: &Published, families: &[Family]) -> BTreeSet<Addr> {
    let whole = published.vips.keys().filter(|(bits, _)| *bits == VipKey::WHOLE);
    let addresses = whole.map(|(_, vip)| vip.addr);
    addresses.filter(|addr| families.contains(&Family::of(from_map(*addr)))).collect()
}

fn free(used: &BTreeSet<Addr>, family: Family) -> Option<Addr> {
    let mut all = (FIRST..STAND_INS as u16 - 1).map(|number| to_map(address(family, number)));
    all.find(|addr| !used.contains(addr))
}

/// Processes of this machine are clients no longer. Their connections end.
fn give_up(data_path: &DataPath, tables: &mut Tables) -> Result<()> {
    data_path.detach_connect()?;
    tables.host.set(0, &Host::default())?;
    remove_device()?;
    clear(tables)?;
    data_path.forget_host()
}

fn clear(tables: &mut Tables) -> Asked<()> {
    for (vip, stand_in) in read::sorted(&tables.stand_ins)? {
        tables.stand_ins.remove(&vip)?;
        tables.stands_for.remove(&stand_in)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_of_the_range_and_never_an_address_of_the_device() {
        for family in Family::ALL {
            let mut used = BTreeSet::new();
            let (first, bits) = range(family);
            let range = ipnet::IpNet::new(first, bits).unwrap();
            while let Some(addr) = free(&used, family) {
                let there = from_map(addr);
                assert!(range.contains(&there) && used.insert(addr), "{there}");
                assert!(![OWN, SEEN].iter().any(|number| address(family, *number) == there));
            }
            assert_eq!(used.len(), STAND_INS as usize - usize::from(FIRST) - 1);
        }
    }

    #[test]
    fn the_first_mount_of_cgroup_v2_is_found() {
        let both = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_in(both), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_in("tmpfs /run tmpfs rw 0 0\n"), None);
    }
}
