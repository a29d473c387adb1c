//! Words in map values that several CPUs change. The BPF target of rustc has no `AtomicU32` and
//! none of the operations that both read and write, though every kernel since 5.12 has them; so those
//! that are needed are called by their intrinsics there.

/// Tries something that ends in a compare-and-swap until it is `Some`. More losses in a row than
/// these do not happen: each is another CPU's success on the same word in the same nanoseconds. It
/// is no loop, because the verifier walks through a loop's body with every state of the map.
macro_rules! try_some {
    ($attempt:expr) => {
        $attempt
            .or_else(|| $attempt)
            .or_else(|| $attempt)
            .or_else(|| $attempt)
            .or_else(|| $attempt)
            .or_else(|| $attempt)
            .or_else(|| $attempt)
            .or_else(|| $attempt)
    };
}
pub(crate) use try_some;

macro_rules! compare_and_swap {
    ($name:ident, $word:ty, $atomic:ident) => {
        /// Writes `new` if the word is `old`, and returns whether it was.
        ///
        /// # Safety
        ///
        /// The pointer must be valid and aligned, and all other writers must be atomic.
        #[inline(always)]
        pub unsafe fn $name(word: *mut $word, old: $word, new: $word) -> bool {
            #[cfg(target_arch = "bpf")]
            {
                use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
                // SAFETY: the caller vouches for the pointer.
                unsafe { atomic_cxchg::<_, { SeqCst }, { SeqCst }>(word, old, new).1 }
            }
            #[cfg(not(target_arch = "bpf"))]
            {
                use core::sync::atomic::{Ordering::SeqCst, $atomic};
                // SAFETY: the caller vouches for the pointer.
                unsafe { $atomic::from_ptr(word) }
                    .compare_exchange(old, new, SeqCst, SeqCst)
                    .is_ok()
            }
        }
    };
}

compare_and_swap!(swap_u32, u32, AtomicU32);
compare_and_swap!(swap_u64, u64, AtomicU64);

macro_rules! fetch {
    ($(#[doc = $doc:literal])+ $name:ident, $word:ty, $intrinsic:ident, $atomic:ident::$method:ident) => {
        $(#[doc = $doc])+
        ///
        /// # Safety
        ///
        /// The pointer must be valid and aligned, and all other writers must be atomic.
        #[inline(always)]
        pub unsafe fn $name(word: *mut $word, by: $word) -> $word {
            #[cfg(target_arch = "bpf")]
            {
                use core::intrinsics::{AtomicOrdering::SeqCst, $intrinsic};
                // SAFETY: the caller vouches for the pointer.
                unsafe { $intrinsic::<_, _, { SeqCst }>(word, by) }
            }
            #[cfg(not(target_arch = "bpf"))]
            {
                use core::sync::atomic::{Ordering::SeqCst, $atomic};
                // SAFETY: the caller vouches for the pointer.
                unsafe { $atomic::from_ptr(word) }.$method(by, SeqCst)
            }
        }
    };
}

fetch! {
    /// Sets bits and returns the word before.
    fetch_or_u32, u32, atomic_or, AtomicU32::fetch_or
}
fetch! {
    /// Keeps bits and returns the word before.
    fetch_and_u32, u32, atomic_and, AtomicU32::fetch_and
}
fetch! {
    /// Sets bits and returns the word before.
    fetch_or_u64, u64, atomic_or, AtomicU64::fetch_or
}
fetch! {
    /// Turns bits over and returns the word before.
    fetch_xor_u64, u64, atomic_xor, AtomicU64::fetch_xor
}
fetch! {
    /// Adds, modulo 2^32, and returns the word before.
    fetch_add_u32, u32, atomic_xadd, AtomicU32::fetch_add
}
fetch! {
    /// Adds, modulo 2^64, and returns the word before.
    fetch_add_u64, u64, atomic_xadd, AtomicU64::fetch_add
}
