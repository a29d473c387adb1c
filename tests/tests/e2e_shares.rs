//! Who is refused when a table gets full, with real clients: who holds most of it, and nobody else.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use roost_tests::lab::{Config, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, try_until};
use serde_json::json;
use socket2::{Domain, Socket, Type};

const LIMIT: Duration = Duration::from_secs(60);
/// Room in `FLOWS`.
const ROOM: usize = 40;
/// What one source can have of it alone: the half that is anybody's, and one more.
const SHARE: usize = ROOM / 2 + 1;

// Numbers of the client's addresses.
const STRANGER: u8 = 0;
const OTHER: u8 = 1;
const TRUSTED: u8 = 2;

/// A lab with one replica that answers whatever it gets by the same.
struct Shared {
    lab: Lab,
    roost: Roost,
}

impl Shared {
    fn start(name: &str) -> Result<Self> {
        let lab = Lab::builder(name).replicas(1).build()?;
        for family in Family::BOTH {
            let listener = lab.replicas[0].ns.listen(lab.replica_at(1, family, REPLICA_PORT))?;
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    thread::spawn(move || io::copy(&mut &stream, &mut &stream));
                }
            });
        }
        let trusted = Family::BOTH.map(|family| lab.client_addr_n(family, TRUSTED).to_string());
        let top = format!(
            "[limits]\nflows = {ROOM}\n[shares]\nipv6_prefix = 128\ntrusted_sources = {trusted:?}\n"
        );
        let roost = Roost::start(&lab, &Config { top, ..Config::new(&lab) }.to_string())?;
        Ok(Self { lab, roost })
    }

    /// A connection of a client, from its first request to the answer.
    fn open(&self, family: Family, who: u8, chat: &str) -> io::Result<TcpStream> {
        let from: IpAddr = self.lab.client_addr_n(family, who);
        let to: SocketAddr = (self.lab.vip(family), VIP_PORT).into();
        let socket = self.lab.client.run(|| -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&to.into(), LIMIT)?;
            Ok(socket)
        })?;
        let mut stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(LIMIT))?;
        echo(&mut stream, &format!("GET /?chat={chat} HTTP/1.1\r\nHost: vip\r\n\r\n"))?;
        Ok(stream)
    }

    /// So many connections of a client, none of which is refused.
    fn open_all(&self, family: Family, who: u8, count: usize) -> io::Result<Vec<TcpStream>> {
        (0..count).map(|n| self.open(family, who, &format!("{family}-{who}-{n}"))).collect()
    }

    fn wait_for_flows(&self, count: usize) -> Result<()> {
        try_until(LIMIT, &format!("{count} flows"), || {
            let flows = self.roost.json(&["flows"])?;
            Ok((flows.as_array().map(Vec::len) == Some(count)).then_some(()))
        })
    }

    fn counted(&self, name: &str) -> Result<u64> {
        let counters = self.roost.json(&["counters", "--all"])?;
        let found = counters.as_array().into_iter().flatten().find(|c| c["counter"] == name);
        found.and_then(|counter| counter["packets"].as_u64()).with_context(|| format!("no {name}"))
    }
}

/// Says something, and gets it back.
fn echo(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, text.as_bytes());
    Ok(())
}

#[test]
fn a_stranger_beyond_his_share_is_reset_and_others_notice_nothing() -> Result<()> {
    let shared = Shared::start("shares")?;
    for (round, family) in (1..).zip(Family::BOTH) {
        let mut strangers = shared.open_all(family, STRANGER, SHARE)?;
        // The handshake is a cookie's; the first data is answered by an RST.
        let refuse = |n: usize| match shared.open(family, STRANGER, &format!("{family}-more-{n}")) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => bail!("{family}: expected a reset, not {other:?}"),
        };
        (0..5).try_for_each(refuse)?;
        let mut others = shared.open_all(family, OTHER, 4)?;
        // More than what is left then, to the very last.
        let mut trusted = shared.open_all(family, TRUSTED, ROOM - SHARE - 4)?;
        shared.wait_for_flows(ROOM)?;
        let sources = shared.roost.json(&["sources"])?;
        let holds = |n: usize, who: u8, flows: usize, trusted: bool| {
            let source = shared.lab.client_addr_n(family, who).to_string();
            let line =
                json!({"source": source, "flows": flows, "chats": flows, "trusted": trusted});
            ensure!(sources[n] == line, "{family}: {sources}");
            Ok(())
        };
        holds(0, STRANGER, SHARE, false)?;
        holds(1, TRUSTED, ROOM - SHARE - 4, true)?;
        holds(2, OTHER, 4, false)?;
        for name in ["reset_share", "over_source_flows"] {
            let counted = shared.counted(name)?;
            ensure!(counted == 6 * round - 1, "{family}: {name} is {counted}");
        }
        for name in ["reset_full", "over_service_flows", "chats_full"] {
            ensure!(shared.counted(name)? == 0, "{family}: {name}");
        }
        // What is there goes on, whoever has it.
        for stream in strangers.iter_mut().chain(&mut others).chain(&mut trusted) {
            echo(stream, "still here")?;
        }
        // What the stranger gives back he may have again.
        strangers.truncate(1);
        drop(others);
        drop(trusted);
        shared.wait_for_flows(1)?;
        strangers.extend(shared.open_all(family, STRANGER, SHARE - 1)?);
        refuse(5)?;
        drop(strangers);
        shared.wait_for_flows(0)?;
    }
    Ok(())
}
