//! A connection that is used again: what becomes of its later requests, as its service's `on_reuse` says.
//!
//! Where each request begins is known by [`Exchange`], which is in `FLOWS_BACK`: its word is swapped by both
//! directions. The client's segments are decided by it before they go on, and the replica's noted in it before they do.

use crate::{
    atomic::try_some,
    bind,
    chats::{self, Acquired},
    first::read_head,
    flow::end_change,
    head::{Found, claim, forget, put, release},
    integrity::{is_intact, payload_sum},
    keep::{Kept, keep},
    maps::{
        FLOW_CHAT, FLOW_EXCHANGE, FLOW_REQUESTS, Flow, FlowBack, HEAD_LEN, OFFER_TIMESTAMPS, PART,
        STATE_CLIENT_FIN, STATE_DOUBT, STATE_ENDED, STATE_EXCHANGE, STATE_LEAVING, STATE_MOVING,
        STATE_REPLICA_FIN, STATE_UPGRADED,
    },
    options::Offer,
    packet::Packet,
    place::place,
    reply,
    request::{ANSWER_LEN, Answer, Decision, Doubt, Exchange, Head, Place, REACH, Standing},
    scratch::Scratch,
    segment::Segment,
    shared::Shared,
    stage::{Next, Stage},
    stash::Held,
    steer::{chat_key, still_gives},
    tables::FlowTables,
    verdict::Counter,
    verifier::{index, reread},
    wire::flags,
};

/// What becomes of a client's segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It goes where the connection is.
    Deliver,
    /// It comes too early, and has to come again.
    Early,
    /// It says nothing to where the connection is, or goes.
    Old,
    /// The same, and its client has not heard that all of it has arrived. What it sends next is behind
    /// `scratch.client_isn`.
    Known,
    /// A request begins in it, or it is one's that is on its way to another replica.
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
    /// Its connection is bound again, as if it began with it.
    Again,
}

/// Whether a flow's requests are looked at.
#[inline(always)]
pub const fn is_looked_at(flags: u8, state: u32) -> bool {
    flags & FLOW_EXCHANGE != 0 && state & (STATE_UPGRADED | STATE_DOUBT) == 0
}

/// Decides about a segment of the client's in a flow whose requests are looked at, or that was just bound again.
#[inline(never)]
pub fn ask(tables: &impl FlowTables, scratch: &mut Scratch, flow: Shared<Flow>) -> Asked {
    // A flow that has just gone on elsewhere has none where it was.
    let Some(back) = other_side(tables, scratch) else {
        return Asked::Early;
    };
    // One without an acknowledgement is nothing to a replica.
    if !scratch.segment.has(flags::ACK) {
        return Asked::Deliver;
    }
    let state = flow.state();
    let is_looked_at = is_looked_at(flow.get().flags, state);
    let (exchange, decision) = decide(scratch, flow, back);
    // What it is from here on is the new replica's side to say, also whether its requests are looked at.
    if exchange.standing == Standing::Left {
        return Asked::Early;
    }
    let is_moving = is_looked_at && exchange.standing == Standing::Moving;
    if !is_moving && state & STATE_MOVING != 0 && is_old(scratch, flow, back) {
        let FlowBack { client_isn, server_isn, .. } = *back.get();
        return old(scratch, client_isn, server_isn.wrapping_add(1));
    }
    if !is_moving && (!is_looked_at || !scratch.segment.says_something()) {
        // One that has overtaken a request would let that go where the connection is, whatever it asks for.
        let overtakes = scratch.segment.has(flags::FIN) && exchange.is_ahead(scratch.segment.seq);
        return if is_looked_at && overtakes { Asked::Early } else { Asked::Deliver };
    }
    match decision {
        Decision::Deliver => Asked::Deliver,
        Decision::Again => {
            let Segment { seq, .. } = scratch.segment;
            let next = exchange.tried(seq, scratch.segment.payload_len() as u32);
            if next.word() != exchange.word() {
                back.swap_exchange(&exchange, &next);
            }
            Asked::Early
        }
        Decision::Nothing => old(scratch, exchange.boundary.wrapping_sub(1), exchange.sent),
        // All that changes more than this is decided when its checksum was verified.
        Decision::Request(_) | Decision::Move(_) | Decision::More(_) | Decision::Doubt(_) => {
            Asked::Request
        }
    }
}

