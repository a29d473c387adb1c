//! What changes while clients are connected: replicas, the file, the daemon.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use roost_chat::client::{Tab, load};
use roost_programs::IP;
use roost_tests::lab::{
    Clients, Config, Family, Lab, ReplicaConfig, Site, UPLINK, VIP_PORT, heavy, run_in, try_until,
};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;
const ALL: [&str; 4] = ["replica-1", "replica-2", "replica-3", "replica-4"];

/// The home of each chat by what its tabs say; an error if one is split.
fn homes<'a>(tabs: impl IntoIterator<Item = &'a Tab>) -> Result<BTreeMap<String, String>> {
    let mut homes = BTreeMap::new();
    for tab in tabs {
        let chat = tab.hello().chat.clone();
        let home = homes.entry(chat.clone()).or_insert_with(|| tab.replica().to_owned());
        ensure!(home == tab.replica(), "{chat} is on {home} and on {}", tab.replica());
    }
    Ok(homes)
}

/// Tabs of the chats `<prefix>0` and so on; all must open.
fn open(
    clients: &Clients,
    vip: SocketAddr,
    prefix: &str,
    chats: usize,
    tabs: usize,
) -> Result<load::Load> {
    let mut plan = load::Plan::new(vip, chats, tabs);
    plan.prefix = prefix.to_owned();
    let load = clients.run(load::open(&plan));
    ensure!(load.opened().failed == 0, "{:?}", load.opened().errors);
    Ok(load)
}

/// Which of the tabs still answer.
fn alive(clients: &Clients, load: &mut load::Load) -> Vec<(String, bool)> {
    let mut alive = Vec::new();
    for tab in load.tabs() {
        let on = tab.replica().to_owned();
        alive.push((on, clients.run(tab.ping(SECONDS(60))).is_ok()));
    }
    alive
}

#[test]
fn adding_and_removing_replicas_splits_no_chat() -> Result<()> {
    let _heavy = heavy()?;
    let three = |lab: &Lab| Config::new(lab).only(lab, &[1, 2, 3]);
    let site = Site::start(Lab::builder("change").replicas(4), three)?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let vip = site.vip(family);
        let mut first = open(&clients, vip, "old-", 60, 180)?;
        let before = homes(first.tabs().iter())?;

        // One more: no live chat moves, new chats use it.
        site.roost.write_config(&Config::new(&site.lab).to_string())?;
        site.wait_replicas(&ALL)?;
        let mut second = open(&clients, vip, "old-", 60, 60)?;
        assert_eq!(homes(second.tabs().iter())?, before, "{family}: live chats have moved");
        // A quarter of them: none would be a chance of one in 10^11.
        let mut fresh = open(&clients, vip, "new-", 90, 180)?;
        let new_homes = homes(fresh.tabs().iter())?;
        let on_four = new_homes.values().filter(|home| *home == "replica-4").count();
        assert!(on_four > 0, "{family}: nothing came to the new replica");

        // One less: its flows end at once, those on other replicas do not notice.
        let less = Config::new(&site.lab).only(&site.lab, &[1, 3, 4]);
        site.roost.write_config(&less.to_string())?;
        site.wait_replicas(&["replica-1", "replica-3", "replica-4"])?;
        for load in [&mut first, &mut second, &mut fresh] {
            for (on, alive) in alive(&clients, load) {
                assert_eq!(alive, on != "replica-2", "{family}: a flow on {on}");
            }
        }
        let mut third = open(&clients, vip, "old-", 60, 180)?;
        for (chat, home) in homes(third.tabs().iter())? {
            let was = &before[&chat];
            assert_ne!(home, "replica-2");
            assert!(
                *was == home || was == "replica-2",
                "{family}: {chat} was on {was}, is on {home}"
            );
        }
        site.roost.write_config(&three(&site.lab).to_string())?;
        site.wait_replicas(&ALL[..3])?;
    }
    Ok(())
}

