//! What becomes of a packet from the client.

use crate::{
    checksum::Sum,
    flow::{end, note_fin},
    icmp, integrity,
    maps::{
        Addr, FLOW_REQUESTS, Flow, FlowBack, REPLICA_GONE, STATE_CLIENT_FIN, STATE_CLOSED,
        STATE_EXPIRED, STATE_SYN_SEEN, Service, SourceKey, VipKey,
    },
    packet::Packet,
    reply,
    rewrite::Place,
    scratch::Scratch,
    segment::Segment,
    shared::Shared,
    stage::{Next, Stage},
    syn_cookie,
    tables::{FlowTables, Tables},
    translate::Translation,
    verdict::Counter,
    verifier::reread,
    watch::watch,
    wire::{flags, protocol},
};

/// How far numbers may be from those of the last segment that the replica sent, to be of this flow.
const WINDOW: u32 = 1 << 20;

/// Decides about a packet from the client side and rewrites it.
#[inline(always)]
pub fn ingress<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Next> {
    if scratch.segment.parse_ip(packet).is_none() {
        return Some(Next::Verdict(Counter::IngressPassed));
    }
    match scratch.segment.protocol {
        protocol::TCP => tcp(packet, tables, scratch),
        protocol::ICMP | protocol::ICMPV6 => {
            icmp::to_replica(packet, tables, scratch).map(Next::Verdict)
        }
        _ => Some(Next::Verdict(Counter::IngressPassed)),
    }
}

#[inline(always)]
fn tcp<P: Packet>(packet: &mut P, tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Next> {
    if scratch.segment.parse_tcp(packet).is_none() {
        return Some(Next::Verdict(Counter::IngressPassed));
    }
    // Most segments of ours belong to a flow, which is found faster than the service.
    scratch.vip_side = scratch.segment.tuple_from_client();
    if let Some(flow) = tables.flow(&scratch.vip_side)
        && scratch.segment.well_formed()
        && !scratch.segment.has(flags::SYN)
        && !may_be_new(packet, tables, scratch, flow)
    {
        return established(packet, tables, scratch, flow).map(Next::Verdict);
    }
    let Some(number) = service_of(tables, &scratch.segment, &mut scratch.vip) else {
        return Some(Next::Verdict(Counter::IngressPassed));
    };
    // From here on it is ours.
    if !scratch.segment.well_formed() {
        return Some(Next::Verdict(Counter::DropMalformed));
    }
    scratch.service = number;
    Some(Next::Stage(Stage::Open))
}

/// The service that owns the segment's destination. `key` is room for its key.
#[inline(always)]
pub fn service_of(tables: &impl Tables, segment: &Segment, key: &mut VipKey) -> Option<u32> {
    key.prefix_len = VipKey::WHOLE;
    key.vip.port = segment.dst_port;
    key.vip.addr = segment.dst;
    tables.vip(key)
}

/// A segment of a connection that has no flow yet, or begins anew.
#[inline(always)]
pub fn open<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Next> {
    let service = tables.service(scratch.service)?;
    if !may_connect(tables, scratch, service) {
        return Some(Next::Verdict(Counter::DropSource));
    }
    let flow = tables.flow(&scratch.vip_side);
    if scratch.segment.has(flags::SYN) {
        if let Some(flow) = flow {
            flow.note_syn(tables.now());
        }
        return syn(packet, tables, scratch, service).map(Next::Verdict);
    }
    if scratch.segment.has(flags::RST) {
        return Some(Next::Verdict(Counter::DropStrayReset));
    }
    if !scratch.segment.has(flags::ACK) {
        return Some(Next::Verdict(Counter::DropFlags));
    }
    let has_data = scratch.segment.payload_len() > 0;
    let decided = match check(packet, tables, scratch)? {
        Check::First if has_data => {
            if let Some(flow) = flow {
                discard(tables, scratch, flow);
            }
            return Some(Next::Stage(Stage::Bind));
        }
        Check::Later if has_data => return Some(Next::Stage(Stage::Bind)),
        Check::First if scratch.segment.has(flags::FIN) => {
            reply::reset(packet, tables, scratch, Counter::ResetUnused)
        }
        Check::First => Some(Counter::AckSwallowed),
        // Costs as much of the limit as an RST: else who guesses could tell the two apart.
        Check::Later | Check::Before if reply::may_reset(tables, scratch)? => {
            Some(Counter::DropEarly)
        }
        Check::Later | Check::Before => Some(Counter::DropResetLimit),
        Check::Foreign => reply::reset(packet, tables, scratch, Counter::ResetUnknown),
    };
    decided.map(Next::Verdict)
}

/// Whether the client is one that the service's `allowed_sources` let in. Flows that there are go on
/// without this.
#[inline(always)]
fn may_connect(tables: &impl Tables, scratch: &mut Scratch, service: &Service) -> bool {
    service.restricted == 0 || {
        let Scratch { segment, source, service, .. } = scratch;
        is_allowed(tables, *service, &segment.src, source)
    }
}

/// Whether `SOURCE_RANGES` lets this address connect to this service. `key` is room for its key.
#[inline(always)]
pub fn is_allowed(tables: &impl Tables, service: u32, addr: &Addr, key: &mut SourceKey) -> bool {
    key.prefix_len = SourceKey::WHOLE;
    key.range.service = service.to_be_bytes();
    key.range.addr = *addr;
    tables.source_range(key) == Some(1)
}

/// What a segment's numbers say about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// It is the first one after a handshake of ours.
    First,
    /// It belongs to a handshake of ours, but something is missing before it.
    Later,
    /// It belongs to one and begins before the first byte, as a probe does that looks whether we live.
    Before,
    /// It has nothing to do with us.
    Foreign,
}

