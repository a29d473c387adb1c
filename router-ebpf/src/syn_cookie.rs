//! SYN cookies: our initial sequence number carries what the client offered, and proves that its
//! owner has seen our SYN-ACK. No state is kept before that.
//!
//! The 32 bits, from the top (the idea of D. J. Bernstein's SYN cookies, RFC 4987 section 3.6, with
//! the options in the number itself because timestamps may be off):
//!
//! | bits | what |
//! | --- | --- |
//! | 12 | MAC over 4-tuple, tick and offer: the segment belongs to a handshake of ours |
//! | 11 | MAC over that and the client's ISN: it is the first one after the handshake |
//! | 1 | parity of the tick |
//! | 3 | MSS class |
//! | 4 | window scale; 15: none |
//! | 1 | SACK permitted |

use crate::{
    maps::{OFFER_SACK, OFFER_SCALE, OFFER_TIMESTAMPS, Secrets, TICK_SHIFT, Tuple},
    options::{MAX_SCALE, Offer},
    siphash,
};

const NO_SCALE: u8 = 15;
/// MSS classes, the usual ones of the Internet (tcp_syncookies in Linux, and overlays and jumbo
/// frames beside them): the largest that is not above the client's is what the replica gets.
const MSS_CLASSES: [u16; 8] = [536, 1220, 1340, 1400, 1440, 1460, 4312, 8940];

/// What a segment's acknowledgement number says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is the first segment after the handshake: [`offer`] tells what the client had offered.
    First,
    /// It belongs to a handshake of ours, but something is missing before it.
    Later,
    /// It has nothing to do with us.
    Foreign,
}

/// Our ISN for a client that opens `tuple` with `client_isn` and this offer.
///
/// `now` is `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn make(secrets: &Secrets, tuple: &Tuple, client_isn: u32, offer: &Offer, now: u64) -> u32 {
    let offer_bits = pack(offer);
    let tick = tick(secrets, now);
    assemble(&secrets.handshake, tuple, client_isn, offer_bits, tick)
}

/// Checks a segment with sequence number `seq` and acknowledgement number `ack`.
#[inline(always)]
pub fn check(secrets: &Secrets, tuple: &Tuple, seq: u32, ack: u32, now: u64) -> Check {
    let cookie = ack.wrapping_sub(1);
    let client_isn = seq.wrapping_sub(1);
    let mut tick = tick(secrets, now);
    if (tick as u32 ^ (cookie >> 8)) & 1 != 0 {
        tick = tick.wrapping_sub(1);
    }
    match check_with(&secrets.handshake, tuple, client_isn, cookie, tick) {
        Check::Foreign if secrets.handshake_before != secrets.handshake => {
            check_with(&secrets.handshake_before, tuple, client_isn, cookie, tick)
        }
        checked => checked,
    }
}

#[inline(always)]
fn check_with(key: &siphash::Key, tuple: &Tuple, client_isn: u32, cookie: u32, tick: u64) -> Check {
    let expected = assemble(key, tuple, client_isn, (cookie & 0xff) as u8, tick);
    if expected == cookie {
        Check::First
    } else if expected >> 20 == cookie >> 20 {
        Check::Later
    } else {
        Check::Foreign
    }
}

#[inline(always)]
const fn tick(secrets: &Secrets, now: u64) -> u64 {
    now.wrapping_add(secrets.clock_offset) >> TICK_SHIFT
}

