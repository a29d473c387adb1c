//! `terminator`: what a message costs through a proxy in a pod that ends TLS, with Roost behind it and with the proxy's own hash
//! of the chat in Roost's place; and which chats each keeps whole while replicas come and go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use roost_chat::client::{Tab, Upgrade};
use roost_chat::tls::ClientTls;
use tokio::time::Instant;

use super::report::Report;
use super::step;
use super::usage::ran;
use crate::bench::{median, pin};
use crate::lab::{
    Authority, Behind, Certificate, ChatServer, Clients, Config, Family, Joined, Lab, Netns, Pod,
    Proxy, REPLICA_PORT, Roost, Site, Terminator,
};

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Let N tabs ask, each as soon as it was answered
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub tabs: u32,
    /// Measure each N times, in turns
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Measure each for N milliseconds: short, so that whatever else the machine does is in both
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..))]
    pub millis: u64,
    /// Open N chats, a tab of each with each number of replicas
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub chats: u32,
}

/// How many replicas are ready, one after the other.
const SIZES: [usize; 4] = [3, 6, 2, 4];
/// The most that Roost may cost more for a message, in microseconds of CPU.
const MORE_US: f64 = 5.0;
const LIMIT: Duration = Duration::from_secs(60);
const HOST: &str = "chat.test";

/// A proxy in a pod, and who chooses the replica behind it.
struct Front {
    name: String,
    terminator: Terminator,
    is_roost: bool,
    pod: Pod,
    certificate: Certificate,
    /// One for each number of replicas: the connections of those before go on, as with a reload.
    proxies: Vec<Proxy>,
    at: SocketAddr,
    /// Microseconds for a message, of each round, and how many a second.
    costs: Vec<f64>,
    rates: Vec<f64>,
    tabs: Vec<Tab>,
    /// Tabs by chat, and of how many chats all are on one replica, at each size.
    chats: BTreeMap<u32, Vec<Tab>>,
    whole: Vec<usize>,
}

/// Runs the scenario.
pub(super) fn run(options: &Options) -> Result<Report> {
    let most = SIZES.into_iter().max().unwrap_or_default();
    // With all that is started: who wakes whom on another CPU costs more than what is measured, and differs each time.
    pin()?;
    step(&format!("a node with {most} replicas, and proxies in pods that end TLS"));
    let lab = Lab::builder("terminator").replicas(most).build()?;
    let servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    let roost = Roost::start(&lab, &config(&lab, 0))?;
    let site = Site { roost, servers, lab };
    let authority = Authority::new(&site.lab)?;
    let mut fronts = Vec::new();
    for (terminator, name) in [(Terminator::Nginx, "nginx"), (Terminator::Haproxy, "haproxy")] {
        for is_roost in [true, false] {
            let n = fronts.len() as u8 + 1;
            let pod = site.lab.pod(n, Joined::Routed)?;
            site.roost.wait_client_link(&pod.node_device, true)?;
            let name = format!("{name}_{}", if is_roost { "roost" } else { "hash" });
            let certificate = authority.certify(&name, &[HOST])?;
            let at = SocketAddr::new(pod.addr(Family::V4), 0);
            let mut front = Front {
                name,
                terminator,
                is_roost,
                pod,
                certificate,
                proxies: Vec::new(),
                at,
                costs: Vec::new(),
                rates: Vec::new(),
                tabs: Vec::new(),
                chats: BTreeMap::new(),
                whole: Vec::new(),
            };
            front.start(&site, 0)?;
            fronts.push(front);
        }
    }

    let (clients, tls) = (site.clients()?, ClientTls::read(authority.file())?);
    for front in &mut fronts {
        front.tabs = (0..options.tabs)
            .map(|n| front.open(&site.lab.client, &clients, &tls, &format!("busy-{n}")))
            .collect::<Result<_>>()?;
    }
    step(&format!("{} rounds", options.rounds));
    let time = Duration::from_millis(options.millis);
    for round in 0..options.rounds {
        let mut turns: Vec<&mut Front> = fronts.iter_mut().collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for front in turns {
            front.measure(&site, &clients, time)?;
        }
    }
    for (stage, ready) in SIZES.into_iter().enumerate() {
        step(&format!("{ready} replicas are ready; a tab more of each of {} chats", options.chats));
        if stage > 0 {
            site.roost.write_config(&config(&site.lab, stage))?;
            let names = site.lab.replicas[..ready].iter().map(|replica| replica.name.as_str());
            site.wait_replicas(&names.collect::<Vec<_>>())?;
        }
        for front in &mut fronts {
            if stage > 0 && !front.is_roost {
                front.start(&site, stage)?;
            }
            for chat in 0..options.chats {
                let name = format!("{}-{chat}", front.name);
                let tab = front.open(&site.lab.client, &clients, &tls, &name)?;
                front.chats.entry(chat).or_default().push(tab);
            }
            front.whole.push(front.whole());
        }
    }
    report(options, &mut fronts)
}