/// Whether a segment is from before its flow's last binding: a replica that has yet to hear of its client's first
/// byte would reset the connection for it. When it has, it looks after itself.
#[inline(always)]
fn is_old(scratch: &Scratch, flow: Shared<Flow>, back: Shared<FlowBack>) -> bool {
    let FlowBack { client_isn, server_isn, .. } = *back.get();
    let binding = (client_isn.wrapping_add(1), server_isn.wrapping_add(1));
    if back.acked() != binding.0 {
        flow.clear_state(STATE_MOVING);
        return false;
    }
    let segment = &scratch.segment;
    Exchange::is_before(binding, segment.seq.wrapping_add(segment.sequence_len()), segment.ack)
}

/// Whether the segment in hand has overtaken a request.
#[inline(always)]
pub fn is_ahead(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let back = other_side(tables, scratch);
    back.is_some_and(|back| back.exchange().is_ahead(scratch.segment.seq))
}

/// What becomes of a segment from before a binding with these numbers. One whose bytes all were before it has a client that
/// sends nothing else until it hears of them: an acknowledgement of the replica's that was left is lost.
#[inline(always)]
fn old(scratch: &mut Scratch, client_isn: u32, acked: u32) -> Asked {
    let Segment { seq, ack, .. } = scratch.segment;
    let len = scratch.segment.payload_len() as u32;
    scratch.client_isn = client_isn;
    let behind = client_isn.wrapping_add(1).wrapping_sub(seq.wrapping_add(len));
    if len > 0 && ack == acked && behind <= REACH { Asked::Known } else { Asked::Old }
}

/// Acknowledges all before the binding in `scratch.client_isn`, which the replica of before has acknowledged.
#[inline(never)]
pub fn acknowledge<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let Some(back) = other_side(tables, scratch) else {
        return Some(Counter::DropOld);
    };
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    scratch.offer = Offer {
        ts_val: scratch.answer.ts_val,
        offers: back.get().offers & (scratch.answer.offers | !OFFER_TIMESTAMPS),
        ..Offer::default()
    };
    // No client takes an older one.
    scratch.answer.ts_echo = back.ts_sent();
    reply::acknowledge(packet, scratch, 0, Counter::BoundaryAcknowledged)
}

/// Raises the echo of a segment that is to be translated by `scratch.flow`, which was bound again, to a timestamp of the
/// replica's. One of a replica's before is older, and a replica that has yet to hear of its client may not take that.
#[inline(never)]
pub fn raise_echo<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<()> {
    let back = other_side(tables, scratch)?;
    if scratch.flow.ts_delta == 0 || back.get().offers & OFFER_TIMESTAMPS == 0 {
        return Some(());
    }
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    let behind = back.ts_sent().wrapping_sub(scratch.answer.ts_echo);
    if scratch.answer.has(OFFER_TIMESTAMPS) && behind as i32 > 0 {
        // Of a copy: only this segment is translated by it.
        scratch.flow.ts_delta = scratch.flow.ts_delta.wrapping_sub(behind);
    }
    Some(())
}

/// The other side of `scratch.flow`, by which the segment in hand is translated.
#[inline(always)]
fn other_side(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Shared<FlowBack>> {
    let Scratch { vip_side, last, flow, .. } = scratch;
    last.write_replica_side(vip_side, flow);
    tables.flow_back(&last.replica_side)
}

/// Where the requests of a flow stand, and what that says of the segment in hand.
#[inline(always)]
fn decide(scratch: &Scratch, flow: Shared<Flow>, back: Shared<FlowBack>) -> (Exchange, Decision) {
    const CLOSING: u32 = STATE_CLIENT_FIN | STATE_ENDED;
    let segment = &scratch.segment;
    let Segment { seq, ack, .. } = *segment;
    let len = segment.payload_len() as u32;
    let state = flow.state();
    let exchange = Exchange {
        closing: state & CLOSING != 0,
        is_left: state & STATE_REPLICA_FIN != 0,
        ..back.exchange()
    };
    let decision = match exchange.standing {
        Standing::Moving => exchange.go_on(seq, ack, len, segment.has(flags::FIN)),
        _ if segment.has(flags::URG) => exchange.decide_urgent(seq, ack),
        _ => exchange.decide(seq, ack, len),
    };
    (exchange, decision)
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
        Reuse::Again => Next::Stage(Stage::Bind),
    })
}

