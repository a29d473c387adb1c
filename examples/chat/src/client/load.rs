//! Many tabs of many chats in one process, held open and watched.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::tls::ClientTls;

use super::{OPEN_LIMIT, Tab, Upgrade, connect_within, with_query};

/// How many error texts a report keeps; the rest is counted only.
const ERRORS_KEPT: usize = 5;

/// How long a replica has to answer a ping.
const PING_LIMIT: Duration = Duration::from_secs(10);

/// What to open.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The address to connect to.
    pub address: SocketAddr,
    /// The host and port, as in the header `Host`.
    pub host: String,
    /// The path; the chat is added to its query.
    pub path: String,
    /// The query parameter that names the chat.
    pub query: String,
    /// Chats are called `<prefix>0`, `<prefix>1`, ...
    pub prefix: String,
    /// How many chats.
    pub chats: usize,
    /// How many tabs in all; tab `t` is in chat `t % chats`.
    pub tabs: usize,
    /// Local addresses to connect from, in turn. One address has about 28,000 ports.
    pub bind: Vec<SocketAddr>,
    /// How many connections may be in the making at once.
    pub at_once: usize,
    /// How long each may take to connect, and then to be greeted.
    pub limit: Duration,
    /// Speak TLS, and believe these authorities.
    pub tls: Option<ClientTls>,
}

impl Plan {
    /// `tabs` tabs over `chats` chats at `address`, the rest by default.
    pub fn new(address: SocketAddr, chats: usize, tabs: usize) -> Self {
        Self {
            address,
            host: address.to_string(),
            path: "/ws".to_owned(),
            query: "chat".to_owned(),
            prefix: "load-".to_owned(),
            chats,
            tabs,
            bind: Vec::new(),
            at_once: 64,
            limit: OPEN_LIMIT,
            tls: None,
        }
    }
}

/// Where the tabs are once they are open.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Opened {
    /// Tabs that were asked for.
    pub tabs: usize,
    /// Tabs that were greeted by a replica.
    pub opened: usize,
    /// Tabs that were not.
    pub failed: usize,
    /// Chats of which all open tabs are on one replica.
    pub whole: usize,
    /// Tabs that heard the message said in their chat; absent if nothing was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<usize>,
    /// Tabs by replica.
    pub replicas: BTreeMap<String, usize>,
    /// Tabs by chat and replica.
    pub chats: BTreeMap<String, BTreeMap<String, usize>>,
    /// How long the opening took.
    pub took_ms: u64,
    /// The first few errors.
    pub errors: Vec<String>,
}

/// What became of the tabs while they were held.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ended {
    /// Tabs that were open until the end.
    pub held: usize,
    /// Tabs that ended before, or did not answer a ping.
    pub lost: usize,
    /// Pings that were answered.
    pub pings: u64,
    /// The longest time that a ping took.
    pub slowest_ping_ms: u64,
    /// How long the tabs were held.
    pub took_ms: u64,
    /// The first few errors.
    pub errors: Vec<String>,
}

/// Open tabs, and where they are.
#[derive(Debug)]
pub struct Load {
    tabs: Vec<Tab>,
    opened: Opened,
}

/// Opens all tabs of `plan`. Tabs that cannot be opened are counted in the report.
pub async fn open(plan: &Plan) -> Load {
    let start = Instant::now();
    let gate = Arc::new(Semaphore::new(plan.at_once.max(1)));
    let mut opening = JoinSet::new();
    for number in 0..plan.tabs {
        let chat = format!("{}{}", plan.prefix, number % plan.chats.max(1));
        let request = Upgrade::path(&plan.host, with_query(&plan.path, &plan.query, &chat));
        let request = request.tls(plan.tls.clone()).within(plan.limit);
        let bind = plan.bind.get(number % plan.bind.len().max(1)).copied();
        let (address, limit, gate) = (plan.address, plan.limit, Arc::clone(&gate));
        opening.spawn(async move {
            let _pass = gate.acquire_owned().await?;
            Tab::greet(connect_within(limit, address, bind).await?, &request).await
        });
    }
    let mut load = Load { tabs: Vec::with_capacity(plan.tabs), opened: Opened::default() };
    while let Some(tab) = opening.join_next().await {
        match tab.unwrap_or_else(|panic| Err(anyhow!(panic))) {
            Ok(tab) => load.tabs.push(tab),
            Err(error) => note(&mut load.opened.errors, &error),
        }
    }
    load.count(plan.tabs, start);
    load
}

impl Load {
    /// Where the tabs are.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The open tabs.
    pub fn tabs(&mut self) -> &mut [Tab] {
        &mut self.tabs
    }

