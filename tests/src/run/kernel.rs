//! The loaded programs, run by `BPF_PROG_TEST_RUN`.

use std::collections::BTreeMap;

use aya::{
    Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, Queue, lpm_trie},
    programs::{Program, TestRun as _, TestRunOptions, TestRunResult, Xdp},
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use router_ebpf::{
    host::Way,
    maps::{
        Addr, Chat, ChatCookie, ChatKey, Chunk, ChunkKey, Farewell, Flow, FlowBack, Host, Link,
        Load, Mac, Pending, Replica, Secrets, Service, Share, Sharing, SourceRange, Stash, Tuple,
        Vip,
    },
    schema::{Limits, Map},
    stage::{self, CLOCK, CONNECT, HOST_BACK, HOST_OUT, LOOK, Stage},
    verdict::{Action, Counter},
};

use super::{
    Hook, Machine, Outcome,
    loaded::{DECLARED, Loaded, declared, load, load_host, load_inside},
    tap::Tap,
    world::{Kind, World, slot_table},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
/// The sizes of the maps, where a world says nothing else.
const LIMITS: Limits = Limits {
    flows: 0,
    chats: 0,
    pending: 1024,
    stash: 1024,
    ended: 1024,
    services: 64,
    replicas: 64,
};
/// No frame of a test run is larger.
const PAGE: usize = 4096;

/// The programs and their maps.
pub struct Rig {
    ebpf: Loaded,
    tap: Tap,
    /// Clients are on this machine: what they send comes by TC, not XDP.
    is_inside: bool,
}

impl Rig {
    /// Lets the interface take no more copies.
    pub fn close(&self) {
        self.tap.close();
    }
}

/// Keeps this thread on the CPU that it has: working memory and the limit on RSTs belong to a CPU.
fn stay_on_a_cpu() {
    let mut cpus = CpuSet::new();
    let cpu = sched_getcpu().expect("the CPU of this thread");
    cpus.set(cpu).expect("a CPU of this machine");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("staying on a CPU");
}

impl Rig {
    /// Loads the programs into new maps and fills those.
    pub fn new(world: &World) -> Self {
        Self::load(world).filled(world)
    }

    /// The programs with maps that are empty.
    pub fn load(world: &World) -> Self {
        stay_on_a_cpu();
        let World { chats, flows, stash, .. } = *world;
        let tap = Tap::new();
        let ebpf = Loaded::new(Limits { chats, flows, stash, ..LIMITS });
        Self { ebpf, tap, is_inside: false }
    }

    /// The same with clients on this machine, by a link that is not asked where its answers leave.
    #[must_use]
    pub fn inside(mut self) -> Self {
        load_inside(&mut self.ebpf);
        self.is_inside = true;
        self.set_link(Link::UNCHECKED);
        self
    }

    /// Says by which interface what comes by the link of test runs is answered: it is the loopback interface of a network
    /// namespace without routes.
    pub fn set_link(&mut self, link: Link) {
        const LOOPBACK: u32 = 1;
        self.set(Map::Links, &LOOPBACK, &link);
    }

    /// The same with this machine's own processes, and what stands in for VIPs.
    #[must_use]
    pub fn with_host(mut self, host: &Host, stand_ins: &[(Addr, Addr)]) -> Self {
        load_host(&mut self.ebpf);
        let mut map = Array::<_, Host>::try_from(self.map_mut(Map::Host)).expect(DECLARED);
        map.set(0, host, 0).expect("setting HOST");
        for (vip, stand_in) in stand_ins {
            self.set(Map::StandIns, vip, stand_in);
            self.set(Map::StandsFor, stand_in, vip);
        }
        self
    }

    /// Runs a frame through one of the programs at the device of the host's own connections. `None`: it is dropped.
    pub fn run_host(&mut self, way: Way, frame: &[u8]) -> Option<Vec<u8>> {
        let name = if way == Way::Out { HOST_OUT } else { HOST_BACK };
        let mut out = vec![0; PAGE];
        let result = self.test_run(name, frame, 1, &mut out);
        out.truncate(result.data_size_out as usize);
        match result.return_value {
            TC_ACT_UNSPEC => Some(out),
            TC_ACT_SHOT => None,
            action => panic!("{name} returned {action}"),
        }
    }

    /// The same with what the maps are to hold.
    #[must_use]
    pub fn filled(mut self, world: &World) -> Self {
        let map = self.map_mut(Map::Secrets);
        let mut secrets = Array::<_, Secrets>::try_from(map).expect(DECLARED);
        secrets.set(0, world.secrets, 0).expect("setting SECRETS");
        let map = self.map_mut(Map::Vips);
        let mut vips = aya::maps::LpmTrie::<_, Vip, u32>::try_from(map).expect(DECLARED);
        for (prefix_len, vip, service) in &world.vips {
            let key = lpm_trie::Key::new(*prefix_len, *vip);
            vips.insert(&key, service, 0).expect("setting VIPS");
        }
        let map = self.map_mut(Map::Sharing);
        let mut sharing = Array::<_, Sharing>::try_from(map).expect(DECLARED);
        sharing.set(0, world.sharing, 0).expect("setting SHARING");
        let map = self.map_mut(Map::Trusted);
        let mut trusted = aya::maps::LpmTrie::<_, Addr, u32>::try_from(map).expect(DECLARED);
        for (prefix_len, addr) in &world.trusted {
            trusted.insert(&lpm_trie::Key::new(*prefix_len, *addr), 1, 0).expect("setting TRUSTED");
        }
        for (number, service) in &world.services {
            self.set_service(*number, service);
        }
        for (number, replica) in world.replicas.iter().enumerate() {
            self.set_replica(number as u32, replica);
        }
        for kind in Kind::ALL {
            self.set_slots(kind.slots(), &slot_table(kind));
        }
        self
    }

    /// Takes a program away from those that go on in it.
    pub fn remove(&mut self, stage: Stage) {
        self.ebpf.is_whole = false;
        let array = stage::Program { hook: self.hook_of(stage), stage }.array();
        let array = self.ebpf.map_mut(array).expect("the array of its hook");
        let mut array = ProgramArray::try_from(array).expect("an array of programs");
        array.clear_index(&(stage as u32)).expect("a program that is there");
    }

    /// Where its part of the programs is.
    fn hook_of(&self, stage: Stage) -> stage::Hook {
        match stage.first() {
            Stage::Egress => stage::Hook::Egress,
            _ if self.is_inside => stage::Hook::Inside,
            _ => stage::Hook::Xdp,
        }
    }

    /// The program that is attached there.
    fn program(&self, hook: Hook) -> &'static str {
        let stage = if hook == Hook::Ingress { Stage::Ingress } else { Stage::Egress };
        stage::Program { hook: self.hook_of(stage), stage }.name()
    }

    /// Runs the programs on a frame, so many times; what they leave of it is in `out`.
    fn test_run(&mut self, name: &str, frame: &[u8], times: u32, out: &mut [u8]) -> TestRunResult {
        loop {
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: Some(out),
                repeat: times,
                ..TestRunOptions::default()
            };
            let result = match self.ebpf.program_mut(name).expect("a program") {
                Program::Xdp(xdp) => xdp.test_run(options),
                Program::SchedClassifier(classifier) => classifier.test_run(options),
                program => panic!("{program:?} takes no packets"),
            };
            match result {
                Ok(result) => return result,
                // A signal came before the program ran.
                Err(aya::programs::ProgramError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Err(e) => panic!("running {name} on {} bytes: {e:?}", frame.len()),
            }
        }
    }

    /// The counters that have moved, and how far.
    fn moved_since(&self, before: &[u64]) -> Vec<(Counter, u64)> {
        let moved = before.iter().zip(self.counters()).zip(Counter::ALL);
        let moved = moved.filter(|((before, after), _)| *before != after);
        moved.map(|((before, after), counter)| (*counter, after - before)).collect()
    }

    fn counters(&self) -> Vec<u64> {
        let map = self.map(Map::Counters);
        let counters = PerCpuArray::<_, u64>::try_from(map).expect(DECLARED);
        let read = |at| counters.get(&at, 0).expect("a counter").iter().sum();
        (0..Counter::COUNT as u32).map(read).collect()
    }

    fn map(&self, map: Map) -> &aya::maps::Map {
        self.ebpf.map(map.pin()).expect(DECLARED)
    }

    fn map_mut(&mut self, map: Map) -> &mut aya::maps::Map {
        declared(&mut self.ebpf, map)
    }

    fn all<K: Pod, V: Pod>(&self, of: Map) -> Vec<(K, V)> {
        let map = HashMap::<&MapData, K, V>::try_from(self.map(of)).expect(DECLARED);
        map.iter().map(|entry| entry.expect(DECLARED)).collect()
    }

    fn set<K: Pod, V: Pod>(&mut self, of: Map, key: &K, value: &V) {
        let mut map = HashMap::<&mut MapData, K, V>::try_from(self.map_mut(of)).expect(DECLARED);
        map.insert(key, value, 0).unwrap_or_else(|e| panic!("setting {}: {e}", of.pin()));
    }
}

