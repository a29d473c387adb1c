//! What one interface can do, and which of its settings matter.

use std::path::Path;

use aya::programs::loaded_programs;

use crate::{
    attach::loader,
    os::{
        ethtool::{self, Flag, Setting},
        netlink::{self, Link},
        sys,
    },
};

use super::{Finding, sysctl};

/// Most drivers run XDP on packets of one page: 4096 bytes less headroom and tailroom.
const PAGE_MTU: u32 = 3498;
/// The smallest MTU that IPv6 allows.
const MIN_MTU: u32 = 1280;

/// All findings about an interface.
pub fn findings(name: &str, pin_dir: &Path) -> Vec<Finding> {
    let link = match netlink::link_by_name(name) {
        Ok(link) => link,
        Err(error) => {
            let advice = "name one that `ip link` lists";
            return vec![Finding::fail("interface", format!("{error:#}"), advice).of(name)];
        }
    };
    let mut findings = vec![state(&link), native(&link)];
    findings.extend([occupied(&link, pin_dir), mtu(&link), lro(name)]);
    findings.extend(checksums(&link));
    findings.extend([rx_vlan(&link), gro(&link), rp_filter(name)]);
    findings.into_iter().map(|finding| finding.of(name)).collect()
}

fn state(link: &Link) -> Finding {
    if link.up {
        return Finding::ok("interface", "up");
    }
    Finding::fail("interface", "down", format!("ip link set {} up", link.name))
}

fn native(link: &Link) -> Finding {
    let driver = match ethtool::driver(&link.name) {
        Ok(driver) if !driver.is_empty() => driver,
        _ => "unnamed driver".to_owned(),
    };
    match netlink::native_xdp(link.index) {
        Ok(Some(true)) => match loader::loses_frames(link) {
            Some(why) => Finding::warn(
                "native_xdp",
                format!("{driver} can. {why}"),
                "the generic mode is used, which is slower; for the native one, attach a program that \
                 passes everything to the other end",
            ),
            None => Finding::ok("native_xdp", driver),
        },
        Ok(Some(false)) => Finding::warn(
            "native_xdp",
            format!("{driver} cannot"),
            "the generic mode is used, which costs several times as much for each packet",
        ),
        Ok(None) => Finding::warn(
            "native_xdp",
            loader::loses_frames(link)
                .unwrap_or_else(|| format!("{driver}: not told before Linux 6.3")),
            "see in `roost status` which mode the daemon got",
        ),
        Err(error) => Finding::warn("native_xdp", format!("{error:#}"), "see `roost status`"),
    }
}

/// Only one XDP program can be attached, if it was not attached by way of a dispatcher.
fn occupied(link: &Link, pin_dir: &Path) -> Finding {
    // Ours is known by its link: without CAP_SYS_ADMIN nothing tells a program's name.
    let own = sys::pinned_link_program(&loader::xdp_link(pin_dir, &link.name)).ok();
    let name = |id: &u32| if own == Some(*id) { loader::INGRESS.into() } else { program_name(*id) };
    let names: Vec<String> = link.xdp_programs.iter().map(name).collect();
    let others: Vec<&String> = names.iter().filter(|name| !name.starts_with("roost")).collect();
    match others.first() {
        None if names.is_empty() => Finding::ok("xdp_program", "none attached"),
        None => Finding::ok("xdp_program", names.join(", ")),
        Some(name) => Finding::fail(
            "xdp_program",
            format!("{name} is attached"),
            format!("ip link set {} xdp off, if that program is not needed", link.name),
        ),
    }
}

fn program_name(id: u32) -> String {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = program.and_then(|program| Some(program.name_as_str()?.to_owned()));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("program {id}"))
}

fn mtu(link: &Link) -> Finding {
    let found = link.mtu.to_string();
    match link.mtu {
        ..MIN_MTU => Finding::warn("mtu", found, "IPv6 needs 1280 at the least"),
        MIN_MTU..=PAGE_MTU => Finding::ok("mtu", found),
        _ => Finding::warn(
            "mtu",
            found,
            format!("many drivers refuse native XDP above {PAGE_MTU}; lower it if yours does"),
        ),
    }
}

