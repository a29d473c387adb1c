//! What is known about the Secret, for whoever shows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kube::state::WatchState;

/// The state of the Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretStatus {
    /// Its keys are in use.
    pub is_read: bool,
    /// A rotation is half done: the next key is accepted, and not used yet.
    pub is_rotating: bool,
    /// When its last step was, in seconds since 1970, as far as it says so.
    pub rotated_at: Option<i64>,
    /// What is wrong with it. The keys of the maps stay as they are.
    pub problem: Option<String>,
    /// What this daemon has written into it.
    pub writes: u64,
    /// Writes that failed, but for those that another daemon was quicker with.
    pub errors: u64,
    /// The last error, until a write succeeds.
    pub last_error: Option<String>,
}

/// A handle to the state, for several tasks and threads.
#[derive(Clone, Debug, Default)]
pub struct SecretState {
    status: Arc<Mutex<SecretStatus>>,
    watch: WatchState,
}

impl SecretState {
    /// What is known now.
    pub fn get(&self) -> SecretStatus {
        self.lock().clone()
    }

    /// The state of the watch, as [`super::super::Kind::Secrets`].
    pub fn watch(&self) -> &WatchState {
        &self.watch
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut SecretStatus)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, SecretStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
