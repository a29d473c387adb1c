//! Clients on the node itself: pods whose links Roost is attached to meet clients from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join;
use roost_chat::client::{Http, Tab, Upgrade};
use roost_chat::tls::ClientTls;
use roost_programs::{CURL, IP};
use roost_tests::lab::{
    Authority, Clients, Config, Family, HTTPS_PORT, Joined, Lab, Nginx, Pod, Site, UPLINK,
    Upstream, heavy, run_in,
};
use serde_json::Value;
use tokio::time::timeout;

const MB: u64 = 1 << 20;
const CHATS: usize = 4;
const LIMIT: Duration = Duration::from_secs(60);

/// A site whose pods' links are client links. The uplink is none, whatever fits its name.
fn start(name: &str) -> Result<Site> {
    Site::start(Lab::builder(name), |lab| Config {
        top: "client_links = [\"pod*\", \"eth?\"]".to_owned(),
        ..Config::new(lab)
    })
}

/// A pod whose link is served.
fn pod(site: &Site, n: u8, joined: Joined) -> Result<Pod> {
    let pod = site.lab.pod(n, joined)?;
    site.roost.wait_client_link(&pod.node_device, true)?;
    Ok(pod)
}

fn fails<T>(site: &Site, result: Result<T>) -> Result<T> {
    result.with_context(|| site.diagnosis())
}

/// Tabs of the same chats from everywhere, with the replicas that they are on.
fn meet(site: &Site, everywhere: &[&Clients], family: Family) -> Result<Vec<Vec<Tab>>> {
    let mut homes: BTreeMap<String, String> = BTreeMap::new();
    let mut all = Vec::new();
    for clients in everywhere {
        let mut tabs = Vec::new();
        for chat in (0..CHATS).map(|chat| format!("{family}-{chat}")) {
            let tab = fails(site, clients.tab(site.vip(family), &chat))?;
            let home = homes.entry(chat).or_insert_with(|| tab.replica().to_owned());
            ensure!(home == tab.replica(), "split: {home} and {}", tab.replica());
            tabs.push(tab);
        }
        all.push(tabs);
    }
    Ok(all)
}

/// What one says in a chat the others hear, wherever they are.
fn talk(everywhere: &[&Clients], all: &mut [Vec<Tab>], text: &str) -> Result<()> {
    for chat in 0..CHATS {
        for from in 0..all.len() {
            let said = format!("{text} {from}");
            everywhere[from].run(all[from][chat].say(&said))?;
            for (to, tabs) in all.iter_mut().enumerate() {
                let heard = everywhere[to].run(tabs[chat].hears(&said, LIMIT))?;
                ensure!(heard, "{to} did not hear {from}");
            }
        }
    }
    Ok(())
}

