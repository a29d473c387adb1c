//! Releases before this one, as far as they are pinned: the eBPF object, and what its daemon had written
//! into the maps. `tests/releases/` has them, a directory each.
//!
//! Everything is kept as bytes, since types change from release to release.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapInfo, MapType, ProgramArray},
    programs::{
        LinkOrder, Program, SchedClassifier, TcAttachType, Xdp, XdpMode, links::FdLink,
        tc::TcAttachOptions,
    },
};
use data_encoding::HEXLOWER;
use object::build::elf::{Builder, SectionData};
use object::elf;
use roost::maps::raw::Raw;
use router_ebpf::stage;
use serde::{Deserialize, Serialize};

use crate::lab::{Lab, UPLINK};

const OBJECT: &str = "roost.o";
const STATE: &str = "state.json";
const STAGES: &str = "stages.json";
/// Names of programs and pins, as every release has had them.
const PROGRAMS: [&str; 2] = ["roost_ingress", "roost_egress"];
const LINKS: &str = "links";
const ARRAYS: &str = "stages";
/// What the names of programs' numbers begin with in `SCHEMA`.
const NUMBERED: &[u8] = b"program:";
/// The chat that is pinned, a key that is bound to it, and where it is pinned to.
pub const PINNED: [&str; 3] = ["pinned", "alias", "replica-2"];

/// A map of a release.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    /// How many entries it has room for.
    max_entries: u32,
    /// Bytes of a value, where the map is an array.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_size: Option<usize>,
    /// Keys and values in hexadecimal; of an array the values alone, up to the last that is not zero.
    entries: Vec<(String, String)>,
}

/// The array in which a program finds those that go on in its place.
#[derive(Debug, Serialize, Deserialize)]
struct Stages {
    /// The program, which is attached.
    attached: String,
    /// The others by their places.
    programs: BTreeMap<u32, String>,
}

/// A release, as far as it is pinned.
#[derive(Debug)]
pub struct Release {
    /// The name of its directory.
    pub name: String,
    object: PathBuf,
    maps: BTreeMap<String, Held>,
    /// By the names of the arrays; the first releases had none.
    stages: BTreeMap<String, Stages>,
}

impl Release {
    /// All that were kept, the oldest first.
    pub fn all() -> Result<Vec<Self>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("releases");
        let mut all = Vec::new();
        for entry in fs::read_dir(&directory).context("looking for releases")? {
            let path = entry?.path();
            if path.is_dir() {
                all.push(Self::read(&path).with_context(|| format!("reading {}", path.display()))?);
            }
        }
        let number = |release: &Self| release.name.parse::<u32>().unwrap_or(u32::MAX);
        all.sort_by_key(number);
        Ok(all)
    }

    fn read(directory: &Path) -> Result<Self> {
        let name = directory.file_name().context("a name")?.to_string_lossy().into_owned();
        ensure!(name.parse::<u32>().is_ok(), "releases are named by their number");
        let maps = serde_json::from_slice(&fs::read(directory.join(STATE))?)?;
        let stages = match fs::read(directory.join(STAGES)) {
            Ok(stages) => serde_json::from_slice(&stages)?,
            Err(e) if e.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(e).context(STAGES),
        };
        Ok(Self { name, object: directory.join(OBJECT), maps, stages })
    }

    /// The same release as if it had not had a counter yet, which is one that has no map changed.
    pub fn without_counter(mut self, counter: &str) -> Result<Self> {
        let mark = HEXLOWER.encode(format!("counter:{counter}").as_bytes());
        let schema = self.maps.get_mut("SCHEMA").context("a release without a record")?;
        let before = schema.entries.len();
        schema.entries.retain(|(name, _)| name.trim_end_matches("00") != mark);
        ensure!(schema.entries.len() + 1 == before, "{} has no counter {counter}", self.name);
        self.name.push_str(&format!(" without {counter}"));
        Ok(self)
    }

    /// Does on the lab's node what the release's daemon did there, which is dead by now: its programs are
    /// at work on the uplink, with its maps.
    pub fn leave_behind(&self, lab: &Lab) -> Result<()> {
        let pin_dir = lab.pin_dir();
        let links = pin_dir.join(LINKS);
        fs::create_dir_all(&links).with_context(|| format!("creating {}", links.display()))?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&pin_dir);
        loader.override_global(aya_log::LEVEL, &0u8, false);
        for (map, held) in &self.maps {
            loader.map_max_entries(map, held.max_entries);
        }
        let object = fs::read(&self.object)?;
        let mut ebpf = loader.load(&object).with_context(|| format!("loading {}", self.name))?;
        for (map, held) in &self.maps {
            held.write(&pin_dir.join(map)).with_context(|| format!("filling {map}"))?;
        }
        let others = self.stages.values().flat_map(|Stages { attached, programs }| {
            programs.values().chain([attached]).map(String::as_str)
        });
        for name in PROGRAMS.into_iter().chain(others).collect::<BTreeSet<_>>() {
            load(&mut ebpf, name).with_context(|| format!("loading {name} of {}", self.name))?;
        }
        for (array, stages) in &self.stages {
            stages.pin(&mut ebpf, array, &pin_dir).with_context(|| format!("pinning {array}"))?;
        }
        self.note_programs(&ebpf, &pin_dir)?;
        lab.node.run(|| {
            let classifier: &mut SchedClassifier =
                ebpf.program_mut(PROGRAMS[1]).context(PROGRAMS[1])?.try_into()?;
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            let id = classifier.attach_with_options(UPLINK, TcAttachType::Egress, order)?;
            let link: FdLink = classifier.take_link(id)?.try_into()?;
            link.pin(links.join(format!("{UPLINK}-tcx")))?;
            let xdp: &mut Xdp = ebpf.program_mut(PROGRAMS[0]).context(PROGRAMS[0])?.try_into()?;
            let id = xdp.attach(UPLINK, XdpMode::Driver)?;
            let link: FdLink = xdp.take_link(id)?.try_into()?;
            link.pin(links.join(format!("{UPLINK}-xdp")))?;
            Ok(())
        })
    }
}

