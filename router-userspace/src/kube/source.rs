//! The cluster as a source: watches feed [`Cluster`], and changes that come together are taken
//! together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use anyhow::{Result, bail};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, ResourceExt as _};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::plan::{
    config::{self, AddressPool, AllowedAddress, Prefix},
    index::SyncError,
};

use super::{
    Claims, Cluster, Node, ObjectKey, Problem, Reason,
    guard::Guard,
    state::{Kind, WatchState},
    watch::{Closed, Event, SILENCE, Watch},
};

/// What changes within this time of each other is taken together,
const QUIET: Duration = Duration::from_millis(100);
/// and after this at the latest.
const LONGEST: Duration = Duration::from_secs(1);
/// So many events are worth a line in the log.
const MANY: usize = 100;
/// Slices of headless Services are nobody's to route to.
const SLICES: &str = "kubernetes.io/service-name,!service.kubernetes.io/headless";

/// What one of the watches says.
pub(super) enum Update {
    Services(Event<Service>),
    Slices(Event<EndpointSlice>),
    Nodes(Event<Node>),
}

/// How the cluster is watched.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Node that this is.
    pub node_name: String,
    /// How long a list that empties a service is doubted.
    pub hold: Duration,
    /// How long a watch may say nothing before everything is listed anew.
    pub silence: Duration,
}

impl Options {
    /// Longer than the API server is ever silent.
    pub const SILENCE: Duration = SILENCE;
}

/// The cluster, as it changes.
pub struct Source {
    cluster: Cluster,
    guard: Guard,
    state: WatchState,
    updates: mpsc::Receiver<Update>,
    watches: JoinSet<Closed>,
    begin: Instant,
    listed: [bool; 3],
    /// Changes that were not taken yet.
    pending: Option<Pending>,
    /// Services that events were about since the guard was last asked.
    by_event: BTreeSet<ObjectKey>,
    /// What belongs to other sources, as last said.
    taken: Claims,
    judged: Instant,
    problems: Vec<Problem>,
    /// Those of them that do not come from the maps.
    said: Vec<Problem>,
    /// Whose each service of the last publication is.
    owners: BTreeMap<String, (ObjectKey, String)>,
}

#[derive(Clone, Copy)]
struct Pending {
    first: Instant,
    last: Instant,
    events: usize,
}

/// Services that are not in the maps as they should be, and why.
type Failed<E> = BTreeMap<String, SyncError<E>>;

/// All that follows from the cluster, to be published.
#[derive(Debug)]
pub struct Publication {
    /// The services.
    pub services: Vec<config::Service>,
    /// Names of services that stay as they are for now.
    pub held: BTreeSet<String>,
    /// Clients that are nodes or pods of the cluster.
    pub trusted: BTreeSet<Prefix>,
    owners: BTreeMap<String, (ObjectKey, String)>,
    problems: Vec<Problem>,
    first: Instant,
}

impl Source {
    /// Starts to watch. `known` are the services that the maps have replicas of.
    pub fn start(
        client: Client,
        options: Options,
        known: impl IntoIterator<Item = String>,
    ) -> Self {
        let (sender, updates) = mpsc::channel(1024);
        let state = WatchState::default();
        let mut watches = JoinSet::new();
        watches.spawn(
            Watch {
                api: Api::all(client.clone()),
                kind: Kind::Services,
                labels: None,
                fields: None,
                state: state.clone(),
                silence: options.silence,
                updates: sender.clone(),
                wrap: Update::Services,
            }
            .run(),
        );
        watches.spawn(
            Watch {
                api: Api::all(client.clone()),
                kind: Kind::EndpointSlices,
                labels: Some(SLICES.into()),
                fields: None,
                state: state.clone(),
                silence: options.silence,
                updates: sender.clone(),
                wrap: Update::Slices,
            }
            .run(),
        );
        watches.spawn(
            Watch {
                api: Api::all(client),
                kind: Kind::Nodes,
                labels: None,
                // Of all: no Service may take what belongs to any.
                fields: None,
                state: state.clone(),
                silence: options.silence,
                updates: sender,
                wrap: Update::Nodes,
            }
            .run(),
        );
        let now = Instant::now();
        Self {
            cluster: Cluster::new(options.node_name),
            guard: Guard::new(options.hold, known),
            state,
            updates,
            watches,
            begin: now,
            listed: [false; 3],
            pending: None,
            by_event: BTreeSet::new(),
            taken: Claims::new(),
            judged: now,
            problems: Vec::new(),
            said: Vec::new(),
            owners: BTreeMap::new(),
        }
    }

