//! TCP options: what a client offers, what a replica answers, and the ones that are translated.

use crate::{
    checksum::Sum,
    header::Options,
    maps::{OFFER_SACK, OFFER_SCALE, OFFER_TIMESTAMPS},
    packet::Packet,
    segment::Segment,
    verifier::reread,
    wire::TCP_LEN,
};

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
/// Forty bytes of options, each at least one byte.
const MOST: usize = 40;
/// The largest shift (RFC 7323 section 2.3).
pub const MAX_SCALE: u8 = 14;

/// The options of a handshake that we know.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Timestamp.
    pub ts_val: u32,
    /// Echoed timestamp.
    pub ts_echo: u32,
    /// Maximum segment size; 0 if not said.
    pub mss: u16,
    /// Which of the rest are there: `OFFER_*`.
    pub offers: u8,
    /// Window scale.
    pub scale: u8,
}

impl Offer {
    /// Whether this option is offered.
    #[inline(always)]
    pub const fn has(&self, offer: u8) -> bool {
        self.offers & offer != 0
    }

    /// Reads the options of a well-formed segment. Malformed ones end the list, as in Linux
    /// (`tcp_parse_options` in net/ipv4/tcp_input.c).
    #[inline(never)]
    pub fn parse(
        &mut self,
        packet: &impl Packet,
        segment: &Segment,
        cursor: &mut Cursor,
    ) -> Option<()> {
        *self = Self::default();
        cursor.start(segment);
        for _ in 0..MOST {
            let Some((kind, at, len)) = cursor.next(packet) else {
                break;
            };
            match (kind, len) {
                (MSS, 4) => self.mss = u16::from_be_bytes(packet.read(at + 2)?),
                (SCALE, 3) => {
                    self.offers |= OFFER_SCALE;
                    let [scale] = packet.read(at + 2)?;
                    self.scale = if scale > MAX_SCALE { MAX_SCALE } else { scale };
                }
                (SACK_PERMITTED, 2) => self.offers |= OFFER_SACK,
                (TIMESTAMPS, 10) => {
                    self.offers |= OFFER_TIMESTAMPS;
                    self.ts_val = u32::from_be_bytes(packet.read(at + 2)?);
                    self.ts_echo = u32::from_be_bytes(packet.read(at + 6)?);
                }
                _ => {}
            }
        }
        Some(())
    }

    /// Writes the options of a SYN or SYN-ACK, laid out as Linux does.
    #[inline(always)]
    pub fn write(&self, options: &mut Options) {
        options.clear();
        let [m0, m1] = self.mss.to_be_bytes();
        options.push([MSS, 4, m0, m1]);
        let sack = self.has(OFFER_SACK);
        if self.has(OFFER_TIMESTAMPS) {
            let [a, b] = if sack { [SACK_PERMITTED, 2] } else { [NOP, NOP] };
            self.write_timestamps(options, [a, b, TIMESTAMPS, 10]);
        } else if sack {
            options.push([NOP, NOP, SACK_PERMITTED, 2]);
        }
        if self.has(OFFER_SCALE) {
            options.push([NOP, SCALE, 3, self.scale]);
        }
    }

    /// Writes the options of a segment behind the handshake: timestamps if they are on.
    #[inline(always)]
    pub fn write_established(&self, options: &mut Options) {
        options.clear();
        if self.has(OFFER_TIMESTAMPS) {
            self.write_timestamps(options, [NOP, NOP, TIMESTAMPS, 10]);
        }
    }

    #[inline(always)]
    fn write_timestamps(&self, options: &mut Options, head: [u8; 4]) {
        options.push(head);
        options.push(self.ts_val.to_be_bytes());
        options.push(self.ts_echo.to_be_bytes());
    }
}

/// What is added to the numbers in the options of an established segment, modulo 2^32.
#[derive(Clone, Copy, Debug)]
pub struct Shift {
    /// To the timestamp value.
    pub ts_val: u32,
    /// To the timestamp echo.
    pub ts_echo: u32,
    /// To both edges of every SACK block.
    pub sack: u32,
}

/// What the options of nearly every segment take: two NOPs and timestamps.
pub const PLAIN_LEN: usize = 12;

