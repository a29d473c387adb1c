//! `roost run`: keeps the maps as the configuration file and the cluster say, and sweeps them. The
//! data path itself needs no daemon.

mod args;
mod cluster;
mod file;
pub mod http;
mod keys;
mod watch;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

use crate::{
    attach::{loader::DataPath, paths, uplinks},
    kube::{self, Keeper, Source},
    lead::Control,
    maps::{
        handle::Fault,
        problems, secrets,
        tables::Tables,
        writer::{self, WriteError},
    },
    os::lock::Lock,
    plan::{
        config::{Config, Kubernetes, Limits, SecretFiles},
        index::{Index, Maps as _, Published, Room, SyncError, Synced},
        origin::Origin,
    },
    sweeper::{Report, Sweeper, resets::Resets},
    view::status::{Activity, Failure, Status},
};

pub use args::{ClusterArgs, LogFormat, RunArgs};
use watch::Watch;

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(250);

/// Runs the daemon until SIGTERM or SIGINT. What it has pinned under `pin_dir` stays.
pub async fn run(args: RunArgs, pin_dir: &Path) -> Result<()> {
    args.start_logging()?;
    let mut watch = Watch::new(args.config.as_deref(), &args.cluster, pin_dir);
    let config = match watch.first() {
        Some(config) => config?,
        None => Config {
            interfaces: uplinks::of(&args.cluster.interface, pin_dir)?,
            limits: Limits::default(),
            secrets: SecretFiles::default(),
            kubernetes: Kubernetes::default(),
            services: Vec::new(),
        },
    };
    keys::check(&args.cluster, &config)?;
    if args.check_only {
        check_room(&config)?;
        info!(services = config.services.len(), "the file is good; nothing was changed");
        return Ok(());
    }
    // What is wrong with the way to the cluster is said before anything is changed.
    let client = match args.cluster.kubernetes {
        true => {
            let ClusterArgs { kubeconfig, namespace, .. } = &args.cluster;
            Some(kube::client(kubeconfig.as_deref(), namespace.as_deref()).await?)
        }
        false => None,
    };
    let _lock = Lock::acquire(pin_dir)?;
    // Before anything is attached, so that a signal in between is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let status = Status::new();
    status.expects(args.config.is_some(), args.cluster.kubernetes, &config.interfaces);
    http::start(&args.listen, &status, pin_dir)?;
    let keeper = match &client {
        Some(client) => keys::keep(client, &args.cluster, pin_dir).await?,
        None => None,
    };
    if let Some(keeper) = &keeper {
        status.keeps(keeper.state().clone());
    }
    let mut daemon = Daemon::start(&args, pin_dir, config, keeper, status)?;
    let source = client.map(|client| daemon.watch_cluster(client, &args.cluster));
    cluster::warn_unused_pools(&daemon.config, daemon.control.as_ref());
    info!(
        services = daemon.config.services.len(),
        interfaces = daemon.config.interfaces.len(),
        "ready"
    );
    let served = daemon.serve(&args, watch, source, &mut terminate, &mut interrupt).await;
    if let Some(control) = daemon.control.take() {
        control.stop().await;
    }
    served?;
    info!(
        "stopped; programs and maps stay, connections go on and new ones are taken. `roost run` \
         takes over, `roost detach` removes everything"
    );
    Ok(())
}

/// Whether new maps of the file's sizes would hold what the file says.
fn check_room(config: &Config) -> Result<()> {
    let mut index = Index::new(Room::of(&config.limits), Published::default());
    index.reset(Origin::FILE, config.services.clone());
    match index.refused().into_values().next() {
        Some(e) => Err(e.into()),
        None => Ok(()),
    }
}

/// The sweeper, what it found, and how long it took.
type Swept = (Sweeper, Result<Report, Fault>, Duration);

struct Daemon {
    data_path: DataPath,
    tables: Tables,
    index: Index,
    config: Config,
    /// Keeps the Secret with the keys.
    keeper: Option<Keeper>,
    leaving: secrets::Leaving,
    /// What others may know.
    status: Status,
    /// What writes to the cluster.
    control: Option<Control>,
    /// Services that are not as their sources say.
    failed: BTreeMap<String, SyncError<WriteError>>,
    /// Replicas are gone: their flows are not to wait for the next sweep.
    sweep_at_once: bool,
}

