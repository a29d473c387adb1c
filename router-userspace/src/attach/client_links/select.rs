//! Which interfaces are client links: by their names, and by what they are to others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use router_ebpf::maps;

use crate::{os::netlink::Link, plan::config::LinkPattern};

/// A client link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) index: u32,
    /// The interface by which answers are routed to its clients.
    pub(super) by: u32,
}

/// The interfaces with fitting names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// Those that are served.
    pub(super) served: BTreeMap<String, Found>,
    /// Those whose clients would not be answered, and why.
    pub(super) refused: BTreeMap<String, (Found, String)>,
    /// Those under an uplink, and its name: their frames are its own.
    pub(super) beneath: BTreeMap<String, String>,
}

/// Looks at all interfaces.
pub(super) fn select(links: &[Link], patterns: &[LinkPattern], uplinks: &[String]) -> Selected {
    let beneath = beneath(links, uplinks);
    let mut selected = Selected::default();
    // Its other end is the client link.
    let is_own = |link: &Link| link.name == maps::NEAR_END;
    for link in links
        .iter()
        .filter(|link| link.is_ethernet && !uplinks.contains(&link.name) && !is_own(link))
    {
        let Link { name, index, .. } = link;
        if !patterns.iter().any(|pattern| pattern.fits(name)) {
            continue;
        }
        if let Some(uplink) = beneath.get(index) {
            selected.beneath.insert(name.clone(), (*uplink).to_owned());
            continue;
        }
        match way(link, links) {
            Ok(by) => drop(selected.served.insert(name.clone(), Found { index: *index, by })),
            Err(why) => {
                let found = Found { index: *index, by: maps::Link::REFUSED.by };
                selected.refused.insert(name.clone(), (found, why));
            }
        }
    }
    selected
}

/// The interfaces by whose frames uplinks get theirs, with the name of an uplink: the members of a bond, what a VLAN or a macvlan
/// is on, and what is under these. The ports of a bridge are not: what comes by one is that of its own clients, and an
/// answer out of the bridge would go to whoever has sent last from their MAC address.
fn beneath<'a>(links: &[Link], uplinks: &'a [String]) -> BTreeMap<u32, &'a str> {
    let mut found = BTreeMap::new();
    let named = |name: &&String| links.iter().find(|link| link.name == **name);
    let mut left: Vec<(&Link, &str)> =
        uplinks.iter().filter_map(|name| Some((named(&name)?, name.as_str()))).collect();
    while let Some((above, uplink)) = left.pop() {
        // A veth's `link` is its other end.
        let below = (above.link_namespace.is_none() && above.kind != "veth").then_some(above.link);
        let is_member = |link: &Link| link.master == above.index && above.kind != "bridge";
        for link in links
            .iter()
            .filter(|link| link.index != 0 && (is_member(link) || Some(link.index) == below))
        {
            if !uplinks.contains(&link.name) && found.insert(link.index, uplink).is_none() {
                left.push((link, uplink));
            }
        }
    }
    found
}

/// By which interface answers are routed to a link's clients, or why nobody knows.
pub(crate) fn way(link: &Link, links: &[Link]) -> Result<u32, String> {
    if link.master == 0 {
        return Ok(link.index);
    }
    let Some(master) = links.iter().find(|other| other.index == link.master) else {
        return Err("what it belongs to is not known".to_owned());
    };
    let Link { name, kind, .. } = master;
    match kind.as_str() {
        // Routes stay a member's own.
        "vrf" => Ok(link.index),
        "bridge" if master.is_vlan_aware => Err(format!(
            "it is a port of {name}, which tells VLANs apart: by which interface its clients are reached is not known"
        )),
        "bridge" => Ok(master.index),
        _ => Err(format!(
            "it belongs to {name}, of the kind {kind:?}: by which interface its clients are reached is not known"
        )),
    }
}

/// The interfaces by which something is routed, as far as the main tables say: a client link that is answered by itself and is none
/// of these answers nobody. For those who ask: a pod's route may come after its link.
pub(crate) fn routed() -> BTreeSet<String> {
    let read = |file: &str| fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
    of_routes(&read("route"), &read("ipv6_route"))
}

