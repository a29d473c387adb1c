//! Many short connections: a client that asks one thing and closes, and a server that answers it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::lab::{Family, Lab};

/// How long a connection may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first port that clients bind, and how many.
const PORTS: (u16, u64) = (1024, 64_000);
/// How many of the client's addresses are used.
const ADDRESSES: u64 = 24;

/// A server on every replica, which answers each connection's first segment and closes. All are one
/// thread: what it costs is not what is measured.
#[derive(Debug)]
pub(super) struct Servers {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Starts them, for IPv4, at this port.
    pub fn start(lab: &Lab, port: u16) -> Result<Self> {
        let mut listeners = Vec::new();
        for (n, site) in (1..).zip(&lab.replicas) {
            // A queue longer than the usual 4096, or a burst of the clients is not accepted by it.
            site.ns.sysctl("net.core.somaxconn", "65535")?;
            let at = lab.replica_at(n, Family::V4, port);
            let listener =
                site.ns.run(|| listen(at)).with_context(|| format!("listening at {at}"))?;
            listeners.push((n as u8, listener));
        }
        let runtime = single()?;
        let (end, ended) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                for (n, listener) in listeners {
                    let listener = TcpListener::from_std(listener).expect("it does not block");
                    tokio::spawn(accept(listener, n));
                }
                let _ = ended.await;
            });
        };
        let thread = thread::Builder::new().name("servers".to_owned()).spawn(serve)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn listen(at: SocketAddr) -> Result<std::net::TcpListener> {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(65_535)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn accept(listener: TcpListener, n: u8) {
    loop {
        // An error is one connection's, or one of too many open files: the next may go.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        tokio::spawn(answer(stream, n));
    }
}

/// The head, an answer that names the replica by its number, the end.
async fn answer(mut stream: TcpStream, n: u8) -> io::Result<()> {
    let mut head = [0; 2048];
    if stream.read(&mut head).await? == 0 {
        return Ok(());
    }
    let text =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{}", n - 1);
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    // Until the client has closed too: bytes that nobody reads would make it an RST.
    while stream.read(&mut head).await? > 0 {}
    Ok(())
}

/// What has become of some connections.
#[derive(Debug, Default, Clone)]
pub(super) struct Outcome {
    /// Those that were answered.
    pub answered: u64,
    /// Those that were reset.
    pub refused: u64,
    /// Those that were not answered in time, and others that failed.
    pub failed: u64,
    /// How often each error has come.
    pub errors: BTreeMap<String, u64>,
    /// How long all took.
    pub took: Duration,
}

impl Outcome {
    /// Answered connections in a second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }

    /// All that were begun.
    pub fn begun(&self) -> u64 {
        self.answered + self.refused + self.failed
    }

    fn add(&mut self, visit: io::Result<u8>) {
        let error = match visit {
            Ok(_) => {
                self.answered += 1;
                return;
            }
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused => self.refused += 1,
            _ => self.failed += 1,
        }
        *self.errors.entry(error.to_string()).or_default() += 1;
    }
}

/// Clients that open connections one after the other, each from a tuple that none before had.
#[derive(Debug)]
pub(super) struct Visitors<'a> {
    lab: &'a Lab,
    to: SocketAddr,
    /// Connections at the same moment.
    pub at_once: usize,
    next: Arc<AtomicU64>,
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until {
    /// After so many connections.
    pub visits: u64,
    /// After so long.
    pub limit: Duration,
}

impl<'a> Visitors<'a> {
    /// Clients of a VIP, in the client's namespace.
    pub fn new(lab: &'a Lab, to: SocketAddr) -> Self {
        Self { lab, to, at_once: 64, next: Arc::default() }
    }

    /// Opens connections to chats of their own and closes them; the side that closes first alternates.
    pub fn visit(&self, until: Until) -> Result<Outcome> {
        self.visit_while(until, |n| format!("visit-{n}"))
    }

    /// The same, with the chat of each.
    pub fn visit_while(
        &self,
        until: Until,
        chat: impl Fn(u64) -> String + Clone + Send + Sync + 'static,
    ) -> Result<Outcome> {
        let runtime = single()?;
        let first = self.next.load(Ordering::Relaxed);
        let start = Instant::now();
        let work = async {
            let mut tasks = JoinSet::new();
            for _ in 0..self.at_once {
                let (next, to, chat) = (Arc::clone(&self.next), self.to, chat.clone());
                let addresses: Vec<_> =
                    (0..ADDRESSES).map(|n| self.lab.client_addr_n(Family::V4, n as u8)).collect();
                tasks.spawn(async move {
                    let mut outcome = Outcome::default();
                    while start.elapsed() < until.limit {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n - first >= until.visits {
                            break;
                        }
                        let from = SocketAddr::new(addresses[(n % ADDRESSES) as usize], port(n));
                        let chat = chat(n);
                        let visit = visit(from, to, &chat, n % 2 == 0);
                        let late = || Err(ErrorKind::TimedOut.into());
                        outcome.add(timeout(PATIENCE, visit).await.unwrap_or_else(|_| late()));
                    }
                    outcome
                });
            }
            tasks.join_all().await
        };
        let outcomes = self.lab.client.run(|| runtime.block_on(work));
        let mut all = Outcome { took: start.elapsed(), ..Outcome::default() };
        for outcome in outcomes {
            all.answered += outcome.answered;
            all.refused += outcome.refused;
            all.failed += outcome.failed;
            for (error, count) in outcome.errors {
                *all.errors.entry(error).or_default() += count;
            }
        }
        // Numbers that nobody used are free for the next.
        self.next.store(first + all.begun(), Ordering::Relaxed);
        Ok(all)
    }
}

fn port(n: u64) -> u16 {
    let (first, count) = PORTS;
    first + (n / ADDRESSES % count) as u16
}

/// One connection: what the server answered.
async fn visit(from: SocketAddr, to: SocketAddr, chat: &str, closes_first: bool) -> io::Result<u8> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(from)?;
    let mut stream = socket.connect(to).await?;
    let head = format!("GET /?chat={chat} HTTP/1.1\r\nHost: chat\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    if closes_first {
        stream.shutdown().await?;
    }
    let mut answer = Vec::with_capacity(256);
    stream.read_to_end(&mut answer).await?;
    match answer.last() {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn single() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("starting a runtime")
}
