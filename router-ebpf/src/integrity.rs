//! Whether the checksum of a segment is right, or left to be finished by a device.

use crate::{
    checksum::{Sum, pseudo_header, sum_words},
    maps::PART,
    packet::Packet,
    scratch::Scratch,
    segment::Segment,
    tables::{FlowTables, Step},
    wire::{TCP_CHECK, protocol},
};

/// Whether the checksum of a segment with this sum of its payload is right. Established segments are
/// not checked here: their checksum is only updated, so what was wrong stays wrong for the replica.
#[inline(never)]
pub fn checksum_is_right(packet: &impl Packet, segment: &Segment, payload: Sum) -> Option<bool> {
    let l4 = segment.l4();
    let len = segment.end().wrapping_sub(l4) as u32;
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
    let len = segment.end().wrapping_sub(l4) as u32;
    let pseudo = pseudo_header(&segment.src, &segment.dst, protocol::TCP, len);
    Some(pseudo.fold().to_ne_bytes() == field)
}

/// Whether a segment is as it was sent. Notes in `scratch.unfinished` if its checksum is left to a device. Where the kernel
/// says that it is, the segment comes from this machine, and nobody has to look.
#[inline(always)]
pub fn is_intact<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    payload: impl FnOnce(&P, &mut Scratch) -> Option<Sum>,
) -> Option<bool> {
    let known = packet.is_unfinished(scratch.segment.l4() + TCP_CHECK);
    scratch.unfinished = (known == Some(true)) as u32;
    if known == Some(true) {
        return Some(true);
    }
    let sum = payload(packet, scratch)?;
    if checksum_is_right(packet, &scratch.segment, sum)? {
        return Some(true);
    }
    if P::KNOWS_CHECKSUM || !is_unfinished(packet, &scratch.segment)? {
        return Some(false);
    }
    scratch.unfinished = 1;
    Some(true)
}

/// Parts of a payload, of [`PART`] bytes each, that are added up at the most: all of the largest packet, merged from
/// several by the kernel.
const PARTS: u32 = 16;
/// Larger ones are no frames, but merged from several.
const FRAME_PARTS: usize = 3;

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
        let len = if self.left > PART as u32 { PART as u32 } else { self.left };
        let bytes = &mut self.scratch.key.bytes;
        self.packet.load(self.at as usize, bytes, len as usize)?;
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
    if len > FRAME_PARTS * PART {
        // Larger than any frame: merged from several in generic mode, which leaves it unfinished.
        return Some(true);
    }
    let sum = payload_sum(packet, tables, scratch)?;
    Some(!checksum_is_right(packet, &scratch.segment, sum)?)
}

/// Adds up the payload of the segment. Uses the room of the key, which is not known yet, or not needed any more.
#[inline(always)]
pub fn payload_sum<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Sum> {
    let left = scratch.segment.payload_len() as u32;
    let at = (scratch.segment.l4() + scratch.segment.header_len()) as u32;
    let mut adding = Adding { packet, scratch, at, left, sum: Sum::ZERO };
    if left > 0 {
        tables.repeat(PARTS, &mut adding);
    }
    let Adding { left, sum, .. } = adding;
    (left == 0).then_some(sum)
}
