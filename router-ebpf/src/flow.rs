//! How flows end: by FINs that are acknowledged, by an RST, by their time, or because Roost ends them. What is
//! left of one for late segments goes from the maps of live flows to those of ended ones at once.

use crate::{
    chats,
    maps::{
        FLOW_CHAT, Farewell, Flow, FlowBack, STATE_CHANGING, STATE_CLIENT_FIN,
        STATE_CLIENT_FIN_ACKED, STATE_CLOSED, STATE_COUNTED, STATE_ENDED, STATE_EXPIRED,
        STATE_MOVING, STATE_REPLICA_FIN, STATE_REPLICA_FIN_ACKED, Tuple,
    },
    scratch::Last,
    segment::Segment,
    shared::Shared,
    shares::{OFF, count_flow},
    steer::{SECOND, chat_key},
    tables::FlowTables,
    verdict::Counter,
    wire::{flags, is_near},
};

/// How far numbers may be from those that are expected for an RST to be believed. The replica wants the very
/// number it expects (RFC 5961 section 3), but data may be under way that it has yet to acknowledge.
pub const RESET_WINDOW: u32 = 1 << 20;
/// The same for a FIN, which may have more before it: as large as windows usually are.
const FIN_WINDOW: u32 = 1 << 24;

/// For how long what is left of a flow counts, in nanoseconds.
const LATE: u64 = 120 * SECOND;

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client.
    Client,
    /// The replica.
    Replica,
}

/// Looks at what may end a live flow: FIN, RST, and acknowledgements of FINs, from one of its ends. A segment
/// whose numbers are not near those that the other end expects says nothing, whoever sends it; it is passed on
/// and judged there.
///
/// `vip_side` is the flow's key.
#[inline(never)]
pub fn closing(
    tables: &impl FlowTables,
    vip_side: &Tuple,
    flow: Shared<Flow>,
    segment: &Segment,
    from: End,
    last: &mut Last,
) {
    last.write_replica_side(vip_side, flow.get());
    let Some(back) = tables.flow_back(&last.replica_side) else {
        return;
    };
    let delta = flow.get().seq_delta;
    // What the receiver expects next, and what it has sent, in the sender's numbers.
    let (expected, sent) = match from {
        End::Client => (back.acked(), back.sent().wrapping_sub(delta)),
        End::Replica => (flow.acked().wrapping_add(delta), flow.sent()),
    };
    let acks = segment.has(flags::ACK);
    if segment.has(flags::RST) {
        let ahead = segment.seq.wrapping_sub(expected);
        let near = acks && is_near(segment.ack, sent, RESET_WINDOW);
        if (ahead == 0 || ahead < RESET_WINDOW && near)
            && end(tables, vip_side, flow, Ending::Closed, last)
        {
            tables.count(Counter::Closed);
        }
        return;
    }
    if segment.has(flags::FIN) {
        let fin = segment.seq.wrapping_add(segment.sequence_len());
        if is_near(fin, expected, FIN_WINDOW) && acks && is_near(segment.ack, sent, FIN_WINDOW) {
            note_fin(tables, flow, Some(back), fin, from);
        }
    }
    let (bit, acked_bit, fin) = match from {
        End::Client => {
            (STATE_REPLICA_FIN, STATE_REPLICA_FIN_ACKED, flow.replica_fin().wrapping_sub(delta))
        }
        End::Replica => (STATE_CLIENT_FIN, STATE_CLIENT_FIN_ACKED, flow.client_fin()),
    };
    if acks && flow.state() & bit != 0 && segment.ack == fin {
        const BOTH: u32 = STATE_CLIENT_FIN_ACKED | STATE_REPLICA_FIN_ACKED;
        if (flow.set_state(acked_bit) | acked_bit) & BOTH == BOTH
            && end(tables, vip_side, flow, Ending::Closed, last)
        {
            tables.count(Counter::Closed);
        }
    }
}

/// Notes a FIN. `end` is what follows it, in its sender's numbers.
#[inline(always)]
pub fn note_fin(
    tables: &impl FlowTables,
    flow: Shared<Flow>,
    back: Option<Shared<FlowBack>>,
    end: u32,
    from: End,
) {
    match from {
        End::Client => flow.set_client_fin(end),
        End::Replica => flow.set_replica_fin(end),
    }
    let bit = match from {
        End::Client => STATE_CLIENT_FIN,
        End::Replica => STATE_REPLICA_FIN,
    };
    if flow.set_state(bit) & bit == 0 {
        // Its time counts from now on.
        flow.touch(tables.now());
    }
    if from == End::Client
        && let Some(back) = back
    {
        back.set_state(STATE_CLIENT_FIN);
    }
}

/// Whether a flow waits for another replica than the one of `replica_side`, or is just going on there. `state`: the flow's.
#[inline(always)]
pub fn is_moving(tables: &impl FlowTables, replica_side: &Tuple, state: u32) -> bool {
    state & STATE_MOVING != 0
        && (state & STATE_CHANGING != 0
            || tables.flow_back(replica_side).is_none_or(|back| back.exchange().is_over()))
}

