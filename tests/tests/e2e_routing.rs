//! Where connections go: chats, key sources, missing keys, overrides.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use roost_chat::client::{Http, Tab, Upgrade, load};
use roost_tests::lab::{Clients, Config, Family, Lab, Site, VIP_PORT, heavy, try_until};
use serde_json::Value;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Tabs of several chats, open at once, and what is said in each.
fn open(clients: &Clients, vip: SocketAddr, chats: usize, tabs: usize) -> Result<load::Load> {
    let mut load = open_unheard(clients, vip, chats, tabs)?;
    clients.run(load.say(SECONDS(60)));
    Ok(load)
}

/// The same, and nothing is said.
fn open_unheard(
    clients: &Clients,
    vip: SocketAddr,
    chats: usize,
    tabs: usize,
) -> Result<load::Load> {
    let load = clients.run(load::open(&load::Plan::new(vip, chats, tabs)));
    let opened = load.opened();
    assert_eq!((opened.opened, opened.failed), (tabs, 0), "{:?}", opened.errors);
    Ok(load)
}

fn close_all(clients: &Clients, load: load::Load) {
    let ended = clients.run(load.hold(None, std::future::ready(())));
    assert_eq!(ended.lost, 0, "{:?}", ended.errors);
}

/// Flows and chats end when their connections do.
fn wait_until_empty(site: &Site) -> Result<()> {
    try_until(SECONDS(60), "the flows and chats to end", || {
        Ok((site.live_flows()?.is_empty() && site.live_chats()?.is_empty()).then_some(()))
    })
}

#[test]
fn every_chat_is_whole_at_its_home() -> Result<()> {
    let site = Site::home("home")?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let load = open(&clients, site.vip(family), 60, 180)?;
        let opened = load.opened();
        assert_eq!((opened.whole, opened.reached), (60, Some(180)), "{family}: {opened:?}");
        // 60 chats: none on some replica would be a chance of one in ten thousand million.
        assert_eq!(opened.replicas.len(), 3, "{family}: every replica has some: {opened:?}");

        let chats = site.live_chats()?;
        assert_eq!(chats.len(), 60, "{family}");
        for chat in &chats {
            let homes = &opened.chats[chat["key"].as_str().expect("a key")];
            assert_eq!(homes.keys().collect::<Vec<_>>(), [chat["home"].as_str().expect("a home")]);
            assert_eq!(chat["flows"], 3, "{family}: {chat}");
        }
        assert_eq!(site.live_flows()?.len(), 180);
        close_all(&clients, load);
        wait_until_empty(&site)?;
    }
    Ok(())
}

#[test]
fn the_replica_sees_the_client_itself() -> Result<()> {
    let site = Site::home("peer")?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let tab = clients.tab(site.vip(family), "1")?;
        assert_eq!(tab.hello().peer, tab.local_addr());
        assert_eq!(tab.hello().peer.ip(), site.lab.client_addr(family));
    }
    Ok(())
}

#[test]
fn the_same_chat_written_in_two_ways_is_one() -> Result<()> {
    let site = Site::home("written")?;
    let clients = site.clients()?;
    let vip = site.vip(Family::V4);
    let ways = ["/ws?chat=%61b%20c", "/ws?chat=ab%20c", "/ws?x=1&chat=a%62%20c&y=2"];
    let mut tabs = Vec::new();
    for path in ways {
        let stream = site.lab.client.connect(vip)?;
        let request = Upgrade::path(vip.to_string(), path);
        tabs.push(clients.run(Tab::upgrade(stream, &request))?);
    }
    let chats = site.live_chats()?;
    assert_eq!(chats.len(), 1, "{chats:?}");
    assert_eq!((&chats[0]["key"], &chats[0]["flows"]), (&"ab c".into(), &3.into()));
    Ok(())
}

#[test]
fn spread_uses_every_replica_and_keeps_no_chats() -> Result<()> {
    let site = Site::start(Lab::builder("spread"), |lab| Config::new(lab).policy("spread"))?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let load = open_unheard(&clients, site.vip(family), 10, 180)?;
        let opened = load.opened();
        assert_eq!(opened.replicas.len(), 3, "{family}: {opened:?}");
        // 180 tabs: 20 and less on a replica would be a chance of one in 3 * 10^10.
        assert!(opened.replicas.values().all(|tabs| *tabs > 20), "{family}: {opened:?}");
        assert!(site.live_chats()?.is_empty());
        close_all(&clients, load);
    }
    Ok(())
}

