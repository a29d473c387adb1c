//! Delayed binding: the first data segment names the chat, so only now the replica is chosen. The
//! segment is stashed and becomes the SYN of the connection to the replica.

use crate::{
    chats,
    checksum::{Sum, pseudo_header, sum_words},
    key::extract,
    maps::{
        Addr, FLOW_CHAT, FlowBack, OFFER_TIMESTAMPS, Port, STASH_LEN, STATE_CLOSED, STATE_EXPIRED,
        Service,
    },
    packet::Packet,
    reply,
    scratch::Scratch,
    steer::{NoRoute, Why, chat_key, steer},
    tables::FlowTables,
    verdict::Counter,
    wire::{Segment, flags, protocol},
};

/// Binds the connection whose first data segment is in hand; `scratch.offer` is what the client
/// offered in its SYN, as far as the SYN cookie tells.
///
/// Three steps, each with a stack frame of its own that is gone before the next one.
#[inline(always)]
pub fn bind<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    if let Some(counter) = read(packet, scratch)? {
        return Some(counter);
    }
    if let Some(counter) = choose(tables, scratch)? {
        return reply::reset(packet, tables, scratch, counter);
    }
    connect(packet, tables, scratch)
}

/// Reads the segment. `Some(Some(_))` is a verdict.
#[inline(never)]
fn read<P: Packet>(packet: &P, scratch: &mut Scratch) -> Option<Option<Counter>> {
    if scratch.segment.payload_len() > STASH_LEN {
        return Some(Some(Counter::DropOversize));
    }
    load_payload(packet, scratch)?;
    let payload = Sum::from_raw(scratch.stash.payload_sum);
    if !checksum_is_right(packet, &scratch.segment, payload)? {
        return Some(Some(Counter::DropChecksum));
    }
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    scratch.offer.offers |= scratch.answer.offers & OFFER_TIMESTAMPS;
    scratch.offer.ts_val = scratch.answer.ts_val;
    Some(None)
}

/// Finds the key, the cookie and the home, and holds the chat there. `Some(Some(_))` is why not.
#[inline(never)]
fn choose(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Option<Counter>> {
    let service = tables.service(scratch.service)?;
    let secrets = tables.secrets()?;
    let len = scratch.stash.len as usize;
    let key_hash = if extract(tables, service, len, scratch) {
        Some(scratch.key.hash(&secrets.chat))
    } else {
        tables.count(Counter::MissingKey);
        None
    };
    let (number, tuple) = (scratch.service, &scratch.vip_side);
    let route = &mut scratch.route;
    if let Err(why) = steer(tables, number, service, tuple, key_hash, &secrets.chat, route) {
        return Some(Some(match why {
            NoRoute::MissingKey => Counter::ResetMissingKey,
            NoRoute::NoReplica => Counter::ResetNoReplica,
        }));
    }
    if route.overridden != 0 {
        tables.count(Counter::Overridden);
    }
    if matches!(route.why, Why::LiveHome) && route.replica != route.slot_replica {
        tables.count(Counter::HomeKept);
    }
    if route.chat != 0 {
        scratch.chat_key = chat_key(number, route.cookie);
        match chats::claim(tables, scratch) {
            Some(home) => scratch.route.replica = home,
            None => scratch.route.chat = 0,
        }
    }
    Some(None)
}

/// Turns the segment into the SYN to the replica.
#[inline(never)]
fn connect<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let replica = tables.replica(scratch.route.replica)?;
    let addr = if scratch.segment.is_v6() { &replica.v6 } else { &replica.v4 };
    if *addr == [0; 16] {
        return reply::reset(packet, tables, scratch, Counter::ResetNoReplica);
    }
    write_replica_side(scratch, addr, replica.port);
    match taken(tables, scratch) {
        Some(Counter::ResetConflict) => {
            return reply::reset(packet, tables, scratch, Counter::ResetConflict);
        }
        Some(counter) => return Some(counter),
        None => {}
    }
    remember(tables, scratch)?;
    let service = tables.service(scratch.service)?;
    write_syn(scratch, service);
    reply::send(packet, scratch)?;
    Some(Counter::Bound)
}

/// Copies the payload to the stash, and sums it.
#[inline(always)]
fn load_payload(packet: &impl Packet, scratch: &mut Scratch) -> Option<()> {
    let segment = &scratch.segment;
    let len = segment.payload_len();
    let stash = &mut scratch.stash;
    packet.load(segment.l4() + segment.header_len(), &mut stash.data, len)?;
    // The sum reads whole words.
    let end = core::hint::black_box(len);
    for i in 0..8 {
        let at = end + i;
        if at < STASH_LEN {
            stash.data[at] = 0;
        }
    }
    stash.len = len as u16;
    stash.payload_sum = sum_words(&stash.data, len).fold() as u32;
    stash.window = segment.window;
    stash.tcp_flags = segment.flags & (flags::FIN | flags::PSH | flags::ACK);
    stash.reserved = [0; 3];
    stash.server_isn = segment.ack.wrapping_sub(1);
    Some(())
}

