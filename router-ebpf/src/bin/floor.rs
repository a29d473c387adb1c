//! The least that a program like Roost's can do with a packet: parse it, look its connection up in a hash
//! map by 36 bytes, pass it. What the benchmarks compare an established packet with.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "the public items are what the macros make")]

#[cfg(target_arch = "bpf")]
#[path = "../hooks/root.rs"]
mod root;

#[cfg(target_arch = "bpf")]
mod floor {
    use core::ptr::read_unaligned;

    use aya_ebpf::{
        bindings::{BPF_F_NO_PREALLOC, TC_ACT_OK, TC_ACT_SHOT, xdp_action},
        macros::{classifier, map, xdp},
        maps::HashMap,
        programs::{TcContext, XdpContext},
    };

    const LINK: usize = 14;
    /// Of IPv4 without options.
    const V4: usize = 20;
    const V6: usize = 40;
    const TCP: u8 = 6;

    /// Both ends as the packet has them: IPv4 mapped, as in Roost's own maps.
    #[repr(C)]
    struct Key {
        src: [u32; 4],
        dst: [u32; 4],
        ports: u32,
    }

    #[map]
    static FLOOR: HashMap<Key, u64> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

    #[xdp]
    pub fn floor_xdp(ctx: XdpContext) -> u32 {
        if is_known(ctx.data(), ctx.data_end()) {
            xdp_action::XDP_PASS
        } else {
            xdp_action::XDP_DROP
        }
    }

    #[classifier]
    pub fn floor_tc(ctx: TcContext) -> i32 {
        if is_known(ctx.data(), ctx.data_end()) { TC_ACT_OK } else { TC_ACT_SHOT }
    }

    #[inline(always)]
    fn is_known(data: usize, end: usize) -> bool {
        key(data, end).is_some_and(|key| FLOOR.get_ptr(&key).is_some())
    }

    #[inline(always)]
    fn key(data: usize, end: usize) -> Option<Key> {
        if data + LINK + V4 + 4 > end {
            return None;
        }
        // SAFETY: all that is read up to the ports of IPv4 is in front of the end.
        unsafe {
            let word = |offset: usize| read_unaligned((data + LINK + offset) as *const u32);
            match read_unaligned((data + LINK - 2) as *const [u8; 2]) {
                [0x08, 0x00] => {
                    let begin = *((data + LINK) as *const u8);
                    let protocol = *((data + LINK + 9) as *const u8);
                    if begin != 0x45 || protocol != TCP {
                        return None;
                    }
                    let mapped = 0xffff_u32.to_be();
                    Some(Key {
                        src: [0, 0, mapped, word(12)],
                        dst: [0, 0, mapped, word(16)],
                        ports: word(V4),
                    })
                }
                [0x86, 0xdd] => {
                    let protocol = *((data + LINK + 6) as *const u8);
                    if data + LINK + V6 + 4 > end || protocol != TCP {
                        return None;
                    }
                    Some(Key {
                        src: [word(8), word(12), word(16), word(20)],
                        dst: [word(24), word(28), word(32), word(36)],
                        ports: word(V6),
                    })
                }
                _ => None,
            }
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    // Built for the host only by tools that build everything: the programs are for the kernel.
}
