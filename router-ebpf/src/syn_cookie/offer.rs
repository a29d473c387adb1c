//! What a client has offered, as bits that come back with its first segments.

use crate::{
    maps::{OFFER_SACK, OFFER_SCALE, OFFER_TIMESTAMPS},
    options::{MAX_SCALE, Offer},
};

/// Bits of an offer in our timestamp: three for the MSS, four for the scale, one for SACK.
pub(super) const STAMPED_BITS: u32 = 8;
/// Bits of an offer in the cookie.
const USUAL_BITS: u32 = 3;
const NO_SCALE: u8 = 15;
/// What everybody can take (RFC 9293 section 3.7.1), whatever a client says or does not say.
pub(super) const SMALLEST: u16 = 536;
/// MSS classes, the usual ones of the Internet (tcp_syncookies in Linux, and overlays and jumbo
/// frames beside them): the largest that is not above the client's is what the replica gets.
pub(super) const MSS_CLASSES: [u16; 8] = [SMALLEST, 1220, 1340, 1400, 1440, 1460, 4312, 8940];

/// What is remembered of a client without timestamps: MSS, scale and SACK. The last one of which no part is
/// above what the client offers.
///
/// By the database of p0f (`p0f.fp`, version 3) Linux, Android, macOS, iOS and the BSDs offer timestamps, scale
/// and SACK; Windows SACK and a scale of 8, and no timestamps; Linux whose timestamps were switched off
/// the rest; devices of games SACK alone; small stacks nothing but an MSS. Scales are next to each other,
/// because each bit less halves the window that the replica believes in, and a client whose scale is far above one
/// is better off without: then its window is what it says.
const USUAL: [Usual; 1 << USUAL_BITS] = [
    Usual(SMALLEST, NO_SCALE, false),
    Usual(1360, NO_SCALE, false),
    Usual(1220, NO_SCALE, true),
    Usual(SMALLEST, 7, true),
    Usual(1220, 6, true),
    Usual(1440, 7, true),
    Usual(1360, 8, true),
    Usual(1440, 8, true),
];

/// MSS, scale and whether there is SACK.
#[derive(Clone, Copy, Debug)]
struct Usual(u16, u8, bool);

impl Usual {
    /// Whether a client has offered all of it.
    #[inline(always)]
    const fn fits(self, offer: &Offer) -> bool {
        let Self(mss, scale, sack) = self;
        (mss <= SMALLEST || offer.mss >= mss)
            && (scale == NO_SCALE || offer.has(OFFER_SCALE) && offer.scale >= scale)
            && (!sack || offer.has(OFFER_SACK))
    }
}

/// Where the offer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In our timestamp.
    Stamped,
    /// In the cookie.
    Plain,
}

impl Form {
    /// That of a segment with these options.
    #[inline(always)]
    pub(super) const fn of(options: &Offer) -> Self {
        if options.has(OFFER_TIMESTAMPS) { Self::Stamped } else { Self::Plain }
    }

    /// How many bits of the cookie the offer takes.
    #[inline(always)]
    pub(super) const fn shift(self) -> u32 {
        match self {
            Self::Stamped => 0,
            Self::Plain => USUAL_BITS,
        }
    }

    /// The offer as bits.
    #[inline(always)]
    pub(super) const fn pack(self, offer: &Offer) -> u8 {
        match self {
            Self::Stamped => stamp(offer),
            Self::Plain => usual(offer),
        }
    }

    /// The bits of a segment.
    #[inline(always)]
    pub(super) const fn bits(self, cookie: u32, options: &Offer) -> u8 {
        match self {
            Self::Stamped => options.ts_echo as u8,
            Self::Plain => (cookie & ((1 << USUAL_BITS) - 1)) as u8,
        }
    }

    /// The offer that bits stand for.
    #[inline(always)]
    const fn unpack(self, bits: u8) -> Offer {
        let (mss, scale, sack) = match self {
            Self::Stamped => (class_mss(bits >> 5), bits >> 1 & 0xf, bits & 1 != 0),
            Self::Plain => {
                let Usual(mss, scale, sack) = usual_of(bits);
                (mss, scale, sack)
            }
        };
        let scaled = scale <= MAX_SCALE;
        let stamped = match self {
            Self::Stamped => OFFER_TIMESTAMPS,
            Self::Plain => 0,
        };
        Offer {
            offers: if scaled { OFFER_SCALE } else { 0 }
                | if sack { OFFER_SACK } else { 0 }
                | stamped,
            scale: if scaled { scale } else { 0 },
            mss,
            ts_val: 0,
            ts_echo: 0,
        }
    }
}

/// An offer as it goes into our timestamp.
#[inline(always)]
const fn stamp(offer: &Offer) -> u8 {
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

#[inline(always)]
const fn class_mss(class: u8) -> u16 {
    match class {
        0 => MSS_CLASSES[0],
        1 => MSS_CLASSES[1],
        2 => MSS_CLASSES[2],
        3 => MSS_CLASSES[3],
        4 => MSS_CLASSES[4],
        5 => MSS_CLASSES[5],
        6 => MSS_CLASSES[6],
        _ => MSS_CLASSES[7],
    }
}

/// An offer as it goes into the cookie.
#[inline(always)]
const fn usual(offer: &Offer) -> u8 {
    let mut found = 0;
    if USUAL[1].fits(offer) {
        found = 1;
    }
    if USUAL[2].fits(offer) {
        found = 2;
    }
    if USUAL[3].fits(offer) {
        found = 3;
    }
    if USUAL[4].fits(offer) {
        found = 4;
    }
    if USUAL[5].fits(offer) {
        found = 5;
    }
    if USUAL[6].fits(offer) {
        found = 6;
    }
    if USUAL[7].fits(offer) {
        found = 7;
    }
    found
}

#[inline(always)]
const fn usual_of(bits: u8) -> Usual {
    match bits {
        0 => USUAL[0],
        1 => USUAL[1],
        2 => USUAL[2],
        3 => USUAL[3],
        4 => USUAL[4],
        5 => USUAL[5],
        6 => USUAL[6],
        _ => USUAL[7],
    }
}

/// As much of a client's offer as can be remembered. What is not is not answered either, so the client
/// does without.
#[inline(always)]
pub const fn fit(offer: &Offer) -> Offer {
    let form = Form::of(offer);
    Offer { ts_val: offer.ts_val, ..form.unpack(form.pack(offer)) }
}

/// What the client of a checked segment with acknowledgement number `ack` and these options had offered.
#[inline(always)]
pub const fn offer(ack: u32, options: &Offer) -> Offer {
    let form = Form::of(options);
    let bits = form.bits(ack.wrapping_sub(1), options);
    Offer { ts_val: options.ts_val, ..form.unpack(bits) }
}

/// What we offer in a SYN-ACK: what [`fit`] left of the client's offer, with our numbers.
#[inline(always)]
pub const fn answer(offer: &Offer, mss: u16, scale: u8, now: u64) -> Offer {
    // Counts 1.05 ms (RFC 7323 section 5.4 wants 1 ms to 1 s). It is the only one of ours before the
    // replica's, which go on where it stopped; so nobody sees that it counts in steps of 256.
    let clock = (now >> 20) as u32;
    Offer {
        offers: offer.offers & (OFFER_TIMESTAMPS | OFFER_SACK | OFFER_SCALE),
        scale,
        mss,
        ts_val: clock >> STAMPED_BITS << STAMPED_BITS | stamp(offer) as u32,
        ts_echo: offer.ts_val,
    }
}
