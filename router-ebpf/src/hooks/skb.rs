//! A socket buffer at TC: paged, cloned, and with a checksum that may be partial.

use core::ptr;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup as FibLookup,
    },
    helpers::{
        bpf_clone_redirect, bpf_fib_lookup, bpf_l4_csum_replace, bpf_skb_adjust_room,
        bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use router_ebpf::{
    checksum::Sum,
    maps::{Addr, PART},
    packet::{Envelope, Packet, Room},
    verifier::{bytes_at, helper_len, packet_pointer},
    wire::is_mapped,
};

/// To the interface's own input.
pub const BPF_F_INGRESS: u64 = 1;
const BPF_F_PSEUDO_HDR: u64 = 0x10;

pub struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            (
                packet_pointer(&raw const (*self.skb).data),
                packet_pointer(&raw const (*self.skb).data_end),
            )
        }
    }

    /// Makes room behind the link-layer header, or takes it away. What was merged keeps the sizes of its
    /// segments.
    #[inline(always)]
    fn adjust_room(&mut self, by: i32, flags: u32) -> Option<()> {
        let flags = (flags | BPF_F_ADJ_ROOM_FIXED_GSO) as u64;
        // SAFETY: the context is valid while the program runs.
        let result = unsafe { bpf_skb_adjust_room(self.skb, by, BPF_ADJ_ROOM_MAC, flags) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        let (data, end) = self.bounds();
        bytes_at(data, end, offset)
    }
}

/// In words of `struct bpf_fib_lookup`: the interface, and the destination.
const FIB_LEN: usize = 1;
const FIB_INDEX: usize = 2;
const FIB_DST: usize = 8;
const _: () = assert!(size_of::<Room>() == size_of::<FibLookup>());

/// The question by which interface what comes by another one is routed, as a `struct bpf_fib_lookup`.
#[inline(always)]
fn question(from: u32, to: &Addr) -> Room {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    let mut room = [0; 16];
    let word = |at: usize| u32::from_ne_bytes([to[at], to[at + 1], to[at + 2], to[at + 3]]);
    // The answer's length, as far as it matters: without one the kernel asks whether the way takes a packet as long as the one
    // in hand, and it may be longer than what comes back by it (the kernel looks at no MTU on the way in).
    let [a, b] = 1u16.to_ne_bytes();
    room[FIB_LEN] = u32::from_ne_bytes([0, 0, a, b]);
    room[FIB_INDEX] = from;
    if is_mapped(to) {
        room[0] = u32::from_le(AF_INET);
        room[FIB_DST] = word(12);
    } else {
        room[0] = u32::from_le(AF_INET6);
        for at in 0..4 {
            room[FIB_DST + at] = word(at * 4);
        }
    }
    room
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).gso_size != 0 }
    }

    const KNOWS_CHECKSUM: bool = true;

    /// Nothing in the context tells. But what is said of a change in the segment alone moves a finished checksum and no other: so
    /// one is said, and taken back.
    #[inline(always)]
    fn is_unfinished(&mut self, offset: usize) -> Option<bool> {
        let before: [u8; 2] = self.read(offset)?;
        // SAFETY: the context is valid while the program runs.
        if unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, 1, 0) } != 0 {
            return None;
        }
        let after: [u8; 2] = self.read(offset)?;
        self.write(offset, &before)?;
        Some(before == after)
    }

    #[inline(always)]
    fn link(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn route(&mut self, from: u32, to: &Addr, room: &mut Room) -> Option<u32> {
        *room = question(from, to);
        let len = size_of::<Room>() as i32;
        // SAFETY: the context is valid while the program runs; `room` is as large as the kernel's struct and aligned as it, and of
        // plain numbers.
        let result = unsafe { bpf_fib_lookup(self.skb.cast(), ptr::from_mut(room).cast(), len, 0) };
        // Whether there is a neighbour by now does not matter.
        matches!(result as u32, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH)
            .then_some(room[FIB_INDEX])
    }

    /// Headers in a page fragment would look like a packet that is cut short. No more is pulled than
    /// asked for: most buffers have just their headers in the linear part, and a copy costs more than
    /// all else that happens to them here.
    #[inline(always)]
    fn reach(&mut self, len: usize) {
        let (data, end) = self.bounds();
        if data + len > end {
            let most = self.len();
            // SAFETY: the context is valid while the program runs. Without success the views fail.
            unsafe { bpf_skb_pull_data(self.skb, len.min(most) as u32) };
        }
    }

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: `at` has checked that all bytes are there, and they stay until the next resize,
        // which needs this packet for itself.
        self.at(offset).map(|bytes| unsafe { &*bytes })
    }

    #[inline(always)]
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as above.
        self.at(offset).map(|bytes| unsafe { &mut *bytes })
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Option<()> {
        // SAFETY: the context is valid while the program runs.
        let result = unsafe { bpf_skb_change_tail(self.skb, len as u32, 0) };
        (result == 0).then_some(())
    }

    /// The kernel is told what the envelope is, so that devices can split what it was merged from.
    #[inline(always)]
    fn grow_head(&mut self, envelope: Envelope) -> Option<()> {
        let outer = if envelope.outer_v6 {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
        } else {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        };
        self.adjust_room(envelope.len as i32, outer | BPF_F_ADJ_ROOM_ENCAP_L4_UDP)
    }

    #[inline(always)]
    fn shrink_head(&mut self, envelope: Envelope) -> Option<()> {
        // Linux knows these since 6.3; it needs them for another family only.
        let inner = match (envelope.outer_v6, envelope.inner_v6) {
            (false, true) => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
            (true, false) => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
            _ => 0,
        };
        self.adjust_room(-(envelope.len as i32), inner)
    }

    #[inline(always)]
    fn duplicate(&mut self) -> Option<()> {
        // SAFETY: the context is valid while the program runs; the helper takes plain numbers.
        let result = unsafe { bpf_clone_redirect(self.skb, (*self.skb).ifindex, BPF_F_INGRESS) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: &mut [u8; PART], len: usize) -> Option<()> {
        let len = helper_len(len)?;
        // SAFETY: `to` has room for PART bytes, and `len` is not more.
        let result = unsafe {
            bpf_skb_load_bytes(self.skb.cast(), offset as u32, to.as_mut_ptr().cast(), len)
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, from: &[u8; PART], len: usize) -> Option<()> {
        let len = helper_len(len)?;
        // SAFETY: `from` has PART bytes, and `len` is not more.
        let result =
            unsafe { bpf_skb_store_bytes(self.skb, offset as u32, from.as_ptr().cast(), len, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn update_l4_checksum(&mut self, offset: usize, pseudo: Sum, body: Sum) -> Option<()> {
        // A partial checksum covers the pseudo-header only, and the helper knows.
        let (skb, offset) = (self.skb, offset as u32);
        let (pseudo, body) = (pseudo.fold() as u64, body.fold() as u64);
        // SAFETY: the context is valid while the program runs.
        let results = unsafe {
            (
                bpf_l4_csum_replace(skb, offset, 0, pseudo, BPF_F_PSEUDO_HDR),
                bpf_l4_csum_replace(skb, offset, 0, body, 0),
            )
        };
        (results == (0, 0)).then_some(())
    }
}
