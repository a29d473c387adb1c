//! Clients among the node's own processes, which meet clients from outside and pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join;
use roost_chat::client::{Http, Tab};
use roost_programs::{CURL, IP, NFT};
use roost_tests::lab::{
    Authority, Clients, Config, Family, HTTPS_PORT, Joined, Lab, Nginx, REPLICA_PORT, Site, UPLINK,
    Upstream, fails, meet, run_in, talk, try_until,
};
use serde_json::Value;
use tokio::time::timeout;

const MB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn config(lab: &Lab) -> Config {
    let top = "host_clients = true\nclient_links = [\"pod*\"]".to_owned();
    Config { top, ..Config::new(lab) }
}

/// What `roost status` says of the node's own processes.
fn host(site: &Site) -> Result<Option<Value>> {
    let status = site.roost.json(&["status"])?;
    let all = status["interfaces"].as_array().context("no interfaces")?;
    Ok(all.iter().find(|line| line["clients"] == "host").cloned())
}

fn served(site: &Site) -> Result<()> {
    try_until(LIMIT, "the node's processes to be served", || {
        let line = host(site)?;
        Ok(line.filter(|line| line["problem"] == "" && line["ingress"] == "tcx").map(drop))
    })
}

#[test]
fn processes_of_the_node_meet_pods_and_clients_outside() -> Result<()> {
    let mut site = Site::start(Lab::builder("host"), config)?;
    served(&site)?;
    // As on a node: the way to the VIP is the default route, and kube-proxy's rules take what is for it.
    for (family, v6) in [(Family::V4, "-4"), (Family::V6, "-6")] {
        let vips = site.lab.vip_prefix(family).to_string();
        run_in(&site.lab.node, IP, &[v6, "route", "del", "unreachable", &vips])?;
    }
    site.lab.kubernetes_rules()?;
    let pod = site.lab.pod(1, Joined::Routed)?;
    site.roost.wait_client_link(&pod.node_device, true)?;
    let node = Clients::new(&site.lab.node)?;
    let everywhere = [site.clients()?, Clients::new(&pod.ns)?];
    let everywhere = [&everywhere[0], &everywhere[1], &node];
    let mut families = Vec::new();
    for family in Family::BOTH {
        let mut all = meet(&site, &everywhere, family)?;
        talk(&everywhere, &mut all, "hello").with_context(|| site.diagnosis())?;
        families.push(all);
    }
    // Rules that give all that leaves another address, as some networks have them: connections get their answers all the same.
    for rule in ["masquerade", "snat ip to NODE4", "snat ip6 to NODE6"] {
        let [four, six] = site.lab.node_addrs().map(|addr| addr.to_string());
        let rule = rule.replace("NODE4", &four).replace("NODE6", &six);
        let chain = "table inet everything { chain out { type nat hook postrouting priority 90; oifname \"roost0\" ";
        let rules = format!("{chain}{rule}; }}; }}");
        run_in(&site.lab.node, NFT, &[rules.as_str()])?;
        for (family, all) in Family::BOTH.into_iter().zip(&mut families) {
            let tab = fails(&site, node.tab(site.vip(family), &format!("{family}-0")))?;
            ensure!(tab.replica() == all[0][0].replica(), "split: {:?}", tab.hello());
            talk(&everywhere, all, &rule).with_context(|| site.diagnosis())?;
        }
        run_in(&site.lab.node, NFT, &["delete", "table", "inet", "everything"])?;
    }
    let given = site.roost.json(&["maps", "dump", "HOST_SOURCES"])?;
    ensure!(given.to_string().contains(&site.lab.node_addrs()[0].to_string()), "{given}");
    // What takes its addresses and routes away does so for two seconds.
    for state in ["down", "up"] {
        run_in(&site.lab.node, IP, &["link", "set", "roost0", state])?;
    }
    for family in Family::BOTH {
        try_until(LIMIT, "the device to be whole again", || {
            Ok(node.tab(site.vip(family), &format!("{family}-0")).ok().map(drop))
        })?;
    }
    // As programs connect that have sockets of one family for both.
    let mapped = match site.vip(Family::V4) {
        std::net::SocketAddr::V4(vip) => (vip.ip().to_ipv6_mapped(), vip.port()).into(),
        vip => vip,
    };
    let tab = fails(&site, node.tab(mapped, &format!("{}-0", Family::V4)))?;
    ensure!(tab.replica() == families[0][0][0].replica(), "split: {:?}", tab.hello());

    // Without a daemon all goes on, for those who come anew as well, and the next one takes over.
    site.roost.kill();
    for (family, all) in Family::BOTH.into_iter().zip(&mut families) {
        talk(&everywhere, all, "without a daemon").with_context(|| site.diagnosis())?;
        let tab = fails(&site, node.tab(site.vip(family), &format!("{family}-0")))?;
        ensure!(tab.replica() == all[0][0].replica(), "split: {:?}", tab.hello());
    }
    site.roost.restart()?;
    served(&site)?;
    for (family, all) in Family::BOTH.into_iter().zip(&mut families) {
        talk(&everywhere, all, "with another one").with_context(|| site.diagnosis())?;
        // A connection that is used for another chat goes there.
        let mut http: Option<Http> = None;
        for (chat, tab) in all[0].iter().enumerate() {
            let name = format!("{family}-{chat}");
            let mut next = match http.take() {
                None => node.http(site.vip(family), &name)?,
                Some(http) => http.in_chat(&name),
            };
            let at = fails(&site, node.run(next.whoami()))?;
            ensure!(at.replica == tab.replica(), "{at:?}: {} is elsewhere", tab.replica());
            http = Some(next);
        }
        // Uncut segments with partial checksums, both ways.
        let vip = site.vip(family);
        let (mut down, mut up) = (node.http(vip, "down")?, node.http(vip, "up")?);
        let both = async { try_join(down.download(10 * MB, 1), up.upload(10 * MB, 2)).await };
        let done = node.run(async { timeout(LIMIT, both).await }).context("not done");
        fails(&site, done.flatten())?;
    }
    ensure!(site.counter("rebound_request")? > 0, "{}", site.diagnosis());
    let matched = site.lab.matched()?;
    ensure!((matched.proxied, matched.invalid_in, matched.invalid_out) == (0, 0, 0), "{matched:?}");

    // What goes to a pod's own address, as the kubelet's probes do, is none of Roost's.
    let before = site.counter("syn_answered")?;
    for family in Family::BOTH {
        let probe = format!("http://{}/whoami", site.lab.replica_at(2, family, REPLICA_PORT));
        let answer: Value = serde_json::from_str(&run_in(&site.lab.node, CURL, &["-sS", &probe])?)?;
        ensure!(answer["replica"] == *site.lab.replicas[1].name, "{answer}");
    }
    // Nor is a socket that has an address of its own: kube-proxy has it, as ever.
    let (vip, own) = (site.vip(Family::V4), site.lab.node_addrs()[0]);
    let open = Tab::open(vip, "chat", "bound", Some((own, 0).into()));
    let bound = fails(&site, node.run(open))?;
    ensure!(bound.replica() == site.lab.replicas[0].name, "{:?}", bound.hello());
    ensure!(site.counter("syn_answered")? == before, "{}", site.diagnosis());
    ensure!(site.lab.matched()?.proxied == 1, "{:?}", site.lab.matched()?);
    for wrong in ["drop_checksum", "drop_fault", "egress_drop_fault", "drop_other_link"] {
        ensure!(site.counter(wrong)? == 0, "{wrong}\n{}", site.diagnosis());
    }

    // Turned off, nothing is left, and others go on.
    site.roost.write_config(&Config::new(&site.lab).to_string())?;
    try_until(LIMIT, "the device to go", || {
        Ok(run_in(&site.lab.node, IP, &["link", "show", "roost0"]).is_err().then_some(()))
    })?;
    try_until(LIMIT, "nothing to be said of it", || Ok(host(&site)?.is_none().then_some(())))?;
    let left = [everywhere[0]];
    for all in &mut families {
        all.truncate(1);
        talk(&left, all, "without the others").with_context(|| site.diagnosis())?;
    }
    Ok(())
}

