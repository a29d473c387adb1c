//! Addresses with a prefix length.

use std::{fmt, net::IpAddr, ops::Deref};

use ipnet::IpNet;

/// An address with a prefix length, zero behind the prefix. A single address is written without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Self {
        Self(net.trunc())
    }
}

impl From<IpAddr> for Prefix {
    fn from(addr: IpAddr) -> Self {
        Self(addr.into())
    }
}

impl Deref for Prefix {
    type Target = IpNet;

    fn deref(&self) -> &IpNet {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix_len() == self.max_prefix_len() { self.addr().fmt(f) } else { self.0.fmt(f) }
    }
}