#[inline(never)]
fn request<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Reuse> {
    // What has changed since it was decided is decided anew when it comes again.
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return Some(Reuse::Early);
    };
    let Some(back) = other_side(tables, scratch) else {
        return Some(Reuse::Early);
    };
    let server_isn = flow.get().server_isn;
    if !is_intact(packet, scratch, |packet, scratch| payload_sum(packet, tables, scratch))? {
        return Some(Reuse::Damaged);
    }
    scratch.routed = 0;
    match decide(scratch, flow, back) {
        (_, Decision::Request(at)) => scratch.asked = at,
        (exchange, Decision::Move(at)) => {
            scratch.asked = at;
            return bind_again(packet, scratch, flow, back, &exchange);
        }
        (exchange, Decision::More(at)) => {
            scratch.asked = at;
            return read_on(packet, tables, scratch, flow, back, &exchange);
        }
        (exchange, Decision::Doubt(doubt)) => {
            let next = Exchange { standing: Standing::Doubt(doubt), ..exchange };
            let is_done = change(tables, flow, back, &exchange, &next);
            return Some(if is_done { Reuse::Decided } else { Reuse::Early });
        }
        _ => return Some(Reuse::Early),
    }
    let loaded = load(packet, scratch)?;
    scratch.head = Head::NEW;
    read_head(tables, scratch, 0, loaded);
    let known = (scratch.segment.payload_len() as u32).wrapping_sub(reread(&scratch.asked));
    scratch.place = place(tables, scratch, flow, known)?;
    if reread(&scratch.place) == Place::Beside {
        scratch.place = count_beside(tables, scratch, flow)?;
    }
    // Only now, or the verifier would look at all of this once for each kind of head. What has changed meanwhile is
    // decided anew when the segment comes again.
    let (exchange, Decision::Request(at)) = decide(scratch, flow, back) else {
        return Some(Reuse::Early);
    };
    let Segment { ack, .. } = scratch.segment;
    let mut next = exchange;
    if matches!(reread(&scratch.place), Place::Here | Place::Always) {
        let known = (scratch.segment.payload_len() as u32).wrapping_sub(at);
        next.begin(exchange.boundary, known, ack, scratch.head.read());
        if next.standing == Standing::Reading
            && (known > PART as u32 || !keep_reader(tables, scratch, exchange.boundary))
        {
            next.standing = Standing::Doubt(Doubt::SplitHead);
        }
        if reread(&scratch.place) == Place::Always {
            next.standing = Standing::Doubt(Doubt::Stays);
        }
        if !change(tables, flow, back, &exchange, &next) {
            return Some(Reuse::Early);
        }
        tables.count(Counter::StayedRequest);
        return Some(Reuse::Decided);
    }
    if exchange.is_left && matches!(reread(&scratch.place), Place::Elsewhere | Place::Unknown) {
        // Its client has heard the end, or will: nothing could come behind that.
        scratch.place = Place::Nowhere;
    }
    // From here on nothing of the replica's reaches the client, and nothing of the client's that one.
    next.standing = Standing::Moving;
    if reread(&scratch.place) == Place::Beside || !back.swap_exchange(&exchange, &next) {
        return Some(Reuse::Early);
    }
    // Looked for again: it may be over, and its place another flow's.
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return Some(Reuse::Early);
    };
    if flow.get().server_isn != server_isn || flow.state() & STATE_ENDED != 0 {
        return Some(Reuse::Early);
    }
    // So that the replica is told that its client has all.
    flow.advance(ack, exchange.boundary);
    if reread(&scratch.place) == Place::Nowhere {
        flow.set_state(STATE_LEAVING);
        return Some(Reuse::Decided);
    }
    // How long it may take is counted from here.
    flow.touch(tables.now());
    flow.set_state(STATE_MOVING);
    // Unless there is more of it than was looked at, or more of it is waited for.
    scratch.routed = ((scratch.segment.payload_len() as u32).wrapping_sub(at) == loaded
        && reread(&scratch.place) != Place::Unknown) as u32;
    bind_again(packet, scratch, flow, back, &exchange)
}

/// Lets the segment in hand be bound as if its connection began at the boundary.
#[inline(always)]
fn bind_again<P: Packet>(
    packet: &P,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    back: Shared<FlowBack>,
    exchange: &Exchange,
) -> Option<Reuse> {
    let FlowBack { mss, client_scale: scale, offers, .. } = *back.get();
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    scratch.offer = Offer { ts_val: scratch.answer.ts_val, ts_echo: 0, mss, offers, scale };
    // The new replica's timestamps begin above all that the client has seen, and what was echoed matters no more.
    scratch.answer.ts_echo = back.ts_sent().wrapping_add(1);
    scratch.client_isn = exchange.boundary.wrapping_sub(1);
    scratch.service = flow.get().service;
    scratch.again = 1;
    Some(Reuse::Again)
}

