//! Addresses as the maps keep them: 16 bytes, IPv4 mapped.

use std::net::{IpAddr, Ipv6Addr};

use router_ebpf::maps::Addr;

/// An address as the maps keep it.
pub fn to_map(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address of a map.
pub fn from_map(addr: Addr) -> IpAddr {
    Ipv6Addr::from(addr).to_canonical()
}
