//! A link that is no veth: two tap devices, and a thread that carries each frame from one to the other as a virtual machine's
//! monitor does. What a tap hands out has been cut and summed by the kernel, unless its reader has said that it takes more.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::{io, mem};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Netns;

/// In front of each frame stands what is left to do for it (`struct virtio_net_hdr`).
const LEFT: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_SUM: u8 = 1;
/// No frame is longer.
const LARGEST: usize = LEFT + 14 + 40 + 65535;
const ETHERNET: usize = 14;

/// What has come out of one end.
#[derive(Debug, Default)]
pub struct Frames {
    /// All frames.
    pub all: AtomicU64,
    /// Those that were to be cut by the device.
    pub whole: AtomicU64,
    /// TCP segments whose checksum is finished, and wrong.
    pub wrong: AtomicU64,
}

/// The link, until it is dropped.
#[derive(Debug)]
pub struct Wire {
    /// What the first end has sent, and what the second one has.
    pub sent: [Arc<Frames>; 2],
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Makes a device in each of two namespaces. Both take `whole` frames of up to 64 KB and finish checksums themselves, or
    /// neither does.
    pub fn new(ends: [(&Netns, &str); 2], whole: bool) -> Result<Self> {
        let [first, second] = ends.map(|(ns, name)| {
            ns.run(|| tap(name, whole)).with_context(|| format!("making {name} in {}", ns.name()))
        });
        let taps = [first?, second?];
        let sent = [Arc::<Frames>::default(), Arc::default()];
        let (end, ended) = UnixStream::pair()?;
        let frames = sent.clone();
        let thread = thread::spawn(move || carry(taps, &frames, &ended));
        Ok(Self { sent, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn tap(name: &str, whole: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open("/dev/net/tun")?;
    // SAFETY: `ifreq` is made of integers, and of a union of such.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request is one for this call, and lives on.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ok(made)?;
    let all = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // SAFETY: this call takes a number.
    ok(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, if whole { all } else { 0 }) })?;
    Ok(file)
}

fn ok(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Carries frames in both directions until the other end of `ended` is closed.
fn carry(taps: [File; 2], sent: &[Arc<Frames>; 2], ended: &UnixStream) {
    let mut frame = vec![0; LARGEST];
    loop {
        let mut ready = [
            PollFd::new(taps[0].as_fd(), PollFlags::POLLIN),
            PollFd::new(taps[1].as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut ready, PollTimeout::NONE).is_err() || ready[2].any() == Some(true) {
            return;
        }
        for (from, to, sent) in [(0, 1, &sent[0]), (1, 0, &sent[1])] {
            while let Ok(len) = (&taps[from]).read(&mut frame) {
                note(sent, &frame[..len]);
                // What does not fit is lost, as on any link.
                let _ = (&taps[to]).write(&frame[..len]);
            }
        }
    }
}

fn note(sent: &Frames, frame: &[u8]) {
    let (left, frame) = frame.split_at(LEFT);
    sent.all.fetch_add(1, Ordering::Relaxed);
    if left[1] != 0 {
        sent.whole.fetch_add(1, Ordering::Relaxed);
    }
    if left[0] & NEEDS_SUM == 0 && !is_right(frame).unwrap_or(true) {
        sent.wrong.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the checksum of a TCP segment is right; `None` if it is none.
fn is_right(frame: &[u8]) -> Option<bool> {
    let packet = frame.get(ETHERNET..)?;
    let (addresses, segment) = match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&6) => {
            let total = u16::from_be_bytes([packet[2], packet[3]]);
            (packet.get(12..20)?, packet.get(usize::from(packet[0] & 15) * 4..total.into())?)
        }
        6 if packet.get(6) == Some(&6) => {
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            (packet.get(8..40)?, packet.get(40..40 + length)?)
        }
        _ => return None,
    };
    let words = addresses.chunks(2).chain(segment.chunks(2));
    let words = words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    // With the pseudo header's protocol and length.
    let mut sum = words.sum::<u64>() + 6 + segment.len() as u64;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    Some(sum == 0xffff)
}