/// Asks the SYN cookie, and notes the client's ISN.
#[inline(never)]
fn check<P: Packet>(packet: &P, tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Check> {
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    let Segment { seq, ack, .. } = scratch.segment;
    let (secrets, now) = (tables.secrets()?, tables.now());
    let isn = syn_cookie::check(secrets, &scratch.vip_side, (seq, ack), &scratch.answer, now);
    let Some(isn) = isn else {
        return Some(Check::Foreign);
    };
    scratch.client_isn = isn;
    Some(match seq.wrapping_sub(isn) {
        0 => Check::Before,
        1 => Check::First,
        _ => Check::Later,
    })
}

/// A SYN is always answered with a cookie, and costs no memory. Data in it is left to be sent again.
#[inline(always)]
fn syn<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    service: &Service,
) -> Option<Counter> {
    let segment = &scratch.segment;
    if segment.has_any(flags::ACK | flags::RST | flags::FIN) {
        return Some(Counter::DropFlags);
    }
    if segment.payload_len() == 0
        && !integrity::checksum_is_right(packet, segment, Sum::ZERO)?
        && !integrity::is_unfinished(packet, segment)?
    {
        return Some(Counter::DropChecksum);
    }
    if service.usable == 0 {
        return reply::reset(packet, tables, scratch, Counter::ResetNoReplica);
    }
    scratch.offer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    reply::syn_ack(packet, tables, scratch, service)
}

/// Whether a segment on the tuple of a flow belongs to another connection: a SYN was seen, or the
/// flow has ended, and the numbers are those of a handshake of ours, but not of the flow's own. A
/// replica that got such a segment would reset the new connection.
#[inline(always)]
fn may_be_new<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
) -> bool {
    let state = flow.state();
    if state & (STATE_CLOSED | STATE_SYN_SEEN) == 0 {
        return false;
    }
    // Else a SYN that anybody can send would cost two hashes for each segment from then on.
    if state & STATE_CLOSED == 0 && !flow.has_syn(tables.now()) {
        return false;
    }
    let segment = &scratch.segment;
    let own = flow.get();
    let acks_own = own.server_isn == segment.ack.wrapping_sub(1);
    if acks_own && own.client_isn == segment.seq.wrapping_sub(1) {
        return false;
    }
    match check(packet, tables, scratch) {
        Some(Check::First) => true,
        // Right by chance once in 2^15: good enough for what follows the end of a flow only. So is
        // a late segment of the flow itself from before the replica's first byte, which must not be
        // taken for that: nobody would answer it.
        Some(Check::Later) => state & STATE_CLOSED != 0 && !acks_own,
        Some(Check::Before | Check::Foreign) | None => false,
    }
}

