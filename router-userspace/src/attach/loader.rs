//! Brings the kernel programs and maps in, attaches them to interfaces, and takes them over from a
//! daemon before this one. Everything is pinned: the data path needs no daemon.

mod attach;
mod bpffs;
mod clock;
mod connect;
mod detach;
mod host;
mod links;
mod stages;
mod steps;
mod takeover;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapError, MapInfo},
    programs::ProgramError,
};
use aya_log::EbpfLogger;
use router_ebpf::{
    schema::Map,
    stage::{Hook, Program, Stage},
};
use tracing::warn;

use crate::{os::capabilities, plan::config::Limits};

use stages::Attachable;
use steps::{STEPS, Steps};
use takeover::TakeOver;

pub use attach::{Attached, loses_frames};
pub(crate) use connect::{
    MAC, is_served as is_host_served, is_wanted as is_host_wanted, remove_device,
};
pub use detach::detach;
pub(crate) use detach::{pinned_client_links, pinned_interfaces};
pub use host::load_host;
use links::LINKS;
pub(crate) use links::{interface_of, xdp_link};
pub use stages::{fill_stages, load_inside, load_programs};

/// The kernel programs, as built by `cargo xtask build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("ROOST_EBPF_OBJECT"));

pub(crate) const INGRESS: &str = Program { hook: Hook::Xdp, stage: Stage::Ingress }.name();
const INSIDE: &str = Program { hook: Hook::Inside, stage: Stage::Ingress }.name();
const EGRESS: &str = Program { hook: Hook::Egress, stage: Stage::Egress }.name();

/// The loaded programs, and where they are attached.
pub struct DataPath {
    ebpf: Ebpf,
    pin_dir: PathBuf,
    programs: Vec<Attachable>,
    /// By name, with the index that the name had.
    attached: BTreeMap<String, u32>,
}

impl fmt::Debug for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPath").field("attached", &self.attached).finish_non_exhaustive()
    }
}

impl DataPath {
    /// Loads the programs; creates and pins the maps, or takes those over that are pinned. If it cannot, the
    /// programs of the daemon before go on with their maps; what is left half done if the kernel refuses to
    /// replace them or to rename a pin is taken up by the next start.
    pub fn load(pin_dir: &Path, limits: &Limits, events: bool) -> Result<Self> {
        let (mut ebpf, mut take_over) = begin(pin_dir, limits, events, &STEPS)?;
        let prepared = prepare(&mut ebpf, &mut take_over, pin_dir);
        let programs = prepared.inspect_err(|_| take_over.undo())?;
        let (pin_dir, attached) = (pin_dir.to_owned(), BTreeMap::new());
        let mut data_path = Self { ebpf, pin_dir, programs, attached };
        if take_over.replaces_maps() {
            data_path.replace_programs()?;
            // The new programs are at work: a daemon that would not start now would help nobody.
            take_over.catch_up().unwrap_or_else(|e| {
                warn!("what came while the programs were replaced is not all carried over: {e:#}");
            });
        }
        take_over.finish()?;
        clock::adopt(&data_path.pin_dir)?;
        clock::start(&mut data_path.ebpf, &data_path.pin_dir)?;
        Ok(data_path)
    }

    /// Loads the programs for clients on this machine, if that is not done yet. The kernel takes seconds to look at them.
    pub(crate) fn load_inside(&mut self) -> Result<()> {
        let is_inside = |program: &Attachable| program.program.hook == Hook::Inside;
        if self.programs.iter().any(is_inside) {
            return Ok(());
        }
        load_inside(&mut self.ebpf)?;
        let programs = stages::attachable(&mut self.ebpf, &[Hook::Inside])?;
        stages::pin(&self.ebpf, &self.pin_dir, &programs)?;
        self.programs.extend(programs);
        Ok(())
    }

    /// Lets the clock hand look at so many flows and chats at least, now and not when their turn comes: to be
    /// called when a replica is gone.
    pub fn look_at_all(&mut self, entries: usize) -> Result<()> {
        clock::look(&mut self.ebpf, entries)
    }

