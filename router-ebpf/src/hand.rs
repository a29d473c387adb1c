//! The clock hand: what ends because of time, looked at in turn, a few at each step. Every acceptance of a
//! replica is such a step, and a timer of the kernel makes more, so nothing of this depends on a daemon.
//!
//! The rings are queues: what is taken is looked at, and put back at the end if it lives on. So a step costs the
//! same however many there are, and each is looked at once in a turn.
//!
//! The rings of flows and heads have room for twice as many as there can be, because one that is over stays until its
//! turn comes. Whoever makes them grow looks at two that are due; and at any two if there are more entries than can live: so those
//! that are over never fill a ring.

use crate::{
    chats,
    flow::{Ending, end, is_moving, retire},
    head,
    maps::{
        Addr, CHUNKS_OF_HEAD, ChunkKey, FLOW_ENTRIES, Farewell, Flow, HEAD_ENTRIES, REPLICA_GONE,
        STATE_CLIENT_FIN, STATE_COUNTED, STATE_ENDED, STATE_EXPIRED, STATE_REPLICA_FIN, Service,
        Stash, Watched, watch_time,
    },
    scratch::{Last, Turn},
    shared::Shared,
    shares::{ITSELF, OFF, count_flow, source},
    steer::SECOND,
    tables::{FlowTables, Refused, Step, Tables},
    verdict::Counter,
    verifier::reread,
};

/// One that another CPU is just ending is left to it for so long, in nanoseconds.
const ENDING: u64 = 10 * SECOND;
/// Each is looked at once in so many units of `at`: 17 s.
const TURN: u32 = 16;
/// How many flows, and how many chats, a step of the clock looks at, at the most. With 20 steps a second that is
/// a whole turn of two million.
pub const LOOKS: u32 = 8192;

/// For so long a head is waited for, from its first byte to its key, in nanoseconds.
pub const HEAD_TIMEOUT: u64 = 30 * SECOND;

/// How many are looked at before one comes in.
const BEFORE: u32 = 2;

/// Whether the next one is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In any case.
    Now,
    /// If its last time was a turn ago.
    Due,
}

/// Looks at flows, one at each step.
pub struct Flows<'a, T>(pub &'a T, pub When, pub &'a mut Turn, pub &'a mut Last);
/// Looks at chats, one at each step.
pub struct Chats<'a, T>(pub &'a T, pub When, pub &'a mut Turn);
/// Looks at heads, one at each step.
pub struct Heads<'a, T>(pub &'a T, pub When, pub &'a mut Turn, pub &'a mut Last);

impl<T: FlowTables> Step for Flows<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        next_flow(self.0, self.1, self.2, self.3)
    }
}

impl<T: FlowTables> Step for Chats<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        next_chat(self.0, self.1, self.2)
    }
}

impl<T: FlowTables> Step for Heads<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        next_head(self.0, self.1, self.2, self.3)
    }
}

/// Looks at flows before another one comes in.
#[inline(always)]
pub fn before_flow(tables: &impl FlowTables, turn: &mut Turn, last: &mut Last) {
    let room = tables.sharing().map_or(0, |sharing| sharing.flows);
    let when = when(tables, FLOW_ENTRIES, room);
    tables.repeat(BEFORE, &mut Flows(tables, when, turn, last));
}

/// Looks at heads before another one comes in.
#[inline(always)]
pub fn before_head(tables: &impl FlowTables, turn: &mut Turn, last: &mut Last) {
    let room = tables.sharing().map_or(0, |sharing| sharing.heads / CHUNKS_OF_HEAD);
    let when = when(tables, HEAD_ENTRIES, room);
    tables.repeat(BEFORE, &mut Heads(tables, when, turn, last));
}

/// Which are looked at before another one comes into a ring of which no more than `room` can live.
#[inline(always)]
fn when(tables: &impl FlowTables, ring: u32, room: u32) -> When {
    let entries = tables.ring(ring).map_or(0, |ring| ring.entries());
    if entries > room { When::Now } else { When::Due }
}

/// Puts a flow into its ring.
#[inline(always)]
pub fn watch_flow(tables: &impl FlowTables, flow: &Watched) -> Result<(), Refused> {
    entered(tables, FLOW_ENTRIES, tables.watch_flow(flow))
}

/// Puts a head into its ring.
#[inline(always)]
pub fn watch_head(tables: &impl FlowTables, head: &Watched) -> Result<(), Refused> {
    entered(tables, HEAD_ENTRIES, tables.watch_head(head))
}

/// Counts an entry of a ring.
#[inline(always)]
fn entered(
    tables: &impl FlowTables,
    ring: u32,
    result: Result<(), Refused>,
) -> Result<(), Refused> {
    if let Some(ring) = tables.ring(ring) {
        match result {
            Ok(()) => ring.add(1),
            // There are those that a release before has put there, and nobody has counted.
            Err(Refused::Full) => ring.set_full(),
            Err(_) => {}
        }
    }
    result
}

/// Counts an entry of a ring no longer.
#[inline(always)]
fn left(tables: &impl FlowTables, ring: u32) {
    if let Some(ring) = tables.ring(ring) {
        ring.add(OFF);
    }
}