#[test]
fn pods_and_clients_outside_meet() -> Result<()> {
    let mut site = start("inside")?;
    let (routed, bridged) = (pod(&site, 1, Joined::Routed)?, pod(&site, 2, Joined::Bridged)?);
    let status = site.roost.json(&["status"])?;
    let all = status["interfaces"].as_array().context("no interfaces")?;
    let uplink = all.iter().find(|line| line["interface"] == UPLINK).context("no uplink")?;
    ensure!(uplink["clients"] == "outside" && uplink["ingress"] == "native", "{uplink}");
    let everywhere = [site.clients()?, Clients::new(&routed.ns)?, Clients::new(&bridged.ns)?];
    let everywhere: Vec<&Clients> = everywhere.iter().collect();
    let mut families = Vec::new();
    for family in Family::BOTH {
        let mut all = meet(&site, &everywhere, family)?;
        talk(&everywhere, &mut all, "hello").with_context(|| site.diagnosis())?;
        families.push(all);
    }
    // The replica sees the pod itself.
    for (family, all) in Family::BOTH.into_iter().zip(&families) {
        for (pod, tabs) in [&routed, &bridged].into_iter().zip(&all[1..]) {
            ensure!(tabs[0].hello().peer.ip() == pod.addr(family), "{:?}", tabs[0].hello());
        }
    }
    // Without a daemon all goes on, and the next one takes over.
    site.roost.kill();
    for all in &mut families {
        talk(&everywhere, all, "without a daemon").with_context(|| site.diagnosis())?;
    }
    site.roost.restart()?;
    for all in &mut families {
        talk(&everywhere, all, "with another one").with_context(|| site.diagnosis())?;
    }
    // A connection that is used for another chat goes there.
    for family in Family::BOTH {
        for clients in &everywhere[1..] {
            let mut http: Option<Http> = None;
            for (chat, tab) in families[usize::from(family == Family::V6)][0].iter().enumerate() {
                let name = format!("{family}-{chat}");
                let mut next = match http.take() {
                    None => clients.http(site.vip(family), &name)?,
                    Some(http) => http.in_chat(&name),
                };
                let at = fails(&site, clients.run(next.whoami()))?;
                ensure!(at.replica == tab.replica(), "{at:?}: {} is elsewhere", tab.replica());
                http = Some(next);
            }
        }
    }
    ensure!(site.counter("rebound_request")? > 0, "{}", site.diagnosis());
    for wrong in ["invalid", "drop_checksum", "drop_fault", "egress_drop_fault", "drop_other_link"]
    {
        if let Ok(count) = site.counter(wrong) {
            ensure!(count == 0, "{wrong}\n{}", site.diagnosis());
        }
    }
    // A link that vanishes in mid-connection takes its clients with it, and no others.
    run_in(&site.lab.node, IP, &["link", "del", &routed.node_device])?;
    site.roost.wait_client_link(&routed.node_device, false)?;
    let left = [everywhere[0], everywhere[2]];
    for all in &mut families {
        all.remove(1);
        talk(&left, all, "without the other one").with_context(|| site.diagnosis())?;
    }
    Ok(())
}

/// Pods hand over segments of 64 KB with partial checksums, unless they are told to finish them or to cut them.
#[test]
fn transfers_of_pods_arrive_whole_with_all_offloads_and_without() -> Result<()> {
    let _heavy = heavy()?;
    let site = start("inside-bulk")?;
    let pods = [pod(&site, 1, Joined::Routed)?, pod(&site, 2, Joined::Bridged)?];
    for off in [&[][..], &["gso", "tso"], &["tx"]] {
        for pod in &pods {
            for offload in off {
                pod.ns.set_offload(UPLINK, offload, false)?;
            }
            let clients = Clients::new(&pod.ns)?;
            for family in Family::BOTH {
                let vip = site.vip(family);
                let (mut down, mut up) = (clients.http(vip, "down")?, clients.http(vip, "up")?);
                let both =
                    async { try_join(down.download(40 * MB, 1), up.upload(40 * MB, 2)).await };
                let done = clients.run(async { timeout(LIMIT, both).await }).context("not done");
                fails(&site, done.flatten()).with_context(|| format!("{family}, off: {off:?}"))?;
            }
        }
    }
    ensure!(site.counter("drop_checksum")? == 0, "{}", site.diagnosis());
    for ns in
        site.lab.replicas.iter().map(|replica| &replica.ns).chain(pods.iter().map(|pod| &pod.ns))
    {
        let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
        let mut tcp =
            text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
        let (names, values) = tcp.next().zip(tcp.next()).context("no counts of TCP")?;
        let wrong = names.zip(values).find(|(name, _)| *name == "InCsumErrors");
        ensure!(wrong.is_some_and(|(_, count)| count == "0"), "{wrong:?} in {}", ns.name());
    }
    Ok(())
}

/// What is answered goes back by the link. So nobody is answered who has taken an address whose way is another one: it would
/// get the answers that its owner would get without Roost.
#[test]
fn a_pod_that_takes_the_address_of_another_one_is_not_answered() -> Result<()> {
    let site = start("inside-spoof")?;
    let (one, other) = (pod(&site, 1, Joined::Routed)?, pod(&site, 2, Joined::Bridged)?);
    let clients = Clients::new(&one.ns)?;
    for family in Family::BOTH {
        // With its own it is; and knows its router from then on.
        fails(&site, clients.tab(site.vip(family), "own"))?;
        for victim in [
            other.addr(family),
            site.lab.client_addr(family),
            site.lab.node_addrs()[usize::from(family == Family::V6)],
        ] {
            let before = site.counter("drop_other_link")?;
            let whole = if family == Family::V4 { 32 } else { 128 };
            run_in(&one.ns, IP, &["addr", "add", &format!("{victim}/{whole}"), "dev", "lo"])?;
            let vip = site.vip(family);
            let (host, from) = (vip.to_string(), Some((victim, 0).into()));
            let open = Tab::open(vip, &host, "taken", from);
            let opened = clients.run(async { timeout(Duration::from_millis(500), open).await });
            ensure!(opened.is_err(), "{victim} was answered\n{}", site.diagnosis());
            ensure!(site.counter("drop_other_link")? > before, "{victim}: {}", site.diagnosis());
        }
    }
    Ok(())
}

