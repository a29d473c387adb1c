//! The verdict table of each hook, and nothing else.

mod clock;
mod frame;
mod host;
mod maps;
mod root;
mod skb;

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::{bpf_redirect, bpf_redirect_neigh},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::{
    info,
    macro_support::{Level, level_enabled},
};
use router_ebpf::{
    maps::Link,
    scratch::Scratch,
    segment::Segment,
    shortcut::Short,
    stage::{Next, Stage},
    tables::{FlowTables as _, Tables as _},
    verdict::{Action, Counter},
    verifier::{index, reread},
};

use self::{
    frame::Frame,
    maps::{EGRESS_STAGES, INGRESS_STAGES, INSIDE_STAGES, KernelTables},
    skb::{BPF_F_INGRESS, Skb},
};

#[xdp]
pub fn roost_ingress(ctx: XdpContext) -> u32 {
    at_xdp(&ctx, Stage::Ingress)
}

#[xdp]
pub fn roost_care(ctx: XdpContext) -> u32 {
    at_xdp(&ctx, Stage::Care)
}

#[xdp]
pub fn roost_reuse(ctx: XdpContext) -> u32 {
    at_xdp(&ctx, Stage::Reuse)
}

#[xdp]
pub fn roost_open(ctx: XdpContext) -> u32 {
    at_xdp(&ctx, Stage::Open)
}

#[xdp]
pub fn roost_bind(ctx: XdpContext) -> u32 {
    at_xdp(&ctx, Stage::Bind)
}

#[classifier]
pub fn roost_inside(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::Ingress)
}

#[classifier]
pub fn roost_in_care(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::Care)
}

#[classifier]
pub fn roost_in_reuse(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::Reuse)
}

#[classifier]
pub fn roost_in_open(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::Open)
}

#[classifier]
pub fn roost_in_bind(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::Bind)
}

#[classifier]
pub fn roost_egress(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::Egress)
}

#[classifier]
pub fn roost_care_back(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::CareBack)
}

#[classifier]
pub fn roost_answer(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::Answer)
}

#[classifier]
pub fn roost_stay(ctx: TcContext) -> i32 {
    at_tc(&ctx, Stage::Stay)
}

/// From a client outside.
#[inline(always)]
fn at_xdp(ctx: &XdpContext, stage: Stage) -> u32 {
    let Some(scratch) = maps::scratch(maps::INGRESS) else {
        return xdp_action::XDP_PASS;
    };
    // Only what is passed goes a short way.
    let short = stage.run_short(&mut Frame::new(ctx), &KernelTables, scratch);
    if let Some(Short::Passed(verdict)) = short {
        KernelTables.count(verdict);
        return xdp_action::XDP_PASS;
    }
    if stage.is_first() {
        scratch.absent = (short == Some(Short::Absent)) as u32;
    }
    scratch.next = stage.run(&mut Frame::new(ctx), &KernelTables, scratch);
    let verdict = match reread(&scratch.next) {
        Next::Verdict(verdict) => verdict,
        Next::Stage(next) => {
            // SAFETY: nothing is left to be dropped here, and `scratch` is the next one's.
            unsafe { INGRESS_STAGES.tail_call(ctx, next as u32) };
            stage.fault()
        }
    };
    KernelTables.count(verdict);
    report(ctx, verdict, scratch);
    match verdict.action() {
        Some(Action::Pass) => xdp_action::XDP_PASS,
        Some(Action::Reply) => xdp_action::XDP_TX,
        Some(Action::Drop | Action::Turn) | None => xdp_action::XDP_DROP,
    }
}

/// From a client on this machine, or towards clients. What is passed is for others to judge, too: behind ours at ingress, and at
/// egress, where ours is the last at TCX, in filters of clsact, which come behind all of TCX, but only if nothing there has
/// decided.
#[inline(always)]
fn at_tc(ctx: &TcContext, stage: Stage) -> i32 {
    let (memory, stages) = match stage.first() {
        Stage::Egress => (maps::EGRESS, &EGRESS_STAGES),
        _ => (maps::INSIDE, &INSIDE_STAGES),
    };
    let Some(scratch) = maps::scratch(memory) else {
        return TC_ACT_UNSPEC;
    };
    // Only what is passed goes a short way.
    let short = stage.run_short(&mut Skb::new(ctx), &KernelTables, scratch);
    if let Some(Short::Passed(verdict)) = short {
        KernelTables.count(verdict);
        return TC_ACT_UNSPEC;
    }
    if stage.is_first() {
        scratch.absent = (short == Some(Short::Absent)) as u32;
    }
    scratch.next = stage.run(&mut Skb::new(ctx), &KernelTables, scratch);
    let verdict = match reread(&scratch.next) {
        Next::Verdict(verdict) => verdict,
        Next::Stage(next) => {
            // SAFETY: nothing is left to be dropped here, and `scratch` is the next one's.
            unsafe { stages.tail_call(ctx, next as u32) };
            stage.fault()
        }
    };
    KernelTables.count(verdict);
    report(ctx, verdict, scratch);
    let first = stage.first();
    match verdict.action() {
        Some(Action::Pass) => TC_ACT_UNSPEC,
        Some(Action::Reply) if first == Stage::Ingress => answer(ctx, scratch),
        Some(Action::Turn) if first == Stage::Egress => back(ctx, BPF_F_INGRESS),
        _ => TC_ACT_SHOT,
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
    let Some(name) = NAMES.get(index(verdict as u32)) else { return };
    // SAFETY: a name and spaces behind it.
    let name = unsafe { str::from_utf8_unchecked(name) };
    info!(
        ctx,
        "{} {:i} {} {:i} {}",
        name,
        segment.src,
        u16::from_be_bytes(segment.src_port),
        segment.dst,
        u16::from_be_bytes(segment.dst_port)
    );
}

/// Sends an answer to a client of this machine back out of its link. Where its way back is another interface, a bridge, the kernel
/// sends it there, to whom that names: by the port alone it would come to whoever has taken the address.
#[inline(always)]
fn answer(ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let link = unsafe { (*ctx.skb.skb).ifindex };
    scratch.link = link;
    match KernelTables.link(&scratch.link) {
        Some(way) if way != Link::UNCHECKED && way.by != link => {
            // SAFETY: the helper takes plain numbers; without parameters it asks routes and neighbours.
            unsafe { bpf_redirect_neigh(way.by, ptr::null_mut(), 0, 0) as i32 }
        }
        _ => back(ctx, 0),
    }
}

/// Sends a packet that came in back out of the interface, or one that was about to leave back in.
#[inline(always)]
fn back(ctx: &TcContext, flags: u64) -> i32 {
    // SAFETY: the context is valid while the program runs; the helper takes plain numbers.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, flags) as i32 }
}

/// The names of the counters, all of one length: else the verifier would follow each through all that is
/// written of an event.
static NAMES: [[u8; LONGEST]; Counter::COUNT] = {
    let mut names = [[b' '; LONGEST]; Counter::COUNT];
    let mut at = 0;
    while at < Counter::COUNT {
        let name = Counter::ALL[at].name().as_bytes();
        let mut byte = 0;
        while byte < name.len() {
            names[at][byte] = name[byte];
            byte += 1;
        }
        at += 1;
    }
    names
};

const LONGEST: usize = 24;