/// Looks at the next flow. `false`: there is none whose turn it is.
#[inline(never)]
pub fn next_flow(tables: &impl FlowTables, when: When, turn: &mut Turn, last: &mut Last) -> bool {
    let now = watch_time(tables.now());
    let watched = &mut turn.flow;
    if when == When::Due && !(tables.first_flow(watched) && is_due(watched.at, now)) {
        return false;
    }
    // Another CPU may have taken that one meanwhile: then it is the one behind.
    if !tables.next_flow(watched) {
        return false;
    }
    if stays(tables, watched, last) {
        watched.at = now;
        if tables.watch_flow(watched).is_ok() {
            return true;
        }
        // The ring is busy.
        tables.count(Counter::Unwatched);
    }
    left(tables, FLOW_ENTRIES);
    true
}

/// Looks at the next chat. `false`: there is none whose turn it is.
#[inline(never)]
pub fn next_chat(tables: &impl FlowTables, when: When, turn: &mut Turn) -> bool {
    let now = watch_time(tables.now());
    let watched = &mut turn.chat;
    if when == When::Due && !(tables.first_chat(watched) && is_due(watched.at, now)) {
        return false;
    }
    if !tables.next_chat(watched) {
        return false;
    }
    if chats::stays(tables, &watched.key) {
        watched.at = now;
        // It was just taken, and there is no more than one for each chat.
        if tables.watch_chat(watched).is_err() {
            tables.count(Counter::Unwatched);
        }
    }
    true
}

/// Looks at the next head. `false`: there is none whose turn it is.
#[inline(never)]
pub fn next_head(tables: &impl FlowTables, when: When, turn: &mut Turn, last: &mut Last) -> bool {
    let now = watch_time(tables.now());
    let Turn { flow: watched, chunk, .. } = turn;
    if when == When::Due && !(tables.first_head(watched) && is_due(watched.at, now)) {
        return false;
    }
    if !tables.next_head(watched) {
        return false;
    }
    if head_stays(tables, watched, false, chunk, last) {
        watched.at = now;
        // Another CPU may have been quicker once.
        if tables.watch_head(watched).is_ok() || tables.watch_head(watched).is_ok() {
            return true;
        }
        tables.count(Counter::Unwatched);
        // Nobody would ever look at it again.
        head_stays(tables, watched, true, chunk, last);
    }
    left(tables, HEAD_ENTRIES);
    true
}

/// Whether a head is to be looked at again. One whose time is over goes, or that of a flow which has ended; and any if it
/// `must`.
#[inline(never)]
fn head_stays(
    tables: &impl FlowTables,
    watched: &Watched,
    must: bool,
    key: &mut ChunkKey,
    last: &mut Last,
) -> bool {
    let Some(entry) = tables.stash(&watched.tuple) else {
        return false;
    };
    if !is_watched(entry.get(), watched) {
        return false;
    }
    last.has_ended = has_ended(tables, watched, last) as u32;
    let has_ended = || reread(&last.has_ended) != 0;
    let may_stay = || !must && !has_ended() && !is_late(tables, entry.get());
    if may_stay() || !head::seize(tables, &watched.tuple, entry) {
        return true;
    }
    // Again, now that nobody else changes it.
    if may_stay() || !is_watched(entry.get(), watched) {
        entry.release(entry.owner());
        return true;
    }
    let Stash { acked, known, client_isn, .. } = *entry.get();
    head::remove(tables, &watched.tuple, entry.get(), key);
    if has_ended() {
        return false;
    }
    tables.count(Counter::EndedHead);
    if acked != 0 {
        let first = client_isn.wrapping_add(1);
        miss(tables, watched, first.wrapping_add(acked), first.wrapping_add(known), last);
    }
    false
}

/// Whether a head is the one that this entry of the ring is of.
#[inline(always)]
const fn is_watched(stash: &Stash, watched: &Watched) -> bool {
    stash.server_isn() == watched.server_isn && head::birth(stash) == watched.reserved
}

/// Whether a head is of a flow that has ended: both ends know, and nobody comes for what was kept for its replica.
#[inline(always)]
fn has_ended(tables: &impl FlowTables, watched: &Watched, last: &mut Last) -> bool {
    let Some(flow) = tables.ended(&watched.tuple) else {
        return false;
    };
    last.write_replica_side(&watched.tuple, flow.get());
    let back = tables.ended_back(&last.replica_side);
    let server_isn = watched.server_isn;
    back.is_some_and(|back| back.is_at(server_isn) || back.waits_for(server_isn))
}

