//! Where to listen.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    str::FromStr,
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// An address and a port, or a port on all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `None`: all addresses of both families.
    address: Option<IpAddr>,
    port: u16,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "write an address and a port such as 127.0.0.1:9469 or [::1]:9469, or a port for all \
             addresses such as :9469"
                .to_owned()
        };
        if let Some(port) = text.strip_prefix(':') {
            return Ok(Self { address: None, port: port.parse().map_err(|_| wrong())? });
        }
        let address: SocketAddr = text.parse().map_err(|_| wrong())?;
        Ok(Self { address: Some(address.ip()), port: address.port() })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => SocketAddr::new(address, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

impl Listen {
    pub(super) fn bind(&self) -> Result<TcpListener> {
        let bound = match self.address {
            Some(address) => bind(SocketAddr::new(address, self.port)),
            // A kernel without IPv6 has only the other one.
            None => bind((Ipv6Addr::UNSPECIFIED, self.port).into()).or_else(|e| {
                let no_ipv6 = [Some(libc::EAFNOSUPPORT), Some(libc::EADDRNOTAVAIL)];
                if !no_ipv6.contains(&e.raw_os_error()) {
                    return Err(e);
                }
                bind((Ipv4Addr::UNSPECIFIED, self.port).into())
            }),
        };
        bound.with_context(|| format!("--listen {self}: cannot listen there"))
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // After a restart the connections of the daemon before may still linger.
    socket.set_reuse_address(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_read() {
        for good in ["127.0.0.1:9469", "[::1]:9469", "0.0.0.0:0", ":9469"] {
            assert_eq!(good.parse::<Listen>().unwrap().to_string(), good);
        }
        for wrong in ["", ":", "9469", "localhost:9469", "::1:9469", "1.2.3.4", ":70000"] {
            assert!(wrong.parse::<Listen>().unwrap_err().contains("[::1]:9469"), "{wrong}");
        }
    }

    #[test]
    fn a_port_alone_takes_both_families_and_what_is_taken_is_named() {
        let any = ":0".parse::<Listen>().unwrap().bind().unwrap();
        let port = any.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let error = format!("127.0.0.1:{port}").parse::<Listen>().unwrap().bind().unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(&format!("--listen 127.0.0.1:{port}: ")), "{error}");
        assert!(error.contains("Address already in use"), "{error}");
    }
}
