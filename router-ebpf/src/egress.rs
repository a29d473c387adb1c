//! What becomes of a packet on its way to the client.

use crate::{
    chats::{self, Acquired},
    checksum::{Sum, pseudo_header},
    flow::{end, note_fin},
    icmp,
    maps::{
        FLOW_CHAT, FLOW_REQUESTS, FlowBack, OFFER_SCALE, OFFER_TIMESTAMPS, PENDING_REFUSED,
        Pending, Piece, STASH_LEN, STATE_CLIENT_FIN, STATE_EXPIRED, STATE_REPLICA_FIN,
    },
    options::Offer,
    packet::Packet,
    reply::{ANNOUNCED_SCALE, write_reset},
    rewrite::{Place, swap_macs},
    scratch::Scratch,
    shared::Shared,
    steer::chat_key,
    tables::{FlowTables, Refused},
    translate::{Translation, rescale},
    verdict::Counter,
    verifier::{opaque, reread},
    wire::{TCP_CHECK, flags, protocol},
};

/// Decides about a packet that is about to leave towards the clients and rewrites it.
#[inline(always)]
pub fn egress<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Counter {
    if scratch.segment.parse_ip(packet).is_none() {
        return Counter::EgressPassed;
    }
    let decided = match scratch.segment.protocol {
        protocol::TCP => tcp(packet, tables, scratch),
        protocol::ICMP | protocol::ICMPV6 => icmp::to_client(packet, tables, scratch),
        _ => return Counter::EgressPassed,
    };
    decided.unwrap_or(Counter::EgressDropFault)
}

#[inline(always)]
fn tcp<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    if scratch.segment.parse_tcp(packet).is_none() || !scratch.segment.well_formed() {
        return Some(Counter::EgressPassed);
    }
    scratch.segment.tuple_from_server(&mut scratch.replica_side);
    match tables.flow_back(&scratch.replica_side) {
        Some(back) => established(packet, tables, scratch, back),
        None => unestablished(packet, tables, scratch),
    }
}

/// A segment of a flow, on its way to the client.
#[inline(always)]
fn established<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    shared: Shared<FlowBack>,
) -> Option<Counter> {
    let back = shared.get();
    if back.state & STATE_EXPIRED != 0 {
        return reset_replica(packet, scratch);
    }
    if scratch.segment.has_any(flags::SYN | flags::FIN | flags::RST) {
        if scratch.segment.has(flags::SYN) {
            return Some(Counter::DropSynAckAgain);
        }
        closing(tables, scratch, back);
    }
    let segment = &scratch.segment;
    if segment.has(flags::ACK) {
        shared.advance(segment.ack, segment.seq.wrapping_add(segment.sequence_len()));
    }
    let Scratch { segment, cursor, .. } = scratch;
    let changed = Translation::to_client(back).apply(packet, segment, cursor)?;
    changed.update(packet, Place::of(segment))?;
    Some(Counter::ToClient)
}

/// Notes a FIN or an RST of the replica's in the flow.
#[inline(never)]
fn closing(tables: &impl FlowTables, scratch: &mut Scratch, back: &FlowBack) {
    scratch.write_vip_side(&back.vip, back.vip_port);
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return;
    };
    if !scratch.segment.has(flags::RST) {
        note_fin(tables, flow, STATE_REPLICA_FIN);
    } else if end(tables, flow) {
        tables.count(Counter::Closed);
    }
}

