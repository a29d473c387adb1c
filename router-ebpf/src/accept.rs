//! A replica accepts: the connection becomes a flow, or its flow goes on there, and its first segments are delivered.

use crate::{
    chats::{self, Acquired},
    first::read_head,
    flow::{End, Ending, end, end_change, note_fin},
    hand::{When, before_flow, next_chat, watch_flow},
    head::{Found, Which, claim, discard, forget, put, release},
    maps::{
        FLOW_CHAT, FLOW_EXCHANGE, FLOW_REQUESTS, Flow, FlowBack, OFFER_SCALE, OFFER_TIMESTAMPS,
        PART, PENDING_ACKNOWLEDGED, PENDING_AGAIN, PENDING_READING, PENDING_REFUSED, Pending,
        STATE_COUNTED, STATE_EXCHANGE, STATE_EXPIRED, STATE_HEAD, STATE_LEAVING, Stash, watch_time,
    },
    options::Offer,
    packet::Packet,
    reply::{ANNOUNCED_SCALE, replace, reset_client, reset_replica},
    request::{Doubt, Exchange, Head, Standing},
    rewrite::swap_macs,
    scratch::{Delivery, Scratch},
    shared::Shared,
    shares::{OFF, Table, count_flow, over},
    stash::Held,
    steer::{chat_key, still_gives},
    tables::{FlowTables, Refused, Step},
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
    // Who makes the maps grow looks after them first.
    before_flow(tables, &mut scratch.turn, &mut scratch.last);
    next_chat(tables, When::Due, &mut scratch.turn);
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    if scratch.pending.charged == [0; 16] {
        // Bound by a release before.
        scratch.pending.charged = scratch.replica_side.client;
    }
    write_flow(tables, scratch);
    scratch.reading = 0;
    // Before the flow is entered: what cannot be done now is done when the replica answers again, or not at all.
    let entered = match recall(tables, scratch, 0) {
        Recalled::Yes => enter(tables, scratch),
        Recalled::Elsewhere => Entered::Already,
        Recalled::Busy => return Some(Counter::EgressDropBusy),
        Recalled::Lost => {
            return refuse(packet, tables, scratch, shared, Counter::ResetLost);
        }
    };
    match entered {
        Entered::Yes => {}
        // Their clients are reset, so nobody comes for their heads.
        Entered::Full | Entered::Over | Entered::NoMemory => forget(tables, scratch),
        _ => release(tables, scratch),
    }
    match entered {
        Entered::Yes => {
            if (scratch.pending.flags & !scratch.flow.flags) & FLOW_EXCHANGE != 0 {
                tables.count(scratch.doubt);
            }
            let delivered = deliver(packet, tables, scratch);
            tables.remove_pending(&scratch.replica_side);
            if delivered.is_some() && scratch.pending.flags & PENDING_AGAIN != 0 {
                leave(packet, tables, scratch)?;
            }
            delivered
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
        Entered::Full => refuse(packet, tables, scratch, shared, Counter::ResetFull),
        Entered::Over => {
            tables.count(scratch.over);
            refuse(packet, tables, scratch, shared, Counter::ResetShareLate)
        }
        Entered::NoMemory => refuse(packet, tables, scratch, shared, Counter::ResetFailed),
    }
}

/// Tells a client that its replica has refused, or knows nothing of, what waits for it in `scratch.pending`; its head goes.
#[inline(always)]
pub fn refused<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    tables.remove_pending(&scratch.replica_side);
    if !abandon(tables, scratch) {
        return Some(Counter::EgressDropStray);
    }
    let Scratch { vip_side, pending, chunk_key, .. } = scratch;
    discard(tables, vip_side, pending.server_isn, Which::Any, chunk_key);
    reset_client(packet, scratch)?;
    Some(Counter::Refused)
}

/// Resets a client whose replica has accepted. That one is reset when it answers again.
#[inline(never)]
pub fn refuse<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    pending: Shared<Pending>,
    why: Counter,
) -> Option<Counter> {
    pending.set_flags(PENDING_REFUSED);
    if !abandon(tables, scratch) {
        return Some(Counter::EgressDropStray);
    }
    reset_client(packet, scratch)?;
    Some(why)
}

/// Gives up the binding of `scratch.pending`, and ends the flow that was to be bound again so, if it is one. Returns whether its
/// client is to be told: one whose connection has gone on at another replica is not.
#[inline(never)]
fn abandon(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let Pending { vip, vip_port, client_isn, server_isn, flags, .. } = scratch.pending;
    scratch.write_vip_side(&vip, vip_port);
    if flags & PENDING_AGAIN == 0 {
        return !is_elsewhere(tables, scratch);
    }
    end_moving(tables, scratch, (client_isn, server_isn))
}

