//! Clients on the node itself: pods whose links Roost is attached to meet clients from outside.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use futures_util::future::try_join;
use roost_chat::client::{Http, Tab, Upgrade};
use roost_chat::protocol::REPLICA_HEADER;
use roost_chat::tls::ClientTls;
use roost_programs::{CURL, IP, NFT, TC};
use roost_tests::lab::{
    Authority, BRIDGE, Clients, Config, Family, HTTPS_PORT, Joined, Lab, Pod, Site, Terminator,
    UPLINK, fails, heavy, meet, run_in, talk,
};
use roost_tests::rooms::{Client, Place, Rooms, Size, Transports};
use serde_json::Value;
use tokio::{net::TcpSocket, time::timeout};

const MB: u64 = 1 << 20;
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

/// Fails if something was dropped that somebody meant.
fn nothing_went_wrong(site: &Site) -> Result<()> {
    for wrong in
        ["drop_malformed", "drop_checksum", "drop_fault", "egress_drop_fault", "drop_other_link"]
    {
        ensure!(site.counter(wrong)? == 0, "{wrong}\n{}", site.diagnosis());
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
    nothing_went_wrong(&site)?;
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

/// Files down and up at a time, with each family, whose every byte is compared.
fn transfer(site: &Site, clients: &Clients, mb: u64) -> Result<()> {
    for family in Family::BOTH {
        let vip = site.vip(family);
        let (mut down, mut up) = (clients.http(vip, "down")?, clients.http(vip, "up")?);
        let both = async { try_join(down.download(mb * MB, 1), up.upload(mb * MB, 2)).await };
        let done = clients.run(async { timeout(LIMIT, both).await }).context("not done");
        fails(site, done.flatten()).with_context(|| family.to_string())?;
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
            transfer(&site, &clients, 40).with_context(|| format!("off: {off:?}"))?;
        }
    }
    // The bridge takes less than the pod sends to it: what comes in is nobody's matter but the pod's.
    run_in(&site.lab.node, IP, &["link", "set", BRIDGE, "mtu", "1400"])?;
    for offload in ["gso", "tso"] {
        pods[1].ns.set_offload(UPLINK, offload, false)?;
    }
    transfer(&site, &Clients::new(&pods[1].ns)?, 2).context("a bridge of a smaller MTU")?;
    ensure!(site.counter("drop_other_link")? == 0, "{}", site.diagnosis());
    ensure!(site.counter("drop_checksum")? == 0, "{}", site.diagnosis());
    for ns in
        site.lab.replicas.iter().map(|replica| &replica.ns).chain(pods.iter().map(|pod| &pod.ns))
    {
        ensure!(ns.tcp_count("InCsumErrors")? == 0, "{}", ns.name());
    }
    Ok(())
}

/// A veth hands over whatever it is given. These devices cut and sum, or take all that a system leaves to them.
#[test]
fn a_device_that_really_cuts_gets_what_it_can_cut() -> Result<()> {
    let _heavy = heavy()?;
    let site = start("inside-tap")?;
    for (n, is_whole) in [(1, false), (2, true)] {
        let pod = pod(&site, n, Joined::Tapped { whole: is_whole })?;
        transfer(&site, &Clients::new(&pod.ns)?, 10)
            .with_context(|| format!("whole: {is_whole}"))?;
        for frames in pod.frames().context("no taps")? {
            let [all, whole, wrong] =
                [&frames.all, &frames.whole, &frames.wrong].map(|n| n.load(Relaxed));
            ensure!(all > 0 && wrong == 0 && (whole > 0) == is_whole, "{frames:?}");
        }
    }
    nothing_went_wrong(&site)
}

/// The answers to `n` requests: who has answered each.
fn answers(stream: &mut TcpStream, n: usize) -> Result<Vec<String>> {
    let mut text = String::new();
    let mut part = [0; 4096];
    stream.set_read_timeout(Some(LIMIT))?;
    while text.matches("}").count() < n {
        let len = stream.read(&mut part)?;
        ensure!(len > 0, "it has ended: {text}");
        text += std::str::from_utf8(&part[..len])?;
    }
    let replica = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case(REPLICA_HEADER).then(|| value.to_owned())
    };
    Ok(text.lines().filter_map(replica).collect())
}

