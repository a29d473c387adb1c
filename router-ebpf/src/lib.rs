//! Roost's data path, the part that decides: pure, `no_std`, the same code in the kernel program,
//! in `roost explain` and in the host tests.
//!
//! Read [`ingress`] first, then [`bind`] and [`egress`]: what happens to a packet from the client and
//! to one from the replica.
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "compare-and-swap, see `atomic`"),
    feature(core_intrinsics, asm_experimental_arch)
)]

#[cfg(not(target_arch = "bpf"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod accept;
mod atomic;
pub mod bind;
pub mod care;
pub mod chats;
pub mod checksum;
pub mod connect;
pub mod egress;
pub mod first;
pub mod flow;
pub mod hand;
pub mod head;
pub mod header;
pub mod host;
pub mod icmp;
pub mod ingress;
pub mod integrity;
pub mod keep;
pub mod key;
pub mod limit;
pub mod maps;
pub mod mend;
pub mod options;
pub mod packet;
pub mod place;
pub mod reply;
pub mod request;
pub mod reuse;
pub mod rewrite;
pub mod route;
pub mod run;
pub mod schema;
pub mod scratch;
pub mod segment;
pub mod shared;
pub mod shares;
pub mod shortcut;
pub mod source;
pub mod stage;
pub mod stash;
pub mod stay;
pub mod steer;
pub mod syn_cookie;
pub mod tables;
pub mod translate;
pub mod verdict;
pub mod verifier;
pub mod watch;
pub mod wire;
pub mod words;

pub use roost_place::siphash;
