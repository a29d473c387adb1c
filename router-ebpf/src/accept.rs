//! A replica accepts: the connection becomes a flow, and its first segments are delivered.

use crate::{
    chats::{self, Acquired},
    flow::{End, note_fin},
    hand::{self, When},
    maps::{
        FLOW_CHAT, FLOW_REQUESTS, Flow, OFFER_SCALE, OFFER_TIMESTAMPS, PENDING_REFUSED, Pending,
        Piece, STASH_LEN, STATE_COUNTED, watch_time,
    },
    options::Offer,
    packet::Packet,
    reply::{ANNOUNCED_SCALE, replace, reset_client, reset_replica},
    rewrite::swap_macs,
    scratch::Scratch,
    shared::Shared,
    shares::{OFF, Table, count_flow, over, source},
    steer::{chat_key, still_gives},
    tables::{FlowTables, Refused},
    translate::rescale,
    verdict::Counter,
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
    // Who makes the maps grow looks after them first.
    hand::next_flow(tables, When::Now, &mut scratch.turn, &mut scratch.last);
    hand::next_flow(tables, When::Now, &mut scratch.turn, &mut scratch.last);
    hand::next_chat(tables, When::Now, &mut scratch.turn);
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    if scratch.pending.charged == [0; 16] {
        // Bound by a release before.
        scratch.pending.charged = scratch.replica_side.client;
    }
    write_flow(tables, scratch);
    match enter(tables, scratch) {
        Entered::Yes => {
            let counter = deliver(packet, tables, scratch)?;
            tables.remove_pending(&scratch.replica_side);
            tables.remove_stash(&scratch.vip_side);
            Some(counter)
        }
        Entered::Already => {
            tables.remove_pending(&scratch.replica_side);
            reset_replica(packet, scratch)
        }
        Entered::Again => Some(Counter::DropSynAckAgain),
        Entered::Moved => {
            // Its first segments stay in the stash, and the next one that comes decides anew.
            tables.remove_pending(&scratch.replica_side);
            reset_replica(packet, scratch)?;
            Some(Counter::DecidedAgain)
        }
        Entered::Busy => Some(Counter::EgressDropBusy),
        Entered::Fault => None,
        Entered::Full => refuse(packet, scratch, shared).map(|()| Counter::ResetFull),
        Entered::Over => {
            tables.count(scratch.over);
            refuse(packet, scratch, shared).map(|()| Counter::ResetShareLate)
        }
        Entered::NoMemory => refuse(packet, scratch, shared).map(|()| Counter::ResetFailed),
    }
}

/// Resets a client whose replica has accepted. That one is reset when it answers again.
#[inline(never)]
fn refuse<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    pending: Shared<Pending>,
) -> Option<()> {
    pending.set_flags(PENDING_REFUSED);
    reset_client(packet, scratch)
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
    flow.state = STATE_COUNTED;
    flow.seq_delta = seq_delta;
    flow.ts_delta = ts_delta;
    flow.client_isn = pending.client_isn;
    flow.server_isn = pending.server_isn;
    flow.acked = pending.server_isn.wrapping_add(1);
    flow.sent = segment.ack;
    flow.client_fin = 0;
    flow.replica_fin = 0;
    flow.share = source(tables, &pending.charged);
    flow.reserved = 0;
}

/// What became of a flow that was to be entered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entered {
    Yes,
    /// The client's side already has a flow, to another replica.
    Already,
    /// Another CPU is about to enter it, for the same answer of the replica sent twice.
    Again,
    /// Another CPU is changing its chat, or a map is busy: the next answer of the replica may have more luck.
    Busy,
    /// There is no room.
    Full,
    /// There is no memory.
    NoMemory,
    /// A map did what it should not.
    Fault,
    /// Its chat is to live elsewhere by now.
    Moved,
    /// Its source or its service has its share, as `scratch.over` says.
    Over,
}

