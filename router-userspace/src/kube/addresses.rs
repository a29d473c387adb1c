//! The addresses of a Service that Roost answers for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::{Node, Service, ServicePort};

use crate::plan::config;

use super::{PREFIX, annotations::Settings, ports::tcp_ports};

const EXTERNAL: &str = "spec.externalIPs";

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

/// What is known of this node's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfNode<'a> {
    /// Which there are, if that is known.
    pub(super) addresses: Option<&'a [IpAddr]>,
    /// Which a Service may take, and with which ports: what the file says.
    pub(super) allowed: &'a BTreeSet<SocketAddr>,
}

pub(super) fn of(service: &Service, settings: &Settings, node: OfNode<'_>) -> Addresses {
    let spec = service.spec.clone().unwrap_or_default();
    let mut out = Addresses::default();
    let is_family = |addr: &IpAddr| {
        let family = if addr.is_ipv4() { "IPv4" } else { "IPv6" };
        spec.ip_families.as_deref().unwrap_or_default().iter().any(|f| f == family)
    };
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    // With mode Proxy, packets arrive with another destination.
    let ingress = ingress.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    let ingress = ingress.filter_map(|i| Some(("status.loadBalancer.ingress", i.ip.as_deref()?)));
    let external = spec.external_ips.iter().flatten().map(|ip| (EXTERNAL, ip.as_str()));
    let cluster = spec.cluster_ips.iter().flatten().filter(|_| settings.cluster_ip);
    let cluster = cluster.map(|ip| ("spec.clusterIPs", ip.as_str()));
    for (field, text) in ingress.chain(external).chain(cluster) {
        match config::address(text) {
            Err(e) => out.problems.push(format!("{field}: {e}")),
            Ok(addr) if !is_family(&addr) => out.problems.push(format!(
                "{field}: {addr} is of a family that is not in spec.ipFamilies: families are not \
                 translated, and its pods have no such address"
            )),
            Ok(addr) if out.own.contains(&addr) => {}
            // Whoever may write a Service could take the node's own ports: 22, 6443, the kubelet's.
            Ok(addr) if field == EXTERNAL && !node.gives(addr, service) => {
                let right: Vec<_> = tcp_ports(service).map(|port| shown(addr, port)).collect();
                out.problems.push(format!(
                    "{field}: {addr} is an address of the node (or nobody knows the node's), and nobody is \
                     given a node's own ports: use the annotation {PREFIX}node-port, or have {} in \
                     [kubernetes] allowed_addresses of the configuration file",
                    right.join(", ")
                ));
            }
            Ok(addr) => out.own.push(addr),
        }
    }
    if settings.node_port {
        match node.addresses {
            None => out.problems.push(format!(
                "{PREFIX}node-port: the addresses of this node are not known: is --node-name the \
                 name of a Node?"
            )),
            Some(node) => out.node = node.iter().copied().filter(is_family).collect(),
        }
    }
    let waits = spec.type_.as_deref() == Some("LoadBalancer");
    out.is_without = out.own.is_empty() && !settings.node_port && !waits;
    out
}

impl OfNode<'_> {
    /// Whether a Service may have this address: it is not the node's, or all of its ports are allowed there.
    fn gives(self, addr: IpAddr, service: &Service) -> bool {
        let is_allowed = |port: &ServicePort| {
            let port = u16::try_from(port.port);
            port.is_ok_and(|port| self.allowed.contains(&SocketAddr::new(addr, port)))
        };
        self.addresses.is_some_and(|own| !own.contains(&addr)) || tcp_ports(service).all(is_allowed)
    }
}

fn shown(addr: IpAddr, port: &ServicePort) -> String {
    match addr {
        IpAddr::V4(addr) => format!("\"{addr}:{}\"", port.port),
        IpAddr::V6(addr) => format!("\"[{addr}]:{}\"", port.port),
    }
}

/// The addresses of a node that its node ports are served on.
pub(super) fn of_node(node: &Node) -> Vec<IpAddr> {
    let mut out = Vec::new();
    let all = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    for address in all.into_iter().flatten() {
        let of_type = matches!(address.type_.as_str(), "InternalIP" | "ExternalIP");
        if let Ok(addr) = config::address(&address.address)
            && of_type
            && !out.contains(&addr)
        {
            out.push(addr);
        }
    }
    out.sort();
    out
}
