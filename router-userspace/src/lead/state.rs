//! What is known of the part that writes to the cluster, for metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{kube::Problem, plan::addr::Family};

use super::Usage;

/// What is known of the part that writes to the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Controls {
    /// What this daemon is called in the Lease.
    pub identity: String,
    /// Whether it leads.
    pub is_leader: bool,
    /// Who leads, as far as is known.
    pub leader: Option<String>,
    /// What is used of the pools, for each family that they have; empty while another one leads.
    pub pools: BTreeMap<Family, Usage>,
    /// Addresses given since the start.
    pub addresses_given: u64,
    /// Events written since the start, also those written again.
    pub events_written: u64,
    /// Events that could not be written, each try.
    pub events_failed: u64,
    /// Problems of the pools; empty while another one leads.
    pub problems: Vec<Problem>,
}

/// A handle to [`Controls`], for several tasks and threads.
#[derive(Clone, Debug, Default)]
pub struct ControlState(Arc<Mutex<Controls>>);

impl ControlState {
    /// What is known now.
    pub fn get(&self) -> Controls {
        self.lock().clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Controls)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Controls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
