//! Whole transfers: every byte arrives, in both directions, on good paths and bad ones.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join;
use roost_chat::client::{Http, load};
use roost_tests::lab::{Clients, Config, Family, Lab, Netns, Site, Way, heavy, try_until};
use tokio::time::timeout;

const MB: u64 = 1 << 20;

/// Downloads and uploads at the same time, each over a connection of its own.
fn both_ways(site: &Site, family: Family, length: u64, limit: Duration) -> Result<()> {
    let clients = Clients::new(&site.lab.client)?;
    transfer(site, &clients, family, length, limit, |chat| {
        connection(site, &clients, family, chat, Duration::from_secs(60))
    })
}

/// The same from a namespace, where segments are lost. Too many of a handshake's may be.
fn both_ways_with_loss(site: &Site, from: &Arc<Netns>, family: Family, length: u64) -> Result<()> {
    let clients = Clients::new(from)?;
    transfer(site, &clients, family, length, Duration::from_secs(300), |chat| {
        try_until(Duration::from_secs(120), "a connection", || {
            connection(site, &clients, family, chat, Duration::from_secs(20)).map(Some)
        })
    })
}

/// A connection that is bound.
fn connection(
    site: &Site,
    clients: &Clients,
    family: Family,
    chat: &str,
    limit: Duration,
) -> Result<Http> {
    let mut http = clients.http(site.vip(family), chat)?;
    clients.run(async { timeout(limit, http.whoami()).await })??;
    Ok(http)
}

fn transfer(
    site: &Site,
    clients: &Clients,
    family: Family,
    length: u64,
    limit: Duration,
    open: impl Fn(&str) -> Result<Http>,
) -> Result<()> {
    let (mut down, mut up) = (open("down")?, open("up")?);
    let seed = length ^ 0x5eed;
    let transfers = async { try_join(down.download(length, seed), up.upload(length, !seed)).await };
    let done = clients.run(async { timeout(limit, transfers).await });
    let done = done.with_context(|| format!("not done within {limit:?}")).flatten();
    let (down, up) = done.with_context(|| format!("{family}\n{}", site.diagnosis()))?;
    println!("{family}: {length} bytes, down in {:?}, up in {:?}", down.took, up.took);
    Ok(())
}

/// What the kernel has counted in a namespace: a file of `/proc`, the beginning of its lines, a name.
fn counted(ns: &Netns, (file, lines, name): (&str, &str, &str)) -> Result<u64> {
    let text = ns.run(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))?;
    let mut found = text.lines().filter(|line| line.starts_with(lines));
    let (names, values) = (found.next().context("no names")?, found.next().context("no values")?);
    let at = names.split(' ').position(|found| found == name).context("no such name")?;
    Ok(values.split(' ').nth(at).context("no such value")?.parse()?)
}

/// Makes sure that nobody's kernel has counted any of these.
fn nobody_counted(site: &Site, what: (&str, &str, &str)) -> Result<()> {
    let lab = &site.lab;
    for ns in lab.replicas.iter().map(|replica| &replica.ns).chain([&lab.client]) {
        let count = counted(ns, what)?;
        ensure!(count == 0, "{count} of {what:?} in {}", ns.name());
    }
    Ok(())
}

/// No segment was dropped because its checksum was wrong.
fn no_checksum_errors(site: &Site) -> Result<()> {
    nobody_counted(site, ("snmp", "Tcp:", "InCsumErrors"))
}

#[test]
fn a_hundred_megabytes_arrive_whole_each_way() -> Result<()> {
    let _heavy = heavy()?;
    let site = Site::home("whole")?;
    for family in Family::BOTH {
        both_ways(&site, family, 100 * MB, Duration::from_secs(120))?;
    }
    no_checksum_errors(&site)
}

#[test]
fn they_arrive_whole_with_loss_and_reordering_towards_the_client() -> Result<()> {
    let _heavy = heavy()?;
    let lab = Lab::builder("loss-client").far_client(true);
    let site = Site::start(lab, Config::new)?;
    let (far, router) = (site.lab.far_client(), &site.lab.client);
    // Cut into segments before they are lost one by one.
    far.set_offload("eth0", "gso", false)?;
    // In the router, and not where they are sent: TCP takes notice of what its own host drops.
    for device in ["eth0", "far"] {
        router.set_loss(device, Way::In, 5)?;
        router.set_reordering(device, 5)?;
    }
    for family in Family::BOTH {
        both_ways_with_loss(&site, far, family, 100 * MB)?;
    }
    much_was_lost(router, "eth0")?;
    much_was_lost(router, "far")?;
    no_checksum_errors(&site)
}

