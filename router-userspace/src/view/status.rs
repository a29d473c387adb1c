//! What the daemon's main loop tells of itself, for probes and metrics: whoever asks need not wait
//! for it.

mod checks;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use prometheus_client::metrics::histogram::Histogram;

use crate::{
    kube::{SecretState, WatchState},
    lead::ControlState,
    maps::names::Names,
    plan::index::Published,
    tend::{Judged, Load, Report, Told},
};

pub use checks::{Check, health, readiness};

/// What the main loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// In words that follow "the main loop is".
    pub what: &'static str,
    /// For how long it may.
    limit: Duration,
}

impl Activity {
    /// It loads and takes over. The kernel's verifier takes its time on slow machines.
    pub const STARTING: Self = Self { what: "starting", limit: Duration::from_secs(300) };
    /// It waits for the next tick, which comes several times a second.
    pub const WAITING: Self = Self::new("waiting");
    /// It reads the file, and applies it if it has changed.
    pub const FILE: Self = Self::new("reading or applying the file");
    /// It brings the maps to what the cluster says.
    pub const CLUSTER: Self = Self::new("applying what the cluster says");
    /// It brings the maps to the keys of the Secret.
    pub const KEYS: Self = Self::new("taking the keys of the Secret");
    /// It looks after clock and interfaces.
    pub const REFRESHING: Self = Self::new("looking after the clock and the interfaces");
    /// It ends the flows of replicas that are gone.
    pub const ENDING: Self = Self::new("ending the flows of replicas that are gone");
    /// It does what follows from a round.
    pub const AFTER_ROUND: Self = Self::new("freeing what a round found unused");

    const fn new(what: &'static str) -> Self {
        Self { what, limit: Duration::from_secs(10) }
    }
}

/// What is known about the configuration file.
#[derive(Clone, Debug, Default)]
pub struct FileState {
    /// How often it was applied.
    pub applied: u64,
    /// How often it was refused.
    pub refused: u64,
    /// When it was last applied.
    pub applied_at: Option<SystemTime>,
    /// Why it was refused, if that was the last that happened.
    pub problem: Option<String>,
}

/// Why a service is not as its source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub problem: String,
    /// A map has refused it; else it does not fit.
    pub is_refusal: bool,
}

/// What is known about the maps of the control plane.
#[derive(Clone, Debug, Default)]
pub struct MapsState {
    /// The services and replicas that they hold.
    pub names: Arc<Names>,
    /// How many addresses of services.
    pub vips: usize,
    /// How many prefixes of clients.
    pub ranges: usize,
    /// They were brought to what the sources say, once at least.
    pub is_filled: bool,
    /// Services that are not as their sources say, and why.
    pub failed: BTreeMap<String, Failure>,
    /// How often something was written.
    pub publications: u64,
    /// Single writes.
    pub changes: u64,
    /// When something was last written.
    pub published_at: Option<SystemTime>,
}

/// What rounds found and did.
#[derive(Clone, Debug)]
pub struct RoundState {
    /// How many ended early.
    pub failed: u64,
    /// How long those took that did not.
    pub took: Histogram,
    /// When the last of those ended.
    pub done_at: Option<SystemTime>,
    /// What the last one counted.
    pub load: Load,
    /// Who was told of ended flows, by all of them.
    pub told: Told,
    /// What became of what is registered, by all of them.
    pub judged: Judged,
}

/// All that is known.
#[derive(Clone, Debug)]
pub struct State {
    /// What the main loop does.
    pub activity: Activity,
    /// Since when.
    pub since: Instant,
    /// When the daemon was started.
    pub started_at: SystemTime,
    /// The interfaces that it is to be attached to.
    pub interfaces: Vec<String>,
    /// The file; `None`: there is none.
    pub file: Option<FileState>,
    /// The maps.
    pub maps: MapsState,
    /// The rounds.
    pub rounds: RoundState,
    /// The watches of a cluster; `None`: it is not asked.
    pub watches: Option<WatchState>,
    /// What writes to the cluster; `None`: nothing does.
    pub control: Option<ControlState>,
    /// The Secret with the keys; `None`: they are elsewhere.
    pub secret: Option<SecretState>,
    /// Its keys were in use, once at least.
    pub secret_was_read: bool,
    /// A cluster is a source.
    pub is_in_cluster: bool,
}

