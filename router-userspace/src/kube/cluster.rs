//! What is known of the cluster, and what follows from it. Pure.

mod declared;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use crate::plan::config::{self, AddressPool, AllowedAddress, Prefix, State};

use super::{
    ObjectKey, Problem, Reason,
    addresses::{self, Addresses, Around},
    annotations::Settings,
    fitting::fitting,
    node::{Node, OfNode},
    owners::{Owners, Says},
    ports::tcp_ports,
    replicas::replicas,
    slices::Slice,
    sources,
};
use declared::{Declared, declared};

/// Prefixes of all Nodes that are trusted: `TRUSTED` has room for them, and for those of the file.
const MOST_TRUSTED: usize = 60_000;

/// What is known of the cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    node_name: String,
    /// Roost's.
    services: BTreeMap<ObjectKey, Declared>,
    /// Of every Service: any may become Roost's.
    slices: BTreeMap<ObjectKey, Slice>,
    slices_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    nodes: BTreeMap<String, OfNode>,
    /// What every Service says about addresses, and whose they are.
    says: BTreeMap<ObjectKey, Says>,
    owners: Owners,
    /// What Services may take.
    allowed: Vec<AllowedAddress>,
    pools: Vec<AddressPool>,
}

/// What follows from the cluster's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derived {
    /// A service for each TCP port of Roost's Services.
    pub services: Vec<(ObjectKey, config::Service)>,
    /// What is wrong, in order.
    pub problems: Vec<Problem>,
}

/// VIPs, and the names of the services that have them.
pub type Claims = BTreeMap<(Prefix, u16), String>;