/// A segment that belongs to no flow: the answer of a replica to a SYN of ours, or not ours.
#[inline(never)]
fn unestablished<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let segment = &scratch.segment;
    let may_answer = segment.has_any(flags::SYN | flags::RST)
        || (segment.has(flags::ACK) && segment.payload_len() == 0);
    if !may_answer {
        return Some(Counter::EgressPassed);
    }
    let Some(pending) = tables.pending(&scratch.replica_side) else {
        return Some(Counter::EgressPassed);
    };
    // A copy: the entry may be used for another connection at any time.
    scratch.pending = *pending.get();
    let fits = segment.has(flags::ACK)
        && segment.ack == scratch.pending.client_isn.wrapping_add(1)
        && scratch.pending.server_isn == pending.server_isn();
    if segment.has(flags::RST) {
        // One that answers no SYN of ours says nothing (RFC 9293 section 3.10.7.3).
        if !fits {
            return Some(Counter::EgressDropStray);
        }
        reset_client(packet, scratch)?;
        tables.remove_pending(&scratch.replica_side);
        return Some(Counter::Refused);
    }
    if segment.has(flags::SYN) && fits {
        return accepted(packet, tables, scratch, pending);
    }
    // The replica has an older connection on this tuple, or answers to a SYN that is history. A
    // client would reset it (RFC 9293 section 3.10.7.3), and our SYN comes again with its data.
    reset_replica(packet, scratch)
}

/// The replica accepted: the connection becomes a flow, and its first data goes to the replica.
#[inline(always)]
fn accepted<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    shared: Shared<Pending>,
) -> Option<Counter> {
    if scratch.pending.flags & PENDING_REFUSED != 0 {
        tables.remove_pending(&scratch.replica_side);
        return reset_replica(packet, scratch);
    }
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    write_flow(tables, scratch);
    let why = match enter(tables, scratch) {
        Entered::Yes => {
            let counter = deliver(packet, tables, scratch)?;
            tables.remove_pending(&scratch.replica_side);
            tables.remove_stash(&scratch.vip_side);
            return Some(counter);
        }
        Entered::Already => {
            tables.remove_pending(&scratch.replica_side);
            return reset_replica(packet, scratch);
        }
        Entered::Again => return Some(Counter::DropSynAckAgain),
        Entered::Full => Counter::ResetFull,
        Entered::Moved => Counter::ResetMoved,
    };
    refuse(packet, scratch, shared, why)
}

/// Resets a client whose replica has accepted. That one is reset when it answers again.
#[inline(always)]
fn refuse<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    pending: Shared<Pending>,
    why: Counter,
) -> Option<Counter> {
    pending.set_flags(PENDING_REFUSED);
    scratch.verdict = why;
    reset_client(packet, scratch)?;
    // One of the two that come here: the verifier would follow every other.
    Some(match reread(&scratch.verdict) {
        Counter::ResetMoved => Counter::ResetMoved,
        _ => Counter::ResetFull,
    })
}

/// Prepares the two entries of a flow.
#[inline(always)]
fn write_flow(tables: &impl FlowTables, scratch: &mut Scratch) {
    let segment = &scratch.segment;
    let pending = &scratch.pending;
    let answer = &scratch.answer;
    let seq_delta = segment.seq.wrapping_sub(pending.server_isn);
    // Our timestamps go on where the SYN-ACK's stopped.
    let ts_delta = if pending.offers & OFFER_TIMESTAMPS != 0 && answer.has(OFFER_TIMESTAMPS) {
        pending.ts_echo.wrapping_sub(answer.ts_val)
    } else {
        0
    };
    let scales = pending.offers & OFFER_SCALE != 0;

    let back = &mut scratch.back;
    back.vip = pending.vip;
    back.vip_port = pending.vip_port;
    back.replica_scale = if answer.has(OFFER_SCALE) { answer.scale } else { 0 };
    back.announced_scale = if scales { ANNOUNCED_SCALE } else { 0 };
    back.seq_delta = seq_delta;
    back.ts_delta = ts_delta;
    back.acked = segment.ack;
    back.sent = segment.seq.wrapping_add(1);
    back.state = 0;

    let flow = &mut scratch.flow;
    flow.since = tables.now();
    flow.last_seen = flow.since;
    flow.cookie = pending.cookie;
    flow.replica_addr = scratch.replica_side.server;
    flow.replica_port = scratch.replica_side.server_port;
    flow.flags = pending.flags & (FLOW_CHAT | FLOW_REQUESTS);
    // Only a client that scales towards a replica that does not.
    let one_sided = scales && !answer.has(OFFER_SCALE);
    flow.window_shift = if one_sided { pending.client_scale as u8 } else { 0 };
    flow.service = pending.service;
    flow.replica = pending.replica;
    flow.state = 0;
    flow.seq_delta = seq_delta;
    flow.ts_delta = ts_delta;
    flow.client_isn = pending.client_isn;
    flow.server_isn = pending.server_isn;
}

