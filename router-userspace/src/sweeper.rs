//! Ends what nobody ends: idle flows, chats without connections, entries that were left over.
//!
//! The kernel's programs go on changing entries meanwhile, and a hash map has no compare-and-swap
//! for userspace. So what is written is read again just before, what can wait is only believed when
//! seen twice, and a chat's count that does not match its flows for several sweeps is corrected.

pub mod judge;
mod load;
pub mod resets;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::Duration,
};

use router_ebpf::maps::{
    Chat, ChatKey, FLOW_CHAT, Flow, NO_REPLICA, Name, REPLICA_GONE, Replica, STATE_EXPIRED,
    Service, Tuple,
};

use crate::{
    maps::{
        handle::Fault,
        tables::{Tables, TablesError},
    },
    plan::index::Used,
};

use judge::{Fate, Place};
pub use load::{Carried, Entries, Load};
use resets::Resets;

/// What was registered for a service that is gone is kept for so long: it may come back.
const NO_SERVICE: Duration = Duration::from_secs(60);
/// A connection that waits for its replica is given up after this: longer than its SYN cookie lives.
const PENDING_LIFE: Duration = Duration::from_secs(150);
/// How often `FLOWS_BACK` is compared with `FLOWS`: nothing should be found, and it doubles the work.
const ORPHANS: Duration = Duration::from_secs(30);
/// A chat's count is corrected when it was wrong, and the same, in so many sweeps.
const WRONG_COUNTS: u32 = 3;

/// What a sweep found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the maps refer to.
    pub used: Used,
    /// Who carries what, and how full the maps are.
    pub load: Load,
    /// Live flows.
    pub flows: usize,
    /// Chats with an entry.
    pub chats: usize,
    /// Flows that were ended.
    pub expired: usize,
    /// Clients that were reset with them.
    pub resets: usize,
    /// Flows whose entries were removed.
    pub removed: usize,
    /// Entries of `FLOWS_BACK` without a flow that were removed.
    pub orphans: usize,
    /// Chats that were removed.
    pub chats_removed: usize,
    /// Chats whose count was corrected.
    pub corrected: usize,
    /// Pins that followed their replica to its new number.
    pub repinned: usize,
    /// Entries of `CHAT_COOKIES` of services that are no more, removed.
    pub forgotten: usize,
}

/// Walks the maps now and then.
pub struct Sweeper {
    tables: Tables,
    keep_ended: Duration,
    /// Tells the clients of ended flows; without, they learn it with their next segment.
    resets: Option<Resets>,
    /// Services that something refers to but that are not there, since when.
    no_service: HashMap<u32, Duration>,
    /// `FLOWS_BACK` without a flow when that was last looked at.
    orphans: HashSet<Tuple>,
    /// When it is looked at next.
    next_orphans: Duration,
    /// Chats with a wrong count: their state, what it should count, and how often it was so.
    wrong: HashMap<ChatKey, (u64, u32, u32)>,
}

/// What one sweep knows.
struct Round {
    now: Duration,
    timeouts: HashMap<u32, Duration>,
    /// How long the chats of a service linger.
    lingers: HashMap<u32, Duration>,
    replicas: HashMap<u32, Replica>,
    report: Report,
}

impl Sweeper {
    /// A sweeper of the maps pinned under `pin_dir`.
    pub fn new(pin_dir: &Path, keep_ended: Duration) -> Result<Self, TablesError> {
        Ok(Self {
            tables: Tables::open(pin_dir)?,
            keep_ended,
            resets: None,
            no_service: HashMap::new(),
            orphans: HashSet::new(),
            next_orphans: Duration::ZERO,
            wrong: HashMap::new(),
        })
    }

    /// Resets the clients of the flows that it ends.
    pub fn with_resets(self, resets: Resets) -> Self {
        Self { resets: Some(resets), ..self }
    }

    /// Walks the maps once. `now` is of the monotonic clock.
    pub fn sweep(&mut self, now: Duration) -> Result<Report, Fault> {
        let flows = self.tables.flows.entries()?;
        self.judge(flows, now)
    }

    /// Judges flows by services and replicas, which are read after them: else a flow of a replica that was
    /// published in between would be ended as one of a replica that is gone.
    fn judge(&mut self, flows: Vec<(Tuple, Flow)>, now: Duration) -> Result<Report, Fault> {
        let services = self.tables.services.entries()?;
        let seconds = |of: fn(&Service) -> u32| {
            services.iter().map(|(n, s)| (*n, Duration::from_secs(of(s).into()))).collect()
        };
        let mut round = Round {
            now,
            timeouts: seconds(|service| service.idle_timeout),
            lingers: seconds(|service| service.linger),
            replicas: self.tables.all_replicas()?.into_iter().collect(),
            report: Report::default(),
        };
        let live = self.flows(flows, &mut round)?;
        self.chats(&mut round, &live)?;
        self.registered(&mut round)?;
        let pending = self.tables.pending.entries()?;
        round.report.load.entries.pending = pending.len();
        for (_, pending) in pending {
            // Nothing removes what no replica ever answered; SYN cookies have expired by then.
            if now.saturating_sub(Duration::from_nanos(pending.at)) < PENDING_LIFE {
                round.uses(pending.service, pending.replica);
            }
        }
        Ok(round.report)
    }