/// A handle to the state, for several threads. The lock is held for as long as copying takes.
#[derive(Clone, Debug)]
pub struct Status(Arc<Mutex<State>>);

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

impl Status {
    /// Of a daemon that is starting.
    pub fn new() -> Self {
        let seconds = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 60.0];
        Self(Arc::new(Mutex::new(State {
            activity: Activity::STARTING,
            since: Instant::now(),
            started_at: SystemTime::now(),
            interfaces: Vec::new(),
            file: None,
            maps: MapsState::default(),
            rounds: RoundState {
                failed: 0,
                took: Histogram::new(seconds),
                done_at: None,
                load: Load::default(),
                told: Told::default(),
                judged: Judged::default(),
            },
            watches: None,
            control: None,
            secret: None,
            secret_was_read: false,
            is_in_cluster: false,
        })))
    }

    /// A copy of what is known now.
    pub fn get(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main loop goes on to something else.
    pub fn does(&self, activity: Activity) {
        let mut state = self.lock();
        (state.activity, state.since) = (activity, Instant::now());
        state.secret_was_read |= state.secret.as_ref().is_some_and(|secret| secret.get().is_read);
    }

    /// What is to be there: a file or a cluster or both, and these interfaces.
    pub fn expects(&self, has_file: bool, is_in_cluster: bool, interfaces: &[String]) {
        let mut state = self.lock();
        state.file = has_file.then(FileState::default);
        state.is_in_cluster = is_in_cluster;
        state.interfaces = interfaces.to_vec();
    }

    /// The cluster is watched, and written to.
    pub fn watches(&self, watches: WatchState, control: Option<ControlState>) {
        let mut state = self.lock();
        (state.watches, state.control) = (Some(watches), control);
    }

    /// The keys are kept in a Secret.
    pub fn keeps(&self, secret: SecretState) {
        self.lock().secret = Some(secret);
    }

    /// The file was applied.
    pub fn file_applied(&self, interfaces: &[String]) {
        let mut state = self.lock();
        state.interfaces = interfaces.to_vec();
        if let Some(file) = &mut state.file {
            file.applied += 1;
            file.applied_at = Some(SystemTime::now());
            file.problem = None;
        }
    }

    /// The file was refused.
    pub fn file_refused(&self, problem: &str) {
        if let Some(file) = &mut self.lock().file {
            file.refused += 1;
            file.problem = Some(problem.to_owned());
        }
    }

    /// The maps hold what the sources say, after so many writes, but for the services that have failed.
    pub fn published(
        &self,
        published: &Published,
        changes: usize,
        failed: BTreeMap<String, Failure>,
    ) {
        // Copied before the lock is taken.
        let names = Arc::new(Names {
            services: published.services.clone(),
            replicas: published.replicas.clone(),
        });
        let mut state = self.lock();
        let maps = &mut state.maps;
        (maps.names, maps.vips, maps.ranges) =
            (names, published.vips.len(), published.ranges.len());
        (maps.is_filled, maps.failed) = (true, failed);
        if changes > 0 {
            maps.publications += 1;
            maps.changes += changes as u64;
            maps.published_at = Some(SystemTime::now());
        }
    }

    /// A round is done.
    pub fn went_round(&self, report: &Report, took: Duration) {
        let load = report.load.clone();
        let mut state = self.lock();
        let rounds = &mut state.rounds;
        rounds.took.observe(took.as_secs_f64());
        rounds.done_at = Some(SystemTime::now());
        rounds.load = load;
        rounds.told += report.told;
        rounds.judged += report.judged;
    }

    /// Ends of flows were told beside the rounds.
    pub fn told(&self, told: Told) {
        self.lock().rounds.told += told;
    }

    /// A round has ended early.
    pub fn round_failed(&self) {
        self.lock().rounds.failed += 1;
    }
}
