//! A replica accepts: the connection becomes a flow, and its first segments are delivered.

use crate::{
    chats::{self, Acquired},
    flow::note_fin,
    maps::{
        FLOW_CHAT, FLOW_REQUESTS, OFFER_SCALE, OFFER_TIMESTAMPS, PENDING_REFUSED, Pending, Piece,
        STASH_LEN, STATE_CLIENT_FIN,
    },
    options::Offer,
    packet::Packet,
    reply::{ANNOUNCED_SCALE, replace, reset_client, reset_replica},
    rewrite::swap_macs,
    scratch::Scratch,
    shared::Shared,
    steer::chat_key,
    tables::{FlowTables, Refused},
    translate::rescale,
    verdict::Counter,
    verifier::reread,
    wire::flags,
};

/// The replica accepted: the connection becomes a flow, and its first data goes to the replica.
#[inline(always)]
pub fn accepted<P: Packet>(
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
    stash.server_isn == server_isn && entry.server_isn() == server_isn && stash.known() > 0
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
