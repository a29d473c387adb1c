//! `keepalive`: clients that are connected and silent, as browsers' spare connections are, until they write or
//! their handshake is forgotten.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::socket::{setsockopt, sockopt};

use super::report::Report;
use super::step;
use crate::lab::{Family, Netns, Site};

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Write after N seconds
    #[arg(long, value_name = "N", default_value_t = 70)]
    pub seconds: u64,
    /// Probe after N seconds of silence, and each N seconds then; three without an answer end a connection
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub keepalive: u32,
    /// Wait N seconds at the most until those that never write are told; 0: not at all
    #[arg(long, value_name = "N", default_value_t = 180)]
    pub forgotten: u64,
}

/// Clients of each kind.
const EACH: usize = 5;
/// How long a handshake holds at the least: a tick of the SYN cookies, in seconds.
const TICK: f64 = 68.7;

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let site = Site::home("keepalive")?;
    let mut report = Report::new("keepalive");
    let wait = Duration::from_secs(options.seconds);

    step(&format!("silent clients, which probe each {} s", options.keepalive));
    // Handshakes of one moment may all end a tick just before; those of two that are less than a tick apart do not.
    let mut writers = open_all(&site, options)?;
    let mut silent = if options.forgotten > 0 { open_all(&site, options)? } else { Vec::new() };
    if wait.as_secs_f64() > TICK {
        thread::sleep(Duration::from_secs(10));
        writers.extend(open_all(&site, options)?);
    }
    let mut served = 0;
    let mut forgotten = Vec::new();
    let mut failed = Vec::new();
    for (n, client) in writers.iter_mut().enumerate() {
        thread::sleep(wait.saturating_sub(client.since.elapsed()));
        match client.ask(n) {
            Ok(()) => served += 1,
            // It was told before it wrote.
            Err((Some(after), error)) if error.kind() == ErrorKind::ConnectionReset => {
                forgotten.push(after.as_secs_f64());
            }
            Err((_, error)) => failed.push(error.to_string()),
        }
    }
    for error in &failed {
        anstream::eprintln!("   {error}");
    }
    report.part(format!("Clients that write after {} s", options.seconds));
    let half = writers.len() as f64 / if wait.as_secs_f64() > TICK { 2.0 } else { 1.0 };
    report.at_least("served", f64::from(served), half, "are answered");
    report.tell(
        "told",
        forgotten.len() as f64,
        "were told before that their handshake is forgotten",
    );
    report.at_most("failed", failed.len() as f64, 0.0, "failed otherwise");
    let probes = site.counter("probe_acknowledged")? as f64;
    let each = (wait.as_secs_f64() / f64::from(options.keepalive)).floor() - 1.0;
    report.at_least("probes", probes, each * f64::from(served), "probes acknowledged");

    if options.forgotten > 0 {
        step("those that never write");
        let limit = Duration::from_secs(options.forgotten);
        for client in &mut silent {
            match client.told(limit) {
                Ok(after) => forgotten.push(after.as_secs_f64()),
                Err(error) => failed.push(error.to_string()),
            }
        }
        report.part("Clients that never write");
        report.at_most("silent_failed", failed.len() as f64, 0.0, "were not told by an RST");
    }
    if let Some(first) = forgotten.iter().copied().reduce(f64::min) {
        let last = forgotten.iter().copied().fold(0.0, f64::max);
        let longest = 2.0 * TICK + f64::from(options.keepalive) + 1.0;
        report.at_least("first_told_seconds", first, TICK, "s until the first was told");
        report.at_most("last_told_seconds", last, longest, "s until the last was told");
    }
    Ok(report)
}

/// A silent client.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    since: Instant,
}

/// Of both families, with timestamps and without.
fn open_all(site: &Site, options: &Options) -> Result<Vec<Client>> {
    let mut all = Vec::new();
    for timestamps in ["1", "0"] {
        site.lab.client.sysctl("net.ipv4.tcp_timestamps", timestamps)?;
        for family in Family::BOTH {
            for _ in 0..EACH {
                all.push(Client::open(&site.lab.client, site.vip(family), options.keepalive)?);
            }
        }
    }
    Ok(all)
}

impl Client {
    fn open(ns: &Netns, to: SocketAddr, seconds: u32) -> Result<Self> {
        let stream = ns.connect(to).with_context(|| format!("connecting to {to}"))?;
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &seconds)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &seconds)?;
        setsockopt(&stream, sockopt::TcpKeepCount, &3)?;
        Ok(Self { stream, since: Instant::now() })
    }

    /// Asks for a chat. An error comes with how old the connection was if it came before that.
    fn ask(&mut self, chat: usize) -> Result<(), (Option<Duration>, io::Error)> {
        if let Ok(Some(error)) | Err(error) = self.stream.take_error() {
            return Err((Some(self.since.elapsed()), error));
        }
        let request = format!(
            "GET /ws?chat={chat} HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut answer = [0; 12];
        let mut ask = || {
            self.stream.set_read_timeout(Some(Duration::from_secs(15)))?;
            self.stream.write_all(request.as_bytes())?;
            self.stream.read_exact(&mut answer)
        };
        ask().map_err(|error| (None, error))?;
        if answer != *b"HTTP/1.1 101" {
            let answer = String::from_utf8_lossy(&answer);
            return Err((None, io::Error::other(format!("the answer is {answer}"))));
        }
        Ok(())
    }

    /// Waits for the RST; how old the connection was then.
    fn told(&mut self, limit: Duration) -> Result<Duration> {
        let left = limit.saturating_sub(self.since.elapsed()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        match self.stream.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(self.since.elapsed()),
            Err(error) => Err(error).context("waiting for an RST"),
            Ok(bytes) => anyhow::bail!("{bytes} bytes in place of an RST"),
        }
    }
}
