//! Delayed binding: the first bytes name the chat, so only now the replica is chosen. The segments
//! that bring them are stashed, and the one that completes the key becomes the SYN of the connection
//! to the replica (`connect.rs`). A later request that binds its connection again is no other: its first byte is the
//! first one then.

use crate::{
    accept::end_moving,
    connect::{Connected, connect},
    hand::before_head,
    head::{Found, claim, forget, release},
    integrity::{is_intact, payload_sum},
    keep::{Kept, keep},
    key::Reason,
    maps::{HEAD_LEN, Name, OFFER_TIMESTAMPS, PART, PENDING_REFUSED},
    packet::Packet,
    place::settle,
    reply,
    request::Place,
    route::route,
    scratch::Scratch,
    shares::{self, Table},
    stash::{Added, Held, Room},
    steer::{NoRoute, Routed, Why, chat_key, is_usable},
    syn_cookie,
    tables::{FlowTables, Step},
    verdict::Counter,
    verifier::reread,
    wire::flags,
};

/// Takes a data segment of a connection without a flow, whose client's ISN is in `scratch.client_isn`, and
/// binds the connection when its key is known.
#[inline(always)]
pub fn bind<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    scratch.held = Held::No;
    let decided = decide(packet, tables, scratch);
    if reread(&scratch.held) != Held::No {
        release(tables, scratch);
    }
    decided
}

/// Four steps, each with a stack frame of its own that is gone before the next one.
#[inline(always)]
fn decide<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    if !read(packet, tables, scratch)? {
        return Some(Counter::DropChecksum);
    }
    scratch.decided = 0;
    let collected = collect(packet, tables, scratch)?;
    scratch.acknowledges = (collected == Collected::Again) as u32;
    let chosen = match collected {
        Collected::Kept => Chosen::Kept,
        Collected::Again if !may_be_whole(scratch) => Chosen::Waited,
        Collected::Early => return Some(Counter::DropEarly),
        Collected::Limited => return Some(Counter::DropResetLimit),
        Collected::Again | Collected::Ready => {
            if reread(&scratch.stash.get().bound) != 0 {
                recall_decision(tables, scratch)?;
            }
            match reread(&scratch.decided) {
                0 => choose(tables, scratch)?,
                _ => Chosen::Replica,
            }
        }
    };
    let why = match chosen {
        Chosen::Replica => match connect(packet, tables, scratch)? {
            Connected::Bound => return Some(Counter::Bound),
            Connected::Early => return Some(Counter::DropEarly),
            Connected::Asked => return Some(Counter::HeadAnnounced),
            Connected::Conflict => Counter::ResetConflict,
            Connected::Itself => Counter::ResetItself,
            Connected::NoAddress => Counter::ResetNoReplica,
            Connected::Over => Counter::ResetShare,
        },
        Chosen::Kept | Chosen::Waited => match wait(packet, tables, scratch, chosen)? {
            Counter::ResetShare => Counter::ResetShare,
            verdict => return Some(verdict),
        },
        Chosen::Over => Counter::ResetShare,
        Chosen::Leaves => Counter::ResetExpired,
        Chosen::Not(NoRoute::MissingKey) => Counter::ResetMissingKey,
        Chosen::Not(NoRoute::NoReplica) => Counter::ResetNoReplica,
    };
    // Nobody waits for it any more.
    forget(tables, scratch);
    if reread(&scratch.again) != 0 {
        let binding = (reread(&scratch.client_isn), scratch.segment.ack.wrapping_sub(1));
        // Another CPU may have taken it on.
        return match end_moving(tables, scratch, binding) {
            true => reply::reset_known(packet, scratch, why),
            false => Some(Counter::DropRequestEarly),
        };
    }
    let verdict = reply::reset(packet, tables, scratch, why)?;
    if verdict == Counter::ResetShare {
        tables.count(scratch.over);
    }
    Some(verdict)
}

/// Whether a later head of which nothing new came is looked at once more: its client may take it for whole, where its end is in
/// doubt. Once for all that the client has not heard of.
#[inline(always)]
fn may_be_whole(scratch: &Scratch) -> bool {
    let stash = scratch.stash.get();
    reread(&scratch.again) != 0 && stash.acked != stash.known
}