    /// Returns how many live flows each chat has at which home.
    fn flows(
        &mut self,
        flows: Vec<(Tuple, Flow)>,
        round: &mut Round,
    ) -> Result<HashMap<(ChatKey, u32), u32>, Fault> {
        let mut live = HashMap::new();
        let mut backs = (round.now >= self.next_orphans).then(HashSet::new);
        round.report.load.entries.flows = flows.len();
        for (tuple, flow) in flows {
            let place = Place {
                idle_timeout: round.timeouts.get(&flow.service).copied(),
                is_gone: round
                    .replicas
                    .get(&flow.replica)
                    .is_none_or(|replica| replica.state == REPLICA_GONE),
            };
            let mut fate = judge::flow(&flow, place, round.now, self.keep_ended);
            if fate == Fate::Expire && !self.expire(&tuple, place, round)? {
                fate = Fate::Keep;
            }
            if fate == Fate::Remove {
                // The tuple may have come back since it was read: ports are used again when
                // TIME_WAIT is over, which is just now.
                let again = self.tables.flows.get(&tuple)?;
                let Some(again) = again else { continue };
                if again.since == flow.since
                    && judge::flow(&again, place, round.now, self.keep_ended) == Fate::Remove
                {
                    self.remove_flow(&tuple, &flow)?;
                    round.report.removed += 1;
                }
                continue;
            }
            if let Some(backs) = &mut backs {
                backs.insert(back_of(&tuple, &flow));
            }
            round.uses(flow.service, flow.replica);
            if fate == Fate::Keep && !judge::has_ended(&flow) {
                round.report.flows += 1;
                round.report.load.flow(flow.service, flow.replica);
                if flow.flags & FLOW_CHAT != 0 {
                    *live.entry((chat_of(&flow), flow.replica)).or_default() += 1;
                }
            }
        }
        if let Some(backs) = backs {
            self.remove_orphans(&backs, round)?;
            self.next_orphans = round.now + ORPHANS;
        }
        Ok(live)
    }

    /// Ends a flow. `false`: it is not idle any more.
    fn expire(&mut self, tuple: &Tuple, place: Place, round: &mut Round) -> Result<bool, Fault> {
        let flow = self.tables.flows.get(tuple)?;
        let still =
            |flow: &Flow| judge::flow(flow, place, round.now, self.keep_ended) == Fate::Expire;
        let Some(mut flow) = flow.filter(still) else { return Ok(false) };
        flow.state |= STATE_EXPIRED;
        // It is kept for late segments from now on.
        flow.last_seen = round.now.as_nanos() as u64;
        if !self.tables.flows.replace(tuple, &flow)? {
            return Ok(false);
        }
        let back_of = back_of(tuple, &flow);
        if let Some(mut back) = self.tables.flows_back.get(&back_of)? {
            back.state |= STATE_EXPIRED;
            self.tables.flows_back.replace(&back_of, &back)?;
            // Whatever the way to the client says: it is told again when it sends something.
            if let Some(resets) = &self.resets
                && resets.send(tuple, &back).is_ok()
            {
                round.report.resets += 1;
            }
        }
        if flow.flags & FLOW_CHAT != 0 {
            let key = chat_of(&flow);
            let chat = self.tables.chats.get(&key)?;
            let released = chat.and_then(|chat| judge::released(&chat, flow.replica, round.now));
            if let Some(chat) = released {
                self.tables.chats.replace(&key, &chat)?;
            }
        }
        round.report.expired += 1;
        Ok(true)
    }

    fn remove_flow(&mut self, tuple: &Tuple, flow: &Flow) -> Result<(), Fault> {
        // The replica's side first: without the client's side nothing would find it.
        let back = back_of(tuple, flow);
        self.tables.flows_back.remove(&back)?;
        self.tables.flows.remove(tuple)?;
        Ok(())
    }

    /// A flow that is just being established has one side only, so it takes two looks.
    fn remove_orphans(&mut self, backs: &HashSet<Tuple>, round: &mut Round) -> Result<(), Fault> {
        let mut orphans = HashSet::new();
        for (tuple, _) in self.tables.flows_back.entries()? {
            if backs.contains(&tuple) {
                continue;
            }
            if self.orphans.contains(&tuple) {
                self.tables.flows_back.remove(&tuple)?;
                round.report.orphans += 1;
            } else {
                orphans.insert(tuple);
            }
        }
        self.orphans = orphans;
        Ok(())
    }