/// So many instructions the verifier may look at in a program, of the million that it takes: what is added
/// has room, and older kernels look at more.
pub const MOST_VERIFIED: u32 = 300_000;

/// The programs, and how many instructions the verifier looks at in each.
pub fn verified(events: bool) -> Vec<(&'static str, u32)> {
    let level = if events { u8::MAX } else { 0 };
    let mut ebpf = load(&Limits { chats: 1, flows: 1, ..LIMITS }, Some(level)).ebpf;
    load_inside(&mut ebpf);
    load_host(&mut ebpf);
    let looked_at = |name| {
        let info = match ebpf.program(name).expect("the program") {
            Program::Xdp(program) => program.info(),
            Program::SchedClassifier(program) => program.info(),
            Program::CgroupSockAddr(program) => program.info(),
            program => panic!("{program:?}"),
        };
        let info = info.expect("what the kernel tells of a program");
        (name, info.verified_instruction_count().expect("a count since Linux 5.16"))
    };
    stage::Program::ALL
        .map(stage::Program::name)
        .into_iter()
        .chain([CLOCK, LOOK, HOST_OUT, HOST_BACK])
        .chain(CONNECT)
        .map(looked_at)
        .collect()
}

impl Machine for Rig {
    fn name(&self) -> &'static str {
        if self.is_inside { "kernel, from inside" } else { "kernel" }
    }

    fn run(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let before = self.counters();
        let mut out = vec![0; PAGE];
        let result = self.test_run(self.program(hook), frame, 1, &mut out);
        out.truncate(result.data_size_out as usize);
        let action = match (hook, result.return_value) {
            (Hook::Ingress, TC_ACT_UNSPEC) if self.is_inside => Action::Pass,
            // Not TC_ACT_OK: filters of others come behind it.
            (Hook::Egress, TC_ACT_UNSPEC) => Action::Pass,
            (Hook::Ingress, TC_ACT_SHOT) if self.is_inside => Action::Drop,
            (Hook::Ingress, TC_ACT_REDIRECT) if self.is_inside => Action::Reply,
            (Hook::Ingress, XDP_PASS) => Action::Pass,
            (Hook::Ingress, XDP_DROP) | (Hook::Egress, TC_ACT_SHOT) => Action::Drop,
            (Hook::Ingress, XDP_TX) => Action::Reply,
            (Hook::Egress, TC_ACT_REDIRECT) => Action::Turn,
            (hook, action) => panic!("{hook:?} returned {action}"),
        };
        let moved = self.moved_since(&before);
        const COPIES: [Counter; 3] =
            [Counter::DeliveredMore, Counter::LeftReplica, Counter::SynRepeated];
        let copies = moved.iter().filter(|(counter, _)| COPIES.contains(counter));
        let copies = copies.map(|(_, count)| count).sum();
        let copies = (0..copies).map(|_: u64| self.tap.next()).collect();
        Outcome { hook, action, frame: out, copies, moved }
    }

    fn flood(&mut self, frames: &[(Vec<u8>, u32)]) -> BTreeMap<Counter, u64> {
        let (before, mut out) = (self.counters(), vec![0; PAGE]);
        for (frame, times) in frames {
            self.test_run(self.program(Hook::Ingress), frame, *times, &mut out);
        }
        self.moved_since(&before).into_iter().collect()
    }

    fn flows(&self) -> Vec<(Tuple, Flow)> {
        self.all(Map::Flows)
    }

    fn flows_back(&self) -> Vec<(Tuple, FlowBack)> {
        self.all(Map::FlowsBack)
    }

    fn ended(&self) -> Vec<(Tuple, Flow)> {
        self.all(Map::Ended)
    }

    fn ended_back(&self) -> Vec<(Tuple, FlowBack)> {
        self.all(Map::EndedBack)
    }

    fn load(&self, replica: u32) -> (u64, u64) {
        let loads = Array::<_, Load>::try_from(self.map(Map::Loads)).expect(DECLARED);
        let Load { flows, chats } = loads.get(&replica, 0).expect("a load");
        (flows, chats)
    }

    fn share(&self, index: u32) -> (u32, u32) {
        let shares = Array::<_, Share>::try_from(self.map(Map::Shares)).expect(DECLARED);
        let Share { flows, chats, .. } = shares.get(&index, 0).expect("a share");
        (flows, chats)
    }

    fn heads(&self, index: u32) -> u32 {
        let shares = Array::<_, Share>::try_from(self.map(Map::Shares)).expect(DECLARED);
        shares.get(&index, 0).expect("a share").heads
    }

    fn set_share(&mut self, index: u32, share: &Share) {
        let map = self.map_mut(Map::Shares);
        let mut shares = Array::<_, Share>::try_from(map).expect(DECLARED);
        shares.set(index, *share, 0).expect("setting SHARES");
    }

    fn farewells(&mut self) -> Vec<Farewell> {
        let map = self.map_mut(Map::Farewells);
        let mut queue = Queue::<_, Farewell>::try_from(map).expect(DECLARED);
        std::iter::from_fn(|| queue.pop(0).ok()).collect()
    }

    fn look(&mut self) -> Vec<(Counter, u64)> {
        let before = self.counters();
        let program = self.ebpf.program_mut(LOOK).expect("the program that looks");
        let program: &mut Xdp = program.try_into().expect("an XDP program");
        let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::default() };
        program.test_run(options).expect("a look");
        self.moved_since(&before)
    }

    fn chats(&self) -> Vec<(ChatKey, Chat)> {
        self.all(Map::Chats)
    }

    fn pending(&self) -> Vec<(Tuple, Pending)> {
        self.all(Map::Pending)
    }

    fn set_flow(&mut self, tuple: &Tuple, flow: &Flow) {
        self.set(Map::Flows, tuple, flow);
    }

    fn set_flow_back(&mut self, tuple: &Tuple, flow: &FlowBack) {
        self.set(Map::FlowsBack, tuple, flow);
    }

    fn set_ended_back(&mut self, tuple: &Tuple, flow: &FlowBack) {
        self.set(Map::EndedBack, tuple, flow);
    }

    fn set_chat(&mut self, key: &ChatKey, chat: &Chat) {
        self.set(Map::Chats, key, chat);
    }

    fn set_chat_cookie(&mut self, key: &ChatKey, entry: &ChatCookie) {
        self.set(Map::ChatCookies, key, entry);
    }

    fn set_replica(&mut self, number: u32, replica: &Replica) {
        let map = self.map_mut(Map::Replicas);
        let mut replicas = Array::<_, Replica>::try_from(map).expect(DECLARED);
        replicas.set(number, *replica, 0).expect("setting REPLICAS");
    }

    fn set_service(&mut self, number: u32, service: &Service) {
        self.set(Map::Services, &number, service);
    }

    fn set_source_range(&mut self, prefix_len: u32, range: &SourceRange, value: u32) {
        let map = self.map_mut(Map::SourceRanges);
        let mut ranges = aya::maps::LpmTrie::<_, SourceRange, u32>::try_from(map).expect(DECLARED);
        let key = lpm_trie::Key::new(prefix_len, *range);
        ranges.insert(&key, value, 0).expect("setting SOURCE_RANGES");
    }

    fn set_mac(&mut self, mac: &Mac, value: u64) {
        self.set(Map::Macs, mac, &value);
    }

    fn set_slots(&mut self, base: u32, table: &[u32]) {
        self.ebpf.set_slots(base, table);
    }

    fn stash(&self) -> Vec<(Tuple, Stash)> {
        self.all(Map::Stash)
    }

    fn chunks(&self) -> Vec<(ChunkKey, Chunk)> {
        self.all(Map::Chunks)
    }

    fn set_stash(&mut self, tuple: &Tuple, stash: &Stash) {
        let map = self.map_mut(Map::Stash);
        let mut entries = HashMap::<_, Tuple, Stash>::try_from(map).expect(DECLARED);
        entries.insert(*tuple, stash, 0).expect("setting STASH");
    }

    fn forget_pending(&mut self, tuple: &Tuple) {
        let map = self.map_mut(Map::Pending);
        let mut pending = HashMap::<_, Tuple, Pending>::try_from(map).expect(DECLARED);
        pending.remove(tuple).expect("removing from PENDING");
    }

    fn clear_stash(&mut self) {
        let keys: Vec<Tuple> = self.stash().into_iter().map(|(tuple, _)| tuple).collect();
        let map = self.map_mut(Map::Stash);
        let mut stash = HashMap::<_, Tuple, Stash>::try_from(map).expect(DECLARED);
        for key in keys {
            let _ = stash.remove(&key);
        }
        let keys: Vec<ChunkKey> = self.chunks().into_iter().map(|(key, _)| key).collect();
        let map = self.map_mut(Map::Chunks);
        let mut chunks = HashMap::<_, ChunkKey, Chunk>::try_from(map).expect(DECLARED);
        for key in keys {
            let _ = chunks.remove(&key);
        }
    }
}
