//! The part of the daemon that writes to the cluster: a task of its own, which never holds the data
//! path up. Every daemon has it; the one that holds the Lease does something.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tracing::{error, warn};

use super::{
    Known, Times,
    leader::{Leader, WRITE},
    lease::{Election, RELEASE},
    state::ControlState,
};

/// Where the leader learns what there is.
#[derive(Clone, Debug)]
pub struct Learner(watch::Sender<Option<Arc<Known>>>);

impl Learner {
    /// Learns what there is now.
    pub fn learn(&self, known: Known) {
        self.0.send_if_modified(|before| {
            let is_new = before.as_deref() != Some(&known);
            if is_new {
                *before = Some(Arc::new(known));
            }
            is_new
        });
    }
}

/// The running part. Dropped, it ends at once and keeps the Lease, as if the daemon had died.
#[derive(Debug)]
pub struct Control {
    known: Learner,
    state: ControlState,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    has_ended: bool,
}

impl Control {
    /// Starts it. It takes part in the election when it knows something.
    pub fn start(client: Client, node_name: &str, times: Times) -> Self {
        let (known, knows) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let state = ControlState::default();
        let identity = identity(node_name);
        state.update(|state| state.identity = identity.clone());
        let namespace = client.default_namespace().to_owned();
        let (term, terms) = watch::channel(None);
        let election =
            Election::new(client.clone(), &namespace, identity, times, state.clone(), term);
        let leader = Leader::new(client, node_name, state.clone(), knows, terms, stopped);
        let task = tokio::spawn(run(leader, election));
        Self { known: Learner(known), state, stop, task, has_ended: false }
    }

    /// Learns what there is now.
    pub fn learn(&self, known: Known) {
        self.known.learn(known);
    }

    /// What learns for it, for another task.
    pub fn learner(&self) -> Learner {
        self.known.clone()
    }

    /// Its state.
    pub fn state(&self) -> &ControlState {
        &self.state
    }

    /// Waits for what must not be: that it ends by itself.
    ///
    /// # Errors
    ///
    /// Always.
    pub async fn ended(&mut self) -> Result<()> {
        if !self.has_ended {
            let result = (&mut self.task).await;
            self.has_ended = true;
            result.context("what writes to the cluster has failed")?;
        }
        bail!("what writes to the cluster has ended");
    }

    /// Ends it cleanly: what is being written is written, and the Lease given back. Takes a few
    /// seconds at most.
    pub async fn stop(mut self) {
        if self.has_ended {
            return;
        }
        self.stop.send_replace(true);
        let most = WRITE + RELEASE + Duration::from_secs(1);
        match timeout(most, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => error!("what writes to the cluster has failed: {e}"),
            Err(_) => warn!("what writes to the cluster did not end within {most:?}"),
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut leader: Leader, election: Election) {
    // Who does not know the cluster is of no use as its leader.
    if !leader.knows().await {
        return;
    }
    let (release, released) = oneshot::channel();
    // Ends with this task: then nobody holds the other end.
    let mut election = tokio::spawn(election.run(released));
    tokio::select! {
        () = leader.run() => {}
        ended = &mut election => return error!("the election has ended: {ended:?}"),
    }
    // It writes no more, so another one may.
    if release.send(true).is_ok() {
        let _ = election.await;
    }
}

/// The Node's name, and something that no daemon before this one had.
fn identity(node_name: &str) -> String {
    let mut bytes = [0; 5];
    // Without randomness the process tells it from others on other Nodes at least.
    if getrandom(&mut bytes, GetRandomFlags::NONBLOCK).is_err() {
        bytes[..4].copy_from_slice(&std::process::id().to_be_bytes());
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{node_name}_{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_noticed_when_it_ends_by_itself() {
        for fails in [false, true] {
            let (known, _) = watch::channel(None);
            let (stop, _) = watch::channel(false);
            let task = tokio::spawn(async move { assert!(!fails, "as told") });
            let (known, state) = (Learner(known), ControlState::default());
            let mut control = Control { known, state, stop, task, has_ended: false };
            for _ in 0..2 {
                let error = control.ended().await.unwrap_err().to_string();
                assert!(error.starts_with("what writes to the cluster has"), "{error}");
            }
            control.stop().await;
        }
    }
}
