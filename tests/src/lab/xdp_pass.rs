//! An XDP program that passes everything.
//!
//! A veth end takes what its peer sends by `XDP_TX` only if it has a program itself: NAPI alone,
//! which GRO would switch on, lets such packets be queued, but nothing wakes it up for them. A real
//! network card at the other end of the cable has no such trouble.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;

use super::netns::Netns;

const PROG_LOAD: c_long = 5;
const LINK_CREATE: c_long = 28;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS; exit`, as the kernel encodes it.
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// What both commands read of `union bpf_attr`, as words; the kernel takes a shorter one than its
/// own if the rest is zero.
#[repr(C, align(8))]
#[derive(Default)]
struct Attr {
    words: [u32; 32],
}

impl Attr {
    fn address<T>(&mut self, at: usize, to: &T) {
        let address = (&raw const *to as u64).to_ne_bytes();
        let (halves, _) = address.as_chunks::<4>();
        self.words[at] = u32::from_ne_bytes(halves[0]);
        self.words[at + 1] = u32::from_ne_bytes(halves[1]);
    }
}

/// Attaches the program to an interface; it stays for as long as the descriptor is open.
pub(super) fn attach(ns: &Netns, device: &str) -> Result<OwnedFd> {
    let attached = ns.run(|| -> Result<OwnedFd> {
        let program = load().context("loading")?;
        let index = nix::net::if_::if_nametoindex(device).context("looking it up")?;
        let mut attr = Attr::default();
        attr.words[..4].copy_from_slice(&[
            program.as_raw_fd() as u32,
            index,
            ATTACH_TYPE_XDP,
            XDP_FLAGS_DRV_MODE,
        ]);
        bpf(LINK_CREATE, &attr).context("attaching")
    });
    attached.with_context(|| format!("XDP_PASS for {device} of {}", ns.name()))
}

fn load() -> io::Result<OwnedFd> {
    let license = *b"GPL\0";
    let mut attr = Attr::default();
    attr.words[0] = PROG_TYPE_XDP;
    attr.words[1] = PASS.len() as u32;
    attr.address(2, &PASS);
    attr.address(4, &license);
    bpf(PROG_LOAD, &attr)
}

fn bpf(command: c_long, attr: &Attr) -> io::Result<OwnedFd> {
    let size = size_of::<Attr>();
    // SAFETY: the kernel reads `size` bytes of `attr`; the addresses in it are those of values
    // that outlive the call, of the sizes that the other fields say, and are only read.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
