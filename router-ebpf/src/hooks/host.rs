//! Processes of this machine as clients: where they connect, and the device by which they do.

use core::{ops::Deref, ptr};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_sock_addr},
    helpers::bpf_get_netns_cookie,
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};
use router_ebpf::{
    host::{self, HostTables, Way},
    maps::{Addr, VipKey},
    tables::Tables as _,
};

use super::{
    maps::{self, KernelTables},
    skb::Skb,
};

const IPPROTO_TCP: u32 = 6;
/// A socket of Multipath TCP connects by one of TCP, and is asked itself whom it is connected to.
const IPPROTO_MPTCP: u32 = 262;
/// The system call goes on.
const GO_ON: i32 = 1;

#[classifier]
pub fn roost_host_out(ctx: TcContext) -> i32 {
    turn(&ctx, Way::Out)
}

#[classifier]
pub fn roost_host_back(ctx: TcContext) -> i32 {
    turn(&ctx, Way::Back)
}

/// Nothing else goes this way: it would come back for ever. Nor does what another one has sent here to be forwarded.
#[inline(always)]
fn turn(ctx: &TcContext, way: Way) -> i32 {
    // SAFETY: the context is valid while the program runs.
    if way == Way::Out && unsafe { (*ctx.skb.skb).ingress_ifindex } != 0 {
        return TC_ACT_SHOT;
    }
    // No other program of ours runs while this one does.
    let Some(scratch) = maps::scratch(maps::EGRESS) else { return TC_ACT_SHOT };
    match host::turn(&mut Skb::new(ctx), &KernelTables, &mut scratch.host, way) {
        Some(()) => TC_ACT_UNSPEC,
        None => TC_ACT_SHOT,
    }
}

#[cgroup_sock_addr(connect4)]
pub fn roost_connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Socket::v4);
    GO_ON
}

#[cgroup_sock_addr(connect6)]
pub fn roost_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Socket::v6);
    GO_ON
}