/// nginx ends TLS in a pod, and keeps its connections to the VIP for whatever request comes next.
#[test]
fn a_terminator_in_a_pod_gets_each_request_to_its_chat() -> Result<()> {
    let site = start("inside-tls")?;
    let (front, other) = (pod(&site, 1, Joined::Routed)?, pod(&site, 2, Joined::Bridged)?);
    let authority = Authority::new(&site.lab)?;
    let certificate = authority.certify("nginx", &["chat.test"])?;
    let ca = authority.file().to_str().context("the authority's path is not UTF-8")?;
    let everywhere = [site.clients()?, Clients::new(&other.ns)?];
    let everywhere: Vec<&Clients> = everywhere.iter().collect();
    let (outside, addr) = (&site.lab.client, front.addr(Family::V4));
    for family in Family::BOTH {
        let vip = site.vip(family);
        let nginx =
            Nginx::start_in(&site.lab, &front.ns, addr, &certificate, vip, Upstream::Reused)?;
        let all = meet(&site, &everywhere, family)?;
        let resolve = format!("chat.test:{HTTPS_PORT}:{addr}");
        for tab in &all[0] {
            let url = format!("https://chat.test/whoami?chat={}", tab.hello().chat);
            let words = ["-sS", "--max-time", "60", "--cacert", ca, "--resolve", &resolve, &url];
            let answer = fails(&site, run_in(outside, CURL, &words))?;
            let answer: Value = serde_json::from_str(&answer)?;
            ensure!(answer["replica"] == tab.replica(), "{answer}: {:?}", tab.hello());
        }
        for tab in &all[0] {
            let tls = ClientTls::read(authority.file())?;
            let upgrade = Upgrade::chat("chat.test", &tab.hello().chat).tls(Some(tls));
            for _ in 0..3 {
                let stream = outside.connect((addr, HTTPS_PORT).into())?;
                let through = fails(&site, everywhere[0].run(Tab::upgrade(stream, &upgrade)))?;
                ensure!(through.replica() == tab.replica(), "{:?}", through.hello());
                ensure!(through.hello().peer.ip() == front.addr(family), "{:?}", through.hello());
            }
        }
        drop(nginx);
    }
    ensure!(site.counter("rebound_request")? > 0, "{}", site.diagnosis());
    ensure!(site.counter("affinity_violation")? == 0, "{}", site.diagnosis());
    Ok(())
}

/// Replicas are pods, too: they are clients of their own service, but not of themselves.
#[test]
fn a_replica_reaches_the_chats_of_others_and_is_told_of_its_own() -> Result<()> {
    let site = Site::start(Lab::builder("inside-self"), |lab| Config {
        top: "client_links = [\"rep*\"]".to_owned(),
        ..Config::new(lab)
    })?;
    let replica = &site.lab.replicas[0];
    site.roost.wait_client_link(&replica.node_device, true)?;
    let (outside, inside) = (site.clients()?, Clients::new(&replica.ns)?);
    for family in Family::BOTH {
        // All in one of the two: one in 3 to the 12th.
        let (mut own, mut others) = (0, 0);
        for chat in (0..12).map(|chat| format!("{family}-{chat}")) {
            let tab = fails(&site, outside.tab(site.vip(family), &chat))?;
            let met = inside.tab(site.vip(family), &chat);
            if tab.replica() == replica.name {
                let error = format!("{:#}", met.err().context("it has reached itself")?);
                ensure!(error.contains("reset"), "{error}");
                own += 1;
            } else {
                ensure!(fails(&site, met)?.replica() == tab.replica());
                others += 1;
            }
        }
        ensure!(own > 0 && others > 0, "{own} and {others}");
    }
    ensure!(site.counter("reset_itself")? > 0);
    Ok(())
}