    /// The data path's events, as a stream of log records to be flushed when readable.
    pub fn events(&mut self) -> Result<EbpfLogger<&'static dyn log::Log>> {
        EbpfLogger::init(&mut self.ebpf).context("reading the data path's events")
    }

    /// Where everything is pinned.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The interfaces that this daemon has attached to.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.attached.keys().map(String::as_str)
    }
}

/// All that comes before the first program is replaced. Returns the programs that are to be attached.
fn prepare(ebpf: &mut Ebpf, take_over: &mut TakeOver, pin_dir: &Path) -> Result<Vec<Attachable>> {
    load_programs(ebpf)?;
    let mut programs = stages::attachable(ebpf, &[Hook::Xdp, Hook::Egress])?;
    if detach::is_any_inside(pin_dir) {
        load_inside(ebpf)?;
        programs.extend(stages::attachable(ebpf, &[Hook::Inside])?);
    }
    let numbers: Vec<u32> = programs.iter().map(|program| program.number).collect();
    take_over.fill(&numbers)?;
    stages::pin(ebpf, pin_dir, &programs)?;
    Ok(programs)
}

/// Creates and pins the maps, or takes those over that are pinned, without any program.
pub fn make_maps(pin_dir: &Path, limits: &Limits) -> Result<()> {
    let (_, mut take_over) = begin(pin_dir, limits, false, &STEPS)?;
    take_over.fill(&[])?;
    take_over.finish()
}

/// Creates the maps that are not there, and brings in the programs, which are not loaded yet.
fn begin(pin_dir: &Path, limits: &Limits, events: bool, steps: &Steps) -> Result<(Ebpf, TakeOver)> {
    bpffs::prepare(pin_dir)?;
    let take_over = TakeOver::begin(pin_dir, steps)?;
    let links = pin_dir.join(LINKS);
    fs::create_dir_all(&links).with_context(|| format!("creating {}", links.display()))?;
    take_over.make_room()?;
    let level = if events { u8::MAX } else { 0 };
    let mut loader = EbpfLoader::new();
    // Read-only data: with the level at 0 the verifier removes the events altogether.
    loader.override_global(aya_log::LEVEL, &level, false);
    for map in Map::ALL {
        let (pin, size) = (take_over.pin(*map), map.size(limits));
        kept_size(&pin, *map, size);
        loader.map_max_entries(map.pin(), size);
        loader.map_pin_path(map.pin(), pin);
    }
    let loaded = loader.load(OBJECT).map_err(|e| load_error("the eBPF object", e));
    Ok((loaded.inspect_err(|_| take_over.undo())?, take_over))
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("the eBPF object has no program {name}"))?;
    program.try_into().with_context(|| format!("program {name} is of another type"))
}

/// Says that a pinned map keeps its size, if that is not the wanted one.
fn kept_size(pin: &Path, map: Map, wanted: u32) {
    if let Ok(info) = MapInfo::from_pin(pin)
        && info.max_entries() != wanted
    {
        warn!(
            map = map.pin(),
            size = info.max_entries(),
            wanted,
            "the pinned map keeps its size; a new one needs `roost detach` and a fresh start, which \
             ends the connections"
        );
    }
}

/// An error of loading, with the error number and the end of the verifier's log.
fn load_error(what: &str, error: EbpfError) -> anyhow::Error {
    const LINES: usize = 25;
    let hint = |e: &io::Error| match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => capabilities::hint(),
        Some(libc::ENOMEM | libc::E2BIG) => {
            " (are the [limits] larger than memory allows?)".to_owned()
        }
        _ => String::new(),
    };
    match error {
        EbpfError::ProgramError(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            let lines: Vec<_> = log.trim_end().lines().collect();
            let end = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
            // The verifier says no with EACCES, too, also for what a capability would allow.
            let is_denied =
                log.is_empty() || capabilities::missing().is_some_and(|m| !m.is_empty());
            let hint = if is_denied { hint(&io_error) } else { String::new() };
            anyhow::anyhow!(
                "the kernel does not load {what}: {io_error}{hint}; the end of the verifier's \
                 log:\n  {end}"
            )
        }
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            let hint = hint(&io_error);
            anyhow::anyhow!("the kernel does not create the map {name}: {io_error}{hint}")
        }
        error => anyhow::Error::new(error).context(format!("loading {what}")),
    }
}

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod takeover_tests;
