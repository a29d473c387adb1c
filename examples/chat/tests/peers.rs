//! Every client with every server over loopback: ours, and those of tests/peers.
//!
//! The libraries are installed by `cargo xtask test` (or by hand, see tests/peers/README.md). They
//! are not optional: without them these tests fail and say so.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use roost_chat::client::Tab;
use roost_programs::built;
use serde::Deserialize;

#[path = "../../../tests/peers/command.rs"]
mod command;

const CHAT: &str = "a room/ü";

#[test]
fn ours() -> Result<()> {
    check(built(env!("CARGO_BIN_EXE_roost-chat"))?.arg("serve"), |address| {
        vec!["--listen".into(), address.to_string()]
    })
}

#[test]
fn those_of_others() -> Result<()> {
    for script in command::SERVERS {
        check(&mut peer(script)?, host_and_port).context(script)?;
    }
    Ok(())
}

fn host_and_port(address: SocketAddr) -> Vec<String> {
    vec!["--listen".into(), address.ip().to_string(), address.port().to_string()]
}

/// Starts `server`, for IPv4 and IPv6, and lets all clients speak to it.
fn check(server: &mut Command, listen: fn(SocketAddr) -> Vec<String>) -> Result<()> {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        server.args(listen(any.parse()?));
    }
    let server = Running::start(server.args(["--name", "replica-x"]))?;
    for &address in &server.addresses {
        rust_client(address).with_context(|| format!("our client on {address}"))?;
        for script in command::CLIENTS {
            peer_client(script, address).with_context(|| format!("{script} on {address}"))?;
        }
    }
    server.stop()
}

fn rust_client(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let host = address.to_string();
        // Not the one whose tabs a client before has just closed.
        let chat = format!("{CHAT} on {address}");
        let mut a = Tab::open(address, &host, &chat, None).await?;
        let mut b = Tab::open(address, &host, &chat, None).await?;
        for (tab, connections) in [(&a, 1), (&b, 2)] {
            assert_eq!((tab.replica(), tab.hello().chat.as_str()), ("replica-x", chat.as_str()));
            assert_eq!(tab.hello().peer, tab.local_addr());
            assert_eq!(tab.hello().connections, connections);
        }
        let limit = Duration::from_secs(60);
        // Long enough for all three length encodings of a frame.
        for text in ["x".to_owned(), "ü".repeat(300), "z".repeat(100_000)] {
            a.say(&text).await?;
            for tab in [&mut a, &mut b] {
                let message = tab.next_message(limit).await?.context("nothing heard")?;
                assert_eq!(message.text, text);
                assert_eq!(
                    (message.replica.as_str(), message.chat.as_str()),
                    ("replica-x", chat.as_str())
                );
            }
        }
        b.ping(limit).await?;
        a.close().await?;
        b.close().await
    })
}

#[derive(Debug, Deserialize, PartialEq)]
struct Report {
    replicas: Vec<String>,
    received: Vec<usize>,
}

fn peer_client(script: &str, address: SocketAddr) -> Result<()> {
    let url = format!("ws://{address}/ws?chat=a%20room%2F%C3%BC");
    let output = peer(script)?
        .args(["--url", &url, "--tabs", "4", "--say", "hä", "--limit", "60"])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let report: Report = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report.replicas, ["replica-x"; 4]);
    assert_eq!(report.received, [4; 4]);
    Ok(())
}

/// A client must not be content when its tabs are on replicas that know nothing of each other, or
/// the tests that lean on its exit status would prove nothing.
#[test]
fn a_client_notices_a_split_chat() -> Result<()> {
    let start = || {
        let mut server = built(env!("CARGO_BIN_EXE_roost-chat"))?;
        let address = ["serve", "--listen", "127.0.0.1:0", "--name", "replica-x"];
        Running::start(server.args(address))
    };
    let (one, two) = (start()?, start()?);
    let relay = relay_in_turn([one.addresses[0], two.addresses[0]])?;
    for script in command::CLIENTS {
        let url = format!("ws://{relay}/ws?chat=1");
        let mut client = peer(script)?;
        let output = client.args(["--url", &url, "--tabs", "4", "--limit", "4"]).output()?;
        assert_eq!(output.status.code(), Some(1), "{script}: {output:?}");
        let report: Report = serde_json::from_slice(&output.stdout)?;
        assert_eq!(report.received, [2; 4], "{script}");
    }
    one.stop()?;
    two.stop()
}

/// A round-robin balancer: the thing that Roost replaces.
fn relay_in_turn(targets: [SocketAddr; 2]) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for (client, target) in listener.incoming().zip(targets.into_iter().cycle()) {
            let (Ok(client), Ok(server)) = (client, std::net::TcpStream::connect(target)) else {
                return;
            };
            let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
            for (mut from, mut to) in [(from, to), (server, client)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    Ok(address)
}

/// A server of two addresses, or one; killed if the test fails before it is stopped.
struct Running {
    process: Child,
    addresses: Vec<SocketAddr>,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let wanted = command.get_args().filter(|arg| *arg == "--listen").count();
        let process = command.stdout(Stdio::piped()).spawn().context("cannot start the server")?;
        let mut running = Self { process, addresses: Vec::new() };
        let lines = BufReader::new(running.process.stdout.take().context("no stdout")?).lines();
        for line in lines.take(wanted) {
            let line = line?;
            let address = line.strip_prefix("listening on ").context("no address")?;
            running.addresses.push(address.parse().with_context(|| line.clone())?);
        }
        ensure!(running.addresses.len() == wanted, "{command:?} listens on too few addresses");
        Ok(running)
    }

    /// Asks the server to end, and wants it to do so properly.
    fn stop(mut self) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command that runs a file of tests/peers.
fn peer(file: &str) -> Result<Command> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    command::command(root, file)
}
