//! Whose addresses there are in the cluster, so that no Service gets what belongs to others. Pure.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;

use crate::plan::config::Prefix;

use super::{node::OfNode, ports::tcp_ports, slices::Slice};

/// Things that several may name.
#[derive(Debug)]
struct Counted<K>(HashMap<K, usize>);

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Counted<K> {
    fn add(&mut self, all: impl IntoIterator<Item = K>) {
        for one in all {
            *self.0.entry(one).or_default() += 1;
        }
    }

    fn remove(&mut self, all: impl IntoIterator<Item = K>) {
        for one in all {
            if let Some(count) = self.0.get_mut(&one) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&one);
                }
            }
        }
    }

    fn has(&self, one: &K) -> bool {
        self.0.contains_key(one)
    }
}

/// Addresses by those whom they belong to.
#[derive(Debug, Default)]
pub(super) struct Owners {
    nodes: Counted<IpAddr>,
    /// Where Nodes take their pods' addresses from,
    pod_nets: Counted<Prefix>,
    /// and the lengths of these prefixes, which are few.
    pod_lens: Counted<(bool, u8)>,
    pods: Counted<IpAddr>,
    cluster_ips: Counted<IpAddr>,
    /// Addresses that load balancers have given to Services which are not Roost's, with their ports.
    balanced: Counted<(IpAddr, u16)>,
    /// Addresses that Roost's Services name.
    named: Counted<IpAddr>,
}

/// What a Service says about addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Says {
    cluster_ips: Vec<IpAddr>,
    balanced: Vec<(IpAddr, u16)>,
    named: Vec<IpAddr>,
}

impl Says {
    /// What it says, if it is Roost's or not.
    pub(super) fn of(service: &Service, is_ours: bool) -> Self {
        let spec = service.spec.as_ref();
        let parse = |texts: Option<&Vec<String>>| -> Vec<IpAddr> {
            texts.into_iter().flatten().filter_map(|text| text.parse().ok()).collect()
        };
        let cluster_ips = parse(spec.and_then(|spec| spec.cluster_ips.as_ref()));
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
        let given: Vec<IpAddr> =
            ingress.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect();
        if is_ours {
            let mut named = parse(spec.and_then(|spec| spec.external_ips.as_ref()));
            named.extend(given);
            return Self { cluster_ips, balanced: Vec::new(), named };
        }
        let ports: Vec<u16> =
            tcp_ports(service).filter_map(|port| u16::try_from(port.port).ok()).collect();
        let balanced = given.iter().flat_map(|addr| ports.iter().map(|port| (*addr, *port)));
        Self { cluster_ips, balanced: balanced.collect(), named: Vec::new() }
    }
}

/// Whom an address belongs to that no Service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Node,
    Pod,
    /// It is some Service's cluster IP.
    Service,
}

impl Owners {
    /// Replaces what a Service says. Returns whether that matters to others, which are Roost's.
    pub(super) fn service(&mut self, old: Option<&Says>, new: Option<&Says>) -> bool {
        if old == new {
            return false;
        }
        if let Some(old) = old {
            self.cluster_ips.remove(old.cluster_ips.iter().copied());
            self.balanced.remove(old.balanced.iter().copied());
            self.named.remove(old.named.iter().copied());
        }
        if let Some(new) = new {
            self.cluster_ips.add(new.cluster_ips.iter().copied());
            self.balanced.add(new.balanced.iter().copied());
            self.named.add(new.named.iter().copied());
        }
        let both = old.into_iter().chain(new);
        both.flat_map(|says| {
            says.cluster_ips.iter().chain(says.balanced.iter().map(|(addr, _)| addr))
        })
        .any(|addr| self.named.has(addr))
    }

    /// Replaces what a Node has. Returns whether Roost's Services name any of it.
    pub(super) fn node(&mut self, old: Option<&OfNode>, new: Option<&OfNode>) -> bool {
        if old == new {
            return false;
        }
        let len = |net: &Prefix| (net.addr().is_ipv4(), net.prefix_len());
        if let Some(old) = old {
            self.nodes.remove(old.addresses.iter().copied());
            self.pod_nets.remove(old.pods.iter().copied());
            self.pod_lens.remove(old.pods.iter().map(len));
        }
        if let Some(new) = new {
            self.nodes.add(new.addresses.iter().copied());
            self.pod_nets.add(new.pods.iter().copied());
            self.pod_lens.add(new.pods.iter().map(len));
        }
        let both = || old.into_iter().chain(new);
        both().flat_map(|node| &node.addresses).any(|addr| self.named.has(addr))
            || both()
                .flat_map(|node| &node.pods)
                .any(|net| self.named.0.keys().any(|addr| net.contains(addr)))
    }

    /// Replaces a slice. Returns whether Roost's Services name an address of its pods.
    pub(super) fn slice(&mut self, old: Option<&Slice>, new: Option<&Slice>) -> bool {
        let pods = |slice: &Slice| -> Vec<IpAddr> {
            let is_pod = |target: &super::slices::Target| target.is_pod;
            let pods = slice.endpoints.iter().filter(|e| e.target.as_ref().is_some_and(is_pod));
            pods.map(|endpoint| endpoint.addr).collect()
        };
        let [old, new] = [old, new].map(|slice| slice.map(pods).unwrap_or_default());
        self.pods.remove(old.iter().copied());
        self.pods.add(new.iter().copied());
        old.iter().chain(&new).any(|addr| self.named.has(addr))
    }

    /// Whom an address belongs to, if to somebody whom it stays with. What EndpointSlices say is left out
    /// with `by_endpoints` false.
    pub(super) fn of(&self, addr: IpAddr, by_endpoints: bool) -> Option<Owner> {
        if self.cluster_ips.has(&addr) {
            Some(Owner::Service)
        } else if self.nodes.has(&addr) {
            Some(Owner::Node)
        } else if self.is_in_pod_net(addr) || by_endpoints && self.pods.has(&addr) {
            Some(Owner::Pod)
        } else {
            None
        }
    }

    /// Whether a load balancer has given this address with this port to a Service that is not Roost's.
    pub(super) fn is_balanced(&self, addr: IpAddr, port: u16) -> bool {
        self.balanced.has(&(addr, port))
    }

    fn is_in_pod_net(&self, addr: IpAddr) -> bool {
        let lens = self.pod_lens.0.keys().filter(|(is_ipv4, _)| *is_ipv4 == addr.is_ipv4());
        lens.filter_map(|(_, len)| IpNet::new(addr, *len).ok())
            .any(|net| self.pod_nets.has(&net.into()))
    }
}
