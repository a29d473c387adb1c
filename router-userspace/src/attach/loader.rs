//! Brings the kernel programs and maps in, attaches them to interfaces, and takes them over from a
//! daemon before this one. Everything is pinned: the data path needs no daemon.

mod attach;
mod bpffs;
mod detach;
mod links;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapError, MapInfo},
    programs::{ProgramError, SchedClassifier, Xdp},
};
use aya_log::EbpfLogger;
use router_ebpf::{
    maps::{SCHEMA, SLOT_STRIDE},
    verdict::Counter,
};
use tracing::{info, warn};

use crate::{maps::tables::Tables, os::capabilities, plan::config::Limits};

pub use attach::{Attached, loses_frames};
pub use detach::detach;
pub(crate) use detach::pinned_interfaces;
use links::LINKS;
pub(crate) use links::{interface_of, xdp_link};

/// The kernel programs, as built by `cargo xtask build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("ROOST_EBPF_OBJECT"));

pub(crate) const INGRESS: &str = "roost_ingress";
const EGRESS: &str = "roost_egress";

/// The loaded programs, and where they are attached.
pub struct DataPath {
    ebpf: Ebpf,
    pin_dir: PathBuf,
    /// By name, with the index that the name had.
    attached: BTreeMap<String, u32>,
}

impl fmt::Debug for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPath").field("attached", &self.attached).finish_non_exhaustive()
    }
}

impl DataPath {
    /// Loads the programs; creates and pins the maps, or takes those over that are pinned.
    pub fn load(pin_dir: &Path, limits: &Limits, events: bool) -> Result<Self> {
        let mut ebpf = maps(pin_dir, limits, events)?;
        let xdp: &mut Xdp = program(&mut ebpf, INGRESS)?;
        xdp.load().map_err(|e| load_error(INGRESS, e.into()))?;
        let classifier: &mut SchedClassifier = program(&mut ebpf, EGRESS)?;
        classifier.load().map_err(|e| load_error(EGRESS, e.into()))?;
        Ok(Self { ebpf, pin_dir: pin_dir.to_owned(), attached: BTreeMap::new() })
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

/// Creates and pins the maps, or opens those that are pinned; the programs are not loaded yet.
pub(crate) fn maps(pin_dir: &Path, limits: &Limits, events: bool) -> Result<Ebpf> {
    bpffs::prepare(pin_dir)?;
    let links = pin_dir.join(LINKS);
    fs::create_dir_all(&links).with_context(|| format!("creating {}", links.display()))?;
    takes_over(pin_dir)?;
    let sizes = sizes(limits);
    for (map, size) in sizes {
        kept_size(pin_dir, map, size);
    }
    let level = if events { u8::MAX } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pin_dir);
    // Read-only data: with the level at 0 the verifier removes the events altogether.
    loader.override_global(aya_log::LEVEL, &level, false);
    for (map, size) in sizes {
        loader.map_max_entries(map, size);
    }
    loader.load(OBJECT).map_err(|e| load_error("the eBPF object", e))
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("the eBPF object has no program {name}"))?;
    program.try_into().with_context(|| format!("program {name} is of another type"))
}

/// Refuses maps of another schema before anything is loaded on top of them.
fn takes_over(pin_dir: &Path) -> Result<()> {
    let tables = match Tables::open_unfilled(pin_dir) {
        Ok(tables) => tables,
        // A first start, or one that was interrupted before all maps were there.
        Err(e) if e.is_absent() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let schema = tables.secrets.get(&0, 0).context("reading the map SECRETS")?.schema;
    let counters = tables.counters.len() as usize;
    if (schema != SCHEMA && schema != 0) || counters != Counter::COUNT {
        bail!(
            "{} has the maps of another version of roost (schema {schema}, {counters} counters; \
             this one has schema {SCHEMA}, {} counters): run that version, or `roost detach` and \
             start anew (ends the connections)",
            pin_dir.display(),
            Counter::COUNT
        );
    }
    info!(pin_dir = %pin_dir.display(), "taking over the pinned maps");
    Ok(())
}

fn sizes(limits: &Limits) -> [(&'static str, u32); 10] {
    [
        ("VIPS", (limits.services * 16).max(1024)),
        ("SERVICES", limits.services),
        ("REPLICAS", limits.replicas),
        ("SLOTS", limits.services * 2 * SLOT_STRIDE),
        ("CHATS", limits.chats),
        ("CHAT_COOKIES", limits.chats),
        ("FLOWS", limits.flows),
        ("FLOWS_BACK", limits.flows),
        ("PENDING", limits.pending),
        ("STASH", limits.stash),
    ]
}

/// Says that a pinned map keeps its size, if that is not the wanted one.
fn kept_size(pin_dir: &Path, map: &str, wanted: u32) {
    if let Ok(info) = MapInfo::from_pin(pin_dir.join(map))
        && info.max_entries() != wanted
    {
        warn!(
            map,
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
