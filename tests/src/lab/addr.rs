//! The lab's addresses, and the `ip` commands that give them to its interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for tests that run with each.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The third group of the unique local prefix `fd52:6f6f:7374::/48` numbers the links like the
/// third byte of 198.18.0.0/16 does.
pub(super) const fn v6(link: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd52, 0x6f6f, 0x7374, link, 0, 0, 0, host)
}

pub(super) const fn v4(link: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, link, host)
}

/// All of the lab's addresses.
pub(super) const LAB_V4: &str = "198.18.0.0/16";
/// All of the lab's addresses.
pub(super) const LAB_V6: &str = "fd52:6f6f:7374::/48";
pub(super) const VIPS_V4: &str = "198.18.200.0/24";
pub(super) const VIPS_V6: &str = "fd52:6f6f:7374:200::/64";
/// How many addresses of each family the client has.
pub(super) const CLIENT_ADDRS: u8 = 24;
/// The interface in the machine's own namespace, if there is one.
pub(super) const HOST_DEVICE: &str = "roost-host";

pub(super) fn vip(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => v4(200, n).into(),
        Family::V6 => v6(0x200, n.into()).into(),
    }
}

pub(super) fn node(family: Family) -> IpAddr {
    match family {
        Family::V4 => v4(0, 1).into(),
        Family::V6 => v6(0, 1).into(),
    }
}

pub(super) fn client(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => v4(0, 2 + n).into(),
        Family::V6 => v6(0, 2 + u16::from(n)).into(),
    }
}

pub(super) fn replica_v4(n: usize) -> Ipv4Addr {
    v4(100 + n as u8, 2)
}

pub(super) fn replica_v6(n: usize) -> Ipv6Addr {
    v6(0x100 + n as u16, 2)
}

/// Who is behind the client namespace.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Far,
    Host,
}

impl Side {
    /// The number of the link, and the addresses of the router and of what is behind it.
    fn net(self) -> (Ipv4Addr, Ipv6Addr, Ipv4Addr, Ipv6Addr) {
        let n = match self {
            Self::Far => 1,
            Self::Host => 2,
        };
        (v4(n, 1), v6(n.into(), 1), v4(n, 2), v6(n.into(), 2))
    }
}

fn up(device: &str, a: Ipv4Addr, b: Ipv6Addr) -> [String; 3] {
    [
        format!("addr add {a}/24 dev {device}"),
        format!("addr add {b}/64 dev {device} nodad"),
        format!("link set {device} up"),
    ]
}

pub(super) fn client_batch() -> Vec<String> {
    let mut batch: Vec<String> = up("eth0", v4(0, 2), v6(0, 2)).into();
    for n in 1..CLIENT_ADDRS {
        batch.push(format!("addr add {}/24 dev eth0", client(Family::V4, n)));
        batch.push(format!("addr add {}/64 dev eth0 nodad", client(Family::V6, n)));
    }
    // A source is named, or IPv6 takes the newest address and IPv4 the first.
    batch.push(format!("route add default via {} src {}", v4(0, 1), v4(0, 2)));
    batch.push(format!("route add default via {} src {}", v6(0, 1), v6(0, 2)));
    batch
}

pub(super) fn node_batch() -> Vec<String> {
    let mut batch: Vec<String> = up("eth0", v4(0, 1), v6(0, 1)).into();
    // Everything else is behind the client.
    batch.push(format!("route add default via {}", v4(0, 2)));
    batch.push(format!("route add default via {}", v6(0, 2)));
    // What Roost passes must not go in a circle: the sender is told instead.
    batch.push(format!("route add unreachable {VIPS_V4}"));
    batch.push(format!("route add unreachable {VIPS_V6}"));
    batch
}

pub(super) fn node_replica_batch(n: usize, device: &str) -> Vec<String> {
    up(device, v4(100 + n as u8, 1), v6(0x100 + n as u16, 1)).into()
}

pub(super) fn replica_batch(n: usize) -> Vec<String> {
    let mut batch = vec!["link set lo up".to_owned()];
    batch.extend(up("eth0", replica_v4(n), replica_v6(n)));
    batch.push(format!("route add default via {}", v4(100 + n as u8, 1)));
    batch.push(format!("route add default via {}", v6(0x100 + n as u16, 1)));
    batch
}

/// The client namespace's end of a link to what is behind it.
pub(super) fn side_batch(device: &str, side: Side) -> Vec<String> {
    let (router4, router6, ..) = side.net();
    up(device, router4, router6).into()
}

/// The other end, with routes to the lab; only to the lab, since it may be the machine's own.
pub(super) fn side_client_batch(device: &str, side: Side) -> Vec<String> {
    let (router4, router6, addr4, addr6) = side.net();
    let mut batch: Vec<String> = up(device, addr4, addr6).into();
    batch.push(format!("route add {LAB_V4} via {router4}"));
    batch.push(format!("route add {LAB_V6} via {router6}"));
    batch
}
