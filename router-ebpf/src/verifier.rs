//! Tricks that satisfy the kernel's verifier, and keep LLVM from undoing it. Each changes nothing about
//! what is computed. ARCHITECTURE.md ("How the verifier is satisfied") tells of the rest.

use core::hint::{assert_unchecked, black_box};

use crate::maps::PART;

/// The value as memory has it, which may be any to the verifier and to LLVM, though one was just written.
///
/// For what a branch depends on, if a constant would go there across a call of a function: Linux 6.1 may
/// take the constant of one way for that of all, and then removes the other branch (ARCHITECTURE.md). And
/// for where a walk is: the many ways that lead there become one.
#[inline(always)]
pub fn reread<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is aligned, and leads to a value that may be read.
    unsafe { core::ptr::from_ref(value).read_volatile() }
}

/// The same value, of which LLVM knows nothing. With a reference: its fields are read anew, and not kept
/// on the stack, of which there are 512 bytes.
#[inline(always)]
pub fn opaque<T>(value: T) -> T {
    black_box(value)
}

/// A place in an array, to be compared with the array's length. LLVM would remove a comparison that it has
/// proved superfluous, and with it what the verifier needs to see.
#[inline(always)]
pub fn index(number: u32) -> usize {
    black_box(number) as usize
}

/// A place below `ROOM`, a power of two, by a mask instead of a comparison.
#[inline(always)]
pub fn masked<const ROOM: usize>(number: u32) -> usize {
    const { assert!(ROOM.is_power_of_two()) };
    black_box(number as usize) & (ROOM - 1)
}

/// A length for a helper, in 1..=[`PART`], with both bounds visible.
#[inline(always)]
pub fn helper_len(len: usize) -> Option<u32> {
    if len == 0 || len > PART {
        return None;
    }
    Some((black_box(len as u32 - 1) & (PART as u32 - 1)) + 1)
}

/// Zeroes what stands behind `len` up to the next multiple of eight, for those who read whole words.
#[inline(always)]
pub fn pad(bytes: &mut [u8; PART], len: u32) {
    // One word, not its bytes: each store of a byte would be a branch.
    if let Some(word) = bytes.as_chunks_mut().0.get_mut(index(len / 8)) {
        let behind = u64::MAX << (len % 8 * 8);
        *word = (u64::from_le_bytes(*word) & !behind).to_le_bytes();
    }
}

/// One of the packet pointers of a context, which look like 32-bit numbers there. Each time anew: LLVM
/// would move a kept one as the 32 bits it believes it to be, which breaks a pointer.
///
/// # Safety
///
/// `field` must be valid.
#[inline(always)]
pub unsafe fn packet_pointer(field: *const u32) -> usize {
    // SAFETY: the caller vouches for it.
    unsafe { field.read_volatile() as usize }
}

/// The largest offset of a byte in a packet; the verifier wants to see one.
const LARGEST: usize = 0x3fff;

/// A pointer to `N` bytes at `offset` in a packet, if they end before `end`.
#[inline(always)]
pub fn bytes_at<const N: usize>(data: usize, end: usize, offset: usize) -> Option<*mut [u8; N]> {
    if offset > LARGEST {
        return None;
    }
    let start = data + bounded(offset);
    // SAFETY: no packet is at address zero. LLVM would ask, to tell `Some` from `None`.
    unsafe { assert_unchecked(start != 0) };
    // For one byte LLVM would make this `start >= end`, which the verifier does not understand.
    let limit = if N == 1 { black_box(start + N) } else { start + N };
    if limit > end {
        return None;
    }
    Some(start as *mut [u8; N])
}

/// The same offset, with its bound on the very register that is added to a pointer: before Linux 6.9
/// a comparison tells the verifier nothing about a copy on the stack, and LLVM may add that one.
#[inline(always)]
fn bounded(offset: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut bounded = offset;
        // SAFETY: one instruction of arithmetic, which LLVM would remove as superfluous if it knew it.
        unsafe {
            core::arch::asm!(
                "{0} &= {1}",
                inout(reg) bounded,
                const LARGEST,
                options(pure, nomem, nostack)
            );
        }
        bounded
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        offset & LARGEST
    }
}
