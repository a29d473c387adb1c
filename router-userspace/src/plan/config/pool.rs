//! `[kubernetes]`: what is only for a daemon that follows a cluster.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{
    prefix::Prefix,
    reader::{Field, Table},
    value,
};

/// What the file says about a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// What Services are given addresses from, in the order in which it is used.
    pub address_pools: Vec<AddressPool>,
    /// What Services may take by `spec.externalIPs`, and of the Nodes' addresses.
    pub allowed_addresses: Vec<AllowedAddress>,
}

/// What Services may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllowedAddress {
    /// An address with this port, whosoever it is.
    Port(SocketAddr),
    /// These addresses with any port, but for those of Nodes.
    All(Prefix),
}

/// Addresses that may be given, from the first to the last, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressPool {
    /// The lowest.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

impl AddressPool {
    /// Whether an address is one of these.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&addr)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let same_family = self.first.is_ipv4() == other.first.is_ipv4();
        same_family && self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for AddressPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Reads the table.
pub(super) fn kubernetes(table: &Table<'_>) -> Kubernetes {
    table.only(&["address_pools", "allowed_addresses"]);
    let mut pools: Vec<AddressPool> = Vec::new();
    for item in table.get("address_pools").iter().flat_map(Field::list) {
        let Some(text) = item.text("addresses, \"203.0.113.16/28\",") else { continue };
        match pool(text) {
            Err(message) => item.refuse(message),
            Ok(pool) => match pools.iter().find(|other| other.overlaps(&pool)) {
                Some(other) => item.refuse(format!(
                    "{text:?} overlaps with {other}, which is also listed; write each address once"
                )),
                None => pools.push(pool),
            },
        }
    }
    let mut allowed = Vec::new();
    for item in table.get("allowed_addresses").iter().flat_map(Field::list) {
        let right = "an address with a port, \"192.0.2.10:443\", or without,";
        let Some(text) = item.text(right) else { continue };
        match allowed_address(text) {
            Err(message) => item.refuse(message),
            Ok(address) => allowed.push(address),
        }
    }
    Kubernetes { address_pools: pools, allowed_addresses: allowed }
}

/// `192.0.2.10:443`, or `203.0.113.0/28`.
fn allowed_address(text: &str) -> Result<AllowedAddress, String> {
    let Ok(address) = text.parse::<SocketAddr>() else {
        return value::prefix(text).map(AllowedAddress::All).map_err(|e| {
            format!("{e}; with a port, write \"192.0.2.10:443\" or \"[2001:db8::10]:443\"")
        });
    };
    // A scope (`%eth0`) would never match: a Service's addresses have none.
    value::address(text.rsplit_once(':').map_or(text, |(addr, _)| addr).trim_matches(['[', ']']))?;
    match address.port() {
        0 => Err(format!("{text:?} has the port 0; write one from 1 to 65535, or none")),
        _ => Ok(AllowedAddress::Port(address)),
    }
}

/// `203.0.113.16/28`, or `2001:db8:1::10-2001:db8:1::2f`.
fn pool(text: &str) -> Result<AddressPool, String> {
    let pool = match text.split_once('-') {
        Some((first, last)) => {
            let end = |end: &str| {
                value::address(end.trim()).map_err(|e| {
                    format!("{text:?}: {e}, or a whole range, \"203.0.113.16-203.0.113.31\"")
                })
            };
            AddressPool { first: end(first)?, last: end(last)? }
        }
        None => of_prefix(value::prefix(text)?),
    };
    let AddressPool { first, last } = pool;
    if first.is_ipv4() != last.is_ipv4() {
        return Err(format!("{text:?} begins in one family and ends in another; write two ranges"));
    }
    if first > last {
        return Err(format!("{text:?} ends before it begins; write \"{last}-{first}\""));
    }
    match NOT_ROUTED.iter().find(|(low, high, _)| {
        let (low, high) = (low.parse().expect("an address"), high.parse().expect("an address"));
        pool.overlaps(&AddressPool { first: low, last: high })
    }) {
        Some((low, high, what)) => Err(format!(
            "{text:?} has {what} in it ({low} to {high}); routable unicast addresses are needed"
        )),
        None => Ok(pool),
    }
}

/// All of a prefix; but not the first and the last address of an IPv4 network, which many hosts take
/// for something else.
fn of_prefix(prefix: Prefix) -> AddressPool {
    let mut hosts = prefix.hosts();
    let first = hosts.next().unwrap_or(prefix.addr());
    AddressPool { first, last: hosts.next_back().unwrap_or(first) }
}

/// What a range could have in it whose ends are fine.
const NOT_ROUTED: [(&str, &str, &str); 6] = [
    ("127.0.0.0", "127.255.255.255", "loopback addresses"),
    ("169.254.0.0", "169.254.255.255", "link-local addresses"),
    ("224.0.0.0", "255.255.255.255", "multicast and reserved addresses"),
    ("::ffff:0:0", "::ffff:ffff:ffff", "IPv4 addresses in IPv6 form"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local addresses"),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast addresses"),
];

#[cfg(test)]
mod tests {
    use super::{super::Config, *};