/// Ends the flow of `scratch.vip_side`, if it waits for a binding with these numbers. Returns whether it did.
#[inline(never)]
pub fn end_moving(tables: &impl FlowTables, scratch: &mut Scratch, binding: (u32, u32)) -> bool {
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return false;
    };
    let ended = claim_moving(tables, scratch, flow, binding).is_some()
        && end(tables, &scratch.vip_side, flow, Ending::Expired, &mut scratch.last);
    if ended {
        tables.count(Counter::EndedReuse);
    }
    ended
}

/// The other side of a flow, if it waits for a binding with these numbers: from then on it waits no more, and who has it
/// says where it goes. Its key is in `scratch.last` then.
#[inline(always)]
fn claim_moving(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    binding: (u32, u32),
) -> Option<Shared<FlowBack>> {
    let (back, exchange) = waiting(tables, scratch, flow, binding)?;
    back.swap_exchange(&exchange, &Exchange { standing: Standing::Left, ..exchange })
        .then_some(back)
}

/// The other side of a flow that waits for a binding with these numbers, and where its requests stand.
#[inline(always)]
pub fn waiting(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    (client_isn, server_isn): (u32, u32),
) -> Option<(Shared<FlowBack>, Exchange)> {
    let Scratch { vip_side, last, .. } = scratch;
    last.write_replica_side(vip_side, flow.get());
    let back = tables.flow_back(&last.replica_side)?;
    let exchange = back.exchange();
    (exchange.standing == Standing::Moving
        && exchange.boundary == client_isn.wrapping_add(1)
        && exchange.sent == server_isn.wrapping_add(1))
    .then_some((back, exchange))
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
    back.client_isn = pending.client_isn;
    back.server_isn = pending.server_isn;
    back.ts_sent = pending.ts_echo;
    back.mss = pending.mss;
    back.client_scale = pending.client_scale as u8;
    back.offers = pending.offers;
    back.answer = pending.server_isn.wrapping_add(1);
    if pending.flags & FLOW_EXCHANGE != 0 {
        back.state = STATE_EXCHANGE;
    }

    let client = &scratch.replica_side.client;
    scratch.holder.set(tables, pending.service, client, &pending.charged);
    let flow = &mut scratch.flow;
    flow.since = tables.now();
    flow.last_seen = flow.since;
    flow.cookie = pending.cookie;
    flow.replica_addr = scratch.replica_side.server;
    flow.replica_port = scratch.replica_side.server_port;
    flow.flags = pending.flags & (FLOW_CHAT | FLOW_REQUESTS | FLOW_EXCHANGE);
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
    flow.share = scratch.holder.source;
    flow.bound_again = 0;
}

/// What became of a flow that was to be entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It is.
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
    if let Err(why) = tables.add_flow_back(&scratch.replica_side, &scratch.back) {
        // Whose place is free a moment later.
        let is_more = why == Refused::Full && scratch.pending.flags & PENDING_AGAIN != 0;
        return if is_more { Entered::Busy } else { Entered::refused(why, Entered::Again) };
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
    let again = scratch.pending.flags & PENDING_AGAIN != 0;
    if !again && let Some(over) = over(tables, Table::Flows, &scratch.holder, &mut scratch.trusted)
    {
        scratch.over = over;
        return Entered::Over;
    }
    if scratch.flow.flags & FLOW_CHAT != 0 {
        let counted = count_chat(tables, scratch);
        if counted != Entered::Yes {
            return counted;
        }
    }
    let entered = if again { relocate(tables, scratch) } else { add(tables, scratch) };
    if entered != Entered::Yes && scratch.flow.flags & FLOW_CHAT != 0 {
        chats::undo(tables, &scratch.chat_key, scratch.flow.replica);
    }
    entered
}

/// Counts `scratch.flow` for its chat, or makes it one that counts for none.
#[inline(always)]
pub fn count_chat(tables: &impl FlowTables, scratch: &mut Scratch) -> Entered {
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
        Acquired::Over if scratch.pending.flags & PENDING_AGAIN != 0 => {
            // It takes no more than it had.
            tables.count(Counter::ChatsShare);
            scratch.flow.flags &= !FLOW_CHAT;
        }
        Acquired::Over => return Entered::Over,
    }
    Entered::Yes
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
    if let Err(why) = watch_flow(tables, watched) {
        // Nothing would ever end it.
        tables.remove_flow(&scratch.vip_side);
        count_flow(tables, replica, service, share, OFF);
        return Entered::refused(why, Entered::Fault);
    }
    Entered::Yes
}