/// Keeps what is known of the head in hand, of a request that begins there: its bytes are delivered. Returns whether there is
/// room.
#[inline(never)]
fn keep_reader(tables: &impl FlowTables, scratch: &mut Scratch, first: u32) -> bool {
    // Another one is of a request that is over.
    if claim(tables, scratch) == Found::Busy {
        return false;
    }
    forget(tables, scratch);
    let Scratch { stash: room, segment, service, head, held, .. } = &mut *scratch;
    room.clear(segment.ack.wrapping_sub(1), first.wrapping_sub(1), *service, tables.now());
    room.get_mut().set_reader(head);
    *held = Held::New;
    keep(tables, scratch) == Kept::Yes
}

/// Where bytes are put that are not to go into an entry of `STASH`, whose own may be waited for.
const BEHIND: u32 = HEAD_LEN as u32 / 2;

/// A segment in which the head of a request goes on that is delivered as it comes.
#[inline(always)]
fn read_on<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    back: Shared<FlowBack>,
    exchange: &Exchange,
) -> Option<Reuse> {
    if claim(tables, scratch) == Found::Busy {
        return Some(Reuse::Early);
    }
    let is_ours = reread(&scratch.held) == Held::Claimed
        && scratch.stash.get().server_isn() == exchange.answer.wrapping_sub(1);
    let at = reread(&scratch.asked);
    let known = (scratch.segment.payload_len() as u32).checked_sub(at)?;
    let mut next = *exchange;
    if is_ours && known <= PART as u32 {
        let Scratch { segment, stash, head, .. } = &mut *scratch;
        *head = *stash.get().reader();
        let from = segment.l4() + segment.header_len() + index(at);
        let first = exchange.boundary.wrapping_sub(head.at);
        packet.load(from, stash.bytes_mut(BEHIND), known as usize)?;
        let read = scratch.head.at;
        let known = read.wrapping_add(known);
        read_head(tables, scratch, read.wrapping_sub(BEHIND), known);
        next.begin(first, known, exchange.answer, scratch.head.read());
        if exchange.sent != exchange.answer && !matches!(next.standing, Standing::Doubt(_)) {
            // An answer to what its replica had not read.
            next.standing = Standing::Doubt(Doubt::MisplacedAnswer);
        }
    } else {
        next.number = next.number.wrapping_add(1);
        next.standing = Standing::Doubt(Doubt::SplitHead);
    }
    let is_done = change(tables, flow, back, exchange, &next);
    if is_done && next.standing == Standing::Reading {
        let Scratch { stash, head, .. } = &mut *scratch;
        stash.get_mut().set_reader(head);
        put(tables, scratch);
    } else if is_done && is_ours && scratch.stash.get().acked != 0 {
        // Its replica has yet to say that it has what nobody else would send again.
        put(tables, scratch);
    } else if is_done && is_ours {
        forget(tables, scratch);
    } else {
        release(tables, scratch);
    }
    Some(if is_done { Reuse::Decided } else { Reuse::Early })
}

/// Puts the bytes of the request in hand into `scratch.stash`, as if the connection began with them: as many as
/// fit into a part. Returns how many.
#[inline(always)]
fn load<P: Packet>(packet: &P, scratch: &mut Scratch) -> Option<u32> {
    let Scratch { segment, stash, asked, .. } = scratch;
    let boundary = segment.seq.wrapping_add(*asked);
    let asked = index(*asked);
    let from = segment.l4() + segment.header_len() + asked;
    let len = segment.payload_len().checked_sub(asked)?.min(PART);
    stash.clear(0, boundary.wrapping_sub(1), 0, 0);
    packet.load(from, stash.bytes_mut(0), len)?;
    stash.add(0, len as u32);
    Some(len as u32)
}