fn report(options: &Options, fronts: &mut [Front]) -> Result<Report> {
    let mut report = Report::new("terminator");
    report.part(format!(
        "A message and its answer, by {} tabs, each as soon as it was answered",
        options.tabs
    ));
    for pair in fronts.chunks_mut(2) {
        let [with, without] = pair else { continue };
        // Before they are sorted.
        let mut more: Vec<f64> =
            with.costs.iter().zip(&without.costs).map(|(a, b)| a - b).collect();
        for Front { name, costs, rates, .. } in [&mut *with, &mut *without] {
            report.tell(
                format!("{name}_us"),
                median(costs),
                format!("us of CPU for tab, proxy, replica and packets, {name}"),
            );
            report.tell(format!("{name}_rate"), median(rates).round(), "a second");
        }
        let key = format!("{:?}_more_us", with.terminator).to_lowercase();
        report.at_most(
            key,
            median(&mut more),
            MORE_US,
            "us more with Roost behind it: the median of all rounds",
        );
        let quarter = more.len() / 4;
        let (low, high) = (more[quarter], more[more.len() - 1 - quarter]);
        report.text(format!("half of the rounds say {low:.1} to {high:.1} us"));
    }
    report.part(format!(
        "Chats of {} of which all tabs are on one replica, with one tab more each time",
        options.chats
    ));
    for Front { name, is_roost, whole, .. } in fronts.iter() {
        for (ready, whole) in SIZES.iter().zip(whole) {
            let (key, words) =
                (format!("{name}_whole_{ready}"), format!("whole with {ready} replicas, {name}"));
            match is_roost {
                true => report.at_least(key, *whole as f64, f64::from(options.chats), words),
                false => report.tell(key, *whole as f64, words),
            }
        }
    }
    Ok(report)
}

fn config(lab: &Lab, stage: usize) -> String {
    Config::after(lab, &SIZES[..=stage]).client_links("pod*").to_string()
}

impl Front {
    /// Starts its proxy for a number of replicas, beside those before.
    fn start(&mut self, site: &Site, stage: usize) -> Result<()> {
        let lab = &site.lab;
        self.at.set_port(1000 + 10 * u16::from(self.is_roost) + stage as u16);
        let ready: Vec<SocketAddr> =
            (1..=SIZES[stage]).map(|n| lab.replica_at(n, Family::V4, REPLICA_PORT)).collect();
        let behind = match self.is_roost {
            true => Behind::Vip(site.vip(Family::V4)),
            false => Behind::Hashed(&ready),
        };
        let proxy = self.terminator.start_at(lab, &self.pod.ns, self.at, &self.certificate, behind);
        self.proxies.push(proxy.with_context(|| self.name.clone())?);
        Ok(())
    }

    fn open(&self, from: &Netns, clients: &Clients, tls: &ClientTls, chat: &str) -> Result<Tab> {
        let request = Upgrade::chat(HOST, chat).tls(Some(tls.clone()));
        let tab = clients.run(Tab::upgrade(from.connect(self.at)?, &request));
        tab.with_context(|| self.name.clone())
    }

    /// Lets all tabs ask and be answered for so long.
    fn measure(&mut self, site: &Site, clients: &Clients, time: Duration) -> Result<()> {
        let servers = site.servers.iter().map(|server| server.process.pid());
        let proxies = self.proxies.iter().map(|proxy| proxy.process.pid());
        let all: Vec<u32> = servers.chain(proxies).chain([std::process::id()]).collect();
        let begin = ran(&all)?;
        let until = Instant::now() + time;
        let asking = self.tabs.iter_mut().map(async |tab| {
            let mut answers = 0_u64;
            while Instant::now() < until {
                tab.ping(LIMIT).await?;
                answers += 1;
            }
            anyhow::Ok(answers)
        });
        let answers = clients.run(futures_util::future::try_join_all(asking))?;
        let answers = answers.iter().sum::<u64>() as f64;
        self.costs.push((ran(&all)? - begin).as_nanos() as f64 / 1000.0 / answers);
        self.rates.push(answers / time.as_secs_f64());
        Ok(())
    }

    fn whole(&self) -> usize {
        let is_whole = |tabs: &&Vec<Tab>| tabs.iter().all(|tab| tab.replica() == tabs[0].replica());
        self.chats.values().filter(is_whole).count()
    }
}
