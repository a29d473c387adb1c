//! Where a chat belongs, computed alike by the kernel programs, the daemon, the command line and
//! whatever has to agree with them. Pure and `no_std`.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod siphash;
