//! The loaded programs, in maps of their own, run by `BPF_PROG_TEST_RUN`.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, lpm_trie},
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CpuSet, sched_setaffinity},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::Pid,
};
use router_ebpf::{
    maps::{
        Chat, ChatCookie, ChatKey, Flow, FlowBack, Pending, Replica, SLOT_STRIDE, Secrets, Service,
        Stash, Tuple, Vip,
    },
    verdict::{Action, Counter},
};

use super::{
    Hook, Machine, Outcome,
    tap::Tap,
    world::{World, slot_table},
};

const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "roost-run-";
/// As `cargo xtask build` leaves it.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/roost.o");
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
/// No frame of a test run is larger.
const PAGE: usize = 4096;

/// The programs and their maps.
pub struct Rig {
    ebpf: Ebpf,
    tap: Tap,
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

/// Keeps this thread on one CPU: working memory and the limit on RSTs belong to a CPU.
fn stay_on_a_cpu() {
    let mut cpus = CpuSet::new();
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread");
    let cpu = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu) == Ok(true));
    cpus.set(cpu.expect("a CPU")).expect("a CPU of this machine");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("staying on a CPU");
}

impl Rig {
    /// Loads the programs into new maps and fills those.
    pub fn new(world: &World) -> Self {
        Self::load(world).filled(world)
    }

    /// Loads the programs into new maps, which are empty.
    pub fn load(world: &World) -> Self {
        stay_on_a_cpu();
        let tap = Tap::new();
        // The maps stay as long as this holds them: the names are not needed any more.
        let pins = Pins::new();
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&pins.0);
        for (map, size) in [
            ("VIPS", 64),
            ("SERVICES", 64),
            ("REPLICAS", 64),
            ("SLOTS", SLOT_STRIDE * 4),
            ("CHATS", world.chats),
            ("CHAT_COOKIES", 1024),
            ("FLOWS", world.flows),
            ("FLOWS_BACK", world.flows),
            ("PENDING", 1024),
            ("STASH", 1024),
        ] {
            loader.map_max_entries(map, size);
        }
        let ebpf = loader.load_file(OBJECT).unwrap_or_else(|e| {
            panic!("loading {OBJECT}: {e:?} (`cargo xtask build` makes it; loading needs root)")
        });
        let mut rig = Self { ebpf, tap };
        rig.xdp().load().unwrap_or_else(|e| panic!("the kernel refuses roost_ingress: {e}"));
        rig.classifier().load().unwrap_or_else(|e| panic!("the kernel refuses roost_egress: {e}"));
        rig
    }

    /// The same with what the maps are to hold.
    #[must_use]
    pub fn filled(mut self, world: &World) -> Self {
        let map = self.ebpf.map_mut("SECRETS").expect("SECRETS");
        let mut secrets = Array::<_, Secrets>::try_from(map).expect("SECRETS");
        secrets.set(0, world.secrets, 0).expect("setting SECRETS");
        let map = self.ebpf.map_mut("VIPS").expect("VIPS");
        let mut vips = aya::maps::LpmTrie::<_, Vip, u32>::try_from(map).expect("VIPS");
        for (prefix_len, vip, service) in &world.vips {
            let key = lpm_trie::Key::new(*prefix_len, *vip);
            vips.insert(&key, service, 0).expect("setting VIPS");
        }
        for (number, service) in &world.services {
            self.set_service(*number, service);
        }
        for (number, replica) in world.replicas.iter().enumerate() {
            self.set_replica(number as u32, replica);
        }
        self.set_slots(0, &slot_table());
        self
    }

    fn xdp(&mut self) -> &mut Xdp {
        let program = self.ebpf.program_mut("roost_ingress").expect("roost_ingress");
        program.try_into().expect("an XDP program")
    }

    fn classifier(&mut self) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut("roost_egress").expect("roost_egress");
        program.try_into().expect("a classifier")
    }

    fn counters(&self) -> Vec<u64> {
        let map = self.ebpf.map("COUNTERS").expect("COUNTERS");
        let counters = PerCpuArray::<_, u64>::try_from(map).expect("COUNTERS");
        let read = |at| counters.get(&at, 0).expect("a counter").iter().sum();
        (0..Counter::COUNT as u32).map(read).collect()
    }

    fn all<K: Pod, V: Pod>(&self, name: &str) -> Vec<(K, V)> {
        let map = self.ebpf.map(name).expect(name);
        let map = HashMap::<&MapData, K, V>::try_from(map).expect(name);
        map.iter().map(|entry| entry.expect(name)).collect()
    }

    fn set<K: Pod, V: Pod>(&mut self, name: &str, key: &K, value: &V) {
        let map = self.ebpf.map_mut(name).expect(name);
        let mut map = HashMap::<&mut MapData, K, V>::try_from(map).expect(name);
        map.insert(key, value, 0).unwrap_or_else(|e| panic!("setting {name}: {e}"));
    }
}

