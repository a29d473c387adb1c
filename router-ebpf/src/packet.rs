//! What the pipeline needs of a packet, whatever holds it: an XDP frame, a socket buffer at TC, or
//! bytes in a test.

use crate::{
    checksum::Sum,
    maps::{Addr, PART},
};

/// Room for a question about a route: what is passed to the kernel is too large for the stack.
pub type Room = [u32; 16];

/// Headers around a packet: of IP, UDP and a tunnel, in front of the packet's own IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Offset of the frame's IP header, the same with the envelope and without: the length of the
    /// link-layer header, which is 14, or 4 or 8 more with one or two VLAN tags.
    pub l3: usize,
    /// Length of the envelope in bytes.
    pub len: usize,
    /// Whether its own IP header is IPv6.
    pub outer_v6: bool,
    /// Whether that of the packet in it is IPv6.
    pub inner_v6: bool,
}

/// Copies the link-layer header of `l3` bytes to another place, by pieces that fit into registers.
#[inline(always)]
pub fn copy_link(packet: &mut impl Packet, l3: usize, from: usize, to: usize) -> Option<()> {
    let macs: [[u8; 6]; 2] = [packet.read(from)?, packet.read(from + 6)?];
    let ethertype: [u8; 2] = packet.read(from + 12)?;
    let tags: [[u8; 4]; 2] = [
        if l3 > 14 { packet.read(from + 14)? } else { [0; 4] },
        if l3 > 18 { packet.read(from + 18)? } else { [0; 4] },
    ];
    packet.write(to, &macs[0])?;
    packet.write(to + 6, &macs[1])?;
    packet.write(to + 12, &ethertype)?;
    if l3 > 14 {
        packet.write(to + 14, &tags[0])?;
    }
    if l3 > 18 {
        packet.write(to + 18, &tags[1])?;
    }
    Some(())
}

/// A frame, from its Ethernet header to its end.
///
/// Reads and writes are bounds-checked, and `None` means that the frame ends before. The pipeline
/// never keeps a reference into a frame: resizing moves it.
#[expect(clippy::len_without_is_empty, reason = "no frame is empty")]
pub trait Packet {
    /// Length of the frame in bytes.
    fn len(&self) -> usize;

    /// Whether the kernel has merged it from several, or is to split it: then its checksum is to be finished by
    /// whoever splits it. False where nobody knows.
    #[inline(always)]
    fn is_merged(&self) -> bool {
        false
    }

    /// Whether [`Packet::update_l4_checksum`] knows by itself if a checksum is finished, and so does
    /// [`Packet::is_unfinished`]. Else it has to be told from what the field looks like.
    const KNOWS_CHECKSUM: bool = false;

    /// Whether the checksum whose field is at `offset` is to be finished by a device: then nobody has looked at it, and
    /// nobody has to. `None` where nobody knows.
    #[inline(always)]
    fn is_unfinished(&mut self, _offset: usize) -> Option<bool> {
        None
    }

    /// The link of this machine by which its client sent it; 0 if it came from outside.
    #[inline(always)]
    fn link(&self) -> u32 {
        0
    }

    /// By which interface what comes by the interface `from` would be routed to `to`. `None`: it would not be.
    #[inline(always)]
    fn route(&mut self, _from: u32, _to: &Addr, _room: &mut Room) -> Option<u32> {
        None
    }

    /// Makes the first `len` bytes viewable, where a packet may be in pieces. To be called before a
    /// view: it may move the packet.
    #[inline(always)]
    fn reach(&mut self, _len: usize) {}

    /// The `N` bytes at `offset`.
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// The `N` bytes at `offset`, to write.
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// Copies `N` bytes at `offset`: for a few, which fit into a register.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.view(offset).copied()
    }

    /// Overwrites `N` bytes at `offset`.
    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        *self.view_mut(offset)? = *bytes;
        Some(())
    }

    /// Cuts or extends the frame at its end.
    fn resize(&mut self, len: usize) -> Option<()>;

    /// Makes room for an envelope behind the link-layer header, which stays the beginning of the frame. What
    /// is in the room is not to be relied on. The link-layer header still tells the family of the inner
    /// packet. Before this is the moment to change the packet's end: at TC the kernel refuses it after.
    fn grow_head(&mut self, envelope: Envelope) -> Option<()>;

    /// Takes an envelope away again.
    fn shrink_head(&mut self, envelope: Envelope) -> Option<()>;

    /// Sends a copy of the frame as it is now back into the interface that it was about to leave.
    fn duplicate(&mut self) -> Option<()>;

    /// Copies `len` bytes (1..=[`PART`]) at `offset` to the front of `to`.
    fn load(&self, offset: usize, to: &mut [u8; PART], len: usize) -> Option<()>;

    /// Copies `len` bytes (1..=[`PART`]) from the front of `from` to `offset`.
    fn store(&mut self, offset: usize, from: &[u8; PART], len: usize) -> Option<()>;

    /// Brings the TCP or ICMPv6 checksum field at `offset` up to date with what was changed in the
    /// pseudo-header (`pseudo`) and in the segment (`body`).
    fn update_l4_checksum(&mut self, offset: usize, pseudo: Sum, body: Sum) -> Option<()>;
}
