//! What becomes of a packet on its way to the client.

use crate::{
    accept::{accepted, refused},
    connect::repeat_syn,
    icmp,
    maps::{FlowBack, PENDING_AGAIN, PENDING_REPEATED, Pending, Tuple},
    packet::Packet,
    reply::reset_replica,
    rewrite::Place,
    scratch::Scratch,
    segment::Segment,
    shared::Shared,
    stage::{Next, Stage},
    steer::SECOND,
    tables::FlowTables,
    translate::Translation,
    verdict::Counter,
    wire::{flags, protocol},
};

/// Decides about a packet that is about to leave towards the clients and rewrites it.
#[inline(always)]
pub fn egress<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Next> {
    if scratch.segment.parse_ip(packet).is_none() {
        return Some(Next::Verdict(Counter::EgressPassed));
    }
    match scratch.segment.protocol {
        protocol::TCP => tcp(packet, tables, scratch),
        protocol::ICMP | protocol::ICMPV6 => {
            icmp::to_client(packet, tables, scratch).map(Next::Verdict)
        }
        _ => Some(Next::Verdict(Counter::EgressPassed)),
    }
}

#[inline(always)]
fn tcp<P: Packet>(packet: &mut P, tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Next> {
    if scratch.segment.parse_tcp(packet).is_none() || !scratch.segment.well_formed() {
        return Some(Next::Verdict(Counter::EgressPassed));
    }
    scratch.replica_side = scratch.segment.tuple_from_server();
    let segment = &scratch.segment;
    if let Some(back) = tables.flow_back(&scratch.replica_side) {
        if needs_care(segment, back) {
            return Some(Next::Stage(Stage::CareBack));
        }
        hear(segment, back);
        return translate(packet, scratch, back.get()).map(Next::Verdict);
    }
    Some(without_flow(tables, segment, &scratch.replica_side))
}

/// A segment that belongs to no flow: the answer of a replica to a SYN of ours, or a late one, or not ours.
#[inline(always)]
pub fn without_flow(tables: &impl FlowTables, segment: &Segment, replica_side: &Tuple) -> Next {
    let may_answer = segment.has_any(flags::SYN | flags::RST)
        || (segment.has(flags::ACK) && segment.payload_len() == 0);
    if may_answer && tables.pending(replica_side).is_some() {
        return Next::Stage(Stage::Answer);
    }
    match tables.ended_back(replica_side) {
        Some(_) => Next::Stage(Stage::CareBack),
        None => Next::Verdict(Counter::EgressPassed),
    }
}

/// Whether a segment of a flow is more than to be translated.
#[inline(always)]
pub fn needs_care(segment: &Segment, back: Shared<FlowBack>) -> bool {
    back.state() != 0 || segment.has_any(flags::SYN | flags::FIN | flags::RST)
}

/// Notes a segment of the replica's.
#[inline(always)]
pub fn hear(segment: &Segment, back: Shared<FlowBack>) {
    if segment.has(flags::ACK) {
        back.advance(segment.ack, segment.seq.wrapping_add(segment.sequence_len()));
    }
}

/// Translates a segment of the replica's.
#[inline(always)]
pub fn translate<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    back: &FlowBack,
) -> Option<Counter> {
    let Scratch { segment, cursor, .. } = scratch;
    let changed = Translation::to_client(back).apply(packet, segment, cursor)?;
    changed.update(packet, Place::of(segment))?;
    Some(Counter::ToClient)
}

/// The answer of a replica to a SYN of ours.
#[inline(always)]
pub fn answer<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let Some(pending) = tables.pending(&scratch.replica_side) else {
        // It was there a moment ago, and has gone for another one: it answers nothing any more.
        return Some(Counter::EgressPassed);
    };
    // A copy: the entry may be used for another connection at any time.
    scratch.pending = *pending.get();
    let segment = &scratch.segment;
    let fits = segment.has(flags::ACK)
        && segment.ack == scratch.pending.client_isn.wrapping_add(1)
        && is_in_time(tables, &scratch.pending)
        && scratch.pending.server_isn == pending.server_isn();
    if segment.has(flags::RST) {
        // One that answers no SYN of ours says nothing (RFC 9293 section 3.10.7.3).
        if !fits {
            return Some(Counter::EgressDropStray);
        }
        return refused(packet, tables, scratch);
    }
    if segment.has(flags::SYN) && fits {
        return accepted(packet, tables, scratch, pending);
    }
    // The replica has an older connection on this tuple, or answers to a SYN that is history. A
    // client would reset it (RFC 9293 section 3.10.7.3), and our SYN comes again with its data.
    let verdict = reset_replica(packet, scratch)?;
    // A flow that comes back to a replica has just left it: its client need not wait. Once: a replica may answer as often as
    // it likes.
    if scratch.pending.flags & (PENDING_AGAIN | PENDING_REPEATED) == PENDING_AGAIN
        && is_in_time(tables, &scratch.pending)
    {
        pending.set_flags(PENDING_REPEATED);
        repeat_syn(packet, tables, scratch)?;
    }
    Some(verdict)
}

/// Whether a replica answers before its client has given up.
#[inline(always)]
pub fn is_in_time(tables: &impl FlowTables, pending: &Pending) -> bool {
    let most = tables.service(pending.service).map_or(0, |service| service.handshake_timeout);
    tables.now().saturating_sub(pending.at) < most as u64 * SECOND
}
