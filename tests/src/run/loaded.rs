//! The programs, loaded once for tests that come one after the other.

use std::{
    collections::BTreeMap,
    fs, mem,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process, ptr, slice,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, PerCpuArray, PerCpuValues, Queue, lpm_trie::LpmTrie},
    programs::SchedClassifier,
    util::nr_cpus,
};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use roost::{
    attach::loader::{self, load_programs},
    maps::handle,
};
use router_ebpf::{
    maps::{
        Addr, Chat, ChatCookie, ChatKey, Chunk, ChunkKey, Farewell, Flow, FlowBack, Host, HostConn,
        Link, Load, Mac, Mark, Name, Pending, Problem, Replica, Ring, Secrets, Service, Share,
        Sharing, SourceRange, Stash, Tuple, Vip, Watched, WatchedChat,
    },
    schema::{Limits, Map},
    scratch::Scratch,
    stage::{Hook, Program, Stage},
};

/// Why programs are there.
const THERE: &str = "it is there until it is dropped";
const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "roost-run-";
/// As `cargo xtask build` leaves it.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/roost.o");
/// What all maps of the object are.
pub const DECLARED: &str = "a map as the schema declares it";

/// The programs, loaded into maps of these sizes. The verifier takes seconds for them, so the next test with maps of
/// these sizes gets them, too, when they are empty again.
pub struct Loaded {
    /// There until it is dropped.
    programs: Option<Programs>,
    limits: Limits,
    /// Whether all programs are there.
    pub is_whole: bool,
}

/// The programs with their maps.
pub struct Programs {
    /// As aya has them.
    pub ebpf: Ebpf,
    pins: Pins,
    /// What SLOTS holds: most tests want the same in it, and each entry takes a system call.
    slots: BTreeMap<u32, u32>,
}

/// Those that no test uses.
static IDLE: Mutex<Vec<(Limits, Programs)>> = Mutex::new(Vec::new());
/// No more than that: maps take memory.
const MOST_IDLE: usize = 4;

impl Loaded {
    /// Loads them, unless there are some that no test uses.
    pub fn new(limits: Limits) -> Self {
        let mut idle = IDLE.lock().expect("nobody panics with it");
        let found = idle.iter().position(|(sizes, _)| *sizes == limits);
        let found = found.map(|at| idle.remove(at).1);
        drop(idle);
        let programs = found.unwrap_or_else(|| load(&limits, None));
        Self { programs: Some(programs), limits, is_whole: true }
    }

    /// Sets entries of SLOTS, from this one on.
    pub fn set_slots(&mut self, base: u32, table: &[u32]) {
        let programs = self.programs.as_mut().expect(THERE);
        let map = declared(&mut programs.ebpf, Map::Slots);
        let mut slots = Array::<_, u32>::try_from(map).expect(DECLARED);
        for (slot, replica) in (base..).zip(table) {
            if programs.slots.insert(slot, *replica) != Some(*replica) {
                slots.set(slot, *replica, 0).expect("setting SLOTS");
            }
        }
    }
}

impl Deref for Loaded {
    type Target = Ebpf;

    fn deref(&self) -> &Ebpf {
        &self.programs.as_ref().expect(THERE).ebpf
    }
}

impl DerefMut for Loaded {
    fn deref_mut(&mut self) -> &mut Ebpf {
        &mut self.programs.as_mut().expect(THERE).ebpf
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let Some(mut programs) = self.programs.take() else { return };
        if !self.is_whole || thread::panicking() {
            return;
        }
        clear(&mut programs);
        let mut idle = IDLE.lock().expect("nobody panics with it");
        idle.push((self.limits, programs));
        if idle.len() > MOST_IDLE {
            idle.remove(0);
        }
    }
}

/// Loads the programs for clients on this machine as well, if that is not done.
pub fn load_inside(ebpf: &mut Ebpf) {
    let first = Program { hook: Hook::Inside, stage: Stage::Ingress }.name();
    let first: &SchedClassifier = ebpf.program(first).expect("it").try_into().expect("at TC");
    if first.fd().is_err() {
        loader::load_inside(ebpf).unwrap_or_else(|e| panic!("{e:#}"));
    }
}

/// The same for this machine's own processes.
pub fn load_host(ebpf: &mut Ebpf) {
    loader::load_host(ebpf).unwrap_or_else(|e| panic!("{e:#}"));
}

