//! A chat server of the lab's replicas.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::process::Process;
use super::{Family, Lab, tools, try_until};

/// `roost-chat serve` on one replica, for IPv4 and IPv6.
#[derive(Debug)]
pub struct ChatServer {
    /// The process.
    pub process: Process,
    /// Which replica it is on, from 1.
    pub replica: usize,
    /// Where it listens.
    pub port: u16,
}

impl ChatServer {
    /// Starts the server on replica `n` (from 1) and waits until it accepts connections.
    pub fn start(lab: &Lab, n: usize, port: u16) -> Result<Self> {
        let site = &lab.replicas[n - 1];
        let mut command = site.ns.command(tools::binary("roost-chat", "ROOST_CHAT_BIN")?);
        command.args(["serve", "--name", &site.name, "--listen", &format!("[::]:{port}")]);
        let mut process = Process::spawn(format!("chat server of {}", site.name), &mut command)?;
        let at = SocketAddr::new(site.addr(Family::V4), port);
        try_until(Duration::from_secs(10), "the chat server to listen", || {
            ensure!(process.running(), "it has ended:\n{}", process.log());
            Ok(lab.node.connect(at).ok())
        })?;
        Ok(Self { process, replica: n, port })
    }

    /// Starts a server on each replica.
    pub fn start_all(lab: &Lab, port: u16) -> Result<Vec<Self>> {
        (1..=lab.replicas.len()).map(|n| Self::start(lab, n, port)).collect()
    }
}