/// Ends a connection whose client does not send again what is now nowhere any more, unless its replica has it. `next`: what
/// it sends next; `known`: what follows all that is known of it.
#[inline(always)]
fn miss(tables: &impl FlowTables, watched: &Watched, next: u32, known: u32, last: &mut Last) {
    let Watched { tuple, server_isn, .. } = watched;
    let mut has_all = false;
    let known = tables.flow(tuple).filter(|flow| {
        last.write_replica_side(tuple, flow.get());
        tables.flow_back(&last.replica_side).is_some_and(|back| {
            let acked = back.acked();
            let is_behind = |number: u32| number.wrapping_sub(acked) as i32 >= 0;
            // What acknowledges more than was sent to it is a lie.
            has_all = acked.wrapping_sub(next) as i32 >= 0
                && (is_behind(known) || is_behind(flow.sent()));
            back.is_at(*server_isn) || back.waits_for(*server_isn)
        })
    });
    if let Some(flow) = known {
        if !has_all && end(tables, tuple, flow, Ending::Expired, last) {
            tables.count(Counter::EndedLost);
        }
        return;
    }
    last.farewell = Farewell {
        tuple: *tuple,
        to_client: [server_isn.wrapping_add(1), next],
        ..Farewell::default()
    };
    if tables.farewell(&last.farewell).is_err() {
        tables.count(Counter::Untold);
    }
}

/// Whether a head has waited for too long: for its key, or for a replica, which has as long again as its service lets
/// it have.
#[inline(always)]
fn is_late(tables: &impl Tables, stash: &Stash) -> bool {
    let more = match tables.service(stash.service) {
        Some(service) if stash.bound != 0 => service.handshake_timeout as u64 * SECOND,
        _ => 0,
    };
    tables.now().saturating_sub(stash.since) >= HEAD_TIMEOUT + more
}

#[inline(always)]
const fn is_due(at: u32, now: u32) -> bool {
    now.wrapping_sub(at) >= TURN
}

/// Whether a flow is to be looked at again. One whose time is over is ended.
#[inline(always)]
fn stays(tables: &impl FlowTables, watched: &Watched, last: &mut Last) -> bool {
    let Some(shared) = tables.flow(&watched.tuple) else {
        return false;
    };
    let flow = shared.get();
    if flow.server_isn != watched.server_isn {
        // The tuple came back, and is in the ring by itself.
        return false;
    }
    let state = shared.state();
    // Before how long it has been silent: what moves has just been used.
    last.write_replica_side(&watched.tuple, flow);
    let moves = is_moving(tables, &last.replica_side, state);
    let silent = tables.now().saturating_sub(flow.last_seen);
    if state & STATE_ENDED != 0 {
        // It is being ended, or a release before left it here.
        if silent < ENDING {
            return true;
        }
        let expired = state & STATE_EXPIRED != 0;
        let how = if expired { Ending::Replaced } else { Ending::Closed };
        retire(tables, &watched.tuple, shared, how, last);
        return false;
    }
    if let Some((how, counter)) = over(tables, shared, state, moves, silent) {
        if end(tables, &watched.tuple, shared, how, last) {
            tables.count(counter);
        }
        return false;
    }
    if state & STATE_COUNTED == 0 {
        adopt(tables, &watched.tuple.client, shared);
    }
    true
}

/// Why a flow is over, if it is. `moves`: it waits for another replica, and so no longer for its own.
#[inline(always)]
fn over(
    tables: &impl Tables,
    flow: Shared<Flow>,
    state: u32,
    moves: bool,
    silent: u64,
) -> Option<(Ending, Counter)> {
    let Flow { service, replica, .. } = *flow.get();
    let belongs = tables
        .replica(replica)
        .is_some_and(|replica| replica.state != REPLICA_GONE && replica.service == service);
    let Some(known) = tables.service(service).filter(|_| belongs || moves) else {
        return Some((Ending::Expired, Counter::EndedGone));
    };
    // As a head has it that waits for its replica.
    if moves && silent >= HEAD_TIMEOUT + known.handshake_timeout as u64 * SECOND {
        return Some((Ending::Expired, Counter::EndedReuse));
    }
    let most = time_out(known, state) as u64 * SECOND;
    if silent < most {
        return None;
    }
    const BOTH: u32 = STATE_CLIENT_FIN | STATE_REPLICA_FIN;
    Some(match state & BOTH {
        BOTH => (Ending::Closed, Counter::EndedClosing),
        0 => (Ending::Expired, Counter::EndedIdle),
        _ => (Ending::Expired, Counter::EndedHalfClosed),
    })
}

/// For how many seconds a client may be silent in this state.
#[inline(always)]
const fn time_out(service: &Service, state: u32) -> u32 {
    match (state & STATE_CLIENT_FIN != 0, state & STATE_REPLICA_FIN != 0) {
        (false, false) => service.idle_timeout,
        (true, false) => service.client_closed_timeout,
        (false, true) => service.replica_closed_timeout,
        (true, true) => service.closing_timeout,
    }
}

/// Counts a flow that a release before has entered.
#[inline(always)]
fn adopt(tables: &impl FlowTables, client: &Addr, flow: Shared<Flow>) {
    let Flow { replica, service, .. } = *flow.get();
    let source = source(tables, client, ITSELF);
    flow.set_share(source);
    // Before it is said: whoever ends it then counts it off.
    count_flow(tables, replica, service, source, 1);
    if flow.set_state(STATE_COUNTED) & (STATE_COUNTED | STATE_ENDED) != 0 {
        count_flow(tables, replica, service, source, OFF);
    }
}
