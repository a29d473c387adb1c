//! Connections through a node that tracks them, as nodes of Kubernetes do.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join;
use roost_chat::client::load;
use roost_tests::lab::{Config, Family, Lab, Matched, Site, Way, heavy};

const TABS: usize = 60;

#[test]
fn a_tracking_and_masquerading_node_sees_ordinary_connections() -> Result<()> {
    let site = Site::start(Lab::builder("netfilter"), Config::new)?;
    site.lab.kubernetes_rules()?;
    let clients = site.clients()?;
    for (round, family) in Family::BOTH.into_iter().enumerate() {
        let mut load = clients.run(load::open(&load::Plan::new(site.vip(family), 20, TABS)));
        clients.run(load.say(Duration::from_secs(60)));
        let opened = load.opened();
        assert_eq!((opened.opened, opened.whole), (TABS, 20), "{family}: {:?}", opened.errors);
        // Both directions, and the end.
        let (mut down, mut up) =
            (clients.http(site.vip(family), "down")?, clients.http(site.vip(family), "up")?);
        clients
            .run(async { try_join(down.download(10 << 20, 7), up.upload(10 << 20, 8)).await })?;
        drop((down, up));
        let ended = clients.run(load.hold(None, std::future::ready(())));
        assert_eq!(ended.lost, 0, "{family}: {:?}", ended.errors);
        let connections = (round as u64 + 1) * (TABS as u64 + 2);
        let matched = site.lab.matched()?;
        let all = Matched { forwarded: matched.forwarded, ..Matched::default() };
        assert_eq!(matched, all, "{family}\n{}", site.diagnosis());
        // A SYN that a slow machine lets its client's data send again is new once more.
        assert!(matched.forwarded >= connections, "{family}: {matched:?}");
    }
    Ok(())
}

#[test]
fn nothing_is_masqueraded_where_segments_are_lost() -> Result<()> {
    let _heavy = heavy()?;
    let site = Site::start(Lab::builder("netfilter-loss").replicas(1), Config::new)?;
    site.lab.kubernetes_rules()?;
    let replica = &site.lab.replicas[0];
    for (ns, device) in [(&replica.ns, "eth0"), (&site.lab.node, replica.node_device.as_str())] {
        ns.set_loss(device, Way::In, 5)?;
    }
    let clients = site.clients()?;
    for family in Family::BOTH {
        let (mut down, mut up) =
            (clients.http(site.vip(family), "down")?, clients.http(site.vip(family), "up")?);
        let both = async { try_join(down.download(5 << 20, 7), up.upload(5 << 20, 8)).await };
        clients.run(async { tokio::time::timeout(Duration::from_secs(120), both).await })??;
    }
    let matched = site.lab.matched()?;
    assert_eq!((matched.masqueraded, matched.proxied), (0, 0), "{matched:?}");
    Ok(())
}
