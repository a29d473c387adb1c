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

/// Addresses of nodes: which there are, and which a Service may take for itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nodes<'a> {
    /// Those of this node, if it is known.
    pub(super) own: Option<&'a [IpAddr]>,
    /// Those of all nodes that are known.
    pub(super) all: &'a BTreeSet<IpAddr>,
    /// What the file allows.
    pub(super) allowed: &'a BTreeSet<SocketAddr>,
}

pub(super) fn of(service: &Service, settings: &Settings, nodes: Nodes<'_>) -> Addresses {
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
            // Whoever may write a Service could take a node's own ports: 22, 6443, the kubelet's.
            Ok(addr) if field == EXTERNAL && nodes.all.contains(&addr) => {
                match tcp_ports(service).find(|port| !is_allowed(nodes, addr, port)) {
                    None if !out.own.contains(&addr) => out.own.push(addr),
                    None => {}
                    Some(port) => out.problems.push(format!(
                        "{field}: {addr} is an address of a node, and nobody is given a node's own ports: \
                         use the annotation {PREFIX}node-port, or have \"{}\" in [kubernetes] \
                         allowed_addresses of the configuration file",
                        shown(addr, port)
                    )),
                }
            }
            Ok(addr) if out.own.contains(&addr) => {}
            Ok(addr) => out.own.push(addr),
        }
    }
    if settings.node_port {
        match nodes.own {
            None => out.problems.push(format!(
                "{PREFIX}node-port: the addresses of this node are not known: is --node-name the \
                 name of a Node?"
            )),
            Some(node) => out.node = node.iter().copied().filter(is_family).collect(),
        }
    }
    if spec.load_balancer_source_ranges.is_some_and(|ranges| !ranges.is_empty()) {
        out.problems.push(
            "spec.loadBalancerSourceRanges is not enforced by this version: whoever reaches the address is \
             served"
                .to_owned(),
        );
    }
    let waits = spec.type_.as_deref() == Some("LoadBalancer");
    out.is_without = out.own.is_empty() && !settings.node_port && !waits;
    out
}

fn is_allowed(nodes: Nodes<'_>, addr: IpAddr, port: &ServicePort) -> bool {
    u16::try_from(port.port).is_ok_and(|port| nodes.allowed.contains(&SocketAddr::new(addr, port)))
}

fn shown(addr: IpAddr, port: &ServicePort) -> String {
    match addr {
        IpAddr::V4(addr) => format!("{addr}:{}", port.port),
        IpAddr::V6(addr) => format!("[{addr}]:{}", port.port),
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
