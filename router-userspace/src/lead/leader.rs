//! What the leader does: gives addresses, writes Events.

mod events;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    mem,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use crate::{
    kube::{Problem, Reason, backoff::Backoff, watch::error_text},
    plan::config::Prefix,
};

use super::{
    Claimant, ControlState, Gift, Known, Plan,
    events::{Ledger, Note},
    lease::{Term, is_status},
    pool,
    refusals::Refusals,
};

/// How long a write may take.
pub(super) const WRITE: Duration = Duration::from_secs(3);
/// How long a page of a list may take.
const READ: Duration = Duration::from_secs(30);
/// Objects in one page of a list.
const PAGE: u32 = 500;
/// What waits for an address is looked at again after this: what others hold is not watched.
const AGAIN: Duration = Duration::from_secs(60);

/// The leader, or who may become it.
pub(super) struct Leader {
    client: Client,
    state: ControlState,
    known: watch::Receiver<Option<Arc<Known>>>,
    term: watch::Receiver<Term>,
    stop: watch::Receiver<bool>,
    node_name: String,
    has_led: bool,
    work: Work,
}

/// What a leader has done; the next one begins anew.
#[derive(Default)]
struct Work {
    ledger: Ledger,
    /// What was known when the addresses were last looked at, and what came of it.
    planned: Option<Arc<Known>>,
    problems: Vec<Problem>,
    /// What of the cluster is not Roost's, as last listed.
    foreign: Vec<Prefix>,
    /// When the addresses are to be looked at again.
    again: Option<Instant>,
    backoff: Backoff,
    /// Until `again`, changes are not a reason to try again.
    backs_off: bool,
    has_failed: bool,
    /// Services whose status the server refused to have written.
    refusals: Refusals,
    /// What the ledger was last told.
    told: Option<Arc<Known>>,
}

impl Leader {
    pub(super) fn new(
        client: Client,
        node_name: &str,
        state: ControlState,
        known: watch::Receiver<Option<Arc<Known>>>,
        term: watch::Receiver<Term>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let node_name = node_name.to_owned();
        Self { client, state, known, term, stop, node_name, has_led: false, work: Work::default() }
    }

