//! A lab with everything running in it, and clients for it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_chat::client;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::netns::Netns;
use super::{
    ChatServer, Config, Family, Lab, LabBuilder, REPLICA_PORT, Roost, VIP_PORT, try_until,
};

/// A lab with a chat server on each replica and Roost on the node.
#[derive(Debug)]
pub struct Site {
    /// The daemon.
    pub roost: Roost,
    /// The chat servers, by replica.
    pub servers: Vec<ChatServer>,
    /// The lab.
    pub lab: Lab,
}

impl Site {
    /// Makes the lab and starts everything; `config` gives the configuration.
    pub fn start(lab: LabBuilder, config: impl FnOnce(&Lab) -> Config) -> Result<Self> {
        let lab = lab.build()?;
        let servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
        let roost = Roost::start(&lab, &config(&lab).to_string())?;
        Ok(Self { roost, servers, lab })
    }

    /// With three replicas, the policy `home` and the key `query:chat`.
    pub fn home(name: &str) -> Result<Self> {
        Self::start(Lab::builder(name), Config::new)
    }

    /// The first VIP of a family, with its port.
    pub fn vip(&self, family: Family) -> SocketAddr {
        (self.lab.vip(family), VIP_PORT).into()
    }

    /// New clients in the client's namespace.
    pub fn clients(&self) -> Result<Clients> {
        Clients::new(&self.lab.client)
    }

    /// What may explain a failure: the counters and the live flows.
    pub fn diagnosis(&self) -> String {
        let told = ["counters", "flows"].map(|what| match self.roost.text(&[what]) {
            Ok(text) => text,
            Err(error) => format!("`roost {what}`: {error:#}"),
        });
        told.join("\n")
    }

    /// What the data path has counted under a name.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let counters = self.roost.json(&["counters", "--all"])?;
        let all = counters.as_array().into_iter().flatten();
        let found = all.clone().find(|line| line["counter"] == name);
        let packets = found.and_then(|line| line["packets"].as_u64());
        packets.with_context(|| format!("`roost counters` has no {name}: {counters}"))
    }

    /// The live flows.
    pub fn live_flows(&self) -> Result<Vec<Value>> {
        let flows = self.roost.json(&["flows"])?;
        let flows = flows.as_array().context("`roost flows` prints no array")?;
        let ended = |flow: &&Value| ["closed", "expired"].iter().any(|end| flow["state"] == *end);
        Ok(flows.iter().filter(|flow| !ended(flow)).cloned().collect())
    }

    /// The chats with live flows.
    pub fn live_chats(&self) -> Result<Vec<Value>> {
        let chats = self.roost.json(&["chats"])?;
        let chats = chats.as_array().context("`roost chats` prints no array")?;
        Ok(chats.iter().filter(|chat| chat["flows"] != 0).cloned().collect())
    }

    /// Waits until the daemon has applied a configuration with these ready replicas.
    pub fn wait_replicas(&self, names: &[&str]) -> Result<()> {
        try_until(Duration::from_secs(60), &format!("{names:?} to be the ready replicas"), || {
            let replicas = self.roost.json(&["replicas"])?;
            let replicas = replicas.as_array().context("`roost replicas` prints no array")?;
            let ready = replicas.iter().filter(|replica| replica["state"] == "ready");
            let mut ready: Vec<_> =
                ready.filter_map(|replica| replica["replica"].as_str()).collect();
            ready.sort_unstable();
            // The service that uses them comes after new replicas and before those that go.
            let services = self.roost.json(&["services"])?;
            let services = services.as_array().context("`roost services` prints no array")?;
            ensure!(!services.is_empty(), "`roost services` lists none");
            let used = services.iter().all(|service| service["usable"] == names.len());
            Ok((ready == names && used).then_some(()))
        })
    }
}

/// Where asynchronous clients run: a single thread inside a namespace, which every call enters.
/// Between calls the connections stay open, but nothing is done for them.
#[derive(Debug)]
pub struct Clients {
    ns: Arc<Netns>,
    runtime: Runtime,
}

impl Clients {
    /// Clients in a namespace.
    pub fn new(ns: &Arc<Netns>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { ns: Arc::clone(ns), runtime })
    }

    /// Runs a future inside the namespace to its end.
    pub fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.ns.run(|| self.runtime.block_on(future))
    }

    /// Opens a tab of a chat.
    pub fn tab(&self, vip: SocketAddr, chat: &str) -> Result<client::Tab> {
        self.run(client::Tab::open(vip, &vip.to_string(), chat, None))
    }

    /// Opens a tab from a client address of its own.
    pub fn tab_from(&self, from: SocketAddr, vip: SocketAddr, chat: &str) -> Result<client::Tab> {
        self.run(client::Tab::open(vip, &vip.to_string(), chat, Some(from)))
    }

    /// Opens an HTTP connection whose requests belong to a chat.
    pub fn http(&self, vip: SocketAddr, chat: &str) -> Result<client::Http> {
        let host = vip.to_string();
        Ok(self.run(client::Http::open(vip, &host, None))?.in_chat(chat))
    }
}

/// Waits for its turn among the tests that use much of the machine; it lasts as long as the guard.
pub fn heavy() -> Result<File> {
    let path: PathBuf = std::env::temp_dir().join("roost-heavy-tests.lock");
    let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}
