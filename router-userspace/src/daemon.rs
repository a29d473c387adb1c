//! `roost run`: keeps the maps as the configuration file and the cluster say, and tells the ends of flows
//! that the kernel has ended. The data path itself needs no daemon.

mod args;
mod cluster;
mod file;
pub mod http;
mod keys;
mod links;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use router_ebpf::hand::LOOKS;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

use crate::{
    attach::{
        client_links::ClientLinks, host::HostClients, loader::DataPath, macs::Macs, paths, uplinks,
    },
    kube::{self, Keeper, Source},
    lead::Control,
    maps::{
        handle::Fault,
        problems, secrets, shares,
        tables::Tables,
        writer::{self, WriteError},
    },
    os::lock::Lock,
    plan::{
        config::{Config, Kubernetes, Limits, Prefix, SecretFiles, Shares},
        index::{Index, Maps as _, Published, Room, SyncError, Synced},
        origin::Origin,
    },
    tend::{Entries, Load, Report, Resets, Tender, Told},
    view::status::{Activity, Failure, Status},
};

pub use args::{ClusterArgs, LogFormat, RunArgs};
use watch::Watch;

/// What could not be published is tried again after this: all is planned anew for it.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the file and the interfaces are looked at.
const POLL: Duration = Duration::from_millis(250);

