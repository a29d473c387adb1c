//! Taking over from a daemon before this one, of this release or another, without a gap: the maps that
//! are the same stay, the others are made anew beside them, filled from them while the old programs
//! work, and take their names when the new programs do.
//!
//! What is new is pinned in a directory of its own until then. So a take-over that fails has touched
//! nothing, and one that was killed is seen: before the first program was replaced it is undone by the
//! next start, after that it is done to the end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::PerCpuValues;
use router_ebpf::{maps::Mark, schema::Map, verdict::Counter};
use tracing::{info, warn};

use crate::{
    maps::{
        handle::{Hash, PerCpuArray, kind},
        raw::Raw,
        record::Record,
    },
    os::sys,
};

use super::{
    detach,
    links::NEXT,
    steps::{Convert, Fate, Plan, Steps, convert},
};

/// So often entries are copied before the programs are replaced, at the most: each time takes less.
const PASSES: usize = 4;

/// A take-over that has begun, or a first start.
pub(super) struct TakeOver {
    pin_dir: PathBuf,
    next: PathBuf,
    plan: Plan,
    found: Option<Record>,
    copies: Vec<Copy>,
    /// What was in the old counters when they were copied.
    counted: BTreeMap<u32, Vec<u64>>,
    /// It goes on where a daemon was killed.
    pub(super) is_resumed: bool,
}

impl TakeOver {
    /// Looks at what is pinned, and refuses what cannot be taken over. Nothing is changed by that, but
    /// what a killed daemon has begun is undone or done.
    pub(super) fn begin(pin_dir: &Path, steps: &Steps) -> Result<Self> {
        let next = pin_dir.join(NEXT);
        let is_resumed = resume(pin_dir, &next, steps)?;
        let found = Record::read(pin_dir).context("reading what is pinned")?;
        let plan = match &found {
            None => Plan::first(),
            Some(found) => Plan::new(found, steps).map_err(|e| refusal(pin_dir, &e.to_string()))?,
        };
        for (map, fate) in &plan.fates {
            if matches!(fate, Fate::Kept) {
                check_shape(pin_dir, *map)?;
            }
        }
        if found.is_some() {
            info!(pin_dir = %pin_dir.display(), "taking over the pinned maps");
        }
        let (pin_dir, copies, counted) = (pin_dir.to_owned(), Vec::new(), BTreeMap::new());
        Ok(Self { pin_dir, next, plan, found, copies, counted, is_resumed })
    }

    /// Where the programs are to find or to make a map.
    pub(super) fn pin(&self, map: Map) -> PathBuf {
        match self.plan.fates.get(&map) {
            Some(Fate::Kept) => self.pin_dir.join(map.pin()),
            _ => self.next.join(map.pin()),
        }
    }

    /// Makes the directory of the new maps.
    pub(super) fn make_room(&self) -> Result<()> {
        fs::create_dir_all(&self.next).with_context(|| format!("creating {}", self.next.display()))
    }

    /// Whether programs that are at work have to be replaced now.
    pub(super) fn replaces_maps(&self) -> bool {
        self.is_resumed || self.plan.replaced().next().is_some()
    }

    /// Fills the new maps, which are there by now, while the old programs work. `programs`: the numbers
    /// of the new ones.
    pub(super) fn fill(&mut self, programs: &[u32]) -> Result<()> {
        let mut schema = self.schema()?;
        Record::own().write(&mut schema)?;
        // Those of a daemon that was killed stay: they may be at work.
        for id in programs {
            Record::note_program(&mut schema, *id)?;
        }
        for (map, fate) in self.plan.replaced() {
            let Fate::Changed(steps) = fate else { continue };
            self.copies.push(Copy::new(&self.pin_dir, &self.next, map, steps.clone())?);
            info!(map = map.pin(), "is of an older version: its entries are converted");
        }
        if self.is_resumed {
            // The daemon that was killed has copied what there was.
            return self.recount(false);
        }
        for _ in 0..PASSES {
            let changed: Result<usize> = self.copies.iter_mut().map(|copy| copy.pass(false)).sum();
            if changed? == 0 {
                break;
            }
        }
        self.recount(true)
    }