/// Makes sure that the loss was real.
fn much_was_lost(ns: &Netns, device: &str) -> Result<()> {
    let lost = ns.lost(device, Way::In)?;
    println!("{lost} packets were lost at {device} of {}", ns.name());
    ensure!(lost > 1000, "only {lost} packets were lost at {device} of {}", ns.name());
    Ok(())
}

#[test]
fn they_arrive_whole_with_loss_and_reordering_towards_the_replica() -> Result<()> {
    let _heavy = heavy()?;
    let site = Site::start(Lab::builder("loss-replica").replicas(1), Config::new)?;
    let (node, replica) = (&site.lab.node, &site.lab.replicas[0]);
    replica.ns.set_offload("eth0", "gso", false)?;
    replica.ns.set_offload("eth0", "tso", false)?;
    for (ns, device) in [(&replica.ns, "eth0"), (node, &replica.node_device)] {
        ns.set_loss(device, Way::In, 5)?;
        ns.set_reordering(device, 5)?;
    }
    for family in Family::BOTH {
        both_ways_with_loss(&site, &site.lab.client, family, 100 * MB)?;
    }
    much_was_lost(&replica.ns, "eth0")?;
    much_was_lost(node, &replica.node_device)?;
    no_checksum_errors(&site)
}

#[test]
fn connections_open_although_segments_are_lost() -> Result<()> {
    let _heavy = heavy()?;
    let lab = Lab::builder("lossy-open").replicas(1).far_client(true);
    let site = Site::start(lab, Config::new)?;
    let (node, replica) = (&site.lab.node, &site.lab.replicas[0]);
    let (far, router) = (site.lab.far_client(), &site.lab.client);
    let sides = [
        [(&**router, "far"), (&**router, "eth0")],
        [(&*replica.ns, "eth0"), (&**node, &*replica.node_device)],
    ];
    for (side, family) in sides.iter().flat_map(|side| Family::BOTH.map(|family| (side, family))) {
        let clients = Clients::new(far)?;
        // Everybody knows their neighbours: a second without an answer to ARP would count as the
        // time of a round trip, and what is lost then be sent again too late for this test.
        clients.run(clients.tab(site.vip(family), "before")?.close())?;
        for (ns, device) in side {
            ns.set_loss(device, Way::In, 3)?;
            ns.set_reordering(device, 5)?;
        }
        // A segment is sent about ten times within this: that one of the 1200 connections does not open by
        // chance is one in 10^9.
        let limit = Duration::from_secs(120);
        let plan = load::Plan { limit, ..load::Plan::new(site.vip(family), 30, 300) };
        let mut load = clients.run(load::open(&plan));
        let opened = load.opened();
        let (failed, errors) = (opened.failed, &opened.errors);
        ensure!(failed == 0, "{family}: {failed} failed: {errors:?}\n{}", site.diagnosis());
        clients.run(load.say(limit));
        assert_eq!(load.opened().reached, Some(300), "{family}");
        assert_eq!(site.live_flows()?.len(), 300, "{family}");
        for (ns, device) in side {
            ns.set_loss(device, Way::In, 0)?;
            ns.set_reordering(device, 0)?;
        }
        let ended = clients.run(load.hold(None, std::future::ready(())));
        assert_eq!(ended.lost, 0, "{family}: {:?}", ended.errors);
        try_until(Duration::from_secs(60), "the flows and chats to end", || {
            let empty = site.live_flows()?.is_empty() && site.live_chats()?.is_empty();
            Ok(empty.then_some(()))
        })?;
    }
    Ok(())
}

