//! The maps of the kernel programs. Sizes are the daemon's to set before it loads them.

use core::ptr::{self, NonNull};

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    cty::c_void,
    helpers::{
        bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_loop, bpf_map_peek_elem, bpf_map_pop_elem,
    },
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, Queue, lpm_trie},
};
use router_ebpf::{
    host::HostTables,
    maps::{
        Addr, Chat, ChatCookie, ChatKey, Chunk, ChunkKey, Farewell, Flow, FlowBack, Host, HostConn,
        Link, Load, Mac, Mark, Name, Pending, Problem, Replica, Ring, Secrets, Service, Share,
        Sharing, SourceKey, SourceRange, Stash, TrustedKey, Tuple, Vip, VipKey, Watched,
        WatchedChat,
    },
    schema::{Limits, Map},
    scratch::Scratch,
    shared::Shared,
    stage::Stage,
    tables::{FlowTables, Refused, Step, Tables},
    verdict::Counter,
};

const BPF_NOEXIST: u64 = 1;

/// A row of the schema as the kernel's definition. Its size is the default; the daemon sets its own.
macro_rules! statics {
    ($($(#[doc = $doc:literal])+ $variant:ident $field:ident $pin:ident:
        $kind:ident<$key:ty, $value:ty>, version $version:literal,
        size($limits:ident) = $size:expr, $key_is:literal => $value_is:literal;)+) => {
        $(
            #[map]
            static $pin: of!($kind<$key, $value>) =
                <of!($kind<$key, $value>)>::pinned(Map::$variant.size(&Limits::DEFAULT), flags!($kind));
        )+
    };
}

macro_rules! of {
    (Array<$key:ty, $value:ty>) => { Array<$value> };
    (PerCpuArray<$key:ty, $value:ty>) => { PerCpuArray<$value> };
    (Queue<$key:ty, $value:ty>) => { Queue<$value> };
    ($kind:ident<$key:ty, $value:ty>) => { $kind<$key, $value> };
}

macro_rules! flags {
    (LpmTrie) => {
        BPF_F_NO_PREALLOC
    };
    (HashMap) => {
        BPF_F_NO_PREALLOC
    };
    ($kind:ident) => {
        0
    };
}

router_ebpf::schema!(statics);

/// Not pinned, and of no interest to anybody else.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(4, 0);

/// The programs that go on where the attached ones stop, by their numbers. They belong to this very load of
/// the object, and are never filled anew.
#[map]
pub static INGRESS_STAGES: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);
#[map]
pub static INSIDE_STAGES: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);
#[map]
pub static EGRESS_STAGES: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);

const STAGES: u32 = Stage::ALL.len() as u32;

/// What time it was when this CPU last asked.
#[derive(Clone, Copy)]
#[repr(C)]
struct Now {
    /// In timer ticks.
    tick: u64,
    /// In nanoseconds.
    ns: u64,
}

/// The coarse clock goes on by ticks, so it need not be asked twice in one: that is a call of several nanoseconds, and
/// to ask for the tick is a load.
#[map]
static NOW: PerCpuArray<Now> = PerCpuArray::with_max_entries(1, 0);

/// Which working memory: the hooks do not share one, since a packet may leave while another one
/// comes in.
pub const INGRESS: u32 = 0;
pub const EGRESS: u32 = 1;
pub const INSIDE: u32 = 3;
/// That of the clock hand, which comes in between the two.
pub const CLOCK: u32 = 2;

/// Working memory of this CPU.
#[inline(always)]
pub fn scratch(hook: u32) -> Option<&'static mut Scratch> {
    // SAFETY: one element for each CPU and hook, and a hook does not interrupt itself: it runs with
    // bottom halves off.
    SCRATCH.get_ptr_mut(hook).map(|scratch| unsafe { &mut *scratch })
}

/// The maps themselves.
pub struct KernelTables;

/// One time of a loop: 0 to go on, 1 to stop.
unsafe extern "C" fn step<S: Step>(_: u32, what: *mut S) -> i64 {
    // SAFETY: `repeat` made it from a reference that outlives the loop.
    let what = unsafe { &mut *what };
    !what.step() as i64
}

