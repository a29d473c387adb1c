//! A frame at XDP.

use core::arch::asm;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes},
    programs::XdpContext,
};
use router_ebpf::{checksum::Sum, maps::STASH_LEN, packet::Packet};

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
        unsafe { (pointer(&raw const (*self.ctx).data), pointer(&raw const (*self.ctx).data_end)) }
    }
}

/// Reads one of the packet pointers of a context, which look like 32-bit numbers there. Each time
/// anew: LLVM would move a kept one as the 32 bits it believes it to be, which breaks a pointer.
///
/// # Safety
///
/// `field` must be valid.
#[inline(always)]
pub unsafe fn pointer(field: *const u32) -> usize {
    // SAFETY: the caller vouches for it.
    unsafe { field.read_volatile() as usize }
}

/// The largest offset of a byte in a packet; the verifier wants to see one.
const LARGEST: usize = 0x3fff;

/// The same offset, with its bound on the very register that is added to a pointer: before Linux 6.9
/// a comparison tells the verifier nothing about a copy on the stack, and LLVM may add that one.
#[inline(always)]
fn bounded(offset: usize) -> usize {
    let mut bounded = offset;
    // SAFETY: one instruction of arithmetic, which LLVM would remove as superfluous if it knew it.
    unsafe {
        asm!("{0} &= {1}", inout(reg) bounded, const LARGEST, options(pure, nomem, nostack));
    }
    bounded
}

/// A pointer to `N` bytes at `offset`, if they end before `end`.
#[inline(always)]
pub fn bytes_at<const N: usize>(data: usize, end: usize, offset: usize) -> Option<*mut [u8; N]> {
    if offset > LARGEST {
        return None;
    }
    let start = data + bounded(offset);
    // For one byte LLVM would make this `start >= end`, which the verifier does not understand.
    let limit = if N == 1 { core::hint::black_box(start + N) } else { start + N };
    if limit > end {
        return None;
    }
    Some(start as *mut [u8; N])
}

/// A length for a helper, in 1..=STASH_LEN: masked in a way that keeps both bounds visible to the
/// verifier, which LLVM would remove as superfluous.
#[inline(always)]
pub fn helper_len(len: usize) -> Option<u32> {
    if len == 0 || len > STASH_LEN {
        return None;
    }
    Some((core::hint::black_box(len as u32 - 1) & (STASH_LEN as u32 - 1)) + 1)
}

impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> usize {
        let (data, end) = self.bounds();
        end - data
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
        // Not to be mixed with the arithmetic of pointers, which the verifier forbids in 32 bits.
        let delta = len as i32 - core::hint::black_box(self.len()) as i32;
        // SAFETY: the context is valid while the program runs.
        let result = unsafe { bpf_xdp_adjust_tail(self.ctx, delta) };
        (result == 0).then_some(())
    }

    /// Only what leaves is copied.
    #[inline(always)]
    fn duplicate(&mut self) -> Option<()> {
        None
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: &mut [u8; STASH_LEN], len: usize) -> Option<()> {
        let len = helper_len(len)?;
        // SAFETY: `to` has room for STASH_LEN bytes, and `len` is not more.
        let result =
            unsafe { bpf_xdp_load_bytes(self.ctx, offset as u32, to.as_mut_ptr().cast(), len) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, from: &[u8; STASH_LEN], len: usize) -> Option<()> {
        let len = helper_len(len)?;
        // SAFETY: `from` has STASH_LEN bytes, and `len` is not more; the helper only reads them.
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
