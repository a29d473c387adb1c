//! A connection that is used again: what becomes of its later requests, as its service's `on_reuse` says.
//!
//! Where each request begins is known by [`Exchange`], which is in `FLOWS_BACK`: its word is swapped by both
//! directions. The client's segments are decided by it before they go on, and the replica's noted in it before they do.

use crate::{
    atomic::try_some,
    bind::{self, Routed},
    first::read_head,
    integrity::{checksum_is_right, is_unfinished, payload_sum},
    key::Reason,
    maps::{
        FLOW_EXCHANGE, FLOW_REQUESTS, Flow, FlowBack, PART, STATE_CLIENT_FIN, STATE_DOUBT,
        STATE_ENDED, STATE_EXCHANGE, STATE_LEAVING, STATE_REPLICA_FIN, STATE_UPGRADED,
    },
    packet::Packet,
    request::{ANSWER_LEN, Answer, Decision, Exchange, Standing},
    scratch::Scratch,
    segment::Segment,
    shared::Shared,
    stage::{Next, Stage},
    steer::{NoRoute, Why},
    tables::FlowTables,
    verdict::Counter,
    verifier::index,
    wire::flags,
};

/// What becomes of a client's segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It goes where the connection is.
    Deliver,
    /// It comes too early, and has to come again.
    Early,
    /// A request begins in it.
    Request,
}

/// What is known of a segment with a request by now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// Its connection is at this request, or is ended with it.
    Decided,
    /// It comes too early, and has to come again.
    Early,
    /// Its checksum is wrong.
    Damaged,
}

/// Whether a flow's requests are looked at.
#[inline(always)]
pub const fn is_looked_at(flags: u8, state: u32) -> bool {
    flags & FLOW_EXCHANGE != 0 && state & (STATE_UPGRADED | STATE_DOUBT) == 0
}

/// Decides about a segment of the client's in a flow whose requests are looked at.
#[inline(never)]
pub fn ask(tables: &impl FlowTables, scratch: &mut Scratch, flow: Shared<Flow>) -> Asked {
    let Some(back) = other_side(tables, scratch, flow) else {
        return Asked::Deliver;
    };
    // One without an acknowledgement is nothing to a replica.
    if !scratch.segment.has(flags::ACK) {
        return Asked::Deliver;
    }
    let (exchange, decision) = decide(scratch, flow, back);
    match decision {
        Decision::Deliver => Asked::Deliver,
        Decision::Again => Asked::Early,
        Decision::Request(_) => Asked::Request,
        Decision::Doubt(doubt) => {
            let next = Exchange { standing: Standing::Doubt(doubt), ..exchange };
            change(tables, flow, back, &exchange, &next);
            Asked::Deliver
        }
    }
}

#[inline(always)]
fn other_side(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
) -> Option<Shared<FlowBack>> {
    let Scratch { vip_side, last, .. } = scratch;
    last.write_replica_side(vip_side, flow.get());
    tables.flow_back(&last.replica_side)
}

/// Where the requests of a flow stand, and what that says of the segment in hand.
#[inline(always)]
fn decide(scratch: &Scratch, flow: Shared<Flow>, back: Shared<FlowBack>) -> (Exchange, Decision) {
    const CLOSING: u32 = STATE_CLIENT_FIN | STATE_REPLICA_FIN | STATE_ENDED;
    let segment = &scratch.segment;
    let exchange = back.exchange(flow.state() & CLOSING != 0);
    (exchange, exchange.decide(segment.seq, segment.ack, segment.payload_len() as u32))
}

/// A segment of the client's in which a request begins: then it is one of a request that the connection is at, or ends
/// its flow.
#[inline(always)]
pub fn reuse<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Next> {
    Some(match request(packet, tables, scratch)? {
        Reuse::Decided => Next::Stage(Stage::Care),
        Reuse::Early => Next::Verdict(Counter::DropRequestEarly),
        Reuse::Damaged => Next::Verdict(Counter::DropChecksum),
    })
}

