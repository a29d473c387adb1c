//! Servers and clients of others whose connections carry requests for many chats: Socket.IO beside plain requests on each
//! replica, tabs and pools of connections that ask them, proxies between the two.

mod clients;
mod proxies;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use roost_programs::CURL;
use serde::Deserialize;

use crate::lab::{Lab, Process, REPLICA_PORT, ReplicaSite, run_in};
use crate::peers;

pub use clients::{Client, Place, Size, Transports};
pub use proxies::{Between, haproxy_instead};

/// A server on each replica, which keeps in its memory what it has seen and done.
#[derive(Debug)]
pub struct Rooms {
    _servers: Vec<Process>,
}

/// What clients say that has become of their requests.
#[derive(Debug, Default, Deserialize)]
pub struct Told {
    /// How many there were: tabs, or requests of a pool.
    pub clients: usize,
    /// Of which all went well: tabs that hear every tab of their chat, or requests that were answered.
    pub reached: usize,
    /// Tabs that lost their connection, whether or not they came back.
    #[serde(default)]
    pub lost: usize,
    /// Tabs with a WebSocket at the end.
    #[serde(default)]
    pub upgraded: usize,
    /// Connections that a pool has made.
    #[serde(default)]
    pub connections: usize,
    /// The ids of what was to be done once each, by POST or by a WebSocket.
    pub said: Vec<String>,
    /// For each chat, which replica has greeted each of its tabs.
    #[serde(default)]
    pub chats: BTreeMap<String, Vec<Option<String>>>,
    /// What clients were told otherwise, and how often.
    pub errors: BTreeMap<String, usize>,
}

/// What has become of requests, as clients and servers see it.
#[derive(Debug)]
pub struct Outcome {
    /// What the clients say.
    pub told: Told,
    /// How many chats there were.
    pub chats: usize,
    /// Of which all tabs are on one replica, and every request came to that one.
    pub whole: usize,
    /// Of what was to be done, how much was done exactly once.
    pub once: usize,
    /// And how much more than once.
    pub twice: usize,
    /// How many replicas have seen a chat of these.
    pub replicas: usize,
}

impl Outcome {
    /// Whether every chat is whole, every client was reached without losing a connection, and everything was done once.
    pub fn is_well(&self) -> bool {
        self.whole == self.chats
            && self.told.reached == self.told.clients
            && self.told.lost == 0
            && self.once == self.told.said.len()
    }
}

#[derive(Deserialize)]
struct State {
    name: String,
    requests: BTreeMap<String, u64>,
    done: BTreeMap<String, u64>,
}

impl Rooms {
    /// Starts a server on each replica of a lab.
    pub fn start(lab: &Lab) -> Result<Self> {
        let start = |site: &ReplicaSite| {
            let mut command = site.ns.enter(peers::command(root(), "rooms.mjs")?);
            command.args(["--port", &REPLICA_PORT.to_string(), "--name", &site.name]);
            let server = Process::spawn(format!("rooms of {}", site.name), &mut command)?;
            server.wait_line(Duration::from_secs(60), "listening on")?;
            Ok(server)
        };
        Ok(Self { _servers: lab.replicas.iter().map(start).collect::<Result<_>>()? })
    }

    /// Lets clients visit chats whose names begin with `prefix`, and asks the servers what they have seen. A prefix is for
    /// one visit only.
    pub fn visit<'a>(
        &self,
        lab: &Lab,
        client: Client,
        size: Size,
        to: impl Into<Place<'a>>,
        prefix: &str,
    ) -> Result<Outcome> {
        let told =
            client.visit(lab, size, to.into(), prefix).with_context(|| format!("{client:?}"))?;
        let names: Vec<String> = (0..size.chats).map(|n| format!("{prefix}-{n}")).collect();
        self.seen(lab, &names, told)
    }

    /// What the servers have seen of chats, beside what clients tell.
    pub fn seen(&self, lab: &Lab, names: &[String], told: Told) -> Result<Outcome> {
        let states = lab.replicas.iter().map(state).collect::<Result<Vec<_>>>()?;
        let whole = |chat: &&String| {
            let seen = states.iter().filter(|state| state.requests.contains_key(*chat));
            let seen: Vec<&str> = seen.map(|state| state.name.as_str()).collect();
            let mut tabs = told.chats.get(*chat).into_iter().flatten();
            seen.len() == 1 && tabs.all(|on| on.as_deref() == Some(seen[0]))
        };
        let times = |id: &String| states.iter().filter_map(|state| state.done.get(id)).sum::<u64>();
        let times: Vec<u64> = told.said.iter().map(times).collect();
        let used =
            states.iter().filter(|state| names.iter().any(|n| state.requests.contains_key(n)));
        Ok(Outcome {
            chats: names.len(),
            whole: names.iter().filter(whole).count(),
            once: times.iter().filter(|times| **times == 1).count(),
            twice: times.iter().filter(|times| **times > 1).count(),
            replicas: used.map(|state| &state.name).collect::<BTreeSet<_>>().len(),
            told,
        })
    }
}

/// What a replica's server has seen and done, asked beside Roost.
fn state(site: &ReplicaSite) -> Result<State> {
    let url = format!("http://127.0.0.1:{REPLICA_PORT}/state");
    let text = run_in(&site.ns, CURL, &["-sS", "--max-time", "60", &url])?;
    serde_json::from_str(&text).with_context(|| format!("the state of {}: {text}", site.name))
}

/// The checkout.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