impl Cluster {
    /// A cluster of which nothing is known, seen from a node.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self { node_name: node_name.into(), ..Self::default() }
    }

    /// Says which addresses Services may take.
    pub fn allow(&mut self, addresses: &[AllowedAddress]) {
        self.allowed = addresses.to_vec();
    }

    /// Says what Roost gives Services addresses from: no Node's own, whatever that says.
    pub fn give_from(&mut self, pools: &[AddressPool]) {
        self.pools = pools.to_vec();
    }

    /// Takes a Service in. Returns whether that changes anything that matters.
    pub fn apply_service(&mut self, service: &Service) -> bool {
        let key = ObjectKey::of(service);
        let old = self.services.remove(&key);
        let new = declared(service, old.as_ref());
        let changed = old != new;
        let says = Says::of(service, new.is_some());
        let matters = self.owners.service(self.says.get(&key), Some(&says));
        self.says.insert(key.clone(), says);
        self.services.extend(new.map(|new| (key, new)));
        changed || matters
    }

    /// Forgets a Service.
    pub fn delete_service(&mut self, key: &ObjectKey) -> bool {
        let says = self.says.remove(key);
        let matters = self.owners.service(says.as_ref(), None);
        self.services.remove(key).is_some() || matters
    }

    /// Takes an EndpointSlice in.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) -> bool {
        let key = ObjectKey::of(slice);
        let Some(new) = Slice::of(slice) else { return self.delete_slice(&key) };
        if self.slices.get(&key) == Some(&new) {
            return false;
        }
        // Its label may have changed, too.
        let before = self.delete_slice(&key);
        let matters =
            self.owners.slice(None, Some(&new)) | self.services.contains_key(&new.service);
        self.slices_of.entry(new.service.clone()).or_default().insert(key.clone());
        self.slices.insert(key, new);
        before || matters
    }

    /// Forgets an EndpointSlice.
    pub fn delete_slice(&mut self, key: &ObjectKey) -> bool {
        let Some(old) = self.slices.remove(key) else { return false };
        if let Some(slices) = self.slices_of.get_mut(&old.service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        self.owners.slice(Some(&old), None) | self.services.contains_key(&old.service)
    }

    /// Takes a Node in.
    pub fn apply_node(&mut self, node: &Node) -> bool {
        let (name, new) = (node.name_any(), node.what_matters());
        let old = self.nodes.get(&name);
        let matters = self.owners.node(old, Some(&new));
        let is_own = name == self.node_name && old != Some(&new);
        let is_trusted = old.map_or(&[][..], |old| &old.trusted) != new.trusted;
        self.nodes.insert(name, new);
        matters || is_own || is_trusted
    }

    /// Forgets a Node.
    pub fn delete_node(&mut self, name: &str) -> bool {
        let Some(old) = self.nodes.remove(name) else { return false };
        self.owners.node(Some(&old), None) || name == self.node_name || !old.trusted.is_empty()
    }

    /// Clients that are nodes or pods of the cluster, each prefix once.
    pub fn trusted(&self) -> BTreeSet<Prefix> {
        self.nodes.values().flat_map(|node| &node.trusted).take(MOST_TRUSTED).copied().collect()
    }

    /// Takes all Services in: those that are not among them are no more.
    pub fn list_services(&mut self, all: &[Service]) -> bool {
        let keys: BTreeSet<ObjectKey> = all.iter().map(ObjectKey::of).collect();
        let gone: Vec<_> = self.says.keys().filter(|k| !keys.contains(k)).cloned().collect();
        let gone = gone.iter().fold(false, |any, key| self.delete_service(key) | any);
        all.iter().fold(gone, |any, service| self.apply_service(service) | any)
    }

    /// Takes all EndpointSlices in.
    pub fn list_slices(&mut self, all: &[EndpointSlice]) -> bool {
        let keys: BTreeSet<ObjectKey> = all.iter().map(ObjectKey::of).collect();
        let gone: Vec<_> = self.slices.keys().filter(|k| !keys.contains(k)).cloned().collect();
        let gone = gone.iter().fold(false, |any, key| self.delete_slice(key) | any);
        all.iter().fold(gone, |any, slice| self.apply_slice(slice) | any)
    }

    /// Takes all Nodes in. Where this runs there is a Node: a list without any is wrong, and would give away what
    /// belongs to them.
    pub fn list_nodes(&mut self, all: &[Node]) -> bool {
        if all.is_empty() {
            return false;
        }
        let names: BTreeSet<String> = all.iter().map(Node::name_any).collect();
        let gone: Vec<_> = self.nodes.keys().filter(|n| !names.contains(*n)).cloned().collect();
        let gone = gone.iter().fold(false, |any, name| self.delete_node(name) | any);
        all.iter().fold(gone, |any, node| self.apply_node(node) | any)
    }

    /// The Service that a slice belongs or belonged to.
    pub fn service_of(&self, slice: &ObjectKey) -> Option<&ObjectKey> {
        Some(&self.slices.get(slice)?.service)
    }

    /// Whether a Service is Roost's.
    pub fn is_declared(&self, service: &ObjectKey) -> bool {
        self.services.contains_key(service)
    }

    /// Roost's Services, as they are.
    pub fn services(&self) -> impl Iterator<Item = (&ObjectKey, &Service)> {
        self.services.iter().map(|(key, declared)| (key, &declared.service))
    }

    /// How many endpoints the slices of Roost's Services have.
    pub fn endpoints(&self) -> usize {
        self.services.keys().flat_map(|key| self.slices_of(key)).map(|s| s.endpoints.len()).sum()
    }

    fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &Slice> {
        let keys = self.slices_of.get(service).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key))
    }

    /// The services of Roost's Services. `taken` belongs to others. Where two Services claim an
    /// address and port, the older one has it.
    pub fn derive(&self, taken: &Claims) -> Derived {
        let mut by_age: Vec<_> = self.services.iter().collect();
        by_age.sort_by_key(|(key, declared)| {
            let created = declared.service.metadata.creation_timestamp.clone();
            (created.map(|time| time.0), *key)
        });
        let mut claims = taken.clone();
        let mut out = Derived::default();
        let own = self.nodes.get(&self.node_name).map(|node| node.addresses.as_slice());
        let around =
            Around { own, owners: &self.owners, allowed: &self.allowed, pools: &self.pools };
        for (key, declared) in by_age {
            let uid = declared.uid();
            let mut problem = |reason, message: String| {
                let (service, uid) = (key.clone(), uid.clone());
                out.problems.push(Problem { service, uid, reason, message });
            };
            for (reason, message) in &declared.problems {
                problem(*reason, message.clone());
            }
            let Some(settings) = &declared.settings else { continue };
            let addresses = addresses::of(&declared.service, settings, around);
            for message in &addresses.problems {
                problem(Reason::AddressNotServed, message.clone());
            }
            if addresses.is_without {
                problem(
                    Reason::NotServed,
                    "has no address for Roost: give it type LoadBalancer, spec.externalIPs, or the \
                     annotation roost.rs/node-port or roost.rs/cluster-ip"
                        .into(),
                );
            }
            if self.is_elsewhere(key) {
                // Neither numbers nor names: pods come and go, and so do leaders, and each other text
                // is another problem.
                problem(
                    Reason::EndpointElsewhere,
                    "has endpoints on other Nodes than the one that connections come in by: they go \
                     there, too, but the answers have to come back through that Node, which this \
                     version does not see to"
                        .into(),
                );
            }
            let (allowed_sources, wrong) = sources::of(&declared.service);
            for message in wrong {
                problem(Reason::SourceNotAllowed, message);
            }
            for port in tcp_ports(&declared.service) {
                let (mut service, found) =
                    self.service(key, port, settings, &addresses, &mut claims);
                service.allowed_sources.clone_from(&allowed_sources);
                for (reason, message) in found {
                    problem(reason, message);
                }
                out.services.push((key.clone(), service));
            }
        }
        self.leave_out_loops(&mut out, &claims);
        out.services.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        out.problems.sort();
        out.problems.dedup();
        out
    }

    fn service(
        &self,
        key: &ObjectKey,
        port: &ServicePort,
        settings: &Settings,
        addresses: &Addresses,
        claims: &mut Claims,
    ) -> (config::Service, Vec<(Reason, String)>) {
        let port_name = port.name.clone().unwrap_or_default();
        let number = number(port.port).unwrap_or_default();
        let name = if port_name.is_empty() { number.to_string() } else { port_name.clone() };
        let name = fitting(&format!("{key}:{name}"));
        let mut problems = Vec::new();
        let mut claim = |addr: IpAddr, port: u16, what: &str| {
            let prefix = Prefix::from(addr);
            if let Some(owner) = claims.get(&(prefix, port)) {
                problems.push((
                    Reason::AddressNotServed,
                    format!("{what} with port {port} already belongs to the service {owner:?}"),
                ));
                return None;
            }
            claims.insert((prefix, port), name.clone());
            Some((prefix, port))
        };
        let own = addresses.own.iter();
        let own = own.filter_map(|addr| claim(*addr, number, &addr.to_string()));
        let own: Vec<Prefix> = own.map(|(prefix, _)| prefix).collect();
        let node_port = port.node_port.and_then(self::number);
        let node: Vec<_> = match node_port {
            Some(port) => {
                // The next leader is to say the same of its own Node.
                let all = addresses.node.iter();
                all.filter_map(|addr| claim(*addr, port, "an address of the node")).collect()
            }
            None => Vec::new(),
        };
        if settings.node_port && node_port.is_none() {
            problems.push((
                Reason::AddressNotServed,
                format!(
                    "roost.rs/node-port: port {number} has no node port; the Service needs type \
                     NodePort or LoadBalancer, with spec.allocateLoadBalancerNodePorts"
                ),
            ));
        }
        let slices = self.slices_of(key);
        let (replicas, wrong) = replicas(slices, &port_name, settings.identity);
        problems.extend(wrong.into_iter().map(|wrong| (Reason::EndpointNotServed, wrong)));
        let mut service = config::Service {
            name,
            addresses: own,
            port: number,
            other_vips: node,
            replicas,
            ..settings.service.clone()
        };
        hold_back_incomplete(&mut service);
        (service, problems)
    }

    /// Whether some endpoint is known to be on another Node.
    fn is_elsewhere(&self, key: &ObjectKey) -> bool {
        let mut endpoints = self.slices_of(key).flat_map(|slice| &slice.endpoints);
        endpoints.any(|endpoint| endpoint.node.as_ref().is_some_and(|node| *node != self.node_name))
    }

    /// Leaves out replicas whose address is one that Roost answers for: packets would go in circles.
    fn leave_out_loops(&self, derived: &mut Derived, claims: &Claims) {
        for (key, service) in &mut derived.services {
            let port = service.port;
            service.replicas.retain(|replica| {
                let owner = replica.addresses.iter().find_map(|addr| {
                    Some((*addr, claims.get(&(Prefix::from(*addr), replica.port))?))
                });
                let Some((addr, owner)) = owner else { return true };
                derived.problems.push(Problem {
                    service: key.clone(),
                    uid: self.services[key].uid(),
                    reason: Reason::EndpointNotServed,
                    message: format!(
                        "port {port}: the endpoint {addr} port {} is itself an address of the \
                         service {owner:?}",
                        replica.port
                    ),
                });
                false
            });
        }
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// A replica with an address of one family only cannot serve the clients of the other. The slices
/// of the families change one after the other, so this mends itself; until then it takes no new
/// chats while others are complete.
fn hold_back_incomplete(service: &mut config::Service) {
    let families: Vec<bool> = service.vips().map(|(prefix, _)| prefix.addr().is_ipv4()).collect();
    let is_complete = |replica: &config::Replica| {
        let has = |ipv4: &bool| replica.addresses.iter().any(|addr| addr.is_ipv4() == *ipv4);
        families.iter().all(has)
    };
    let ready = |r: &config::Replica| r.state == State::Ready;
    if service.replicas.iter().any(|r| ready(r) && is_complete(r)) {
        for replica in service.replicas.iter_mut().filter(|r| ready(r) && !is_complete(r)) {
            replica.state = State::Draining;
        }
    }
}