impl Daemon {
    fn start(
        args: &RunArgs,
        pin_dir: &Path,
        config: Config,
        mut keeper: Option<Keeper>,
        status: Status,
    ) -> Result<Self> {
        let mut data_path = DataPath::load(pin_dir, &config.limits, args.events)?;
        if args.events {
            follow_events(&mut data_path)?;
        }
        let mut tables = Tables::open_unfilled(pin_dir)?;
        match &mut keeper {
            Some(keeper) => secrets::put(&mut tables, keeper.keys())?,
            None => secrets::set(&mut tables, &config.secrets)?,
        }
        let mut index = Index::new(writer::room(&tables)?, tables.read()?);
        // Numbers that connections still refer to must not be given to others.
        let mut sweeper = Sweeper::new(pin_dir, args.keep_ended)?;
        let now = secrets::monotonic();
        index.free_unused(&sweeper.sweep(now)?.used, now);
        if args.cluster.kubernetes {
            // The cluster is not heard yet: what it said before the start still holds.
            index.keep(cluster::known(&index, &config));
        }
        let mut daemon = Self {
            data_path,
            tables,
            index,
            config,
            keeper,
            control: None,
            leaving: secrets::Leaving::default(),
            status,
            failed: BTreeMap::new(),
            sweep_at_once: false,
        };
        daemon.publish(&daemon.config.clone());
        let mut attached = Vec::new();
        if let Err(e) = daemon.attach(&daemon.config.clone(), &mut attached) {
            daemon.give_back(attached);
            return Err(e);
        }
        daemon.detach_others();
        paths::warn_unrouted(&daemon.config.services);
        daemon.status.file_applied(&daemon.config.interfaces);
        Ok(daemon)
    }

    /// Brings the maps to what `config` says.
    fn publish(&mut self, config: &Config) {
        self.index.reset(Origin::FILE, config.services.clone());
        self.measure_paths(&config.interfaces);
        self.sync();
    }

    fn measure_paths(&mut self, interfaces: &[String]) {
        for (service, mss) in paths::mss(interfaces, self.index.services().into_values()) {
            self.index.set_mss(&service, mss);
        }
    }

    /// Brings the maps to what the sources say, each service by itself.
    fn sync(&mut self) {
        let Synced { changes, failed } = self.index.sync(&mut self.tables, secrets::monotonic());
        let problems: BTreeMap<String, String> =
            failed.iter().map(|(service, e)| (service.clone(), e.to_string())).collect();
        for (service, problem) in
            problems.iter().filter(|(name, _)| !self.failed.contains_key(*name))
        {
            warn!("the service {service} is not as its source says: {problem}; trying on");
        }
        for service in self.failed.keys().filter(|name| !problems.contains_key(*name)) {
            info!("the service {service} is as its source says again, or is no more");
        }
        let failures = failed.iter().map(|(service, e)| {
            let (problem, is_refusal) = (e.to_string(), matches!(e, SyncError::Write(_)));
            (service.clone(), Failure { problem, is_refusal })
        });
        self.status.published(self.index.published(), changes.len(), failures.collect());
        self.failed = failed;
        if let Err(e) = problems::set(&mut self.tables, &problems) {
            warn!("what is wrong with services cannot be shown: {e}");
        }
        for change in &changes {
            debug!("wrote {}", change.summary());
            self.sweep_at_once |= change.ends_replica();
        }
        if !changes.is_empty() {
            info!(changes = changes.len(), "published");
        }
    }

