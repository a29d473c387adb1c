//! Many short connections: clients that ask one thing, and servers that answer it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::lab::{Family, Lab, Netns};

/// How long a connection may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first port that clients bind, and how many.
const PORTS: (u16, u64) = (1024, 64_000);
/// Connections at the same moment.
const AT_ONCE: usize = 64;

/// What becomes of a connection that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides close; which one first alternates.
    Close,
    /// It stays open, until [`Servers::close`].
    Hold,
    /// Both ends forget it without a word, so that it takes no open file: in between it is as one that
    /// stays. What comes to the client for it is answered by an RST, which the lab has to drop.
    Forget,
}

impl End {
    /// How the head says it.
    fn word(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Hold => "hold",
            Self::Forget => "forget",
        }
    }
}

/// Lets this process have as many open files as it may; an error if that is not enough for so many
/// connections, of which it has both ends.
pub(super) fn allow_files(connections: u64) -> Result<()> {
    let needed = 2 * connections + 1000;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(needed <= most, "{needed} open files are needed, {most} are allowed (ulimit -Hn)");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("allowing more open files")
}

/// A server on every replica, which answers each connection's first segment and closes. All are one
/// thread: what it costs is not what is measured.
#[derive(Debug)]
pub(super) struct Servers {
    phase: watch::Sender<Phase>,
    thread: Option<JoinHandle<()>>,
}

/// What servers do with connections that they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Hold,
    /// They close them.
    Close,
    /// They end.
    End,
}

impl Servers {
    /// Starts them at this port.
    pub fn start(lab: &Lab, port: u16) -> Result<Self> {
        let mut listeners = Vec::new();
        for (n, site) in (1..).zip(&lab.replicas) {
            // A queue longer than the usual 4096, or a burst of the clients is not accepted by it.
            site.ns.sysctl("net.core.somaxconn", "65535")?;
            for family in Family::BOTH {
                let at = lab.replica_at(n, family, port);
                let listener =
                    site.ns.run(|| listen(at)).with_context(|| format!("listening at {at}"))?;
                listeners.push((n as u8, listener));
            }
        }
        let runtime = single()?;
        let (phase, mut ended) = watch::channel(Phase::Hold);
        let serve = move || {
            runtime.block_on(async {
                for (n, listener) in listeners {
                    let listener = TcpListener::from_std(listener).expect("it does not block");
                    tokio::spawn(accept(listener, n, ended.clone()));
                }
                let _ = ended.wait_for(|phase| *phase == Phase::End).await;
            });
        };
        let thread = thread::Builder::new().name("servers".to_owned()).spawn(serve)?;
        Ok(Self { phase, thread: Some(thread) })
    }

    /// Closes all connections that are held.
    pub fn close(&self) {
        self.phase.send_replace(Phase::Close);
    }