/// The only tab of a chat is reloaded after a scale-up, long after it was opened.
#[test]
fn a_reload_after_a_scale_up_comes_back_to_its_replica() -> Result<()> {
    let _heavy = heavy()?;
    const LINGER: Duration = Duration::from_secs(60);
    let config = |lab: &Lab| Config::new(lab).only(lab, &[1, 2, 3]).with("linger = \"60s\"");
    let site = Site::start(Lab::builder("reload").replicas(6), config)?;
    let clients = site.clients()?;
    let vip = site.vip(Family::V4);
    let mut first = open(&clients, vip, "tab-", 100, 100)?;
    let before = homes(first.tabs().iter())?;
    // For longer than a connection that waits for its replica holds its chat.
    let opened = std::time::Instant::now();
    let more = Config::new(&site.lab).with("linger = \"60s\"");
    site.roost.write_config(&more.to_string())?;
    site.wait_replicas(&[
        "replica-1",
        "replica-2",
        "replica-3",
        "replica-4",
        "replica-5",
        "replica-6",
    ])?;
    try_until(SECONDS(60), "the bindings to be over", || {
        Ok((opened.elapsed() > SECONDS(11)).then_some(()))
    })?;
    let left = std::time::Instant::now();
    drop(first);
    try_until(SECONDS(60), "all tabs to have left", || {
        Ok(site.live_flows()?.is_empty().then_some(()))
    })?;
    let mut second = open(&clients, vip, "tab-", 100, 100)?;
    ensure!(left.elapsed() < LINGER, "the machine is too slow for this: {:?}", left.elapsed());
    assert_eq!(homes(second.tabs().iter())?, before, "reloads have come to other replicas");
    Ok(())
}

#[test]
fn a_tab_that_only_listens_learns_that_its_replica_is_gone() -> Result<()> {
    let site = Site::home("listener")?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        // None on one replica: one in 3 * 10^10.
        let mut load = open(&clients, site.vip(family), "chat-", 60, 60)?;
        let less = Config::new(&site.lab).only(&site.lab, &[1, 3]);
        site.roost.write_config(&less.to_string())?;
        site.wait_replicas(&["replica-1", "replica-3"])?;
        let on_two = load.tabs().iter_mut().filter(|tab| tab.replica() == "replica-2");
        let on_two: Vec<_> = on_two.collect();
        assert!(!on_two.is_empty(), "{family}: no tab is on the replica that goes");
        for tab in on_two {
            let heard = clients.run(tab.next_message(SECONDS(60)));
            let Err(error) = heard else { bail!("{family}: still connected: {heard:?}") };
            assert!(format!("{error:#}").contains("reset"), "{error:#}");
        }
        for (on, alive) in alive(&clients, &mut load) {
            assert_eq!(alive, on != "replica-2", "{family}: a flow on {on}");
        }
        site.roost.write_config(&Config::new(&site.lab).to_string())?;
        site.wait_replicas(&ALL[..3])?;
    }
    Ok(())
}

#[test]
fn clients_of_both_families_meet_although_replicas_come() -> Result<()> {
    let two = |lab: &Lab| Config::new(lab).only(lab, &[1, 2]);
    let site = Site::start(Lab::builder("families").replicas(4), two)?;
    let clients = site.clients()?;
    let mut first = open(&clients, site.vip(Family::V4), "chat-", 40, 40)?;
    site.roost.write_config(&Config::new(&site.lab).to_string())?;
    site.wait_replicas(&ALL)?;
    // By their slots about half of the chats would be on a new replica now.
    let mut second = open(&clients, site.vip(Family::V6), "chat-", 40, 40)?;
    let homes = homes(first.tabs().iter().chain(second.tabs().iter()))?;
    assert_eq!(homes.len(), 40);
    let chats = site.live_chats()?;
    assert_eq!(chats.len(), 40, "one entry for both families");
    assert!(chats.iter().all(|chat| chat["flows"] == 2), "{chats:?}");
    Ok(())
}

