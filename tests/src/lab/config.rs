//! Configuration files for the daemon, from a lab's addresses.

use std::fmt::{self, Display, Write};
use std::net::IpAddr;

use super::{Family, Lab, UPLINK};

/// The port of the VIP in the lab's configurations.
pub const VIP_PORT: u16 = 80;
/// The port that replicas listen on in the lab's configurations.
pub const REPLICA_PORT: u16 = 8080;

/// One service of a configuration. Change a field where a test needs another value; `to_string`
/// gives the whole file, with this as its only service.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// The VIPs: addresses or prefixes.
    pub addresses: Vec<String>,
    /// Its port.
    pub port: u16,
    /// `home` or `spread`.
    pub policy: &'static str,
    /// The key source, or a list of them as TOML has it.
    pub key: String,
    /// Further lines of the service.
    pub more: String,
    /// Lines at the top of the file, before the service.
    pub top: String,
    /// The replicas.
    pub replicas: Vec<ReplicaConfig>,
}

/// One replica of a configuration.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Its identity.
    pub name: String,
    /// Where it is, an address of each family.
    pub addresses: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Further lines, such as `state = "draining"`.
    pub more: String,
}

impl Config {
    /// A service on the first VIP of both families, with policy `home`, the key `query:chat` and
    /// all replicas of the lab.
    pub fn new(lab: &Lab) -> Self {
        let all = 1..=lab.replicas.len();
        Self {
            name: "chat".to_owned(),
            addresses: Family::BOTH.map(|family| lab.vip(family).to_string()).into(),
            port: VIP_PORT,
            policy: "home",
            key: "query:chat".to_owned(),
            more: String::new(),
            top: String::new(),
            replicas: all.map(|n| ReplicaConfig::new(lab, n)).collect(),
        }
    }

    /// After these numbers of ready replicas, one after the other. Those that are not ready any more end their chats.
    pub fn after(lab: &Lab, sizes: &[usize]) -> Self {
        let (most, ready) = (sizes.iter().max(), sizes.last());
        let (most, ready) = (most.copied().unwrap_or_default(), ready.copied().unwrap_or_default());
        let mut config = Self::new(lab).only(lab, &(1..=most).collect::<Vec<_>>());
        for replica in &mut config.replicas[ready..] {
            replica.more = "  state = \"draining\"\n".to_owned();
        }
        config
    }

    /// The same with another policy.
    pub fn policy(mut self, policy: &'static str) -> Self {
        self.policy = policy;
        self
    }

    /// The same on another port.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The same with another key source.
    pub fn key(mut self, key: &str) -> Self {
        self.key = key.to_owned();
        self
    }

    /// The same with a line more, such as `on_missing_key = "reject"`.
    pub fn with(mut self, line: &str) -> Self {
        self.more += line;
        self.more.push('\n');
        self
    }

    /// The same with these client links.
    pub fn client_links(mut self, patterns: &str) -> Self {
        self.top = format!("client_links = [{patterns:?}]");
        self
    }

    /// The same with only these replicas, counted from 1.
    pub fn only(mut self, lab: &Lab, replicas: &[usize]) -> Self {
        self.replicas = replicas.iter().map(|&n| ReplicaConfig::new(lab, n)).collect();
        self
    }
}

impl ReplicaConfig {
    /// Replica `n` (from 1) of a lab.
    pub fn new(lab: &Lab, n: usize) -> Self {
        let site = &lab.replicas[n - 1];
        Self {
            name: site.name.clone(),
            addresses: Family::BOTH.map(|family| site.addr(family)).into(),
            port: REPLICA_PORT,
            more: String::new(),
        }
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "interfaces = [\"{UPLINK}\"]\n{}\n[[service]]", self.top)?;
        writeln!(f, "name = {:?}\naddresses = {:?}", self.name, self.addresses)?;
        let is_list = self.key.starts_with('[');
        let key = if is_list { self.key.clone() } else { format!("{:?}", self.key) };
        writeln!(f, "port = {}\npolicy = {:?}\nkey = {key}", self.port, self.policy)?;
        f.write_str(&self.more)?;
        for replica in &self.replicas {
            let addresses: Vec<_> = replica.addresses.iter().map(IpAddr::to_string).collect();
            writeln!(f, "\n  [[service.replica]]\n  name = {:?}", replica.name)?;
            writeln!(f, "  address = {addresses:?}\n  port = {}", replica.port)?;
            f.write_str(&replica.more)?;
        }
        f.write_char('\n')
    }
}
