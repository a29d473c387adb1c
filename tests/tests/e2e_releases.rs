//! Every release that was kept is taken over by this one, with live connections through its programs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_chat::client::{Tab, load};
use roost_tests::lab::{
    ChatServer, Clients, Config, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, heavy,
};
use roost_tests::release::{PINNED, Release};

const CHATS: usize = 12;
const TABS: usize = 36;
const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn open(clients: &Clients, lab: &Lab, family: Family) -> Result<load::Load> {
    let vip = (lab.vip(family), VIP_PORT).into();
    let load = clients.run(load::open(&load::Plan::new(vip, CHATS, TABS)));
    ensure!(load.opened().failed == 0, "{:?}", load.opened().errors);
    Ok(load)
}

/// The home of each chat by what its tabs say; an error if one is split.
fn homes(tabs: &[Tab]) -> Result<BTreeMap<String, String>> {
    let mut homes = BTreeMap::new();
    for tab in tabs {
        let chat = tab.hello().chat.clone();
        let home = homes.entry(chat.clone()).or_insert_with(|| tab.replica().to_owned());
        ensure!(home == tab.replica(), "{chat} is on {home} and on {}", tab.replica());
    }
    ensure!(homes.len() == CHATS, "{homes:?}");
    Ok(homes)
}

fn pinned_tabs(clients: &Clients, lab: &Lab) -> Result<Vec<Tab>> {
    let [chat, alias, replica] = PINNED;
    let vip = (lab.vip(Family::V4), VIP_PORT).into();
    let tabs = [chat, alias].map(|key| clients.tab(vip, key));
    let tabs: Vec<Tab> = tabs.into_iter().collect::<Result<_>>()?;
    for tab in &tabs {
        ensure!(tab.replica() == replica, "{} is on {}", tab.hello().chat, tab.replica());
    }
    Ok(tabs)
}

fn counted(roost: &Roost, name: &str) -> Result<u64> {
    let counters = roost.json(&["counters", "--all"])?;
    let line = counters.as_array().into_iter().flatten().find(|line| line["counter"] == name);
    line.and_then(|line| line["packets"].as_u64()).with_context(|| format!("{name}: {counters}"))
}

fn takes_over(release: &Release) -> Result<()> {
    let lab = Lab::builder("release").build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    release.leave_behind(&lab)?;
    let clients = Clients::new(&lab.client)?;
    // Through the programs of that release, whose daemon is dead.
    let mut loads = Vec::new();
    for family in Family::BOTH {
        let load = open(&clients, &lab, family)?;
        loads.push((family, load));
    }
    let mut pinned = pinned_tabs(&clients, &lab)?;
    let before = homes(loads[0].1.tabs())?;

    let mut roost = Roost::start(&lab, &Config::new(&lab).to_string())?;
    for round in ["taken over", "taken over once more"] {
        for (family, load) in &mut loads {
            for tab in load.tabs() {
                let chat = tab.hello().chat.clone();
                let pong = clients.run(tab.ping(SECONDS(60)));
                pong.with_context(|| format!("{family}: a tab of {chat}, {round}"))?;
            }
            let mut again = open(&clients, &lab, *family)?;
            ensure!(homes(again.tabs())? == before, "{family}: live chats have moved, {round}");
        }
        for tab in &mut pinned {
            clients.run(tab.ping(SECONDS(60))).context(round)?;
        }
        drop(pinned_tabs(&clients, &lab).context(round)?);
        // What the programs before have counted is not lost: each tab was bound once.
        let least = (2 * TABS + PINNED.len() - 1) as u64;
        ensure!(counted(&roost, "bound")? > least, "{round}: counts are lost");
        roost.kill();
        roost.restart()?;
    }
    Ok(())
}

#[test]
fn every_release_before_is_taken_over_with_its_connections() -> Result<()> {
    let _heavy = heavy()?;
    let releases = Release::all()?;
    ensure!(releases.len() >= 2, "releases are missing: {releases:?}");
    for release in &releases {
        takes_over(release).with_context(|| format!("taking over release {}", release.name))?;
    }
    Ok(())
}

/// One more counter is enough to make `COUNTERS` anew, and to replace the programs before anything else.
#[test]
fn a_release_with_other_counters_is_taken_over_with_its_connections() -> Result<()> {
    let _heavy = heavy()?;
    let last = Release::all()?.pop().context("no release is there")?;
    let release = last.without_counter("drop_checksum")?;
    takes_over(&release).with_context(|| format!("taking over release {}", release.name))
}