#[test]
fn thousands_of_tabs_over_hundreds_of_chats_are_whole() -> Result<()> {
    let _heavy = heavy()?;
    let site = Site::home("many")?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let load = open(&clients, site.vip(family), 300, 3000)?;
        let opened = load.opened();
        assert_eq!((opened.whole, opened.reached), (300, Some(3000)), "{family}");
        assert_eq!(site.live_flows()?.len(), 3000);
        assert_eq!(site.live_chats()?.len(), 300);
        close_all(&clients, load);
        wait_until_empty(&site)?;
    }
    Ok(())
}

/// The replicas that a number of tabs are on.
fn replicas<'a>(tabs: impl IntoIterator<Item = &'a Tab>) -> BTreeSet<&'a str> {
    tabs.into_iter().map(Tab::replica).collect()
}

#[test]
fn the_client_address_can_name_the_chat() -> Result<()> {
    let site = Site::start(Lab::builder("client"), |lab| Config::new(lab).key("client"))?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let mut homes = BTreeSet::new();
        let mut tabs: BTreeMap<IpAddr, Vec<Tab>> = BTreeMap::new();
        // All on one replica: one in 3 to the 23rd.
        for (n, round) in (0..24).flat_map(|n| (0..3).map(move |round| (n, round))) {
            let from = site.lab.client_addr_n(family, n);
            // The request does not matter.
            let tab = clients.tab_from((from, 0).into(), site.vip(family), &round.to_string())?;
            tabs.entry(from).or_default().push(tab);
        }
        for (from, tabs) in &tabs {
            let on = replicas(tabs);
            assert_eq!(on.len(), 1, "{from} is split over {on:?}");
            homes.extend(on.into_iter().map(str::to_owned));
        }
        assert!(homes.len() > 1, "{family}: 24 clients, but all are on {homes:?}");
        assert_eq!(site.live_chats()?.len(), 24);
        drop(tabs);
        wait_until_empty(&site)?;
    }
    Ok(())
}

#[test]
fn the_destination_address_can_name_the_chat() -> Result<()> {
    let config = |lab: &Lab| {
        let mut config = Config::new(lab).key("destination");
        config.addresses = Family::BOTH.map(|family| lab.vip_prefix(family).to_owned()).into();
        config
    };
    let site = Site::start(Lab::builder("destination"), config)?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let mut all = Vec::new();
        let mut homes = BTreeSet::new();
        // All on one replica: one in 3 to the 23rd.
        for n in 1..=24 {
            let vip = SocketAddr::new(site.lab.vip_n(family, n), VIP_PORT);
            // A client port of its own for each: the replica sees no difference between VIPs, and
            // a port that the kernel gives out twice, to two of them, would be reset.
            let tabs = (0..3).map(|tab| {
                let port = 22_000 + u16::from(n) * 10 + tab;
                let from = SocketAddr::new(site.lab.client_addr(family), port);
                clients.tab_from(from, vip, "any")
            });
            let tabs: Vec<Tab> = tabs.collect::<Result<_>>()?;
            assert_eq!(replicas(&tabs).len(), 1, "{vip} is split");
            homes.extend(replicas(&tabs).into_iter().map(str::to_owned));
            all.extend(tabs);
        }
        assert!(homes.len() > 1, "{family}: 24 addresses, but all are on {homes:?}");
        drop(all);
    }
    Ok(())
}

/// Whether it is the client's own end that has the port still.
fn is_in_use(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| matches!(cause.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable))
}

#[test]
fn the_tuple_can_name_the_chat() -> Result<()> {
    let site = Site::start(Lab::builder("tuple"), |lab| Config::new(lab).key("tuple"))?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let mut seen = BTreeSet::new();
        // All on one replica: one in 3 to the 23rd.
        for port in 20_000..20_024 {
            let from = SocketAddr::new(site.lab.client_addr(family), port);
            let first = clients.tab_from(from, site.vip(family), "any")?;
            let replica = first.replica().to_owned();
            // The client's end has no TIME_WAIT after an RST: the tuple is free, once the socket
            // is closed in every child that another test is just forking.
            first.abort()?;
            let what = "the tuple to be free";
            let second = try_until(SECONDS(60), what, || {
                match clients.tab_from(from, site.vip(family), "other") {
                    Err(error) if is_in_use(&error) => Ok(None),
                    other => Ok(Some(other)),
                }
            })??;
            assert_eq!(second.replica(), replica, "the same tuple is the same chat");
            seen.insert(replica);
        }
        assert!(seen.len() > 1, "{family}: 24 tuples, but all went to {seen:?}");
    }
    Ok(())
}