/// One packet with a whole request, for the next chat on one connection; and with three of them, for one chat.
#[test]
fn whole_requests_in_one_packet_are_answered_where_their_chat_lives() -> Result<()> {
    let site = start("inside-whole")?;
    let clients = site.clients()?;
    let pods = [pod(&site, 1, Joined::Routed)?, pod(&site, 2, Joined::Tapped { whole: true })?];
    for family in Family::BOTH {
        let vip = site.vip(family);
        let homes = (0..8).map(|chat| clients.tab(vip, &format!("{family}-{chat}")));
        let homes = homes.collect::<Result<Vec<_>>>()?;
        for pod in &pods {
            let whole = || pod.frames().map(|frames| frames[0].whole.load(Relaxed));
            let before = whole();
            let ask = |stream: &mut TcpStream, home: &Tab, times: usize| -> Result<()> {
                let (chat, body) = (&home.hello().chat, "x".repeat(9000 / times));
                let length = body.len();
                let request = format!(
                    "POST /sink?chat={chat} HTTP/1.1\r\nHost: chat\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                stream.write_all(request.repeat(times).as_bytes())?;
                let by = fails(&site, answers(stream, times))?;
                let is_at_home = by.iter().all(|by| by == home.replica());
                ensure!(is_at_home, "{by:?}: {:?}\n{}", home.hello(), site.diagnosis());
                Ok(())
            };
            let mut stream = pod.ns.connect(vip)?;
            homes.iter().try_for_each(|home| ask(&mut stream, home, 1))?;
            for home in &homes {
                ask(&mut pod.ns.connect(vip)?, home, 3)?;
            }
            ensure!(whole() >= before.map(|n| n + 16), "{before:?}, {:?}", whole());
        }
    }
    ensure!(site.counter("rebound_request")? > 0, "{}", site.diagnosis());
    nothing_went_wrong(&site)
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
            steal(&site, &one, &clients, family, victim)?;
            ensure!(site.counter("drop_other_link")? > before, "{victim}: {}", site.diagnosis());
        }
    }
    // On a bridge the way back is the same for all; but the answer comes to whom the bridge knows by that address.
    let thief = pod(&site, 3, Joined::Bridged)?;
    let (clients, others) = (Clients::new(&thief.ns)?, Clients::new(&other.ns)?);
    // It says nothing of the addresses that it has taken.
    for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
        thief.ns.sysctl(&format!("net.ipv4.conf.all.{key}"), value)?;
    }
    for (family, beyond) in Family::BOTH.into_iter().zip(["203.0.113.7", "2001:db8::7"]) {
        let via = other.addr(family).to_string();
        run_in(&site.lab.node, IP, &["route", "add", beyond, "via", &via, "dev", BRIDGE])?;
        for clients in [&clients, &others] {
            fails(&site, clients.tab(site.vip(family), "own"))?;
        }
        for victim in [other.addr(family), beyond.parse()?] {
            let before = site.counter("syn_answered")?;
            steal(&site, &thief, &clients, family, victim)?;
            ensure!(site.counter("syn_answered")? > before, "{victim}: {}", site.diagnosis());
        }
        fails(&site, others.tab(site.vip(family), "own"))?;
    }
    Ok(())
}

