//! What is known about the watches themselves, for whoever shows it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Problem;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// Nodes: only this one.
    Nodes,
    /// Secrets: only the one with the cluster's keys. It is watched apart from the others.
    Secrets,
}

impl Kind {
    /// Those that services and replicas come from.
    pub const ALL: [Self; 3] = [Self::Services, Self::EndpointSlices, Self::Nodes];

    /// The resource's name, as in URLs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::Secrets => "secrets",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The state of one watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedKind {
    /// There was a complete list since the start.
    pub is_listed: bool,
    /// The watch is open.
    pub is_connected: bool,
    /// Complete lists.
    pub lists: u64,
    /// Events, without bookmarks.
    pub events: u64,
    /// Errors.
    pub errors: u64,
    /// The last error, until the watch is open again.
    pub last_error: Option<String>,
    /// When the server last said something: a list, an event, a bookmark.
    pub heard: Option<Instant>,
}

/// The state of the source.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    kinds: [WatchedKind; 4],
    /// Roost's Services.
    pub services: usize,
    /// Endpoints in their slices.
    pub endpoints: usize,
    /// What is wrong with Services.
    pub problems: Vec<Problem>,
    /// Services that stay as they are because a list that empties them is doubted.
    pub held: BTreeSet<String>,
    /// Publications, and how long the last one came after the first event of what it published.
    pub publications: u64,
    /// See `publications`.
    pub lag: Option<Duration>,
}

impl Watched {
    /// One of the watches.
    pub fn kind(&self, kind: Kind) -> &WatchedKind {
        &self.kinds[kind as usize]
    }

    /// Whether there was a complete list of everything since the start.
    pub fn is_synced(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.kind(*kind).is_listed)
    }

    /// Whether all watches are open.
    pub fn is_current(&self) -> bool {
        let mut kinds = Kind::ALL.iter().map(|kind| self.kind(*kind));
        kinds.all(|kind| kind.is_listed && kind.is_connected)
    }
}

/// A handle to the state, for several tasks and threads.
#[derive(Clone, Debug, Default)]
pub struct WatchState(Arc<Mutex<Watched>>);

impl WatchState {
    /// What is known now.
    pub fn get(&self) -> Watched {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Watched)) {
        change(&mut self.lock());
    }

    pub(super) fn update_kind(&self, kind: Kind, change: impl FnOnce(&mut WatchedKind)) {
        change(&mut self.lock().kinds[kind as usize]);
    }

    pub(super) fn failed(&self, kind: Kind, error: &str) {
        self.update_kind(kind, |kind| {
            kind.is_connected = false;
            kind.errors += 1;
            kind.last_error = Some(error.to_owned());
        });
    }
}
