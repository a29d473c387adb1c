//! The client-facing interfaces when no file names them.

use std::fs;

use anyhow::{Result, ensure};
use tracing::info;

use super::args::ClusterArgs;

/// Those that were given, or those of the default routes.
pub(super) fn of(args: &ClusterArgs) -> Result<Vec<String>> {
    if !args.interface.is_empty() {
        return Ok(args.interface.clone());
    }
    let read = |file: &str| fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
    let found = of_routes(&read("route"), &read("ipv6_route"));
    ensure!(
        !found.is_empty(),
        "there is no default route whose interface could be the client-facing one: name it with \
         --interface, or in a file with --config"
    );
    info!(interfaces = found.join(","), "taking the interfaces of the default routes");
    Ok(found)
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
    let mut names = Vec::new();
    for (_, device) in v4.min().into_iter().chain(v6.min()) {
        if !names.iter().any(|name| name == device) {
            names.push(device.to_owned());
        }
    }
    names
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