/// Reads the segment. Returns whether its checksum is right.
#[inline(never)]
fn read<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<bool> {
    // Of a flow all of this may be known.
    if reread(&scratch.routed) == 0
        && !is_intact(packet, scratch, |packet, scratch| payload_sum(packet, tables, scratch))?
    {
        return Some(false);
    }
    if reread(&scratch.again) == 0 {
        scratch.offer = syn_cookie::offer(scratch.segment.ack, &scratch.answer);
    }
    Some(true)
}

/// What became of a segment among those of its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collected {
    /// What is known now is to be searched, unless the connection was bound and its client has not heard of the replica.
    Ready,
    /// It is to be kept for later.
    Kept,
    /// It is known, and has been searched: its client does not send what follows.
    Again,
    /// It has to come again.
    Early,
    /// It may be a guess, of which there were too many: see [`crate::limit`].
    Limited,
}

/// Puts the segment to those of its connection that came before.
#[inline(never)]
fn collect<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Collected> {
    let server_isn = scratch.segment.ack.wrapping_sub(1);
    let client_isn = reread(&scratch.client_isn);
    // What is before the first byte is not looked at.
    let skipped = reread(&scratch.asked);
    let seq = scratch.segment.seq.wrapping_add(skipped);
    let len = (scratch.segment.payload_len() as u32).checked_sub(skipped)?;
    let is_first = seq == client_isn.wrapping_add(1);
    let found = claim(tables, scratch);
    if found == Found::Busy {
        return Some(Collected::Early);
    }
    if found != Found::Nothing {
        // Other bytes are in its place.
        scratch.routed = 0;
    }
    if found == Found::Nothing || scratch.stash.get().server_isn() != server_isn {
        // Whoever guesses must not learn more from this than from an RST, nor take the place of many.
        if !is_first && !reply::may_reset(tables, scratch)? {
            return Some(Collected::Limited);
        }
        if !is_first && (found != Found::Nothing || !scratch.allowance.may_keep_early(tables.now()))
        {
            return Some(Collected::Early);
        }
        if len == 0 {
            return Some(Collected::Early);
        }
        forget(tables, scratch);
        // Who makes the maps grow looks after them first.
        before_head(tables, &mut scratch.turn, &mut scratch.last);
        scratch.held = Held::New;
        let since = scratch.allowance.begin_head(tables.now());
        scratch.stash.clear(server_isn, client_isn, scratch.service, since);
    }
    let from = scratch.stash.get().place(seq);
    let end = from.wrapping_add(len);
    let to = end.min(HEAD_LEN as u32);
    let mut added = match len {
        // Only the end of the connection, if it is not too far away.
        0 if end == to => Added::Known,
        _ => scratch.stash.get().fits(from, to),
    };
    if added == Added::New {
        add(packet, tables, scratch, from, to)?;
    }
    if scratch.segment.has(flags::FIN)
        && added != Added::No
        && end == to
        && scratch.stash.get_mut().end_at(end)
    {
        // Its bytes may have been known, but not that no more will come.
        added = Added::New;
    }
    let stash = scratch.stash.get_mut();
    if added == Added::New {
        stash.unacked = stash.unacked.saturating_add(1);
        stash.window = scratch.segment.window;
        stash.tcp_flags |= scratch.segment.flags & flags::PSH;
    }
    let again = added == Added::Known;
    let (known, bound) = (stash.known, stash.bound != 0);
    if known == 0 || bound && !is_first && !again {
        // To be delivered when the replica accepts, or to be searched when the first one is there.
        return Some(if added == Added::New { Collected::Kept } else { Collected::Early });
    }
    Some(match added {
        _ if bound => Collected::Ready,
        Added::New => Collected::Ready,
        Added::Known => Collected::Again,
        Added::No => Collected::Early,
    })
}

/// Copies a payload, part by part.
struct Copy<'a, P> {
    packet: &'a P,
    room: &'a mut Room,
    /// Offset of the next part.
    at: u32,
    /// Its place.
    to: u32,
    /// Bytes that are left.
    left: u32,
}

