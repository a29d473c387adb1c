//! A laboratory of network namespaces: a client, a node and its replicas.
//!
//! ```text
//!  client                node                    replica-1
//!  [eth0]----------[eth0     rep1]------------------[eth0]
//!  198.18.0.2   198.18.0.1   198.18.101.1     198.18.101.2
//!                            rep2]----- replica-2 ...
//! ```
//!
//! The addresses are from the benchmarking range 198.18.0.0/15 and from a prefix of unique local
//! addresses, neither of which has a place on a real network, so a lab can be joined to the
//! machine's own namespace ([`LabBuilder::host_link`]) without shadowing anything. The client
//! reaches the VIPs through the node's uplink `eth0`, which is where Roost attaches.
//!
//! Everything is undone when the [`Lab`] is dropped, also by a panic; what a killed process has
//! left is removed when the next lab is made. Nothing changes the mount namespace (`ip netns exec`
//! would, and hides the bpffs).

mod addr;
mod certs;
mod chance;
mod chat;
mod config;
mod impair;
mod meet;
mod netns;
mod nginx;
mod pins;
mod pods;
mod process;
mod proxy;
mod roost;
mod rules;
mod site;
mod sweep;
mod terminator;
mod tools;
mod wait;
mod wire;

pub use addr::Family;
pub use certs::{Authority, Certificate};
pub use chance::until_homes;
pub use chat::ChatServer;
pub use config::{Config, REPLICA_PORT, ReplicaConfig, VIP_PORT};
pub use impair::{Capture, Way};
pub use meet::{fails, meet, talk};
pub use netns::Netns;
pub use nginx::{HTTPS_PORT, Nginx, Upstream};
pub use pods::{BRIDGE, Joined, Pod};
pub use process::Process;
pub use proxy::{Proxy, nginx_places, unpacked};
pub use roost::Roost;
pub use rules::Matched;
pub use site::{Clients, Site, heavy};
pub use sweep::clean_up_on_signals;
pub use terminator::{Behind, Terminator};
pub use tools::{binary, run, run_in};
pub use wait::{try_until, wait_until};
pub use wire::{Frames, Wire};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use roost_programs::ETHTOOL;

/// The node's interface towards the client, where Roost attaches.
pub const UPLINK: &str = "eth0";

/// Above about this MTU of the uplink a veth takes no native XDP (a frame must fit into a page), so that
/// Roost attaches in generic mode.
pub const NATIVE_MTU: u32 = 3498;