    fn read(pools: &str) -> Result<Vec<String>, String> {
        let text = format!("interfaces = [\"eth0\"]\n[kubernetes]\naddress_pools = {pools}\n");
        let config = Config::parse(&text, "r.toml").map_err(|e| e.to_string())?;
        Ok(config.kubernetes.address_pools.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn pools_are_prefixes_or_ranges() {
        for (pools, right) in [
            ("[]", vec![]),
            ("[\"203.0.113.16/28\"]", vec!["203.0.113.17-203.0.113.30"]),
            ("[\"203.0.113.16/30\"]", vec!["203.0.113.17-203.0.113.18"]),
            ("[\"203.0.113.16/31\"]", vec!["203.0.113.16-203.0.113.17"]),
            ("[\"203.0.113.16/32\", \"203.0.113.17\"]", vec!["203.0.113.16", "203.0.113.17"]),
            ("[\"203.0.113.5-203.0.113.5\"]", vec!["203.0.113.5"]),
            ("[\"2001:db8:1::10 - 2001:db8:1::2f\"]", vec!["2001:db8:1::10-2001:db8:1::2f"]),
            ("[\"2001:db8:1::/126\"]", vec!["2001:db8:1::-2001:db8:1::3"]),
        ] {
            assert_eq!(read(pools).unwrap(), right, "{pools}");
        }
    }

    #[test]
    fn a_wrong_pool_has_its_place_and_what_would_be_right() {
        for (pools, at, says) in [
            ("7", "3:17: kubernetes.address_pools", "is an integer; write a list"),
            ("[7]", "3:18: kubernetes.address_pools[0]", "is an integer; write addresses"),
            ("[\"203.0.113\"]", "3:18: kubernetes.address_pools[0]", "is not an IP address"),
            ("[\"203.0.113.1-x\"]", "3:18", "or a whole range, \"203.0.113.16-203.0.113.31\""),
            ("[\"203.0.113.17/28\"]", "3:18", "write \"203.0.113.16/28\""),
            ("[\"203.0.113.9-203.0.113.1\"]", "3:18", "write \"203.0.113.1-203.0.113.9\""),
            ("[\"203.0.113.9-2001:db8::1\"]", "3:18", "write two ranges"),
            ("[\"100.0.0.0-200.0.0.0\"]", "3:18", "loopback addresses in it"),
            ("[\"240.0.0.0/24\"]", "3:18", "multicast and reserved"),
            ("[\"fe00::-feff::\"]", "3:18", "link-local addresses in it"),
            ("[\"169.254.0.0/24\"]", "3:18", "link-local"),
            (
                "[\"203.0.113.0/24\", \"203.0.113.16/28\"]",
                "3:36: kubernetes.address_pools[1]",
                "\"203.0.113.16/28\" overlaps with 203.0.113.1-203.0.113.254",
            ),
        ] {
            let found = read(pools).unwrap_err();
            assert!(found.starts_with(&format!("r.toml:{at}: ")), "{pools}: {found}");
            assert!(found.contains(says), "{pools}: {found}");
            assert_eq!(found.lines().count(), 1, "{pools}: {found}");
        }
        let odd = "interfaces = [\"eth0\"]\n[kubernetes]\naddress_pool = []\n";
        let found = Config::parse(odd, "r.toml").unwrap_err().to_string();
        assert!(found.contains("did you mean `address_pools`?"), "{found}");
    }

    #[test]
    fn allowed_addresses_have_ports() {
        let config = |text: &str| {
            let text =
                format!("interfaces = [\"eth0\"]\n[kubernetes]\nallowed_addresses = {text}\n");
            crate::plan::config::Config::parse(&text, "r.toml")
        };
        let good = config("[\"192.0.2.10:443\", \"[2001:db8::10]:80\", \"203.0.113.0/28\"]");
        let port = |text: &str| AllowedAddress::Port(text.parse().unwrap());
        let all = AllowedAddress::All(value::prefix("203.0.113.0/28").unwrap());
        let expected = [port("192.0.2.10:443"), port("[2001:db8::10]:80"), all];
        assert_eq!(good.unwrap().kubernetes.allowed_addresses, expected);
        for (text, says) in [
            ("[\"192.0.2\"]", "with a port, write \"192.0.2.10:443\""),
            ("[\"192.0.2.10:0\"]", "has the port 0"),
            ("[\"127.0.0.1:80\"]", "loopback"),
            ("[\"203.0.113.1/28\"]", "write \"203.0.113.0/28\""),
            ("[443]", "an address with a port"),
        ] {
            let error = config(text).unwrap_err().to_string();
            assert!(
                error.contains("kubernetes.allowed_addresses") && error.contains(says),
                "{error}"
            );
        }
    }
}