/// A terminator in the node's own network, as with `hostNetwork`, keeps its connections to the VIP for whatever request comes next. And
/// a device that goes comes back.
#[test]
fn a_terminator_on_the_node_gets_each_request_to_its_chat() -> Result<()> {
    let site = Site::start(Lab::builder("host-tls"), config)?;
    served(&site)?;
    let authority = Authority::new(&site.lab)?;
    let certificate = authority.certify("nginx", &["chat.test"])?;
    let ca = authority.file().to_str().context("the authority's path is not UTF-8")?;
    let (outside, addr) = (site.clients()?, site.lab.node_addrs()[0]);
    let resolve = format!("chat.test:{HTTPS_PORT}:{addr}");
    for family in Family::BOTH {
        let (node, vip) = (&site.lab.node, site.vip(family));
        let nginx = Nginx::start_in(&site.lab, node, addr, &certificate, vip, Upstream::Reused)?;
        let all = meet(&site, &[&outside], family)?;
        for tab in all[0].iter().chain(&all[0]) {
            let url = format!("https://chat.test/whoami?chat={}", tab.hello().chat);
            let words = ["-sS", "--max-time", "60", "--cacert", ca, "--resolve", &resolve, &url];
            let answer = fails(&site, run_in(&site.lab.client, CURL, &words))?;
            let answer: Value = serde_json::from_str(&answer)?;
            ensure!(answer["replica"] == tab.replica(), "{answer}: {:?}", tab.hello());
        }
        drop(nginx);
    }
    ensure!(site.counter("rebound_request")? > 0, "{}", site.diagnosis());
    run_in(&site.lab.node, IP, &["link", "del", "roost0"])?;
    let node = Clients::new(&site.lab.node)?;
    try_until(LIMIT, "the device to come back", || {
        let there = run_in(&site.lab.node, IP, &["link", "show", "roost0"]).is_ok();
        Ok((there && host(&site)?.is_some_and(|line| line["problem"] == "")).then_some(()))
    })?;
    for family in Family::BOTH {
        let tab = fails(&site, node.tab(site.vip(family), "again"))?;
        ensure!(outside.tab(site.vip(family), "again")?.replica() == tab.replica());
    }
    Ok(())
}

#[test]
fn a_device_of_somebody_else_is_left_alone() -> Result<()> {
    let lab = Lab::builder("host-taken");
    let site = Site::start(lab, |lab| {
        let made = run_in(&lab.node, IP, &["link", "add", "roost0", "type", "veth"]);
        made.expect("an interface called roost0");
        config(lab)
    })?;
    let line = host(&site)?.context("roost status says nothing of it")?;
    ensure!(line["problem"].as_str().is_some_and(|why| why.contains("log")), "{line}");
    ensure!(site.roost.text(&["status"])?.contains(UPLINK));
    run_in(&site.lab.node, IP, &["link", "show", "roost0"])?;
    let outside = site.clients()?;
    fails(&site, outside.tab(site.vip(Family::V4), "on"))?;
    // It is said in the log, and when the other one is gone Roost has its own.
    run_in(&site.lab.node, IP, &["link", "del", "roost0"])?;
    served(&site)?;
    fails(&site, Clients::new(&site.lab.node)?.tab(site.vip(Family::V4), "on")).map(drop)
}
