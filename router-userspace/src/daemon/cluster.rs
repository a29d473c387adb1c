//! The cluster as a source of the daemon.

use std::collections::BTreeSet;

use router_ebpf::maps::REPLICA_GONE;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    attach::paths,
    kube::{self, Claims, Options, Source},
    lead::{Control, Known, Times},
    plan::{config::Config, index::Index, origin::Origin},
};

use super::{Daemon, args::ClusterArgs};

/// The services of the maps that a daemon before this one had from the cluster.
pub(super) fn known(index: &Index, config: &Config) -> BTreeSet<String> {
    let services = index.published().services.values();
    let names = services.map(|service| String::from_utf8_lossy(service.name.kept()).into_owned());
    let of_file = |name: &String| config.services.iter().any(|service| service.name == *name);
    names.filter(|name| kube::is_named_like(name) && !of_file(name)).collect()
}

impl Daemon {
    /// Starts to watch the cluster.
    pub(super) fn watch_cluster(&mut self, client: ::kube::Client, args: &ClusterArgs) -> Source {
        let published = self.index.published();
        let has_replicas = |name: &String| {
            let named = |s: &router_ebpf::maps::Service| s.name.kept() == name.as_bytes();
            let number = published.services.iter().find(|(_, s)| named(s)).map(|(n, _)| *n);
            let here = |r: &router_ebpf::maps::Replica| r.state != REPLICA_GONE;
            published.replicas.values().any(|r| Some(r.service) == number && here(r))
        };
        let known: Vec<String> =
            known(&self.index, &self.config).into_iter().filter(has_replicas).collect();
        let node_name = args.node_name.clone().unwrap_or_else(host_name);
        info!(
            node = node_name,
            services = known.len(),
            "watching the cluster; what the maps have of it holds until it is known"
        );
        self.control = Some(Control::start(client.clone(), &node_name, Times::default()));
        let hold = args.empty_list_hold;
        let options = Options { node_name, hold, silence: Options::SILENCE };
        let source = Source::start(client, options, known);
        let control = self.control.as_ref().map(|control| control.state().clone());
        self.status.watches(source.state().clone(), control);
        source
    }

    /// Brings the maps to what the cluster says.
    pub(super) fn take_cluster(&mut self, source: &mut Source) {
        let begin = Instant::now();
        let of_file = self.config.services.iter();
        let claims: Claims =
            of_file.flat_map(|s| s.vips().map(|vip| (vip, s.name.clone()))).collect();
        source.allow(&self.config.kubernetes.allowed_addresses);
        source.give_from(&self.config.kubernetes.address_pools);
        let publication = source.take(claims);
        self.nodes = Some(publication.trusted.clone());
        self.index.keep(publication.held.clone());
        self.index.reset(Origin::KUBERNETES, publication.services.clone());
        let interfaces = self.config.interfaces.clone();
        self.measure_paths(&interfaces);
        self.sync();
        if source.state().get().publications == 0 {
            paths::warn_unrouted(&publication.services);
        }
        let services = publication.services.len();
        let replicas: usize = publication.services.iter().map(|s| s.replicas.len()).sum();
        source.published(publication, &self.failed);
        self.tell(source);
        let took = format!("{:.3} s", begin.elapsed().as_secs_f64());
        info!(services, replicas, took, "applied what the cluster says");
    }
}

impl Daemon {
    /// Lets the leader know what the cluster says, and what is wrong with it.
    fn tell(&self, source: &Source) {
        if let Some(control) = &self.control {
            control.learn(Known::of(source, &self.config.kubernetes.address_pools));
        }
    }

    /// The same if services have failed that had not, or the other way round.
    pub(super) fn tell_failures(&self, source: &mut Source) {
        if source.failed(&self.failed) {
            self.tell(source);
        }
    }
}

/// Says that pools do nothing without a cluster.
pub(super) fn warn_unused_pools(config: &Config, control: Option<&Control>) {
    if control.is_none() && !config.kubernetes.address_pools.is_empty() {
        warn!("[kubernetes] address_pools: nothing is given from them without --kubernetes");
    }
    if control.is_none() && !config.kubernetes.allowed_addresses.is_empty() {
        warn!(
            "[kubernetes] allowed_addresses: they are for Services, which there are not without --kubernetes"
        );
    }
}

/// Kubernetes calls a Node by its host's name in lower case, unless told otherwise.
fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().to_lowercase()
}