/// Links get other names, and are named as interfaces in files that are refused; and filters of others are there.
#[test]
fn links_are_served_as_what_they_are_now() -> Result<()> {
    const RENAMED: &str = "pod-two";
    let mut site = start("inside-links")?;
    let (routed, bridged) = (pod(&site, 1, Joined::Routed)?, pod(&site, 2, Joined::Bridged)?);
    let everywhere = [Clients::new(&routed.ns)?, Clients::new(&bridged.ns)?];
    let everywhere: Vec<&Clients> = everywhere.iter().collect();
    let mut all = meet(&site, &everywhere, Family::V4)?;
    let ip = |words: &[&str]| run_in(&site.lab.node, IP, words);

    // One that is made an interface by a file that is refused in the end is a client link again.
    let file = std::fs::read_to_string(site.roost.config())?;
    let named = format!("[\"{UPLINK}\", \"{}\", \"nowhere\"]", bridged.node_device);
    let refused = file.replace(&format!("[\"{UPLINK}\"]"), &named);
    ensure!(refused != file);
    let before = site.roost.process().lines();
    site.roost.write_config(&refused)?;
    site.roost.process().wait_line_after(LIMIT, "everything stays as it was", before)?;
    site.roost.wait_client_link(&bridged.node_device, true)?;
    talk(&everywhere, &mut all, "refused").with_context(|| site.diagnosis())?;

    ip(&["link", "set", &bridged.node_device, "down"])?;
    ip(&["link", "set", &bridged.node_device, "name", RENAMED])?;
    ip(&["link", "set", RENAMED, "up"])?;
    site.roost.wait_client_link(RENAMED, true)?;
    site.roost.wait_client_link(&bridged.node_device, false)?;
    talk(&everywhere, &mut all, "renamed").with_context(|| site.diagnosis())?;

    // What others say at the link's egress is heard, though Roost's program was there before.
    let tc = |words: &[&str]| run_in(&site.lab.node, TC, words);
    let link = routed.node_device.as_str();
    tc(&["qdisc", "add", "dev", link, "clsact"])?;
    // Classic BPF: it returns 2, TC_ACT_SHOT, for whatever comes.
    tc(&["filter", "add", "dev", link, "egress", "bpf", "da", "bytecode", "1,6 0 0 2"])?;
    let vip = site.vip(Family::V4);
    let open = Tab::open(vip, "vip", "filtered", None);
    let opened = everywhere[0].run(async { timeout(Duration::from_millis(500), open).await });
    ensure!(opened.is_err(), "a filter that drops all was not asked");
    tc(&["qdisc", "del", "dev", link, "clsact"])?;
    talk(&everywhere, &mut all, "filtered no more").with_context(|| site.diagnosis())?;

    site.roost.kill();
    for link in [link, RENAMED] {
        ensure!(programs_on(&site, link)? == [1, 1], "{link} is not served without a daemon");
    }
    site.roost.text(&["detach"])?;
    for link in [link, RENAMED] {
        ensure!(programs_on(&site, link)? == [0, 0], "{link} is still served");
    }
    site.roost.write_config(&file)?;
    site.roost.restart()?;
    meet(&site, &everywhere, Family::V6)?;

    // Whose clients are reached by another interface cannot be told by what the link is.
    for family in Family::BOTH {
        ip(&["route", "del", &routed.addr(family).to_string(), "dev", link])?;
    }
    let status = site.roost.json(&["status"])?;
    let all = status["interfaces"].as_array().context("no interfaces")?;
    let line = all.iter().find(|line| line["interface"] == link).context("it is not listed")?;
    let problem = line["problem"].as_str().unwrap_or_default();
    ensure!(problem.contains("no route"), "{line}");
    let before = site.counter("drop_other_link")?;
    let open = Tab::open(vip, "vip", "no way", None);
    let opened = everywhere[0].run(async { timeout(Duration::from_millis(500), open).await });
    ensure!(opened.is_err() && site.counter("drop_other_link")? > before);
    Ok(())
}

/// How many programs are at TCX of a link of the node's, at ingress and at egress.
fn programs_on(site: &Site, link: &str) -> Result<[usize; 2]> {
    site.lab.node.run(|| {
        let at = |way| anyhow::Ok(SchedClassifier::query_tcx(link, way)?.1.len());
        Ok([at(TcAttachType::Ingress)?, at(TcAttachType::Egress)?])
    })
}