/// Why a flow ends, and what its ends are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself: late segments still pass.
    Closed,
    /// Roost ends it: both ends are told, now and with each segment that they still send.
    Expired,
    /// Its client has begun anew on the tuple: the replica is told with each segment that it still sends.
    Replaced,
}

impl Ending {
    const fn state(self) -> u32 {
        match self {
            Self::Closed => STATE_CLOSED,
            Self::Expired | Self::Replaced => STATE_EXPIRED,
        }
    }
}

/// Ends a flow, once: it counts no longer, and what is left of it goes to the ended ones. Returns whether it
/// was live. `vip_side` is its key.
#[inline(never)]
pub fn end(
    tables: &impl FlowTables,
    vip_side: &Tuple,
    shared: Shared<Flow>,
    how: Ending,
    last: &mut Last,
) -> bool {
    let before = shared.set_state(how.state());
    if before & STATE_ENDED != 0 {
        return false;
    }
    // For how long its remains count.
    shared.touch(tables.now());
    if before & STATE_CHANGING == 0 {
        finish(tables, vip_side, shared, before, how, last);
    }
    true
}

/// Counts an ended flow off, which nobody else has done, and retires it. `state`: that of before its end.
#[inline(always)]
pub fn finish(
    tables: &impl FlowTables,
    vip_side: &Tuple,
    shared: Shared<Flow>,
    state: u32,
    how: Ending,
    last: &mut Last,
) {
    let flow = shared.get();
    if state & STATE_COUNTED != 0 {
        count_flow(tables, flow.replica, flow.service, flow.share, OFF);
    }
    if flow.flags & FLOW_CHAT != 0 {
        chats::release(tables, &chat_key(flow.service, flow.cookie), flow.replica);
    }
    retire(tables, vip_side, shared, how, last);
}

/// Lets go of a flow that was changed. If it has ended meanwhile, the rest of that is done here.
#[inline(never)]
pub fn end_change(
    tables: &impl FlowTables,
    vip_side: &Tuple,
    shared: Shared<Flow>,
    last: &mut Last,
) {
    let state = shared.end_change();
    if state & STATE_ENDED != 0 {
        let expired = state & STATE_EXPIRED != 0;
        let how = if expired { Ending::Expired } else { Ending::Closed };
        finish(tables, vip_side, shared, state, how, last);
    }
}

/// Whether what is left of a flow that ended at this time still is of this connection. Its ends may use the same
/// ports between them without Roost later, so it is so only for twice the time that TCP gives a segment in the
/// network (RFC 9293 section 3.4.2), as Linux has it. One that Roost has ended is told so for as long as it sends.
#[inline(always)]
pub fn is_late(state: u32, ended_at: u64, now: u64) -> bool {
    state & STATE_EXPIRED != 0 || now.saturating_sub(ended_at) < LATE
}

/// Moves what is left of a flow to the ended ones: there first, so that none of its segments finds nothing.
#[inline(always)]
pub fn retire(
    tables: &impl FlowTables,
    vip_side: &Tuple,
    shared: Shared<Flow>,
    how: Ending,
    last: &mut Last,
) {
    let flow = shared.get();
    last.write_replica_side(vip_side, flow);
    let mut kept = tables.set_ended(vip_side, flow);
    if let Some(back) = tables.flow_back(&last.replica_side)
        && back.get().vip == vip_side.server
        && back.get().vip_port == vip_side.server_port
    {
        if how != Ending::Closed {
            back.set_state(STATE_EXPIRED);
        }
        kept = kept.and(tables.set_ended_back(&last.replica_side, back.get()));
        if how == Ending::Expired {
            tell(tables, vip_side, shared, back, &mut last.farewell);
        }
        tables.remove_flow_back(&last.replica_side);
    }
    if kept.is_err() {
        tables.count(Counter::RemainsLost);
    }
    tables.remove_flow(vip_side);
}

/// Lets the daemon tell both ends, with the numbers that they expect.
#[inline(always)]
fn tell(
    tables: &impl FlowTables,
    vip_side: &Tuple,
    shared: Shared<Flow>,
    back: Shared<FlowBack>,
    farewell: &mut Farewell,
) {
    let flow = shared.get();
    let delta = flow.seq_delta;
    farewell.tuple = *vip_side;
    farewell.replica_addr = flow.replica_addr;
    farewell.replica_port = flow.replica_port;
    farewell.reserved = [0; 2];
    farewell.to_client = [back.sent().wrapping_sub(delta), back.acked()];
    farewell.to_replica = [back.acked(), shared.acked().wrapping_add(delta)];
    if tables.farewell(farewell).is_err() {
        tables.count(Counter::Untold);
    }
}

impl Last {
    /// Writes the key of a flow's other side.
    #[inline(always)]
    pub fn write_replica_side(&mut self, vip_side: &Tuple, flow: &Flow) {
        let tuple = &mut self.replica_side;
        tuple.client = vip_side.client;
        tuple.client_port = vip_side.client_port;
        tuple.server = flow.replica_addr;
        tuple.server_port = flow.replica_port;
    }
}
