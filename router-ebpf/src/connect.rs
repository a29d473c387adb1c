//! The last step of binding: the segment in hand becomes the SYN to the replica, and what the replica's
//! answer will need is remembered.

use crate::{
    first,
    keep::{Kept, keep},
    key::{self, Kind},
    maps::{
        FLOW_CHAT, FLOW_REQUESTS, Flow, FlowBack, OFFER_TIMESTAMPS, PENDING_ACKNOWLEDGED,
        PENDING_AGAIN, POLICY_HOME, STATE_ENDED, Service, Tuple,
    },
    options::Offer,
    packet::Packet,
    reply,
    scratch::Scratch,
    shared::Shared,
    tables::FlowTables,
    translate::rescale,
    verdict::Counter,
    verifier::{index, reread},
    wire::{TCP_CHECK, flags},
};

/// Whether a connection to the replica is on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Connected {
    /// The segment is its SYN.
    Bound,
    /// It was before, and is about to be a flow: the segment has to come again.
    Early,
    /// It belongs where its connection is, whose replica is asked by the segment.
    Asked,
    /// The client has the same port open to the replica through another VIP.
    Conflict,
    /// The replica is the client: its answers would never leave it.
    Itself,
    /// The replica has no address of this family.
    NoAddress,
    /// There is no room for what is to be delivered when its replica has said where it stands.
    Over,
}

/// Turns the segment into the SYN to the replica, or asks that where its connection stands if it is this one.
#[inline(never)]
pub fn connect<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Connected> {
    let replica = tables.replica(scratch.route.replica)?;
    let addr = if scratch.segment.is_v6() { &replica.v6 } else { &replica.v4 };
    if *addr == [0; 16] {
        return Some(Connected::NoAddress);
    }
    if *addr == scratch.segment.src {
        return Some(Connected::Itself);
    }
    scratch.write_replica_side(addr, replica.port);
    scratch.stays = match other(tables, scratch) {
        Other::Gone => 0,
        Other::Here => 1,
        Other::Ours => return Some(Connected::Early),
        Other::Live => return Some(Connected::Conflict),
    };
    let service = tables.service(scratch.service)?;
    if reread(&scratch.decided) == 0 {
        scratch.pending.flags = 0;
        if reread(&scratch.stays) == 0 {
            let may_upgrade = service.policy == POLICY_HOME
                && key::reads_http(service)
                && key::kind(tables, service, scratch) == Kind::Request;
            scratch.pending.flags = if may_upgrade { FLOW_REQUESTS } else { 0 };
            scratch.pending.flags |= first::first(tables, scratch, service);
        }
        remember(tables, scratch)?;
    } else {
        // The one that its first data will have: the replica would not take an older one.
        scratch.offer.ts_val = scratch.pending.ts_val;
    }
    // If there is no room, the client's retransmission brings what is new of it when the replica has accepted; one that has
    // accepted long ago would only be asked again.
    if keep(tables, scratch) == Kept::Over && reread(&scratch.stays) != 0 {
        tables.remove_pending(&scratch.replica_side);
        return Some(Connected::Over);
    }
    if reread(&scratch.stays) == 0 {
        write_syn(scratch, service);
    } else {
        ask(tables, scratch)?;
    }
    let len = reread(&scratch.stays);
    reply::send(packet, scratch, len)?;
    if !P::KNOWS_CHECKSUM && scratch.unfinished != 0 {
        // Whoever finishes the frame finishes this one.
        let check = scratch.header.pseudo_sum(index(reread(&scratch.stays))).fold();
        packet.write(scratch.segment.l4() + TCP_CHECK, &check.to_ne_bytes())?;
    }
    Some(match reread(&scratch.stays) {
        0 => Connected::Bound,
        _ => Connected::Asked,
    })
}

/// What already has the replica's side of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Other {
    /// Nothing that lives.
    Gone,
    /// This very connection.
    Ours,
    /// The flow that was to be bound again to another one.
    Here,
    /// A live flow of another VIP.
    Live,
}

/// Looks what has the replica's side of this connection.
#[inline(always)]
fn other(tables: &impl FlowTables, scratch: &mut Scratch) -> Other {
    let Some(shared) = tables.flow_back(&scratch.replica_side) else {
        return Other::Gone;
    };
    let back = shared.get();
    if back.vip == scratch.vip_side.server && back.vip_port == scratch.vip_side.server_port {
        // Our own flow, which another CPU has just entered or is about to: its client's
        // data has come again meanwhile, and will once more if it must.
        let again = reread(&scratch.again) != 0;
        let flow = tables.flow(&scratch.vip_side);
        if again && flow.is_some_and(|flow| is_at(flow, scratch)) {
            return Other::Here;
        }
        if !again && flow.is_some()
            || shared.acked() == scratch.stash.get().client_isn.wrapping_add(1)
        {
            return Other::Ours;
        }
    } else if is_live(tables, scratch, back) {
        return Other::Live;
    }
    // Of a flow that was never entered, or has just ended.
    tables.remove_flow_back(&scratch.replica_side);
    Other::Gone
}

/// Whether a flow is at the replica of `scratch.replica_side`.
#[inline(always)]
pub fn is_at(flow: Shared<Flow>, scratch: &Scratch) -> bool {
    let Tuple { server, server_port, .. } = &scratch.replica_side;
    flow.get().replica_addr == *server && flow.get().replica_port == *server_port
}