impl Entered {
    /// What comes of a map that did not take its entry. `exists`: what it means that there is one.
    #[inline(always)]
    const fn refused(why: Refused, exists: Self) -> Self {
        match why {
            Refused::Exists => exists,
            Refused::Full => Self::Full,
            Refused::NoMemory => Self::NoMemory,
            Refused::Busy => Self::Busy,
            Refused::Fault => Self::Fault,
        }
    }
}

/// Enters the flow: the replica's side first, so that no answer is ever seen without it.
#[inline(never)]
fn enter(tables: &impl FlowTables, scratch: &mut Scratch) -> Entered {
    let (vip, vip_port) = (scratch.back.vip, scratch.back.vip_port);
    scratch.write_vip_side(&vip, vip_port);
    if let Err(why) = tables.add_flow_back(&scratch.replica_side, &scratch.back) {
        return Entered::refused(why, Entered::Again);
    }
    let entered = count(tables, scratch);
    if entered != Entered::Yes {
        tables.remove_flow_back(&scratch.replica_side);
    }
    entered
}

/// Counts the flow for its chat, and enters its client's side.
#[inline(always)]
fn count(tables: &impl FlowTables, scratch: &mut Scratch) -> Entered {
    let Scratch { flow, pending, trusted, .. } = scratch;
    if let Some(over) = over(tables, Table::Flows, flow.service, &pending.charged, trusted) {
        scratch.over = over;
        return Entered::Over;
    }
    if scratch.flow.flags & FLOW_CHAT != 0 {
        scratch.chat_key = chat_key(scratch.flow.service, scratch.flow.cookie);
        match chats::acquire(tables, scratch) {
            Acquired::Counted => {}
            // The entry is made first and the table read after it: a table that has changed since the connection
            // was bound has either been read here, or its readers find the entry.
            Acquired::First if is_still_home(tables, scratch) => {}
            Acquired::First => {
                chats::undo(tables, &scratch.chat_key, scratch.flow.replica);
                return Entered::Moved;
            }
            Acquired::Uncounted => scratch.flow.flags &= !FLOW_CHAT,
            Acquired::Elsewhere => return Entered::Moved,
            Acquired::Busy => return Entered::Busy,
            Acquired::Fault => return Entered::Fault,
            Acquired::Over => return Entered::Over,
        }
    }
    let entered = add(tables, scratch);
    if entered != Entered::Yes && scratch.flow.flags & FLOW_CHAT != 0 {
        chats::undo(tables, &scratch.chat_key, scratch.flow.replica);
    }
    entered
}

/// Whether the chat is to begin its life at this replica.
#[inline(always)]
fn is_still_home(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let Pending { service, cookie, chat, replica, .. } = scratch.pending;
    still_gives(tables, service, cookie, chat, replica, &mut scratch.route)
}

/// Enters the client's side of the flow, for the clock hand as well.
#[inline(always)]
fn add(tables: &impl FlowTables, scratch: &mut Scratch) -> Entered {
    let Flow { replica, service, share, .. } = scratch.flow;
    // Before it is there: whoever ends it counts it off.
    count_flow(tables, replica, service, share, 1);
    if let Err(why) = tables.add_flow(&scratch.vip_side, &scratch.flow) {
        count_flow(tables, replica, service, share, OFF);
        return Entered::refused(why, Entered::Already);
    }
    let watched = &mut scratch.turn.flow;
    watched.tuple = scratch.vip_side;
    watched.server_isn = scratch.flow.server_isn;
    watched.at = watch_time(scratch.flow.since);
    watched.reserved = 0;
    if let Err(why) = tables.watch_flow(watched) {
        // Nothing would ever end it.
        tables.remove_flow(&scratch.vip_side);
        count_flow(tables, replica, service, share, OFF);
        return Entered::refused(why, Entered::Fault);
    }
    Entered::Yes
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
        let back = tables.flow_back(&scratch.replica_side);
        note_fin(tables, flow, back, scratch.fin_at, End::Client);
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
    if piece.tcp_flags & flags::FIN != 0 {
        scratch.fin = 1;
        scratch.fin_at = piece.seq.wrapping_add(piece.len as u32).wrapping_add(1);
    }
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
