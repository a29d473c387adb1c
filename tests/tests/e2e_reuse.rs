//! Requests for many chats on connections that are used again, by clients, servers and proxies of others: each gets to its
//! chat, and is executed once.

use anyhow::{Result, ensure};
use roost_tests::browser::{Kind, LIMIT, Launch, Tab};
use roost_tests::lab::{
    Config, Family, Lab, LabBuilder, Matched, Roost, Site, UPLINK, VIP_PORT, Way, heavy,
};
use roost_tests::rooms::{Between, Client, Outcome, Rooms, Size, Told, Transports};

/// Few enough to be quick; that all are on one replica by luck is one in 177,147.
const SIZE: Size = Size { chats: 12, tabs: 3 };

/// A lab with servers whose connections go to each request's chat.
struct Bed {
    rooms: Rooms,
    site: Site,
}

impl Bed {
    fn start(name: &str) -> Result<Self> {
        Self::build(Lab::builder(name), "rebind")
    }

    fn build(lab: LabBuilder, on_reuse: &str) -> Result<Self> {
        let lab = lab.build()?;
        let config = Config::new(&lab).with(&format!("on_reuse = {on_reuse:?}"));
        Self::with(lab, &config)
    }

    fn with(lab: Lab, config: &Config) -> Result<Self> {
        let rooms = Rooms::start(&lab)?;
        let roost = Roost::start(&lab, &config.to_string())?;
        Ok(Self { rooms, site: Site { roost, servers: Vec::new(), lab } })
    }

    /// Lets a client visit chats; all has to be well.
    fn visit(&self, client: Client, between: Between, family: Family, prefix: &str) -> Result<()> {
        let vip = (self.site.lab.vip(family), VIP_PORT).into();
        let (at, _proxy) = between.start(&self.site.lab, vip)?;
        let before = self.site.counter("rebound_request")?;
        let outcome = self.rooms.visit(&self.site.lab, client, SIZE, at, prefix)?;
        ensure!(outcome.is_well(), "{prefix}: {outcome:?}\n{}", self.site.diagnosis());
        let bound_again = self.site.counter("rebound_request")? - before;
        ensure!(bound_again > 0, "{prefix}: no connection was used for two chats: {outcome:?}");
        self.is_certain(&outcome)
    }

    /// Every request was read, and none went elsewhere.
    fn is_certain(&self, outcome: &Outcome) -> Result<()> {
        ensure!(outcome.replicas > 1, "all chats are on one replica: {outcome:?}");
        let counters = self.site.roost.json(&["counters"])?;
        for line in counters.as_array().into_iter().flatten() {
            let name = line["counter"].as_str().unwrap_or_default();
            ensure!(!name.starts_with("doubt_") && name != "affinity_violation", "{counters}");
        }
        Ok(())
    }
}

const fn tabs(transports: Transports, shared: bool) -> Client {
    Client::Tabs { transports, shared, again: false }
}

#[test]
fn tabs_of_socket_io_that_share_connections() -> Result<()> {
    let bed = Bed::start("reuse-tabs")?;
    for family in Family::BOTH {
        for transports in [Transports::Usual, Transports::Polling] {
            let prefix = format!("{family}-{transports:?}");
            bed.visit(tabs(transports, true), Between::Nobody, family, &prefix)?;
        }
    }
    Ok(())
}

#[test]
fn through_nginx_that_keeps_its_connections() -> Result<()> {
    let bed = Bed::start("reuse-nginx")?;
    for (n, client) in [tabs(Transports::Usual, false), Client::Go].into_iter().enumerate() {
        bed.visit(client, Between::Nginx, Family::V4, &format!("nginx-{n}"))?;
    }
    Ok(())
}

#[test]
fn through_haproxy_that_takes_any_connection() -> Result<()> {
    let bed = Bed::start("reuse-haproxy")?;
    for (n, client) in [tabs(Transports::Usual, false), Client::Go].into_iter().enumerate() {
        bed.visit(client, Between::Haproxy, Family::V4, &format!("haproxy-{n}"))?;
    }
    Ok(())
}