impl<P: Packet> Step for Copy<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        let len = self.left.min(PART as u32);
        if self.packet.load(self.at as usize, self.room.bytes_mut(self.to), len as usize).is_none()
        {
            return false;
        }
        self.at += len;
        self.to += len;
        self.left -= len;
        self.left > 0
    }
}

/// Segments that a client sends before it hears of us (RFC 6928).
const FIRST_WINDOW: u8 = 10;
/// Parts of the longest head.
const PARTS: u32 = (HEAD_LEN / PART) as u32;

/// Adds the bytes from `from` to `to` of the segment in hand, but for those that are known: what was searched does not
/// change any more.
#[inline(always)]
fn add(
    packet: &impl Packet,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    from: u32,
    to: u32,
) -> Option<()> {
    let Scratch { segment, stash: room, chunk_key: key, asked, routed, .. } = scratch;
    let known = room.get().known;
    let skipped = known.saturating_sub(from);
    let from = from + skipped;
    if room.get().chunks != 0 {
        room.load_all(tables, key, from, to);
    }
    let at = (segment.l4() + segment.header_len()) as u32 + reread(asked) + skipped;
    // Those of a request whose place was looked up are here already.
    let left = if reread(routed) == 0 { to - from } else { 0 };
    let mut copy = Copy { packet, room, at, to: from, left };
    tables.repeat(PARTS, &mut copy);
    if reread(&copy.left) != 0 {
        return None;
    }
    room.add(from, to);
    Some(())
}

/// Keeps what is known, and acknowledges it to a client that sends nothing else before that: from then on it is ours
/// to deliver.
#[inline(never)]
fn wait<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    why: Chosen,
) -> Option<Counter> {
    let stash = scratch.stash.get_mut();
    scratch.acknowledges = (why == Chosen::Waited) as u32;
    if why == Chosen::Waited {
        stash.acked = stash.known;
        stash.unacked = 0;
    }
    match keep(tables, scratch) {
        Kept::Yes => {}
        // It would wait in silence, and all that its replica says: on a new connection it may need no room.
        Kept::Over if reread(&scratch.again) != 0 => return Some(Counter::ResetShare),
        Kept::Over | Kept::No => return Some(Counter::DropEarly),
    }
    if reread(&scratch.acknowledges) == 0 {
        return Some(Counter::HeadKept);
    }
    let known = scratch.stash.get().known;
    if reread(&scratch.again) != 0 {
        // Of a replica's that the connection may stay at, the next one is no older than the last.
        scratch.answer.ts_echo = scratch.answer.ts_echo.wrapping_sub(1);
        scratch.offer.offers &= scratch.answer.offers | !OFFER_TIMESTAMPS;
    }
    reply::acknowledge(packet, scratch, known, Counter::HeadAcknowledged)
}

/// Takes the replica that was chosen for a bound connection again, as long as that can be used and `PENDING` says so.
/// Else another one is chosen, by what is known.
#[inline(never)]
fn recall_decision(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<()> {
    let number = scratch.stash.get().replica;
    let replica = tables.replica(number)?;
    let addr = if scratch.segment.is_v6() { &replica.v6 } else { &replica.v4 };
    scratch.write_replica_side(addr, replica.port);
    if !is_usable(tables, scratch.service, number) {
        return Some(());
    }
    let Some(entry) = tables.pending(&scratch.replica_side) else {
        return Some(());
    };
    scratch.pending = *entry.get();
    let (pending, stash) = (&scratch.pending, scratch.stash.get());
    // Asked again: the entry may have become another connection's meanwhile.
    let server_isn = stash.server_isn();
    let is_ours = pending.server_isn == server_isn && entry.server_isn() == server_isn;
    if is_ours && pending.client_isn == stash.client_isn && pending.flags & PENDING_REFUSED == 0 {
        scratch.route.replica = number;
        scratch.decided = 1;
    }
    Some(())
}

/// Whether there is a replica for a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    /// It is in `scratch.route`.
    Replica,
    /// Nobody can tell yet.
    Kept,
    /// Nobody can tell yet, and its client has sent all that it may before it hears of us.
    Waited,
    /// There is none.
    Not(NoRoute),
    /// None that its connection could go to.
    Leaves,
    /// Its source or its service has its share, as `scratch.over` says.
    Over,
}

