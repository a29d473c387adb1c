//! Whether the checksum of a segment is right, or left to be finished by a device.

use crate::{
    checksum::{Sum, pseudo_header, sum_words},
    maps::STASH_LEN,
    packet::Packet,
    scratch::Scratch,
    segment::Segment,
    tables::{FlowTables, Step},
    verifier::pad,
    wire::{TCP_CHECK, protocol},
};

/// Loads the payload, of 1 to [`STASH_LEN`] bytes, where the key will be, and adds it up.
#[inline(always)]
pub fn payload_sum<P: Packet>(packet: &P, scratch: &mut Scratch, len: usize) -> Option<Sum> {
    // The key is not known yet, or not needed any more.
    let payload = &mut scratch.key.bytes;
    packet.load(scratch.segment.l4() + scratch.segment.header_len(), payload, len)?;
    // The sum reads whole words.
    pad(payload, len as u32);
    Some(sum_words(payload, len))
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

/// Whether the checksum field is only the sum of the pseudo-header: the rest was left to a device that the
/// segment has not met (`CHECKSUM_PARTIAL`). So it is with what a sender on the same machine sends over
/// a veth, and, in generic mode, with what the kernel has merged from several segments.
#[inline(always)]
pub fn is_unfinished(packet: &impl Packet, segment: &Segment) -> Option<bool> {
    let l4 = segment.l4();
    let field: [u8; 2] = packet.read(l4 + TCP_CHECK)?;
    let len = segment.end().wrapping_sub(l4) as u16;
    let pseudo = pseudo_header(&segment.src, &segment.dst, protocol::TCP, len);
    Some(pseudo.fold().to_ne_bytes() == field)
}

/// Parts of a payload, of [`STASH_LEN`] bytes each, that are added up at the most: a jumbo frame of 9000
/// bytes has three.
const PARTS: u32 = 3;

/// A payload that is added up part by part.
struct Adding<'a, P> {
    packet: &'a P,
    scratch: &'a mut Scratch,
    /// Offset of the next part.
    at: u32,
    /// Bytes that are left.
    left: u32,
    sum: Sum,
}

impl<P: Packet> Adding<'_, P> {
    #[inline(always)]
    fn part(&mut self) -> Option<()> {
        let len = if self.left > STASH_LEN as u32 { STASH_LEN as u32 } else { self.left };
        let bytes = &mut self.scratch.key.bytes;
        self.packet.load(self.at as usize, bytes, len as usize)?;
        pad(bytes, len);
        // All parts but the last have an even length: their sums are that of the whole.
        self.sum = self.sum.plus(sum_words(bytes, len as usize));
        self.at += len;
        self.left -= len;
        Some(())
    }
}

impl<P: Packet> Step for Adding<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        self.part().is_some() && self.left > 0
    }
}

/// Whether an established segment that looks unfinished is. A finished one looks like that once in 65536,
/// and would be lost each time that it is sent, so it is added up. (One that is unfinished and happens to be
/// right as it is, is taken for finished; only a device that finishes it later would notice.)
#[inline(never)]
pub fn is_really_unfinished<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<bool> {
    let len = scratch.segment.payload_len();
    if len > PARTS as usize * STASH_LEN {
        // Larger than any frame: merged from several in generic mode, which leaves it unfinished.
        return Some(true);
    }
    let at = (scratch.segment.l4() + scratch.segment.header_len()) as u32;
    let mut adding = Adding { packet, scratch, at, left: len as u32, sum: Sum::ZERO };
    if len > 0 {
        tables.repeat(PARTS, &mut adding);
    }
    let Adding { left, sum, .. } = adding;
    if left > 0 {
        return None;
    }
    Some(!checksum_is_right(packet, &scratch.segment, sum)?)
}
