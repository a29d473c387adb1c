//! What the paths to clients and replicas can carry, and whether the kernel routes between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use rustix::net::sockopt;
use tracing::warn;

use crate::{
    os::netlink,
    plan::{config::Service, index::Mss},
};

/// Headers of IP and TCP without options.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;
/// A path that cannot be asked is taken for an Ethernet.
const ETHERNET: u32 = 1500;
/// What every IPv4 and IPv6 path carries.
const LEAST_V4: u32 = 576;
const LEAST_V6: u32 = 1280;

/// The MSS of each service: from the smallest MTU of the client-facing `interfaces` and the paths to
/// its replicas.
pub fn mss<'a>(
    interfaces: &[String],
    services: impl IntoIterator<Item = &'a Service>,
) -> BTreeMap<String, Mss> {
    let uplink = interfaces
        .iter()
        .filter_map(|name| match netlink::link_by_name(name) {
            Ok(link) => Some(link.mtu),
            Err(e) => {
                warn!(interface = name, "its MTU is not known: {e:#}");
                None
            }
        })
        .min()
        .unwrap_or(ETHERNET);
    let mut known: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let mut path = |addr: IpAddr| {
        *known.entry(addr).or_insert_with(|| {
            path_mtu(addr).unwrap_or_else(|e| {
                warn!(replica = %addr, "the MTU of the path to it is not known: {e}");
                uplink
            })
        })
    };
    let of_service = |service: &Service| {
        let all = || service.replicas.iter().flat_map(|r| r.addresses.iter().copied());
        let mtu_v4 = all().filter(IpAddr::is_ipv4).map(&mut path).min().unwrap_or(uplink);
        let mtu_v6 = all().filter(IpAddr::is_ipv6).map(&mut path).min().unwrap_or(uplink);
        let mss = Mss {
            v4: segment(mtu_v4.min(uplink).max(LEAST_V4), HEADERS_V4),
            v6: segment(mtu_v6.min(uplink).max(LEAST_V6), HEADERS_V6),
        };
        (service.name.clone(), mss)
    };
    services.into_iter().map(of_service).collect()
}

fn segment(mtu: u32, headers: u32) -> u16 {
    u16::try_from(mtu - headers).unwrap_or(u16::MAX)
}

/// The MTU of the path to an address, as the routing table knows it. Sends nothing.
fn path_mtu(addr: IpAddr) -> io::Result<u32> {
    let socket = connected(addr)?;
    let mtu = match addr {
        IpAddr::V4(_) => sockopt::ip_mtu(&socket),
        IpAddr::V6(_) => sockopt::ipv6_mtu(&socket),
    };
    Ok(mtu?)
}

fn connected(addr: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match addr {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Discard; a UDP connect only looks up the route.
    socket.connect((addr, 9))?;
    Ok(socket)
}

/// Whether an address is one of this machine's.
fn is_local(addr: IpAddr) -> bool {
    let from = connected(addr).and_then(|socket| socket.local_addr());
    from.is_ok_and(|from| from.ip() == addr)
}

/// Warns where the kernel would not forward a client's packets to its replica.
pub fn warn_unrouted<'a>(services: impl IntoIterator<Item = &'a Service>) {
    let addresses: BTreeSet<IpAddr> = services
        .into_iter()
        .flat_map(|s| &s.replicas)
        .flat_map(|r| &r.addresses)
        .copied()
        .collect();
    for (is_family, sysctl, file) in [
        (IpAddr::is_ipv4 as fn(&IpAddr) -> bool, "net.ipv4.ip_forward", "ipv4/ip_forward"),
        (IpAddr::is_ipv6, "net.ipv6.conf.all.forwarding", "ipv6/conf/all/forwarding"),
    ] {
        let Some(remote) = addresses.iter().find(|addr| is_family(addr) && !is_local(**addr))
        else {
            continue;
        };
        let value = fs::read_to_string(format!("/proc/sys/net/{file}"));
        if value.is_ok_and(|value| value.trim() == "0") {
            warn!(
                replica = %remote,
                "{sysctl} is off: the kernel drops what is meant for replicas on other hosts; \
                 switch it on with `sysctl -w {sysctl}=1`"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_carries_much() {
        let lo = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(is_local(lo));
        assert!(path_mtu(lo).unwrap() >= 1500);
    }

    #[test]
    fn segments_fit_their_field() {
        assert_eq!(segment(1500, HEADERS_V4), 1460);
        assert_eq!(segment(1 << 20, HEADERS_V6), u16::MAX);
    }
}
