//! A frame at XDP.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes},
    programs::XdpContext,
};
use router_ebpf::{
    checksum::Sum,
    maps::PART,
    packet::{Envelope, Packet, copy_link},
    verifier::{bytes_at, helper_len, opaque, packet_pointer},
};

pub struct Frame {
    ctx: *mut xdp_md,
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        let (data, end) = self.bounds();
        bytes_at(data, end, offset)
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            (
                packet_pointer(&raw const (*self.ctx).data),
                packet_pointer(&raw const (*self.ctx).data_end),
            )
        }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> usize {
        let (data, end) = self.bounds();
        // Not to be mixed with the arithmetic of pointers, which the verifier forbids in 32 bits.
        opaque(end - data)
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
        let delta = len as i32 - self.len() as i32;
        // SAFETY: the context is valid while the program runs.
        let result = unsafe { bpf_xdp_adjust_tail(self.ctx, delta) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn grow_head(&mut self, envelope: Envelope) -> Option<()> {
        let Envelope { l3, len, .. } = envelope;
        // SAFETY: the context is valid while the program runs.
        let result = unsafe { bpf_xdp_adjust_head(self.ctx, -(len as i32)) };
        if result != 0 {
            return None;
        }
        copy_link(self, l3, len, 0)
    }

    #[inline(always)]
    fn shrink_head(&mut self, envelope: Envelope) -> Option<()> {
        let Envelope { l3, len, .. } = envelope;
        copy_link(self, l3, 0, len)?;
        // SAFETY: the context is valid while the program runs.
        let result = unsafe { bpf_xdp_adjust_head(self.ctx, len as i32) };
        (result == 0).then_some(())
    }

    /// Only what leaves is copied.
    #[inline(always)]
    fn duplicate(&mut self) -> Option<()> {
        None
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: &mut [u8; PART], len: usize) -> Option<()> {
        let len = helper_len(len)?;
        // SAFETY: `to` has room for PART bytes, and `len` is not more.
        let result =
            unsafe { bpf_xdp_load_bytes(self.ctx, offset as u32, to.as_mut_ptr().cast(), len) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, from: &[u8; PART], len: usize) -> Option<()> {
        let len = helper_len(len)?;
        // SAFETY: `from` has PART bytes, and `len` is not more; the helper only reads them.
        let result = unsafe {
            bpf_xdp_store_bytes(self.ctx, offset as u32, from.as_ptr().cast_mut().cast(), len)
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn update_l4_checksum(&mut self, offset: usize, pseudo: Sum, body: Sum) -> Option<()> {
        // Whether it is finished is known to the caller; nothing in a frame tells.
        let old = self.read(offset)?;
        self.write(offset, &pseudo.plus(body).update(old))
    }
}
