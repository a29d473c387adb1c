//! The Events of the leader: from the ledger to the server.

use std::collections::BTreeSet;

use k8s_openapi::{api::events::v1::Event, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Failure, Leader};
use crate::lead::{
    Known,
    events::{How, Write, Written},
};

/// Events between two looks at what has changed.
const BATCH: usize = 20;

impl Leader {
    /// Brings the ledger up to date.
    pub(super) fn tell(&mut self, known: &Known) {
        let all = known.problems.iter().chain(&self.work.problems);
        self.work.ledger.problems(all, Instant::now());
    }

    /// Writes the Events that are due, some of them.
    pub(super) async fn events(&mut self) {
        let (now, time) = (Instant::now(), Timestamp::now());
        let mut forbidden = BTreeSet::new();
        for event in self.work.ledger.due(&self.node_name, BATCH, now, time) {
            if self.is_stopped() || !self.leads() {
                return;
            }
            if forbidden.contains(&event.at.namespace) {
                self.work.ledger.put_off_one(&event.note, now);
                continue;
            }
            let had_failed = self.work.ledger.has_failed();
            let (written, failure) = match self.write_event(&event).await {
                Ok(()) => (Written::Yes, None),
                Err(e) => match event.how {
                    // The leader before this one wrote it.
                    How::Create(_) if e.is(409) => (Written::Yes, None),
                    How::Series(_) if e.is(404) => (Written::Gone, None),
                    _ => (Written::No(e.asks_for()), Some(e)),
                },
            };
            self.work.ledger.wrote(&event.note, written, Instant::now());
            let is_over = failure.as_ref().is_some_and(|e| !e.is_of_one() && !e.is(403));
            if is_over {
                self.work.ledger.put_off(Instant::now());
            } else if failure.as_ref().is_some_and(|e| e.is(403)) {
                // It may be of this namespace alone, one that is being deleted.
                forbidden.insert(event.at.namespace.clone());
            }
            self.state.update(|state| match written {
                Written::Yes => state.events_written += 1,
                Written::Gone => {}
                Written::No(_) => state.events_failed += 1,
            });
            match failure {
                Some(e) if !had_failed => {
                    let text = e.text();
                    warn!("Events cannot be written: {}: {text}; trying on", event.at);
                }
                Some(e) => debug!("Event {}: {}", event.at, e.text()),
                None if had_failed && !self.work.ledger.has_failed() => {
                    info!("Events are written again");
                }
                None => {}
            }
            if is_over {
                return;
            }
        }
    }

    async fn write_event(&self, event: &Write) -> Result<(), Failure> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &event.at.namespace);
        match &event.how {
            How::Create(new) => self.write(api.create(&PostParams::default(), new)).await.map(drop),
            How::Series(patch) => {
                let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
                self.write(api.patch(&event.at.name, &params, &patch)).await.map(drop)
            }
        }
    }
}
