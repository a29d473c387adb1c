//! One daemon of the cluster leads: the one that holds the Lease.
//!
//! As client-go's leader election has it: who holds the Lease is judged by when this daemon saw the
//! record change, never by the times in it, which are of others' clocks. The crates for this judge by
//! those (kube-lease-manager, kube-leader-election) or are for another version of kube
//! (kube-coordinate), and want to patch, where get, create and update are enough.

mod record;

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{GetParams, ObjectMeta, PostParams},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use super::state::ControlState;
use crate::kube::{backoff::jitter, watch::error_text};
use record::Observed;

/// The Lease's name.
pub const LEASE: &str = "roost";
/// How long a clean stop may take to give the Lease back.
pub(super) const RELEASE: Duration = Duration::from_secs(2);

/// The times of the election.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// So long after the last change of its record, a Lease may be taken from its holder.
    pub lease: Duration,
    /// A leader that could not renew for so long leads no longer. Shorter than `lease`.
    pub renew: Duration,
    /// Between two renewals, and after a failed one. Others look at the Lease more rarely: there
    /// is one on every Node.
    pub retry: Duration,
}

impl Times {
    /// How long a read and a write may take: a dead connection is not to use up a leader's time.
    fn most(self) -> Duration {
        self.renew / 3
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Until when this daemon leads, if it does: at that time it does not any more, unless it has renewed.
pub(super) type Term = Option<Instant>;

/// A candidate.
pub(super) struct Election {
    api: Api<Lease>,
    identity: String,
    times: Times,
    state: ControlState,
    term: watch::Sender<Term>,
    observed: Option<Observed>,
    /// The Lease may be read from a server's cache: the last look has found it renewed.
    is_calm: bool,
}

impl Election {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        identity: String,
        times: Times,
        state: ControlState,
        term: watch::Sender<Term>,
    ) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, identity, times, state, term, observed: None, is_calm: false }
    }

    /// Takes part until told to stop, then gives the Lease back if told so.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<bool>) {
        let release = loop {
            let step = async {
                self.candidate().await;
                self.lead().await;
            };
            tokio::select! {
                release = &mut stop => break release.unwrap_or(false),
                () = step => {}
            }
        };
        let led = self.term.send_replace(None).is_some();
        self.state.update(|state| state.is_leader = false);
        if led && release {
            match timeout(RELEASE, self.release()).await {
                Ok(Ok(())) => info!("gave the Lease back"),
                Ok(Err(e)) => warn!("the Lease was not given back: {}", error_text(&e)),
                Err(_) => warn!("the Lease was not given back: no answer within {RELEASE:?}"),
            }
        }
    }

    /// Returns when this daemon leads.
    async fn candidate(&mut self) {
        let mut has_failed = false;
        loop {
            let begin = Instant::now();
            match timeout(self.times.most(), self.acquire()).await {
                Ok(Ok(true)) => return self.leads_since(begin),
                Ok(Ok(false)) => {
                    if std::mem::take(&mut has_failed) {
                        info!("the Lease can be read and written again");
                    }
                }
                failed => {
                    let text = text(failed);
                    if !std::mem::replace(&mut has_failed, true) {
                        warn!("the Lease {}: {text}; trying on", self.name());
                    }
                    debug!("the Lease: {text}");
                }
            }
            sleep(self.until_next_look()).await;
        }
    }

    /// The servers are not to be asked often by all the Nodes there are; only once the leader is
    /// silent it is looked at more often.
    fn until_next_look(&self) -> Duration {
        let retry = self.times.retry;
        if self.is_calm {
            return retry * 5 + jitter(retry * 2);
        }
        let usual = retry * 2 + jitter(retry * 2);
        let end = self.observed.as_ref().and_then(|o| o.held_for(Instant::now()));
        end.map_or(usual, |end| usual.min(end + jitter(retry)))
    }

    /// Renews, and returns when this daemon does not lead any more.
    async fn lead(&mut self) {
        let transitions = self.observed.as_ref().and_then(|o| o.spec().lease_transitions);
        info!(identity = self.identity, transitions, "leads: writes addresses and Events");
        loop {
            sleep(self.times.retry).await;
            let Some(until) = *self.term.borrow() else { return };
            let begin = Instant::now();
            match timeout_at(until.min(begin + self.times.most()), self.acquire()).await {
                Ok(Ok(true)) => {
                    self.leads_since(begin);
                    continue;
                }
                Ok(Ok(false)) => warn!("another daemon has taken the Lease {}", self.name()),
                failed if Instant::now() < until => {
                    debug!("renewing the Lease: {}", text(failed));
                    continue;
                }
                failed => {
                    let after = self.times.renew;
                    warn!("leads no longer: not renewed for {after:?}: {}", text(failed));
                }
            }
            self.term.send_replace(None);
            self.state.update(|state| state.is_leader = false);
            return;
        }
    }

    fn leads_since(&self, begin: Instant) {
        // Only that it begins or ends is worth waking somebody; one that was over begins again.
        let until = begin + self.times.renew;
        let begins = |before: Instant| before <= Instant::now();
        self.term.send_if_modified(|term| term.replace(until).is_none_or(begins));
        self.state.update(|state| state.is_leader = true);
    }

    /// Acquires or renews. `false`: another one has it.
    async fn acquire(&mut self) -> kube::Result<bool> {
        // Only if this look finds it renewed, too.
        let is_calm = std::mem::take(&mut self.is_calm);
        // Who holds it knows what it looks like.
        let mine = self.observed.as_ref().filter(|o| o.holder().as_ref() == Some(&self.identity));
        if let Some(mine) = mine.filter(|mine| mine.is_held(Instant::now())) {
            match self.write(mine.lease.clone()).await {
                Err(e) if is_status(&e, 409) || is_status(&e, 404) => {}
                result => return result.map(|()| true),
            }
        }
        let params = if is_calm { GetParams::any() } else { GetParams::default() };
        let lease = match self.api.get_with(LEASE, &params).await {
            Ok(lease) => lease,
            Err(e) if is_status(&e, 404) => {
                let meta = ObjectMeta { name: Some(LEASE.into()), ..ObjectMeta::default() };
                return won(self.write(Lease { metadata: meta, spec: None }).await);
            }
            Err(e) => return Err(e),
        };
        let before = self.observed.as_ref().map(|observed| observed.changed);
        let is_old = |observed: &Observed| is_calm && observed.is_newer_than(&lease);
        if !self.observed.as_ref().is_some_and(is_old) {
            let observed = Observed::after(self.observed.take(), lease, Instant::now());
            self.observed = Some(observed);
        }
        let Some(observed) = &self.observed else { return Ok(false) };
        let holder = observed.holder();
        let is_mine = holder.as_ref() == Some(&self.identity);
        if observed.is_held(Instant::now()) && !is_mine {
            self.is_calm = before != Some(observed.changed);
            self.state.update(|state| state.leader = holder);
            return Ok(false);
        }
        let lease = observed.lease.clone();
        won(self.write(lease).await)
    }

    /// Writes this candidate into a Lease as it was read, or a new one.
    async fn write(&mut self, mut lease: Lease) -> kube::Result<()> {
        let before = lease.spec.take().unwrap_or_default();
        lease.spec =
            Some(record::claimed(&before, &self.identity, self.times.lease, Timestamp::now()));
        lease.metadata.managed_fields = None;
        let params = PostParams::default();
        let lease = match lease.metadata.resource_version {
            Some(_) => self.api.replace(LEASE, &params, &lease).await?,
            None => self.api.create(&params, &lease).await?,
        };
        self.observed = Some(Observed { lease, changed: Instant::now() });
        let identity = Some(self.identity.clone());
        self.state.update(|state| state.leader = identity);
        Ok(())
    }

    async fn release(&mut self) -> kube::Result<()> {
        let Some(observed) = self.observed.take() else { return Ok(()) };
        let mut lease = observed.lease;
        loop {
            lease.spec = lease.spec.map(|before| record::released(&before, Timestamp::now()));
            lease.metadata.managed_fields = None;
            match self.api.replace(LEASE, &PostParams::default(), &lease).await {
                // A renewal that was on its way has been written.
                Err(e) if is_status(&e, 409) => lease = self.api.get(LEASE).await?,
                result => {
                    result?;
                    self.state.update(|state| state.leader = None);
                    return Ok(());
                }
            }
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref());
            if holder != Some(&self.identity) {
                return Ok(());
            }
        }
    }

    fn name(&self) -> String {
        format!("{}/{LEASE}", self.api.namespace().unwrap_or_default())
    }
}

/// That another one was faster is no failure.
fn won(result: kube::Result<()>) -> kube::Result<bool> {
    match result {
        Err(e) if is_status(&e, 409) => Ok(false),
        result => result.map(|()| true),
    }
}

pub(super) fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn text(failed: Result<kube::Result<bool>, tokio::time::error::Elapsed>) -> String {
    match failed {
        Ok(Err(e)) => error_text(&e),
        _ => "no answer in time".into(),
    }
}