/// Whether the other half of `back` is a live flow: the client uses the same port towards another
/// VIP with the same replica.
#[inline(always)]
fn is_live(tables: &impl FlowTables, scratch: &mut Scratch, back: &FlowBack) -> bool {
    // The VIP side's tuple of that flow, for a moment in place of ours.
    let ours = (scratch.vip_side.server, scratch.vip_side.server_port);
    scratch.vip_side.server = back.vip;
    scratch.vip_side.server_port = back.vip_port;
    let live = tables
        .flow(&scratch.vip_side)
        .is_some_and(|flow| is_at(flow, scratch) && flow.state() & STATE_ENDED == 0);
    (scratch.vip_side.server, scratch.vip_side.server_port) = ours;
    live
}

/// Writes `PENDING`, and what `STASH` is to say. What is to be watched is in `scratch.pending` by then.
#[inline(always)]
fn remember(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<()> {
    let stash = scratch.stash.get_mut();
    stash.bound = 1;
    stash.replica = scratch.route.replica;
    let pending = &mut scratch.pending;
    pending.cookie = scratch.route.cookie;
    pending.chat = scratch.route.whole;
    pending.at = tables.now();
    pending.vip = scratch.vip_side.server;
    pending.vip_port = scratch.vip_side.server_port;
    pending.flags |= if scratch.route.chat != 0 { FLOW_CHAT } else { 0 }
        | if stash.acked != 0 { PENDING_ACKNOWLEDGED } else { 0 }
        | if scratch.again != 0 { PENDING_AGAIN } else { 0 };
    pending.offers = scratch.offer.offers;
    pending.service = scratch.service;
    pending.replica = scratch.route.replica;
    pending.client_isn = stash.client_isn;
    pending.server_isn = stash.server_isn();
    pending.ts_echo = scratch.answer.ts_echo;
    pending.ts_val = scratch.offer.ts_val;
    pending.client_scale = scratch.offer.scale as u32;
    pending.mss = scratch.offer.mss;
    pending.reserved = 0;
    let result = tables.set_pending(&scratch.replica_side, pending);
    scratch.noted(result)?;
    Some(())
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
    header.seq = scratch.stash.get().client_isn;
    header.ack = 0;
    header.flags = flags::SYN;
    header.ttl = segment.ttl;
    header.window = unscaled(segment.window, offer.scale);
    offer.write(&mut header.options);
}

/// Makes `scratch.header` that of the segment that asks the replica of `scratch.replica_side`, with the byte before the request,
/// which it has. One without a byte Linux would answer twice a second at the most.
#[inline(always)]
fn ask(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<()> {
    let flow = tables.flow(&scratch.vip_side)?;
    let back = tables.flow_back(&scratch.replica_side)?;
    let Flow { seq_delta, ts_delta, window_shift, .. } = *flow.get();
    let ours = Offer {
        offers: scratch.offer.offers & scratch.answer.offers & OFFER_TIMESTAMPS,
        ts_val: scratch.offer.ts_val,
        // The last one of its own that its client has seen.
        ts_echo: back.ts_sent().wrapping_sub(ts_delta),
        ..Offer::default()
    };
    let Scratch { segment, header, replica_side, stash, .. } = &mut *scratch;
    let stash = stash.get();
    header.src = segment.src;
    header.src_port = segment.src_port;
    header.dst = replica_side.server;
    header.dst_port = replica_side.server_port;
    header.seq = stash.client_isn;
    header.ack = stash.server_isn().wrapping_add(1).wrapping_add(seq_delta);
    header.flags = flags::ACK;
    header.ttl = segment.ttl;
    header.window = rescale(segment.window, window_shift, 0);
    ours.write_established(&mut header.options);
    Some(())
}

/// Lets the RST in hand, which `scratch.header` is, go out as a copy, and makes the packet the SYN to the same replica that
/// `scratch.pending` remembers. If there can be no copy, its client sends again.
#[inline(never)]
pub fn repeat_syn<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<()> {
    scratch.header.becomes(packet, &mut scratch.segment, 0)?;
    if packet.duplicate().is_none() {
        return Some(());
    }
    let most = tables
        .service(scratch.pending.service)
        .map_or(0, |service| if scratch.segment.is_v6() { service.mss6 } else { service.mss4 });
    let Scratch { header, pending, offer, .. } = &mut *scratch;
    *offer = Offer {
        ts_val: pending.ts_val,
        ts_echo: 0,
        mss: pending.mss.min(most),
        offers: pending.offers,
        scale: pending.client_scale as u8,
    };
    header.seq = pending.client_isn;
    header.ack = 0;
    header.flags = flags::SYN;
    // What is delivered then tells the true one.
    header.window = u16::MAX;
    offer.write(&mut header.options);
    reply::replace(packet, scratch, 0, 0)?;
    tables.count(Counter::SynRepeated);
    Some(())
}

/// The window of a SYN is never scaled (RFC 7323 section 2.2).
#[inline(always)]
const fn unscaled(window: u16, scale: u8) -> u16 {
    let bytes = (window as u32) << (scale & 15);
    if bytes > 0xffff { 0xffff } else { bytes as u16 }
}