#[inline(never)]
fn request<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Reuse> {
    // What has changed since it was decided is decided anew when it comes again.
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return Some(Reuse::Early);
    };
    let Some(back) = other_side(tables, scratch, flow) else {
        return Some(Reuse::Early);
    };
    let Decision::Request(at) = decide(scratch, flow, back).1 else {
        return Some(Reuse::Early);
    };
    scratch.asked = at;
    let sum = payload_sum(packet, tables, scratch)?;
    if !checksum_is_right(packet, &scratch.segment, sum)?
        && !is_unfinished(packet, &scratch.segment)?
    {
        return Some(Reuse::Damaged);
    }
    load(packet, scratch)?;
    read_head::<false>(tables, scratch);
    let is_here = is_here(tables, scratch, flow)?;
    // Only now, or the verifier would look at all of this once for each kind of head. What has changed meanwhile is
    // decided anew when the segment comes again.
    let (exchange, Decision::Request(at)) = decide(scratch, flow, back) else {
        return Some(Reuse::Early);
    };
    let Segment { ack, .. } = scratch.segment;
    if !is_here {
        // So that the replica is told that its client has all.
        flow.advance(ack, exchange.boundary);
        flow.set_state(STATE_LEAVING);
        return Some(Reuse::Decided);
    }
    let known = (scratch.segment.payload_len() as u32).wrapping_sub(at);
    let mut next = exchange;
    next.begin(exchange.boundary, known, ack, scratch.head.read());
    if !change(tables, flow, back, &exchange, &next) {
        return Some(Reuse::Early);
    }
    tables.count(Counter::StayedRequest);
    Some(Reuse::Decided)
}

/// Puts the bytes of the request in hand into `scratch.stash`, as if the connection began with them: as many as
/// fit into a part.
#[inline(always)]
fn load<P: Packet>(packet: &P, scratch: &mut Scratch) -> Option<()> {
    let Scratch { segment, stash, asked, .. } = scratch;
    let boundary = segment.seq.wrapping_add(*asked);
    let asked = index(*asked);
    let from = segment.l4() + segment.header_len() + asked;
    let len = segment.payload_len().checked_sub(asked)?.min(PART);
    stash.clear(0, boundary.wrapping_sub(1), 0, 0);
    packet.load(from, stash.bytes_mut(0), len)?;
    stash.add(0, len as u32);
    Some(())
}

/// Whether the request in `scratch.stash` is for where its connection is. A chat is where its flow is; a connection without
/// one may be anywhere.
#[inline(always)]
fn is_here(tables: &impl FlowTables, scratch: &mut Scratch, flow: Shared<Flow>) -> Option<bool> {
    let Flow { service, replica, cookie, .. } = *flow.get();
    scratch.service = service;
    let routed = bind::route(tables, scratch, Some(Reason::TooLong))?;
    let route = &scratch.route;
    Some(match routed {
        Routed::Yes if matches!(route.why, Why::MissingKey) => route.replica == replica,
        Routed::Yes => scratch.missing != 0 || route.cookie == cookie,
        Routed::Not(NoRoute::MissingKey) => false,
        // There is nothing better.
        Routed::Not(NoRoute::NoReplica) | Routed::More => true,
    })
}

/// Changes where the requests of a flow stand. Returns whether that is done: not if another CPU was first. When
/// nothing is left to be looked at, nothing is from then on.
#[inline(always)]
fn change(
    tables: &impl FlowTables,
    flow: Shared<Flow>,
    back: Shared<FlowBack>,
    old: &Exchange,
    new: &Exchange,
) -> bool {
    if !back.swap_exchange(old, new) {
        return false;
    }
    let state = match new.standing {
        Standing::Answer | Standing::Request => return true,
        Standing::Upgraded => STATE_UPGRADED,
        Standing::Doubt(doubt) => {
            tables.count(doubt.counter());
            // An upgrade on it is still counted, if it is one for another chat.
            match flow.get().flags & FLOW_REQUESTS {
                0 => STATE_DOUBT | STATE_UPGRADED,
                _ => STATE_DOUBT,
            }
        }
    };
    flow.set_state(state);
    back.clear_state(STATE_EXCHANGE);
    true
}

/// Notes a segment of the replica's before it goes on to the client.
#[inline(never)]
pub fn answer<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &Scratch,
    flow: Shared<Flow>,
    back: Shared<FlowBack>,
) {
    let segment = &scratch.segment;
    let len = segment.payload_len();
    let at = segment.l4() + segment.header_len();
    let answer = if len >= ANSWER_LEN {
        packet.reach(at + ANSWER_LEN);
        packet.view(at).map(Answer::read)
    } else {
        None
    };
    let seq = segment.seq.wrapping_sub(back.get().seq_delta);
    let end = seq.wrapping_add(segment.sequence_len());
    let attempt = || {
        let exchange = back.exchange(false);
        let heard = exchange.hear(seq, len as u32, answer);
        let mut next = exchange;
        next.note(end, heard);
        let is_same = next.word() == exchange.word();
        (is_same || change(tables, flow, back, &exchange, &next)).then_some(())
    };
    try_some!(attempt());
}