/// Lets a flow count for the chat of the request in hand, which lives at the same replica.
#[inline(never)]
fn count_beside(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
) -> Option<Place> {
    bind::name_chat(scratch);
    let Scratch { holder, vip_side, service, route, .. } = scratch;
    holder.set(tables, *service, &vip_side.client, &vip_side.client);
    let (cookie, whole, replica) = (route.cookie, route.whole, route.replica);
    scratch.flow.replica = replica;
    scratch.flow.share = scratch.holder.source;
    scratch.chat_key = chat_key(*service, cookie);
    if !flow.begin_change() {
        return Some(Place::Beside);
    }
    let acquired = chats::acquire(tables, scratch);
    let counted = match acquired {
        Acquired::Counted | Acquired::First => FLOW_CHAT,
        _ => 0,
    };
    let service = scratch.service;
    // As when a replica accepts: the entry is made first, and the table read after it.
    let is_undone = acquired == Acquired::First
        && !still_gives(tables, service, cookie, whole, replica, &mut scratch.route);
    let place = match acquired {
        _ if is_undone => {
            chats::undo(tables, &scratch.chat_key, replica);
            Place::Beside
        }
        Acquired::Counted | Acquired::First | Acquired::Uncounted | Acquired::Over => {
            if acquired == Acquired::Over {
                // It takes no more than it had.
                tables.count(Counter::ChatsShare);
            }
            let Flow { cookie: before, flags, .. } = *flow.get();
            flow.set_chat(cookie, counted);
            if flags & FLOW_CHAT != 0 {
                chats::release(tables, &chat_key(service, before), replica);
            }
            Place::Here
        }
        Acquired::Elsewhere | Acquired::Busy | Acquired::Fault => Place::Beside,
    };
    let Scratch { vip_side, last, .. } = scratch;
    end_change(tables, vip_side, flow, last);
    Some(place)
}

/// Changes where the requests of a flow stand. Returns whether that is done: not if another CPU was first. When
/// nothing is left to be looked at, nothing is from then on.
#[inline(always)]
pub fn change(
    tables: &impl FlowTables,
    flow: Shared<Flow>,
    back: Shared<FlowBack>,
    old: &Exchange,
    new: &Exchange,
) -> bool {
    let mut new = *new;
    if old.number == new.number {
        if !back.swap_exchange(old, &new) {
            return false;
        }
    } else {
        let sent = new.sent;
        match back.begin_exchange(old, &new) {
            Some(now) => new = now,
            None => return false,
        }
        if new.sent != sent && matches!(new.standing, Standing::Answer | Standing::Reading) {
            // What the replica has sent between the two is no answer to it.
            let old = new;
            new.standing = Standing::Doubt(Doubt::MisplacedAnswer);
            if !back.swap_exchange(&old, &new) {
                return true;
            }
        }
    }
    let state = match new.standing {
        Standing::Answer
        | Standing::Request
        | Standing::Reading
        | Standing::Moving
        | Standing::Left
        | Standing::Changing => return true,
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

/// Notes a segment of the replica's before it goes on to the client. Returns whether it does.
#[inline(never)]
pub fn answer<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    back: Shared<FlowBack>,
) -> bool {
    let FlowBack { seq_delta, ts_delta, offers, .. } = *back.get();
    if offers & OFFER_TIMESTAMPS != 0 {
        let Scratch { segment, cursor, answer, .. } = scratch;
        if answer.parse(packet, segment, cursor).is_none() {
            return false;
        }
    }
    let segment = &scratch.segment;
    let len = segment.payload_len();
    let at = segment.l4() + segment.header_len();
    let answer = if len >= ANSWER_LEN {
        packet.reach(at + ANSWER_LEN);
        packet.view(at).map(Answer::read)
    } else {
        None
    };
    let seq = segment.seq.wrapping_sub(seq_delta);
    let end = seq.wrapping_add(segment.sequence_len());
    // What its client takes from nobody says nothing.
    let before = back.exchange();
    let is_credible = segment.has(flags::ACK) && before.is_credible(seq, segment.ack, flow.sent());
    if before.is_over() {
        return false;
    }
    if is_credible && offers & OFFER_TIMESTAMPS != 0 && scratch.answer.has(OFFER_TIMESTAMPS) {
        // First: whoever binds the connection again behind this segment reads it.
        back.note_timestamp(scratch.answer.ts_val.wrapping_add(ts_delta));
    }
    let attempt = || {
        let exchange = back.exchange();
        if exchange.is_over() {
            return Some(false);
        }
        let mut next = exchange;
        if is_credible {
            next.note(end, exchange.hear(seq, len as u32, answer));
        }
        // Swapped even if it is the same: so whoever binds the connection again has either been first, or sees what was
        // noted here.
        let is_done = if next.word() == exchange.word() {
            back.swap_exchange(&exchange, &exchange)
        } else {
            change(tables, flow, back, &exchange, &next)
        };
        is_done.then_some(true)
    };
    try_some!(attempt()).unwrap_or(false)
}
