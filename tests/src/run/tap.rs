//! What a program sends by itself while it runs: a test run of a TC program has the loopback device
//! of its network namespace for an interface.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

/// How long a packet may take from the program to the socket.
const LIMIT: Duration = Duration::from_secs(10);
/// No frame of a test run is larger.
const LARGEST: usize = 8192;

/// Listens to the loopback device of a network namespace that only this thread is in: what the
/// programs send must not reach the machine's own.
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Moves this thread to a network namespace of its own.
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| {
            panic!("a network namespace for the test run: {e} (are you root?)")
        });
        raise_loopback(true).unwrap_or_else(|e| panic!("setting the loopback device up: {e}"));
        let protocol = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), protocol)
            .unwrap_or_else(|e| panic!("a packet socket: {e}"));
        let limit = TimeVal::new(LIMIT.as_secs() as i64, 0);
        setsockopt(&socket, ReceiveTimeout, &limit).expect("a limit for receiving");
        Self { socket }
    }

    /// Lets the device take nothing any more.
    pub fn close(&self) {
        raise_loopback(false).unwrap_or_else(|e| panic!("setting the loopback device down: {e}"));
    }

    /// The next frame that was sent.
    pub fn next(&self) -> Vec<u8> {
        let mut frame = vec![0; LARGEST];
        let len = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty())
            .unwrap_or_else(|e| panic!("the program counted a copy, but none came: {e}"));
        frame.truncate(len);
        frame
    }
}

impl Default for Tap {
    fn default() -> Self {
        Self::new()
    }
}

/// Sets the loopback device up, or down.
fn raise_loopback(up: bool) -> io::Result<()> {
    let kind = SockType::Datagram;
    let socket = socket(AddressFamily::Inet, kind, SockFlag::empty(), None)?;
    // SAFETY: `ifreq` is made of integers, and of a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = if up { libc::IFF_UP as libc::c_short } else { 0 };
    // SAFETY: the request is one for this call, and lives on.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
