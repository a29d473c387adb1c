//! What becomes of a packet from the client.

use crate::{
    checksum::Sum,
    flow::{Ending, end},
    head::{Which, discard},
    icmp, integrity,
    maps::{
        Addr, FLOW_EXCHANGE, FLOW_REQUESTS, Flow, Link, Mac, REPLICA_GONE, STATE_CLIENT_FIN,
        STATE_ENDED, STATE_LEAVING, STATE_MOVING, STATE_REPLICA_FIN, STATE_SYN_SEEN,
        STATE_UPGRADED, Service, SourceKey, VipKey,
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
    wire::{flags, protocol},
};

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
    let is_known = reread(&scratch.absent) != 0;
    if !is_known && !scratch.segment.has(flags::SYN) {
        match tables.flow(&scratch.vip_side) {
            Some(flow) if scratch.segment.well_formed() => {
                if !needs_care(tables, &scratch.segment, flow) {
                    return established(packet, tables, scratch, flow).map(Next::Verdict);
                }
                return go_on(packet, tables, scratch, Stage::Care);
            }
            Some(_) => {}
            None => scratch.absent = 1,
        }
    }
    let next = if is_known { Next::Stage(Stage::Open) } else { without_flow(tables, scratch) };
    match next {
        Next::Stage(_)
            if !scratch.segment.has(flags::SYN) && tables.ended(&scratch.vip_side).is_some() =>
        {
            go_on(packet, tables, scratch, Stage::Care)
        }
        Next::Stage(stage) => go_on(packet, tables, scratch, stage),
        verdict => Some(verdict),
    }
}

/// Goes on where packets are answered, bound and ended, unless the frame is for another machine: Roost sees it on
/// a port of a bridge, or because the interface takes everything; and unless its client is not at home there. What is
/// only translated need not be asked, since the kernel takes it no further.
#[inline(always)]
fn go_on<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    stage: Stage,
) -> Option<Next> {
    scratch.mac = Mac::new(packet.read(0)?);
    if !is_for_us(tables, &mut scratch.mac) {
        return Some(Next::Verdict(Counter::PassedOtherMac));
    }
    let is_at_home = is_at_home(packet, tables, scratch);
    Some(if is_at_home { Next::Stage(stage) } else { Next::Verdict(Counter::DropOtherLink) })
}

/// Whether a frame to this MAC address is for this machine. Never one to a group. Where nobody has said lately which
/// addresses the machine has, all others are.
#[inline(always)]
fn is_for_us(tables: &impl Tables, mac: &mut Mac) -> bool {
    if mac.is_group() {
        return false;
    }
    if tables.mac(mac).is_some() {
        return true;
    }
    *mac = Mac::ALL_KNOWN;
    tables.mac(mac).is_none_or(|until| until < tables.now())
}

/// Whether the answer to what a client of this machine sends would be routed by the link that it came by, or by the bridge whose
/// port that is. Else a pod could take another one's address: it would be answered in that name, bind and end connections.
#[inline(always)]
fn is_at_home<P: Packet>(packet: &mut P, tables: &impl Tables, scratch: &mut Scratch) -> bool {
    let link = packet.link();
    if link == 0 {
        return true;
    }
    let Scratch { segment, route_room, link: room, .. } = scratch;
    *room = link;
    match tables.link(room) {
        Some(Link::UNCHECKED) => true,
        Some(Link { by }) => packet.route(by, &segment.src, route_room) == Some(by),
        None => false,
    }
}