    /// Waits until something is known; `false` if this ends before.
    pub(super) async fn knows(&mut self) -> bool {
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => false,
            known = self.known.wait_for(Option::is_some) => known.is_ok(),
        }
    }

    /// Runs until it is to stop. What is being written then is still written.
    pub(super) async fn run(&mut self) {
        while !self.is_stopped() {
            if self.leads() {
                self.has_led = true;
                self.work().await;
            } else if mem::take(&mut self.has_led) {
                self.work = Work::default();
                self.state.update(|state| {
                    state.pools.clear();
                    state.problems.clear();
                });
            }
            let next = self.work.again.into_iter().chain(self.work.ledger.next()).min();
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return,
                changed = self.known.changed() => if changed.is_err() { return },
                changed = self.term.changed() => if changed.is_err() { return },
                () = sleep_until(next.unwrap_or_else(Instant::now)),
                    if next.is_some() && self.leads() => {}
            }
        }
    }

    fn is_stopped(&self) -> bool {
        // Without the other end it is stopped, too.
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    fn leads(&self) -> bool {
        self.term.borrow().is_some_and(|until| Instant::now() < until)
    }

    async fn work(&mut self) {
        let Some(known) = self.known.borrow_and_update().clone() else { return };
        self.addresses(&known).await;
        let is_news = self.work.told.as_ref().is_none_or(|told| !Arc::ptr_eq(told, &known));
        if is_news {
            self.tell(&known);
            self.work.told = Some(known);
        }
        self.events().await;
    }

    /// Looks whether a Service needs an address, if anything has changed about that.
    async fn addresses(&mut self, known: &Arc<Known>) {
        let same = |before: &Arc<Known>| {
            before.pools == known.pools
                && before.taken == known.taken
                && before.claimants.len() == known.claimants.len()
                && before.claimants.iter().zip(&known.claimants).all(|(a, b)| a.is_like(b))
                && !self.work.refusals.have_changed(&known.claimants)
        };
        let is_due = self.work.again.is_some_and(|again| again <= Instant::now());
        if self.work.backs_off && !is_due {
            return;
        }
        let is_planned = self.work.planned.as_ref().is_some_and(same);
        if is_planned && !is_due {
            return;
        }
        (self.work.again, self.work.backs_off) = (None, false);
        if known.is_doubted {
            self.work.planned = None;
            return;
        }
        let is_needed = pool::is_needed(&known.pools, &known.claimants);
        let result = if is_needed {
            self.give(known).await
        } else {
            self.work.refusals = Refusals::default();
            let taken = known.taken.iter().chain(&self.work.foreign).copied();
            Ok((pool::plan(&known.pools, &known.claimants, taken), true))
        };
        let is_complete = match result {
            Ok((plan, is_complete)) => {
                self.work.has_failed = false;
                self.planned(known, plan);
                is_complete
            }
            Err(e) => {
                if !mem::replace(&mut self.work.has_failed, true) {
                    warn!("no addresses are given for now: {}; trying on", e.text());
                }
                debug!("giving addresses: {}", e.text());
                self.work.again = Some(Instant::now() + self.work.backoff.next(e.asks_for()));
                self.work.backs_off = true;
                return;
            }
        };
        if !is_complete {
            self.work.again = Some(Instant::now() + self.work.backoff.next(Duration::ZERO));
            self.work.backs_off = true;
        } else {
            self.work.backoff.reset();
            let refused: Vec<_> = self.work.refusals.problems().collect();
            let waits = |p: &Problem| p.reason == Reason::NoAddress && !refused.contains(&p);
            let waits = is_needed && self.work.problems.iter().any(waits);
            // The others need not wait for those that are refused.
            let again = waits.then(|| Instant::now() + AGAIN);
            self.work.again = again.into_iter().chain(self.work.refusals.next()).min();
        }
    }

    fn planned(&mut self, known: &Arc<Known>, plan: Plan) {
        for problem in plan.problems.iter().filter(|problem| !self.work.problems.contains(problem))
        {
            warn!("{problem}");
        }
        if plan.problems != self.work.problems {
            self.work.told = None;
        }
        self.work.problems = plan.problems.clone();
        self.work.planned = Some(Arc::clone(known));
        self.state.update(|state| (state.pools, state.problems) = (plan.usage, plan.problems));
    }

    /// Gives addresses by what the server says now: what the watches have said may be old, and
    /// another leader may have given something since. `false`: some Service has to be looked at again.
    async fn give(&mut self, known: &Known) -> Result<(Plan, bool), Failure> {
        let mut versions = BTreeMap::new();
        let mut claimants = Vec::new();
        for service in self.list::<Service>().await? {
            let claimant = Claimant::of(&service);
            versions.insert(claimant.key.clone(), service.resource_version());
            claimants.push(claimant);
        }
        let nodes = self.list::<Node>().await?;
        let nodes = nodes.iter().flat_map(pool::of_node);
        let ours: BTreeSet<_> = known.claimants.iter().map(|claimant| &claimant.key).collect();
        let of_others = claimants.iter().filter(|claimant| !ours.contains(&claimant.key));
        self.work.foreign = nodes.chain(of_others.flat_map(Claimant::taken)).collect();
        // What was seen of a Service that is gone may be somebody's again only when that was seen, too.
        let seen = known.claimants.iter().flat_map(Claimant::taken);
        let taken = known.taken.iter().copied().chain(self.work.foreign.clone()).chain(seen);
        let mut plan = pool::plan(&known.pools, &claimants, taken);
        let claimants: BTreeMap<_, _> = claimants.iter().map(|c| (&c.key, c)).collect();
        let gifts = mem::take(&mut plan.gifts);
        let waiting: BTreeSet<_> = gifts.iter().map(|gift| &gift.service).collect();
        self.work.refusals.retain(|key| waiting.contains(key));
        let mut is_complete = true;
        for gift in &gifts {
            if self.is_stopped() || !self.leads() {
                return Ok((plan, false));
            }
            let Some(claimant) = claimants.get(&gift.service) else { continue };
            if self.work.refusals.holds(claimant, Instant::now()) {
                plan.not_given(gift);
                continue;
            }
            let version = versions.get(&gift.service).cloned().flatten();
            match self.write_status(gift, claimant.ingress.clone(), version).await {
                Ok(()) => {
                    self.work.refusals.forget(&gift.service);
                    self.given(gift);
                }
                // It has changed since, or is gone.
                Err(e) if e.is(409) || e.is(404) => is_complete = false,
                // The other Services are not to suffer from this one.
                Err(e) if e.is_refusal() => {
                    debug!(service = %gift.service, "its status: {}", e.text());
                    let problem = gift.refused(&e.text());
                    self.work.refusals.add(claimant, problem, e.asks_for(), Instant::now());
                    plan.not_given(gift);
                }
                Err(e) => return Err(e),
            }
        }
        plan.problems.extend(self.work.refusals.problems().cloned());
        plan.problems.sort();
        Ok((plan, is_complete))
    }

    async fn write_status(
        &self,
        gift: &Gift,
        mut ingress: Vec<LoadBalancerIngress>,
        version: Option<String>,
    ) -> Result<(), Failure> {
        ingress.extend(gift.addresses.iter().map(|addr| LoadBalancerIngress {
            ip: Some(addr.to_string()),
            ip_mode: Some("VIP".into()),
            ..LoadBalancerIngress::default()
        }));
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        let api: Api<Service> = Api::namespaced(self.client.clone(), &gift.service.namespace);
        let params = PatchParams::default();
        let patch = Patch::Merge(&patch);
        self.write(api.patch_status(&gift.service.name, &params, &patch)).await.map(drop)
    }

    fn given(&mut self, gift: &Gift) {
        let addresses: Vec<_> = gift.addresses.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(", ");
        info!(service = %gift.service, addresses, "gave an address");
        let text = format!("gave it {addresses} from the address pool");
        let note = Note::given(gift.service.clone(), gift.uid.clone(), text);
        self.work.ledger.happened(note, Instant::now());
        self.state.update(|state| state.addresses_given += gift.addresses.len() as u64);
    }

    /// Writes while this daemon leads, and not later.
    async fn write<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        let until = self.term.borrow().unwrap_or_else(Instant::now);
        match timeout_at(until.min(Instant::now() + WRITE), request).await {
            Ok(result) => result.map_err(Failure::Kube),
            Err(_) => Err(Failure::Silence),
        }
    }

    /// All objects of a kind, as they are now.
    async fn list<K>(&mut self) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
        let mut all = Vec::new();
        loop {
            let page = tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return Err(Failure::Silence),
                page = timeout(READ, api.list(&params)) => page,
            };
            let page = page.map_err(|_| Failure::Silence)?.map_err(Failure::Kube)?;
            all.extend(page.items);
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(all);
            }
        }
    }
}

/// Why something was not read or written.
#[derive(Debug)]
enum Failure {
    Kube(kube::Error),
    Silence,
}

impl Failure {
    fn is(&self, code: u16) -> bool {
        matches!(self, Self::Kube(e) if is_status(e, code))
    }

    /// The server does not want this one object; others may be fine.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status))
            if (400..500).contains(&status.code) && ![401, 429].contains(&status.code))
    }

    /// It is about the one Event that was to be written.
    fn is_of_one(&self) -> bool {
        [400, 404, 409, 422].iter().any(|code| self.is(*code))
    }

    fn asks_for(&self) -> Duration {
        let Self::Kube(kube::Error::Api(status)) = self else { return Duration::ZERO };
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        Duration::from_secs(seconds.into())
    }

    fn text(&self) -> String {
        match self {
            Self::Kube(e) => error_text(e),
            Self::Silence => "no answer in time".into(),
        }
    }
}