impl Release {
    /// Notes the numbers of the programs that use the maps, as the release did, if it did.
    fn note_programs(&self, ebpf: &Ebpf, pin_dir: &Path) -> Result<()> {
        let Some(schema) = self.maps.get("SCHEMA") else { return Ok(()) };
        let is_number =
            |key: &Vec<u8>| key.strip_prefix(NUMBERED).is_some_and(|rest| rest[0].is_ascii_digit());
        let keys = schema.entries.iter().map(|(key, _)| HEXLOWER.decode(key.as_bytes()));
        let old: Vec<_> =
            keys.collect::<Result<Vec<_>, _>>()?.into_iter().filter(is_number).collect();
        let raw = Raw::open(&pin_dir.join("SCHEMA"))?.context("it has just been filled")?;
        for (key, name) in old.iter().zip(PROGRAMS) {
            raw.remove(key)?;
            let number = number(ebpf, name)?;
            let mut key = [NUMBERED, number.to_string().as_bytes()].concat();
            key.resize(old[0].len(), 0);
            raw.set(&key, &number.to_ne_bytes())?;
        }
        Ok(())
    }
}

impl Stages {
    /// Those of this release.
    fn own() -> BTreeMap<String, Self> {
        let mut all = BTreeMap::new();
        for program in stage::Program::ALL {
            let attached = program.attached().name().to_owned();
            let new = || Self { attached, programs: BTreeMap::new() };
            let stages = all.entry(program.array().to_owned()).or_insert_with(new);
            if !program.is_attached() {
                stages.programs.insert(program.stage as u32, program.name().to_owned());
            }
        }
        all
    }

    /// Fills the array with the programs, which are loaded, and pins it by the number of the one that is to be attached.
    fn pin(&self, ebpf: &mut Ebpf, array: &str, pin_dir: &Path) -> Result<()> {
        let directory = pin_dir.join(ARRAYS);
        fs::create_dir_all(&directory)?;
        let number = number(ebpf, &self.attached)?;
        for (place, name) in &self.programs {
            let fd = ebpf.program(name).context("there was one")?.fd()?.try_clone()?;
            let array = ebpf.map_mut(array).context("the object has no such map")?;
            ProgramArray::try_from(array)?.set(*place, &fd, 0)?;
        }
        let array = ebpf.map(array).context("the object has no such map")?;
        array.pin(directory.join(number.to_string())).context("pinning it")
    }
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    match ebpf.program_mut(name).context("the object has none")? {
        Program::Xdp(xdp) => Ok(xdp.load()?),
        Program::SchedClassifier(classifier) => Ok(classifier.load()?),
        _ => bail!("it is of another type"),
    }
}

