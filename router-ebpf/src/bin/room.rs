//! Programs that make room at the head and at the tail of a packet and take it away again: for a test of
//! what the data path's packets can do, which no program of Roost does yet.
//!
//! The frame has no VLAN tag, and the packet in it is of the family that its ethertype says.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "the public items are what the macros make")]

#[cfg(target_arch = "bpf")]
#[path = "../hooks/frame.rs"]
mod frame;
#[cfg(target_arch = "bpf")]
#[path = "../hooks/root.rs"]
mod root;
#[cfg(target_arch = "bpf")]
#[path = "../hooks/skb.rs"]
mod skb;

#[cfg(target_arch = "bpf")]
mod room {
    use aya_ebpf::{
        bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
        macros::{classifier, xdp},
        programs::{TcContext, XdpContext},
    };
    use router_ebpf::packet::{Envelope, Packet};

    use crate::{frame::Frame, skb::Skb};

    const LINK: usize = 14;
    /// Room for IPv4, UDP and Geneve without options.
    const OUTER: usize = 20 + 8 + 8;
    /// What is added at the tail.
    const TAIL: usize = 12;

    #[inline(always)]
    fn envelope(packet: &impl Packet) -> Option<Envelope> {
        let is_v6 = packet.read(LINK - 2)? == [0x86, 0xdd];
        Some(Envelope { l3: LINK, len: OUTER, outer_v6: is_v6, inner_v6: is_v6 })
    }

    #[inline(always)]
    fn grow(packet: &mut impl Packet) -> Option<()> {
        // In this order: the kernel does not let the tail of a socket buffer grow that has an envelope.
        let len = packet.len();
        packet.resize(len + TAIL)?;
        let envelope = envelope(packet)?;
        packet.grow_head(envelope)?;
        packet.reach(LINK + OUTER);
        for at in (LINK..LINK + OUTER).step_by(4) {
            packet.write(at, &[0xa5; 4])?;
        }
        Some(())
    }

    #[inline(always)]
    fn shrink(packet: &mut impl Packet) -> Option<()> {
        packet.reach(LINK + OUTER);
        let envelope = envelope(packet)?;
        packet.shrink_head(envelope)?;
        let len = packet.len();
        packet.resize(len.checked_sub(TAIL)?)
    }

    #[xdp]
    pub fn room_grow_xdp(ctx: XdpContext) -> u32 {
        xdp_action(grow(&mut Frame::new(&ctx)))
    }

    #[xdp]
    pub fn room_shrink_xdp(ctx: XdpContext) -> u32 {
        xdp_action(shrink(&mut Frame::new(&ctx)))
    }

    #[classifier]
    pub fn room_grow_tc(ctx: TcContext) -> i32 {
        tc_action(grow(&mut Skb::new(&ctx)))
    }

    #[classifier]
    pub fn room_shrink_tc(ctx: TcContext) -> i32 {
        tc_action(shrink(&mut Skb::new(&ctx)))
    }

    #[inline(always)]
    fn xdp_action(done: Option<()>) -> u32 {
        if done.is_some() { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
    }

    #[inline(always)]
    fn tc_action(done: Option<()>) -> i32 {
        if done.is_some() { TC_ACT_OK } else { TC_ACT_SHOT }
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    // Built for the host only by tools that build everything: the programs are for the kernel.
}
