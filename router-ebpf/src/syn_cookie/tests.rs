//! What cookies carry, and what guesses at them find.

use super::{
    offer::{MSS_CLASSES, SMALLEST},
    *,
};
use crate::maps::{OFFER_SACK, OFFER_SCALE, OFFER_TIMESTAMPS};
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

/// What a client offers: MSS, scale, SACK, timestamps.
fn offered(mss: u16, scale: Option<u8>, sack: bool, timestamps: bool) -> Offer {
    let mut offers = if scale.is_some() { OFFER_SCALE } else { 0 };
    offers |= if sack { OFFER_SACK } else { 0 };
    offers |= if timestamps { OFFER_TIMESTAMPS } else { 0 };
    Offer { offers, scale: scale.unwrap_or(0), mss, ts_val: 5, ts_echo: 0 }
}

/// Our numbers for a client: sequence number, and what it echoes with a timestamp of its own.
fn greeted(offer: &Offer, seed: u8, isn: u32, now: u64) -> (u32, Offer) {
    let fitted = fit(offer);
    let cookie = make(&secrets(), &tuple(seed), isn, &fitted, now);
    let ours = answer(&fitted, 1400, 7, now);
    (
        cookie,
        Offer {
            ts_val: 6,
            ts_echo: ours.ts_val,
            offers: offer.offers & OFFER_TIMESTAMPS,
            ..Offer::default()
        },
    )
}

fn offers() -> impl Strategy<Value = Offer> {
    (0u16..10_000, proptest::option::of(0u8..=14), any::<bool>(), any::<bool>())
        .prop_map(|(mss, scale, sack, timestamps)| offered(mss, scale, sack, timestamps))
}

proptest! {
    #[test]
    fn a_cookie_gives_the_offer_back(
        isn: u32, seed: u8, offer in offers(), now in 0u64..1 << 60, age in 0u64..TICK,
    ) {
        let (cookie, echo) = greeted(&offer, seed, isn, now);
        let numbers = (isn.wrapping_add(1), cookie.wrapping_add(1));
        let checked = check(&secrets(), &tuple(seed), numbers, &echo, now + age);
        prop_assert_eq!(checked, Some(isn));
        let found = super::offer(numbers.1, &echo);
        prop_assert_eq!(found, Offer { ts_val: 6, ..fit(&offer) });
        // Nothing that was not offered, and with timestamps all of it.
        prop_assert_eq!(found.offers & !offer.offers, 0);
        prop_assert!(found.mss <= offer.mss.max(SMALLEST) && found.scale <= offer.scale);
        if offer.has(OFFER_TIMESTAMPS) {
            let class = MSS_CLASSES.iter().rfind(|class| **class <= offer.mss.max(SMALLEST));
            prop_assert_eq!(found, Offer { mss: *class.unwrap(), ts_val: 6, ..offer });
        }
        // It fits once and for all.
        prop_assert_eq!(fit(&found), found);
    }

    #[test]
    fn a_later_segment_tells_where_it_is(
        isn: u32, seed: u8, offer in offers(), now in 0u64..1 << 60, behind in 0..REACH,
    ) {
        let (cookie, echo) = greeted(&offer, seed, isn, now);
        let numbers = (isn.wrapping_add(behind), cookie.wrapping_add(1));
        let checked = check(&secrets(), &tuple(seed), numbers, &echo, now);
        prop_assert_eq!(checked, Some(isn));
    }

    /// The replica's timestamps go on where ours stopped: PAWS (RFC 7323 section 5) takes every later one.
    #[test]
    fn our_timestamp_is_at_most_a_step_ahead(offer in offers(), now in 0u64..1 << 51) {
        let ours = answer(&fit(&offer), 1400, 7, now).ts_val;
        prop_assert!(ours.abs_diff((now >> 20) as u32) < 1 << STAMPED_BITS);
    }
}

/// By chance one in 2^28 would still be good, so these are always the same ones.
#[test]
fn a_cookie_is_not_good_for_long() {
    for n in 0..1000 {
        let (isn, now) = (n * 0x9e37, u64::from(n) * TICK / 10);
        let (cookie, echo) = greeted(&offered(1460, None, false, n % 2 == 0), n as u8, isn, now);
        let numbers = (isn + 1, cookie.wrapping_add(1));
        let after = |age| check(&secrets(), &tuple(n as u8), numbers, &echo, now + age);
        assert_eq!(after(TICK), Some(isn));
        assert_eq!(after(2 * TICK), None);
    }
}