    /// Follows what has changed while the programs were replaced.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        for copy in &mut self.copies {
            copy.pass(true)?;
        }
        self.recount(true)
    }

    /// Gives the new maps their names. The record of them comes last.
    pub(super) fn finish(&self) -> Result<()> {
        Record::note_done(&mut self.schema()?)?;
        rename_all(&self.pin_dir, &self.next, &Record::own())
    }

    /// Undoes what was begun. The old programs have not noticed.
    pub(super) fn undo(&self) {
        if self.is_resumed {
            return;
        }
        if let Err(e) = remove_next(&self.next) {
            warn!("{e:#}");
        }
    }

    fn schema(&self) -> Result<Hash<Mark, u32>> {
        Hash::open(&self.next, Map::Schema).context("opening the new maps' record")
    }

    /// Adds to the new counters what the old ones have counted since the last time, or only remembers it.
    /// A count that a program adds in the very moment of writing is lost.
    fn recount(&mut self, adds: bool) -> Result<()> {
        let is_recounted = |fate: &Fate| matches!(fate, Fate::Recounted);
        let (Some(found), Some(true)) =
            (&self.found, self.plan.fates.get(&Map::Counters).map(is_recounted))
        else {
            return Ok(());
        };
        let old = PerCpuArray::<u64>::open(&self.pin_dir, Map::Counters)?;
        let mut new = PerCpuArray::<u64>::open(&self.next, Map::Counters)?;
        for (at, counter) in (0u32..).zip(Counter::ALL) {
            let Some(before) = found.counters.get(counter.name()) else { continue };
            let counts: Vec<u64> = old.get(*before)?.to_vec();
            let known = self.counted.insert(at, counts.clone()).unwrap_or(vec![0; counts.len()]);
            if counts == known || !adds {
                continue;
            }
            let added = counts.iter().zip(&known).map(|(now, then)| now.saturating_sub(*then));
            let sums: Vec<u64> =
                new.get(at)?.iter().zip(added).map(|(sum, added)| sum + added).collect();
            new.set(at, PerCpuValues::try_from(sums).context("counts of all CPUs")?)?;
        }
        Ok(())
    }
}

/// What to do with the leftovers of a killed take-over. Returns whether it has to go on.
fn resume(pin_dir: &Path, next: &Path, steps: &Steps) -> Result<bool> {
    if !next.exists() {
        return Ok(false);
    }
    let record = Record::read(next).context("reading what a take-over has left")?;
    let Some(record) = record.filter(|record| record.is_done || is_at_work(pin_dir, record)) else {
        info!("undoing a take-over that was interrupted");
        remove_next(next)?;
        return Ok(false);
    };
    if !record.is_done && record.is_own() {
        info!("going on with a take-over that was interrupted");
        return Ok(true);
    }
    // It may have been another release's, which this one does not follow: then it is not touched.
    Plan::new(&record, steps).map_err(|e| refusal(pin_dir, &e.to_string()))?;
    info!("ending a take-over that was interrupted");
    rename_all(pin_dir, next, &record)?;
    Ok(false)
}

/// Whether programs of this record are in pinned links.
fn is_at_work(pin_dir: &Path, record: &Record) -> bool {
    let programs = detach::link_paths(pin_dir);
    let programs: BTreeSet<u32> =
        programs.iter().filter_map(|path| sys::pinned_link_program(path).ok()).collect();
    !programs.is_disjoint(&record.programs)
}

/// Gives the new maps their names and removes those that are not in the record any more. The record
/// itself comes last: as long as it is not there, all of this is repeated.
fn rename_all(pin_dir: &Path, next: &Path, record: &Record) -> Result<()> {
    let rename = |name: &str| {
        let from = next.join(name);
        fs::rename(&from, pin_dir.join(name))
            .with_context(|| format!("renaming {}", from.display()))
    };
    let new = pins(next)?;
    new.iter().filter(|name| *name != Map::Schema.pin()).try_for_each(|name| rename(name))?;
    // What the record before had and this one has not. Other pins may be anybody's.
    let before = Record::read(pin_dir).context("reading what is pinned")?.unwrap_or_default();
    for name in before.maps.keys().filter(|name| !record.maps.contains_key(*name)) {
        let path = pin_dir.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("unpinning {}", path.display()));
            }
            _ => {}
        }
    }
    if new.iter().any(|name| name == Map::Schema.pin()) {
        rename(Map::Schema.pin())?;
    }
    remove_next(next)
}

/// The names of the maps that are pinned in a directory.
fn pins(directory: &Path) -> Result<Vec<String>> {
    let reading = || format!("reading {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if !entry.file_type().with_context(reading)?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

fn remove_next(next: &Path) -> Result<()> {
    match fs::remove_dir_all(next) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", next.display()))
        }
        _ => Ok(()),
    }
}