    async fn serve(
        &mut self,
        args: &RunArgs,
        mut watch: Watch,
        mut source: Option<Source>,
        terminate: &mut Signal,
        interrupt: &mut Signal,
    ) -> Result<()> {
        let mut poll = ticks(POLL);
        let mut sweeps = ticks(args.sweep_interval);
        let mut sweeping: Option<JoinHandle<Swept>> = None;
        let sweeper = Sweeper::new(self.data_path.pin_dir(), args.keep_ended)?;
        let mut sweeper = Some(match Resets::new() {
            Ok(resets) => sweeper.with_resets(resets),
            Err(e) => {
                warn!(
                    "clients of ended flows learn of it with their next segment only: no raw \
                     socket, which needs CAP_NET_RAW: {e}"
                );
                sweeper
            }
        });
        loop {
            self.status.does(Activity::WAITING);
            if self.sweep_at_once && sweeper.is_some() {
                self.sweep_at_once = false;
                sweeps.reset_immediately();
            }
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = poll.tick() => {
                    self.status.does(Activity::FILE);
                    if let Some(found) = watch.look() {
                        self.take(found);
                        // The file may have taken addresses, or given some back.
                        if let Some(source) = source.as_mut().filter(|source| source.is_synced()) {
                            self.take_cluster(source);
                        }
                    }
                }
                changed = async { source.as_mut().expect("a source").changed().await },
                    if source.is_some() =>
                {
                    changed?;
                    self.status.does(Activity::CLUSTER);
                    self.take_cluster(source.as_mut().expect("a source"));
                }
                changed = keys::changed(&mut self.keeper), if self.keeper.is_some() => {
                    changed?;
                    self.status.does(Activity::KEYS);
                    self.take_keys();
                }
                ended = async { self.control.as_mut().expect("it").ended().await },
                    if self.control.is_some() => ended?,
                _ = sweeps.tick() => {
                    self.status.does(Activity::REFRESHING);
                    self.refresh();
                    // A walk of large maps takes a while, and is not to hold up the file.
                    if let Some(mut sweeper) = sweeper.take() {
                        sweeping = Some(tokio::task::spawn_blocking(move || {
                            let begin = Instant::now();
                            let report = sweeper.sweep(secrets::monotonic());
                            (sweeper, report, begin.elapsed())
                        }));
                    }
                }
                done = async { sweeping.as_mut().expect("a sweep runs").await },
                    if sweeping.is_some() =>
                {
                    sweeping = None;
                    self.status.does(Activity::AFTER_SWEEP);
                    let (back, report, took) = done.context("the sweeper failed")?;
                    sweeper = Some(back);
                    self.after_sweep(report, took);
                    if let Some(source) = source.as_mut() {
                        self.tell_failures(source);
                    }
                }
            }
        }
    }

    fn refresh(&mut self) {
        if let Err(e) = secrets::refresh_clock(&mut self.tables) {
            warn!("{e:#}");
        }
        if self.keeper.is_none()
            && let Err(e) = self.leaving.expire(&mut self.tables, secrets::monotonic())
        {
            warn!("{e:#}");
        }
        self.data_path.refresh();
    }

    fn after_sweep(&mut self, report: Result<Report, Fault>, took: Duration) {
        let report = match report {
            Ok(report) => report,
            Err(e) => {
                self.status.sweep_failed();
                return warn!("a sweep ended early: {e}");
            }
        };
        self.status.swept(&report, took);
        log_sweep(&report);
        self.index.free_unused(&report.used, secrets::monotonic());
        if self.index.is_behind() {
            self.sync();
        }
    }
}

/// Writes the data path's events to the log.
fn follow_events(data_path: &mut DataPath) -> Result<()> {
    use tokio::io::{Interest, unix::AsyncFd};
    let logger = data_path.events()?;
    // SAFETY: the logger owns its ring buffer, and with it the one descriptor that it shows,
    // until it is dropped with the `AsyncFd`.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = logger.map_err(|e| anyhow!("waiting for the data path's events: {e}"))?;
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

fn log_sweep(report: &Report) {
    let Report { flows, chats, expired, resets, removed, orphans, chats_removed, .. } = report;
    debug!(flows, chats, expired, resets, removed, orphans, chats_removed, "swept");
    if *expired > 0 {
        info!(flows = expired, "ended flows that were idle or had lost their service or replica");
    }
    if report.corrected > 0 {
        info!(chats = report.corrected, "corrected the number of flows");
    }
    if report.repinned > 0 {
        info!(pins = report.repinned, "moved pins along with their replica");
    }
    if report.forgotten > 0 {
        info!(keys = report.forgotten, "forgot what was registered for services that are no more");
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