/// Lets a pod connect with an address that is another one's, and fails if it hears of an answer.
fn steal(site: &Site, pod: &Pod, clients: &Clients, family: Family, victim: IpAddr) -> Result<()> {
    let (whole, more) = match family {
        Family::V4 => (format!("{victim}/32"), None),
        Family::V6 => (format!("{victim}/128"), Some("nodad")),
    };
    let add: Vec<&str> = ["addr", "add", &whole, "dev", "lo"].into_iter().chain(more).collect();
    run_in(&pod.ns, IP, &add)?;
    let opened = clients.run(async {
        let socket = match family {
            Family::V4 => TcpSocket::new_v4()?,
            Family::V6 => TcpSocket::new_v6()?,
        };
        socket.bind((victim, 0).into())?;
        anyhow::Ok(timeout(Duration::from_millis(500), socket.connect(site.vip(family))).await)
    })?;
    ensure!(opened.is_err(), "{victim} was answered: {opened:?}\n{}", site.diagnosis());
    Ok(())
}

/// What a pod and a replica on the same bridge send each other is routed one way only. Where the bridge shows it to the node's rules
/// and connection tracking, as Kubernetes has it, both see all of it.
#[test]
fn a_pod_and_a_replica_on_one_bridge_are_an_ordinary_connection() -> Result<()> {
    let site = Site::start(Lab::builder("inside-beside"), |lab| Config {
        top: "client_links = [\"pod*\", \"rep1\"]".to_owned(),
        ..Config::new(lab)
    })?;
    let pods = [pod(&site, 1, Joined::BesideReplica)?, pod(&site, 2, Joined::Routed)?];
    site.roost.wait_client_link("rep1", true)?;
    let everywhere = [site.clients()?, Clients::new(&pods[0].ns)?, Clients::new(&pods[1].ns)?];
    let everywhere: Vec<&Clients> = everywhere.iter().collect();
    let talks = || -> Result<()> {
        for family in Family::BOTH {
            let mut all = meet(&site, &everywhere, family)?;
            talk(&everywhere, &mut all, "hello").with_context(|| site.diagnosis())?;
            let (vip, beside) = (site.vip(family), everywhere[1]);
            let (mut down, mut up) = (beside.http(vip, "down")?, beside.http(vip, "up")?);
            let both = async { try_join(down.download(4 * MB, 1), up.upload(4 * MB, 2)).await };
            let done = beside.run(async { timeout(LIMIT, both).await }).context("not done");
            fails(&site, done.flatten()).with_context(|| family.to_string())?;
        }
        Ok(())
    };
    site.lab.kubernetes_rules()?;
    talks()?;
    let matched = site.lab.matched()?;
    let others = matched.invalid_in + matched.invalid_out + matched.masqueraded + matched.proxied;
    ensure!(others == 0 && matched.forwarded > 0, "{matched:?}");
    // What nobody is shown nobody may miss.
    for what in ["iptables", "ip6tables"] {
        site.lab.node.sysctl(&format!("net.bridge.bridge-nf-call-{what}"), "0")?;
    }
    run_in(&site.lab.node, NFT, &["delete", "table", "inet", "kubernetes"])?;
    talks()
}

