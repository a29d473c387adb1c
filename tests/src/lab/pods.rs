//! Pods of the lab's node: clients that come by links of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Result;
use roost_programs::IP;

use super::netns::Netns;
use super::wire::{Frames, Wire};
use super::{Family, Lab, addr, sweep, tools};

/// The bridge that some pods are on.
pub const BRIDGE: &str = "cni0";
/// The one that the first replica and pods beside it are on.
const REPLICA_BRIDGE: &str = "cni1";
/// The router that pods with a route of their own know: the node's end of their link, whatever its addresses are.
const ROUTER_V4: &str = "169.254.1.1";
const ROUTER_V6: &str = "fe80::1";

/// How a pod is joined to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// The node has a route to it, as with Calico or the CNI plugin `ptp`.
    Routed,
    /// The same as a virtual machine: the node's end is a tap device. Frames of up to 64 KB pass, with checksums that are not
    /// finished, or the kernel cuts and finishes them.
    Tapped {
        /// Which of the two.
        whole: bool,
    },
    /// By a port of a bridge, as with the CNI plugin `bridge` and Flannel.
    Bridged,
    /// The same on one bridge with the first replica: what that sends to it is not routed.
    BesideReplica,
}

impl Joined {
    /// The bridge, and what numbers its link (see [`super::addr`]).
    const fn bridge(self) -> (&'static str, u8, u16) {
        match self {
            Self::BesideReplica => (REPLICA_BRIDGE, 101, 0x101),
            _ => (BRIDGE, 50, 0x50),
        }
    }
}

/// A pod, until it is dropped.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub ns: Arc<Netns>,
    /// The node's end of its link.
    pub node_device: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    mark: String,
    wire: Option<Wire>,
}

impl Pod {
    /// Its address of a family.
    pub fn addr(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// What the pod has sent and what came to it, if its link is two tap devices.
    pub fn frames(&self) -> Option<&[Arc<Frames>; 2]> {
        self.wire.as_ref().map(|wire| &wire.sent)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        sweep::end_processes(self.ns.name(), &self.mark);
    }
}

impl Lab {
    /// A new pod on the node, with a number of its own, 1 to 99. Its link is called `pod` and the number.
    pub fn pod(&self, n: u8, joined: Joined) -> Result<Pod> {
        let _making = sweep::making();
        let (node, device) = (self.node.name(), format!("pod{n}"));
        let ns = Arc::new(Netns::create(format!("{}-{device}", self.prefix), &self.prefix)?);
        let (bridge, link4, link6) = joined.bridge();
        let (router4, router6) = (addr::v4(link4, 1), addr::v6(link6, 1));
        let mut pod = Pod {
            wire: None,
            ns,
            node_device: device.clone(),
            v4: addr::v4(link4, 100 + n),
            v6: addr::v6(link6, 0x100 + u16::from(n)),
            mark: self.prefix.clone(),
        };
        let (v4, v6) = (pod.v4, pod.v6);
        if let Joined::Tapped { whole } = joined {
            let ends = [(&*pod.ns, "eth0"), (&*self.node, device.as_str())];
            pod.wire = Some(Wire::new(ends, whole)?);
        } else {
            let link = format!(
                "link add eth0 netns {} type veth peer name {device} netns {node}",
                pod.ns.name()
            );
            tools::ip_batch(None, &[link])?;
        }
        let mut inside = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
        match joined {
            Joined::Routed | Joined::Tapped { .. } => {
                // The node answers for any address there.
                self.node.sysctl(&format!("net.ipv4.conf.{device}.proxy_arp"), "1")?;
                tools::ip_batch(
                    Some(&self.node),
                    &[
                        format!("addr add {ROUTER_V6}/64 dev {device} nodad"),
                        format!("link set {device} up"),
                        format!("route add {v4}/32 dev {device}"),
                        format!("route add {v6}/128 dev {device}"),
                    ],
                )?;
                inside.extend([
                    format!("addr add {v4}/32 dev eth0"),
                    format!("addr add {v6}/128 dev eth0 nodad"),
                    format!("route add {ROUTER_V4} dev eth0 scope link"),
                    format!("route add default via {ROUTER_V4} dev eth0"),
                    format!("route add default via {ROUTER_V6} dev eth0"),
                ]);
            }
            Joined::Bridged | Joined::BesideReplica => {
                self.bridge(joined)?;
                tools::ip_batch(
                    Some(&self.node),
                    &[
                        format!("link set {device} master {bridge}"),
                        format!("link set {device} up"),
                    ],
                )?;
                inside.extend([
                    format!("addr add {v4}/24 dev eth0"),
                    format!("addr add {v6}/64 dev eth0 nodad"),
                    format!("route add default via {router4}"),
                    format!("route add default via {router6}"),
                ]);
            }
        }
        tools::ip_batch(Some(&pod.ns), &inside)?;
        Ok(pod)
    }

    fn bridge(&self, joined: Joined) -> Result<()> {
        let (bridge, link4, link6) = joined.bridge();
        if tools::run_in(&self.node, IP, &["link", "show", bridge]).is_ok() {
            return Ok(());
        }
        let mut batch = vec![format!("link add {bridge} type bridge")];
        if joined == Joined::BesideReplica {
            let device = &self.replicas[0].node_device;
            batch.extend([
                format!("addr flush dev {device}"),
                format!("link set {device} master {bridge}"),
            ]);
        }
        batch.extend([
            format!("addr add {}/24 dev {bridge}", addr::v4(link4, 1)),
            format!("addr add {}/64 dev {bridge} nodad", addr::v6(link6, 1)),
            format!("link set {bridge} up"),
        ]);
        tools::ip_batch(Some(&self.node), &batch)
    }
}
