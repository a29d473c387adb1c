//! Where a chat belongs, computed alike by the kernel programs, the daemon, the command line and
//! whatever has to agree with them: key hash, cookie, slot, and the replica that owns the slot. Pure.
//!
//! What the kernel programs need is `no_std`; the feature `std` adds slot tables.
#![no_std]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod cookie;
pub mod siphash;
#[cfg(feature = "std")]
pub mod slots;
