//! SYN cookies: our initial sequence number proves that its owner has seen our SYN-ACK, and tells how many
//! bytes of the client's come before a segment; what the client offered is in our timestamp, or in the
//! number. No state is kept before that.
//!
//! The 32 bits, from the top (the idea of D. J. Bernstein's SYN cookies, RFC 4987 section 3.6):
//!
//! | bits with timestamps | without | what |
//! | --- | --- | --- |
//! | 17 | 14 | MAC over 4-tuple, tick, offer and the client's ISN: the segment belongs to a handshake of ours |
//! | 14 | 14 | the lowest bits of the client's ISN, hidden by a MAC over 4-tuple and tick: where the segment is in its stream |
//! | 1 | 1 | parity of the tick |
//! | 0 | 3 | offer: one of [`offer::USUAL`] |
//!
//! With timestamps (RFC 7323) the offer is in the lowest eight bits of the one in our SYN-ACK, and the client
//! echoes it until its replica has answered. A client that changes them has another MAC.

mod offer;
#[cfg(test)]
mod tests;

use crate::{
    maps::{Secrets, TICK_SHIFT, Tuple},
    options::Offer,
    siphash::{self, Words},
};

use self::offer::{Form, STAMPED_BITS};
pub use self::offer::{answer, fit, offer};

/// What the client's numbers may be ahead of its ISN. More than that is in nobody's window before the replica
/// has answered.
pub const REACH: u32 = 1 << REACH_BITS;
const REACH_BITS: u32 = 14;

/// Our ISN for a client that opens `tuple` with `client_isn` and this offer, which [`fit`] has made.
///
/// `now` is `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn make(secrets: &Secrets, tuple: &Tuple, client_isn: u32, offer: &Offer, now: u64) -> u32 {
    let form = Form::of(offer);
    let bits = form.pack(offer);
    let tick = tick(secrets, now);
    let begun = begin(&secrets.handshake, tuple, tick);
    let hidden = client_isn.wrapping_add(pad(begun)) & (REACH - 1);
    let rest = hidden << 1 | tick as u32 & 1;
    let number = proof(begun, form, bits, client_isn) << (REACH_BITS + 1) | rest;
    match form {
        Form::Stamped => number,
        Form::Plain => number << form.shift() | bits as u32,
    }
}

/// The client's ISN, if a segment with sequence number `seq`, acknowledgement number `ack` and these options
/// belongs to a handshake of ours: it is less than [`REACH`] behind `seq`.
#[inline(always)]
pub fn check(
    secrets: &Secrets,
    tuple: &Tuple,
    (seq, ack): (u32, u32),
    options: &Offer,
    now: u64,
) -> Option<u32> {
    let form = Form::of(options);
    let cookie = ack.wrapping_sub(1);
    let bits = form.bits(cookie, options);
    let number = cookie >> form.shift();
    let mut tick = tick(secrets, now);
    if (tick as u32 ^ number) & 1 != 0 {
        tick = tick.wrapping_sub(1);
    }
    let check_with = |key| {
        let begun = begin(key, tuple, tick);
        let isn = (number >> 1).wrapping_sub(pad(begun));
        let isn = seq.wrapping_sub(seq.wrapping_sub(isn) & (REACH - 1));
        let mask = u32::MAX >> form.shift() >> (REACH_BITS + 1);
        let right = (proof(begun, form, bits, isn) ^ number >> (REACH_BITS + 1)) & mask == 0;
        right.then_some(isn)
    };
    match check_with(&secrets.handshake) {
        None if secrets.handshake_before != secrets.handshake => {
            check_with(&secrets.handshake_before)
        }
        checked => checked,
    }
}

#[inline(always)]
const fn tick(secrets: &Secrets, now: u64) -> u64 {
    now.wrapping_add(secrets.clock_offset) >> TICK_SHIFT
}

/// What both MACs begin with, the 4-tuple and the tick: two words of IPv4, five of IPv6.
#[inline(always)]
fn begin(key: &siphash::Key, tuple: &Tuple, tick: u64) -> Words {
    const MAPPED: u64 = 0xffff_0000;
    let [a, b, c, d, ports] = tuple_words(tuple);
    let begun = Words::new(key);
    let last = ports | tick << 32;
    if a == 0 && b & 0xffff_ffff == MAPPED {
        begun.and(&[b >> 32 | d & !0xffff_ffff, last])
    } else {
        begun.and(&[a, b, c, d, last])
    }
}

/// What hides the client's ISN, in the lowest bits: the MAC over that alone.
#[inline(always)]
const fn pad(begun: Words) -> u32 {
    begun.finish() as u32
}

/// The MAC over the offer and the client's ISN, too: as many of its lowest bits count as there are.
#[inline(always)]
const fn proof(begun: Words, form: Form, bits: u8, client_isn: u32) -> u32 {
    let about = (form.shift() as u64) << STAMPED_BITS | bits as u64;
    begun.and(&[about << 32 | client_isn as u64]).finish() as u32
}

/// A tuple as words to hash: the four of the addresses, and the ports in the low half of the last.
#[inline(always)]
pub fn tuple_words(tuple: &Tuple) -> [u64; 5] {
    let [a, b] = halves(&tuple.client);
    let [c, d] = halves(&tuple.server);
    let [p0, p1] = tuple.client_port;
    let [p2, p3] = tuple.server_port;
    [a, b, c, d, u32::from_le_bytes([p0, p1, p2, p3]) as u64]
}

#[inline(always)]
fn halves(addr: &[u8; 16]) -> [u64; 2] {
    let a = addr;
    [
        u64::from_le_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_le_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ]
}
