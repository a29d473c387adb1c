//! Whether the checksum of a segment is right, or left to be finished by a device.

use crate::{
    checksum::{Sum, pseudo_header, sum_words},
    maps::STASH_LEN,
    packet::Packet,
    scratch::Scratch,
    segment::Segment,
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

/// Whether an established segment that looks unfinished is. A finished one looks like that once in 65536,
/// and would be lost each time that it is sent, so it is added up. (One that is unfinished and happens to be
/// right as it is, is taken for finished; only a device that finishes it later would notice.)
#[inline(never)]
pub fn is_really_unfinished<P: Packet>(packet: &P, scratch: &mut Scratch) -> Option<bool> {
    let len = scratch.segment.payload_len();
    if len > STASH_LEN {
        // Merged from several: native XDP has no frame of this size. (A jumbo frame in generic mode may be
        // finished, and wrongly taken for this once in 65536.)
        return Some(true);
    }
    let sum = if len == 0 { Sum::ZERO } else { payload_sum(packet, scratch, len)? };
    Some(!checksum_is_right(packet, &scratch.segment, sum)?)
}