/// What becomes of a segment that belongs to no flow, or not to the one of its tuple.
#[inline(always)]
pub fn without_flow(tables: &impl FlowTables, scratch: &mut Scratch) -> Next {
    let Some(number) = service_of(tables, &scratch.segment, &mut scratch.vip) else {
        return Next::Verdict(Counter::IngressPassed);
    };
    // From here on it is ours. Before its flow there are no more than 16 KB of a connection.
    if !scratch.segment.well_formed() || scratch.segment.jumbo != 0 {
        return Next::Verdict(Counter::DropMalformed);
    }
    scratch.service = number;
    Next::Stage(Stage::Open)
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
    let flow = match reread(&scratch.absent) {
        0 => tables.flow(&scratch.vip_side),
        _ => None,
    };
    if scratch.segment.has(flags::SYN) {
        if let Some(flow) = flow {
            flow.note_syn(tables.now());
        }
        return syn(packet, tables, scratch, service).map(Next::Verdict);
    }
    if scratch.segment.has(flags::RST) {
        give_up(packet, tables, scratch)?;
        return Some(Next::Verdict(Counter::DropStrayReset));
    }
    if !scratch.segment.has(flags::ACK) {
        return Some(Next::Verdict(Counter::DropFlags));
    }
    let has_data = scratch.segment.payload_len() > 0;
    (scratch.asked, scratch.again, scratch.routed) = (0, 0, 0);
    let checked = match check(packet, tables, scratch)? {
        Check::Foreign if is_of_head(tables, scratch) => Check::Later,
        checked => checked,
    };
    let decided = match checked {
        Check::First if has_data => {
            // Its replica, should it still have the old connection, is reset with the next segment that it
            // sends on it; the one that gets the new SYN answers that with such a segment.
            if let Some(flow) = flow
                && end(tables, &scratch.vip_side, flow, Ending::Replaced, &mut scratch.last)
            {
                tables.count(Counter::Rebound);
            }
            return Some(Next::Stage(Stage::Bind));
        }
        Check::Later if has_data || scratch.segment.has(flags::FIN) => {
            return Some(Next::Stage(Stage::Bind));
        }
        Check::First if scratch.segment.has(flags::FIN) => {
            reply::reset(packet, tables, scratch, Counter::ResetUnused)
        }
        Check::First if !is_probe(tables, scratch) => Some(Counter::AckSwallowed),
        Check::First | Check::Later | Check::Before => probed(packet, tables, scratch),
        Check::Foreign => reply::reset(packet, tables, scratch, Counter::ResetUnknown),
    };
    decided.map(Next::Verdict)
}

/// Forgets the head of a client that resets its connection before that is bound. Who guesses does not find its numbers. One
/// that is bound goes when its replica has answered, and the client answers that.
#[inline(always)]
fn give_up<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<()> {
    if scratch.segment.payload_len() == 0
        && is_of_head(tables, scratch)
        && integrity::is_intact(packet, scratch, |_, _| Some(Sum::ZERO))?
    {
        let Scratch { segment, vip_side, chunk_key, .. } = scratch;
        discard(tables, vip_side, segment.ack.wrapping_sub(1), Which::Unbound, chunk_key);
    }
    Some(())
}

/// Whether a segment is further behind the first byte of a head than a cookie can tell, or comes when its cookie is
/// good no longer.
#[inline(always)]
fn is_of_head(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let Some(entry) = tables.stash(&scratch.vip_side) else {
        return false;
    };
    let Segment { seq, ack, .. } = scratch.segment;
    scratch.client_isn = entry.get().client_isn;
    entry.server_isn() == ack.wrapping_sub(1)
        && seq.wrapping_sub(scratch.client_isn) <= 2 * syn_cookie::REACH
}

/// Whether the client is one that the service's `allowed_sources` let in. Flows that there are go on
/// without this.
#[inline(always)]
fn may_connect(tables: &impl Tables, scratch: &mut Scratch, service: &Service) -> bool {
    service.restricted == 0 || {
        let Scratch { segment, source, service, .. } = scratch;
        is_listed(tables, *service, &segment.src, source)
    }
}

/// Whether `SOURCE_RANGES` has this address in a list, which is a service's number: then it may connect; or
/// [`PROXIES`](crate::maps::PROXIES) with that: then it sends the PROXY protocol. `key` is room for its key.
#[inline(always)]
pub fn is_listed(tables: &impl Tables, list: u32, addr: &Addr, key: &mut SourceKey) -> bool {
    listed(tables, list, addr, key) == 1
}

/// The same as a number: 1 if it has, or 0.
#[inline(always)]
pub fn listed(tables: &impl Tables, list: u32, addr: &Addr, key: &mut SourceKey) -> u32 {
    key.prefix_len = SourceKey::WHOLE;
    key.range.list = list.to_be_bytes();
    key.range.addr = *addr;
    tables.source_range(key).unwrap_or(0)
}

/// What a segment's numbers say about it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It is the first one after a handshake of ours.
    First,
    /// It belongs to a handshake of ours, but something is missing before it.
    Later,
    /// It belongs to one and begins before the first byte, as a probe does.
    Before,
    /// It has nothing to do with us.
    Foreign,
}