#[test]
fn pools_of_go_and_python_and_curl_without_one() -> Result<()> {
    let bed = Bed::start("reuse-pools")?;
    for family in Family::BOTH {
        for client in [Client::Go, Client::Python, Client::Curl] {
            bed.visit(client, Between::Nobody, family, &format!("{family}-{client:?}"))?;
        }
    }
    Ok(())
}

/// Later heads whose key only their second to eighth segment tells; and while segments are lost.
#[test]
fn a_pool_with_many_cookies_before_the_key() -> Result<()> {
    let lab = Lab::builder("reuse-cookies").build()?;
    let config = Config::new(&lab).key("header:x-chat");
    let bed = Bed::with(lab, &config)?;
    for (family, bytes) in [(Family::V4, 1600), (Family::V6, 10_000)] {
        let prefix = format!("{family}-{bytes}");
        bed.visit(Client::Cookies(bytes), Between::Nobody, family, &prefix)?;
    }
    let announced = bed.site.counter("head_announced")?;
    ensure!(announced > 0, "no head was waited for");
    let client = &bed.site.lab.client;
    for way in [Way::In, Way::Out] {
        client.set_loss(UPLINK, way, 2)?;
    }
    bed.visit(Client::Cookies(3000), Between::Nobody, Family::V4, "lost")
}

#[test]
fn while_segments_are_lost_and_overtaken() -> Result<()> {
    let bed = Bed::start("reuse-worse")?;
    let client = &bed.site.lab.client;
    for way in [Way::In, Way::Out] {
        client.set_loss(UPLINK, way, 2)?;
    }
    bed.visit(Client::Go, Between::Nobody, Family::V4, "lost")?;
    for way in [Way::In, Way::Out] {
        client.set_loss(UPLINK, way, 0)?;
    }
    client.set_reordering(UPLINK, 20)?;
    bed.visit(Client::Go, Between::Nobody, Family::V4, "overtaken")
}

#[test]
fn files_on_connections_that_change_replicas() -> Result<()> {
    let bed = Bed::start("reuse-files")?;
    bed.visit(Client::Files(10), Between::Nobody, Family::V4, "files")
}

#[test]
fn where_checksums_are_left_to_a_device_and_in_generic_mode() -> Result<()> {
    let usual = || Lab::builder("reuse-uncut");
    for (n, lab) in [usual().untouched(true), usual().uplink_mtu(9000).replica_mtu(9000)]
        .into_iter()
        .enumerate()
    {
        let bed = Bed::build(lab, "rebind")?;
        let prefix = |client| format!("{n}-{client}");
        bed.visit(tabs(Transports::Usual, true), Between::Nobody, Family::V4, &prefix("tabs"))?;
        bed.visit(Client::Go, Between::Nobody, Family::V6, &prefix("go"))?;
        bed.visit(Client::Files(10), Between::Nobody, Family::V4, &prefix("files"))?;
    }
    Ok(())
}

#[test]
fn through_a_node_that_tracks_and_masquerades() -> Result<()> {
    let bed = Bed::start("reuse-tracked")?;
    let lab = &bed.site.lab;
    lab.kubernetes_rules()?;
    let visit = |client: Client| {
        Family::BOTH.into_iter().try_for_each(|family| {
            bed.visit(client, Between::Nobody, family, &format!("{family}-{client:?}"))
        })
    };
    visit(tabs(Transports::Polling, true))?;
    visit(Client::Curl)?;
    let expect = |usual: &dyn Fn(Matched) -> Matched| -> Result<()> {
        let matched = lab.matched()?;
        assert_eq!(usual(matched), Matched::default(), "{matched:?}");
        // Only where a replica got its next connection before its last one had ended there.
        ensure!(matched.crossed <= bed.site.counter("syn_repeated")?, "{matched:?}");
        Ok(())
    };
    expect(&|matched| Matched { crossed: 0, forwarded: 0, ..matched })?;
    // A client goes on with the last replica's window; of what it sends beyond the new one's neither
    // connection tracking nor the replica takes anything, and it comes again.
    visit(Client::Files(10))?;
    expect(&|matched| Matched { invalid_in: 0, crossed: 0, forwarded: 0, ..matched })
}