    /// Holds connections again, after [`Servers::close`].
    pub fn hold(&self) {
        self.phase.send_replace(Phase::Hold);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::End);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn listen(at: SocketAddr) -> Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(at);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(65_535)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn accept(listener: TcpListener, n: u8, phase: watch::Receiver<Phase>) {
    loop {
        // An error is one connection's, or one of too many open files: the next may go.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        tokio::spawn(answer(stream, n, phase.clone()));
    }
}

/// The head, an answer that names the replica by its number, the end.
async fn answer(mut stream: TcpStream, n: u8, mut phase: watch::Receiver<Phase>) -> io::Result<()> {
    let mut bytes = [0; 2048];
    let len = stream.read(&mut bytes).await?;
    if len == 0 {
        return Ok(());
    }
    let text =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{}", n - 1);
    stream.write_all(text.as_bytes()).await?;
    let has = |end: End| bytes[..len].windows(end.word().len()).any(|w| w == end.word().as_bytes());
    if has(End::Hold) {
        let _ = phase.wait_for(|phase| *phase != Phase::Hold).await;
    } else if has(End::Forget) {
        // The client has the answer when it says something more.
        stream.read_u8().await?;
        return forget(stream);
    }
    stream.shutdown().await?;
    // Until the client has closed too: bytes that nobody reads would make it an RST.
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// What has become of some connections.
#[derive(Debug, Default)]
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
    /// Those that are still open, if they were to stay.
    pub held: Vec<Held>,
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Held {
    /// Its number in the plan, from 0.
    pub n: u64,
    /// The number of the replica that has answered.
    pub replica: u8,
    #[expect(dead_code, reason = "the connection is open for as long as this is there")]
    pub stream: std::net::TcpStream,
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

    fn add(&mut self, n: u64, visit: io::Result<(u8, Option<std::net::TcpStream>)>) {
        let error = match visit {
            Ok((replica, stream)) => {
                self.answered += 1;
                self.held.extend(stream.map(|stream| Held { n, replica, stream }));
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

    fn join(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.failed += other.failed;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.held.extend(other.held);
    }
}

/// Clients that open connections, each from a tuple that none before had.
#[derive(Debug)]
pub(super) struct Visitors<'a> {
    ns: &'a Netns,
    to: SocketAddr,
    from: Vec<IpAddr>,
    next: Arc<AtomicU64>,
}

/// What they do.
#[derive(Clone)]
pub(super) struct Plan {
    /// So many connections at the most.
    pub visits: u64,
    /// For so long at the most.
    pub limit: Duration,
    /// No more than so many in a second.
    pub pace: Option<u32>,
    /// Until this is set.
    pub stop: Arc<AtomicBool>,
    /// What becomes of each.
    pub end: End,
    /// The chat of each, by its number in the plan.
    pub chat: Arc<dyn Fn(u64) -> String + Send + Sync>,
}

impl Plan {
    /// Connections to chats of their own, which are closed.
    pub fn new(visits: u64, limit: Duration) -> Self {
        let stop = Arc::default();
        let chat = Arc::new(|n| format!("visit-{n}"));
        Self { visits, limit, pace: None, stop, end: End::Close, chat }
    }
}

impl<'a> Visitors<'a> {
    /// Clients with these addresses of the client's namespace.
    pub fn new(lab: &'a Lab, to: SocketAddr, addresses: std::ops::Range<u8>) -> Self {
        Self::from(lab, to, addresses.map(|n| lab.client_addr_n(Family::V4, n)).collect())
    }

    /// Clients with any addresses, which the client's namespace has to take for its own.
    pub fn from(lab: &'a Lab, to: SocketAddr, from: Vec<IpAddr>) -> Self {
        Self { ns: &lab.client, to, from, next: Arc::default() }
    }

    /// How many connections have been begun.
    pub fn begun(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Does what is planned.
    pub fn visit(&self, plan: &Plan) -> Result<Outcome> {
        let runtime = single()?;
        let first = self.next.load(Ordering::Relaxed);
        let start = Instant::now();
        let visiting = |plan: Plan| {
            let (next, to, from) = (Arc::clone(&self.next), self.to, self.from.clone());
            async move {
                let mut outcome = Outcome::default();
                while start.elapsed() < plan.limit && !plan.stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let number = n - first;
                    if number >= plan.visits {
                        break;
                    }
                    if let Some(pace) = plan.pace {
                        let due = Duration::from_secs_f64(number as f64 / f64::from(pace));
                        sleep_until((start + due).into()).await;
                    }
                    let chat = (plan.chat)(number);
                    let visit = visit(address(&from, n), to, &chat, n % 2 == 0, plan.end);
                    let late = || Err(ErrorKind::TimedOut.into());
                    outcome.add(number, timeout(PATIENCE, visit).await.unwrap_or_else(|_| late()));
                }
                outcome
            }
        };
        let mut all = Outcome::default();
        let outcomes = self.ns.run(|| {
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for _ in 0..AT_ONCE {
                    tasks.spawn(visiting(plan.clone()));
                }
                tasks.join_all().await
            })
        });
        outcomes.into_iter().for_each(|outcome| all.join(outcome));
        all.took = start.elapsed();
        Ok(all)
    }
}

fn address(from: &[IpAddr], n: u64) -> SocketAddr {
    let (first, ports) = PORTS;
    let addresses = from.len() as u64;
    SocketAddr::new(from[(n % addresses) as usize], first + (n / addresses % ports) as u16)
}

/// One connection: which replica answered, and the stream if it is to stay.
async fn visit(
    from: SocketAddr,
    to: SocketAddr,
    chat: &str,
    closes_first: bool,
    end: End,
) -> io::Result<(u8, Option<std::net::TcpStream>)> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(from)?;
    let mut stream = socket.connect(to).await?;
    let word = end.word();
    let head = format!("GET /?chat={chat} HTTP/1.1\r\nHost: chat\r\nX-End: {word}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    if end == End::Close {
        if closes_first {
            stream.shutdown().await?;
        }
        let mut answer = Vec::with_capacity(256);
        stream.read_to_end(&mut answer).await?;
        return Ok((digit(&answer)?, None));
    }
    let mut answer = [0; 256];
    let len = stream.read(&mut answer).await?;
    let replica = digit(&answer[..len])?;
    if end == End::Hold {
        return Ok((replica, Some(stream.into_std()?)));
    }
    stream.write_all(b"x").await?;
    forget(stream)?;
    Ok((replica, None))
}

/// Drops a connection without a word to its other end (TCP_REPAIR, tcp(7)).
fn forget(stream: TcpStream) -> io::Result<()> {
    setsockopt(&stream, sockopt::TcpRepair, &1)?;
    drop(stream);
    Ok(())
}

/// The last byte of an answer.
fn digit(answer: &[u8]) -> io::Result<u8> {
    match answer.last() {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn single() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("starting a runtime")
}
