//! Segments that we send ourselves, in place of the one in hand.

use crate::{
    checksum::{Sum, pseudo_header, sum_words},
    maps::{HEAD_LEN, OFFER_SCALE, Service},
    packet::Packet,
    rewrite::swap_macs,
    scratch::Scratch,
    siphash,
    syn_cookie::{self, REACH},
    tables::FlowTables,
    verdict::Counter,
    verifier::{index, opaque, reread},
    wire::{TCP_CHECK, flags, protocol},
};

/// The window that a client may fill before its replica has accepted: what is kept, less the byte that would be too
/// far ahead for a cookie.
pub const HANDSHAKE_WINDOW: u16 = HEAD_LEN as u16 - 1;
const _: () = assert!(HANDSHAKE_WINDOW as u32 == REACH - 1);
/// Bytes of a usual segment, and of one of the largest frames.
const USUAL_SEGMENT: usize = 1460;
const LARGE_SEGMENT: usize = 9000;
/// The window scale that we announce, the usual one of Linux; a replica's other one is translated.
pub const ANNOUNCED_SCALE: u8 = 7;

/// Turns a SYN into a SYN-ACK whose sequence number is a SYN cookie.
#[inline(never)]
pub fn syn_ack<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    service: &Service,
) -> Option<Counter> {
    let now = tables.now();
    scratch.offer = syn_cookie::fit(&scratch.offer);
    let segment = &scratch.segment;
    let offer = &scratch.offer;
    let secrets = tables.secrets()?;
    let isn = syn_cookie::make(secrets, &scratch.vip_side, segment.seq, offer, now);
    let mss = if segment.is_v6() { service.mss6 } else { service.mss4 };
    scratch.answer = syn_cookie::answer(offer, mss, ANNOUNCED_SCALE, now);
    let header = &mut scratch.header;
    header.answer(segment);
    header.seq = isn;
    header.ack = segment.seq.wrapping_add(1);
    header.flags = flags::SYN | flags::ACK;
    header.window = HANDSHAKE_WINDOW;
    scratch.answer.write(&mut header.options);
    send(packet, scratch, 0)?;
    swap_macs(packet)?;
    Some(Counter::SynAnswered)
}

/// Turns a segment into our acknowledgement of the first `len` bytes of its connection, whose client's ISN is in
/// `scratch.client_isn` and whose client's offer is in `scratch.offer`. It is no longer than what it answers: both
/// have timestamps, or neither.
#[inline(never)]
pub fn acknowledge<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    len: u32,
    why: Counter,
) -> Option<Counter> {
    let offer = &scratch.offer;
    let scale = if offer.has(OFFER_SCALE) { ANNOUNCED_SCALE } else { 0 };
    // Not a newer timestamp: the replica's go on where that stopped which the client echoed.
    let echoed = scratch.answer.ts_echo;
    scratch.answer = syn_cookie::answer(offer, 0, scale, 0);
    scratch.answer.ts_val = echoed;
    let header = &mut scratch.header;
    header.answer(&scratch.segment);
    header.seq = scratch.segment.ack;
    header.ack = reread(&scratch.client_isn).wrapping_add(1).wrapping_add(len);
    header.flags = flags::ACK;
    // A segment more than is kept: clients send whole ones, and one with a longer head would keep a part to itself
    // and wait. What belongs to a head is known by that, not by its cookie.
    let whole = scratch.segment.payload_len().clamp(USUAL_SEGMENT, LARGE_SEGMENT);
    let window = (HEAD_LEN + whole) as u32 - len.min(HEAD_LEN as u32);
    header.window = (window >> scale) as u16;
    scratch.answer.write_established(&mut header.options);
    send(packet, scratch, 0)?;
    swap_macs(packet)?;
    Some(why)
}

/// Turns a segment into the RST that answers it, if the limit allows one more.
#[inline(never)]
pub fn reset<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    why: Counter,
) -> Option<Counter> {
    let is_answered = !scratch.segment.has(flags::RST) && scratch.segment.jumbo == 0;
    if is_answered && !may_reset(tables, scratch)? {
        return Some(Counter::DropResetLimit);
    }
    reset_known(packet, scratch, why)
}

/// The same with one of a flow that ends by it. There is no limit: a replica has accepted for each.
#[inline(never)]
pub fn reset_known<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    why: Counter,
) -> Option<Counter> {
    if scratch.segment.has(flags::RST) {
        return Some(Counter::DropStrayReset);
    }
    if scratch.segment.jumbo != 0 {
        return Some(Counter::DropMalformed);
    }
    write_reset(scratch);
    send(packet, scratch, 0)?;
    swap_macs(packet)?;
    Some(why)
}