/// What became of a flow that was to be entered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entered {
    Yes,
    /// The client's side already has a flow, to another replica.
    Already,
    /// Another CPU is about to enter it, for the same answer of the replica sent twice.
    Again,
    /// There is no room.
    Full,
    /// Its chat came to live elsewhere.
    Moved,
}

/// Enters the flow: the replica's side first, so that no answer is ever seen without it.
#[inline(never)]
fn enter(tables: &impl FlowTables, scratch: &mut Scratch) -> Entered {
    let (vip, vip_port) = (scratch.back.vip, scratch.back.vip_port);
    scratch.write_vip_side(&vip, vip_port);
    match tables.add_flow_back(&scratch.replica_side, &scratch.back) {
        Ok(()) => {}
        Err(Refused::Exists) => return Entered::Again,
        Err(Refused::Full) => return Entered::Full,
    }
    if scratch.flow.flags & FLOW_CHAT != 0 {
        scratch.chat_key = chat_key(scratch.flow.service, scratch.flow.cookie);
        match chats::acquire(tables, scratch) {
            Acquired::Counted => {}
            Acquired::Uncounted => scratch.flow.flags &= !FLOW_CHAT,
            Acquired::Elsewhere => {
                tables.remove_flow_back(&scratch.replica_side);
                return Entered::Moved;
            }
        }
    }
    let Err(why) = tables.add_flow(&scratch.vip_side, &scratch.flow) else {
        return Entered::Yes;
    };
    if scratch.flow.flags & FLOW_CHAT != 0 {
        chats::release(tables, &scratch.chat_key, scratch.flow.replica);
    }
    tables.remove_flow_back(&scratch.replica_side);
    match why {
        Refused::Exists => Entered::Already,
        Refused::Full => Entered::Full,
    }
}

/// Turns the replica's SYN-ACK around into the client's first data segment; if there are more, copies
/// of it go before the last one.
#[inline(always)]
fn deliver<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let pending = &scratch.pending;
    let ours = Offer {
        offers: pending.offers & scratch.answer.offers,
        ts_val: pending.ts_val,
        ts_echo: scratch.answer.ts_val,
        ..Offer::default()
    };
    let header = &mut scratch.header;
    header.answer(&scratch.segment);
    header.seq = pending.client_isn.wrapping_add(1);
    header.ack = scratch.segment.seq.wrapping_add(1);
    header.flags = flags::ACK;
    ours.write_established(&mut header.options);
    scratch.delivered = 0;
    scratch.fin = 0;
    if recall(tables, scratch) {
        // Written out: indexes that the verifier knows.
        deliver_piece(packet, tables, scratch, 0)?;
        deliver_piece(packet, tables, scratch, 1)?;
        deliver_piece(packet, tables, scratch, 2)?;
        deliver_piece(packet, tables, scratch, 3)?;
    }
    if scratch.delivered == 0 {
        // Not zero, which would stop the replica; the client's next segment tells the true one.
        scratch.header.window = 1;
        replace(packet, scratch, Piece::NONE)?;
        swap_macs(packet)?;
        return Some(Counter::DeliveredEmpty);
    }
    if scratch.fin != 0
        && let Some(flow) = tables.flow(&scratch.vip_side)
    {
        note_fin(tables, flow, STATE_CLIENT_FIN);
    }
    Some(Counter::Delivered)
}

/// Copies what is stashed for the connection. Returns whether there is anything to deliver.
#[inline(always)]
fn recall(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let server_isn = scratch.pending.server_isn;
    let Some(entry) = tables.stash(&scratch.vip_side) else {
        return false;
    };
    scratch.stash.copy_from(entry.get());
    // Only now is it sure that all of it is of this connection: entries are used again at once, and
    // another client's request must not go to this one's replica.
    let stash = scratch.stash.get();
    stash.server_isn == server_isn && entry.server_isn() == server_isn && stash.first != 0
}

