//! A flood for a test network, and what takes it off: `flood_make` makes frames out of a template and sends
//! them through an interface, when it is run on live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`); `flood_sink` drops
//! the answers where they arrive, `flood_drop` everything.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "the public items are what the macros make")]

#[cfg(target_arch = "bpf")]
#[path = "../hooks/root.rs"]
mod root;

#[cfg(target_arch = "bpf")]
mod flood {
    use core::ptr::{read_unaligned, read_volatile, write_unaligned};

    use aya_ebpf::{
        bindings::xdp_action,
        helpers::{bpf_get_prandom_u32, bpf_redirect, bpf_xdp_adjust_tail},
        macros::xdp,
        programs::XdpContext,
    };

    /// The first two bytes of the template: behind them everything is aligned.
    #[unsafe(no_mangle)]
    static HEAD: u16 = 0;
    /// The rest of it: Ethernet, IPv4 without options, TCP. What is random is zero, in the checksums, too.
    #[unsafe(no_mangle)]
    static WORDS: [u32; 64] = [0; 64];
    /// The interface that frames leave by.
    #[unsafe(no_mangle)]
    static DEVICE: u32 = 0;
    /// The first half of the addresses that frames come from.
    #[unsafe(no_mangle)]
    static SOURCES: [u8; 2] = [0; 2];

    /// Bytes that a frame has at first behind those of the template.
    const EXCESS: i32 = 4;
    const IP: usize = 14;
    const IP_SUM: usize = IP + 10;
    const SOURCE: usize = IP + 12;
    const DESTINATION: usize = IP + 16;
    const TCP: usize = IP + 20;
    const SEQ: usize = TCP + 4;
    const ACK: usize = TCP + 8;
    const TCP_SUM: usize = TCP + 16;

    #[xdp]
    pub fn flood_make(ctx: XdpContext) -> u32 {
        // The kernel keeps the length that the receiver has left, unless this program changes it, too
        // (net/bpf/test_run.c, `frame_was_changed`).
        // SAFETY: the context is valid while the program runs.
        let shortened = unsafe { bpf_xdp_adjust_tail(ctx.ctx, -EXCESS) };
        if shortened != 0 || make(ctx.data(), ctx.data_end()).is_none() {
            return xdp_action::XDP_ABORTED;
        }
        // SAFETY: its arguments are numbers.
        unsafe { bpf_redirect(read_volatile(&raw const DEVICE), 0) as u32 }
    }

    /// All of it anew: a frame that was sent comes back as the receiver has left it.
    #[inline(always)]
    fn make(data: usize, end: usize) -> Option<()> {
        if data + TCP + 20 > end {
            return None;
        }
        // SAFETY: each write is in front of the end.
        unsafe {
            write_unaligned(data as *mut u16, read_volatile(&raw const HEAD));
            let words = (&raw const WORDS).cast::<u32>();
            for n in 0..64 {
                let at = data + 2 + 4 * n;
                if at + 4 > end {
                    break;
                }
                write_unaligned(at as *mut u32, read_volatile(words.add(n)));
            }
            let [ends, seq, ack] =
                [bpf_get_prandom_u32(), bpf_get_prandom_u32(), bpf_get_prandom_u32()];
            let (host, port) = (ends as u16, (ends >> 16) as u16);
            write_unaligned((data + SOURCE + 2) as *mut u16, host);
            write_unaligned((data + TCP) as *mut u16, port);
            write_unaligned((data + SEQ) as *mut u32, seq);
            write_unaligned((data + ACK) as *mut u32, ack);
            let host = u32::from(host);
            let halves = |word: u32| (word & 0xffff) + (word >> 16);
            add((data + IP_SUM) as *mut u16, host);
            add((data + TCP_SUM) as *mut u16, host + u32::from(port) + halves(seq) + halves(ack));
        }
        Some(())
    }

    /// Adds what was zero to a checksum (RFC 1624).
    ///
    /// # Safety
    /// `sum` may be read and written.
    #[inline(always)]
    unsafe fn add(sum: *mut u16, more: u32) {
        // SAFETY: as the caller says.
        let old = unsafe { read_unaligned(sum) };
        let mut new = u32::from(!old) + more;
        new = (new & 0xffff) + (new >> 16);
        new = (new & 0xffff) + (new >> 16);
        // SAFETY: as the caller says.
        unsafe { write_unaligned(sum, !(new as u16)) };
    }

    #[xdp]
    pub fn flood_sink(ctx: XdpContext) -> u32 {
        let (data, end) = (ctx.data(), ctx.data_end());
        if data + DESTINATION + 4 > end {
            return xdp_action::XDP_PASS;
        }
        // SAFETY: both are in front of the end.
        let (kind, to) = unsafe {
            let kind = read_unaligned((data + IP - 2) as *const [u8; 2]);
            (kind, read_unaligned((data + DESTINATION) as *const u16))
        };
        // SAFETY: it is only written before the program is loaded.
        let sources = unsafe { read_volatile((&raw const SOURCES).cast::<[u8; 2]>()) };
        if kind == [0x08, 0x00] && to == u16::from_ne_bytes(sources) {
            return xdp_action::XDP_DROP;
        }
        xdp_action::XDP_PASS
    }

    #[xdp]
    pub fn flood_drop(_: XdpContext) -> u32 {
        xdp_action::XDP_DROP
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    // Built for the host only by tools that build everything: the programs are for the kernel.
}