/// Makes `scratch.header` the RST that answers the segment (RFC 9293 section 3.5.2).
#[inline(always)]
pub fn write_reset(scratch: &mut Scratch) {
    let segment = &scratch.segment;
    let header = &mut scratch.header;
    header.answer(segment);
    if segment.has(flags::ACK) {
        header.seq = segment.ack;
        header.flags = flags::RST;
    } else {
        header.ack = segment.seq.wrapping_add(segment.sequence_len());
        header.flags = flags::RST | flags::ACK;
    }
}

/// Makes the packet one with `scratch.header`, with a checksum of its own where the kernel has none. Its payload is the first byte
/// of `scratch.stash`, or nothing, as `len` says.
#[inline(never)]
pub fn send<P: Packet>(packet: &mut P, scratch: &Scratch, len: u32) -> Option<()> {
    is_answerable(scratch)?;
    let header = &scratch.header;
    let len = index(len & 1);
    let end = scratch.segment.l4() + header.len() + len;
    packet.resize(end)?;
    packet.reach(end);
    // Without a branch, behind which the verifier would look at all of this twice: where there is no payload, the header
    // is written over it.
    let first = scratch.stash.get().first[0];
    packet.write(end - 1, &[first])?;
    let body = header.sum().add2([first * len as u8, 0]);
    if P::KNOWS_CHECKSUM {
        return write_changed(packet, scratch, len, body);
    }
    let check = header.pseudo_sum(len).plus(body).checksum();
    // Read anew: LLVM would keep all fields on the stack meanwhile, of which there are 512 bytes.
    let (header, check) = (opaque(header), opaque(check));
    header.write(packet, &scratch.segment, len, check)
}

/// Of what the kernel has merged to more than 64 KB the headers are others: it is dropped, and what comes again is less.
#[inline(always)]
fn is_answerable(scratch: &Scratch) -> Option<()> {
    (scratch.segment.jumbo == 0).then_some(())
}

/// Whether the client may get one more RST, or what costs as much: nobody learns from the RSTs that he gets
/// himself what was sent in another one's name.
#[inline(never)]
pub fn may_reset(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<bool> {
    let [a, b, ..] = syn_cookie::tuple_words(&scratch.vip_side);
    let hash = siphash::words(&tables.secrets()?.handshake, &[a, b]);
    Some(scratch.allowance.may_reset(hash, tables.now()))
}

/// Resets a replica with the answer that a client would give to its segment.
#[inline(never)]
pub fn reset_replica<P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Option<Counter> {
    if scratch.segment.has(flags::RST) || scratch.segment.jumbo != 0 {
        return Some(Counter::EgressDropStray);
    }
    write_reset(scratch);
    replace(packet, scratch, 0, 0)?;
    swap_macs(packet)?;
    Some(Counter::ResetReplica)
}

/// Makes the replica's answer the RST that the client believes (RFC 5961 section 3.2: the sequence
/// number must be the next one expected).
#[inline(always)]
pub fn reset_client<P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Option<()> {
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
    replace(packet, scratch, 0, 0)
}

/// Replaces the segment by `scratch.header`, with `len` bytes of the head from `at` on, a part at the most.
#[inline(never)]
pub fn replace<P: Packet>(packet: &mut P, scratch: &Scratch, at: u32, len: u32) -> Option<()> {
    is_answerable(scratch)?;
    let header = &scratch.header;
    let payload_len = len as usize;
    let payload_at = scratch.segment.l4() + header.len();
    packet.resize(payload_at + payload_len)?;
    packet.reach(payload_at);
    let mut body = header.sum();
    if payload_len > 0 {
        let payload = scratch.stash.bytes(at);
        packet.store(payload_at, payload, payload_len)?;
        body = body.plus(sum_words(payload, payload_len));
    }
    write_changed(packet, scratch, payload_len, body)
}

/// Writes `scratch.header` over that of the segment, before `payload_len` bytes that are there. `body`: the sum of both.
///
/// The checksum field may hold a full checksum or a partial one, and only the kernel knows which:
/// so it is not written, but told what changed, like any other segment's.
#[inline(always)]
fn write_changed<P: Packet>(
    packet: &mut P,
    scratch: &Scratch,
    payload_len: usize,
    body: Sum,
) -> Option<()> {
    let segment = &scratch.segment;
    let l4 = segment.l4();
    let old_len = segment.end().wrapping_sub(l4) as u32;
    let old_pseudo = pseudo_header(&segment.src, &segment.dst, protocol::TCP, old_len);
    // Read anew: LLVM would keep all fields on the stack meanwhile, of which there are 512 bytes.
    let (header, body) = (opaque(&scratch.header), opaque(body));
    header.write(packet, segment, payload_len, segment.check)?;
    let new_pseudo = header.pseudo_sum(payload_len);
    let pseudo = new_pseudo.minus(old_pseudo);
    // A full checksum is to become that of the new segment, whatever the old one's body was.
    let old = Sum::ZERO.sub2(segment.check);
    let body = new_pseudo.plus(body).minus(old).minus(pseudo);
    packet.update_l4_checksum(l4 + TCP_CHECK, pseudo, body)
}
