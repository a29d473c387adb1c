//! The client-facing interfaces when no file names them.
//!
//! Routes are read from `/proc/net`, whose form the kernel keeps: by netlink they come in many messages of
//! many attributes, of which two matter.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use tracing::info;

use crate::{
    attach::loader,
    os::sys,
    plan::config::{Config, ConfigError, Problem},
};

const NO_ROUTE: &str = "there is no default route whose interface could be the client-facing one";

/// Those that were `given`, or those of the default routes and those that the programs are attached to
/// already: a default route that is gone for a while, or has moved, must not end connections.
pub(crate) fn of(given: &[String], pin_dir: &Path) -> Result<Vec<String>> {
    let names = known(given, pin_dir);
    ensure!(!names.is_empty(), "{NO_ROUTE}: name it with --interface, or in a file with --config");
    Ok(names)
}

/// Reads a file beside a cluster, which may leave its interfaces to these.
pub(crate) fn load(path: &Path, given: &[String], pin_dir: &Path) -> Result<Config, ConfigError> {
    let mut config = Config::load_beside_cluster(path)?;
    if config.interfaces.is_empty() {
        config.interfaces = known(given, pin_dir);
    }
    if config.interfaces.is_empty() {
        let problem = Problem {
            line: 0,
            column: 0,
            field: "interfaces".into(),
            message: format!("is missing, and {NO_ROUTE}; write interfaces = [\"eth0\"]"),
        };
        return Err(ConfigError { file: path.display().to_string(), problems: vec![problem] });
    }
    Ok(config)
}

fn known(given: &[String], pin_dir: &Path) -> Vec<String> {
    if !given.is_empty() {
        return given.to_owned();
    }
    let mut attached = loader::pinned_interfaces(pin_dir);
    attached.retain(|name| sys::interface_index(name).is_ok());
    let read = |file: &str| fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
    let found = union(of_routes(&read("route"), &read("ipv6_route")), attached);
    if !found.is_empty() {
        info!(
            interfaces = found.join(","),
            "taking the interfaces of the default routes, and those attached already"
        );
    }
    found
}

fn union(mut names: Vec<String>, more: Vec<String>) -> Vec<String> {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The interfaces of the best default route of each family.
fn of_routes(v4: &str, v6: &str) -> Vec<String> {
    let v4 = v4.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[device, destination, _, _, _, _, metric, mask, ..] = &fields[..] else { return None };
        let is_default = destination == "00000000" && mask == "00000000";
        Some((metric.parse::<u32>().ok().filter(|_| is_default)?, device))
    });
    let v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[destination, len, _, _, _, metric, _, _, _, device] = &fields[..] else {
            return None;
        };
        let is_default = len == "00" && destination.bytes().all(|b| b == b'0') && device != "lo";
        Some((u32::from_str_radix(metric, 16).ok().filter(|_| is_default)?, device))
    });
    union(
        Vec::new(),
        v4.min().into_iter().chain(v6.min()).map(|(_, name)| name.to_owned()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
        wlan0 00000000 0101A8C0 0003 0 0 600 00000000 0 0 0\n\
        eth0 00000000 0102A8C0 0003 0 0 100 00000000 0 0 0\n\
        eth1 0002A8C0 00000000 0001 0 0 50 00FFFFFF 0 0 0\n";
    const NONE: &str = "00000000000000000000000000000000";

    #[test]
    fn what_is_attached_stays_when_a_route_moves() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let attached = names(&["eth0", "eth2"]);
        assert_eq!(union(names(&["eth2", "eth1"]), attached.clone()), ["eth2", "eth1", "eth0"]);
        assert_eq!(union(names(&[]), attached), ["eth0", "eth2"]);
    }

    #[test]
    fn the_best_default_route_counts() {
        let route = |len: &str, metric: &str, device: &str| {
            format!("{NONE} {len} {NONE} 00 {NONE} {metric} 00000001 00000000 00000003 {device}\n")
        };
        let v6 = route("00", "ffffffff", "lo")
            + &route("00", "00000400", "eth2")
            + &route("40", "00000001", "eth3");
        assert_eq!(of_routes(V4, &v6), ["eth0", "eth2"]);
        assert_eq!(of_routes(V4, &route("00", "00000400", "eth0")), ["eth0"]);
        assert_eq!(of_routes("", ""), [""; 0]);
    }
}