/// Lets the flow go on at the replica that has accepted. The one before is left with what it does not know yet.
#[inline(never)]
fn relocate(tables: &impl FlowTables, scratch: &mut Scratch) -> Entered {
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return Entered::Already;
    };
    // From here on nobody else changes where it is.
    if !flow.begin_change() {
        return Entered::Already;
    }
    let Pending { client_isn, server_isn, .. } = scratch.pending;
    let left = claim_moving(tables, scratch, flow, (client_isn, server_isn));
    if let Some(back) = left {
        let Flow { replica, service, share, cookie, flags, replica_addr, replica_port, .. } =
            *flow.get();
        let FlowBack { seq_delta, ts_delta, .. } = *back.get();
        scratch.left.addr = replica_addr;
        scratch.left.port = replica_port;
        scratch.left.ack = scratch.pending.server_isn.wrapping_add(1).wrapping_add(seq_delta);
        scratch.left.ts_echo = back.ts_sent().wrapping_sub(ts_delta);
        count_flow(tables, scratch.flow.replica, service, share, 1);
        flow.relocate(&scratch.flow);
        flow.touch(tables.now());
        flow.advance(scratch.flow.acked, scratch.flow.sent);
        count_flow(tables, replica, service, share, OFF);
        if flags & FLOW_CHAT != 0 {
            chats::release(tables, &chat_key(service, cookie), replica);
        }
        back.set_state(STATE_EXPIRED);
        // No requests stand there any more, and when it was left is nowhere else.
        scratch.back = *back.get();
        scratch.back.state |= STATE_LEAVING;
        scratch.back.sent = scratch.left.ack;
        scratch.back.exchange = tables.now();
        if tables.set_ended_back(&scratch.last.replica_side, &scratch.back).is_err() {
            tables.count(Counter::RemainsLost);
        }
        tables.remove_flow_back(&scratch.last.replica_side);
        tables.count(Counter::ReboundRequest);
    }
    let Scratch { vip_side, last, .. } = scratch;
    end_change(tables, vip_side, flow, last);
    if left.is_some() { Entered::Yes } else { Entered::Already }
}

/// Segments of a head at the most: of 64 bytes each they are enough for the longest.
const SEGMENTS: u32 = 256;
/// The largest segment for a replica that says nothing (RFC 9293 section 3.7.1), and the smallest that is sent.
const USUAL: u16 = 536;
const SMALLEST: u16 = 76;

/// Turns the replica's segment, a SYN-ACK mostly, around into the first one of what its client has sent since the binding in
/// `scratch.pending`; if there are more, copies of it go before the last one.
#[inline(always)]
pub fn deliver<P: Packet>(
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
    header.ack = pending.server_isn.wrapping_add(1).wrapping_add(scratch.flow.seq_delta);
    header.flags = flags::ACK;
    ours.write_established(&mut header.options);
    scratch.delivery.made = 0;
    if reread(&scratch.held) == Held::Claimed {
        let sent = deliver_all(packet, tables, scratch);
        let acked = scratch.stash.get().acked;
        let is_lost = sent.is_none() && scratch.delivery.sent < acked;
        let is_read_on = reread(&scratch.reading) != 0;
        if is_read_on {
            let Scratch { stash, head, .. } = &mut *scratch;
            stash.get_mut().set_reader(head);
        }
        if acked == 0 && !is_read_on || is_lost {
            forget(tables, scratch);
        } else {
            // Kept until the replica has what its client does not send again: see [`crate::mend`].
            let stash = scratch.stash.get_mut();
            (stash.unacked, stash.key_len) = (0, 0);
            put(tables, scratch);
        }
        if is_lost {
            give_up(tables, scratch);
        }
        // What else was not sent, the client sends again.
        sent?;
    }
    if reread(&scratch.delivery.made) == 0 {
        // Not zero, which would stop the replica; the client's next segment tells the true one.
        scratch.header.window = 1;
        replace(packet, scratch, 0, 0)?;
        swap_macs(packet)?;
        scratch.header.becomes(packet, &mut scratch.segment, 0)?;
        return Some(Counter::DeliveredEmpty);
    }
    Some(Counter::Delivered)
}

