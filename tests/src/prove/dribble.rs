//! `dribble`: clients of one address that send their heads byte by byte and never to the end, more than there is room for,
//! beside honest ones. They get their share of the room, each for a bounded time, and the others notice nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;

use super::report::Report;
use super::visit::allow_files;
use super::{counter, step};
use crate::lab::{ChatServer, Config, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, try_until};

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Let N clients of one address dribble
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub clients: u32,
    /// Make room for N heads
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(8..))]
    pub stash: u32,
    /// Dribble for N seconds: a head is over after 30 s, and seen within 18 more
    #[arg(long, value_name = "N", default_value_t = 90)]
    pub seconds: u64,
    /// Open N honest connections meanwhile, every second one in twenty pieces
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub honest: u32,
}

/// The address of those who dribble; those before it are honest.
const ONE: u8 = 23;
/// A byte of each comes as often as that.
const PACE: Duration = Duration::from_millis(500);
/// For so long a head is waited for, and so much later it is seen at the latest, in seconds.
const HEAD: f64 = 30.0 + 18.0;
/// Bytes that a head never ends with.
const ENDLESS: &[u8] = b"GET /ws?none=";

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    allow_files(u64::from(options.clients + options.honest))?;
    let lab = Lab::builder("dribble").build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    let top = format!("[limits]\nstash = {}\n", options.stash);
    let roost = Roost::start(&lab, &Config { top, ..Config::new(&lab) }.to_string())?;
    let vip: SocketAddr = (lab.vip(Family::V4), VIP_PORT).into();
    let mut report = Report::new("dribble");

    step(&format!(
        "{} clients of one address dribble, room for {} heads",
        options.clients, options.stash
    ));
    let stop = AtomicBool::new(false);
    let (seen, honest, ended) = thread::scope(|scope| {
        let dribblers = scope.spawn(|| lab.client.run(|| dribble(&lab, vip, options, &stop)));
        let watched = scope.spawn(|| watch(&roost, &stop));
        let honest = lab.client.run(|| honest(&lab, vip, options));
        stop.store(true, Ordering::Relaxed);
        let seen = watched.join().map_err(|_| anyhow!("who watches has panicked"))?;
        let ended = dribblers.join().map_err(|_| anyhow!("who dribbles has panicked"))?;
        Ok::<_, anyhow::Error>((seen?, honest, ended?))
    })?;
    report.part(format!(
        "{} clients of one address, room for {} heads",
        options.clients, options.stash
    ));
    report.tell("bytes", ended.bytes as f64, "bytes sent, each in a segment of its own");
    // Half of the room is anybody's.
    let share = f64::from(options.stash) / 2.0 + 1.0 + f64::from(Seen::HONEST);
    report.at_most(
        "heads",
        seen.heads as f64,
        share,
        "heads kept at once, with those of honest ones",
    );
    report.at_most("oldest_seconds", seen.oldest, HEAD, "s: the oldest one");
    let refused = counter(&roost, "over_source_heads")?;
    let is_more = options.clients > options.stash / 2;
    let words = "segments without room, because of their source's share";
    report.at_least("over_source_heads", refused as f64, f64::from(u8::from(is_more)), words);
    if options.seconds as f64 > HEAD {
        let forgotten = counter(&roost, "ended_head")? as f64;
        let least = f64::from((options.stash / 2).min(options.clients));
        report.at_least("ended_head", forgotten, least, "heads forgotten after their time");
        step("until nothing is left of them");
        let began = Instant::now();
        try_until(Duration::from_secs(120), "the last heads to go", || {
            let left = entries(&roost, "STASH")?.len() + entries(&roost, "CHUNKS")?.len();
            Ok((left == 0).then_some(()))
        })?;
        let took = began.elapsed().as_secs_f64();
        report.at_most("left_seconds", took, HEAD + 2.0, "s until none was left");
    }
    report.part(format!("{} honest connections meanwhile", options.honest));
    report.at_most("failed", honest.failed as f64, 0.0, "not answered");
    report.tell(
        "median_ms",
        honest.median,
        "ms from connecting to the answer, of those in one piece",
    );
    Ok(report)
}

