//! Delayed binding: the first bytes name the chat, so only now the replica is chosen. The segments
//! that bring them are stashed, and the one that completes the key becomes the SYN of the connection
//! to the replica (`connect.rs`).

use crate::{
    connect::{Connected, connect},
    ingress::listed,
    integrity::{checksum_is_right, is_unfinished, payload_sum},
    key::{self, Reason, Search},
    maps::{Name, PENDING_REFUSED, PIECES, PROXIES, Piece, STASH_LEN, Service},
    packet::Packet,
    reply,
    scratch::Scratch,
    shares::{self, Table},
    stash::Added,
    steer::{NoRoute, Why, chat_key, is_usable, steer, tuple_hash},
    syn_cookie,
    tables::FlowTables,
    verdict::Counter,
    verifier::reread,
    wire::flags,
};

/// Takes a data segment of a connection without a flow, whose client's ISN is in `scratch.client_isn`, and
/// binds the connection when its key is known.
///
/// Four steps, each with a stack frame of its own that is gone before the next one.
#[inline(always)]
pub fn bind<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    match read(packet, scratch)? {
        Read::Right => {}
        Read::TooLong => return Some(Counter::DropOversize),
        Read::Wrong => return Some(Counter::DropChecksum),
    }
    scratch.decided = 0;
    match collect(packet, tables, scratch)? {
        Collected::Searchable => {}
        Collected::Bound => recall_decision(tables, scratch)?,
        Collected::Kept => return Some(Counter::HeadKept),
        Collected::Again => {
            let known = scratch.stash.get().known();
            return reply::acknowledge(packet, scratch, known, Counter::HeadAcknowledged);
        }
        Collected::Early => return Some(Counter::DropEarly),
        Collected::Limited => return Some(Counter::DropResetLimit),
    }
    let chosen = match reread(&scratch.decided) {
        0 => choose(tables, scratch)?,
        _ => Chosen::Replica,
    };
    let why = match chosen {
        Chosen::Replica => match connect(packet, tables, scratch)? {
            Connected::Bound => return Some(Counter::Bound),
            Connected::Early => return Some(Counter::DropEarly),
            Connected::Conflict => Counter::ResetConflict,
            Connected::NoAddress => Counter::ResetNoReplica,
        },
        Chosen::Kept => return Some(Counter::HeadKept),
        Chosen::Over => Counter::ResetShare,
        Chosen::Not(NoRoute::MissingKey) => Counter::ResetMissingKey,
        Chosen::Not(NoRoute::NoReplica) => Counter::ResetNoReplica,
    };
    let verdict = reply::reset(packet, tables, scratch, why)?;
    if verdict == Counter::ResetShare {
        tables.count(scratch.over);
    }
    Some(verdict)
}

/// What a segment looks like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// It can be bound.
    Right,
    /// It has more bytes than can be stashed.
    TooLong,
    /// Its checksum is wrong.
    Wrong,
}

/// Reads the segment.
#[inline(never)]
fn read<P: Packet>(packet: &P, scratch: &mut Scratch) -> Option<Read> {
    let len = scratch.segment.payload_len();
    if len > STASH_LEN {
        return Some(Read::TooLong);
    }
    let sum = payload_sum(packet, scratch, len)?;
    scratch.unfinished = 0;
    if !checksum_is_right(packet, &scratch.segment, sum)? {
        if !is_unfinished(packet, &scratch.segment)? {
            return Some(Read::Wrong);
        }
        scratch.unfinished = 1;
    }
    scratch.payload_sum = sum.fold() as u32;
    scratch.offer = syn_cookie::offer(scratch.segment.ack, &scratch.answer);
    Some(Read::Right)
}

/// What became of a segment among those of its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collected {
    /// What is known now is to be searched.
    Searchable,
    /// The connection was bound, and its client has not heard of the replica.
    Bound,
    /// It is kept for later.
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
    let (seq, len) = (scratch.segment.seq, scratch.segment.payload_len() as u32);
    let is_first = seq == client_isn.wrapping_add(1);
    let found = recall(tables, scratch, server_isn);
    if found != Found::Ours {
        // Whoever guesses must not learn more from this than from an RST, nor push many out.
        if !is_first && !reply::may_reset(tables, scratch)? {
            return Some(Collected::Limited);
        }
        if !is_first && (found == Found::Foreign || !scratch.allowance.may_keep_early(tables.now()))
        {
            return Some(Collected::Early);
        }
        scratch.stash.clear(server_isn, client_isn);
    }
    if is_first && scratch.stash.get().known() == 0 && scratch.stash.fits(seq, len) == Added::Full {
        // What overtook it leaves no room for it. That was not acknowledged, and comes again.
        scratch.stash.clear(server_isn, client_isn);
    }
    scratch.added = scratch.stash.fits(seq, len) as u32;
    let known = scratch.added == Added::Known as u32;
    if !known && scratch.stash.get().leaves_no_room_before(seq, len) {
        return Some(Collected::Early);
    }
    if scratch.added == Added::New as u32 {
        add(packet, scratch)?;
    }
    if known && scratch.segment.has(flags::FIN) && scratch.stash.end_at(seq.wrapping_add(len)) {
        // Its bytes are known, and now also that no more will come.
        scratch.added = Added::New as u32;
    }
    let again = scratch.added == Added::Known as u32;
    let stash = scratch.stash.get();
    if stash.known() == 0 || stash.bound != 0 && !is_first && !again {
        // To be delivered when the replica accepts, or to be searched when the first one is there.
        if scratch.added != Added::New as u32 {
            return Some(Collected::Early);
        }
        keep(tables, scratch)?;
        return Some(Collected::Kept);
    }
    if stash.bound != 0 {
        if scratch.added == Added::New as u32 {
            keep(tables, scratch)?;
        }
        return Some(Collected::Bound);
    }
    Some(if again { Collected::Again } else { Collected::Searchable })
}

