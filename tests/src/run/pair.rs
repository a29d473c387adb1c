//! The loaded programs and the same code on the host, side by side: each packet has to come to the same.

use std::{collections::BTreeMap, thread, time::Duration};

use router_ebpf::{
    maps::{Chat, Flow, FlowBack, Pending, STATE_LEAVING, STATE_SYN_TICK, Tuple},
    verdict::{Action, Counter},
};

use super::{
    Hook, Machine, Outcome, difference,
    frame::Seg,
    host::Host,
    kernel::Rig,
    world::{Kind, REPLICAS, World},
};

/// Both.
pub struct Pair {
    /// The same code on the host.
    pub host: Host,
    /// The loaded programs.
    pub kernel: Rig,
    /// How often each counter has moved.
    pub verdicts: BTreeMap<Counter, u32>,
}

/// The clocks of both disagreed on something that depends on them: what follows says nothing.
#[derive(Debug)]
pub struct OutOfStep;

impl Pair {
    /// Two with the same maps.
    pub fn new(world: &World) -> Self {
        Self { host: Host::new(world), kernel: Rig::new(world), verdicts: BTreeMap::new() }
    }

    /// Runs a packet on both. Panics unless it came to the same.
    #[track_caller]
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Result<Outcome, OutOfStep> {
        let kernel = self.kernel.run(hook, frame);
        let host = self.host.run(hook, frame);
        let limited = Counter::DropResetLimit;
        if kernel.verdict() == limited || host.verdict() == limited {
            thread::sleep(Duration::from_millis(50));
            return Err(OutOfStep);
        }
        assert_eq!(kernel.moved, host.moved, "{hook:?} {:?} {frame:02x?}", Seg::parse(frame));
        assert_eq!(kernel.action, host.action);
        for (counter, _) in &kernel.moved {
            *self.verdicts.entry(*counter).or_default() += 1;
        }
        if kernel.action == Action::Drop {
            return Ok(kernel);
        }
        if kernel.verdict() == Counter::SynAnswered {
            let (one, other) = (without_clock(&kernel), without_clock(&host));
            if one.0 != other.0 {
                // The tick of the SYN cookies went on between the two.
                return Err(OutOfStep);
            }
            assert!(one.1 == other.1, "{}", difference(&one.1, &other.1));
        } else {
            assert!(kernel.frame == host.frame, "{}", difference(&kernel.frame, &host.frame));
        }
        Ok(kernel)
    }

    /// Panics unless all that matters in their maps is the same.
    #[track_caller]
    pub fn same_maps(&self) {
        let timeless = |(key, flow): (Tuple, Flow)| {
            let state = flow.state & !STATE_SYN_TICK;
            (key, Flow { last_seen: 0, since: 0, state, ..flow })
        };
        let flows = |machine: &dyn Machine| sorted(machine.flows().into_iter().map(timeless));
        assert_eq!(flows(&self.kernel), flows(&self.host));
        let ended = |machine: &dyn Machine| sorted(machine.ended().into_iter().map(timeless));
        assert_eq!(ended(&self.kernel), ended(&self.host));
        for replica in 0..Kind::ALL.len() as u32 * REPLICAS {
            assert_eq!(self.kernel.load(replica), self.host.load(replica), "of {replica}");
        }
        let backs = |machine: &dyn Machine| sorted(machine.flows_back().into_iter());
        assert_eq!(backs(&self.kernel), backs(&self.host));
        // When it was left.
        let timeless = |(key, back): (Tuple, FlowBack)| match back.state & STATE_LEAVING {
            0 => (key, back),
            _ => (key, FlowBack { exchange: 0, ..back }),
        };
        let backs = |machine: &dyn Machine| sorted(machine.ended_back().into_iter().map(timeless));
        assert_eq!(backs(&self.kernel), backs(&self.host));
        let chats = |machine: &dyn Machine| {
            let zero = |chat: Chat| Chat { ended_at: 0, since: 0, ..chat };
            sorted(machine.chats().into_iter().map(|(key, chat)| (key, zero(chat))))
        };
        assert_eq!(chats(&self.kernel), chats(&self.host));
        let pending = |machine: &dyn Machine| {
            let zero = |pending: Pending| Pending { at: 0, ..pending };
            sorted(machine.pending().into_iter().map(|(key, value)| (key, zero(value))))
        };
        assert_eq!(pending(&self.kernel), pending(&self.host));
    }
}

fn sorted<K: Ord + Copy, V>(entries: impl Iterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

/// A SYN-ACK's sequence number, and its frame without what depends on the clock: our timestamp, and
/// with it the checksum.
fn without_clock(outcome: &Outcome) -> (u32, Vec<u8>) {
    let seg = Seg::parse(&outcome.frame).expect("a SYN-ACK");
    let mut frame = outcome.frame.clone();
    let l4 = seg.l4();
    frame[l4 + 16..l4 + 18].fill(0);
    if let Some((value, _)) = seg.timestamps() {
        let value = value.to_be_bytes();
        let at = seg.options.windows(6).position(|six| six[..2] == [8, 10] && six[2..] == value);
        let at = l4 + 20 + at.expect("the timestamps that were found");
        frame[at + 2..at + 6].fill(0);
    }
    (seg.seq, frame)
}