fn lro(name: &str) -> Finding {
    match ethtool::has(name, Flag::Lro) {
        Ok(false) => Finding::ok("lro", "off"),
        Ok(true) => Finding::fail(
            "lro",
            "on: merged segments cannot be translated",
            format!("ethtool -K {name} lro off"),
        ),
        Err(error) => unreadable("lro", &error),
    }
}

fn checksums(link: &Link) -> Vec<Finding> {
    let rx = match ethtool::is_on(&link.name, Setting::RxChecksum) {
        Ok(true) => Finding::ok("rx_checksum", "on"),
        Ok(false) => Finding::ok("rx_checksum", "off, the kernel verifies"),
        Err(error) => unreadable("rx_checksum", &error),
    };
    let tx = match ethtool::is_on(&link.name, Setting::TxChecksum) {
        Ok(true) => Finding::ok("tx_checksum", "on"),
        Ok(false) => Finding::ok("tx_checksum", "off, the kernel computes"),
        Err(error) => unreadable("tx_checksum", &error),
    };
    vec![rx, tx]
}

/// A tag that the device takes out is in no frame that XDP sees, and answers would leave without.
fn rx_vlan(link: &Link) -> Finding {
    const CHECK: &str = "rx_vlan";
    match ethtool::has(&link.name, Flag::RxVlan) {
        Ok(false) => Finding::ok(CHECK, "off, tags stay in the frames"),
        Ok(true) => match vlans_on(link) {
            vlans if vlans.is_empty() => Finding::ok(CHECK, "on, there is no VLAN on top"),
            vlans => Finding::fail(
                CHECK,
                format!("on: the tags of {} are hidden from XDP", vlans.join(", ")),
                format!("ethtool -K {} rxvlan off", link.name),
            ),
        },
        Err(error) => unreadable(CHECK, &error),
    }
}

/// The VLAN interfaces on top of one, in this network namespace.
fn vlans_on(below: &Link) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = all.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let links = names.filter_map(|name| netlink::link_by_name(name).ok());
    let on_top = |link: &Link| {
        link.kind == "vlan" && link.link_namespace.is_none() && link.link == below.index
    };
    links.filter(on_top).map(|link| link.name).collect()
}

/// Whatever is merged is translated. But the kernel's routing is not up to what is larger than IP packets can be.
fn gro(link: &Link) -> Finding {
    const IP_MAX_SIZE: u32 = 65536;
    match ethtool::is_on(&link.name, Setting::Gro) {
        Ok(true) if link.gro_max_size > IP_MAX_SIZE => Finding::warn(
            "gro",
            format!("on, up to {} bytes: Linux drops some of those of IPv6", link.gro_max_size),
            format!("ip link set {} gro_max_size {IP_MAX_SIZE}", link.name),
        ),
        Ok(on) => Finding::ok("gro", if on { "on" } else { "off" }),
        Err(error) => unreadable("gro", &error),
    }
}

/// The stricter of the interface's setting and of that for all is in force.
fn rp_filter(name: &str) -> Finding {
    let read = |of: &str| sysctl(&format!("net/ipv4/conf/{of}/rp_filter"));
    let (all, own) = (read("all"), read(name));
    // 2 (loose) wins over 1 (strict): the kernel takes the larger number.
    match all.into_iter().chain(own).max().as_deref() {
        Some("0") => Finding::ok("rp_filter", "off"),
        Some("2") => Finding::ok("rp_filter", "loose"),
        Some("1") => Finding::warn(
            "rp_filter",
            "strict: drops clients whose way back is another interface",
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2, if there is more than one uplink"),
        ),
        _ => Finding::warn("rp_filter", "not readable", "mount /proc"),
    }
}

fn unreadable(check: &'static str, error: &std::io::Error) -> Finding {
    Finding::warn(check, format!("not readable: {error}"), "ask `ethtool -k`")
}
