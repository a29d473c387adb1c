//! Headers, written from a value.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    checksum::{Sum, pseudo_header},
    maps::{Addr, Port},
    packet::Packet,
    segment::Segment,
    verifier::index,
    wire::{TCP_CHECK, TCP_LEN, protocol, unmapped},
};

const TTL: u8 = 64;

/// A TCP/IP header to be written in place of another one of the same family.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window field.
    pub window: u16,
    /// Flags.
    pub flags: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP options.
    pub options: Options,
}

/// Words of TCP options that we ever write: MSS, SACK permitted, timestamps, window scale.
pub const OPTIONS_WORDS: usize = 5;

/// TCP options to be written: words as they go onto the wire, zero behind `len`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The words, in network order.
    pub words: [[u8; 4]; OPTIONS_WORDS],
    /// How many words count.
    pub len: u32,
}

impl Options {
    /// No options.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.words = [[0; 4]; OPTIONS_WORDS];
        self.len = 0;
    }

    /// Appends a word; more than there is room for are never written.
    #[inline(always)]
    pub fn push(&mut self, word: [u8; 4]) {
        let at = index(self.len);
        if at < OPTIONS_WORDS {
            self.words[at] = word;
            self.len += 1;
        }
    }
}

impl Header {
    /// Length of the TCP header.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "no header is empty")]
    pub const fn len(&self) -> usize {
        TCP_LEN + (self.options.len & 7) as usize * 4
    }

    /// Addresses and ports for the way back to where `segment` came from; all else zero.
    #[inline(always)]
    pub fn answer(&mut self, segment: &Segment) {
        self.src = segment.dst;
        self.dst = segment.src;
        self.src_port = segment.dst_port;
        self.dst_port = segment.src_port;
        self.seq = 0;
        self.ack = 0;
        self.window = 0;
        self.flags = 0;
        self.ttl = TTL;
        self.options.clear();
    }

    /// Makes `segment` the one with this header and so many bytes of payload, which was written over it.
    #[inline(always)]
    pub fn becomes<P: Packet>(&self, packet: &P, segment: &mut Segment, len: u32) -> Option<()> {
        segment.src = self.src;
        segment.dst = self.dst;
        segment.src_port = self.src_port;
        segment.dst_port = self.dst_port;
        segment.seq = self.seq;
        segment.ack = self.ack;
        segment.flags = self.flags;
        segment.window = self.window;
        segment.header_len = self.len() as u32;
        segment.end = segment.l4 + segment.header_len + len;
        segment.check = packet.read(segment.l4() + TCP_CHECK)?;
        Some(())
    }

    /// Sum of the pseudo-header, with `payload_len` bytes behind this header.
    #[inline(always)]
    pub fn pseudo_sum(&self, payload_len: usize) -> Sum {
        let len = (self.len() + payload_len) as u32;
        pseudo_header(&self.src, &self.dst, protocol::TCP, len)
    }

    /// Sum of the TCP header, its checksum field counted as zero.
    #[inline(always)]
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::ZERO
            .add2(self.src_port)
            .add2(self.dst_port)
            .add4(self.seq.to_be_bytes())
            .add4(self.ack.to_be_bytes())
            .add2([self.data_offset(), self.flags])
            .add2(self.window.to_be_bytes());
        for word in self.options.words {
            sum = sum.add4(word);
        }
        sum
    }

    #[inline(always)]
    const fn data_offset(&self) -> u8 {
        ((self.len() / 4) << 4) as u8
    }

    /// Writes this header over the one of `segment`, for `payload_len` bytes of payload, with `check`
    /// as its TCP checksum field. The frame must have its final length already.
    #[inline(always)]
    pub fn write<P: Packet>(
        &self,
        packet: &mut P,
        segment: &Segment,
        payload_len: usize,
        check: [u8; 2],
    ) -> Option<()> {
        let len = (self.len() + payload_len) as u16;
        if segment.is_v6() {
            self.write_v6(packet, segment.l3(), len)?;
        } else {
            self.write_v4(packet, segment.l3(), len + Ipv4Hdr::LEN as u16)?;
        }
        let l4 = segment.l4();
        let h: &mut [u8; TCP_LEN] = packet.view_mut(l4)?;
        h[0..2].copy_from_slice(&self.src_port);
        h[2..4].copy_from_slice(&self.dst_port);
        h[4..8].copy_from_slice(&self.seq.to_be_bytes());
        h[8..12].copy_from_slice(&self.ack.to_be_bytes());
        h[12] = self.data_offset();
        h[13] = self.flags;
        h[14..16].copy_from_slice(&self.window.to_be_bytes());
        h[16..18].copy_from_slice(&check);
        h[18..20].copy_from_slice(&[0, 0]);
        for at in 0..OPTIONS_WORDS {
            if at as u32 >= self.options.len {
                break;
            }
            packet.write(l4 + TCP_LEN + at * 4, &self.options.words[at])?;
        }
        Some(())
    }

    #[inline(always)]
    fn write_v4<P: Packet>(&self, packet: &mut P, l3: usize, len: u16) -> Option<()> {
        let [l0, l1] = len.to_be_bytes();
        let (src, dst) = (unmapped(&self.src), unmapped(&self.dst));
        // Don't fragment, identification zero (RFC 6864 section 4.1).
        let sum = Sum::ZERO
            .add4([0x45, 0, l0, l1])
            .add4([0, 0, 0x40, 0])
            .add2([self.ttl, protocol::TCP])
            .add4(src)
            .add4(dst);
        let h: &mut [u8; Ipv4Hdr::LEN] = packet.view_mut(l3)?;
        h[0..4].copy_from_slice(&[0x45, 0, l0, l1]);
        h[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
        h[8..10].copy_from_slice(&[self.ttl, protocol::TCP]);
        h[10..12].copy_from_slice(&sum.checksum());
        h[12..16].copy_from_slice(&src);
        h[16..20].copy_from_slice(&dst);
        Some(())
    }

    #[inline(always)]
    fn write_v6<P: Packet>(&self, packet: &mut P, l3: usize, len: u16) -> Option<()> {
        let [l0, l1] = len.to_be_bytes();
        let h: &mut [u8; Ipv6Hdr::LEN] = packet.view_mut(l3)?;
        h[0..4].copy_from_slice(&[0x60, 0, 0, 0]);
        h[4..8].copy_from_slice(&[l0, l1, protocol::TCP, self.ttl]);
        h[8..24].copy_from_slice(&self.src);
        h[24..40].copy_from_slice(&self.dst);
        Some(())
    }
}