/// Lets what was delivered go out as a copy, and makes the packet the FIN that ends the connection at the replica that was
/// left: it has all of the requests before, and its client has all of the answers. If there can be no copy, that replica
/// hears of it when it sends something.
#[inline(never)]
fn leave<P: Packet>(packet: &mut P, tables: &impl FlowTables, scratch: &mut Scratch) -> Option<()> {
    if packet.duplicate().is_none() {
        return Some(());
    }
    let Scratch { header, pending, left, .. } = &mut *scratch;
    header.dst = left.addr;
    header.dst_port = left.port;
    header.seq = pending.client_isn.wrapping_add(1);
    header.ack = left.ack;
    header.flags = flags::FIN | flags::ACK;
    let last = Offer {
        offers: pending.offers,
        ts_val: pending.ts_val,
        ts_echo: left.ts_echo,
        ..Offer::default()
    };
    last.write_established(&mut header.options);
    replace(packet, scratch, 0, 0)?;
    tables.count(Counter::LeftReplica);
    Some(())
}

/// Ends the flow: what it is to begin with is nowhere any more. Both ends are told.
#[inline(never)]
fn give_up(tables: &impl FlowTables, scratch: &mut Scratch) {
    if let Some(flow) = tables.flow(&scratch.vip_side)
        && end(tables, &scratch.vip_side, flow, Ending::Expired, &mut scratch.last)
    {
        tables.count(Counter::EndedLost);
    }
}

/// What became of the head when the replica accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Recalled {
    /// It is claimed and loaded; or there is none, and the client sends all of it again.
    Yes,
    /// Another replica has accepted before this one.
    Elsewhere,
    /// Another CPU is at it.
    Busy,
    /// Bytes that were acknowledged to the client, who does not send them again, are not there, or the replica has no
    /// room for them.
    Lost,
}

/// Claims the head of the connection and loads it, and decides how much of it is delivered. Another client's request
/// must not go to this one's replica. `may_wait`: 1 if a replica without room for what was acknowledged may be asked again.
#[inline(never)]
pub fn recall(tables: &impl FlowTables, scratch: &mut Scratch, may_wait: u32) -> Recalled {
    let (vip, vip_port) = (scratch.back.vip, scratch.back.vip_port);
    scratch.write_vip_side(&vip, vip_port);
    scratch.held = Held::No;
    if is_elsewhere(tables, scratch) {
        return Recalled::Elsewhere;
    }
    if claim(tables, scratch) == Found::Busy {
        return Recalled::Busy;
    }
    let Scratch { stash: room, chunk_key: key, delivery, held, .. } = scratch;
    let &Stash { known, acked, .. } = room.get();
    let is_ours =
        reread(held) == Held::Claimed && room.get().server_isn() == scratch.pending.server_isn;
    let is_there = is_ours && known > 0 && room.load_all(tables, key, 0, known);
    delivery.at = 0;
    delivery.sent = 0;
    delivery.limit = known.min(scratch.segment.window as u32);
    let is_lost = if is_there {
        delivery.limit < acked
    } else {
        scratch.pending.flags & PENDING_ACKNOWLEDGED != 0
    };
    if is_there && acked != 0 {
        scratch.back.state |= STATE_HEAD;
    }
    if scratch.pending.flags & FLOW_EXCHANGE != 0 {
        follow(tables, scratch, if is_there { known } else { 0 });
    }
    if is_lost && is_there && may_wait != 0 {
        release(tables, scratch);
        return Recalled::Busy;
    }
    if !is_ours {
        release(tables, scratch);
    } else if is_lost || !is_there {
        forget(tables, scratch);
    }
    if is_lost { Recalled::Lost } else { Recalled::Yes }
}

/// Whether another replica has accepted before this one: it has the first bytes, and nothing of this one's concerns their
/// client.
#[inline(always)]
fn is_elsewhere(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return false;
    };
    // This one has, and answers again.
    if tables.flow_back(&scratch.replica_side).is_some() {
        return false;
    }
    let Pending { flags, client_isn, server_isn, .. } = scratch.pending;
    flags & PENDING_AGAIN == 0 || waiting(tables, scratch, flow, (client_isn, server_isn)).is_none()
}

