//! A cluster as the source: chats while its replicas, its API server and the daemon come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_chat::client::{Tab, load};
use roost_tests::kube::{ApiServer, Endpoint, NODE, annotate, node, service, slice};
use roost_tests::lab::{
    ChatServer, Clients, Config, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, heavy, try_until,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const NODE_PORT: u16 = 30080;

/// A lab whose daemon follows a cluster. Pod `chat-<n>` is on `replica-<n + 1>`.
struct Cluster {
    roost: Roost,
    api: ApiServer,
    _servers: Vec<ChatServer>,
    lab: Lab,
}

impl Cluster {
    /// With pods on the first `ready` of `replicas`. `file` is beside the cluster, if there is one.
    fn start(name: &str, replicas: usize, ready: usize, file: Option<&str>) -> Result<Self> {
        let lab = Lab::builder(name).replicas(replicas).build()?;
        let servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
        let api = ApiServer::start(lab.node.listen("127.0.0.1:0".parse()?)?)?;
        let uplink = lab.node_addrs();
        api.apply(node(NODE, &uplink));
        api.apply(service("chat", &Family::BOTH.map(|family| lab.vip(family))));
        pods(&api, &lab, &all(ready));
        let kubeconfig = api.kubeconfig(lab.dir())?;
        let arguments: [&OsStr; 6] = [
            "--kubernetes".as_ref(),
            "--kubeconfig".as_ref(),
            kubeconfig.as_ref(),
            "--node-name".as_ref(),
            NODE.as_ref(),
            "--log-level=debug".as_ref(),
        ];
        let roost = Roost::start_with(&lab, file, &arguments)?;
        let cluster = Self { roost, api, _servers: servers, lab };
        cluster.wait(&all(ready))?;
        Ok(cluster)
    }

    fn vip(&self, family: Family) -> SocketAddr {
        (self.lab.vip(family), VIP_PORT).into()
    }

    /// Waits until just these clients are trusted.
    fn wait_for_trusted(&self, wanted: &[String]) -> Result<()> {
        let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        try_until(LIMIT, &format!("{wanted:?} trusted"), || {
            let maps = self.roost.json(&["maps", "dump", "TRUSTED"])?;
            let entries = maps[0]["entries"].as_array().context("a list of entries")?;
            let prefixes = entries.iter().filter_map(|entry| entry["key"]["prefix"].as_str());
            Ok((prefixes.collect::<BTreeSet<_>>() == wanted).then_some(()))
        })
    }

    fn pods(&self, pods: &[Pod]) {
        crate::pods(&self.api, &self.lab, pods);
    }

    /// Waits until the maps have these pods and no others.
    fn wait(&self, pods: &[Pod]) -> Result<()> {
        let mut wanted: Vec<_> = pods.iter().map(|pod| (pod.name(), pod.state())).collect();
        wanted.sort();
        try_until(LIMIT, &format!("{wanted:?}"), || {
            let replicas = self.roost.json(&["replicas"])?;
            let replicas = replicas.as_array().context("`roost replicas` prints no array")?;
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let all = replicas.iter().filter(|replica| replica["service"] == "default/chat:ws");
            let all = all.map(|replica| (text(&replica["replica"]), text(&replica["state"])));
            let mut here: Vec<_> = all.filter(|(_, state)| state != "gone").collect();
            here.sort();
            let ready = wanted.iter().filter(|(_, state)| state == "ready").count();
            let services = self.roost.json(&["services"])?;
            let mut services = services.as_array().into_iter().flatten();
            let used = services
                .any(|s| s["service"] == "default/chat:ws" && (ready == 0 || s["usable"] == ready));
            ensure!(here == wanted, "there are {here:?}");
            Ok(used.then_some(()))
        })
    }
}

/// A pod of the lab's, by its ordinal.
#[derive(Clone, Copy, Debug)]
enum Pod {
    Ready(usize),
    NotReady(usize),
    Terminating(usize),
}

impl Pod {
    fn ordinal(self) -> usize {
        match self {
            Self::Ready(n) | Self::NotReady(n) | Self::Terminating(n) => n,
        }
    }

    fn name(self) -> String {
        format!("chat-{}", self.ordinal())
    }

    fn state(self) -> String {
        if matches!(self, Self::Ready(_)) { "ready" } else { "draining" }.to_owned()
    }

    fn endpoint(self, address: IpAddr) -> Endpoint {
        let ready = Endpoint::ready(&self.name(), address);
        match self {
            Self::Ready(_) => ready,
            Self::NotReady(_) => Endpoint { ready: false, serving: false, ..ready },
            Self::Terminating(_) => ready.terminating(),
        }
    }
}

fn all(count: usize) -> Vec<Pod> {
    (0..count).map(Pod::Ready).collect()
}

/// Writes the slices, in three steps: one for each family, and two for the first.
fn pods(api: &ApiServer, lab: &Lab, pods: &[Pod]) {
    let of = |family, pods: &[Pod]| -> Vec<Endpoint> {
        pods.iter().map(|pod| pod.endpoint(lab.replicas[pod.ordinal()].addr(family))).collect()
    };
    let half = pods.len() / 2;
    // Those that move to the first slice are in both for a moment.
    api.apply(slice("chat", "chat-v4-1", REPLICA_PORT, &of(Family::V4, &pods[..half])));
    api.apply(slice("chat", "chat-v4-2", REPLICA_PORT, &of(Family::V4, &pods[half..])));
    api.apply(slice("chat", "chat-v6", REPLICA_PORT, &of(Family::V6, pods)));
}

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

fn open(clients: &Clients, at: SocketAddr, prefix: &str, chats: usize) -> Result<load::Load> {
    open_plan(clients, at, prefix, chats, Vec::new())
}

/// The same from a client address of its own: a client's port towards a replica is taken by one of its
/// connections, whichever of the replica's VIPs that goes to, and the kernel may give it out for each VIP.
fn open_from(
    clients: &Clients,
    from: IpAddr,
    at: SocketAddr,
    prefix: &str,
    chats: usize,
) -> Result<load::Load> {
    open_plan(clients, at, prefix, chats, vec![(from, 0).into()])
}

fn open_plan(
    clients: &Clients,
    at: SocketAddr,
    prefix: &str,
    chats: usize,
    bind: Vec<SocketAddr>,
) -> Result<load::Load> {
    let mut plan = load::Plan::new(at, chats, chats);
    plan.prefix = prefix.to_owned();
    plan.bind = bind;
    let load = clients.run(load::open(&plan));
    ensure!(load.opened().failed == 0, "{:?}", load.opened().errors);
    Ok(load)
}

/// All tabs of these replicas answer; those of others do not.
fn only_alive(clients: &Clients, load: &mut load::Load, alive: &[usize]) -> Result<()> {
    let alive: Vec<_> = alive.iter().map(|n| format!("replica-{}", n + 1)).collect();
    for tab in load.tabs() {
        let on = tab.replica().to_owned();
        let answers = clients.run(tab.ping(LIMIT));
        ensure!(answers.is_ok() == alive.contains(&on), "a flow on {on}: {answers:?}");
    }
    Ok(())
}

#[test]
fn scaling_splits_no_chat_and_loses_no_other_connection() -> Result<()> {
    let _heavy = heavy()?;
    let mut cluster = Cluster::start("kube-scale", 6, 3, None)?;
    let clients = Clients::new(&cluster.lab.client)?;
    let [v4, v6] = Family::BOTH.map(|family| cluster.vip(family));
    let mut loads = vec![open(&clients, v4, "old-", 60)?, open(&clients, v6, "old-", 60)?];
    let before = homes(loads.iter_mut().flat_map(|load| load.tabs().iter()))?;
    assert_eq!(before.len(), 60);

    // 3 to 6. They are there before they are ready.
    let new: Vec<Pod> =
        (0..6).map(|n| if n < 3 { Pod::Ready(n) } else { Pod::NotReady(n) }).collect();
    cluster.pods(&new);
    cluster.wait(&new)?;
    cluster.pods(&all(6));
    cluster.wait(&all(6))?;
    loads.push(open(&clients, v6, "old-", 60)?);
    loads.push(open(&clients, v4, "new-", 60)?);
    let homes_now = homes(loads.iter_mut().flat_map(|load| load.tabs().iter()))?;
    assert!(before.iter().all(|(chat, home)| homes_now[chat] == *home), "a live chat has moved");
    let on_new = homes_now
        .values()
        .filter(|home| ["replica-4", "replica-5", "replica-6"].contains(&home.as_str()));
    assert!(on_new.count() > 0, "nothing came to the new replicas");

    // The watches break off and have to list again; nothing comes of it.
    let generation = |cluster: &Cluster| -> Result<serde_json::Value> {
        Ok(cluster.roost.json(&["services"])?[0]["generation"].clone())
    };
    let written = |cluster: &mut Cluster| cluster.roost.process().log().matches("wrote ").count();
    let before_lists = (generation(&cluster)?, written(&mut cluster));
    let lists = cluster.api.count("list", "endpointslices");
    cluster.api.compact();
    cluster.api.break_watches();
    try_until(LIMIT, "lists and watches", || {
        let listed = cluster.api.count("list", "endpointslices") > lists;
        Ok((listed && cluster.api.watches() == 3).then_some(()))
    })?;
    assert_eq!((generation(&cluster)?, written(&mut cluster)), before_lists);

    // 6 to 2. First they terminate: they keep what they have, and get no new chat.
    let ending: Vec<Pod> =
        (0..6).map(|n| if n < 2 { Pod::Ready(n) } else { Pod::Terminating(n) }).collect();
    cluster.pods(&ending);
    cluster.wait(&ending)?;
    assert_ne!(generation(&cluster)?, before_lists.0);
    for load in &mut loads {
        only_alive(&clients, load, &[0, 1, 2, 3, 4, 5])?;
    }
    loads.push(open(&clients, v4, "old-", 60)?);
    let mut late = open(&clients, v4, "late-", 40)?;
    assert!(late.tabs().iter().all(|tab| ["replica-1", "replica-2"].contains(&tab.replica())));
    loads.push(late);
    let homes_now = homes(loads.iter_mut().flat_map(|load| load.tabs().iter()))?;
    assert!(before.iter().all(|(chat, home)| homes_now[chat] == *home), "a live chat has moved");

    // Then they are gone: their clients are reset, nobody else notices.
    cluster.pods(&all(2));
    cluster.wait(&all(2))?;
    for load in &mut loads {
        only_alive(&clients, load, &[0, 1])?;
    }
    let mut again = [open(&clients, v4, "old-", 60)?, open(&clients, v6, "old-", 60)?];
    let homes_now = homes(again.iter_mut().flat_map(|load| load.tabs().iter()))?;
    for (chat, home) in &homes_now {
        assert!(["replica-1", "replica-2"].contains(&home.as_str()));
        let was = &before[chat];
        assert!(
            was == home || !["replica-1", "replica-2"].contains(&was.as_str()),
            "{chat}: {was}, {home}"
        );
    }
    Ok(())
}

#[test]
fn a_client_that_only_listens_is_reset_when_its_pod_is_gone() -> Result<()> {
    let cluster = Cluster::start("kube-listen", 3, 3, None)?;
    let clients = Clients::new(&cluster.lab.client)?;
    // None on one replica: one in 3 * 10^10.
    let mut load = open(&clients, cluster.vip(Family::V4), "chat-", 60)?;
    cluster.pods(&all(2));
    let on_three = load.tabs().iter_mut().filter(|tab| tab.replica() == "replica-3");
    let on_three: Vec<_> = on_three.collect();
    ensure!(!on_three.is_empty(), "no tab is on the replica that goes");
    for tab in on_three {
        let heard = clients.run(tab.next_message(LIMIT));
        let error = heard.err().context("still connected")?;
        ensure!(format!("{error:#}").contains("reset"), "{error:#}");
    }
    only_alive(&clients, &mut load, &[0, 1])
}

#[test]
fn without_the_api_server_the_last_state_holds() -> Result<()> {
    let mut cluster = Cluster::start("kube-away", 4, 3, None)?;
    let clients = Clients::new(&cluster.lab.client)?;
    let vip = cluster.vip(Family::V4);
    let mut first = open(&clients, vip, "chat-", 40)?;
    let before = homes(first.tabs().iter())?;
    let own = cluster.lab.node_addrs().map(|addr| addr.to_string());
    cluster.wait_for_trusted(&own)?;
    let mut other = node("other", &[]);
    other["spec"]["podCIDRs"] = json!(["10.244.7.0/24", "0.0.0.0/0"]);
    cluster.api.apply(other);
    let trusted = [&own[..], &["10.244.7.0/24".to_owned()]].concat();
    cluster.wait_for_trusted(&trusted)?;
    cluster.api.stop();
    cluster.roost.kill();
    cluster.roost.restart()?;
    cluster.roost.process().wait_line(LIMIT, "listing failed")?;
    cluster.wait_for_trusted(&trusted)?;
    let mut second = open(&clients, vip, "chat-", 40)?;
    assert_eq!(homes(second.tabs().iter())?, before);
    cluster.wait(&all(3))?;
    // It comes back, and knows of a change.
    cluster.pods(&all(4));
    cluster.api.delete("nodes", "", "other");
    let node = Arc::clone(&cluster.lab.node);
    cluster.api.restart(|address| node.listen(address))?;
    cluster.wait(&all(4))?;
    cluster.wait_for_trusted(&own)?;
    let mut third = open(&clients, vip, "chat-", 40)?;
    assert_eq!(homes(third.tabs().iter())?, before);
    for load in [&mut first, &mut second] {
        only_alive(&clients, load, &[0, 1, 2])?;
    }
    // A list that is empty by fault, after another restart: nothing else knows the replicas.
    cluster.roost.kill();
    cluster.api.lists_come_back_empty("endpointslices", true);
    cluster.roost.restart()?;
    cluster.roost.process().wait_line(LIMIT, "it stays as it is for now")?;
    only_alive(&clients, &mut third, &[0, 1, 2])?;
    cluster.wait(&all(4))
}

#[test]
fn in_a_pod_its_account_is_enough() -> Result<()> {
    let lab = Lab::builder("kube-pod").replicas(2).build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    let api = ApiServer::start(lab.node.listen("127.0.0.1:0".parse()?)?)?;
    api.apply(node(NODE, &lab.node_addrs()));
    api.apply(service("chat", &Family::BOTH.map(|family| lab.vip(family))));
    pods(&api, &lab, &all(2));
    let account = api.account(lab.dir(), "roost-system")?;
    // As in the DaemonSet: no file, no interface, and the node's name by an argument.
    let arguments: [&OsStr; 3] = ["--kubernetes".as_ref(), "--node-name".as_ref(), NODE.as_ref()];
    let roost = Roost::start_in_pod(&lab, &account, api.address(), &arguments)?;
    let cluster = Cluster { roost, api, _servers: Vec::new(), lab };
    cluster.wait(&all(2))?;
    let clients = Clients::new(&cluster.lab.client)?;
    for family in Family::BOTH {
        open(&clients, cluster.vip(family), "chat-", 10)?;
    }
    Ok(())
}

#[test]
fn a_node_port_is_another_way_to_the_same_homes() -> Result<()> {
    let cluster = Cluster::start("kube-node-port", 3, 3, None)?;
    let clients = Clients::new(&cluster.lab.client)?;
    let mut chat = annotate(
        cluster.api.get("services", "default", "chat").context("it")?,
        "node-port",
        "true",
    );
    chat["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    cluster.api.apply(chat);
    let ports: Vec<SocketAddr> =
        cluster.lab.node_addrs().iter().map(|addr| (*addr, NODE_PORT).into()).collect();
    // One is in the maps before the other.
    for port in &ports {
        try_until(LIMIT, &format!("{port}"), || Ok(clients.tab(*port, "ready").ok()))?;
    }
    let mut loads = [
        open(&clients, cluster.vip(Family::V4), "chat-", 30)?,
        open_from(&clients, cluster.lab.client_addr_n(Family::V4, 1), ports[0], "chat-", 30)?,
        open_from(&clients, cluster.lab.client_addr_n(Family::V6, 1), ports[1], "chat-", 30)?,
    ];
    assert_eq!(homes(loads.iter_mut().flat_map(|load| load.tabs().iter()))?.len(), 30);
    Ok(())
}

#[test]
fn only_the_source_ranges_of_a_service_connect_to_it() -> Result<()> {
    let cluster = Cluster::start("kube-sources", 2, 2, None)?;
    let clients = Clients::new(&cluster.lab.client)?;
    let set = |ranges: &[IpAddr]| -> Result<()> {
        let mut chat = cluster.api.get("services", "default", "chat").context("it")?;
        let whole = |addr: &IpAddr| format!("{addr}/{}", if addr.is_ipv4() { 32 } else { 128 });
        let ranges: Vec<_> = ranges.iter().map(whole).collect();
        chat["spec"]["loadBalancerSourceRanges"] = json!(ranges);
        cluster.api.apply(chat);
        let wanted = if ranges.is_empty() { json!(null) } else { json!(ranges) };
        try_until(LIMIT, &format!("{wanted}"), || {
            let services = cluster.roost.json(&["services"])?;
            let found = services[0]["allowed_sources"].as_array().map(|found| {
                let mut found: Vec<_> = found.iter().filter_map(|text| text.as_str()).collect();
                found.sort_by_key(|text| text.contains(':'));
                found
                    .into_iter()
                    .map(|a| whole(&a.parse().expect("an address")))
                    .collect::<Vec<_>>()
            });
            Ok((json!(found) == wanted).then_some(()))
        })
    };
    let tab = |family, from: IpAddr| {
        let mut plan = load::Plan::new(cluster.vip(family), 1, 1);
        plan.bind = vec![(from, 0).into()];
        plan.limit = Duration::from_secs(3);
        clients.run(load::open(&plan))
    };
    let addr = |family, n| cluster.lab.client_addr_n(family, n);
    let mut before = tab(Family::V4, addr(Family::V4, 1));
    assert_eq!(before.opened().failed, 0);
    let in_both = Family::BOTH.map(|family| addr(family, 2));
    set(&in_both)?;
    for family in Family::BOTH {
        let [refused, let_in] = [1, 2].map(|n| tab(family, addr(family, n)));
        assert_eq!((refused.opened().failed, let_in.opened().failed), (1, 0), "{family:?}");
    }
    // Who was connected stays so, and what was dropped is counted.
    assert_eq!(before.tabs().len(), 1);
    for tab in before.tabs() {
        clients.run(tab.ping(LIMIT))?;
    }
    let counters = cluster.roost.json(&["counters"])?;
    let mut counters = counters.as_array().into_iter().flatten();
    let dropped =
        counters.find(|line| line["counter"] == "drop_source").context("no SYN was counted")?;
    ensure!(dropped["packets"].as_u64() >= Some(2), "{dropped}");
    set(&[])?;
    assert_eq!(tab(Family::V4, addr(Family::V4, 1)).opened().failed, 0);
    Ok(())
}

#[test]
fn a_service_that_does_not_fit_keeps_back_no_other() -> Result<()> {
    let file = "interfaces = [\"eth0\"]\n[limits]\nreplicas = 4\n";
    let cluster = Cluster::start("kube-room", 4, 2, Some(file))?;
    let clients = Clients::new(&cluster.lab.client)?;
    let mut load = open(&clients, cluster.vip(Family::V4), "chat-", 30)?;
    let endpoints = |count: usize| {
        let address = |pod: &Pod| cluster.lab.replicas[pod.ordinal()].addr(Family::V4);
        let endpoints: Vec<_> = all(count).iter().map(|pod| pod.endpoint(address(pod))).collect();
        cluster.api.apply(slice("large", "large-v4", REPLICA_PORT, &endpoints));
    };
    endpoints(3);
    cluster.api.apply(service("large", &[cluster.lab.vip_n(Family::V4, 5)]));
    let problems = || -> Result<serde_json::Value> {
        Ok(cluster.roost.json(&["status"])?["problems"].clone())
    };
    let count = |count: usize| -> Result<Option<()>> {
        Ok((problems()?.as_array().map(Vec::len) == Some(count)).then_some(()))
    };
    try_until(LIMIT, "a service that does not fit", || count(1))?;
    let said = problems()?;
    assert_eq!(said[0]["service"], "default/large:ws");
    let says = "map REPLICAS has 2 of 4 entries in use, and it needs 3 more";
    assert!(said[0]["problem"].to_string().contains(says), "{said}");
    let text = cluster.roost.text(&["status"])?;
    assert!(text.contains("NOT AS ITS SOURCE SAYS") && text.contains(says), "{text}");
    try_until(LIMIT, "an Event", || {
        let events = cluster.api.all("events");
        let of = |event: &&serde_json::Value| {
            event["regarding"]["name"] == "large" && event["reason"] == "NoRoom"
        };
        let event = events.iter().find(of);
        let note = event.map(|event| event["note"].to_string());
        ensure!(
            note.as_ref().is_none_or(|note| note.contains("map REPLICAS, which takes 4 entries")),
            "{note:?}"
        );
        Ok(note)
    })?;
    // The other goes on being changed: its replica that leaves is gone, and another comes.
    let one_left = [Pod::Ready(0), Pod::Ready(2)];
    cluster.pods(&one_left);
    cluster.wait(&one_left)?;
    only_alive(&clients, &mut load, &[0])?;
    assert!(clients.tab((cluster.lab.vip_n(Family::V4, 5), VIP_PORT).into(), "chat").is_err());
    // With less to ask for it fits, and nothing is said of it any more.
    endpoints(1);
    try_until(LIMIT, "the service", || count(0))?;
    clients.tab((cluster.lab.vip_n(Family::V4, 5), VIP_PORT).into(), "chat")?;
    Ok(())
}

#[test]
fn no_service_takes_what_belongs_to_nodes_pods_or_other_services() -> Result<()> {
    let allowed = "198.18.200.0/24";
    let file =
        format!("interfaces = [\"eth0\"]\n[kubernetes]\nallowed_addresses = [\"{allowed}\"]\n");
    let cluster = Cluster::start("kube-thief", 2, 2, Some(&file))?;
    let (lab, clients) = (&cluster.lab, Clients::new(&cluster.lab.client)?);
    let [own_addr, _] = lab.node_addrs();
    let own = lab.node.listen((own_addr, VIP_PORT).into())?;
    let pod = lab.replicas[0].addr(Family::V4);
    let [free, outside] = [lab.vip_n(Family::V4, 5), "203.0.113.7".parse()?];
    let given = lab.vip(Family::V4);
    let mut thief = service("thief", &[]);
    thief["spec"]["clusterIPs"] = json!(["10.96.0.11"]);
    thief["spec"]["externalIPs"] = json!([own_addr, pod, "10.96.0.10", outside, free]);
    cluster.api.apply(slice("thief", "thief-v4", REPLICA_PORT, &[Pod::Ready(1).endpoint(pod)]));
    cluster.api.apply(thief.clone());
    let serves = |wanted: &[IpAddr]| {
        try_until(LIMIT, &format!("{wanted:?} served"), || {
            let services = cluster.roost.json(&["services"])?;
            let all = services.as_array().into_iter().flatten();
            let addresses: Vec<_> = all
                .filter(|service| service["service"] == "default/thief:ws")
                .flat_map(|service| service["addresses"].as_array().cloned().unwrap_or_default())
                .collect();
            let has = |addr: &IpAddr| {
                addresses.iter().any(|text| text.to_string().contains(&addr.to_string()))
            };
            Ok((addresses.len() == wanted.len() && wanted.iter().all(has)).then_some(()))
        })
    };
    serves(&[free])?;
    // Each is told of, by an Event of its own.
    for (addr, why) in [
        (own_addr.to_string(), "is an address of a Node"),
        (pod.to_string(), "is an address of pods"),
        ("10.96.0.10".into(), "is the cluster IP of a Service"),
        (outside.to_string(), "is none that Services may take by themselves"),
    ] {
        let says = format!("spec.externalIPs: {addr} {why}");
        try_until(LIMIT, &format!("an Event that {says}"), || {
            let of = |event: &serde_json::Value| {
                event["regarding"]["name"] == "thief"
                    && event["reason"] == "AddressNotServed"
                    && event["note"].as_str().is_some_and(|note| note.starts_with(&says))
            };
            Ok(cluster.api.all("events").iter().any(of).then_some(()))
        })?;
    }
    // What it may have works, the node's port is the node's, and the other Service has its own.
    clients.tab((free, VIP_PORT).into(), "chat")?;
    let client = lab.client.connect((own_addr, VIP_PORT).into())?;
    assert_eq!(own.accept()?.1, client.local_addr()?);
    clients.tab((given, VIP_PORT).into(), "chat")?;
    // A Node may come to an address that was a Service's before.
    cluster.api.apply(node("node-9", &[free]));
    serves(&[])
}

#[test]
fn a_file_and_a_cluster_are_active_together() -> Result<()> {
    let config = |lab: &Lab| {
        let mut config = Config::new(lab);
        config.addresses = vec![lab.vip_n(Family::V4, 7).to_string()];
        config.name = "of-the-file".into();
        config.to_string()
    };
    // The file needs the lab's addresses, so it is written afterwards; at first it has no service.
    let cluster = Cluster::start("kube-file", 3, 2, Some("interfaces = [\"eth0\"]\n"))?;
    let clients = Clients::new(&cluster.lab.client)?;
    let mut of_cluster = open(&clients, cluster.vip(Family::V4), "chat-", 10)?;
    cluster.roost.write_config(&config(&cluster.lab))?;
    let seven = SocketAddr::new(cluster.lab.vip_n(Family::V4, 7), VIP_PORT);
    try_until(LIMIT, "the file's service", || Ok(clients.tab(seven, "ready").ok()))?;
    open_from(&clients, cluster.lab.client_addr_n(Family::V4, 1), seven, "chat-", 10)?;
    only_alive(&clients, &mut of_cluster, &[0, 1])?;
    // An address that the file takes is not the cluster's any more, and comes back to it.
    let vip = cluster.lab.vip(Family::V4).to_string();
    cluster.roost.write_config(&config(&cluster.lab).replace(&seven.ip().to_string(), &vip))?;
    let owner = |name: &str| {
        try_until(LIMIT, &format!("{vip} to be of {name}"), || {
            let vips = cluster.roost.json(&["maps", "dump", "VIPS"])?.to_string();
            let services = cluster.roost.json(&["services"])?;
            let mut all = services.as_array().into_iter().flatten();
            let service =
                all.find(|service| service["service"] == name).context("no such service")?;
            ensure!(service["addresses"].to_string().contains(&vip), "{service} {vips}");
            Ok(Some(()))
        })
    };
    owner("of-the-file")?;
    only_alive(&clients, &mut of_cluster, &[0, 1])?;
    cluster.roost.write_config("interfaces = [\"eth0\"]\n")?;
    owner("default/chat:ws")?;
    only_alive(&clients, &mut of_cluster, &[0, 1])
}
