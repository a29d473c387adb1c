//! Segments of flows that are more than translated: those that close, come after the end, may begin anew, or are
//! looked at for requests.

use crate::{
    egress,
    flow::{self, End, Ending, RESET_WINDOW, closing, end, is_late, is_moving},
    head::{Which, discard},
    ingress::{self, Check, check, hear, is_gone, without_flow},
    maps::{
        FLOW_REQUESTS, Flow, FlowBack, STATE_CLOSED, STATE_ENDED, STATE_EXCHANGE, STATE_EXPIRED,
        STATE_HEAD, STATE_LEAVING, STATE_MOVING, STATE_SYN_SEEN, STATE_UPGRADED,
    },
    mend::{Mended, deliver_again, mend},
    packet::Packet,
    reply::{self, reset_replica},
    request::Standing,
    reuse::{self, Asked, is_looked_at},
    scratch::Scratch,
    segment::Segment,
    shared::Shared,
    stage::{Next, Stage},
    tables::FlowTables,
    verdict::Counter,
    watch::watch,
    wire::{flags, is_near},
};

/// A segment of the client's.
#[inline(always)]
pub fn care<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Next> {
    match look(packet, tables, scratch) {
        Looked::Translate => translate(packet, tables, scratch).map(Next::Verdict),
        Looked::Reset(why) => reply::reset(packet, tables, scratch, why).map(Next::Verdict),
        Looked::Leave => {
            reply::reset_known(packet, scratch, Counter::ResetExpired).map(Next::Verdict)
        }
        Looked::Early => Some(Next::Verdict(Counter::DropRequestEarly)),
        Looked::Old => Some(Next::Verdict(Counter::DropOld)),
        Looked::Known => reuse::acknowledge(packet, tables, scratch).map(Next::Verdict),
        Looked::Request => Some(Next::Stage(Stage::Reuse)),
        Looked::Anew => Some(without_flow(tables, scratch)),
    }
}

/// Translates from a copy: there the verifier has one place to look at, and it stays what it is when the flow ends. A
/// function of its own, so that the copy is not below [`look`] and the search for a key on the stack.
#[inline(never)]
fn translate<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let Scratch { flow, .. } = *scratch;
    ingress::translate(packet, tables, scratch, &flow)
}

/// What is to become of a segment of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// It is translated by `scratch.flow`.
    Translate,
    /// Its sender is told that the flow is no more.
    Reset(Counter),
    /// The same: the flow has ended with it.
    Leave,
    /// It has to come again.
    Early,
    /// It says nothing to where the connection is, or goes.
    Old,
    /// The same, and its sender is told that all of it is there.
    Known,
    /// A request begins in it.
    Request,
    /// It belongs to another connection than the one before on its tuple.
    Anew,
}

/// Looks at a segment of the client's.
#[inline(never)]
fn look<P: Packet>(packet: &P, tables: &impl FlowTables, scratch: &mut Scratch) -> Looked {
    match recall(tables, scratch) {
        Recalled::Yes if begins_anew(packet, tables, scratch) => return Looked::Anew,
        Recalled::Yes => {}
        Recalled::Nothing => return Looked::Anew,
        Recalled::Changing => return Looked::Early,
    }
    let Flow { flags, state, .. } = scratch.flow;
    if state & STATE_EXPIRED != 0 {
        return Looked::Reset(Counter::ResetExpired);
    }
    // One that has ended meanwhile is translated as late ones are.
    let Some(shared) = tables.flow(&scratch.vip_side).filter(|_| state & STATE_ENDED == 0) else {
        // But what was on its way to another replica is not for the one that it has left.
        let is_new = state & STATE_MOVING != 0 && scratch.segment.sequence_len() > 0;
        return if is_new { Looked::Old } else { Looked::Translate };
    };
    let leaves = state & STATE_LEAVING != 0;
    // One that moves is not for the replica that may be gone.
    if leaves
        || is_gone(tables, scratch.flow.replica) && !is_moving(tables, &scratch.replica_side, state)
    {
        if end(tables, &scratch.vip_side, shared, Ending::Expired, &mut scratch.last) {
            tables.count(if leaves { Counter::EndedReuse } else { Counter::EndedGone });
            if leaves {
                return Looked::Leave;
            }
        }
        return Looked::Reset(if leaves { Counter::ResetExpired } else { Counter::ResetGone });
    }
    let is_asked = (scratch.segment.says_something() || scratch.segment.has(flags::FIN))
        && is_looked_at(flags, state)
        || state & STATE_MOVING != 0;
    if is_asked && !scratch.segment.has(flags::RST) {
        match reuse::ask(tables, scratch, shared) {
            // Until it is known that its replica has heard of its client.
            Asked::Deliver if shared.state() & STATE_MOVING != 0 => {
                if reuse::raise_echo(packet, tables, scratch).is_none() {
                    return Looked::Early;
                }
            }
            Asked::Deliver => {}
            Asked::Early => return Looked::Early,
            Asked::Old => return Looked::Old,
            Asked::Known => return Looked::Known,
            Asked::Request => return Looked::Request,
        }
    }
    // Its replica does not believe it yet either. Were the flow over, the request that it has overtaken would go there.
    if scratch.segment.has(flags::RST)
        && is_looked_at(flags, state)
        && reuse::is_ahead(tables, scratch)
    {
        return Looked::Translate;
    }
    hear(tables, &scratch.segment, shared);
    if !is_looked_at(flags, state) && flags & FLOW_REQUESTS != 0 && state & STATE_UPGRADED == 0 {
        watch(packet, tables, scratch, shared);
    }
    let Scratch { vip_side, segment, last, .. } = scratch;
    closing(tables, vip_side, shared, segment, End::Client, last);
    // Nobody comes for what it waited for.
    if state & STATE_MOVING != 0
        && shared.state() & STATE_ENDED != 0
        && let Some(head) = tables.stash(&scratch.vip_side)
    {
        let Scratch { vip_side, chunk_key, .. } = scratch;
        discard(tables, vip_side, head.server_isn(), Which::Any, chunk_key);
    }
    Looked::Translate
}

