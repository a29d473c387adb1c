//! `rate`: how many requests a second go through nginx that uses its connections again, to Roost and to HAProxy in the
//! same place: each of another chat than the one before it, which Roost binds again for, and all of one chat.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::report::Report;
use super::step;
use super::usage::busy;
use crate::bench::median;
use crate::lab::{Config, Family, Lab, Proxy, REPLICA_PORT, Roost, VIP_PORT, nginx_places};
use crate::rooms::{Between, haproxy_instead};

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Ask by N connections at the same moment
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub connections: u32,
    /// Ask for N chats in turn
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub chats: u32,
    /// Measure each N times, in turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Measure each for N seconds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
}

/// Where nginx sends what it is asked.
struct Front {
    name: &'static str,
    words: &'static str,
    at: SocketAddr,
    /// What was measured with many chats, and with one.
    measured: [Measured; 2],
}

#[derive(Default)]
struct Measured {
    /// Requests a second, and microseconds that the whole machine needs for one: of each round.
    rates: Vec<f64>,
    costs: Vec<f64>,
    /// Which replicas have answered for a chat.
    chats: BTreeMap<u32, Vec<String>>,
    failed: u64,
}

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let lab = Lab::builder("rate").replicas(3).build()?;
    let _servers = (1..=lab.replicas.len()).map(|n| serve(&lab, n)).collect::<Result<Vec<_>>>()?;
    let roost = Roost::start(&lab, &Config::new(&lab).to_string())?;
    let ([haproxy, _], _proxy) = haproxy_instead(&lab)?;
    let front = |name, words, at| Front { name, words, at, measured: Default::default() };
    let nobody = lab.replica_at(1, Family::V4, REPLICA_PORT);
    let mut fronts = [
        front("roost", "Roost", (lab.vip(Family::V4), VIP_PORT).into()),
        front("haproxy", "HAProxy, by a hash of the chat", haproxy),
        front("nobody", "nobody: one replica has all", nobody),
    ];
    let rows = [("many", options.chats), ("one", 1)];
    for round in 1..=options.rounds {
        step(&format!("round {round} of {}", options.rounds));
        for front in &mut fronts {
            for ((_, chats), measured) in rows.iter().zip(&mut front.measured) {
                measured.add(&lab, front.at, *chats, options).context(front.words)?;
            }
        }
    }
    let mut report = Report::new("rate");
    for (n, (row, chats)) in rows.iter().enumerate() {
        report.part(format!("Through nginx with keepalive, {chats} chats in turn: behind it is"));
        for Front { name, words, measured, .. } in &mut fronts {
            let Measured { rates, costs, chats: seen, failed } = &mut measured[n];
            let key = |what: &str| format!("{name}_{row}_{what}");
            report.tell(key("rate"), median(rates).round(), format!("requests a second, {words}"));
            report.tell(key("cpu_us"), median(costs), "us of all CPUs for one");
            report.at_most(key("failed"), *failed as f64, 0.0, "");
            let whole = seen.values().filter(|on| on.len() == 1).count();
            report.at_least(key("whole"), whole as f64, f64::from(*chats), "");
        }
        let [roost, haproxy, _] =
            fronts.each_mut().map(|front| median(&mut front.measured[n].rates));
        report.tell(
            format!("{row}_ratio"),
            roost / haproxy,
            "times as many with Roost as with HAProxy",
        );
    }
    // Else nothing was asked of Roost.
    let rebound = super::counter(&roost, "rebound_request")?;
    report.at_least("rebound", rebound as f64, 1.0, "");
    Ok(report)
}

/// nginx as the server of a replica: it answers with the replica's name.
fn serve(lab: &Lab, n: usize) -> Result<Proxy> {
    let at = lab.replica_at(n, Family::V4, REPLICA_PORT);
    let dir = lab.dir().join(format!("replica-{n}"));
    let blocks = format!(
        "events {{ worker_connections 4000; }}\n\
         http {{\naccess_log off;\nkeepalive_requests 1000000000;\n{}\
         server {{ listen {at}; return 200 {n}; }}\n}}\n",
        nginx_places(&dir)
    );
    Proxy::nginx(&lab.replicas[n - 1].ns, &dir, &blocks, at)
}

impl Measured {
    /// Measures once more, with so many chats and nginx in front of `to`.
    fn add(&mut self, lab: &Lab, to: SocketAddr, chats: u32, options: &Options) -> Result<()> {
        let (at, _proxy) = Between::Nginx.start(lab, to)?;
        let asked = lab.client.run(|| -> Result<_> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let begin = busy()?;
            let asked = runtime.block_on(ask_all(at, chats, options))?;
            Ok((asked, busy()? - begin))
        });
        let ((answers, failed), used) = asked?;
        ensure!(!answers.is_empty(), "no request was answered");
        self.rates.push(answers.len() as f64 / options.seconds as f64);
        self.costs.push(used.as_micros() as f64 / answers.len() as f64);
        self.failed += failed;
        for (chat, replica) in answers {
            let on = self.chats.entry(chat).or_default();
            if !on.contains(&replica) {
                on.push(replica);
            }
        }
        Ok(())
    }
}

/// Which replica has answered for a chat, for each request; and how many connections have failed.
async fn ask_all(
    at: SocketAddr,
    chats: u32,
    options: &Options,
) -> Result<(Vec<(u32, String)>, u64)> {
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let mut tasks = JoinSet::new();
    for n in 0..options.connections {
        tasks.spawn(ask(at, n, chats, until));
    }
    let (mut all, mut failed) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (answers, result) = done?;
        all.extend(answers);
        if let Err(error) = result {
            anstream::eprintln!("   {error:#}");
            failed += 1;
        }
    }
    Ok((all, failed))
}

/// Asks for one chat after the other, by one connection until the server ends it.
async fn ask(
    at: SocketAddr,
    number: u32,
    chats: u32,
    until: Instant,
) -> (Vec<(u32, String)>, Result<()>) {
    let mut answers = Vec::new();
    let mut asking = async || -> Result<()> {
        // Each begins elsewhere; 7 is no divisor of usual numbers of chats, so all are asked for.
        let mut chat = number * 31 % chats;
        loop {
            let mut stream = TcpStream::connect(at).await?;
            stream.set_nodelay(true)?;
            let mut stays = true;
            while stays {
                let request = format!("GET /?chat={chat} HTTP/1.1\r\nHost: rate\r\n\r\n");
                stream.write_all(request.as_bytes()).await?;
                let replica;
                (replica, stays) = answer(&mut stream).await?;
                answers.push((chat, replica));
                chat = (chat + 7) % chats;
            }
        }
    };
    let result = match timeout_at(until, asking()).await {
        Ok(ended) => ended.with_context(|| format!("connection {number}")),
        Err(_) => Ok(()),
    };
    (answers, result)
}

/// The body of the next answer, and whether the connection stays.
async fn answer(stream: &mut TcpStream) -> Result<(String, bool)> {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the connection was ended within {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..read]);
        let so_far = std::str::from_utf8(&text)?;
        let Some((head, body)) = so_far.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("HTTP/1.1 200 ") {
            bail!("the answer is {head}");
        }
        let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let len: usize = len.context("an answer without a length")?.parse()?;
        if body.len() >= len {
            return Ok((body.to_owned(), !head.contains("Connection: close")));
        }
    }
}
