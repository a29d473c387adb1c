//! Listening sockets, and what the connections that they accept get.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted; a load test opens thousands at once.
const BACKLOG: i32 = 4096;

/// Listens on all of `addresses`. `[::]` takes IPv4 as well, unless IPv4 is listed on its own: then
/// both can have the same port.
pub fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let only_v6 = addresses.iter().any(SocketAddr::is_ipv4);
    let listen = |&address: &SocketAddr| {
        bind(address, only_v6).with_context(|| {
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
