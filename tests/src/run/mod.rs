//! The data path, one packet at a time: the loaded programs by `BPF_PROG_TEST_RUN`, and the same
//! code on the host. A test that says nothing else runs on both.

pub mod frame;
pub mod host;
pub mod kernel;
mod loaded;
pub mod pair;
pub mod requests;
pub mod talk;
pub mod tap;
pub mod world;

use std::{collections::BTreeMap, fmt::Write as _};

use router_ebpf::{
    maps::{
        Chat, ChatCookie, ChatKey, Chunk, ChunkKey, Farewell, Flow, FlowBack, Mac, Pending,
        Replica, Service, Share, SourceRange, Stash, Tuple,
    },
    verdict::{Action, Counter},
};

use self::{frame::Seg, world::World};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// From the client side, XDP.
    Ingress,
    /// Towards the client side, TC.
    Egress,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// What runs packets: the kernel, or the host.
pub trait Machine {
    /// Its name in messages.
    fn name(&self) -> &'static str;
    /// Runs one packet and tells all that it did.
    fn run(&mut self, hook: Hook, frame: &[u8]) -> Outcome;
    /// Runs packets from the client side as fast as it can, each so many times, and tells which counters moved and
    /// how far. What a packet has become is run the next time.
    fn flood(&mut self, frames: &[(Vec<u8>, u32)]) -> BTreeMap<Counter, u64>;
    /// All of `FLOWS`.
    fn flows(&self) -> Vec<(Tuple, Flow)>;
    /// All of `FLOWS_BACK`.
    fn flows_back(&self) -> Vec<(Tuple, FlowBack)>;
    /// All of `ENDED`.
    fn ended(&self) -> Vec<(Tuple, Flow)>;
    /// All of `ENDED_BACK`.
    fn ended_back(&self) -> Vec<(Tuple, FlowBack)>;
    /// What `LOADS` says of a replica: live flows and chats.
    fn load(&self, replica: u32) -> (u64, u64);
    /// What `SHARES` says at an index: live flows and chats.
    fn share(&self, index: u32) -> (u32, u32);
    /// The same: entries of waiting heads.
    fn heads(&self, index: u32) -> u32;
    /// Sets in `SHARES`.
    fn set_share(&mut self, index: u32, share: &Share);
    /// Takes all of `FAREWELLS`.
    fn farewells(&mut self) -> Vec<Farewell>;
    /// The clock hand looks at everything once. Returns the counters that moved.
    fn look(&mut self) -> Vec<(Counter, u64)>;
    /// All of `CHATS`.
    fn chats(&self) -> Vec<(ChatKey, Chat)>;
    /// All of `PENDING`.
    fn pending(&self) -> Vec<(Tuple, Pending)>;
    /// Sets in `FLOWS`.
    fn set_flow(&mut self, tuple: &Tuple, flow: &Flow);
    /// Sets in `FLOWS_BACK`.
    fn set_flow_back(&mut self, tuple: &Tuple, flow: &FlowBack);
    /// Sets in `ENDED_BACK`.
    fn set_ended_back(&mut self, tuple: &Tuple, flow: &FlowBack);
    /// Sets in `CHATS`.
    fn set_chat(&mut self, key: &ChatKey, chat: &Chat);
    /// Sets in `CHAT_COOKIES`.
    fn set_chat_cookie(&mut self, key: &ChatKey, entry: &ChatCookie);
    /// Sets in `REPLICAS`.
    fn set_replica(&mut self, number: u32, replica: &Replica);
    /// Sets in `SERVICES`.
    fn set_service(&mut self, number: u32, service: &Service);
    /// Sets in `SOURCE_RANGES`.
    fn set_source_range(&mut self, prefix_len: u32, range: &SourceRange, value: u32);
    /// Sets in `MACS`.
    fn set_mac(&mut self, mac: &Mac, value: u64);
    /// Sets a whole table in `SLOTS`.
    fn set_slots(&mut self, base: u32, replicas: &[u32]);
    /// All of `STASH`.
    fn stash(&self) -> Vec<(Tuple, Stash)>;
    /// `CHUNKS`.
    fn chunks(&self) -> Vec<(ChunkKey, Chunk)>;
    /// Makes or replaces an entry of `STASH`.
    fn set_stash(&mut self, tuple: &Tuple, stash: &Stash);
    /// Removes from `PENDING`.
    fn forget_pending(&mut self, tuple: &Tuple);
    /// Empties `STASH`.
    fn clear_stash(&mut self);
}