/// What is in `STASH` on this tuple.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Segments of this connection.
    Ours,
    /// Those of another one, before or after it.
    Foreign,
}

/// Copies the connection's entry in `STASH`, if there is one.
#[inline(always)]
fn recall(tables: &impl FlowTables, scratch: &mut Scratch, server_isn: u32) -> Found {
    let Some(entry) = tables.stash(&scratch.vip_side) else {
        return Found::Nothing;
    };
    if entry.server_isn() != server_isn {
        return Found::Foreign;
    }
    scratch.stash.copy_from(entry.get());
    // It may have become another connection's meanwhile.
    if scratch.stash.get().server_isn == server_isn && entry.server_isn() == server_isn {
        Found::Ours
    } else {
        Found::Nothing
    }
}

/// Adds the segment in hand.
#[inline(always)]
fn add(packet: &impl Packet, scratch: &mut Scratch) -> Option<()> {
    let segment = &scratch.segment;
    let len = segment.payload_len();
    let at = scratch.stash.get().used;
    packet.load(segment.l4() + segment.header_len(), scratch.stash.bytes_mut(at), len)?;
    scratch.stash.add(Piece {
        seq: segment.seq,
        sum: scratch.payload_sum,
        at: at as u16,
        len: len as u16,
        window: segment.window,
        tcp_flags: segment.flags & (flags::FIN | flags::PSH | flags::ACK),
        reserved: 0,
    });
    Some(())
}

/// Writes the connection's entry in `STASH`, to wait for more.
#[inline(always)]
fn keep(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<()> {
    let result = tables.set_stash(&scratch.vip_side, scratch.stash.get());
    scratch.noted(result)
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
    let is_ours = pending.server_isn == stash.server_isn && entry.server_isn() == stash.server_isn;
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
    /// Nobody can tell yet: what is known is kept.
    Kept,
    /// There is none.
    Not(NoRoute),
    /// Its source or its service has its share, as `scratch.over` says.
    Over,
}

/// Finds the key, the cookie and the home.
#[inline(never)]
fn choose(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Chosen> {
    let stash = scratch.stash.get();
    let known = stash.known();
    let last = if stash.bound != 0
        || scratch.added == Added::Full as u32
        || stash.count as usize >= PIECES
        || known >= STASH_LEN as u32
    {
        Some(Reason::TooLong)
    } else if stash.ends(known, flags::FIN) {
        Some(Reason::Absent)
    } else {
        None
    };
    let routed = route(tables, scratch, last)?;
    if scratch.stash.get().missing == 0 {
        count_missing(tables, scratch.missing);
        scratch.stash.get_mut().missing = scratch.missing as u8;
    }
    scratch.pending.charged = scratch.scan.client(&scratch.vip_side.client);
    match routed {
        Routed::More => {
            keep(tables, scratch)?;
            return Some(Chosen::Kept);
        }
        Routed::Not(why) => {
            tables.remove_stash(&scratch.vip_side);
            return Some(Chosen::Not(why));
        }
        Routed::Yes => {}
    }
    if exceeds(tables, scratch) {
        tables.remove_stash(&scratch.vip_side);
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
fn name_chat(scratch: &mut Scratch) {
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
    if scratch.stash.get().bound != 0 {
        return false;
    }
    let Scratch { service, pending, route, trusted, .. } = scratch;
    let mut over = shares::over(tables, Table::Flows, *service, &pending.charged, trusted);
    if over.is_none() && route.chat != 0 && tables.chat(&chat_key(*service, route.cookie)).is_none()
    {
        over = shares::over(tables, Table::Chats, *service, &pending.charged, trusted);
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

/// Notes whether the connection begins with the PROXY protocol: it comes from where the service's
/// `proxy_protocol_from` says so.
#[inline(always)]
fn note_proxy(tables: &impl FlowTables, scratch: &mut Scratch, service: &Service) {
    scratch.from_proxy = 0;
    if service.proxied != 0 {
        let list = scratch.service | PROXIES;
        scratch.from_proxy = listed(tables, list, &scratch.vip_side.client, &mut scratch.source);
    }
}

/// What [`route`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    /// It is in `scratch.route`.
    Yes,
    /// There is none.
    Not(NoRoute),
    /// Nobody can tell before more bytes are there.
    More,
}

/// Finds where the connection with the bytes in `scratch.stash` goes. `last`: no more bytes will
/// come, for this reason.
#[inline(never)]
pub fn route(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    last: Option<Reason>,
) -> Option<Routed> {
    let service = tables.service(scratch.service)?;
    let secrets = tables.secrets()?;
    scratch.missing = 0;
    note_proxy(tables, scratch, service);
    let tuple_hash = tuple_hash(&secrets.chat, &scratch.vip_side);
    let key_hash = match key::search(tables, service, last, scratch) {
        Search::Found => Some(scratch.key.hash(&secrets.chat)),
        Search::More => return Some(Routed::More),
        Search::Missing(reason) => {
            scratch.missing = reason as u32;
            None
        }
    };
    let number = scratch.service;
    let route = &mut scratch.route;
    Some(match steer(tables, number, service, tuple_hash, key_hash, &secrets.chat, route) {
        Ok(()) => Routed::Yes,
        Err(why) => Routed::Not(why),
    })
}
