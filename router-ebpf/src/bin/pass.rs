//! A program that passes every packet: what the benchmarks compare with, and what the far end of a
//! test veth needs so that frames sent by XDP_TX arrive (drivers/net/veth.c, `veth_xdp_flush`).
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "the public items are what the macros make")]

#[cfg(target_arch = "bpf")]
#[path = "../hooks/root.rs"]
mod root;

#[cfg(target_arch = "bpf")]
mod pass {
    use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

    #[xdp]
    pub fn roost_pass(_: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    // Built for the host only by tools that build everything: the program is for the kernel.
}