#[cgroup_sock_addr(getpeername4)]
pub fn roost_peer4(ctx: SockAddrContext) -> i32 {
    peer(&ctx, Socket::v4);
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
pub fn roost_peer6(ctx: SockAddrContext) -> i32 {
    peer(&ctx, Socket::v6);
    GO_ON
}

/// What a process connects to, if that is a VIP, becomes its stand-in. A socket that is bound to an address or an interface
/// would not be answered by the device, and stays as it is.
#[inline(always)]
fn connect(ctx: &SockAddrContext, of: impl Fn(*mut bpf_sock_addr) -> Socket) -> Option<()> {
    let socket = of(ctx.sock_addr).of_the_host(ctx)?;
    if !socket.is_free()? {
        return None;
    }
    let addr = socket.addr();
    KernelTables.vip(&addr.key(socket.port()))?;
    socket.set(&KernelTables.stand_in(addr.bytes())?);
    Some(())
}

/// What stands in for a VIP is shown as that.
#[inline(always)]
fn peer(ctx: &SockAddrContext, of: impl Fn(*mut bpf_sock_addr) -> Socket) -> Option<()> {
    let socket = of(ctx.sock_addr).of_the_host(ctx)?;
    socket.set(&KernelTables.stands_for(socket.addr().bytes())?);
    Some(())
}

/// An address in words: as bytes it would be anywhere on the stack.
#[repr(C, align(8))]
struct Words([u32; 4]);

/// The same as the key of `VIPS`, with room behind it.
#[repr(C, align(8))]
struct Key([u32; 6]);

impl Words {
    #[inline(always)]
    fn bytes(&self) -> &Addr {
        // SAFETY: as many bytes, and any are an address.
        unsafe { &*ptr::from_ref(self).cast() }
    }

    /// The key of it and a port, which is not aligned in there.
    #[inline(always)]
    fn key(&self, [p, q]: [u8; 2]) -> Key {
        let [a, b, c, d] = self.0.map(u32::to_ne_bytes);
        let word = u32::from_ne_bytes;
        Key([
            VipKey::WHOLE,
            word([p, q, a[0], a[1]]),
            word([a[2], a[3], b[0], b[1]]),
            word([b[2], b[3], c[0], c[1]]),
            word([c[2], c[3], d[0], d[1]]),
            word([d[2], d[3], 0, 0]),
        ])
    }
}

impl Deref for Key {
    type Target = VipKey;

    #[inline(always)]
    fn deref(&self) -> &VipKey {
        const { assert!(size_of::<VipKey>() <= size_of::<Self>()) };
        // SAFETY: it begins with the bytes of one.
        unsafe { &*ptr::from_ref(self).cast() }
    }
}

/// The address that a system call is about, in words: the verifier knows no others.
struct Socket {
    ctx: *mut bpf_sock_addr,
    is_v6: bool,
}

/// A word of the context, and of what the verifier takes for one: LLVM would read several at once.
macro_rules! word {
    ($($place:tt)*) => {
        // SAFETY: the context is valid while the program runs.
        unsafe { ptr::read_volatile(&raw const $($place)*) }
    };
}

impl Socket {
    #[inline(always)]
    fn v4(ctx: *mut bpf_sock_addr) -> Self {
        Self { ctx, is_v6: false }
    }

    #[inline(always)]
    fn v6(ctx: *mut bpf_sock_addr) -> Self {
        Self { ctx, is_v6: true }
    }

    /// It, if it is a TCP socket of a process that is a client.
    #[inline(always)]
    fn of_the_host(self, ctx: &SockAddrContext) -> Option<Self> {
        if !matches!(word!((*self.ctx).protocol), IPPROTO_TCP | IPPROTO_MPTCP) {
            return None;
        }
        // SAFETY: the context is valid while the program runs.
        let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        (KernelTables.host()?.namespace == namespace).then_some(self)
    }

    /// Whether it is bound to no address and no interface.
    #[inline(always)]
    fn is_free(&self) -> Option<bool> {
        // SAFETY: the context is valid while the program runs.
        let sk = unsafe { ptr::read_volatile(&raw const (*self.ctx).__bindgen_anon_1.sk) };
        if sk.is_null() {
            return None;
        }
        let mut bound = word!((*sk).bound_dev_if);
        if self.is_v6 {
            bound |= word!((*sk).src_ip6[0]) | word!((*sk).src_ip6[1]);
            bound |= word!((*sk).src_ip6[2]) | word!((*sk).src_ip6[3]);
        } else {
            bound |= word!((*sk).src_ip4);
        }
        Some(bound == 0)
    }

    #[inline(always)]
    fn port(&self) -> [u8; 2] {
        (word!((*self.ctx).user_port) as u16).to_ne_bytes()
    }

    #[inline(always)]
    fn addr(&self) -> Words {
        if !self.is_v6 {
            return Words([0, 0, u32::from_be(0xffff), word!((*self.ctx).user_ip4)]);
        }
        Words([
            word!((*self.ctx).user_ip6[0]),
            word!((*self.ctx).user_ip6[1]),
            word!((*self.ctx).user_ip6[2]),
            word!((*self.ctx).user_ip6[3]),
        ])
    }

    #[inline(always)]
    fn set(&self, addr: &Addr) {
        let word =
            |at: usize| u32::from_ne_bytes([addr[at], addr[at + 1], addr[at + 2], addr[at + 3]]);
        // SAFETY: the context is valid while the program runs.
        unsafe {
            if !self.is_v6 {
                ptr::write_volatile(&raw mut (*self.ctx).user_ip4, word(12));
                return;
            }
            ptr::write_volatile(&raw mut (*self.ctx).user_ip6[0], word(0));
            ptr::write_volatile(&raw mut (*self.ctx).user_ip6[1], word(4));
            ptr::write_volatile(&raw mut (*self.ctx).user_ip6[2], word(8));
            ptr::write_volatile(&raw mut (*self.ctx).user_ip6[3], word(12));
        }
    }
}
