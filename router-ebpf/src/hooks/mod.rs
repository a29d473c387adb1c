//! The verdict table of each hook, and nothing else.

mod frame;
mod maps;
mod skb;

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    helpers::bpf_redirect,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::{
    info,
    macro_support::{Level, level_enabled},
};
use router_ebpf::{
    egress::egress,
    ingress::ingress,
    scratch::Scratch,
    segment::Segment,
    tables::FlowTables as _,
    verdict::{Action, Counter},
    verifier::reread,
};

use self::{
    frame::Frame,
    maps::KernelTables,
    skb::{BPF_F_INGRESS, Skb},
};

/// From the client side.
#[xdp]
pub fn roost_ingress(ctx: XdpContext) -> u32 {
    let Some(scratch) = maps::scratch(maps::INGRESS) else {
        return xdp_action::XDP_PASS;
    };
    let verdict = ingress(&mut Frame::new(&ctx), &KernelTables, scratch);
    scratch.verdict = verdict;
    KernelTables.count(verdict);
    report(&ctx, verdict, scratch);
    match reread(&scratch.verdict).action() {
        Some(Action::Pass) => xdp_action::XDP_PASS,
        Some(Action::Reply) => xdp_action::XDP_TX,
        Some(Action::Drop | Action::Turn) | None => xdp_action::XDP_DROP,
    }
}

/// Towards the clients.
#[classifier]
pub fn roost_egress(ctx: TcContext) -> i32 {
    let Some(scratch) = maps::scratch(maps::EGRESS) else {
        return TC_ACT_OK;
    };
    let verdict = egress(&mut Skb::new(&ctx), &KernelTables, scratch);
    scratch.verdict = verdict;
    KernelTables.count(verdict);
    report(&ctx, verdict, scratch);
    match reread(&scratch.verdict).action() {
        Some(Action::Pass) => TC_ACT_OK,
        Some(Action::Turn) => turn(&ctx),
        Some(Action::Drop | Action::Reply) | None => TC_ACT_SHOT,
    }
}

/// Tells the daemon's log of a verdict, but not of those that every packet of a flow gets. The level
/// is a constant to the verifier, which removes all of this when events are off.
#[inline(always)]
fn report(ctx: &impl EbpfContext, verdict: Counter, scratch: &Scratch) {
    let usual = matches!(
        verdict,
        Counter::IngressPassed | Counter::EgressPassed | Counter::ToReplica | Counter::ToClient
    );
    if level_enabled(Level::Info) && !usual {
        log(ctx, verdict, &scratch.segment);
    }
}

#[inline(never)]
fn log(ctx: &impl EbpfContext, verdict: Counter, segment: &Segment) {
    info!(
        ctx,
        "{} {:i} {} {:i} {}",
        verdict.name(),
        segment.src,
        u16::from_be_bytes(segment.src_port),
        segment.dst,
        u16::from_be_bytes(segment.dst_port)
    );
}

/// Sends a packet that was about to leave back in, as if it had come from the client.
#[inline(always)]
fn turn(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs; the helper takes plain numbers.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, BPF_F_INGRESS) as i32 }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