/// With offloads a wrong checksum passes unseen, because a partial one is trusted. Here every
/// sender finishes its own, so that every receiver verifies what was made of it on the way.
#[test]
fn checksums_are_right_when_they_are_finished_for_real() -> Result<()> {
    let site = Site::start(Lab::builder("checksums").replicas(1), Config::new)?;
    let lab = &site.lab;
    let replica = &lab.replicas[0];
    replica.ns.set_offload("eth0", "tx", false)?;
    lab.node.set_offload("eth0", "tx", false)?;
    lab.node.set_offload(&replica.node_device, "tx", false)?;
    let file = |name: &str| lab.dir().join(name);
    let uplink = lab.node.capture("eth0", &file("uplink.pcap"), "tcp")?;
    let inside = lab.node.capture(&replica.node_device, &file("inside.pcap"), "tcp")?;
    for family in Family::BOTH {
        both_ways(&site, family, MB, Duration::from_secs(120))?;
    }
    no_checksum_errors(&site)?;
    for (capture, vip) in [(uplink, "198.18.200.1"), (inside, "198.18.101.2")] {
        let packets = capture.finish()?;
        ensure!(packets.contains(vip), "nothing of {vip} was captured:\n{packets}");
        // tcpdump has looked at checksums.
        ensure!(packets.contains("(correct)"), "no checksum was verified:\n{packets}");
        // What the node receives may have been joined by GRO, which leaves a partial sum.
        let sent = |line: &&str| line.contains(&format!("{vip}.")) && line.contains("incorrect");
        let wrong: Vec<_> = packets.lines().filter(sent).take(5).collect();
        ensure!(wrong.is_empty(), "wrong checksums: {wrong:#?}");
    }
    Ok(())
}

/// Sysctls that take an offer out of the handshake.
const OFFERS: [(&str, &[&str]); 4] = [
    ("timestamps", &["tcp_timestamps"]),
    ("sack", &["tcp_sack"]),
    ("scaling", &["tcp_window_scaling"]),
    ("options", &["tcp_timestamps", "tcp_sack", "tcp_window_scaling"]),
];

#[test]
fn clients_may_do_without_options() -> Result<()> {
    let site = Site::home("client-offers")?;
    without_options(&site, &[&*site.lab.client])
}

#[test]
fn replicas_may_do_without_options() -> Result<()> {
    let site = Site::home("replica-offers")?;
    let replicas: Vec<&Netns> = site.lab.replicas.iter().map(|replica| &*replica.ns).collect();
    without_options(&site, &replicas)
}

fn without_options(site: &Site, who: &[&Netns]) -> Result<()> {
    let set = |keys: &[&str], value: &str| -> Result<()> {
        for (ns, key) in who.iter().flat_map(|ns| keys.iter().map(move |key| (ns, key))) {
            ns.sysctl(&format!("net.ipv4.{key}"), value)?;
        }
        Ok(())
    };
    for (name, keys) in OFFERS {
        set(keys, "0")?;
        for family in Family::BOTH {
            both_ways(site, family, 5 * MB, Duration::from_secs(120))
                .with_context(|| format!("without {name}"))?;
        }
        set(keys, "1")?;
    }
    no_checksum_errors(site)
}

/// A replica's timestamps begin anywhere (`tcp_timestamps` 1 adds a random number for each connection), and go on
/// for its client where that of our SYN-ACK stopped: PAWS (RFC 7323 section 5) never takes one for an old one.
#[test]
fn timestamps_go_on_where_ours_stopped() -> Result<()> {
    let site = Site::start(Lab::builder("paws").replicas(3), Config::new)?;
    let clients = Clients::new(&site.lab.client)?;
    for family in Family::BOTH {
        let chats = (0..40).map(|chat| clients.http(site.vip(family), &format!("chat-{chat}")));
        let mut open = chats.collect::<Result<Vec<_>>>()?;
        for http in &mut open {
            clients.run(async { timeout(Duration::from_secs(20), http.whoami()).await })??;
        }
        let flows = site.roost.json(&["maps", "dump", "FLOWS"])?;
        let flows = flows[0]["entries"].as_array().context("a list of flows")?.iter();
        let mut deltas: Vec<_> =
            flows.filter_map(|flow| flow["value"]["ts_delta"].as_u64()).collect();
        deltas.sort_unstable();
        deltas.dedup();
        println!("{family}: {} differences, up to {:?}", deltas.len(), deltas.last());
        ensure!(deltas.iter().any(|delta| (1 << 28..(1 << 32) - (1 << 28)).contains(delta)));
        for http in &mut open {
            let transfer = async {
                http.download(20_000, 1).await?;
                http.upload(20_000, 2).await?;
                http.whoami().await
            };
            clients.run(async { timeout(Duration::from_secs(20), transfer).await })??;
        }
    }
    for name in ["PAWSActive", "PAWSEstab"] {
        nobody_counted(&site, ("netstat", "TcpExt:", name))?;
    }
    Ok(())
}