    /// The state of the watches.
    pub fn state(&self) -> &WatchState {
        &self.state
    }

    /// Whether everything was listed completely once. Before that nothing is known.
    pub fn is_synced(&self) -> bool {
        self.listed == [true; 3]
    }

    /// The Services that there are, whoever's they are.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.cluster.services().map(|(_, service)| service)
    }

    /// The addresses that other sources had when it was last published.
    pub fn taken(&self) -> impl Iterator<Item = Prefix> {
        self.taken.keys().map(|(prefix, _)| *prefix)
    }

    /// What was wrong with Services when they were last published.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether a list of the API server is doubted.
    pub fn is_doubted(&self) -> bool {
        !self.state.get().held.is_empty()
    }

    /// Waits until there is something to publish. May be dropped and called again.
    pub async fn changed(&mut self) -> Result<()> {
        loop {
            let due = self.due();
            if due.is_some_and(|due| due <= Instant::now()) {
                return Ok(());
            }
            tokio::select! {
                update = self.updates.recv() => match update {
                    Some(update) => self.note(update),
                    None => bail!("the watches of the cluster have ended"),
                },
                Some(ended) = self.watches.join_next() => match ended {
                    Err(e) => bail!("a watch of the cluster has failed: {e}"),
                    Ok(Closed) => bail!("a watch of the cluster has ended"),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return Ok(()),
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        if !self.is_synced() {
            return None;
        }
        let pending = self.pending.map(|p| (p.last + QUIET).min(p.first + LONGEST));
        // What is held because the server is away is looked at now and then.
        let held = self.guard.next();
        let held = held.map(|at| (self.begin + at).max(self.judged + Duration::from_secs(1)));
        pending.into_iter().chain(held).min()
    }

    /// Takes an update in.
    fn note(&mut self, update: Update) {
        let synced = self.is_synced();
        let is_list =
            matches!(update, Update::Services(Event::Listed(_)) | Update::Slices(Event::Listed(_)));
        if synced && is_list {
            // So that what events have emptied before is told from what the list empties.
            let services = self.cluster.derive(&self.taken).services;
            self.judge(&services);
        }
        let changed = match update {
            Update::Services(event) => self.note_service(event),
            Update::Slices(event) => self.note_slice(event),
            Update::Nodes(event) => self.note_node(event),
        };
        let now = Instant::now();
        let complete = !synced && self.is_synced();
        if complete || (changed && synced) {
            let pending = self.pending.get_or_insert(Pending { first: now, last: now, events: 0 });
            (pending.last, pending.events) = (now, pending.events + 1);
            if pending.events.is_multiple_of(MANY) {
                info!(events = pending.events, "gathering changes of the cluster");
            }
        }
    }

    /// Notes that an event was about a Service, if it is Roost's or just was.
    fn note_event(&mut self, service: ObjectKey, changed: bool) {
        if changed || self.cluster.is_declared(&service) {
            self.by_event.insert(service);
        }
    }

    fn note_service(&mut self, event: Event<Service>) -> bool {
        match event {
            Event::Listed(all) => {
                self.listed[Kind::Services as usize] = true;
                self.cluster.list_services(&all)
            }
            Event::Applied(service) => {
                let changed = self.cluster.apply_service(&service);
                self.note_event(ObjectKey::of(&*service), changed);
                changed
            }
            Event::Deleted(service) => {
                let key = ObjectKey::of(&*service);
                let changed = self.cluster.delete_service(&key);
                self.note_event(key, changed);
                changed
            }
        }
    }

    fn note_slice(&mut self, event: Event<EndpointSlice>) -> bool {
        let about = |source: &mut Self, key: &ObjectKey| {
            if let Some(service) = source.cluster.service_of(key).cloned() {
                source.note_event(service, false);
            }
        };
        match event {
            Event::Listed(all) => {
                self.listed[Kind::EndpointSlices as usize] = true;
                self.cluster.list_slices(&all)
            }
            Event::Applied(slice) => {
                let key = ObjectKey::of(&*slice);
                about(self, &key);
                let changed = self.cluster.apply_slice(&slice);
                about(self, &key);
                changed
            }
            Event::Deleted(slice) => {
                let key = ObjectKey::of(&*slice);
                about(self, &key);
                self.cluster.delete_slice(&key)
            }
        }
    }

    fn note_node(&mut self, event: Event<Node>) -> bool {
        match event {
            Event::Listed(all) => {
                self.listed[Kind::Nodes as usize] = true;
                self.cluster.list_nodes(&all)
            }
            Event::Applied(node) => self.cluster.apply_node(&node),
            Event::Deleted(node) => self.cluster.delete_node(&node.name_any()),
        }
    }

    fn judge(&mut self, services: &[(ObjectKey, config::Service)]) -> BTreeSet<String> {
        let now = Instant::now();
        let is_current = self.state.get().is_current();
        let events = std::mem::take(&mut self.by_event);
        self.judged = now;
        self.guard.judge(services, &events, is_current, now - self.begin)
    }

    /// Says which addresses Services may take.
    pub fn allow(&mut self, addresses: &[AllowedAddress]) {
        self.cluster.allow(addresses);
    }

    /// Says what Services are given addresses from.
    pub fn give_from(&mut self, pools: &[AddressPool]) {
        self.cluster.give_from(pools);
    }

    /// Takes what is to be published. `taken` are the VIPs of other sources.
    pub fn take(&mut self, taken: Claims) -> Publication {
        let now = Instant::now();
        let pending = self.pending.take();
        self.taken = taken;
        let derived = self.cluster.derive(&self.taken);
        let before = self.state.get().held;
        let held = self.judge(&derived.services);
        for name in held.difference(&before) {
            warn!(
                service = name,
                "a list of the API server says that it has no replicas any more, without an event: \
                 it stays as it is for now (--empty-list-hold)"
            );
        }
        if let Some(Pending { first, events, .. }) = pending
            && events >= MANY
        {
            let took = first.elapsed().as_secs_f64();
            info!(
                events,
                endpoints = self.cluster.endpoints(),
                "the cluster has changed; gathered for {took:.1} s"
            );
        }
        let uids: BTreeMap<&ObjectKey, String> = self
            .cluster
            .services()
            .map(|(key, service)| (key, service.metadata.uid.clone().unwrap_or_default()))
            .collect();
        let owner = |(key, service): &(ObjectKey, config::Service)| {
            let uid = uids.get(key).cloned().unwrap_or_default();
            (service.name.clone(), (key.clone(), uid))
        };
        Publication {
            owners: derived.services.iter().map(owner).collect(),
            services: derived.services.into_iter().map(|(_, service)| service).collect(),
            held,
            trusted: self.cluster.trusted(),
            problems: derived.problems,
            first: pending.map_or(now, |pending| pending.first),
        }
    }

    /// Learns that a publication is in the maps, but for what has failed, as [`Self::failed`] is told it.
    pub fn published<E: Display>(&mut self, publication: Publication, failed: &Failed<E>) {
        let Publication { held, owners, problems, first, .. } = publication;
        for problem in problems.iter().filter(|problem| !self.said.contains(problem)) {
            warn!("{problem}");
        }
        (self.owners, self.said) = (owners, problems);
        self.state.update(|state| {
            state.services = self.cluster.services().count();
            state.endpoints = self.cluster.endpoints();
            state.held = held;
            state.publications += 1;
            state.lag = Some(first.elapsed());
        });
        self.failed(failed);
    }

    /// Learns which services are not in the maps as they should be, which the log has already. Returns whether that changes what is
    /// wrong with Services.
    pub fn failed<E: Display>(&mut self, failed: &Failed<E>) -> bool {
        let mut problems = self.said.clone();
        for (name, why) in failed {
            let Some((service, uid)) = self.owners.get(name).cloned() else { continue };
            let (reason, message) = match why {
                SyncError::Plan(e) => (Reason::NoRoom, e.lasting()),
                SyncError::Write(e) => (Reason::NotWritten, e.to_string()),
            };
            problems.push(Problem { service, uid, reason, message });
        }
        if problems == self.problems {
            return false;
        }
        self.state.update(|state| state.problems.clone_from(&problems));
        self.problems = problems;
        true
    }
}