/// Runs the daemon until SIGTERM or SIGINT. What it has pinned under `pin_dir` stays.
pub async fn run(args: RunArgs, pin_dir: &Path) -> Result<()> {
    args.start_logging()?;
    let mut watch = Watch::new(args.config.as_deref(), &args.cluster, pin_dir);
    let config = match watch.first() {
        Some(config) => config?,
        None => Config {
            interfaces: uplinks::of(&args.cluster.interface, pin_dir)?,
            client_links: args.cluster.client_link.clone(),
            host_clients: args.cluster.host_clients,
            limits: Limits::default(),
            shares: Shares::default(),
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

/// The tender, what it found, and how long it took.
type Done = (Tender, Result<Report, Fault>, Duration);

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
    /// When the maps were last brought to what the sources say.
    synced: Instant,
    /// Services that are not as their sources say.
    failed: BTreeMap<String, SyncError<WriteError>>,
    /// Keeps what is known of the interfaces' MAC addresses.
    macs: Macs,
    /// Keeps the programs on the links of clients on this machine.
    client_links: ClientLinks,
    /// Lets processes of this machine be clients.
    host: HostClients,
    /// The cgroup whose processes are; `None`: that which is mounted.
    cgroup: Option<PathBuf>,
    /// Replicas are gone: their flows are not to wait for their turn.
    ends_flows: bool,
    /// Clients that are nodes or pods of the cluster; `None` as long as that is not known.
    nodes: Option<BTreeSet<Prefix>>,
    /// How the tables are shared by now: what the file says, the nodes and pods, the number of services.
    shared: Option<(Shares, Option<BTreeSet<Prefix>>, usize)>,
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
        let now = secrets::monotonic();
        index.free_unused(&Tender::new(pin_dir)?.round(now)?.used, now);
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
            synced: Instant::now(),
            failed: BTreeMap::new(),
            macs: Macs::new(),
            client_links: ClientLinks::new(),
            host: HostClients::default(),
            cgroup: args.cgroup.clone(),
            ends_flows: false,
            nodes: (!args.cluster.kubernetes).then(BTreeSet::new),
            shared: None,
        };
        daemon.follow_interfaces();
        daemon.publish(&daemon.config.clone());
        let mut attached = Vec::new();
        if let Err(e) = daemon.attach(&daemon.config.clone(), &mut attached) {
            daemon.give_back(attached);
            return Err(e);
        }
        daemon.detach_others();
        daemon.want_client_links();
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
        self.synced = Instant::now();
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
            self.ends_flows |= change.ends_replica();
        }
        if !changes.is_empty() {
            info!(changes = changes.len(), "published");
        }
        self.host.publish(&mut self.tables, self.index.published());
        self.share();
    }

    /// Says how the tables are shared, if that has changed: of a large cluster thousands of entries would be read for it.
    fn share(&mut self) {
        let services = self.index.published().services.len();
        let (shares, nodes) = (self.shares(), &self.nodes);
        let is_so = |(s, n, count): &(_, _, _)| *s == shares && n == nodes && *count == services;
        if self.shared.as_ref().is_some_and(is_so) {
            return;
        }
        match shares::set(&mut self.tables, &shares, nodes.as_ref(), services) {
            Ok(()) => self.shared = Some((shares, nodes.clone(), services)),
            Err(e) => warn!("the tables are not shared as they should be: {e}; trying on"),
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
        let mut rounds = ticks(args.round_interval);
        let mut round: Option<JoinHandle<Done>> = None;
        let mut tender = Some(tender(self.data_path.pin_dir())?);
        loop {
            if self.ends_flows
                && let Some(tender) = &mut tender
            {
                self.ends_flows = false;
                self.status.does(Activity::ENDING);
                self.end_flows(tender);
            }
            self.status.does(Activity::WAITING);
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = poll.tick() => {
                    self.follow_interfaces();
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
                _ = rounds.tick() => {
                    self.status.does(Activity::REFRESHING);
                    self.refresh();
                    // To read what is registered and to tell thousands takes a while, and is not to hold up the file.
                    if let Some(mut tender) = tender.take() {
                        round = Some(tokio::task::spawn_blocking(move || {
                            let begin = Instant::now();
                            let report = tender.round(secrets::monotonic());
                            (tender, report, begin.elapsed())
                        }));
                    }
                }
                done = async { round.as_mut().expect("a round").await }, if round.is_some() => {
                    round = None;
                    self.status.does(Activity::AFTER_ROUND);
                    let (back, report, took) = done.context("a round failed")?;
                    tender = Some(back);
                    self.after_round(report, took);
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
        self.share();
    }

    /// Lets the kernel look at all flows now, and tells the ends of those that are over.
    fn end_flows(&mut self, tender: &mut Tender) {
        if let Err(e) = self.end_flows_of_gone(tender) {
            warn!("flows of replicas that are gone end within seconds, not at once: {e:#}");
        }
    }

    fn end_flows_of_gone(&mut self, tender: &mut Tender) -> Result<()> {
        // Told in between: the queue of those that have ended is short.
        const AT_ONCE: usize = LOOKS as usize;
        let found = Load::read(&self.tables, &self.index.published().replicas)?.entries;
        // As many again may be over already and wait in the ring for their turn.
        let mut left = 2 * found.flows.max(found.chats);
        let mut told = Told::default();
        while left > 0 {
            let now = left.min(AT_ONCE);
            self.data_path.look_at_all(now)?;
            told += tender.tell()?;
            left -= now;
        }
        self.status.told(told);
        if told.flows > 0 {
            info!(
                flows = told.flows,
                resets = told.resets,
                "ended flows of replicas that are gone"
            );
        }
        Ok(())
    }

    fn after_round(&mut self, report: Result<Report, Fault>, took: Duration) {
        let report = match report {
            Ok(report) => report,
            Err(e) => {
                self.status.round_failed();
                return warn!("a round ended early: {e}");
            }
        };
        self.status.went_round(&report, took);
        log_round(&report);
        self.index.free_unused(&report.used, secrets::monotonic());
        if self.index.is_behind() && self.synced.elapsed() >= AGAIN {
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

fn tender(pin_dir: &Path) -> Result<Tender> {
    let tender = Tender::new(pin_dir)?;
    Ok(match Resets::new() {
        Ok(resets) => tender.with_resets(resets),
        Err(e) => {
            warn!(
                "the ends of ended flows learn of it with their next segment only: no raw socket, \
                 which needs CAP_NET_RAW: {e}"
            );
            tender
        }
    })
}

fn log_round(report: &Report) {
    let Report { load, told, judged, .. } = report;
    let Entries { flows, chats, .. } = load.entries;
    debug!(flows, chats, told = told.flows, resets = told.resets, "went round");
    if judged.repinned > 0 {
        info!(pins = judged.repinned, "moved pins along with their replica");
    }
    if judged.forgotten > 0 {
        info!(keys = judged.forgotten, "forgot what was registered for services that are no more");
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