    fn chats(
        &mut self,
        round: &mut Round,
        live: &HashMap<(ChatKey, u32), u32>,
    ) -> Result<(), Fault> {
        let mut wrong = HashMap::new();
        let chats = self.tables.chats.entries()?;
        round.report.load.entries.chats = chats.len();
        for (key, chat) in chats {
            let linger = round.lingers.get(&key.service).copied().unwrap_or_default();
            if judge::is_over(&chat, linger, round.now) {
                if self.remove_chat(&key, linger, round.now)? {
                    round.report.chats_removed += 1;
                    continue;
                }
            } else {
                let home = Chat::home(chat.state);
                let count = live.get(&(key, home)).copied().unwrap_or(0);
                if count != Chat::flows(chat.state) {
                    let times = match self.wrong.get(&key) {
                        Some((state, as_before, times))
                            if (*state, *as_before) == (chat.state, count) =>
                        {
                            times + 1
                        }
                        _ => 1,
                    };
                    if times < WRONG_COUNTS {
                        wrong.insert(key, (chat.state, count, times));
                    } else if self.correct(&key, &chat, Chat::pack(home, count))? {
                        round.report.corrected += 1;
                    }
                }
            }
            round.report.chats += 1;
            if Chat::flows(chat.state) > 0 {
                round.report.load.chat(key.service, Chat::home(chat.state));
            }
            round.uses(key.service, Chat::home(chat.state));
        }
        self.wrong = wrong;
        Ok(())
    }

    /// Removes a chat; `false`: a connection came in between.
    fn remove_chat(
        &mut self,
        key: &ChatKey,
        linger: Duration,
        now: Duration,
    ) -> Result<bool, Fault> {
        match self.tables.chats.take(key)? {
            Some(chat) if !judge::is_over(&chat, linger, now) => {
                // Back it goes, unless the next connection has already made a new entry.
                let _ = self.tables.chats.add(key, &chat);
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    fn correct(&mut self, key: &ChatKey, seen: &Chat, state: u64) -> Result<bool, Fault> {
        let chat = self.tables.chats.get(key)?;
        let Some(chat) = chat.filter(|chat| chat == seen) else { return Ok(false) };
        self.tables.chats.replace(key, &Chat { state, ..chat })
    }

    /// What userspace has registered: a pin follows its replica's identity to a new number, and
    /// entries of a service that is no more go.
    fn registered(&mut self, round: &mut Round) -> Result<(), Fault> {
        let all = self.tables.chat_cookies.entries()?;
        round.report.load.entries.chat_cookies = all.len();
        let mut no_service = HashMap::new();
        for (key, mut cookie) in all {
            if !round.timeouts.contains_key(&key.service) {
                let since = self.no_service.get(&key.service).copied().unwrap_or(round.now);
                no_service.insert(key.service, since);
                if round.now.saturating_sub(since) >= NO_SERVICE {
                    self.tables.chat_cookies.remove(&key)?;
                    round.report.forgotten += 1;
                    continue;
                }
            }
            if let Some(successor) = successor(&round.replicas, cookie.replica) {
                cookie.replica = successor;
                self.tables.chat_cookies.replace(&key, &cookie)?;
                round.report.repinned += 1;
            }
            round.uses(key.service, cookie.replica);
        }
        self.no_service = no_service;
        Ok(())
    }
}

impl Round {
    fn uses(&mut self, service: u32, replica: u32) {
        self.report.used.services.insert(service);
        if replica != NO_REPLICA {
            self.report.used.replicas.insert(replica);
        }
    }
}

/// The number that a gone replica's identity has now.
fn successor(replicas: &HashMap<u32, Replica>, number: u32) -> Option<u32> {
    let gone = replicas.get(&number).filter(|r| r.state == REPLICA_GONE)?;
    let same = |r: &Replica| (r.service, r.name) == (gone.service, gone.name);
    let found = replicas.iter().find(|(_, r)| same(r) && r.state != REPLICA_GONE);
    found.filter(|(_, r)| r.name != Name::EMPTY).map(|(n, _)| *n)
}

/// The key of a flow's other side.
fn back_of(tuple: &Tuple, flow: &Flow) -> Tuple {
    Tuple { server: flow.replica_addr, server_port: flow.replica_port, ..*tuple }
}

fn chat_of(flow: &Flow) -> ChatKey {
    ChatKey { cookie: flow.cookie, service: flow.service, reserved: 0 }
}

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod tests;