impl Machine for Rig {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn run(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let before = self.counters();
        let mut out = vec![0; PAGE];
        let result = loop {
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            };
            let result = match hook {
                Hook::Ingress => self.xdp().test_run(options),
                Hook::Egress => self.classifier().test_run(options),
            };
            match result {
                Ok(result) => break result,
                // A signal came before the program ran.
                Err(aya::programs::ProgramError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Err(e) => panic!("running {hook:?} on {} bytes: {e:?}", frame.len()),
            }
        };
        out.truncate(result.data_size_out as usize);
        let action = match (hook, result.return_value) {
            (Hook::Ingress, XDP_PASS) | (Hook::Egress, TC_ACT_OK) => Action::Pass,
            (Hook::Ingress, XDP_DROP) | (Hook::Egress, TC_ACT_SHOT) => Action::Drop,
            (Hook::Ingress, XDP_TX) => Action::Reply,
            (Hook::Egress, TC_ACT_REDIRECT) => Action::Turn,
            (hook, action) => panic!("{hook:?} returned {action}"),
        };
        let moved = before.iter().zip(self.counters()).zip(Counter::ALL);
        let moved = moved.filter(|((before, after), _)| *before != after);
        let moved: Vec<_> =
            moved.map(|((before, after), counter)| (*counter, after - before)).collect();
        let copies = moved.iter().find(|(counter, _)| *counter == Counter::DeliveredMore);
        let copies = (0..copies.map_or(0, |(_, count)| *count)).map(|_| self.tap.next()).collect();
        Outcome { hook, action, frame: out, copies, moved }
    }

    fn flows(&self) -> Vec<(Tuple, Flow)> {
        self.all("FLOWS")
    }

    fn flows_back(&self) -> Vec<(Tuple, FlowBack)> {
        self.all("FLOWS_BACK")
    }

    fn chats(&self) -> Vec<(ChatKey, Chat)> {
        self.all("CHATS")
    }

    fn pending(&self) -> Vec<(Tuple, Pending)> {
        self.all("PENDING")
    }

    fn set_flow(&mut self, tuple: &Tuple, flow: &Flow) {
        self.set("FLOWS", tuple, flow);
    }

    fn set_flow_back(&mut self, tuple: &Tuple, flow: &FlowBack) {
        self.set("FLOWS_BACK", tuple, flow);
    }

    fn set_chat(&mut self, key: &ChatKey, chat: &Chat) {
        self.set("CHATS", key, chat);
    }

    fn set_chat_cookie(&mut self, key: &ChatKey, entry: &ChatCookie) {
        self.set("CHAT_COOKIES", key, entry);
    }

    fn set_replica(&mut self, number: u32, replica: &Replica) {
        let map = self.ebpf.map_mut("REPLICAS").expect("REPLICAS");
        let mut replicas = Array::<_, Replica>::try_from(map).expect("REPLICAS");
        replicas.set(number, *replica, 0).expect("setting REPLICAS");
    }

    fn set_service(&mut self, number: u32, service: &Service) {
        self.set("SERVICES", &number, service);
    }

    fn set_slots(&mut self, base: u32, table: &[u32]) {
        let map = self.ebpf.map_mut("SLOTS").expect("SLOTS");
        let mut slots = Array::<_, u32>::try_from(map).expect("SLOTS");
        for (slot, replica) in (base..).zip(table) {
            slots.set(slot, *replica, 0).expect("setting SLOTS");
        }
    }

    fn stash(&self) -> Vec<(Tuple, Stash)> {
        self.all("STASH")
    }

    fn clear_stash(&mut self) {
        let keys: Vec<Tuple> = self.stash().into_iter().map(|(tuple, _)| tuple).collect();
        let map = self.ebpf.map_mut("STASH").expect("STASH");
        let mut stash = HashMap::<_, Tuple, Stash>::try_from(map).expect("STASH");
        for key in keys {
            let _ = stash.remove(&key);
        }
    }
}