#[test]
fn without_the_daemon() -> Result<()> {
    let mut bed = Bed::start("reuse-alone")?;
    bed.site.roost.kill();
    bed.visit(tabs(Transports::Usual, true), Between::Nobody, Family::V4, "alone")
}

#[test]
fn six_tabs_of_six_chats_in_one_chromium() -> Result<()> {
    six_tabs(Kind::Chromium, "rebind", "rebound_request")?;
    // It asks again by itself, by POST too.
    six_tabs(Kind::Chromium, "reset", "ended_reuse")
}

#[test]
fn six_tabs_of_six_chats_in_one_firefox() -> Result<()> {
    six_tabs(Kind::Firefox, "rebind", "rebound_request")?;
    six_tabs(Kind::Firefox, "reset", "ended_reuse")
}

/// Pages, polling, WebSockets and other requests of six chats on one address, by the connections of one profile, of which some
/// count for this.
fn six_tabs(kind: Kind, on_reuse: &str, counter: &str) -> Result<()> {
    const REQUESTS: usize = 8;
    let _heavy = heavy()?;
    let bed = Bed::build(Lab::builder(&format!("reuse-{kind:?}").to_lowercase()), on_reuse)?;
    let browser = Launch::new(kind).start(&bed.site.lab)?;
    let vip = bed.site.vip(Family::V4);
    let names: Vec<String> = (0..6).map(|n| format!("tab-{n}")).collect();
    let mut open = Vec::new();
    for (n, chat) in names.iter().enumerate() {
        // Each that polls has one of six connections for good.
        let transports = if n % 2 == 0 { "polling" } else { "polling,websocket" };
        open.push(browser.open(&format!("http://{vip}/page?chat={chat}&transports={transports}"))?);
    }
    for (n, tab) in open.iter().enumerate() {
        let transport = if n % 2 == 0 { "polling" } else { "websocket" };
        let there = format!("window.replica && tab.io.engine.transport.name == '{transport}'");
        tab.wait_for(LIMIT, &there)?;
    }
    let mut told = Told { clients: names.len() * REQUESTS, ..Told::default() };
    for (tab, chat) in open.iter().zip(&names) {
        tab.evaluate(&format!(
            "void (window.answers = (async () => {{
                tab.emit('say', '{chat}/said');
                const all = [];
                for (let n = 0; n < {REQUESTS}; n += 1) {{
                    const to = `/do?chat={chat}&id={chat}/${{n}}`;
                    all.push((await (await fetch(to, {{ method: 'POST', body: 'x' }})).json()).replica);
                }}
                return all;
            }})())"
        ))?;
        told.said.extend((0..REQUESTS).map(|n| format!("{chat}/{n}")));
        told.said.push(format!("{chat}/said"));
    }
    for (tab, chat) in open.iter().zip(&names) {
        let on = tab.evaluate("window.replica")?;
        let answers = tab.evaluate("window.answers")?;
        let answers = answers.as_array().into_iter().flatten();
        told.reached += answers.filter(|replica| **replica == on).count();
        told.chats.insert(chat.clone(), vec![on.as_str().map(str::to_owned)]);
        tab.wait_for(LIMIT, &format!("heard.includes('{chat}/said')"))?;
        ensure!(tab.evaluate("tab.connected")? == true, "{chat} is not connected any more");
    }
    open.into_iter().try_for_each(Tab::close)?;
    let outcome = bed.rooms.seen(&bed.site.lab, &names, told)?;
    ensure!(outcome.is_well(), "{outcome:?}\n{}", bed.site.diagnosis());
    ensure!(bed.site.counter(counter)? > 0, "{}", bed.site.diagnosis());
    bed.is_certain(&outcome)
}