/// Opens HTTP connections without a key; the replicas that answered, or the errors.
fn keyless(site: &Site, family: Family, connections: usize) -> Result<Vec<Result<String>>> {
    let clients = site.clients()?;
    let vip = site.vip(family);
    let one = || {
        clients.run(async {
            let mut http = Http::open(vip, &vip.to_string(), None).await?;
            Ok(http.whoami().await?.replica)
        })
    };
    Ok((0..connections).map(|_| one()).collect())
}

#[test]
fn without_a_key_connections_can_be_spread() -> Result<()> {
    let config = |lab: &Lab| Config::new(lab).with("on_missing_key = \"spread\"");
    let site = Site::start(Lab::builder("missing-spread"), config)?;
    for family in Family::BOTH {
        let replicas = keyless(&site, family, 60)?.into_iter().collect::<Result<BTreeSet<_>>>()?;
        assert_eq!(replicas.len(), 3, "{family}: {replicas:?}");
    }
    assert!(site.live_chats()?.is_empty(), "no key is no chat");
    // A segment that a slow machine lets a client send again is counted again.
    assert!(site.counter("missing_key")? >= 120);
    Ok(())
}

#[test]
fn without_a_key_connections_can_be_rejected() -> Result<()> {
    let config = |lab: &Lab| Config::new(lab).with("on_missing_key = \"reject\"");
    let site = Site::start(Lab::builder("missing-reject"), config)?;
    for family in Family::BOTH {
        for answer in keyless(&site, family, 3)? {
            let error = format!("{:#}", answer.expect_err("reset"));
            assert!(error.to_lowercase().contains("reset"), "{family}: {error}");
        }
        // Those with a key are served.
        site.clients()?.tab(site.vip(family), "1")?;
    }
    assert!(site.counter("reset_missing_key")? >= 6);
    Ok(())
}

#[test]
fn without_a_key_connections_can_go_to_one_replica() -> Result<()> {
    let config = |lab: &Lab| Config::new(lab).with("on_missing_key = \"replica-2\"");
    let site = Site::start(Lab::builder("missing-replica"), config)?;
    for family in Family::BOTH {
        for answer in keyless(&site, family, 10)? {
            assert_eq!(answer?, "replica-2", "{family}");
        }
    }
    Ok(())
}

#[test]
fn keys_can_be_bound_to_one_chat_and_a_chat_pinned() -> Result<()> {
    let site = Site::home("override")?;
    let clients = site.clients()?;
    let roost = &site.roost;
    for (n, target) in ["replica-1", "replica-2", "replica-3"].into_iter().enumerate() {
        let family = Family::BOTH[n % 2];
        let (chat, guest) = (format!("host-{n}"), format!("guest-{n}"));
        roost.text(&["chat", "bind", "chat", &guest, "--chat", &chat])?;
        roost.text(&["chat", "pin", "chat", &chat, "--replica", target])?;
        let tabs = [chat, guest].map(|key| clients.tab(site.vip(family), &key));
        for tab in tabs {
            assert_eq!(tab?.replica(), target, "{family}");
        }
    }
    assert!(site.counter("overridden")? >= 6);
    Ok(())
}

#[test]
fn addresses_that_are_registered_for_a_chat_share_it() -> Result<()> {
    let site = Site::start(Lab::builder("clients-bound"), |lab| Config::new(lab).key("client"))?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let mut tabs = Vec::new();
        for n in 0..8 {
            let from = site.lab.client_addr_n(family, n);
            site.roost.text(&["chat", "bind", "chat", &from.to_string(), "--chat", "office"])?;
            tabs.push(clients.tab_from((from, 0).into(), site.vip(family), "any")?);
        }
        assert_eq!(replicas(&tabs).len(), 1, "{family}: one chat of eight addresses");
        let chats = site.live_chats()?;
        assert_eq!((chats.len(), &chats[0]["flows"]), (1, &8.into()), "{family}: {chats:?}");
        drop(tabs);
        wait_until_empty(&site)?;

        // Without it they are eight chats again.
        let mut tabs = Vec::new();
        for n in 0..8 {
            let from = site.lab.client_addr_n(family, n);
            site.roost.text(&["chat", "unbind", "chat", &from.to_string()])?;
            tabs.push(clients.tab_from((from, 0).into(), site.vip(family), "any")?);
        }
        assert_eq!(site.live_chats()?.len(), 8, "{family}");
        drop(tabs);
        wait_until_empty(&site)?;
    }
    Ok(())
}