/// Makes the packet the stashed segment number `i`, if there is one. One that was made before goes
/// out as a copy.
#[inline(never)]
fn deliver_piece<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    i: usize,
) -> Option<()> {
    let stash = scratch.stash.get();
    let piece = *stash.pieces.get(i)?;
    if piece.len == 0 || stash.start(&piece) >= STASH_LEN as u32 {
        return Some(());
    }
    if scratch.delivered != 0 {
        packet.duplicate()?;
        tables.count(Counter::DeliveredMore);
        scratch.segment.parse_ip(packet)?;
        scratch.segment.parse_tcp(packet)?;
    }
    scratch.fin |= (piece.tcp_flags & flags::FIN) as u32;
    let window = rescale(piece.window, scratch.flow.window_shift, 0);
    let header = &mut scratch.header;
    header.seq = piece.seq;
    header.flags = piece.tcp_flags;
    header.window = window;
    replace(packet, scratch, piece)?;
    if scratch.delivered == 0 {
        swap_macs(packet)?;
    }
    scratch.delivered = 1;
    Some(())
}

/// Resets a replica with the answer that a client would give to its segment.
#[inline(never)]
fn reset_replica<P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Option<Counter> {
    if scratch.segment.has(flags::RST) {
        return Some(Counter::EgressPassed);
    }
    write_reset(scratch);
    replace(packet, scratch, Piece::NONE)?;
    swap_macs(packet)?;
    Some(Counter::ResetReplica)
}

/// Makes the replica's answer the RST that the client believes (RFC 5961 section 3.2: the sequence
/// number must be the next one expected).
#[inline(always)]
fn reset_client<P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Option<()> {
    let pending = &scratch.pending;
    let header = &mut scratch.header;
    header.answer(&scratch.segment);
    header.src = pending.vip;
    header.src_port = pending.vip_port;
    header.dst = scratch.segment.dst;
    header.dst_port = scratch.segment.dst_port;
    header.seq = pending.server_isn.wrapping_add(1);
    header.ack = pending.client_isn.wrapping_add(1);
    header.flags = flags::RST | flags::ACK;
    replace(packet, scratch, Piece::NONE)
}

/// Replaces the segment by `scratch.header`, with a stashed segment's payload.
///
/// The checksum field may hold a full checksum or a partial one, and only the kernel knows which:
/// so it is not written, but told what changed, like any other segment's.
#[inline(never)]
fn replace<P: Packet>(packet: &mut P, scratch: &Scratch, piece: Piece) -> Option<()> {
    let segment = &scratch.segment;
    let header = &scratch.header;
    let l4 = segment.l4();
    let old_len = segment.end().wrapping_sub(l4) as u16;
    let old_pseudo = pseudo_header(&segment.src, &segment.dst, protocol::TCP, old_len);
    let payload_len = piece.len as usize;
    let payload_at = l4 + header.len();
    packet.resize(payload_at + payload_len)?;
    packet.reach(payload_at);
    let mut new_body = header.sum();
    if payload_len > 0 {
        packet.store(payload_at, scratch.stash.bytes(piece.at as u32), payload_len)?;
        new_body = new_body.plus(Sum::from_raw(piece.sum));
    }
    // Read anew: LLVM would keep all fields on the stack meanwhile, of which there are 512 bytes.
    let (header, new_body) = (opaque(header), opaque(new_body));
    header.write(packet, segment, payload_len, segment.check)?;
    let new_pseudo = header.pseudo_sum(payload_len);
    let pseudo = new_pseudo.minus(old_pseudo);
    // A full checksum is to become that of the new segment, whatever the old one's body was.
    let old = Sum::ZERO.sub2(segment.check);
    let body = new_pseudo.plus(new_body).minus(old).minus(pseudo);
    packet.update_l4_checksum(l4 + TCP_CHECK, pseudo, body)
}
