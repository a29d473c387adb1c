//! Addresses as the maps keep them: 16 bytes, IPv4 mapped.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use router_ebpf::maps::{Addr, Replica, SourceRange, Vip};

use crate::plan::config::Prefix;

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

/// The addresses of a replica, IPv4 first.
pub fn of_replica(replica: &Replica) -> impl Iterator<Item = IpAddr> + use<> {
    let is_set = |addr: &Addr| *addr != Addr::default();
    [replica.v4, replica.v6].into_iter().filter(is_set).map(from_map)
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// As people write it, and the API of Kubernetes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bits of the port in a key of `VIPS`.
pub const PORT_BITS: u32 = 16;
/// Bits of the list in a key of `SOURCE_RANGES`.
pub const LIST_BITS: u32 = 32;
/// Bits before an IPv4 address that is mapped into an IPv6 one.
pub const MAPPED_BITS: u32 = 96;

/// The length of a VIP's prefix as `VIPS` counts it.
pub fn vip_bits(prefix: &Prefix) -> u32 {
    PORT_BITS + address_bits(prefix)
}

/// What an LPM trie holds for prefixes of clients, by their length in bits and their addresses: 1, and 0 for those
/// that are not meant.
pub fn clients<'a>(prefixes: impl IntoIterator<Item = &'a Prefix>) -> BTreeMap<(u32, Addr), u32> {
    let key = |prefix: &Prefix| (address_bits(prefix), to_map(prefix.addr()));
    let mut keys = BTreeMap::new();
    // Prefixes of IPv6 that IPv4 is mapped into are not meant for that.
    let mapped = IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
    for prefix in prefixes {
        keys.insert(key(prefix), 1);
        if prefix.contains(&mapped) {
            let all = IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("a length of none");
            keys.entry(key(&all.into())).or_insert(0);
        }
    }
    keys
}

fn address_bits(prefix: &Prefix) -> u32 {
    let before = if prefix.addr().is_ipv4() { MAPPED_BITS } else { 0 };
    before + u32::from(prefix.prefix_len())
}

/// A key of `SOURCE_RANGES` as people write it, without the list: `192.0.2.0/24`.
pub fn source_text(bits: u32, range: &SourceRange) -> String {
    prefix_of(bits.saturating_sub(LIST_BITS), range.addr).to_string()
}

/// A prefix of so many bits of an address as the maps keep it.
pub fn prefix_of(bits: u32, addr: Addr) -> Prefix {
    // `::/0` is no prefix of IPv4.
    let addr = if bits < MAPPED_BITS { Ipv6Addr::from(addr).into() } else { from_map(addr) };
    let before = if addr.is_ipv4() { MAPPED_BITS } else { 0 };
    IpNet::new(addr, bits.saturating_sub(before) as u8).map_or(addr.into(), Prefix::from)
}

/// A key of `VIPS` as people write it: `10.0.0.1 port 80`.
pub fn vip_text(bits: u32, vip: &Vip) -> String {
    let prefix = prefix_of(bits.saturating_sub(PORT_BITS), vip.addr);
    format!("{prefix} port {}", u16::from_be_bytes(vip.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_counted_and_shown() {
        for (addr, len, bits, text) in [
            ("10.0.0.1", 32, 144, "10.0.0.1 port 80"),
            ("10.0.0.0", 8, 120, "10.0.0.0/8 port 80"),
            ("fd00::1", 128, 144, "fd00::1 port 80"),
            ("2001:db8::", 64, 80, "2001:db8::/64 port 80"),
        ] {
            let prefix = Prefix::from(IpNet::new(addr.parse().unwrap(), len).unwrap());
            assert_eq!(vip_bits(&prefix), bits);
            let vip = Vip { port: [0, 80], addr: to_map(prefix.addr()) };
            assert_eq!(from_map(vip.addr), prefix.addr());
            assert_eq!(vip_text(bits, &vip), text);
        }
    }
}
