//! The kernel programs: three hooks that turn a verdict into an XDP or TC action.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "the public items are what the macros make")]

#[cfg(target_arch = "bpf")]
mod hooks;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    // Built for the host only by tools that build everything: the programs are for the kernel.
}