/// Whether the checksum of a segment with this sum of its payload is right. Established segments are
/// not checked here: their checksum is only updated, so what was wrong stays wrong for the replica.
#[inline(never)]
pub fn checksum_is_right(packet: &impl Packet, segment: &Segment, payload: Sum) -> Option<bool> {
    let l4 = segment.l4();
    let len = segment.end().wrapping_sub(l4) as u16;
    let mut sum = payload.plus(pseudo_header(&segment.src, &segment.dst, protocol::TCP, len));
    for word in 0..15 {
        if word * 4 >= segment.header_len() {
            break;
        }
        sum = sum.add4(packet.read(l4 + word * 4)?);
    }
    Some(sum.fold() == 0xffff)
}

/// Writes the replica side's tuple of a connection to a replica.
#[inline(always)]
fn write_replica_side(scratch: &mut Scratch, addr: &Addr, port: Port) {
    let tuple = &mut scratch.replica_side;
    tuple.client = scratch.vip_side.client;
    tuple.client_port = scratch.vip_side.client_port;
    tuple.server = *addr;
    tuple.server_port = port;
}

/// Looks whether the replica's side of this connection is taken, and says what then becomes of the
/// segment. What is left of an ended flow goes.
#[inline(always)]
fn taken(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Counter> {
    let shared = tables.flow_back(&scratch.replica_side)?;
    let back = shared.get();
    if back.state & STATE_EXPIRED == 0 {
        if back.vip == scratch.vip_side.server && back.vip_port == scratch.vip_side.server_port {
            // Our own flow, which another CPU has just entered or is about to: its client's
            // data has come again meanwhile, and will once more if it must.
            if tables.flow(&scratch.vip_side).is_some() || shared.acked() == scratch.segment.seq {
                return Some(Counter::DropEarly);
            }
        } else if is_live(tables, scratch, back) {
            return Some(Counter::ResetConflict);
        }
    }
    tables.remove_flow_back(&scratch.replica_side);
    None
}

/// Whether the other half of `back` is a live flow: the client uses the same port towards another
/// VIP with the same replica.
#[inline(always)]
fn is_live(tables: &impl FlowTables, scratch: &mut Scratch, back: &FlowBack) -> bool {
    // The VIP side's tuple of that flow, for a moment in place of ours.
    let ours = (scratch.vip_side.server, scratch.vip_side.server_port);
    scratch.vip_side.server = back.vip;
    scratch.vip_side.server_port = back.vip_port;
    let mut live = false;
    if let Some(flow) = tables.flow(&scratch.vip_side)
        && flow.get().replica_addr == scratch.replica_side.server
        && flow.get().replica_port == scratch.replica_side.server_port
    {
        live = flow.state() & (STATE_CLOSED | STATE_EXPIRED) == 0;
        if !live {
            tables.remove_flow(&scratch.vip_side);
        }
    }
    (scratch.vip_side.server, scratch.vip_side.server_port) = ours;
    live
}

/// Writes `PENDING` and `STASH`. Doing it again for a segment that came again changes nothing.
#[inline(always)]
fn remember(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<()> {
    let segment = &scratch.segment;
    let pending = &mut scratch.pending;
    pending.cookie = scratch.route.cookie;
    pending.at = tables.now();
    pending.vip = scratch.vip_side.server;
    pending.vip_port = scratch.vip_side.server_port;
    pending.flags = if scratch.route.chat != 0 { FLOW_CHAT } else { 0 };
    pending.offers = scratch.offer.offers;
    pending.service = scratch.service;
    pending.replica = scratch.route.replica;
    pending.client_isn = segment.seq.wrapping_sub(1);
    pending.server_isn = segment.ack.wrapping_sub(1);
    pending.ts_echo = scratch.answer.ts_echo;
    pending.ts_val = scratch.offer.ts_val;
    pending.client_scale = scratch.offer.scale as u32;
    tables.set_pending(&scratch.replica_side, pending).ok()?;
    tables.set_stash(&scratch.replica_side, &scratch.stash).ok()
}

/// Makes `scratch.header` the SYN to the replica, with the client's own address, ISN and offer: only
/// the replica's numbers will have to be translated.
#[inline(always)]
fn write_syn(scratch: &mut Scratch, service: &Service) {
    let segment = &scratch.segment;
    let most = if segment.is_v6() { service.mss6 } else { service.mss4 };
    let offer = &mut scratch.offer;
    offer.ts_echo = 0;
    if offer.mss > most {
        offer.mss = most;
    }
    let header = &mut scratch.header;
    header.src = segment.src;
    header.src_port = segment.src_port;
    header.dst = scratch.replica_side.server;
    header.dst_port = scratch.replica_side.server_port;
    header.seq = segment.seq.wrapping_sub(1);
    header.ack = 0;
    header.flags = flags::SYN;
    header.ttl = segment.ttl;
    header.window = unscaled(segment.window, offer.scale);
    offer.write(&mut header.options);
}

/// The window of a SYN is never scaled (RFC 7323 section 2.2).
#[inline(always)]
const fn unscaled(window: u16, scale: u8) -> u16 {
    let bytes = (window as u32) << (scale & 15);
    if bytes > 0xffff { 0xffff } else { bytes as u16 }
}