#[test]
fn tuples_that_are_registered_for_a_chat_share_it() -> Result<()> {
    let site = Site::start(Lab::builder("tuples-bound"), |lab| Config::new(lab).key("tuple"))?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let vip = site.vip(family);
        let mut tabs = Vec::new();
        for port in 21_000..21_008 {
            let from = SocketAddr::new(site.lab.client_addr(family), port);
            let tuple = format!("{from},{vip}");
            site.roost.text(&["chat", "bind", "chat", &tuple, "--chat", "meeting"])?;
            tabs.push(clients.tab_from(from, vip, "any")?);
        }
        assert_eq!(replicas(&tabs).len(), 1, "{family}: one chat of eight connections");
        drop(tabs);
        wait_until_empty(&site)?;
    }
    Ok(())
}

#[test]
fn a_service_of_large_chats_has_them_in_parts() -> Result<()> {
    let config = |lab: &Lab| Config::new(lab).with("width = 3");
    let site = Site::start(Lab::builder("wide").replicas(5), config)?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let open = |count: usize, chat: &str| -> Result<Vec<Tab>> {
            (0..count).map(|_| clients.tab(site.vip(family), chat)).collect()
        };
        let usable = |count: u32| {
            try_until(SECONDS(30), &format!("{count} usable replicas"), || {
                Ok((site.roost.json(&["services"])?[0]["usable"] == count).then_some(()))
            })
        };
        // With 80 tabs all parts are there, but for one time in 10^13; two of them have the same home at
        // times.
        let mut names = (0..20).map(|n| format!("arena-{n}"));
        let (chat, tabs) = loop {
            let chat = names.next().context("all parts of 20 chats have one home")?;
            let tabs = open(80, &chat)?;
            if replicas(&tabs).len() > 1 {
                break (chat, tabs);
            }
        };
        let here = replicas(&tabs);
        assert!(here.len() <= 3, "{family}: {here:?}");
        let parts = || -> Result<BTreeMap<String, String>> {
            let chats = site.live_chats()?;
            let parts = chats.iter().filter(|part| part["key"] == *chat);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            Ok(parts.map(|part| (text(&part["cookie"]), text(&part["home"]))).collect())
        };
        let before = parts()?;
        assert_eq!(before.len(), 3, "{before:?}");
        // The slot table changes, and each part stays where it lives.
        let away = before.values().next().context("a home")?.clone();
        let mut drained = config(&site.lab);
        let of_away = drained.replicas.iter_mut().find(|replica| replica.name == away);
        of_away.context("it")?.more = "state = \"draining\"\n".to_owned();
        site.roost.write_config(&drained.to_string())?;
        usable(4)?;
        let more = open(20, &chat)?;
        assert_eq!(replicas(&more).difference(&here).count(), 0, "{family}: {here:?}");
        assert_eq!(parts()?, before);
        site.roost.write_config(&config(&site.lab).to_string())?;
        usable(5)?;
        // One that is said to be whole is.
        site.roost.text(&["chat", "width", "chat", "quiet", "1"])?;
        assert_eq!(replicas(&open(10, "quiet")?).len(), 1);
        let how = site.roost.json(&["explain", "--service", "chat", "--key", "quiet"])?;
        assert_eq!(how["width"], 1, "{how}");
        let how = site.roost.json(&["explain", "--service", "chat", "--key", &chat])?;
        assert_eq!(how["width"], 3, "{how}");
        drop((tabs, more));
        wait_until_empty(&site)?;
    }
    Ok(())
}

#[test]
fn a_large_chat_can_be_spread_over_several_replicas() -> Result<()> {
    let site = Site::home("width")?;
    let clients = site.clients()?;
    site.roost.text(&["chat", "width", "chat", "stadium", "64"])?;
    for family in Family::BOTH {
        let tabs = (0..60).map(|_| clients.tab(site.vip(family), "stadium"));
        let tabs = tabs.collect::<Result<Vec<Tab>>>()?;
        // About 40 of the parts are there.
        assert!(replicas(&tabs).len() > 1, "{family}: 64 parts, but all on one replica");
        let tabs = (0..10).map(|_| clients.tab(site.vip(family), "café"));
        assert_eq!(replicas(&tabs.collect::<Result<Vec<Tab>>>()?).len(), 1, "others are whole");
    }
    Ok(())
}
