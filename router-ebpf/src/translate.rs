//! A segment of a flow in the numbers of the other end: one translation for both directions.

use crate::{
    checksum::Sum,
    maps::{Flow, FlowBack},
    options::{self, Cursor, Shift},
    packet::Packet,
    rewrite::{Changed, End, Place, Rewrite, Side},
    segment::Segment,
    wire::{TCP_LEN, flags},
};

/// How the segments of a flow are translated in one direction. What a direction leaves alone is constant
/// where the value is made, and is not in the program at all.
#[derive(Clone, Copy, Debug)]
pub struct Translation<'a> {
    /// Which end of the segment is not what its receiver knows.
    side: Side,
    /// What the receiver knows instead.
    end: End<'a>,
    /// Added to the sequence number.
    seq: Option<u32>,
    /// Added to the acknowledgement number, if there is one.
    ack: Option<u32>,
    /// Added to the numbers in the options.
    options: Shift,
    /// The scale in which the sender counts its window, and the one that the receiver expects.
    scale: (u8, u8),
}

impl<'a> Translation<'a> {
    /// From the client to the replica.
    #[inline(always)]
    pub const fn to_replica(flow: &'a Flow) -> Self {
        Self {
            side: Side::Dst,
            end: End { addr: &flow.replica_addr, port: flow.replica_port },
            seq: None,
            ack: Some(flow.seq_delta),
            options: Shift {
                ts_val: 0,
                ts_echo: flow.ts_delta.wrapping_neg(),
                sack: flow.seq_delta,
            },
            scale: (flow.window_shift, 0),
        }
    }

    /// From the replica to the client.
    #[inline(always)]
    pub const fn to_client(back: &'a FlowBack) -> Self {
        Self {
            side: Side::Src,
            end: End { addr: &back.vip, port: back.vip_port },
            seq: Some(back.seq_delta.wrapping_neg()),
            ack: None,
            options: Shift { ts_val: back.ts_delta, ts_echo: 0, sack: 0 },
            scale: (back.replica_scale, back.announced_scale),
        }
    }

    /// Translates the segment in the packet, all but its checksum.
    #[inline(always)]
    pub fn apply(
        self,
        packet: &mut impl Packet,
        segment: &Segment,
        cursor: &mut Cursor,
    ) -> Option<Changed> {
        // A copy, which may go onto the stack alone: there is no room for all of this.
        let shift = self.options;
        let in_options = options::translate(packet, segment, cursor, &shift)?;
        self.rewrite(packet, segment, in_options)
    }

    /// The same for a segment with [`options::is_plain`].
    #[inline(always)]
    pub fn apply_to_plain(self, packet: &mut impl Packet, segment: &Segment) -> Option<Changed> {
        let in_options = options::translate_plain(packet, segment, &self.options)?;
        self.rewrite(packet, segment, in_options)
    }

    #[inline(always)]
    fn rewrite(
        self,
        packet: &mut impl Packet,
        segment: &Segment,
        in_options: Sum,
    ) -> Option<Changed> {
        let old = match self.side {
            Side::Src => End { addr: &segment.src, port: segment.src_port },
            Side::Dst => End { addr: &segment.dst, port: segment.dst_port },
        };
        let has_ack = segment.has(flags::ACK);
        let rewrite = Rewrite {
            side: self.side,
            end: (old, self.end),
            seq: self.seq.map(|delta| (segment.seq, segment.seq.wrapping_add(delta))),
            ack: self.ack.map(|delta| {
                (segment.ack, segment.ack.wrapping_add(if has_ack { delta } else { 0 }))
            }),
            window: Some((segment.window, rescale(segment.window, self.scale.0, self.scale.1))),
        };
        let changed = rewrite.apply::<TCP_LEN>(packet, Place::of(segment))?;
        Some(Changed { header: in_options.plus(changed.header), ..changed })
    }
}

/// A window in another scale. Rounded down: never promise more than its sender did.
#[inline(always)]
pub const fn rescale(window: u16, from: u8, to: u8) -> u16 {
    if from == to {
        return window;
    }
    let scaled = ((window as u32) << (from & 15)) >> (to & 15);
    if scaled > 0xffff { 0xffff } else { scaled as u16 }
}