/// What the dribblers have done.
struct Ended {
    bytes: u64,
}

/// Connects them all and sends a byte of each in turn. Who is reset connects again.
fn dribble(lab: &Lab, vip: SocketAddr, options: &Options, stop: &AtomicBool) -> Result<Ended> {
    let from = SocketAddr::new(lab.client_addr_n(Family::V4, ONE), 0);
    let mut all: Vec<(TcpStream, usize)> = Vec::new();
    let mut bytes = 0;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        while all.len() < options.clients as usize && !stop.load(Ordering::Relaxed) {
            all.push((connect(from, vip)?, 0));
        }
        all.retain_mut(|(stream, at)| {
            let byte = ENDLESS.get(*at).copied().unwrap_or(b'x');
            match stream.write(&[byte]) {
                Ok(sent) => {
                    *at += sent;
                    bytes += sent as u64;
                    true
                }
                Err(e) => e.kind() == ErrorKind::WouldBlock,
            }
        });
        next += PACE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(Ended { bytes })
}

fn connect(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect(&to.into()).with_context(|| format!("connecting from {from}"))?;
    // None of them is to wait for another, nor its bytes for each other; and a head of one that is gone is to go by its
    // time, and not by an end.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket.into())
}

/// What was seen of heads.
#[derive(Default)]
struct Seen {
    /// The most at once.
    heads: usize,
    /// Age of the oldest one, in seconds.
    oldest: f64,
}

impl Seen {
    /// Honest ones at once, at the most: one at a time, and those whose end has not been looked at.
    const HONEST: u32 = 2;
}

fn watch(roost: &Roost, stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let heads = entries(roost, "STASH")?;
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
        let now = now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9;
        let since = heads.iter().filter_map(|head| head["value"]["since"].as_f64());
        let oldest = since.map(|since| now - since / 1e9).fold(0.0, f64::max);
        seen.heads = seen.heads.max(heads.len());
        seen.oldest = seen.oldest.max(oldest);
        thread::sleep(Duration::from_millis(500));
    }
    Ok(seen)
}

fn entries(roost: &Roost, map: &str) -> Result<Vec<serde_json::Value>> {
    let dump = roost.json(&["maps", "dump", map])?;
    Ok(dump[0]["entries"].as_array().context("a list of entries")?.clone())
}

/// How the honest ones fared.
#[derive(Default)]
struct Honest {
    failed: usize,
    median: f64,
}

/// One after the other, evenly over the time.
fn honest(lab: &Lab, vip: SocketAddr, options: &Options) -> Honest {
    let mut honest = Honest::default();
    let mut took = Vec::new();
    let began = Instant::now();
    let pause = Duration::from_secs(options.seconds) / options.honest.max(1);
    for n in 0..options.honest {
        let due = began + pause * n;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let from = SocketAddr::new(lab.client_addr_n(Family::V4, (n % u32::from(ONE)) as u8), 0);
        let pieces = if n % 2 == 0 { 1 } else { 20 };
        let start = Instant::now();
        match ask(from, vip, n, pieces) {
            Ok(()) if pieces == 1 => took.push(start.elapsed().as_secs_f64() * 1e3),
            Ok(()) => {}
            Err(error) => {
                anstream::eprintln!("   honest connection {n}: {error}");
                honest.failed += 1;
            }
        }
    }
    thread::sleep(
        (began + Duration::from_secs(options.seconds)).saturating_duration_since(Instant::now()),
    );
    took.sort_by(f64::total_cmp);
    honest.median = took.get(took.len() / 2).copied().unwrap_or_default();
    honest
}

/// Asks for a chat in so many pieces.
fn ask(from: SocketAddr, to: SocketAddr, chat: u32, pieces: usize) -> io::Result<()> {
    let request = format!(
        "GET /ws?chat=room{chat} HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
    socket.set_tcp_nodelay(true)?;
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    for piece in request.as_bytes().chunks(request.len().div_ceil(pieces)) {
        stream.write_all(piece)?;
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    match &answer {
        b"HTTP/1.1 101" => Ok(()),
        other => Err(io::Error::other(String::from_utf8_lossy(other).into_owned())),
    }
}