/// What there is of a segment's flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recalled {
    /// It is in `scratch.flow`.
    Yes,
    /// Nothing that counts.
    Nothing,
    /// Another CPU is changing it.
    Changing,
}

/// Copies the segment's flow, a live one or what is left of one. A SYN that nothing can come of any more is
/// forgotten there. What becomes of the segment is decided and done by this copy: the flow may go on elsewhere meanwhile.
#[inline(always)]
fn recall(tables: &impl FlowTables, scratch: &mut Scratch) -> Recalled {
    if let Some(live) = tables.flow(&scratch.vip_side) {
        if !live.copy(&mut scratch.flow) {
            return Recalled::Changing;
        }
        if !live.has_syn(tables.now()) {
            scratch.flow.state &= !STATE_SYN_SEEN;
        }
        return Recalled::Yes;
    }
    let Some(ended) = tables.ended(&scratch.vip_side) else {
        return Recalled::Nothing;
    };
    scratch.flow = *ended.get();
    // Its map is that of ended ones.
    scratch.flow.state |= STATE_CLOSED;
    if is_late(scratch.flow.state, scratch.flow.last_seen, tables.now()) {
        Recalled::Yes
    } else {
        Recalled::Nothing
    }
}

/// Whether a segment on the tuple of a flow belongs to another connection: a SYN was seen, or the
/// flow has ended, and the numbers are those of a handshake of ours, but not of the flow's own. A
/// replica that got such a segment would reset the new connection.
#[inline(always)]
fn begins_anew<P: Packet>(packet: &P, tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let Scratch { segment, flow: own, .. } = scratch;
    // Else a SYN that anybody can send would cost two hashes for each segment from then on.
    if own.state & (STATE_SYN_SEEN | STATE_ENDED) == 0 {
        return false;
    }
    let has_ended = own.state & STATE_ENDED != 0;
    let acks_own = own.server_isn == segment.ack.wrapping_sub(1);
    // Its first segment, or a probe before that.
    if acks_own && segment.seq.wrapping_sub(own.client_isn) <= 1 {
        return false;
    }
    // A late segment of the flow itself must not be taken for another's that looks like one by chance, once in
    // 2^14, or before the replica's first byte: nobody would answer it.
    let goes_on = acks_own || goes_on(segment, own);
    match check(packet, tables, scratch) {
        Some(Check::First | Check::Before) => true,
        // Good enough for what follows the end of a flow only.
        Some(Check::Later) => has_ended && !goes_on,
        Some(Check::Foreign) | None => false,
    }
}

/// Whether a segment's numbers are near those where its flow stands.
#[inline(always)]
const fn goes_on(segment: &Segment, flow: &Flow) -> bool {
    is_near(segment.seq, flow.sent, RESET_WINDOW) && is_near(segment.ack, flow.acked, RESET_WINDOW)
}

/// A segment of a replica's.
#[inline(always)]
pub fn care_back<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Next> {
    let verdict = match look_back(packet, tables, scratch) {
        LookedBack::Translate => {
            let Scratch { back, .. } = *scratch;
            egress::translate(packet, scratch, &back)
        }
        LookedBack::Reset => reset_replica(packet, scratch),
        LookedBack::Drop => Some(Counter::DropSynAckAgain),
        LookedBack::Missing => deliver_again(packet, scratch),
        LookedBack::Stays => return Some(Next::Stage(Stage::Stay)),
        LookedBack::Left => Some(Counter::EgressDropLeft),
        LookedBack::Pass => Some(Counter::EgressPassed),
    };
    verdict.map(Next::Verdict)
}