/// Whether a segment has no options, or just timestamps as everybody lays them out.
#[inline(always)]
pub fn is_plain(packet: &impl Packet, segment: &Segment) -> Option<bool> {
    const WITH_TIMESTAMPS: usize = TCP_LEN + PLAIN_LEN;
    Some(match segment.header_len() {
        TCP_LEN => true,
        WITH_TIMESTAMPS => packet.read(segment.l4() + TCP_LEN)? == [NOP, NOP, TIMESTAMPS, 10],
        _ => false,
    })
}

/// Shifts the numbers in a segment's options and returns what that changed in its sum.
#[inline(always)]
pub fn translate<P: Packet>(
    packet: &mut P,
    segment: &Segment,
    cursor: &mut Cursor,
    shift: &Shift,
) -> Option<Sum> {
    if !is_plain(packet, segment)? {
        return translate_all(packet, segment, cursor, shift);
    }
    translate_plain(packet, segment, shift)
}

/// The same where [`is_plain`] is true.
#[inline(always)]
pub fn translate_plain<P: Packet>(packet: &mut P, segment: &Segment, shift: &Shift) -> Option<Sum> {
    if segment.header_len() == TCP_LEN {
        return Some(Sum::ZERO);
    }
    translate_timestamps(packet, segment.l4() + TCP_LEN + 4, shift)
}

#[inline(always)]
fn translate_timestamps<P: Packet>(packet: &mut P, at: usize, shift: &Shift) -> Option<Sum> {
    let mut sum = Sum::ZERO;
    // A number that is not shifted is not touched: an echo of zero stays what it is.
    if shift.ts_val != 0 {
        sum = sum.plus(add(packet, at, shift.ts_val)?);
    }
    if shift.ts_echo != 0 {
        sum = sum.plus(add(packet, at + 4, shift.ts_echo)?);
    }
    Some(sum)
}

#[inline(never)]
fn translate_all<P: Packet>(
    packet: &mut P,
    segment: &Segment,
    cursor: &mut Cursor,
    shift: &Shift,
) -> Option<Sum> {
    let mut sum = Sum::ZERO;
    let base = segment.l4();
    cursor.start(segment);
    for _ in 0..MOST {
        let Some((kind, at, len)) = cursor.next(packet) else {
            break;
        };
        let mut change = Sum::ZERO;
        if kind == TIMESTAMPS && len == 10 {
            change = translate_timestamps(packet, at + 2, shift)?;
        } else if kind == SACK && shift.sack != 0 {
            for edge in 0..8 {
                if 2 + edge * 4 + 4 > len {
                    break;
                }
                change = change.plus(add(packet, at + 2 + edge * 4, shift.sack)?);
            }
        }
        sum = sum.plus(if (at - base) & 1 == 0 { change } else { change.at_odd_offset() });
    }
    Some(sum)
}

/// Adds to the number at `offset` and returns what that changed in the sum.
#[inline(always)]
fn add<P: Packet>(packet: &mut P, offset: usize, shift: u32) -> Option<Sum> {
    let old = packet.read(offset)?;
    let new = u32::from_be_bytes(old).wrapping_add(shift).to_be_bytes();
    packet.write(offset, &new)?;
    Some(Sum::ZERO.sub4(old).add4(new))
}

/// Walks over the options of a well-formed segment. It is to be in map memory: each step begins with
/// a number that the verifier knows nothing about, and so there are not many ways to get there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    at: u32,
    end: u32,
}

impl Cursor {
    /// Where to begin does not matter.
    pub const START: Self = Self { at: 0, end: 0 };

    #[inline(always)]
    fn start(&mut self, segment: &Segment) {
        self.at = segment.l4 + TCP_LEN as u32;
        self.end = segment.l4 + segment.header_len;
    }

    /// Kind, offset in the frame and length of the next option; `None` at the end.
    #[inline(always)]
    fn next(&mut self, packet: &impl Packet) -> Option<(u8, usize, usize)> {
        let at = reread(&self.at) as usize;
        let end = reread(&self.end) as usize;
        if at >= end {
            return None;
        }
        let [kind] = packet.read(at)?;
        if kind == END {
            return None;
        }
        if kind == NOP {
            self.at = (at + 1) as u32;
            return Some((kind, at, 1));
        }
        let [len] = packet.read(at + 1)?;
        let len = len as usize;
        if !(2..=MOST).contains(&len) || at + len > end {
            return None;
        }
        self.at = (at + len) as u32;
        Some((kind, at, len))
    }
}