/// Finds where the next request begins, if more of the head is there than when the connection was bound, or leaves its requests
/// alone: `known` bytes are to be delivered, which may be more than one request.
#[inline(never)]
fn follow(tables: &impl FlowTables, scratch: &mut Scratch, known: u32) {
    let Pending { boundary, client_isn, server_isn, flags, .. } = scratch.pending;
    let (first, answer) = (client_isn.wrapping_add(1), server_isn.wrapping_add(1));
    let mut exchange = Exchange::first(boundary, answer);
    if flags & PENDING_READING != 0 {
        scratch.head = Head::NEW;
        // What does not fit into the replica's window comes again.
        let known = known.min(reread(&scratch.delivery.limit));
        read_head(tables, scratch, 0, known);
        exchange.begin(first, known, answer, scratch.head.read());
        if known == 0 {
            exchange.standing = Standing::Doubt(Doubt::SplitHead);
        }
    } else if boundary.wrapping_sub(first) < known {
        exchange.standing = Standing::Doubt(Doubt::Pipelined);
    }
    if let Standing::Doubt(doubt) = exchange.standing {
        scratch.doubt = doubt.counter();
        scratch.flow.flags &= !FLOW_EXCHANGE;
        scratch.back.state &= !STATE_EXCHANGE;
    }
    scratch.reading = (exchange.standing == Standing::Reading) as u32;
    scratch.back.exchange = exchange.word();
    scratch.back.boundary = exchange.boundary;
}

/// Makes the packet the segments of the head that the replica has room for.
#[inline(always)]
fn deliver_all<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<()> {
    let window = scratch.stash.get().window;
    let most = largest(tables, scratch, scratch.pending.service);
    let delivery = &mut scratch.delivery;
    delivery.most = most as u32 - scratch.header.options.len * 4;
    delivery.failed = 0;
    scratch.header.window = rescale(window, scratch.flow.window_shift, 0);
    tables.repeat(SEGMENTS, &mut Deliver { packet, tables, scratch });
    (reread(&scratch.delivery.failed) == 0).then_some(())
}

/// The largest segment that the replica takes, and that fits through the routes to the service's replicas.
#[inline(always)]
pub fn largest(tables: &impl FlowTables, scratch: &Scratch, service: u32) -> u16 {
    let offered = if scratch.answer.mss == 0 { USUAL } else { scratch.answer.mss };
    let most = tables.service(service).map_or(offered, |service| {
        let fits = if scratch.segment.is_v6() { service.mss6 } else { service.mss4 };
        offered.min(fits)
    });
    most.max(SMALLEST)
}

/// The segments of a head, one at each step.
struct Deliver<'a, P, T> {
    packet: &'a mut P,
    tables: &'a T,
    scratch: &'a mut Scratch,
}

impl<P: Packet, T: FlowTables> Step for Deliver<'_, P, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let Self { packet, tables, scratch } = self;
        if deliver_segment(*packet, *tables, scratch).is_none() {
            scratch.delivery.failed = 1;
            return false;
        }
        scratch.delivery.at < scratch.delivery.limit
    }
}

/// Makes the packet the next segment of the head. One that was made before goes out as a copy.
#[inline(always)]
fn deliver_segment<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<()> {
    let Delivery { at, limit, most, made, .. } = reread(&scratch.delivery);
    if made != 0 {
        packet.duplicate()?;
        scratch.delivery.sent = at;
        tables.count(Counter::DeliveredMore);
    }
    let len = limit.wrapping_sub(at).min(most).min(PART as u32);
    let end = at.wrapping_add(len);
    let stash = scratch.stash.get();
    let is_last = end == stash.known;
    let fin = if is_last && stash.is_whole() { flags::FIN } else { 0 };
    let push = if is_last { stash.tcp_flags } else { 0 };
    let header = &mut scratch.header;
    header.seq = scratch.pending.client_isn.wrapping_add(1).wrapping_add(at);
    header.flags = flags::ACK | push | fin;
    replace(packet, scratch, at, len)?;
    if made == 0 {
        swap_macs(packet)?;
    }
    scratch.header.becomes(packet, &mut scratch.segment, len)?;
    if fin != 0 {
        ends(tables, scratch, end);
    }
    scratch.delivery.at = end;
    scratch.delivery.made = made.wrapping_add(1);
    Some(())
}

/// Notes that the client's direction ends behind so many bytes.
#[inline(never)]
fn ends(tables: &impl FlowTables, scratch: &Scratch, len: u32) {
    if let Some(flow) = tables.flow(&scratch.vip_side) {
        let back = tables.flow_back(&scratch.replica_side);
        let end = scratch.pending.client_isn.wrapping_add(len).wrapping_add(2);
        note_fin(tables, flow, back, end, End::Client);
    }
}