/// Proxies end TLS in pods, and keep their connections to the VIP for whatever request comes next.
#[test]
fn terminators_in_pods_get_each_request_to_its_chat() -> Result<()> {
    let _heavy = heavy()?;
    let mut site = start("inside-tls")?;
    let servers = std::mem::take(&mut site.servers);
    let authority = Authority::new(&site.lab)?;
    let other = pod(&site, 9, Joined::Bridged)?;
    let mut fronts = Vec::new();
    for (n, terminator) in (1..).zip(Terminator::ALL) {
        let joined = if n == 2 { Joined::Bridged } else { Joined::Routed };
        let (pod, family) = (pod(&site, n, joined)?, if n == 2 { Family::V6 } else { Family::V4 });
        let addr = pod.addr(Family::V4);
        let names = ["chat.test", &addr.to_string()];
        let certificate = authority.certify(&format!("{terminator:?}"), &names)?;
        let vip = site.vip(family);
        let proxy = terminator.start_in(&site.lab, &pod.ns, addr, &certificate, vip)?;
        fronts.push((terminator, pod.addr(family), SocketAddr::new(addr, HTTPS_PORT), pod, proxy));
    }
    let everywhere = [site.clients()?, Clients::new(&other.ns)?];
    let everywhere: Vec<&Clients> = everywhere.iter().collect();
    let outside = &site.lab.client;
    let curl = |at: SocketAddr, chat: &str| -> Result<Value> {
        let ca = authority.file().to_str().context("the authority's path is not UTF-8")?;
        let url = format!("https://{at}/whoami?chat={chat}");
        let answer = run_in(outside, CURL, &["-sS", "--max-time", "60", "--cacert", ca, &url]);
        Ok(serde_json::from_str(&fails(&site, answer)?)?)
    };

    let mut all = meet(&site, &everywhere, Family::V4)?;
    let tls = ClientTls::read(authority.file())?;
    for (terminator, seen, at, ..) in &fronts {
        // Its connections are used for one chat after the other.
        for tab in &all[0] {
            let answer = curl(*at, &tab.hello().chat)?;
            ensure!(answer["replica"] == tab.replica(), "{terminator:?}: {answer}");
        }
        // Three browser tabs of each chat, beside whom they meet.
        for (chat, tab) in all[0].iter_mut().enumerate() {
            let upgrade = Upgrade::chat("chat.test", &tab.hello().chat).tls(Some(tls.clone()));
            let mut tabs = Vec::new();
            for _ in 0..3 {
                let stream = outside.connect(*at)?;
                let through = fails(&site, everywhere[0].run(Tab::upgrade(stream, &upgrade)))?;
                ensure!(
                    through.replica() == tab.replica(),
                    "{terminator:?}: {:?}",
                    through.hello()
                );
                ensure!(
                    through.hello().peer.ip() == *seen,
                    "{terminator:?}: {:?}",
                    through.hello()
                );
                tabs.push(through);
            }
            let said = format!("{terminator:?} {chat}");
            everywhere[0].run(tabs[0].say(&said))?;
            for tab in tabs.iter_mut().chain([tab]) {
                ensure!(everywhere[0].run(tab.hears(&said, LIMIT))?, "{said} is not heard");
            }
        }
    }
    drop(all);

    // Socket.IO in the chat's place: a page's polls and upgrades for many chats on a few connections.
    drop(servers);
    let rooms = Rooms::start(&site.lab)?;
    let tabs = Client::Tabs { transports: Transports::Usual, shared: true, again: false };
    for (terminator, _, at, ..) in &fronts {
        let place = Place::tls(*at, authority.file());
        let size = Size { chats: 6, tabs: 3 };
        let outcome = rooms.visit(&site.lab, tabs, size, place, &format!("{terminator:?}"))?;
        ensure!(outcome.is_well(), "{terminator:?}: {outcome:?}\n{}", site.diagnosis());
        ensure!(outcome.replicas > 1 && outcome.told.upgraded == outcome.told.clients);
        // The replica learns who the client is from the one who knows.
        let answer = curl(*at, "any")?;
        let client = site.lab.client_addr(Family::V4).to_string();
        ensure!(answer["forwarded"] == client, "{terminator:?}: {answer}");
    }
    ensure!(site.counter("rebound_request")? > 0, "{}", site.diagnosis());
    ensure!(site.counter("affinity_violation")? == 0, "{}", site.diagnosis());
    nothing_went_wrong(&site)
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
