//! The programs under the benchmark, loaded apart from any daemon's and attached to nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie};
use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions, TestRunResult};
use aya::{Ebpf, EbpfLoader, Pod, VerifierLogLevel};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind};
use object::{SymbolFlags, SymbolKind, SymbolScope};
use roost::attach::loader::fill_stages;
use router_ebpf::maps::{ALL_SHARES, Chunk, ChunkKey, Share, Stash, Tuple};
use router_ebpf::schema;
use router_ebpf::stage::{self, Hook, Stage};
use router_ebpf::verdict::Counter;

/// Program names in the objects.
pub const INGRESS: &str = stage::Program { hook: Hook::Xdp, stage: Stage::Ingress }.name();
/// As above, of packets that come from a pod.
pub const INSIDE: &str = stage::Program { hook: Hook::Inside, stage: Stage::Ingress }.name();
/// As above.
pub const EGRESS: &str = stage::Program { hook: Hook::Egress, stage: Stage::Egress }.name();
const PASS: &str = "roost_pass";
/// The least that a program at XDP can do with a packet of a known connection.
pub const FLOOR_XDP: &str = "floor_xdp";
/// The same at TC.
pub const FLOOR_TC: &str = "floor_tc";
/// What the last two return for a packet of a known connection: XDP_PASS and TC_ACT_OK.
const PASSED: [(&str, u32); 2] = [(FLOOR_XDP, 2), (FLOOR_TC, 0)];
/// No frame of a test run is larger.
const PAGE: usize = 4096;

/// The log level of the data path: off, as in a daemon that was not told otherwise. With that the
/// verifier removes the events.
const LOG_LEVEL: (&str, u8) = ("AYA_LOG_LEVEL", 0);

/// What the verifier says about a program.
pub struct Verified {
    /// Instructions that it walked through.
    pub instructions: u32,
    /// Bytes of stack of the program and of each of its functions.
    pub stack: String,
    /// Bytes of machine code, with its functions.
    pub jit_bytes: u32,
}

/// Roost's programs with their maps, and the ones to compare with.
pub struct Kernel {
    roost: Ebpf,
    pass_xdp: Ebpf,
    pass_tc: Ebpf,
    floor_xdp: Ebpf,
    floor_tc: Ebpf,
    /// By program name.
    pub verified: BTreeMap<&'static str, Verified>,
}

impl Kernel {
    /// Loads everything.
    pub fn load() -> Result<Self> {
        let mut roost = load_object(&object("ROOST_EBPF_OBJECT", "roost.o")?)?;
        let mut verified = BTreeMap::new();
        for program in stage::Program::ALL.map(stage::Program::name) {
            verified.insert(program, load_program(&mut roost, program)?);
        }
        fill_stages(&mut roost, &[Hook::Xdp, Hook::Inside, Hook::Egress])?;
        let pass = object("ROOST_PASS_OBJECT", "pass.o")?;
        let mut pass_tc = load_object(&empty_classifier()?)?;
        let mut pass_xdp = load_object(&pass)?;
        for pass in [&mut pass_xdp, &mut pass_tc] {
            load_program(pass, PASS)?;
        }
        // Each with a map of its own.
        let floor = object("ROOST_FLOOR_OBJECT", "floor.o")?;
        let (mut floor_xdp, mut floor_tc) = (load_object(&floor)?, load_object(&floor)?);
        load_program(&mut floor_xdp, FLOOR_XDP)?;
        load_program(&mut floor_tc, FLOOR_TC)?;
        Ok(Self { roost, pass_xdp, pass_tc, floor_xdp, floor_tc, verified })
    }

    /// Runs a program `repeat` times on one buffer that begins as `packet`; the mean of its time.
    pub fn run(&self, program: &str, packet: &[u8], repeat: u32) -> Result<Duration> {
        let ebpf = match program {
            FLOOR_XDP => &self.floor_xdp,
            FLOOR_TC => &self.floor_tc,
            _ => &self.roost,
        };
        let run = test_run(ebpf, program, packet, repeat, None)?;
        if let Some((_, passed)) = PASSED.iter().find(|(floor, _)| *floor == program) {
            ensure!(run.return_value == *passed, "{program} does not know the packet's connection");
        }
        Ok(run.duration)
    }

    /// The same for the empty program of the same type.
    pub fn run_control(&self, program: &str, packet: &[u8], repeat: u32) -> Result<Duration> {
        let is_tc = [INSIDE, EGRESS, FLOOR_TC].contains(&program);
        let control = if is_tc { &self.pass_tc } else { &self.pass_xdp };
        Ok(test_run(control, PASS, packet, repeat, None)?.duration)
    }

