//! The timer of the clock hand. It is armed by the daemon, which runs [`roost_clock`] once by
//! `BPF_PROG_TEST_RUN`, and goes on without one, for as long as `CLOCK` is pinned.

use aya_ebpf::{
    bindings::{bpf_timer, xdp_action},
    btf_maps::Array,
    cty::c_void,
    helpers::{bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use router_ebpf::{
    hand::{Chats, Flows, Heads, LOOKS, When},
    scratch::Scratch,
    tables::FlowTables as _,
};

use super::maps::{self, KernelTables};

/// Between two steps, in nanoseconds.
const INTERVAL: u64 = 50_000_000;
/// `CLOCK_MONOTONIC`.
const MONOTONIC: u64 = 1;

/// The clock: a timer is only in maps whose types are told in BTF.
#[repr(C)]
pub struct Clock {
    timer: bpf_timer,
}

#[btf_map]
static CLOCK: Array<Clock, 1, 0> = Array::new();

/// A step of the clock.
unsafe extern "C" fn tick(_: *mut c_void, _: *mut u32, clock: *mut Clock) -> i64 {
    look(When::Due);
    // SAFETY: the kernel calls this with the value that the timer is in.
    unsafe { bpf_timer_start(&raw mut (*clock).timer, INTERVAL, 0) };
    0
}

#[inline(always)]
fn look(when: When) {
    if let Some(Scratch { turn, last, .. }) = maps::scratch(maps::CLOCK) {
        KernelTables.repeat(LOOKS, &mut Flows(&KernelTables, when, turn, last));
        KernelTables.repeat(LOOKS, &mut Chats(&KernelTables, when, turn));
        KernelTables.repeat(LOOKS, &mut Heads(&KernelTables, when, turn, last));
    }
}

/// Arms the timer.
#[xdp]
pub fn roost_clock(_: XdpContext) -> u32 {
    let Some(clock) = CLOCK.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let tick: unsafe extern "C" fn(*mut c_void, *mut u32, *mut Clock) -> i64 = tick;
    // SAFETY: the timer is in a value of this map, and the kernel refuses what is not in order.
    let armed = unsafe {
        let timer = &raw mut (*clock).timer;
        // Of one that was armed before, this says so, and nothing is lost.
        bpf_timer_init(timer, (&raw const CLOCK).cast_mut().cast(), MONOTONIC);
        bpf_timer_set_callback(timer, tick as *mut c_void) == 0
            && bpf_timer_start(timer, INTERVAL, 0) == 0
    };
    if armed { xdp_action::XDP_PASS } else { xdp_action::XDP_ABORTED }
}

/// Looks at flows, chats and heads at once, whoever's turn it is: a release that takes over, or the daemon when a
/// replica has left.
#[xdp]
pub fn roost_look(_: XdpContext) -> u32 {
    look(When::Now);
    xdp_action::XDP_PASS
}