/// Runs a test on each machine for each address family, with empty maps each time, and the clock begins
/// anew.
pub fn on_all(world: &World, test: impl Fn(&mut dyn Machine, Family)) {
    for family in Family::ALL {
        test(&mut host::Host::new(&world.clone().starting_now()), family);
        let rig = kernel::Rig::load(world);
        test(&mut rig.filled(&world.clone().starting_now()), family);
    }
}

/// The same, and with clients on this machine, whose packets the kernel holds in another way.
pub fn on_all_and_inside(world: &World, test: impl Fn(&mut dyn Machine, Family)) {
    on_all(world, &test);
    for family in Family::ALL {
        let rig = kernel::Rig::load(world).inside();
        test(&mut rig.filled(&world.clone().starting_now()), family);
    }
}

/// All that a packet did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which program ran.
    pub hook: Hook,
    /// What it asked of the kernel.
    pub action: Action,
    /// What left.
    pub frame: Vec<u8>,
    /// What was sent back in before it, egress only.
    pub copies: Vec<Vec<u8>>,
    /// Every counter that moved, and how far, in the order of the map.
    pub moved: Vec<(Counter, u64)>,
}

impl Outcome {
    /// The verdict: the one counter that has an action.
    #[track_caller]
    pub fn verdict(&self) -> Counter {
        let mut verdicts = self.moved.iter().filter(|(counter, _)| counter.action().is_some());
        let verdict = verdicts.next().expect("a packet without a verdict");
        assert_eq!((verdicts.next(), verdict.1), (None, 1), "one verdict: {:?}", self.moved);
        verdict.0
    }

    /// Exactly these counters moved by one, and the action is the verdict's.
    #[track_caller]
    pub fn counts(self, expected: &[Counter]) -> Self {
        let mut expected: Vec<_> = expected.iter().map(|counter| (*counter, 1)).collect();
        expected.sort_unstable();
        assert_eq!(self.moved, expected, "the counters that moved, and those expected to");
        let verdict = self.verdict();
        assert_eq!(Some(self.action), verdict.action(), "the action of {verdict:?}");
        assert_eq!(verdict.is_ingress(), self.hook == Hook::Ingress);
        self
    }

    /// The packet left as exactly these bytes.
    #[track_caller]
    pub fn leaves(self, expected: &[u8]) -> Self {
        assert!(!matches!(self.action, Action::Drop), "it was dropped: {:?}", self.moved);
        assert!(self.frame == expected, "{}", difference(&self.frame, expected));
        self
    }

    /// The segment that left, whose checksums must be right.
    #[track_caller]
    pub fn segment(&self) -> Seg {
        let segment = Seg::parse(&self.frame).expect("a TCP segment");
        assert!(segment.bytes() == self.frame, "{}", difference(&self.frame, &segment.bytes()));
        segment
    }
}

/// Two frames, side by side.
pub fn difference(found: &[u8], expected: &[u8]) -> String {
    let mut text = String::from("the frame is not what was expected\n");
    for (name, frame) in [("found", found), ("expected", expected)] {
        let _ = writeln!(text, "{name:>8} ({} bytes): {:?}", frame.len(), Seg::parse(frame));
        let _ = writeln!(text, "{:>8}  {}", "", hex(frame));
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    let _ = writeln!(text, "first difference at {at:?}");
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many flows count for chats.
pub fn live(machine: &dyn Machine) -> u32 {
    machine.chats().iter().map(|(_, chat)| Chat::flows(chat.state)).sum()
}
