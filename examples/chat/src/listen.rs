//! Listening sockets, and what the connections that they accept get.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted; a load test opens thousands at once.
const BACKLOG: i32 = 4096;

/// Listens on all of `addresses`. `[::]` takes IPv4 as well, unless IPv4 is listed on its own: then
/// both can have the same port. On a kernel without IPv6 it is `0.0.0.0`.
pub fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let only_v6 = addresses.iter().any(SocketAddr::is_ipv4);
    let listen = |&address: &SocketAddr| {
        let bound = bind(address, only_v6).or_else(|error| {
            let is_any = address.ip() == Ipv6Addr::UNSPECIFIED;
            if only_v6 || !is_any || !has_no_v6(&error) {
                return Err(error);
            }
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), false)
        });
        bound.with_context(|| {
            format!("listen: {address} is not a free port of an address of this machine")
        })
    };
    addresses.iter().map(listen).collect()
}

fn bind(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Whether a socket failed because the kernel has no IPv6 (`ipv6.disable=1`).
fn has_no_v6(error: &io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .map(|it| Some(it.raw_os_error()))
        .contains(&error.raw_os_error())
}

/// Sets what every accepted connection gets: keepalive after `idle`, so that a client that
/// vanished is noticed, and no delay of small frames.
pub fn tune(stream: &TcpStream, idle: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval((idle / 4).max(Duration::from_secs(1)))
        .with_retries(4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// An address as its owner knows it: an IPv4 client of an IPv6 socket is an IPv4 client.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Raises the soft limit of open files to the hard one: a process with thousands of connections
/// should not end at the customary 1024.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Raising the soft limit to the hard one is always allowed; if not, accept() will tell.
    let _ = setrlimit(Resource::Nofile, limit);
}