fn refusal(pin_dir: &Path, why: &str) -> anyhow::Error {
    anyhow!(
        "{} has the maps of another version of roost: {why}. Nothing was changed, and what runs goes on: \
         run that version, or `roost detach` and start anew (ends the connections)",
        pin_dir.display()
    )
}

/// A map of this version that is not as this version has it is no map of ours.
fn check_shape(pin_dir: &Path, map: Map) -> Result<()> {
    let path = pin_dir.join(map.pin());
    let own = (kind(map.kind()), map.key_size(), map.value_size());
    let raw = Raw::open(&path).with_context(|| format!("opening {}", path.display()))?;
    match raw.map(|raw| raw.shape()) {
        Some(found) if found == own => Ok(()),
        None => bail!(refusal(pin_dir, &format!("its map {} is not there", map.pin()))),
        Some((found, key, value)) => bail!(refusal(
            pin_dir,
            &format!(
                "its map {} is {found:?} with keys of {key} and values of {value} bytes, not {:?} with \
                 {} and {}",
                map.pin(),
                own.0,
                own.1,
                own.2
            )
        )),
    }
}

/// A map that is copied into a new one of another version.
struct Copy {
    map: Map,
    old: Raw,
    new: Raw,
    steps: Vec<Convert>,
    /// By the old key.
    copied: HashMap<Vec<u8>, Copied>,
}

/// What was made of an entry.
struct Copied {
    /// Hash of the old value.
    from: u64,
    new_key: Vec<u8>,
    /// Hash of the new value.
    to: u64,
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl Copy {
    fn new(pin_dir: &Path, next: &Path, map: Map, steps: Vec<Convert>) -> Result<Self> {
        let open = |directory: &Path| {
            let path = directory.join(map.pin());
            let raw = Raw::open(&path).and_then(|raw| raw.ok_or(io::ErrorKind::NotFound.into()));
            raw.with_context(|| format!("opening {}", path.display()))
        };
        Ok(Self { map, old: open(pin_dir)?, new: open(next)?, steps, copied: HashMap::new() })
    }

    /// Copies what is new or has changed since the last pass, and removes what is gone; returns how much
    /// that was. While the old programs are at work the new map follows the old one; in the last pass,
    /// after that, what the new programs have made or changed stays.
    fn pass(&mut self, is_last: bool) -> Result<usize> {
        let reading = || format!("reading the old map {}", self.map.pin());
        let mut changed = Vec::new();
        let mut known = 0usize;
        let each = |key: &[u8], value: &[u8]| {
            let copied = self.copied.get(key);
            known += usize::from(copied.is_some());
            if copied.is_none_or(|copied| copied.from != hash(value)) {
                changed.push((key.to_vec(), value.to_vec()));
            }
        };
        self.old.each(each).with_context(reading)?;
        let mut gone = Vec::new();
        if known < self.copied.len() {
            for key in self.copied.keys() {
                if self.old.get(key).with_context(reading)?.is_none() {
                    gone.push(key.clone());
                }
            }
        }
        let count = changed.len() + gone.len();
        let result =
            changed.into_iter().try_for_each(|(key, value)| self.copy(key, &value, is_last));
        let result =
            result.and_then(|()| gone.iter().try_for_each(|key| self.forget(key, is_last)));
        result.with_context(|| {
            format!("copying into the new map {} (are the [limits] too small?)", self.map.pin())
        })?;
        Ok(count)
    }

    fn copy(&mut self, key: Vec<u8>, value: &[u8], is_last: bool) -> io::Result<()> {
        let Some((new_key, new)) = convert(&self.steps, &key, value) else {
            return self.forget(&key, is_last);
        };
        match self.copied.get(&key) {
            Some(copied) if is_last && !self.is_as_written(copied)? => return Ok(()),
            None if is_last => self.new.add(&new_key, &new)?,
            _ => self.new.set(&new_key, &new)?,
        }
        self.copied.insert(key, Copied { from: hash(value), new_key, to: hash(&new) });
        Ok(())
    }

    fn forget(&mut self, key: &[u8], is_last: bool) -> io::Result<()> {
        let Some(copied) = self.copied.remove(key) else { return Ok(()) };
        if is_last && !self.is_as_written(&copied)? {
            return Ok(());
        }
        self.new.remove(&copied.new_key)
    }

    /// Whether no new program has changed an entry.
    fn is_as_written(&self, copied: &Copied) -> io::Result<bool> {
        Ok(self.new.get(&copied.new_key)?.is_some_and(|value| hash(&value) == copied.to))
    }
}
