//! The way to the replicas.

use std::net::{IpAddr, UdpSocket};

use super::{Finding, Level, sysctl};
use crate::plan::config::Config;

/// An address family and its switch for forwarding.
struct Forwarding {
    check: &'static str,
    /// The setting, under `/proc/sys`.
    setting: &'static str,
    advice: &'static str,
    is_family: fn(&IpAddr) -> bool,
}

const FAMILIES: [Forwarding; 2] = [
    Forwarding {
        check: "ip_forward",
        setting: "net/ipv4/ip_forward",
        advice: "sysctl -w net.ipv4.ip_forward=1",
        is_family: IpAddr::is_ipv4,
    },
    Forwarding {
        check: "ip6_forward",
        setting: "net/ipv6/conf/all/forwarding",
        advice: "sysctl -w net.ipv6.conf.all.forwarding=1",
        is_family: IpAddr::is_ipv6,
    },
];

/// Without forwarding only replicas on the node itself are reached. That is a failure if the
/// configuration has others, and a warning if there is no configuration to tell, or a cluster says more.
pub fn forwarding(config: Option<&Config>, beside_cluster: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for family in &FAMILIES {
        let needed = match config {
            None => Level::Warn,
            Some(config) => match replicas(config, family.is_family).find(|ip| !is_local(*ip)) {
                Some(_) => Level::Fail,
                None if beside_cluster => Level::Warn,
                None => continue,
            },
        };
        findings.push(match sysctl(family.setting).as_deref() {
            Some("1" | "2") => Finding::ok(family.check, "on"),
            Some(_) => {
                let found = "off: replicas behind this node are not reached".to_owned();
                Finding::new(needed, family.check, found, family.advice.to_owned())
            }
            None => {
                let found = "the kernel has no such address family".to_owned();
                Finding::new(needed, family.check, found, "boot with it".to_owned())
            }
        });
    }
    findings
}

fn replicas(config: &Config, is_family: fn(&IpAddr) -> bool) -> impl Iterator<Item = IpAddr> {
    let replicas = config.services.iter().flat_map(|service| &service.replicas);
    replicas.flat_map(|replica| replica.addresses.clone()).filter(is_family)
}

/// An address that can be bound to is one of this node.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_node_are_known() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        assert!(!is_local("192.0.2.1".parse().unwrap()));
    }
}