#[test]
fn a_draining_replica_keeps_its_chats_and_takes_no_new_ones() -> Result<()> {
    let site = Site::home("drain")?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let vip = site.vip(family);
        // None on one replica: one in 3 * 10^10.
        let mut first = open(&clients, vip, "old-", 60, 60)?;
        let before = homes(first.tabs().iter())?;
        assert!(before.values().any(|home| home == "replica-2"));

        let mut config = Config::new(&site.lab);
        config.replicas[1].more = "  state = \"draining\"\n".to_owned();
        site.roost.write_config(&config.to_string())?;
        site.wait_replicas(&["replica-1", "replica-3"])?;
        let mut second = open(&clients, vip, "old-", 60, 60)?;
        assert_eq!(homes(second.tabs().iter())?, before, "{family}: live chats stay");
        let mut fresh = open(&clients, vip, "new-", 60, 60)?;
        let homes = homes(fresh.tabs().iter())?;
        assert!(homes.values().all(|home| home != "replica-2"), "{family}: {homes:?}");

        site.roost.write_config(&Config::new(&site.lab).to_string())?;
        site.wait_replicas(&ALL[..3])?;
    }
    Ok(())
}

#[test]
fn a_killed_daemon_is_not_missed() -> Result<()> {
    let _heavy = heavy()?;
    let mut site = Site::home("kill")?;
    let vips = Family::BOTH.map(|family| site.vip(family));
    let client = std::sync::Arc::clone(&site.lab.client);
    let stop = AtomicBool::new(false);
    let opened = AtomicU64::new(0);
    thread::scope(|scope| -> Result<()> {
        // Tabs that are held and pinged, and new connections all the time.
        let (client, stop, opened) = (&client, &stop, &opened);
        let held = vips.map(|vip| {
            scope.spawn(move || -> Result<load::Ended> {
                let clients = Clients::new(client)?;
                let load = open(&clients, vip, "held-", 30, 90)?;
                let until = async {
                    while !stop.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                Ok(clients.run(load.hold(Some(Duration::from_millis(200)), until)))
            })
        });
        let fresh = scope.spawn(move || -> Result<()> {
            let clients = Clients::new(client)?;
            while !stop.load(Ordering::Relaxed) {
                let n = opened.fetch_add(1, Ordering::Relaxed);
                let tab = clients.tab(vips[n as usize % 2], &format!("fresh-{n}"))?;
                clients.run(tab.close())?;
            }
            Ok(())
        });
        let more = |count: u64| {
            let from = opened.load(Ordering::Relaxed);
            try_until(SECONDS(60), &format!("{count} new connections"), || {
                ensure!(!fresh.is_finished(), "a new connection has failed");
                Ok((opened.load(Ordering::Relaxed) >= from + count).then_some(()))
            })
        };
        let result = (|| -> Result<()> {
            for _ in 0..3 {
                more(20)?;
                site.roost.kill();
                more(50).context("without a daemon")?;
                site.roost.restart()?;
                more(20).context("with a new daemon")?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        fresh.join().expect("the thread of new connections").context("new connections")?;
        result?;
        for held in held {
            let ended = held.join().expect("the thread of held tabs")?;
            assert_eq!((ended.lost, ended.held), (0, 90), "{:?}", ended.errors);
            assert!(ended.pings > 0);
        }
        Ok(())
    })
}

#[test]
fn a_new_daemon_takes_chats_and_changes_over() -> Result<()> {
    let three = |lab: &Lab| Config::new(lab).only(lab, &[1, 2, 3]);
    let mut site = Site::start(Lab::builder("takeover").replicas(4), three)?;
    let clients = site.clients()?;
    let vip = site.vip(Family::V4);
    let mut first = open(&clients, vip, "chat-", 40, 80)?;
    let before = homes(first.tabs().iter())?;
    site.roost.kill();
    // The file changes while nobody looks.
    site.roost.write_config(&Config::new(&site.lab).to_string())?;
    site.roost.restart()?;
    site.wait_replicas(&ALL)?;
    let mut second = open(&clients, vip, "chat-", 40, 80)?;
    assert_eq!(homes(second.tabs().iter())?, before);
    assert!(alive(&clients, &mut first).iter().all(|(_, alive)| *alive));
    assert_eq!(site.live_chats()?.len(), 40);
    Ok(())
}

#[test]
fn a_bad_file_is_refused_whole() -> Result<()> {
    let mut site = Site::home("bad-file")?;
    let clients = site.clients()?;
    let vip = site.vip(Family::V4);
    let home = clients.tab(vip, "1")?.replica().to_owned();
    let mut bad = Config::new(&site.lab).only(&site.lab, &[1]);
    bad.replicas.push(ReplicaConfig { port: 0, ..ReplicaConfig::new(&site.lab, 2) });
    let text = bad.to_string();
    let (line, _) =
        (1..).zip(text.lines()).find(|(_, line)| line.contains("port = 0")).expect("it");

    let seen = site.roost.process().lines();
    site.roost.write_config(&text)?;
    let message = format!("roost.toml:{line}:");
    let said = site.roost.process().wait_line_after(SECONDS(60), &message, seen)?;
    assert!(said.contains("service[0].replica[1].port"), "{said}");
    assert_eq!(clients.tab(vip, "1")?.replica(), home);
    site.wait_replicas(&ALL[..3])?;

    // The next good one is taken.
    site.roost.write_config(&Config::new(&site.lab).only(&site.lab, &[1]).to_string())?;
    site.wait_replicas(&ALL[..1])
}

#[test]
fn a_change_of_the_policy_applies_to_new_connections() -> Result<()> {
    let site = Site::start(Lab::builder("policy"), |lab| Config::new(lab).policy("spread"))?;
    let clients = site.clients()?;
    let vip = site.vip(Family::V6);
    let mut spread = open(&clients, vip, "chat-", 10, 60)?;
    assert!(homes(spread.tabs().iter()).is_err(), "60 tabs in whole chats by chance");
    site.roost.write_config(&Config::new(&site.lab).to_string())?;
    try_until(SECONDS(60), "the policy to change", || {
        let services = site.roost.json(&["services"])?;
        let all = services.as_array().context("no array")?;
        ensure!(!all.is_empty(), "there is no service");
        Ok(all.iter().all(|service| service["policy"] == "home").then_some(()))
    })?;
    let mut home = open(&clients, vip, "chat-", 10, 60)?;
    homes(home.tabs().iter())?;
    assert!(alive(&clients, &mut spread).iter().all(|(_, alive)| *alive));
    Ok(())
}

#[test]
fn idle_flows_are_ended() -> Result<()> {
    let config = |lab: &Lab| Config::new(lab).with("idle_timeout = \"6s\"");
    let site = Site::start(Lab::builder("idle"), config)?;
    let clients = site.clients()?;
    let mut idle = clients.tab(site.vip(Family::V4), "idle")?;
    let mut busy = clients.tab(site.vip(Family::V6), "busy")?;
    try_until(SECONDS(60), "the idle flow to end", || {
        clients.run(busy.ping(SECONDS(60)))?;
        Ok((site.live_flows()?.len() == 1 && site.live_chats()?.len() == 1).then_some(()))
    })?;
    let error = clients.run(idle.ping(SECONDS(60))).expect_err("reset");
    assert!(format!("{error:#}").to_lowercase().contains("reset"), "{error:#}");
    clients.run(busy.ping(SECONDS(60)))?;
    Ok(())
}

#[test]
fn detach_removes_everything() -> Result<()> {
    let mut site = Site::home("detach")?;
    let clients = site.clients()?;
    clients.tab(site.vip(Family::V4), "1")?;
    site.roost.kill();
    assert!(site.roost.pin_dir().exists(), "a killed daemon leaves its pins");
    site.roost.text(&["detach"])?;
    assert!(!site.roost.pin_dir().exists(), "the pins are left");
    let link = run_in(&site.lab.node, IP, &["-details", "link", "show", UPLINK])?;
    assert!(link.contains(UPLINK), "{link}");
    assert!(!link.contains("xdp"), "{link}");
    for family in Family::BOTH {
        let vip = SocketAddr::new(site.lab.vip(family), VIP_PORT);
        assert!(site.lab.client.connect(vip).is_err(), "{family}: somebody answers");
    }
    Ok(())
}