#[test]
fn offers_that_roost_does_not_know_are_dropped_cleanly() -> Result<()> {
    let site = Site::home("ecn")?;
    site.lab.client.sysctl("net.ipv4.tcp_ecn", "1")?;
    site.lab.client.sysctl("net.ipv4.tcp_fastopen", "3")?;
    for family in Family::BOTH {
        both_ways(&site, family, 5 * MB, Duration::from_secs(120))?;
    }
    no_checksum_errors(&site)
}

#[test]
fn mtus_may_differ() -> Result<()> {
    for (name, uplink, inside) in
        [("mtu-up", 1300, 1500), ("mtu-in", 1500, 1300), ("mtu-jumbo", 1500, 9000)]
    {
        let lab = Lab::builder(name).replicas(1).uplink_mtu(uplink).replica_mtu(inside);
        let site = Site::start(lab, Config::new)?;
        for family in Family::BOTH {
            both_ways(&site, family, 5 * MB, Duration::from_secs(120)).context(name)?;
        }
        no_checksum_errors(&site)?;
    }
    Ok(())
}

#[test]
fn generic_mode_works_and_is_warned_of() -> Result<()> {
    let lab = Lab::builder("generic").replicas(1).uplink_mtu(9000).replica_mtu(9000);
    let mut site = Site::start(lab, Config::new)?;
    let log = site.roost.process().log();
    ensure!(log.contains("WARN") && log.contains("generic"), "no warning:\n{log}");
    for family in Family::BOTH {
        both_ways(&site, family, 20 * MB, Duration::from_secs(120))?;
    }
    no_checksum_errors(&site)
}

#[test]
fn an_uplink_as_of_container_networks_works() -> Result<()> {
    let mut site = Site::start(Lab::builder("untouched").untouched(true), Config::new)?;
    let log = site.roost.process().log();
    ensure!(log.contains("whose other end") && log.contains("ingress=generic"), "{log}");
    let clients = Clients::new(&site.lab.client)?;
    for family in Family::BOTH {
        let mut load = clients.run(load::open(&load::Plan::new(site.vip(family), 10, 30)));
        clients.run(load.say(Duration::from_secs(60)));
        let opened = load.opened();
        ensure!((opened.opened, opened.whole) == (30, 10), "{family}: {:?}", opened.errors);
        both_ways(&site, family, 50 * MB, Duration::from_secs(120))?;
        let ended = clients.run(load.hold(None, std::future::ready(())));
        ensure!(ended.lost == 0, "{family}: {:?}", ended.errors);
    }
    no_checksum_errors(&site)
}

#[test]
fn where_a_device_finishes_checksums_they_are_right() -> Result<()> {
    let mut site = Site::start(Lab::builder("finished").untouched(true).replicas(1), Config::new)?;
    // Towards the replica they are finished for real, which nobody on one machine would notice otherwise.
    site.lab.node.set_offload(&site.lab.replicas[0].node_device, "tx", false)?;
    for family in Family::BOTH {
        both_ways(&site, family, 20 * MB, Duration::from_secs(120))
            .with_context(|| site.roost.process().log())?;
    }
    no_checksum_errors(&site)
}

#[test]
fn offloads_may_be_on_or_off() -> Result<()> {
    let site = Site::start(Lab::builder("offloads").replicas(1), Config::new)?;
    let lab = &site.lab;
    let replica = &lab.replicas[0];
    for (ns, device, offload, on) in [
        (&lab.node, replica.node_device.as_str(), "gro", true),
        (&lab.node, "eth0", "tso", false),
        (&lab.node, "eth0", "gso", false),
        (&replica.ns, "eth0", "gro", true),
        (&replica.ns, "eth0", "tso", false),
        (&replica.ns, "eth0", "gso", false),
        (&replica.ns, "eth0", "tx", false),
    ] {
        ns.set_offload(device, offload, on)?;
        for family in Family::BOTH {
            both_ways(&site, family, 5 * MB, Duration::from_secs(120))
                .with_context(|| format!("{offload} of {device} in {}", ns.name()))?;
        }
    }
    no_checksum_errors(&site)
}