#[inline(always)]
fn assemble(key: &siphash::Key, tuple: &Tuple, client_isn: u32, offer: u8, tick: u64) -> u32 {
    let [a, b, c, d, ports] = tuple_words(tuple);
    let mac = siphash::words(key, &[a, b, c, d, ports | (offer as u64) << 32, tick]);
    let first = siphash::words(key, &[mac, client_isn as u64]);
    ((mac >> 52) as u32) << 20 | ((first >> 53) as u32) << 9 | (tick as u32 & 1) << 8 | offer as u32
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

#[inline(always)]
const fn pack(offer: &Offer) -> u8 {
    let mut class = 0;
    // Written out: the verifier likes straight lines.
    if offer.mss >= MSS_CLASSES[1] {
        class = 1;
    }
    if offer.mss >= MSS_CLASSES[2] {
        class = 2;
    }
    if offer.mss >= MSS_CLASSES[3] {
        class = 3;
    }
    if offer.mss >= MSS_CLASSES[4] {
        class = 4;
    }
    if offer.mss >= MSS_CLASSES[5] {
        class = 5;
    }
    if offer.mss >= MSS_CLASSES[6] {
        class = 6;
    }
    if offer.mss >= MSS_CLASSES[7] {
        class = 7;
    }
    let scale = if offer.has(OFFER_SCALE) { offer.scale } else { NO_SCALE };
    class << 5 | scale << 1 | offer.has(OFFER_SACK) as u8
}

/// What the client of a checked segment with acknowledgement number `ack` had offered. Whether it
/// uses timestamps is seen in the segment itself.
#[inline(always)]
pub const fn offer(ack: u32) -> Offer {
    let bits = (ack.wrapping_sub(1) & 0xff) as u8;
    let scale = (bits >> 1) & 0xf;
    let scaled = scale <= MAX_SCALE;
    Offer {
        offers: if scaled { OFFER_SCALE } else { 0 } | if bits & 1 != 0 { OFFER_SACK } else { 0 },
        scale: if scaled { scale } else { 0 },
        mss: match bits >> 5 {
            0 => MSS_CLASSES[0],
            1 => MSS_CLASSES[1],
            2 => MSS_CLASSES[2],
            3 => MSS_CLASSES[3],
            4 => MSS_CLASSES[4],
            5 => MSS_CLASSES[5],
            6 => MSS_CLASSES[6],
            _ => MSS_CLASSES[7],
        },
        ts_val: 0,
        ts_echo: 0,
    }
}

/// What we offer in a SYN-ACK: what the client offered, with our numbers.
#[inline(always)]
pub const fn answer(offer: &Offer, mss: u16, scale: u8, now: u64) -> Offer {
    Offer {
        offers: offer.offers & (OFFER_TIMESTAMPS | OFFER_SACK | OFFER_SCALE),
        scale,
        mss,
        // Counts 1.05 ms (RFC 7323 section 5.4 wants 1 ms to 1 s).
        ts_val: (now >> 20) as u32,
        ts_echo: offer.ts_val,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: u64 = 1 << TICK_SHIFT;

    fn secrets() -> Secrets {
        Secrets {
            schema: 1,
            reserved: 0,
            clock_offset: 17,
            handshake: [1, 2],
            handshake_before: [1, 2],
            chat: [3, 4],
        }
    }

    fn tuple(seed: u8) -> Tuple {
        Tuple {
            client: [seed; 16],
            server: [seed ^ 0xff; 16],
            client_port: [seed, 1],
            server_port: [0, 80],
        }
    }

    proptest! {
        #[test]
        fn a_cookie_gives_the_offer_back(
            isn: u32, seed: u8, mss in 536u16..9000, scale in 0u8..=14, bits in 0u8..8,
            now in 0u64..1 << 60, age in 0u64..TICK,
        ) {
            let offer = Offer {
                offers: bits & (OFFER_SACK | OFFER_SCALE),
                scale: if bits & OFFER_SCALE != 0 { scale } else { 0 },
                mss, ts_val: 0, ts_echo: 0,
            };
            let cookie = make(&secrets(), &tuple(seed), isn, &offer, now);
            let seq = isn.wrapping_add(1);
            let ack = cookie.wrapping_add(1);
            prop_assert_eq!(check(&secrets(), &tuple(seed), seq, ack, now + age), Check::First);
            let found = super::offer(ack);
            prop_assert!(found.mss <= mss);
            let class = *MSS_CLASSES.iter().rfind(|class| **class <= mss).unwrap();
            prop_assert_eq!(found, Offer { mss: class, ..offer });
            // The second segment is known as ours.
            let later = check(&secrets(), &tuple(seed), seq.wrapping_add(100), ack, now + age);
            prop_assert!(later != Check::Foreign);
        }
    }

    /// By chance one in 2^23 would still be good, so these are always the same ones.
    #[test]
    fn a_cookie_is_not_good_for_long() {
        for n in 0..1000 {
            let (seq, now) = (n * 0x9e37 + 1, u64::from(n) * TICK / 10);
            let offer = Offer { mss: 1460, ..Offer::default() };
            let cookie = make(&secrets(), &tuple(n as u8), seq - 1, &offer, now);
            let ack = cookie.wrapping_add(1);
            let after = |age| check(&secrets(), &tuple(n as u8), seq, ack, now + age);
            assert_eq!(after(TICK), Check::First);
            assert_ne!(after(2 * TICK), Check::First);
        }
    }

    #[test]
    fn guesses_fail() {
        let offer = Offer { mss: 1460, ..Offer::default() };
        let good = make(&secrets(), &tuple(1), 5, &offer, 0);
        let tries = 200_000u32;
        let hits = (1..=tries)
            .filter(|guess| {
                let ack = good.wrapping_add(guess.wrapping_mul(0x9e37_79b1)).wrapping_add(1);
                matches!(check(&secrets(), &tuple(1), 6, ack, 0), Check::First)
            })
            .count();
        // One in 2^23 is expected.
        assert!(hits <= 2, "{hits} of {tries} guesses were accepted");
    }

    #[test]
    fn the_key_before_still_counts() {
        let offer = Offer { mss: 1460, ..Offer::default() };
        let cookie = make(&secrets(), &tuple(1), 5, &offer, 0);
        let rotated = Secrets { handshake: [9, 9], ..secrets() };
        assert!(matches!(check(&rotated, &tuple(1), 6, cookie.wrapping_add(1), 0), Check::First));
        let twice = Secrets { handshake_before: [8, 8], ..rotated };
        assert!(!matches!(check(&twice, &tuple(1), 6, cookie.wrapping_add(1), 0), Check::First));
    }
}
