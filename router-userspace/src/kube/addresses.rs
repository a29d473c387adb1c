//! The addresses of a Service that Roost answers for.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;

use crate::plan::config::{self, AddressPool, AllowedAddress};

use super::{
    PREFIX,
    annotations::Settings,
    owners::{Owner, Owners},
    ports::tcp_ports,
};

const INGRESS: &str = "status.loadBalancer.ingress";
const EXTERNAL: &str = "spec.externalIPs";
const CLUSTER: &str = "spec.clusterIPs";

/// The addresses of a Service, and what is wrong with others.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Those with the Service's own ports.
    pub(super) own: Vec<IpAddr>,
    /// Those with its node ports.
    pub(super) node: Vec<IpAddr>,
    pub(super) problems: Vec<String>,
    /// There is none, and nobody is going to give it one.
    pub(super) is_without: bool,
}

/// What is known of addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    /// This node's, if they are known.
    pub(super) own: Option<&'a [IpAddr]>,
    /// Whose others are.
    pub(super) owners: &'a Owners,
    /// What Services may take: what the file says.
    pub(super) allowed: &'a [AllowedAddress],
    /// What Roost gives them addresses from.
    pub(super) pools: &'a [AddressPool],
}

pub(super) fn of(service: &Service, settings: &Settings, around: Around<'_>) -> Addresses {
    let spec = service.spec.clone().unwrap_or_default();
    let mut out = Addresses::default();
    let is_family = |addr: &IpAddr| {
        let family = if addr.is_ipv4() { "IPv4" } else { "IPv6" };
        spec.ip_families.as_deref().unwrap_or_default().iter().any(|f| f == family)
    };
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    // With mode Proxy, packets arrive with another destination.
    let ingress = ingress.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    let ingress = ingress.filter_map(|i| Some((INGRESS, i.ip.as_deref()?)));
    let external = spec.external_ips.iter().flatten().map(|ip| (EXTERNAL, ip.as_str()));
    let cluster = spec.cluster_ips.iter().flatten().filter(|_| settings.cluster_ip);
    let cluster = cluster.map(|ip| (CLUSTER, ip.as_str()));
    for (field, text) in ingress.chain(external).chain(cluster) {
        match config::address(text) {
            Err(e) => out.problems.push(format!("{field}: {e}")),
            Ok(addr) if !is_family(&addr) => out.problems.push(format!(
                "{field}: {addr} is of a family that is not in spec.ipFamilies: families are not \
                 translated, and its pods have no such address"
            )),
            Ok(addr) if out.own.contains(&addr) => {}
            // The API server has given it to this very Service.
            Ok(addr) if field == CLUSTER => out.own.push(addr),
            Ok(addr) => match around.refuses(addr, field == EXTERNAL, service) {
                Some(why) => out.problems.push(format!("{field}: {addr} {why}")),
                None => out.own.push(addr),
            },
        }
    }
    if settings.node_port {
        match around.own {
            None => out.problems.push(format!(
                "{PREFIX}node-port: the addresses of this node are not known: is --node-name the \
                 name of a Node?"
            )),
            Some(own) => out.node = own.iter().copied().filter(is_family).collect(),
        }
    }
    let waits = spec.type_.as_deref() == Some("LoadBalancer");
    out.is_without = out.own.is_empty() && !settings.node_port && !waits;
    out
}

impl Around<'_> {
    /// Why a Service may not have an address that a load balancer, or the Service itself, says it has.
    /// Whoever may write a Service could take what others listen to: sshd, the kubelet, the API server.
    fn refuses(self, addr: IpAddr, is_external: bool, service: &Service) -> Option<String> {
        let ports = || tcp_ports(service).filter_map(|port| u16::try_from(port.port).ok());
        let is_named =
            |port: u16| self.allowed.contains(&AllowedAddress::Port(SocketAddr::new(addr, port)));
        let right = || {
            let all: Vec<_> =
                ports().map(|port| format!("\"{}\"", SocketAddr::new(addr, port))).collect();
            format!(
                "{} in [kubernetes] allowed_addresses of the configuration file",
                all.join(", ")
            )
        };
        // A Node's addresses and the prefixes of its pods are written by its kubelet: whoever has taken over one node
        // must not keep Services from what Roost has given them.
        let is_given = !is_external && self.pools.iter().any(|pool| pool.contains(addr));
        // Who writes a load balancer's status is trusted more than who writes an EndpointSlice.
        match self.owners.of(addr, is_external) {
            Some(Owner::Node | Owner::Pod) if is_given => {}
            Some(Owner::Service) => {
                return Some(format!(
                    "is the cluster IP of a Service, which has it alone: use the annotation \
                     {PREFIX}cluster-ip there"
                ));
            }
            Some(Owner::Pod) => return Some("is an address of pods, and never a Service's".into()),
            Some(Owner::Node) if !ports().all(is_named) => {
                return Some(format!(
                    "is an address of a Node, and nobody is given a Node's own ports: use the \
                     annotation {PREFIX}node-port, or have {}",
                    right()
                ));
            }
            Some(Owner::Node) | None => {}
        }
        if ports().all(is_named) {
            return None;
        }
        let is_in = |allowed: &AllowedAddress| matches!(allowed, AllowedAddress::All(prefix) if prefix.contains(&addr));
        if is_external && !self.allowed.iter().any(is_in) {
            return Some(format!(
                "is none that Services may take by themselves: let a load balancer give it one, or \
                 have \"{addr}\" or {}",
                right()
            ));
        }
        let taken = ports().find(|port| self.owners.is_balanced(addr, *port))?;
        Some(format!("with port {taken} is what a load balancer has given to another Service"))
    }
}
