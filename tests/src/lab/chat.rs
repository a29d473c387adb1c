//! A chat server of the lab's replicas.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::Result;

use super::process::Process;
use super::{Certificate, Lab, tools};

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
    /// Starts the server on replica `n` (from 1) and waits until it listens.
    pub fn start(lab: &Lab, n: usize, port: u16) -> Result<Self> {
        Self::start_with(lab, n, port, &[])
    }

    /// Starts a server on each replica that ends TLS itself.
    pub fn start_all_tls(lab: &Lab, port: u16, tls: &Certificate) -> Result<Vec<Self>> {
        let Certificate { certificate, key } = tls;
        let tls: [&OsStr; 4] =
            ["--tls-cert".as_ref(), certificate.as_ref(), "--tls-key".as_ref(), key.as_ref()];
        (1..=lab.replicas.len()).map(|n| Self::start_with(lab, n, port, &tls)).collect()
    }

    fn start_with(lab: &Lab, n: usize, port: u16, more: &[&OsStr]) -> Result<Self> {
        let site = &lab.replicas[n - 1];
        let mut command = site.ns.command(&tools::binary("roost-chat", "ROOST_CHAT_BIN")?)?;
        command.args(["serve", "--name", &site.name]);
        command.args(["--listen", &format!("0.0.0.0:{port}"), "--listen", &format!("[::]:{port}")]);
        command.args(more);
        let process = Process::spawn(format!("chat server of {}", site.name), &mut command)?;
        process.wait_line(Duration::from_secs(60), &format!("listening on [::]:{port}"))?;
        Ok(Self { process, replica: n, port })
    }

    /// Starts a server on each replica.
    pub fn start_all(lab: &Lab, port: u16) -> Result<Vec<Self>> {
        (1..=lab.replicas.len()).map(|n| Self::start(lab, n, port)).collect()
    }
}