/// One replica's place in the lab.
#[derive(Debug)]
pub struct ReplicaSite {
    /// Its name, `replica-<n>`.
    pub name: String,
    /// Its namespace.
    pub ns: Arc<Netns>,
    /// The node's interface towards it.
    pub node_device: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl ReplicaSite {
    /// Its address of a family.
    pub fn addr(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// A running laboratory. Dropping it removes its namespaces and all that it started in them.
#[derive(Debug)]
pub struct Lab {
    /// `roost-<pid>-<name>`: what everything of this lab is called by.
    pub prefix: String,
    /// Where clients run.
    pub client: Arc<Netns>,
    /// Where Roost runs.
    pub node: Arc<Netns>,
    /// Where chat servers run.
    pub replicas: Vec<ReplicaSite>,
    far: Option<Arc<Netns>>,
    dir: tempfile::TempDir,
}

/// What a lab is to look like.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    name: String,
    replicas: usize,
    uplink_mtu: u32,
    uplink_queues: usize,
    replica_mtu: u32,
    host_link: bool,
    far_client: bool,
    untouched: bool,
}

impl LabBuilder {
    /// How many replicas (3 by default, 100 at the most).
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// MTU of the link between client and node (1500 by default).
    pub fn uplink_mtu(mut self, mtu: u32) -> Self {
        self.uplink_mtu = mtu;
        self
    }

    /// Queues of the link between client and node (1 by default): with one, whatever comes is looked at by
    /// one CPU at a time.
    pub fn uplink_queues(mut self, queues: usize) -> Self {
        self.uplink_queues = queues;
        self
    }

    /// MTU of the links between node and replicas (1500 by default).
    pub fn replica_mtu(mut self, mtu: u32) -> Self {
        self.replica_mtu = mtu;
        self
    }

    /// Also gives the machine's own namespace a link to the client side and routes to the VIPs.
    /// Only one lab of a machine can have that.
    pub fn host_link(mut self, host_link: bool) -> Self {
        self.host_link = host_link;
        self
    }

    /// Adds a second client namespace behind the first, which routes for it: a path with a router
    /// in it ([`Lab::far_client`]).
    pub fn far_client(mut self, far_client: bool) -> Self {
        self.far_client = far_client;
        self
    }

    /// Leaves the client's end of the uplink as the kernel makes it, as container networks do: without an
    /// XDP program, and with checksums left to a device.
    pub fn untouched(mut self, untouched: bool) -> Self {
        self.untouched = untouched;
        self
    }

    /// Makes the lab.
    pub fn build(self) -> Result<Lab> {
        let LabBuilder { name, replicas, .. } = &self;
        ensure!((1..=100).contains(replicas), "a lab has 1 to 100 replicas, not {replicas}");
        let short = !name.is_empty() && name.len() <= 32;
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(
            short && plain,
            "lab name `{name}`: 1 to 32 letters, digits and dashes are allowed"
        );
        sweep::remove_leftovers();
        pins::mount_bpffs()?;
        Lab::build(&self).with_context(|| format!("making the lab `{name}`"))
    }
}

impl Lab {
    /// Makes a lab with three replicas and an MTU of 1500 everywhere.
    pub fn new(name: &str) -> Result<Self> {
        Self::builder(name).build()
    }

    /// Begins the description of a lab.
    pub fn builder(name: &str) -> LabBuilder {
        LabBuilder {
            name: name.to_owned(),
            replicas: 3,
            uplink_mtu: 1500,
            uplink_queues: 1,
            replica_mtu: 1500,
            host_link: false,
            far_client: false,
            untouched: false,
        }
    }

    fn build(plan: &LabBuilder) -> Result<Self> {
        // Held while the lab is made: whoever removes labs does not meet half of one.
        let _making = sweep::making();
        let prefix = format!("roost-{}-{}", std::process::id(), plan.name);
        let dir = tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir()?;
        if plan.host_link {
            tools::ensure_no_host_link()?;
        }
        // Each namespace is a guard: if a later step fails, those before it are removed again.
        let client = Arc::new(Netns::create(format!("{prefix}-client"), &prefix)?);
        let node = Arc::new(Netns::create(format!("{prefix}-node"), &prefix)?);
        let mut replicas = Vec::with_capacity(plan.replicas);
        for n in 1..=plan.replicas {
            let name = format!("replica-{n}");
            let ns = Arc::new(Netns::create(format!("{prefix}-{name}"), &prefix)?);
            let (v4, v6) = (addr::replica_v4(n), addr::replica_v6(n));
            replicas.push(ReplicaSite { name, ns, node_device: format!("rep{n}"), v4, v6 });
        }
        let far = if plan.far_client {
            Some(Arc::new(Netns::create(format!("{prefix}-far"), &prefix)?))
        } else {
            None
        };
        let lab = Self { prefix, client, node, replicas, far, dir };
        lab.link(plan)?;
        Ok(lab)
    }

    fn link(&self, plan: &LabBuilder) -> Result<()> {
        let mut links = vec![format!(
            "link add eth0 netns {} mtu {mtu} numtxqueues {n} numrxqueues {n} type veth \
             peer name {UPLINK} netns {} mtu {mtu} numtxqueues {n} numrxqueues {n}",
            self.node.name(),
            self.client.name(),
            mtu = plan.uplink_mtu,
            n = plan.uplink_queues,
        )];
        for site in &self.replicas {
            links.push(format!(
                "link add eth0 netns {} mtu {mtu} type veth peer name {} netns {} mtu {mtu}",
                site.ns.name(),
                site.node_device,
                self.node.name(),
                mtu = plan.replica_mtu,
            ));
        }
        if let Some(far) = &self.far {
            links.push(format!(
                "link add eth0 netns {} type veth peer name far netns {}",
                far.name(),
                self.client.name(),
            ));
        }
        if plan.host_link {
            let (device, client) = (addr::HOST_DEVICE, self.client.name());
            links.push(format!("link add {device} type veth peer name host netns {client}"));
            // So that it is known whose it is.
            links.push(format!("link set {device} alias {}", self.prefix));
        }
        tools::ip_batch(None, &links)?;

        let mut client = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
        client.extend(addr::client_batch());
        let mut node = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
        node.extend(addr::node_batch());
        for (n, site) in (1..).zip(&self.replicas) {
            node.extend(addr::node_replica_batch(n, &site.node_device));
            tools::ip_batch(Some(&site.ns), &addr::replica_batch(n))?;
        }
        if let Some(far) = &self.far {
            client.extend(addr::side_batch("far", addr::Side::Far));
            tools::ip_batch(Some(far), &addr::side_client_batch("eth0", addr::Side::Far))?;
        }
        if plan.host_link {
            client.extend(addr::side_batch("host", addr::Side::Host));
        }
        tools::ip_batch(Some(&self.node), &node)?;
        tools::ip_batch(Some(&self.client), &client)?;
        if plan.host_link {
            tools::ip_batch(None, &addr::side_client_batch(addr::HOST_DEVICE, addr::Side::Host))?;
            tools::run(ETHTOOL, &["-K", addr::HOST_DEVICE, "tx", "off"])?;
        }

        if plan.untouched {
            return Ok(());
        }
        // So that what Roost does with finished checksums is seen: senders towards the uplink finish them.
        self.client.set_offload("eth0", "tx", false)?;
        if let Some(far) = &self.far {
            far.set_offload("eth0", "tx", false)?;
        }
        if plan.uplink_mtu > NATIVE_MTU {
            return Ok(());
        }
        tools::attach_pass(Some(&self.client), "eth0")
    }

    /// The VIP of a family that tests use when one is enough.
    pub fn vip(&self, family: Family) -> IpAddr {
        self.vip_n(family, 1)
    }

    /// The `n`th VIP of a family, 1 to 254: all are routed to the node.
    pub fn vip_n(&self, family: Family, n: u8) -> IpAddr {
        addr::vip(family, n)
    }

    /// The prefix in which all VIPs of a family are, such as `198.18.200.0/24`.
    pub fn vip_prefix(&self, family: Family) -> &'static str {
        match family {
            Family::V4 => addr::VIPS_V4,
            Family::V6 => addr::VIPS_V6,
        }
    }

    /// The node's addresses towards the client, IPv4 first.
    pub fn node_addrs(&self) -> [IpAddr; 2] {
        Family::BOTH.map(addr::node)
    }

    /// The client's address of a family.
    pub fn client_addr(&self, family: Family) -> IpAddr {
        self.client_addr_n(family, 0)
    }

    /// The `n`th address of the client, 0 to 23: for keys that are made of it.
    pub fn client_addr_n(&self, family: Family, n: u8) -> IpAddr {
        assert!(n < addr::CLIENT_ADDRS, "the client has {} addresses", addr::CLIENT_ADDRS);
        addr::client(family, n)
    }

    /// The second client namespace, behind a router ([`LabBuilder::far_client`]).
    pub fn far_client(&self) -> &Arc<Netns> {
        self.far.as_ref().expect("the lab was not built with a far client")
    }

    /// Where replica `n` (from 1) listens when it listens on `port`.
    pub fn replica_at(&self, n: usize, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.replicas[n - 1].addr(family), port)
    }

    /// A directory for this lab's files.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The directory in the bpffs that this lab's daemon pins to.
    pub fn pin_dir(&self) -> PathBuf {
        pins::dir_of(&self.prefix)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        sweep::stay_if_ending();
        // The processes first (a daemon would pin again), then pins, then the namespaces, which
        // are the fields that are dropped next.
        for ns in [&self.client, &self.node].into_iter().chain(&self.far) {
            sweep::end_processes(ns.name(), &self.prefix);
        }
        for site in &self.replicas {
            sweep::end_processes(site.ns.name(), &self.prefix);
        }
        pins::remove(&self.pin_dir());
        sweep::remove_host_link(|prefix| prefix == self.prefix);
    }
}