/// Asks the SYN cookie, and notes the client's ISN.
#[inline(never)]
pub fn check<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Check> {
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

/// A segment that brings nothing and ends no handshake of ours, but belongs to one. A client that waits before it
/// sends on may look whether we live (keepalives, RFC 9293 section 3.8.4), and without an answer it gives up.
#[inline(never)]
fn probed<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    // Costs as much of the limit as an RST, answered or not: else who guesses could tell them apart.
    if !reply::may_reset(tables, scratch)? {
        return Some(Counter::DropResetLimit);
    }
    if scratch.segment.has(flags::FIN) || !is_probe(tables, scratch) {
        return Some(Counter::DropEarly);
    }
    let Segment { seq, ack, .. } = scratch.segment;
    scratch.offer = syn_cookie::offer(ack, &scratch.answer);
    let known = seq.wrapping_sub(reread(&scratch.client_isn));
    reply::acknowledge(packet, scratch, known, Counter::ProbeAcknowledged)
}

/// Whether a segment of a checked handshake is a probe: it begins with the last byte that the client knows to be
/// here, or, if there is none, with the number before the first one.
#[inline(always)]
fn is_probe(tables: &impl FlowTables, scratch: &Scratch) -> bool {
    let Segment { seq, ack, .. } = scratch.segment;
    let behind = seq.wrapping_sub(reread(&scratch.client_isn));
    if behind == 0 {
        return true;
    }
    let Some(entry) = tables.stash(&scratch.vip_side) else {
        return false;
    };
    // Its client was told of no byte but by an acknowledgement of ours.
    entry.get().acked == behind && entry.server_isn() == ack.wrapping_sub(1)
}

/// A SYN is always answered with a cookie, and costs no memory of ours (behind a bridge the kernel may have to look for a
/// neighbour). Data in it is left to be sent again.
#[inline(always)]
fn syn<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    service: &Service,
) -> Option<Counter> {
    if scratch.segment.has_any(flags::ACK | flags::RST | flags::FIN) {
        return Some(Counter::DropFlags);
    }
    if scratch.segment.payload_len() == 0
        && !integrity::is_intact(packet, scratch, |_, _| Some(Sum::ZERO))?
    {
        return Some(Counter::DropChecksum);
    }
    if service.usable == 0 {
        return reply::reset(packet, tables, scratch, Counter::ResetNoReplica);
    }
    scratch.offer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    reply::syn_ack(packet, tables, scratch, service)
}

/// Whether a segment of a flow is more than to be translated. The gone replica's are ended.
#[inline(always)]
pub fn needs_care(tables: &impl FlowTables, segment: &Segment, shared: Shared<Flow>) -> bool {
    const STATES: u32 = STATE_ENDED
        | STATE_SYN_SEEN
        | STATE_CLIENT_FIN
        | STATE_REPLICA_FIN
        | STATE_LEAVING
        | STATE_MOVING;
    let flow = shared.get();
    let state = shared.state();
    let is_watched =
        flow.flags & (FLOW_REQUESTS | FLOW_EXCHANGE) != 0 && state & STATE_UPGRADED == 0;
    state & STATES != 0
        || is_watched && segment.says_something()
        || segment.has_any(flags::FIN | flags::RST)
        || is_gone(tables, flow.replica)
}

/// Whether a replica is not there any more: its flows are ended.
#[inline(always)]
pub fn is_gone(tables: &impl Tables, replica: u32) -> bool {
    tables.replica(replica).is_none_or(|replica| replica.state == REPLICA_GONE)
}

/// A segment of a flow, on its way to the replica.
#[inline(always)]
fn established<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    shared: Shared<Flow>,
) -> Option<Counter> {
    hear(tables, &scratch.segment, shared);
    translate(packet, tables, scratch, shared.get())
}

/// Notes a segment of the client's.
#[inline(always)]
pub fn hear(tables: &impl FlowTables, segment: &Segment, flow: Shared<Flow>) {
    flow.touch(tables.now());
    if segment.has(flags::ACK) {
        flow.advance(segment.ack, segment.seq.wrapping_add(segment.sequence_len()));
    }
}

/// Translates a segment of the client's.
#[inline(always)]
pub fn translate<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: &Flow,
) -> Option<Counter> {
    let unfinished = !P::KNOWS_CHECKSUM
        && integrity::is_unfinished(packet, &scratch.segment)?
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
