//! `roost-chat`: the chat server, and clients to try it by hand.

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use roost_chat::client::{Location, Tab, Upgrade, connect, load};
use roost_chat::listen;
use roost_chat::server::{Config, Server};
use roost_chat::tls::{ClientTls, ServerTls};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// How long every tab of a chat has to hear what one of them said.
const HEAR_LIMIT: Duration = Duration::from_secs(5);

/// A small WebSocket chat with state per chat in memory, and clients for it
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Serve),
    Tab(TabArgs),
    Load(LoadArgs),
}

/// Serve the chat until SIGTERM or SIGINT
#[derive(Args)]
struct Serve {
    /// Listen on this address; can be given several times. [::] takes IPv4 too, unless IPv4 is
    /// listed on its own
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    listen: Vec<SocketAddr>,
    /// Call this replica NAME towards clients
    #[arg(long)]
    name: String,
    /// Take the chat from the query parameter NAME
    #[arg(long, value_name = "NAME", default_value = "chat")]
    query: String,
    /// Ask by TCP keepalive whether a client is still there after SECONDS of silence
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    keepalive: u64,
    /// Speak TLS with the certificate in FILE (PEM, with those that lead to its authority)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key is in FILE (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// Whom to ask, and whom to believe
#[derive(Args)]
struct Reach {
    /// Connect to ADDR:PORT, whatever the URL's name means elsewhere
    #[arg(long, value_name = "ADDR:PORT")]
    connect: Option<SocketAddr>,
    /// Believe the authorities in FILE (PEM); needed for wss://
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Reach {
    async fn resolve(&self, url: &str) -> Result<(Location, Option<ClientTls>)> {
        let location = Location::resolve(url, self.connect).await?;
        if !location.tls {
            return Ok((location, None));
        }
        let ca =
            self.ca.as_ref().context("ca: missing; wss:// needs the authority's certificate")?;
        Ok((location, Some(ClientTls::read(ca)?)))
    }
}

/// Open one tab, print what it hears, one JSON object per line
#[derive(Args)]
struct TabArgs {
    /// Open URL, for example ws://127.0.0.1:8080/ws?chat=42
    #[arg(long)]
    url: String,
    #[command(flatten)]
    reach: Reach,
    /// Say TEXT once connected; can be given several times
    #[arg(long, value_name = "TEXT")]
    say: Vec<String>,
    /// Connect from this local address (port 0: any)
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<SocketAddr>,
    /// Listen for SECONDS and end; without it, until Ctrl-C
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<f64>,
}

/// Open many tabs over many chats, hold them, and report where they are
///
/// Prints one JSON object when all are open ("event": "opened") and one at the end ("ended").
/// Exit status 1 if a tab could not be opened or was lost.
#[derive(Args)]
struct LoadArgs {
    /// Open URL, without the chat, for example ws://127.0.0.1:8080/ws
    #[arg(long)]
    url: String,
    #[command(flatten)]
    reach: Reach,
    /// Open N tabs in all
    #[arg(long, value_name = "N", default_value_t = 300)]
    tabs: usize,
    /// Spread the tabs over N chats
    #[arg(long, value_name = "N", default_value_t = 100)]
    chats: usize,
    /// Call the chats PREFIX0, PREFIX1, ...
    #[arg(long, default_value = "load-")]
    prefix: String,
    /// Name the chat by the query parameter NAME
    #[arg(long, value_name = "NAME", default_value = "chat")]
    query: String,
    /// Say one thing in each chat and count the tabs that it reaches
    #[arg(long)]
    say: bool,
    /// Ping on every tab each MILLISECONDS while they are held
    #[arg(long, value_name = "MILLISECONDS")]
    ping: Option<u64>,
    /// Hold the tabs for SECONDS; without it, until SIGTERM or SIGINT
    #[arg(long, value_name = "SECONDS")]
    hold: Option<f64>,
    /// Connect from this local address (port 0: any); several are taken in turn
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Vec<SocketAddr>,
    /// Have at most N connections in the making at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    at_once: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    listen::raise_file_limit();
    let result = match Cli::parse().command {
        Command::Serve(args) => serve(args).await.map(|()| ExitCode::SUCCESS),
        Command::Tab(args) => tab(args).await.map(|()| ExitCode::SUCCESS),
        Command::Load(args) => run_load(args).await,
    };
    result.unwrap_or_else(|error| {
        eprintln!("roost-chat: {error:#}");
        ExitCode::FAILURE
    })
}

async fn serve(args: Serve) -> Result<()> {
    let Serve { listen, name, query, keepalive, tls_cert, tls_key } = args;
    let files = tls_cert.zip(tls_key);
    let tls = files.map(|(cert, key)| ServerTls::read(&cert, &key)).transpose()?;
    let stop = asked_to_stop()?;
    let keepalive = Duration::from_secs(keepalive.max(1));
    let server = Server::bind(&Config { listen, name, query, keepalive, tls })?;
    for address in server.addresses() {
        say_line(&format!("listening on {address}"))?;
    }
    server.run(stop).await
}

async fn tab(args: TabArgs) -> Result<()> {
    let stop = stop_after(args.seconds)?;
    let (Location { address, host, path, .. }, tls) = args.reach.resolve(&args.url).await?;
    let stream = connect(address, args.bind).await?.into_std()?;
    let mut tab = Tab::upgrade(stream, &Upgrade::path(host, path).tls(tls)).await?;
    print(tab.hello())?;
    for text in &args.say {
        tab.say(text).await?;
    }
    tokio::pin!(stop);
    loop {
        tokio::select! {
            message = tab.next_message(Duration::from_secs(3600)) => if let Some(message) = message? {
                print(&message)?;
            },
            () = &mut stop => return tab.close().await,
        }
    }
}

async fn run_load(args: LoadArgs) -> Result<ExitCode> {
    let (Location { address, host, path, .. }, tls) = args.reach.resolve(&args.url).await?;
    let LoadArgs { tabs, chats, prefix, query, bind, at_once, .. } = args;
    let plan = load::Plan {
        host,
        path,
        query,
        prefix,
        bind,
        at_once,
        tls,
        ..load::Plan::new(address, chats, tabs)
    };
    let mut load = load::open(&plan).await;
    if args.say {
        load.say(HEAR_LIMIT).await;
    }
    // From here on: a signal while tabs are being opened ends the process as usual.
    let stop = stop_after(args.hold)?;
    let opened = load.opened().clone();
    print(&Event::Opened(&opened))?;
    let ended = load.hold(args.ping.map(|ms| Duration::from_millis(ms.max(1))), stop).await;
    print(&Event::Ended(&ended))?;
    let all_well = opened.failed == 0 && ended.lost == 0;
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event<'a> {
    Opened(&'a load::Opened),
    Ended(&'a load::Ended),
}

fn print(value: &impl Serialize) -> Result<()> {
    say_line(&serde_json::to_string(value)?)
}

/// Prints a line at once: whoever reads it from a pipe waits for it.
fn say_line(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to stdout")
}

/// Completes after `seconds`, or at SIGTERM or SIGINT.
fn stop_after(seconds: Option<f64>) -> Result<impl Future<Output = ()>> {
    let limit = seconds
        .map(|seconds| {
            Duration::try_from_secs_f64(seconds)
                .with_context(|| format!("{seconds} is not a number of seconds to wait"))
        })
        .transpose()?;
    let signal = asked_to_stop()?;
    Ok(async move {
        match limit {
            Some(limit) => drop(tokio::time::timeout(limit, signal).await),
            None => signal.await,
        }
    })
}

/// Completes at SIGTERM or SIGINT; from this call on they do not kill the process any more.
fn asked_to_stop() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