    /// Runs a program of Roost once; what it makes of the packet.
    pub fn transform(&self, program: &str, packet: &[u8]) -> Result<Vec<u8>> {
        let mut out = vec![0; PAGE];
        let run = test_run(&self.roost, program, packet, 1, Some(&mut out))?;
        out.truncate(run.data_size_out as usize);
        Ok(out)
    }

    /// Lets a floor know the connection of a packet by its key, as the packet has it.
    pub fn enter_floor(&mut self, program: &str, key: [u8; 36]) -> Result<()> {
        let floor = if program == FLOOR_TC { &mut self.floor_tc } else { &mut self.floor_xdp };
        let map = floor.map_mut("FLOOR").context("the object has no map FLOOR")?;
        let mut map: HashMap<&mut MapData, [u8; 36], u64> = map.try_into().context("map FLOOR")?;
        map.insert(key, 0, 0).context("writing the map FLOOR")
    }

    /// All counters, summed over the CPUs.
    pub fn counters(&self) -> Result<BTreeMap<Counter, u64>> {
        let map = self
            .roost
            .map(schema::Map::Counters.pin())
            .context("the object has no map COUNTERS")?;
        let map: PerCpuArray<&MapData, u64> = map.try_into().context("map COUNTERS")?;
        let read = |(at, counter): (usize, &Counter)| {
            let values = map.get(&(at as u32), 0)?;
            Ok((*counter, values.iter().sum()))
        };
        Counter::ALL.iter().enumerate().map(read).collect()
    }

    /// Forgets all heads, which nobody delivers here, and takes further flows off the count of all: what a row leaves behind must not be in the way of the next one.
    pub fn forget_heads(&mut self) -> Result<()> {
        let mut heads = self.hash::<Tuple, Stash>(schema::Map::Stash.pin())?;
        for key in heads.keys().collect::<Result<Vec<_>, _>>()? {
            heads.remove(&key)?;
        }
        let mut chunks = self.hash::<ChunkKey, Chunk>(schema::Map::Chunks.pin())?;
        for key in chunks.keys().collect::<Result<Vec<_>, _>>()? {
            chunks.remove(&key)?;
        }
        let mut shares = self.array::<Share>(schema::Map::Shares.pin())?;
        let all = shares.get(&ALL_SHARES, 0)?;
        // Flows that rows have left stay, and would fill so much that shares bind: they are not what is measured.
        let all = Share { heads: 0, flows: all.flows.min(super::FLOWS), ..all };
        shares.set(ALL_SHARES, all, 0).context("writing the map SHARES")
    }

    /// A map that is an array.
    pub fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        self.map(name)?.try_into().with_context(|| format!("map {name}"))
    }

    /// A map that is a hash map.
    pub fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        self.map(name)?.try_into().with_context(|| format!("map {name}"))
    }

    /// A map that is a trie.
    pub fn trie<K: Pod, V: Pod>(&mut self, name: &str) -> Result<LpmTrie<&mut MapData, K, V>> {
        self.map(name)?.try_into().with_context(|| format!("map {name}"))
    }

    /// Writes a whole address into a trie.
    pub fn insert_whole<K: Pod>(
        &mut self,
        name: &str,
        bits: u32,
        key: K,
        value: u32,
    ) -> Result<()> {
        let mut trie = self.trie(name)?;
        trie.insert(&lpm_trie::Key::new(bits, key), value, 0)
            .with_context(|| format!("writing the map {name}"))
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.roost.map_mut(name).with_context(|| format!("the eBPF object has no map {name}"))
    }

    /// The hash maps of the data path, without those that have all of their entries from the beginning.
    pub fn growing_maps(&self) -> Result<Vec<Growing>> {
        let growing = schema::Map::ALL.iter().filter(|map| map.kind() == schema::Kind::HashMap);
        growing.map(|map| self.growing_map(*map)).collect()
    }

    fn growing_map(&self, of: schema::Map) -> Result<Growing> {
        let name = of.pin();
        let map = self.roost.map(name).with_context(|| format!("no map {name}"))?;
        let Map::HashMap(data) = map else { bail!("map {name} is no hash map") };
        let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
        let info = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| -> Result<u64> {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let line = line.with_context(|| format!("{path} has no line `{name}`:\n{info}"))?;
            line.trim().parse().with_context(|| format!("`{name}` of the map: {line}"))
        };
        Ok(Growing {
            map: of,
            key: field("key_size")?,
            value: field("value_size")?,
            bytes: field("memlock")?,
        })
    }
}