/// Guesses at acknowledgement numbers for one tuple and one sequence number, the same in each run: how
/// many are right, and how many belong to a handshake at least.
fn guesses(timestamps: bool, tries: u32) -> (u32, u32) {
    let (_, echo) = greeted(&offered(1460, Some(8), true, timestamps), 1, 5, 0);
    let found = (0..tries).filter_map(|guess| {
        let ack = guess.wrapping_mul(0x9e37_79b1);
        check(&secrets(), &tuple(1), (6, ack), &echo, 0)
    });
    found.fold((0, 0), |(right, ours), isn| (right + u32::from(isn == 5), ours + 1))
}

#[test]
fn guesses_fail() {
    let tries = 1 << 21;
    // One in 2^14 is expected to belong to a handshake, and with timestamps one in 2^17.
    for (timestamps, bits) in [(false, 14), (true, 17)] {
        let (right, ours) = guesses(timestamps, tries);
        let expected = tries >> bits;
        assert!(right == 0, "{right} of {tries} guesses were right");
        assert!((expected / 2..expected * 2).contains(&ours), "{ours} of {tries}");
    }
}

/// All bits but those of the offer and the parity count.
#[test]
fn a_bit_that_is_wrong_makes_it_another_ones() {
    for timestamps in [false, true] {
        let offer = offered(1460, Some(8), true, timestamps);
        let (cookie, echo) = greeted(&offer, 1, 5, 0);
        for bit in 0..32 {
            let ack = (cookie ^ 1 << bit).wrapping_add(1);
            assert_ne!(check(&secrets(), &tuple(1), (6, ack), &echo, 0), Some(5), "bit {bit}");
        }
        for bit in 0..if timestamps { STAMPED_BITS } else { 0 } {
            let echo = Offer { ts_echo: echo.ts_echo ^ 1 << bit, ..echo };
            let numbers = (6, cookie.wrapping_add(1));
            assert_eq!(check(&secrets(), &tuple(1), numbers, &echo, 0), None, "bit {bit}");
        }
    }
}

/// By p0f's database, see [`super::offer`].
#[test]
fn systems_give_up_neither_scale_nor_sack() {
    let all = [
        ("Windows", offered(1460, Some(8), true, false)),
        ("Windows, IPv6", offered(1440, Some(8), true, false)),
        ("Windows, PPPoE", offered(1452, Some(8), true, false)),
        ("Windows, a tunnel", offered(1380, Some(8), true, false)),
        ("Windows, IPv6's smallest MTU", offered(1220, Some(8), true, false)),
        ("Windows, a small MTU", offered(536, Some(8), true, false)),
        ("Linux without timestamps", offered(1460, Some(7), true, false)),
        ("Linux without timestamps, a tunnel", offered(1240, Some(7), true, false)),
        ("Linux", offered(1460, Some(7), true, true)),
        ("Linux, much memory", offered(65495, Some(14), true, true)),
        ("Android", offered(1400, Some(9), true, true)),
        ("macOS", offered(1460, Some(6), true, true)),
        ("iOS", offered(1380, Some(5), true, true)),
    ];
    for (system, offer) in all {
        let found = fit(&offer);
        assert_eq!(found.offers, offer.offers, "{system}: {found:?}");
        // A bit less halves the window; two only where Windows has little room for a segment.
        let least =
            offer.scale - if offer.mss < 1360 && !offer.has(OFFER_TIMESTAMPS) { 2 } else { 0 };
        assert!(found.scale >= least, "{system}: {found:?}");
    }
    assert_eq!(fit(&all[0].1).mss, 1440);
    assert_eq!(fit(&all[1].1).mss, 1440);
}

#[test]
fn what_is_unusual_is_remembered_by_what_is_below() {
    let cases = [
        (offered(0, None, false, false), (536, None, false)),
        (offered(1460, None, false, false), (1360, None, false)),
        (offered(1460, None, true, false), (1220, None, true)),
        (offered(1460, Some(2), true, false), (1220, None, true)),
        (offered(1460, Some(8), false, false), (1360, None, false)),
        (offered(0, Some(14), true, false), (536, Some(7), true)),
        (offered(9000, Some(14), true, false), (1440, Some(8), true)),
    ];
    for (offer, (mss, scale, sack)) in cases {
        let expected = Offer { ts_val: 5, ..offered(mss, scale, sack, false) };
        assert_eq!(fit(&offer), expected, "{offer:?}");
    }
}

#[test]
fn the_key_before_still_counts() {
    let (cookie, echo) = greeted(&offered(1460, None, false, true), 1, 5, 0);
    let checked = |secrets| check(&secrets, &tuple(1), (6, cookie.wrapping_add(1)), &echo, 0);
    let rotated = Secrets { handshake: [9, 9], ..secrets() };
    assert_eq!(checked(rotated), Some(5));
    assert_eq!(checked(Secrets { handshake_before: [8, 8], ..rotated }), None);
}