/// Finds the key, the cookie and the home.
#[inline(never)]
fn choose(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Chosen> {
    let stash = scratch.stash.get();
    let last = if stash.bound != 0 || stash.known >= HEAD_LEN as u32 {
        Some(Reason::TooLong)
    } else if stash.is_whole() {
        Some(Reason::Absent)
    } else {
        None
    };
    scratch.found = match reread(&scratch.routed) {
        0 => route(tables, scratch, last)?,
        _ => Routed::Yes,
    };
    let stash = scratch.stash.get();
    if stash.unacked >= FIRST_WINDOW && !stash.has_holes() {
        scratch.acknowledges = 1;
    }
    if reread(&scratch.again) != 0 && reread(&scratch.routed) == 0 {
        settle(tables, scratch)?;
        if reread(&scratch.place) == Place::Nowhere {
            return Some(Chosen::Leaves);
        }
    }
    if scratch.stash.get().missing == 0 {
        count_missing(tables, scratch.missing);
        scratch.stash.get_mut().missing = scratch.missing as u8;
    }
    scratch.pending.charged = scratch.scan.client(&scratch.vip_side.client);
    match reread(&scratch.found) {
        Routed::More if reread(&scratch.acknowledges) != 0 => return Some(Chosen::Waited),
        Routed::More => return Some(Chosen::Kept),
        Routed::MissingKey => return Some(Chosen::Not(NoRoute::MissingKey)),
        Routed::NoReplica => return Some(Chosen::Not(NoRoute::NoReplica)),
        Routed::Yes => {}
    }
    if exceeds(tables, scratch) {
        return Some(Chosen::Over);
    }
    let route = &scratch.route;
    if route.overridden != 0 {
        tables.count(Counter::Overridden);
    }
    if matches!(route.why, Why::LiveHome) && route.replica != route.slot_replica {
        tables.count(Counter::HomeKept);
    }
    name_chat(scratch);
    Some(Chosen::Replica)
}

/// Keeps the readable key for the chat's entry, which is made when the replica accepts: what comes next uses the
/// working memory of the search for other things.
#[inline(always)]
pub fn name_chat(scratch: &mut Scratch) {
    let Scratch { pending, key, scan, route, .. } = scratch;
    if route.chat != 0 {
        key.write_name(&mut pending.key);
        pending.source = scan.kind;
    } else {
        pending.key = Name::EMPTY;
        pending.source = 0;
    }
}

/// Whether the connection would be refused when its replica has accepted, which is better said before that is
/// asked. One that was bound before is not looked at again.
#[inline(always)]
fn exceeds(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    // A flow that is bound again takes nothing more of them; a chat that is new is refused when its replica accepts.
    if scratch.stash.get().bound != 0 || reread(&scratch.again) != 0 {
        return false;
    }
    if !shares::is_tight(tables, Table::Flows) && !shares::is_tight(tables, Table::Chats) {
        return false;
    }
    let Scratch { service, pending, route, trusted, holder, vip_side, .. } = scratch;
    holder.set(tables, *service, &vip_side.client, &pending.charged);
    let mut over = shares::over(tables, Table::Flows, holder, trusted);
    if over.is_none() && route.chat != 0 && tables.chat(&chat_key(*service, route.cookie)).is_none()
    {
        over = shares::over(tables, Table::Chats, holder, trusted);
    }
    let Some(over) = over else { return false };
    scratch.over = over;
    true
}

/// Counts a connection without a key, by why it has none.
#[inline(always)]
fn count_missing(tables: &impl FlowTables, reason: u32) {
    let counter = if reason == Reason::Unreadable as u32 {
        Counter::MissingUnreadable
    } else if reason == Reason::Absent as u32 {
        Counter::MissingAbsent
    } else if reason == Reason::Empty as u32 {
        Counter::MissingEmpty
    } else if reason == Reason::TooLong as u32 {
        Counter::MissingTooLong
    } else {
        return;
    };
    tables.count(Counter::MissingKey);
    tables.count(counter);
}