/// Drops what is left of a flow whose tuple begins anew. Its replica, should it still have the old
/// connection, is reset with the next segment that it sends on it; the one that gets the new SYN
/// answers that with such a segment.
#[inline(always)]
fn discard(tables: &impl FlowTables, scratch: &mut Scratch, flow: Shared<Flow>) {
    if end(tables, flow) {
        tables.count(Counter::Rebound);
    }
    let old = flow.get();
    scratch.write_replica_side(&old.replica_addr, old.replica_port);
    if let Some(back) = tables.flow_back(&scratch.replica_side) {
        back.expire();
    }
    tables.remove_flow(&scratch.vip_side);
}

/// Whether a segment of a flow is more than to be translated.
#[inline(always)]
pub fn needs_care(tables: &impl FlowTables, segment: &Segment, shared: Shared<Flow>) -> bool {
    let flow = shared.get();
    shared.state() & (STATE_CLOSED | STATE_EXPIRED | STATE_SYN_SEEN) != 0
        || flow.flags & FLOW_REQUESTS != 0 && segment.payload_len() > 0
        || segment.has_any(flags::FIN | flags::RST)
        || tables.replica(flow.replica).is_none_or(|replica| replica.state == REPLICA_GONE)
}

/// Notes a segment of the client's.
#[inline(always)]
pub fn hear(tables: &impl FlowTables, flow: Shared<Flow>) {
    flow.touch(tables.now());
}

/// A segment of a flow, on its way to the replica.
#[inline(always)]
fn established<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    shared: Shared<Flow>,
) -> Option<Counter> {
    let flow = shared.get();
    let gone = tables.replica(flow.replica).is_none_or(|replica| replica.state == REPLICA_GONE);
    if gone || shared.state() & STATE_EXPIRED != 0 {
        return ended(packet, tables, scratch, shared);
    }
    hear(tables, shared);
    if flow.flags & FLOW_REQUESTS != 0 {
        watch(packet, tables, scratch, shared);
    }
    if scratch.segment.has_any(flags::FIN | flags::RST) {
        closing(tables, scratch, shared);
    }
    let unfinished = integrity::is_unfinished(packet, &scratch.segment)?
        && integrity::is_really_unfinished(packet, tables, scratch)?;
    scratch.unfinished = unfinished as u32;
    let Scratch { segment, cursor, .. } = scratch;
    let changed = Translation::to_replica(flow).apply(packet, segment, cursor)?;
    let place = Place::of(segment);
    // From memory: with the two ways there, the verifier would look at all of this twice.
    match reread(&scratch.unfinished) {
        0 => changed.update(packet, place)?,
        _ => changed.update_unfinished(packet, place)?,
    }
    Some(Counter::ToReplica)
}

/// A segment of a flow that is no more: its replica is gone, or the sweeper has ended it.
#[inline(never)]
fn ended<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
) -> Option<Counter> {
    let expired = flow.state() & STATE_EXPIRED != 0;
    end(tables, flow);
    let why = if expired { Counter::ResetExpired } else { Counter::ResetGone };
    reply::reset(packet, tables, scratch, why)
}

/// Notes a FIN of the client's, or an RST that the replica may believe.
#[inline(never)]
fn closing(tables: &impl FlowTables, scratch: &mut Scratch, flow: Shared<Flow>) {
    if !scratch.segment.has(flags::RST) {
        note_fin(tables, flow, STATE_CLIENT_FIN);
        return;
    }
    let old = flow.get();
    scratch.write_replica_side(&old.replica_addr, old.replica_port);
    let Some(back) = tables.flow_back(&scratch.replica_side) else {
        return;
    };
    if is_believable(&scratch.segment, flow.get(), back) && end(tables, flow) {
        tables.count(Counter::Closed);
    }
}

/// Whether an RST ends the flow. The replica wants the very number it expects (RFC 5961 section 3),
/// but data may be under way that it has yet to acknowledge; so both numbers near theirs will do. A
/// blind attacker finds one such segment in 2^23; to end a live flow here would let its chat move.
#[inline(always)]
fn is_believable(segment: &Segment, flow: &Flow, back: Shared<FlowBack>) -> bool {
    let ahead = segment.seq.wrapping_sub(back.acked());
    let ack = segment.ack.wrapping_add(flow.seq_delta);
    ahead == 0 || ahead < WINDOW && segment.has(flags::ACK) && is_near(ack, back.sent())
}

#[inline(always)]
fn is_near(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).wrapping_add(WINDOW) < 2 * WINDOW
}