/// What is to become of a segment of a replica's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LookedBack {
    /// It is translated by `scratch.back`.
    Translate,
    /// The replica is told that the flow is no more.
    Reset,
    /// It repeats its answer to our SYN.
    Drop,
    /// It misses what only we have.
    Missing,
    /// It says where it stands, and was asked for that.
    Stays,
    /// Its client is about to be another replica's.
    Left,
    /// It is none of ours.
    Pass,
}

/// Looks at a segment of a replica's.
#[inline(never)]
fn look_back<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> LookedBack {
    let Some(shared) = tables.flow_back(&scratch.replica_side) else {
        return look_back_late(tables, scratch);
    };
    scratch.back = *shared.get();
    if scratch.back.state & STATE_EXPIRED != 0 {
        return LookedBack::Reset;
    }
    let (vip, vip_port) = (scratch.back.vip, scratch.back.vip_port);
    scratch.write_vip_side(&vip, vip_port);
    let flow = tables.flow(&scratch.vip_side);
    if shared.state() & STATE_HEAD != 0
        && let Some(flow) = flow
    {
        match mend(packet, tables, scratch, flow, shared) {
            Mended::No => {}
            Mended::Missing => return LookedBack::Missing,
            Mended::Lost => return LookedBack::Reset,
        }
    }
    if scratch.segment.has(flags::SYN) {
        return LookedBack::Drop;
    }
    let is_asked = flow.is_some() && shared.state() & STATE_EXCHANGE != 0;
    let is_reset = scratch.segment.has(flags::RST);
    if is_asked
        && scratch.segment.sequence_len() == 0
        && shared.exchange().standing == Standing::Moving
        && tables.pending(&scratch.replica_side).is_some()
    {
        return LookedBack::Stays;
    }
    if is_asked && is_reset {
        // Its end is noted first: whoever binds the connection again looks whether it has one, after it has said so. And
        // if that one was first, this says nothing, whoever ends the flow meanwhile.
        if shared.exchange().is_over() {
            return LookedBack::Left;
        }
        close(tables, scratch, flow);
        if flow.is_some_and(|flow| flow.state() & STATE_ENDED != 0) {
            return LookedBack::Translate;
        }
    }
    // First of all: what is not to reach the client says nothing.
    if is_asked
        && let Some(flow) = flow
        && !reuse::answer(packet, tables, scratch, flow, shared)
    {
        return LookedBack::Left;
    }
    egress::hear(&scratch.segment, shared);
    if !(is_asked && is_reset) {
        close(tables, scratch, flow);
    }
    LookedBack::Translate
}

/// Looks whether a segment of a replica's ends its flow.
#[inline(never)]
fn close(tables: &impl FlowTables, scratch: &mut Scratch, flow: Option<Shared<Flow>>) {
    if let Some(flow) = flow {
        let Scratch { vip_side, segment, last, .. } = scratch;
        closing(tables, vip_side, flow, segment, End::Replica, last);
    }
}

/// Whether a segment of a replica's that was left says only that it has heard of that, or has yet to. An RST for it would
/// be an error to its server, which may still be at work.
#[inline(always)]
fn hears_of_end(segment: &Segment, left: &FlowBack) -> bool {
    segment.sequence_len() == 0
        && !segment.has(flags::RST)
        && segment.seq == left.sent
        && segment.ack.wrapping_sub(left.boundary) <= 1
}

/// The same for one that came after the end of its flow.
#[inline(always)]
fn look_back_late(tables: &impl FlowTables, scratch: &mut Scratch) -> LookedBack {
    let Some(ended) = tables.ended_back(&scratch.replica_side) else {
        return LookedBack::Pass;
    };
    scratch.back = *ended.get();
    let (vip, vip_port) = (scratch.back.vip, scratch.back.vip_port);
    scratch.write_vip_side(&vip, vip_port);
    let has_syn = scratch.segment.has(flags::SYN);
    let FlowBack { state, exchange: left_at, .. } = scratch.back;
    if state & STATE_LEAVING != 0 {
        // Its replica had accepted long before: then it accepts its client without us.
        if has_syn {
            tables.remove_ended_back(&scratch.replica_side);
        }
        if has_syn || !flow::is_late(0, left_at, tables.now()) {
            return LookedBack::Pass;
        }
        let says_no_more = hears_of_end(&scratch.segment, &scratch.back);
        return if says_no_more { LookedBack::Left } else { LookedBack::Reset };
    }
    // When it ended is on the client's side only.
    let ended_at = tables.ended(&scratch.vip_side).map_or(0, |flow| flow.get().last_seen);
    if !flow::is_late(if has_syn { 0 } else { state }, ended_at, tables.now()) {
        return LookedBack::Pass;
    }
    if has_syn {
        return LookedBack::Drop;
    }
    if state & STATE_EXPIRED != 0 { LookedBack::Reset } else { LookedBack::Translate }
}
