//! Listening sockets: dual-stack by listing addresses, keepalive on what they accept.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted; a load test opens thousands at once.
const BACKLOG: i32 = 4096;

/// Listens on `address`. An IPv6 socket takes IPv6 only, so that `0.0.0.0` and `::` can be listened
/// on side by side and no client address shows up as IPv4-mapped.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    bind(address).with_context(|| {
        format!("cannot listen on {address}: it must be a free port of an address of this machine")
    })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
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

/// Raises the soft limit of open files to the hard one: a process with thousands of connections
/// should not end at the customary 1024.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Raising the soft limit to the hard one is always allowed; if not, accept() will tell.
    let _ = setrlimit(Resource::Nofile, limit);
}