/// Loads the programs into new maps, which are empty. `events`: the level of events, if not that of the object.
pub fn load(limits: &Limits, events: Option<u8>) -> Programs {
    let pins = Pins::new();
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&pins.0);
    if let Some(level) = &events {
        loader.override_global(aya_log::LEVEL, level, false);
    }
    for map in Map::ALL {
        loader.map_max_entries(map.pin(), map.size(limits));
    }
    let mut ebpf = loader.load_file(OBJECT).unwrap_or_else(|e| {
        panic!("loading {OBJECT}: {e:?} (`cargo xtask build` makes it; loading needs root)")
    });
    load_programs(&mut ebpf).unwrap_or_else(|e| panic!("{e:#}"));
    Programs { ebpf, pins, slots: BTreeMap::new() }
}

/// Makes the maps as they were when they were new, but for counters, of which only what is added counts; for slots, which
/// nobody reads before a service has them; and for arrays of one entry, which every world sets.
fn clear(Programs { ebpf, pins, .. }: &mut Programs) {
    macro_rules! clear_each {
        ($($(#[$doc:meta])* $variant:ident $field:ident $pin:ident: $kind:ident<$key:ty, $value:ty>, version $version:literal,
            size($limits:ident) = $size:expr, $key_is:literal => $value_is:literal;)+) => {
            $(clear_each!($kind, Map::$variant, $key, $value);)+
        };
        (HashMap, $map:expr, $key:ty, $value:ty) => {
            let mut map = HashMap::<_, $key, $value>::try_from(declared(ebpf, $map)).expect(DECLARED);
            let keys: Vec<_> = map.keys().map(|key| key.expect(DECLARED)).collect();
            keys.iter().for_each(|key| map.remove(key).expect("removing what is there"));
        };
        (LruHashMap, $map:expr, $key:ty, $value:ty) => {
            clear_each!(HashMap, $map, $key, $value);
        };
        (LpmTrie, $map:expr, $key:ty, $value:ty) => {
            let mut map = LpmTrie::<_, $key, $value>::try_from(declared(ebpf, $map)).expect(DECLARED);
            let keys: Vec<_> = map.keys().map(|key| key.expect(DECLARED)).collect();
            keys.iter().for_each(|key| map.remove(key).expect("removing what is there"));
        };
        (Queue, $map:expr, $key:ty, $value:ty) => {
            let mut map = Queue::<_, $value>::try_from(declared(ebpf, $map)).expect(DECLARED);
            while map.pop(0).is_ok() {}
        };
        (Array, $map:expr, $key:ty, $value:ty) => {
            if !matches!($map, Map::Slots | Map::Secrets | Map::Sharing) {
                clear_array::<$value>(handle::Array::open(&pins.0, $map).expect(DECLARED));
            }
        };
        (PerCpuArray, $map:expr, $key:ty, $value:ty) => {};
    }
    router_ebpf::schema!(clear_each);
    let map = ebpf.map_mut("SCRATCH").expect("working memory");
    let mut scratch = PerCpuArray::<_, [u8; size_of::<Scratch>()]>::try_from(map).expect("bytes");
    let cpus = nr_cpus().expect("the number of CPUs");
    for at in 0..scratch.len() {
        let zeros = PerCpuValues::try_from(vec![[0; size_of::<Scratch>()]; cpus]);
        scratch.set(at, zeros.expect("one for each CPU"), 0).expect("clearing working memory");
    }
}

/// A map of the schema.
pub fn declared(ebpf: &mut Ebpf, map: Map) -> &mut aya::maps::Map {
    ebpf.map_mut(map.pin()).expect(DECLARED)
}

/// Sets all that is not zero to zero.
fn clear_array<V: Pod>(mut map: handle::Array<V>) {
    let is_zero = |value: &V| {
        // SAFETY: the kernel has written all bytes of it.
        let bytes = unsafe { slice::from_raw_parts(ptr::from_ref(value).cast(), size_of::<V>()) };
        bytes.iter().all(|byte: &u8| *byte == 0)
    };
    // SAFETY: a `Pod` may have any bytes.
    let zero: V = unsafe { mem::zeroed() };
    for (at, value) in (0..).zip(map.range(0..map.room()).expect(DECLARED)) {
        if !is_zero(&value) {
            map.set(at, &zero).expect("clearing an entry");
        }
    }
}

/// A directory in the bpffs, until it is dropped.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        mount_bpffs();
        remove_leftovers();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(BPFFS).join(format!("{PREFIX}{}-{count}", process::id()));
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("creating {}: {e}", dir.display()));
        Self(dir)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mount_bpffs() {
    let mounted = statfs(BPFFS).is_ok_and(|at| at.filesystem_type() == BPF_FS_MAGIC);
    if !mounted {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .unwrap_or_else(|e| panic!("mounting the bpffs at {BPFFS}: {e} (are you root?)"));
    }
}

/// Removes what killed tests have left.
fn remove_leftovers() {
    for entry in fs::read_dir(BPFFS).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        let Some((pid, _)) = pid else { continue };
        if !fs::exists(format!("/proc/{pid}")).unwrap_or(true) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