/// The kernel's number of a program that is loaded.
fn number(ebpf: &Ebpf, name: &str) -> Result<u32> {
    Ok(match ebpf.program(name).context("the object has none")? {
        Program::Xdp(xdp) => xdp.info()?.id(),
        Program::SchedClassifier(classifier) => classifier.info()?.id(),
        _ => bail!("{name} is of another type"),
    })
}

/// Keeps what is pinned now, and the object that it was made with, as a release of this name.
pub fn keep(pin_dir: &Path, object: &Path, directory: &Path) -> Result<()> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(pin_dir).with_context(|| format!("reading {}", pin_dir.display()))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
            maps.insert(name, Held::read(&path).with_context(|| format!("{}", path.display()))?);
        }
    }
    ensure!(maps.len() > 10, "{} has no maps of a daemon", pin_dir.display());
    // One that was kept cannot be made again.
    fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
    fs::write(directory.join(OBJECT), without_debug_information(&fs::read(object)?)?)?;
    let mut state = serde_json::to_string_pretty(&maps)?;
    state.push('\n');
    fs::write(directory.join(STATE), state).context("writing the state")?;
    let mut stages = serde_json::to_string_pretty(&Stages::own())?;
    stages.push('\n');
    fs::write(directory.join(STAGES), stages).context("writing the stages")
}

/// What the kernel and aya read of an object is a fifth of it.
fn without_debug_information(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("reading the object")?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        section.delete =
            [".debug", ".rel.debug", ".rela.debug"].iter().any(|d| name.starts_with(d));
    }
    builder.delete_orphans();
    // LLVM has the sections' names among the symbols'; the builder wants them apart.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut small = Vec::new();
    builder.write(&mut small).context("writing the object")?;
    without_registry(&mut small);
    Ok(small)
}

/// Lines of the sources say which registry the crates are from: nobody needs to know. The length stays.
fn without_registry(object: &mut [u8]) {
    const BEFORE: &[u8] = b"/registry/src/";
    let mut at = 0;
    while let Some(found) = object[at..].windows(BEFORE.len()).position(|part| part == BEFORE) {
        at += found + BEFORE.len();
        for byte in object[at..].iter_mut().take_while(|byte| !b"/\0".contains(byte)) {
            *byte = b'-';
        }
    }
}

impl Held {
    fn read(pin: &Path) -> Result<Self> {
        let max_entries = MapInfo::from_pin(pin)?.max_entries();
        let raw = Raw::open(pin)?.context("it is gone")?;
        let mut entries = Vec::new();
        let mut held = Self { max_entries, value_size: None, entries: Vec::new() };
        match raw.shape() {
            // Counts are nobody's to keep, and to read a queue is to take from it.
            (MapType::PerCpuArray | MapType::Queue, ..) => {}
            (MapType::Array, _, value_size) => {
                held.value_size = Some(value_size);
                let mut values = Vec::new();
                raw.each(|_, value| values.extend_from_slice(value))?;
                let used = values.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                values.truncate(used.next_multiple_of(value_size));
                entries.push((String::new(), HEXLOWER.encode(&values)));
            }
            _ => {
                raw.each(|key, value| {
                    entries.push((HEXLOWER.encode(key), HEXLOWER.encode(value)))
                })?;
                entries.sort();
            }
        }
        held.entries = entries;
        Ok(held)
    }

    fn write(&self, pin: &Path) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let raw = Raw::open(pin)?.context("the object has no such map")?;
        for (key, value) in &self.entries {
            let value = HEXLOWER.decode(value.as_bytes())?;
            match self.value_size {
                None => raw.set(&HEXLOWER.decode(key.as_bytes())?, &value)?,
                Some(size) => {
                    for (index, value) in (0u32..).zip(value.chunks(size)) {
                        raw.set(&index.to_ne_bytes(), value)?;
                    }
                }
            }
        }
        Ok(())
    }
}