/// A map value as the pipeline shares it.
#[inline(always)]
fn shared<T: Copy>(value: *mut T) -> Option<Shared<T>> {
    // SAFETY: the kernel aligns map values to eight bytes, and their memory stays mapped while a program
    // runs, though it may be used for another key of the map.
    NonNull::new(value).map(|value| unsafe { Shared::new(value) })
}

#[inline(always)]
fn refused(result: Result<(), i32>) -> Result<(), Refused> {
    result.map_err(Refused::of)
}

/// Copies the first value of a queue, which stays there, and says whether there is one. Not through the stack, as
/// aya's own: there it would not be aligned.
#[inline(always)]
fn peek<T>(queue: &Queue<T>, to: &mut T) -> bool {
    // SAFETY: the map's values are of this type.
    unsafe {
        bpf_map_peek_elem(ptr::from_ref(queue).cast_mut().cast(), ptr::from_mut(to).cast()) == 0
    }
}

/// Takes the first value of a queue, in the same way.
#[inline(always)]
fn pop<T>(queue: &Queue<T>, to: &mut T) -> bool {
    // SAFETY: the map's values are of this type.
    unsafe {
        bpf_map_pop_elem(ptr::from_ref(queue).cast_mut().cast(), ptr::from_mut(to).cast()) == 0
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn now(&self) -> u64 {
        let Some(known) = NOW.get_ptr_mut(0) else { return 0 };
        // SAFETY: one element for each CPU, and no program interrupts another one; the helpers have no
        // preconditions.
        unsafe {
            let tick = bpf_jiffies64();
            if (*known).tick != tick {
                *known = Now { tick, ns: bpf_ktime_get_coarse_ns() };
            }
            (*known).ns
        }
    }

    #[inline(always)]
    fn secrets(&self) -> Option<&Secrets> {
        SECRETS.get(0).filter(|secrets| secrets.schema != 0)
    }

    #[inline(always)]
    fn vip(&self, vip: &VipKey) -> Option<u32> {
        const { assert!(size_of::<lpm_trie::Key<Vip>>() <= size_of::<VipKey>()) };
        // SAFETY: both are a prefix length and the bits behind it, and the other type is packed.
        let key = unsafe { &*core::ptr::from_ref(vip).cast::<lpm_trie::Key<Vip>>() };
        VIPS.get(key).copied()
    }

    #[inline(always)]
    fn service(&self, number: u32) -> Option<&Service> {
        // SAFETY: values of this map are replaced, never changed in place.
        unsafe { SERVICES.get(number) }
    }

    #[inline(always)]
    fn source_range(&self, source: &SourceKey) -> Option<u32> {
        const { assert!(size_of::<lpm_trie::Key<SourceRange>>() <= size_of::<SourceKey>()) };
        // SAFETY: both are a prefix length and the bits behind it, and the other type is packed.
        let key = unsafe { &*core::ptr::from_ref(source).cast::<lpm_trie::Key<SourceRange>>() };
        SOURCE_RANGES.get(key).copied()
    }

    #[inline(always)]
    fn link(&self, index: &u32) -> Option<Link> {
        // SAFETY: a value is one word, and any of them is right.
        unsafe { LINKS.get(index) }.copied()
    }

    #[inline(always)]
    fn mac(&self, mac: &Mac) -> Option<u64> {
        // SAFETY: a value is one word, and any of them is right.
        unsafe { MACS.get(mac) }.copied()
    }

    #[inline(always)]
    fn replica(&self, number: u32) -> Option<&Replica> {
        REPLICAS.get(number)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn chat_cookie(&self, key: &ChatKey) -> Option<&ChatCookie> {
        // SAFETY: values of this map are replaced, never changed in place.
        unsafe { CHAT_COOKIES.get(key) }
    }

    #[inline(always)]
    fn chat(&self, key: &ChatKey) -> Option<Shared<Chat>> {
        CHATS.get_ptr_mut(key).and_then(shared)
    }
}

impl HostTables for KernelTables {
    #[inline(always)]
    fn host(&self) -> Option<&Host> {
        HOST.get(0).filter(|host| host.namespace != 0)
    }

    #[inline(always)]
    fn stand_in(&self, vip: &Addr) -> Option<Addr> {
        // SAFETY: a value is written once, before anybody knows of it.
        unsafe { STAND_INS.get(vip) }.copied()
    }

    #[inline(always)]
    fn stands_for(&self, stand_in: &Addr) -> Option<Addr> {
        // SAFETY: as above.
        unsafe { STANDS_FOR.get(stand_in) }.copied()
    }

    #[inline(always)]
    fn source(&self, conn: &HostConn) -> Option<&Addr> {
        // SAFETY: values of this map are replaced, never changed in place. What is used again meanwhile is an address as well.
        unsafe { HOST_SOURCES.get(conn) }
    }

    #[inline(always)]
    fn set_source(&self, conn: &HostConn, source: &Addr) -> Option<()> {
        HOST_SOURCES.insert(conn, source, 0).ok()
    }

    #[inline(always)]
    fn remove_source(&self, conn: &HostConn) {
        let _ = HOST_SOURCES.remove(conn);
    }
}

impl FlowTables for KernelTables {
    #[inline(always)]
    fn repeat<S: Step>(&self, most: u32, what: &mut S) {
        let step: unsafe extern "C" fn(u32, *mut S) -> i64 = step;
        // SAFETY: the helper calls `step` with this pointer and returns.
        unsafe { bpf_loop(most, step as *mut c_void, ptr::from_mut(what).cast(), 0) };
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: one element for each CPU.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn add_chat(&self, key: &ChatKey, chat: &Chat) -> Result<(), Refused> {
        refused(CHATS.insert(key, chat, BPF_NOEXIST))
    }

    #[inline(always)]
    fn remove_chat(&self, key: &ChatKey) {
        // It may be gone already, which is what is wanted.
        let _ = CHATS.remove(key);
    }

    #[inline(always)]
    fn flow(&self, tuple: &Tuple) -> Option<Shared<Flow>> {
        FLOWS.get_ptr_mut(tuple).and_then(shared)
    }

    #[inline(always)]
    fn add_flow(&self, tuple: &Tuple, flow: &Flow) -> Result<(), Refused> {
        refused(FLOWS.insert(tuple, flow, BPF_NOEXIST))
    }

    #[inline(always)]
    fn remove_flow(&self, tuple: &Tuple) {
        // It may be gone already, which is what is wanted.
        let _ = FLOWS.remove(tuple);
    }

    #[inline(always)]
    fn flow_back(&self, tuple: &Tuple) -> Option<Shared<FlowBack>> {
        FLOWS_BACK.get_ptr_mut(tuple).and_then(shared)
    }

    #[inline(always)]
    fn add_flow_back(&self, tuple: &Tuple, flow: &FlowBack) -> Result<(), Refused> {
        refused(FLOWS_BACK.insert(tuple, flow, BPF_NOEXIST))
    }

    #[inline(always)]
    fn remove_flow_back(&self, tuple: &Tuple) {
        // It may be gone already, which is what is wanted.
        let _ = FLOWS_BACK.remove(tuple);
    }

    #[inline(always)]
    fn ended(&self, tuple: &Tuple) -> Option<Shared<Flow>> {
        ENDED.get_ptr_mut(tuple).and_then(shared)
    }

    #[inline(always)]
    fn set_ended(&self, tuple: &Tuple, flow: &Flow) -> Result<(), Refused> {
        refused(ENDED.insert(tuple, flow, 0))
    }

    #[inline(always)]
    fn ended_back(&self, tuple: &Tuple) -> Option<Shared<FlowBack>> {
        ENDED_BACK.get_ptr_mut(tuple).and_then(shared)
    }

    #[inline(always)]
    fn set_ended_back(&self, tuple: &Tuple, flow: &FlowBack) -> Result<(), Refused> {
        refused(ENDED_BACK.insert(tuple, flow, 0))
    }

    #[inline(always)]
    fn remove_ended_back(&self, tuple: &Tuple) {
        // It may be gone already, which is what is wanted.
        let _ = ENDED_BACK.remove(tuple);
    }

    #[inline(always)]
    fn watch_flow(&self, flow: &Watched) -> Result<(), Refused> {
        refused(FLOW_RING.push(flow, 0))
    }

    #[inline(always)]
    fn first_flow(&self, flow: &mut Watched) -> bool {
        peek(&FLOW_RING, flow)
    }

    #[inline(always)]
    fn next_flow(&self, flow: &mut Watched) -> bool {
        pop(&FLOW_RING, flow)
    }

    #[inline(always)]
    fn watch_chat(&self, chat: &WatchedChat) -> Result<(), Refused> {
        refused(CHAT_RING.push(chat, 0))
    }

    #[inline(always)]
    fn first_chat(&self, chat: &mut WatchedChat) -> bool {
        peek(&CHAT_RING, chat)
    }

    #[inline(always)]
    fn next_chat(&self, chat: &mut WatchedChat) -> bool {
        pop(&CHAT_RING, chat)
    }

    #[inline(always)]
    fn ring(&self, index: u32) -> Option<Shared<Ring>> {
        RINGS.get_ptr_mut(index).and_then(shared)
    }

    #[inline(always)]
    fn load(&self, replica: u32) -> Option<Shared<Load>> {
        LOADS.get_ptr_mut(replica).and_then(shared)
    }

    #[inline(always)]
    fn share(&self, index: u32) -> Option<Shared<Share>> {
        SHARES.get_ptr_mut(index).and_then(shared)
    }

    #[inline(always)]
    fn sharing(&self) -> Option<&Sharing> {
        SHARING.get(0)
    }

    #[inline(always)]
    fn trusted(&self, key: &TrustedKey) -> Option<u32> {
        const { assert!(size_of::<lpm_trie::Key<Addr>>() <= size_of::<TrustedKey>()) };
        // SAFETY: both are a prefix length and the bits behind it, and the other type is packed.
        let key = unsafe { &*core::ptr::from_ref(key).cast::<lpm_trie::Key<Addr>>() };
        TRUSTED.get(key).copied()
    }

    #[inline(always)]
    fn farewell(&self, farewell: &Farewell) -> Result<(), Refused> {
        refused(FAREWELLS.push(farewell, 0))
    }

    #[inline(always)]
    fn pending(&self, tuple: &Tuple) -> Option<Shared<Pending>> {
        PENDING.get_ptr_mut(tuple).and_then(shared)
    }

    #[inline(always)]
    fn set_pending(&self, tuple: &Tuple, pending: &Pending) -> Result<(), Refused> {
        refused(PENDING.insert(tuple, pending, 0))
    }

    #[inline(always)]
    fn remove_pending(&self, tuple: &Tuple) {
        // It may be gone already, which is what is wanted.
        let _ = PENDING.remove(tuple);
    }

    #[inline(always)]
    fn stash(&self, tuple: &Tuple) -> Option<Shared<Stash>> {
        STASH.get_ptr_mut(tuple).and_then(shared)
    }

    #[inline(always)]
    fn add_stash(&self, tuple: &Tuple, stash: &Stash) -> Result<(), Refused> {
        refused(STASH.insert(tuple, stash, BPF_NOEXIST))
    }

    #[inline(always)]
    fn remove_stash(&self, tuple: &Tuple) {
        // It may be gone already, which is what is wanted.
        let _ = STASH.remove(tuple);
    }

    #[inline(always)]
    fn load_chunk(&self, key: &ChunkKey, to: &mut Chunk) -> bool {
        let Some(from) = CHUNKS.get_ptr(key) else { return false };
        let (from, to) = (from.cast::<u64>(), ptr::from_mut(to).cast::<u64>());
        for i in 0..size_of::<Chunk>() / 8 {
            // SAFETY: inside both, which are aligned. Volatile, or LLVM makes it a call of memcpy, which there is not.
            unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        }
        true
    }

    #[inline(always)]
    fn set_chunk(&self, key: &ChunkKey, chunk: &Chunk) -> Result<(), Refused> {
        refused(CHUNKS.insert(key, chunk, 0))
    }

    #[inline(always)]
    fn remove_chunk(&self, key: &ChunkKey) {
        // It may be gone already, which is what is wanted.
        let _ = CHUNKS.remove(key);
    }

    #[inline(always)]
    fn watch_head(&self, head: &Watched) -> Result<(), Refused> {
        refused(HEAD_RING.push(head, 0))
    }

    #[inline(always)]
    fn first_head(&self, head: &mut Watched) -> bool {
        peek(&HEAD_RING, head)
    }

    #[inline(always)]
    fn next_head(&self, head: &mut Watched) -> bool {
        pop(&HEAD_RING, head)
    }
}
