//! Bytes that were acknowledged to the client and are lost on the way to the replica. Their client does not send them
//! again, so the head is kept until the replica has acknowledged them, and what it misses is made of the head once more.
//!
//! Nobody waits for this with a clock: a key ends behind what was acknowledged, so the client has more to send, and sends
//! that again. The replica answers each such segment by saying what it misses, and of each answer one segment is made.

use crate::{
    accept::largest,
    flow::{Ending, RESET_WINDOW, end},
    head::{Found, claim, forget, put, release},
    maps::{Flow, FlowBack, OFFER_TIMESTAMPS, PART, STATE_HEAD, Stash},
    options::Offer,
    packet::Packet,
    reply::replace,
    request::Standing,
    rewrite::swap_macs,
    scratch::Scratch,
    segment::Segment,
    shared::Shared,
    tables::FlowTables,
    translate::rescale,
    verdict::Counter,
    verifier::reread,
    wire::{flags, is_near},
};

/// What became of a segment of a replica's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// It says nothing of bytes that are missing.
    No,
    /// It is to become a segment with these.
    Missing,
    /// They are nowhere any more, or did not arrive however often they were sent: the flow has ended.
    Lost,
}

/// Segments are sent again so often at the most: each of the longest head eight times, if they are as small as usual.
const MOST: u8 = u8::MAX;
/// The same bytes are sent again after so many milliseconds at the earliest: a replica says for each segment behind them
/// that they are missing, also while they are on their way.
const AGAIN: u32 = 32;

/// A time in units of 2^20 ns (1.05 ms), modulo 2^32.
#[inline(always)]
const fn milliseconds(now: u64) -> u32 {
    (now >> 20) as u32
}

/// Looks at a segment of a replica that has yet to acknowledge what its client was told is here.
#[inline(never)]
pub fn mend<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    back: Shared<FlowBack>,
) -> Mended {
    if !scratch.segment.has(flags::ACK) || scratch.segment.has(flags::RST) {
        return Mended::No;
    }
    match claim(tables, scratch) {
        Found::Head if back.is_at(scratch.stash.get().server_isn()) => {}
        Found::Busy => return Mended::No,
        Found::Head | Found::Nothing => {
            release(tables, scratch);
            back.clear_state(STATE_HEAD);
            return Mended::No;
        }
    }
    if !is_believed(&scratch.segment, scratch.stash.get(), flow) {
        release(tables, scratch);
        return Mended::No;
    }
    let now = milliseconds(tables.now());
    let stash = scratch.stash.get_mut();
    let has = stash.place(scratch.segment.ack);
    let missing = stash.acked.wrapping_sub(has);
    if missing as i32 <= 0 {
        back.clear_state(STATE_HEAD);
        if back.exchange().standing == Standing::Reading {
            // It has its reader until its end.
            scratch.stash.get_mut().acked = 0;
            put(tables, scratch);
        } else {
            forget(tables, scratch);
        }
        return Mended::No;
    }
    // Before the first byte, or overtaken by one that says more.
    if missing > stash.acked || has < stash.key_len {
        release(tables, scratch);
        return Mended::No;
    }
    let is_again = match has == stash.key_len {
        true => stash.unacked == 0 || now.wrapping_sub(stash.reading) >= AGAIN,
        false => stash.unacked != 0,
    };
    stash.key_len = has;
    // One that brings something is the client's.
    let says_nothing = scratch.segment.payload_len() == 0 && !scratch.segment.has(flags::FIN);
    if !says_nothing || !is_again || scratch.segment.window == 0 {
        put(tables, scratch);
        return Mended::No;
    }
    let scale = if scratch.segment.has(flags::SYN) { 0 } else { back.get().replica_scale };
    let window = (scratch.segment.window as u32) << (scale & 15);
    if stash.unacked < MOST && prepare(packet, tables, scratch, flow, window).is_some() {
        let stash = scratch.stash.get_mut();
        stash.unacked += 1;
        stash.reading = now;
        put(tables, scratch);
        return Mended::Missing;
    }
    forget(tables, scratch);
    if end(tables, &scratch.vip_side, flow, Ending::Expired, &mut scratch.last) {
        tables.count(Counter::EndedLost);
    }
    Mended::Lost
}

/// Whether a segment has the numbers of its connection: near what its client expects, and an acknowledgement of no more
/// than was sent to the replica.
#[inline(always)]
fn is_believed(segment: &Segment, stash: &Stash, flow: Shared<Flow>) -> bool {
    let expected = flow.acked().wrapping_add(flow.get().seq_delta);
    let end = stash.known.wrapping_add(1);
    is_near(segment.seq, expected, RESET_WINDOW)
        && (stash.place(segment.ack) <= end || flow.sent().wrapping_sub(segment.ack) as i32 >= 0)
}

/// Writes the header of the segment that is missing, and loads its bytes: no more than the replica's window.
#[inline(always)]
fn prepare<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    window: u32,
) -> Option<()> {
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    let Flow { seq_delta, window_shift, service, .. } = *flow.get();
    let most = largest(tables, scratch, service) as u32;
    let Scratch { segment, header, answer, stash: room, chunk_key, delivery, .. } = scratch;
    // With the timestamp that it has seen last, which is not too old for it.
    let ours = Offer {
        offers: answer.offers & OFFER_TIMESTAMPS,
        ts_val: answer.ts_echo,
        ts_echo: answer.ts_val,
        ..Offer::default()
    };
    let stash = room.get();
    header.answer(segment);
    header.seq = segment.ack;
    header.ack = flow.acked().wrapping_add(seq_delta);
    header.flags = flags::ACK;
    header.window = rescale(stash.window, window_shift, 0);
    ours.write_established(&mut header.options);
    let at = stash.place(segment.ack);
    let len = most
        .wrapping_sub(header.options.len * 4)
        .min(stash.known.wrapping_sub(at))
        .min(window)
        .min(PART as u32);
    delivery.at = at;
    delivery.limit = at.wrapping_add(len);
    room.load_all(tables, chunk_key, at, at.wrapping_add(len)).then_some(())
}

/// Makes the segment in hand the one that is missing.
#[inline(never)]
pub fn deliver_again<P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Option<Counter> {
    let (at, limit) = (reread(&scratch.delivery.at), reread(&scratch.delivery.limit));
    replace(packet, scratch, at, limit.wrapping_sub(at))?;
    swap_macs(packet)?;
    Some(Counter::DeliveredAgain)
}