fn of_routes(v4: &str, v6: &str) -> BTreeSet<String> {
    /// `RTF_REJECT`, and for IPv6 `RTF_ANYCAST` and `RTF_LOCAL`.
    const TO_NOBODY: u32 = 0x200 | 0x10_0000 | 0x8000_0000;
    let is_to_somebody =
        |flags: &str| u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & TO_NOBODY == 0);
    let v4 = v4.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, flags) = (fields.next()?, fields.nth(2)?);
        is_to_somebody(flags).then_some(device)
    });
    let v6 = v6.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (destination, flags, device) = (fields.next()?, fields.nth(7)?, fields.next()?);
        // Every interface has these.
        let is_of_all = destination.starts_with("fe80") || destination.starts_with("ff");
        (!is_of_all && is_to_somebody(flags)).then_some(device)
    });
    v4.chain(v6).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32) -> Link {
        Link { name: name.to_owned(), index, is_ethernet: true, ..Link::default() }
    }

    fn of_kind(kind: &str, link: Link) -> Link {
        Link { kind: kind.to_owned(), ..link }
    }

    fn selected(links: &[Link], patterns: &[&str], uplinks: &[&str]) -> Selected {
        let patterns: Vec<_> = patterns.iter().map(|p| LinkPattern::parse(p).unwrap()).collect();
        select(links, &patterns, &uplinks.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn client_links_are_those_with_fitting_names_and_are_answered_where_their_routes_are() {
        let links = [
            link("eth0", 2),
            link("veth1", 3),
            Link { master: 9, ..link("veth2", 4) },
            // A VRF's: its routes are its own.
            Link { master: 8, ..link("veth3", 5) },
            link("veth-up", 6),
            Link { is_ethernet: false, ..link("veth-tun", 7) },
            of_kind("vrf", link("red", 8)),
            of_kind("bridge", link("cni0", 9)),
            of_kind("veth", link("roost0", 12)),
        ];
        let found = selected(&links, &["veth*", "eth0", "roost*"], &["veth-up", "eth0"]);
        let expected = [("veth1", 3, 3), ("veth2", 4, 9), ("veth3", 5, 5)];
        let expected = expected.map(|(name, index, by)| (name.to_owned(), Found { index, by }));
        assert_eq!(found, Selected { served: BTreeMap::from(expected), ..Selected::default() });
    }

    #[test]
    fn what_nobody_knows_the_way_back_of_is_refused() {
        let links = [
            Link { master: 10, ..link("veth1", 3) },
            Link { master: 11, ..link("veth2", 4) },
            Link { master: 12, ..link("veth3", 5) },
            of_kind("openvswitch", link("ovs-system", 10)),
            Link { is_vlan_aware: true, ..of_kind("bridge", link("br0", 11)) },
        ];
        let found = selected(&links, &["veth*"], &[]);
        assert!(found.served.is_empty() && found.beneath.is_empty(), "{found:?}");
        let why = |name: &str| found.refused[name].1.as_str();
        assert!(why("veth1").contains("ovs-system, of the kind \"openvswitch\""), "{found:?}");
        assert!(why("veth2").contains("a port of br0, which tells VLANs apart"), "{found:?}");
        assert!(why("veth3").contains("is not known"), "{found:?}");
        assert!(found.refused.values().all(|(found, _)| found.by == 0));
    }

    #[test]
    fn what_is_under_an_uplink_is_left_out() {
        let links = [
            of_kind("vlan", Link { link: 3, ..link("bond0.5", 2) }),
            of_kind("bond", link("bond0", 3)),
            Link { master: 3, ..link("eth1", 4) },
            Link { master: 3, ..link("eth2", 5) },
            link("eth3", 6),
            // Its other end has an index that is another one's here.
            Link { link: 6, link_namespace: Some(0), ..link("eth4", 7) },
            // Each port has clients of its own, and the way back to them is the bridge.
            of_kind("bridge", link("br0", 8)),
            Link { master: 8, ..link("eth5", 9) },
            // The two ends of one link.
            of_kind("veth", Link { link: 11, ..link("up", 10) }),
            of_kind("veth", Link { link: 10, ..link("eth6", 11) }),
        ];
        let found = selected(&links, &["eth?", "bond*"], &["bond0.5", "eth4", "br0", "up"]);
        let served: Vec<_> =
            found.served.iter().map(|(name, found)| (name.as_str(), found.by)).collect();
        assert_eq!(served, [("eth3", 6), ("eth5", 8), ("eth6", 11)]);
        assert!(found.refused.is_empty(), "{found:?}");
        let expected = [("bond0", "bond0.5"), ("eth1", "bond0.5"), ("eth2", "bond0.5")];
        assert_eq!(found.beneath, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
        // An uplink's member that is an uplink itself is one.
        let found = selected(&links, &["eth?"], &["bond0", "eth1"]);
        assert!(!found.beneath.contains_key("eth1") && found.beneath.contains_key("eth2"));
    }

    #[test]
    fn what_every_interface_has_is_no_route_to_clients() {
        let v4 = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            veth1 C6123265 00000000 0005 0 0 0 FFFFFFFF 0 0 0\n\
            * C612C800 00000000 0201 0 0 0 00FFFFFF 0 0 0\n";
        let line = |to: &str, flags: &str, device: &str| {
            let (to, none) = (format!("{to:0<32}"), "0".repeat(32));
            format!("{to} 80 {none} 00 {none} 00000400 00000001 00000000 {flags} {device}\n")
        };
        let v6 = line("fe80", "00000001", "veth2")
            + &line("ff", "00000001", "veth2")
            + &line("fd52", "80200001", "veth3")
            + &line("fd53", "00000005", "veth4");
        assert_eq!(of_routes(v4, &v6), ["veth1", "veth4"].map(str::to_owned).into());
    }
}