    /// Says one thing in each chat and counts the tabs that hear it within `limit` in the report's
    /// `reached`.
    pub async fn say(&mut self, limit: Duration) {
        let text = |chat: &str| format!("are you all there, {chat}?");
        let mut said = BTreeSet::new();
        for tab in &mut self.tabs {
            let chat = tab.hello().chat.clone();
            if !said.insert(chat.clone()) {
                continue;
            }
            if let Err(error) = tab.say(&text(&chat)).await {
                note(&mut self.opened.errors, &error);
            }
        }
        // One deadline for all: the tabs are asked one after the other, but hear at the same time.
        let end = Instant::now() + limit;
        let mut reached = 0;
        for tab in &mut self.tabs {
            let text = text(&tab.hello().chat);
            // A moment at least, also when an earlier tab has used up the time.
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(5));
            match tab.hears(&text, left).await {
                Ok(true) => reached += 1,
                Ok(false) => {}
                Err(error) => note(&mut self.opened.errors, &error),
            }
        }
        self.opened.reached = Some(reached);
    }

    /// Holds the tabs until `stop` completes, with a ping on each every `ping` if that is given;
    /// then closes them.
    pub async fn hold(self, ping: Option<Duration>, stop: impl Future<Output = ()>) -> Ended {
        let start = Instant::now();
        let (stopping, stopped) = watch::channel(false);
        let mut holding = JoinSet::new();
        let tabs = self.tabs.len();
        for (number, tab) in self.tabs.into_iter().enumerate() {
            // Spread over the interval, not all pings in one burst.
            let phase = number as f64 / tabs as f64;
            holding.spawn(watch_over(tab, ping, phase, stopped.clone()));
        }
        drop(stopped);
        stop.await;
        stopping.send_replace(true);
        let mut ended = Ended { took_ms: millis(start), ..Ended::default() };
        while let Some(tab) = holding.join_next().await {
            let Ok(Watched { pings, slowest, lost }) = tab else {
                ended.lost += 1;
                continue;
            };
            ended.pings += pings;
            ended.slowest_ping_ms = ended.slowest_ping_ms.max(to_millis(slowest));
            match lost {
                None => ended.held += 1,
                Some(error) => {
                    ended.lost += 1;
                    note(&mut ended.errors, &error);
                }
            }
        }
        ended
    }

    fn count(&mut self, tabs: usize, start: Instant) {
        let opened = &mut self.opened;
        for tab in &self.tabs {
            let (chat, replica) = (tab.hello().chat.clone(), tab.replica().to_owned());
            *opened.replicas.entry(replica.clone()).or_default() += 1;
            *opened.chats.entry(chat).or_default().entry(replica).or_default() += 1;
        }
        opened.tabs = tabs;
        opened.opened = self.tabs.len();
        opened.failed = tabs - self.tabs.len();
        opened.whole = opened.chats.values().filter(|replicas| replicas.len() == 1).count();
        opened.took_ms = millis(start);
    }
}

struct Watched {
    pings: u64,
    slowest: Duration,
    lost: Option<anyhow::Error>,
}

async fn watch_over(
    mut tab: Tab,
    ping: Option<Duration>,
    phase: f64,
    mut stopped: watch::Receiver<bool>,
) -> Watched {
    let mut watched = Watched { pings: 0, slowest: Duration::ZERO, lost: None };
    // Read all the time, pings or not: an end is noticed at once and the replica's queue is emptied.
    let pause = ping.unwrap_or(OPEN_LIMIT);
    let mut next_ping = tokio::time::Instant::now() + pause.mul_f64(phase);
    let result: Result<()> = async {
        while !*stopped.borrow() {
            let left = next_ping.duration_since(tokio::time::Instant::now());
            tokio::select! {
                () = crate::turned_on(&mut stopped) => {}
                message = tab.next_message(left) => if message?.is_none() {
                    next_ping += pause;
                    if ping.is_some() {
                        watched.slowest = watched.slowest.max(tab.ping(PING_LIMIT).await?);
                        watched.pings += 1;
                    }
                }
            }
        }
        Ok(())
    }
    .await;
    match result {
        Ok(()) => watched.lost = tab.close().await.err(),
        Err(error) => watched.lost = Some(error),
    }
    watched
}

fn note(errors: &mut Vec<String>, error: &anyhow::Error) {
    if errors.len() < ERRORS_KEPT {
        errors.push(format!("{error:#}"));
    }
}

fn millis(start: Instant) -> u64 {
    to_millis(start.elapsed())
}

fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