/// A hash map whose entries are allocated when they are made.
#[derive(Clone, Copy)]
pub struct Growing {
    /// Which.
    pub map: schema::Map,
    /// Bytes of a key.
    pub key: u64,
    /// Bytes of a value.
    pub value: u64,
    /// Bytes that it takes, as the kernel accounts for them.
    pub bytes: u64,
}

fn test_run(
    ebpf: &Ebpf,
    name: &str,
    packet: &[u8],
    repeat: u32,
    data_out: Option<&mut [u8]>,
) -> Result<TestRunResult> {
    let options =
        TestRunOptions { data_in: Some(packet), data_out, repeat, ..TestRunOptions::new() };
    let run = match ebpf.program(name) {
        Some(Program::Xdp(program)) => program.test_run(options),
        Some(Program::SchedClassifier(program)) => program.test_run(options),
        _ => bail!("no XDP or TC program {name}"),
    };
    run.with_context(|| format!("running {name} on {} bytes", packet.len()))
}

/// Reads an object: where `variable` says, or where `cargo xtask build` puts it.
fn object(variable: &str, name: &str) -> Result<Vec<u8>> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf").join(name);
    let path = env::var_os(variable).map_or(built, Into::into);
    fs::read(&path)
        .with_context(|| format!("reading {}: run `cargo xtask build` first", path.display()))
}

/// An object with the empty program for TC, whose bare run costs a little more or less than XDP's.
/// The object that is built has only the one for XDP.
fn empty_classifier() -> Result<Vec<u8>> {
    // r0 = TC_ACT_OK; exit
    const CODE: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let mut elf = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::default());
    let code = elf.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    elf.append_section_data(code, CODE.as_flattened(), 8);
    let license = elf.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    elf.append_section_data(license, b"Dual MIT/GPL\0", 1);
    elf.add_symbol(Symbol {
        name: PASS.into(),
        value: 0,
        size: CODE.as_flattened().len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(code),
        flags: SymbolFlags::None,
    });
    elf.write().context("making the empty program for TC")
}

/// Creates the maps. Those that are to be pinned need a bpffs for it: one of its own that is gone at
/// once, so that nothing of a daemon on this machine is touched.
fn load_object(object: &[u8]) -> Result<Ebpf> {
    let dir = tempfile::Builder::new().prefix("roost-bench-").tempdir()?;
    mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
        .context("mounting a bpffs (are you root?)")?;
    let (level, off) = LOG_LEVEL;
    let loaded = EbpfLoader::new()
        .default_map_pin_directory(dir.path())
        .override_global(level, &off, false)
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(object);
    umount2(dir.path(), MntFlags::MNT_DETACH).context("unmounting the bpffs")?;
    loaded.context("loading an eBPF object")
}

/// Loads a program, and finds out what the verifier had to do for it.
fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<Verified> {
    let program =
        ebpf.program_mut(name).with_context(|| format!("the eBPF object has no program {name}"))?;
    let log = without_descriptors(|| load(program))?;
    load(program).with_context(|| format!("loading the program {name}"))?;
    let info = match program {
        Program::Xdp(program) => program.info(),
        Program::SchedClassifier(program) => program.info(),
        _ => bail!("{name} is no XDP or TC program"),
    };
    let info = info.with_context(|| format!("asking about the program {name}"))?;
    let instructions = info
        .verified_instruction_count()
        .context("this kernel does not count verified instructions (Linux 5.16 does)")?;
    let log = match log {
        Err(ProgramError::LoadError { verifier_log, .. }) => verifier_log.to_string(),
        _ => String::new(),
    };
    let stack = stack(&log).unwrap_or("unknown").to_owned();
    Ok(Verified { instructions, stack, jit_bytes: info.size_jitted() })
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Does something while this process can open nothing more.
///
/// aya hands out the verifier's log only of a load that fails. This one fails behind the verifier,
/// when the kernel wants to give a file descriptor for what it has accepted.
fn without_descriptors<T>(action: impl FnOnce() -> T) -> Result<T> {
    let next = File::open("/dev/null")?.as_raw_fd();
    ensure!(next >= 0, "file descriptor {next}");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, next as u64, hard).map_err(io::Error::from)?;
    let result = action();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(io::Error::from)?;
    Ok(result)
}

/// The line about the stack in the verifier's log.
fn stack(log: &str) -> Option<&str> {
    log.lines().find_map(|line| line.strip_prefix("stack depth ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_is_found_in_the_log() {
        let log = "verification time 815 usec\nstack depth 8+0+136\nprocessed 99 insns\n";
        assert_eq!(stack(log), Some("8+0+136"));
        assert_eq!(stack("processed 99 insns"), None);
    }
}
