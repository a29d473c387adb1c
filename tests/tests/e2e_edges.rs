//! The edges of TCP: how connections end, how they are refused, and how tuples come back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use roost_programs::IP;
use roost_tests::lab::{
    Config, Family, Lab, REPLICA_PORT, Roost, Site, VIP_PORT, run_in, try_until,
};
use socket2::{Domain, SockRef, Socket, Type};

const LIMIT: Duration = Duration::from_secs(60);
const REQUEST: &[u8] = b"GET /ws?chat=1 HTTP/1.1\r\nHost: vip\r\n\r\n";

/// A lab with one replica where the test itself is the server.
struct Raw {
    listeners: [TcpListener; 2],
    site: Site,
}

impl Raw {
    fn start(name: &str) -> Result<Self> {
        Self::start_with(name, |config| config)
    }

    fn start_with(name: &str, config: impl FnOnce(Config) -> Config) -> Result<Self> {
        let lab = Lab::builder(name).replicas(1).build()?;
        let ns = &lab.replicas[0].ns;
        let listeners = [
            ns.listen(lab.replica_at(1, Family::V4, REPLICA_PORT))?,
            ns.listen(lab.replica_at(1, Family::V6, REPLICA_PORT))?,
        ];
        let roost = Roost::start(&lab, &config(Config::new(&lab)).to_string())?;
        Ok(Self { listeners, site: Site { roost, servers: Vec::new(), lab } })
    }

    /// A connection through the VIP, with the request sent, and the replica's end of it.
    fn open(&self, family: Family) -> Result<(TcpStream, TcpStream)> {
        self.open_from(family, None)
    }

    fn open_from(&self, family: Family, port: Option<u16>) -> Result<(TcpStream, TcpStream)> {
        let from = port.map(|port| SocketAddr::new(self.site.lab.client_addr(family), port));
        let mut client = connect(&self.site, self.site.vip(family), from)?;
        client.write_all(REQUEST)?;
        let listener = &self.listeners[family as usize];
        listener.set_nonblocking(true)?;
        let mut server = try_until(LIMIT, "the replica to accept", || match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        server.set_nonblocking(false)?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
        }
        let mut request = vec![0; REQUEST.len()];
        server.read_exact(&mut request)?;
        assert_eq!(request, REQUEST);
        Ok((client, server))
    }

    fn wait_until_empty(&self) -> Result<()> {
        try_until(LIMIT, "the flow and the chat to end", || {
            let empty = self.site.live_flows()?.is_empty() && self.site.live_chats()?.is_empty();
            Ok(empty.then_some(()))
        })
    }
}

fn connect(site: &Site, to: SocketAddr, from: Option<SocketAddr>) -> Result<TcpStream> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        socket.connect_timeout(&to.into(), LIMIT)?;
        Ok(socket)
    };
    // The client's own end of an earlier connection may need a moment to go.
    let own = [ErrorKind::AddrInUse, ErrorKind::AddrNotAvailable];
    let socket = try_until(LIMIT, "the tuple to be free", || match site.lab.client.run(open) {
        Err(error) if own.contains(&error.kind()) => Ok(None),
        other => Ok(Some(other)),
    })?;
    Ok(socket.with_context(|| format!("connecting to {to}"))?.into())
}

/// Ends a connection with an RST.
fn abort(stream: TcpStream) -> Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}

/// Ends a connection without a word, as a machine that loses its power.
fn vanish(stream: TcpStream) -> Result<()> {
    setsockopt(&stream, sockopt::TcpRepair, &1)?;
    Ok(())
}

#[track_caller]
fn assert_reset(result: io::Result<usize>) {
    match result {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("expected a reset, not {other:?}"),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * n / 251) as u8).collect()
}

#[test]
fn the_client_may_close_its_half_first() -> Result<()> {
    let raw = Raw::start("half-client")?;
    for family in Family::BOTH {
        let (mut client, mut server) = raw.open(family)?;
        let sent = pattern(300_000);
        let writer = thread::spawn(move || -> io::Result<TcpStream> {
            client.write_all(&pattern(300_000))?;
            client.shutdown(Shutdown::Write)?;
            Ok(client)
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got)?;
        assert!(got == sent, "{family}: {} of {} bytes", got.len(), sent.len());
        let mut client = writer.join().expect("the writer")?;
        // Long after its FIN the client still gets all that the replica has to say.
        let writer = thread::spawn(move || server.write_all(&pattern(2_000_000)));
        let mut got = Vec::new();
        client.read_to_end(&mut got)?;
        assert!(got == pattern(2_000_000), "{family}: {} bytes", got.len());
        writer.join().expect("the writer")?;
        raw.wait_until_empty()?;
    }
    Ok(())
}

#[test]
fn the_replica_may_close_its_half_first() -> Result<()> {
    let raw = Raw::start("half-replica")?;
    for family in Family::BOTH {
        let (mut client, mut server) = raw.open(family)?;
        server.write_all(b"that is all")?;
        server.shutdown(Shutdown::Write)?;
        let mut got = String::new();
        client.read_to_string(&mut got)?;
        assert_eq!(got, "that is all");
        assert_eq!(raw.site.live_flows()?.len(), 1, "{family}: one half is open");
        let writer = thread::spawn(move || client.write_all(&pattern(2_000_000)));
        let mut got = Vec::new();
        server.read_to_end(&mut got)?;
        assert!(got == pattern(2_000_000), "{family}: {} bytes", got.len());
        writer.join().expect("the writer")?;
        drop(server);
        raw.wait_until_empty()?;
    }
    Ok(())
}

#[test]
fn an_rst_reaches_the_other_end() -> Result<()> {
    let raw = Raw::start("rst")?;
    for family in Family::BOTH {
        let (mut client, server) = raw.open(family)?;
        abort(server)?;
        assert_reset(client.read(&mut [0]));
        raw.wait_until_empty()?;

        let (client, mut server) = raw.open(family)?;
        abort(client)?;
        assert_reset(server.read(&mut [0]));
        raw.wait_until_empty()?;
    }
    Ok(())
}

#[test]
fn a_refusal_of_the_replica_reaches_the_client() -> Result<()> {
    let mut raw = Raw::start("refused")?;
    // Nobody listens any more.
    let other = raw.site.lab.replicas[0].ns.listen("127.0.0.1:0".parse()?)?;
    raw.listeners = [other.try_clone()?, other];
    for family in Family::BOTH {
        // The handshake is Roost's own; the first data finds out.
        let mut client = connect(&raw.site, raw.site.vip(family), None)?;
        client.set_read_timeout(Some(LIMIT))?;
        client.write_all(REQUEST)?;
        assert_reset(client.read(&mut [0]));
    }
    // A segment that a slow machine lets a client send again is counted again.
    assert!(raw.site.counter("refused")? >= 2);
    raw.wait_until_empty()
}

#[test]
fn without_a_usable_replica_the_syn_is_refused() -> Result<()> {
    let config = |lab: &Lab| Config::new(lab).only(lab, &[]);
    let site = Site::start(Lab::builder("no-replica").replicas(1), config)?;
    for family in Family::BOTH {
        let error = site.lab.client.connect(site.vip(family)).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family}");
    }
    assert!(site.counter("reset_no_replica")? >= 2);
    site.roost.write_config(&Config::new(&site.lab).to_string())?;
    site.wait_replicas(&["replica-1"])?;
    for family in Family::BOTH {
        site.clients()?.tab(site.vip(family), "1")?;
    }
    Ok(())
}

#[test]
fn a_client_whose_flow_is_unknown_is_reset() -> Result<()> {
    let raw = Raw::start("unknown")?;
    for family in Family::BOTH {
        // In repair mode a socket is connected without a packet: the node knows nothing of it.
        let vip = raw.site.vip(family);
        let mut client = raw.site.lab.client.run(|| -> Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(vip), Type::STREAM, None)?;
            setsockopt(&socket, sockopt::TcpRepair, &1)?;
            socket.bind(&SocketAddr::new(raw.site.lab.client_addr(family), 30_000).into())?;
            socket.connect(&vip.into())?;
            Ok(socket.into())
        })?;
        client.set_read_timeout(Some(LIMIT))?;
        // Leaving the mode sends a probe, which may be answered already.
        setsockopt(&client, sockopt::TcpRepair, &0)?;
        let result = match client.write(REQUEST) {
            Ok(_) => client.read(&mut [0]),
            error => error,
        };
        assert_reset(result);
    }
    assert!(raw.site.counter("reset_unknown")? >= 2);
    Ok(())
}

/// Before its first byte, and within its head.
#[test]
fn a_client_that_waits_hears_that_its_connection_lives() -> Result<()> {
    let site = Site::home("waits")?;
    let request = REQUEST.strip_suffix(b"\r\n").expect("its end").to_vec();
    let rest = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let request = [request.as_slice(), rest].concat();
    let mut clients = Vec::new();
    for timestamps in ["1", "0"] {
        site.lab.client.sysctl("net.ipv4.tcp_timestamps", timestamps)?;
        for family in Family::BOTH {
            for sent in [0, 1, 10] {
                let mut client = connect(&site, site.vip(family), None)?;
                client.set_nodelay(true)?;
                client.write_all(&request[..sent])?;
                // Two probes without an answer end it.
                setsockopt(&client, sockopt::KeepAlive, &true)?;
                setsockopt(&client, sockopt::TcpKeepIdle, &1)?;
                setsockopt(&client, sockopt::TcpKeepInterval, &1)?;
                setsockopt(&client, sockopt::TcpKeepCount, &2)?;
                clients.push((client, sent));
            }
        }
    }
    try_until(LIMIT, "five probes of each", || {
        let answered = site.counter("probe_acknowledged")?;
        Ok((answered >= 5 * clients.len() as u64).then_some(()))
    })?;
    for (client, sent) in &mut clients {
        let case = format!("{:?}, {sent} bytes", client.peer_addr());
        client.set_read_timeout(Some(LIMIT))?;
        client.write_all(&request[*sent..]).with_context(|| case.clone())?;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).with_context(|| case.clone())?;
        assert_eq!(&answer, b"HTTP/1.1 101", "{case}");
    }
    assert_eq!(site.live_chats()?.len(), 1);
    Ok(())
}

#[test]
fn a_tuple_can_be_used_again() -> Result<()> {
    let raw = Raw::start("reuse")?;
    for family in Family::BOTH {
        for round in 0..3 {
            let port = Some(31_000);
            // Closed by the replica first: the client has no TIME_WAIT.
            let (mut client, server) = raw.open_from(family, port).context("after an RST")?;
            drop(server);
            assert_eq!(client.read(&mut [0])?, 0, "{family} {round}");
            drop(client);
            let (client, _server) = raw.open_from(family, port).context("after a close")?;
            abort(client)?;
        }
    }
    Ok(())
}

#[test]
fn a_client_that_lost_its_memory_can_come_back() -> Result<()> {
    let raw = Raw::start("amnesia")?;
    for family in Family::BOTH {
        let port = Some(32_000);
        let (client, mut before) = raw.open_from(family, port)?;
        vanish(client)?;
        let (mut client, mut server) = raw.open_from(family, port).context("the same tuple")?;
        server.write_all(b"again")?;
        let mut got = [0; 5];
        client.read_exact(&mut got)?;
        assert_eq!(&got, b"again");
        assert_reset(before.read(&mut [0]));
        assert_eq!(raw.site.live_flows()?.len(), 1);
        let chats = raw.site.live_chats()?;
        assert_eq!((chats.len(), &chats[0]["flows"]), (1, &1.into()), "{family}: {chats:?}");
        abort(client)?;
        raw.wait_until_empty()?;
    }
    Ok(())
}

#[test]
fn a_connection_without_data_leaves_nothing() -> Result<()> {
    let raw = Raw::start("unused")?;
    for family in Family::BOTH {
        let idle = connect(&raw.site, raw.site.vip(family), None)?;
        let unused = connect(&raw.site, raw.site.vip(family), None)?;
        unused.shutdown(Shutdown::Write)?;
        let mut unused = unused;
        unused.set_read_timeout(Some(LIMIT))?;
        // Reset or closed, but not left waiting.
        match unused.read(&mut [0]) {
            Ok(0) => {}
            other => assert_reset(other),
        }
        assert!(raw.site.roost.json(&["flows"])?.as_array().is_some_and(Vec::is_empty));
        drop(idle);
    }
    assert_eq!(raw.site.counter("bound")?, 0);
    Ok(())
}

#[test]
fn the_first_data_may_come_late() -> Result<()> {
    let raw = Raw::start("late")?;
    for family in Family::BOTH {
        let mut client = connect(&raw.site, raw.site.vip(family), None)?;
        // What is tested is the passing of time.
        thread::sleep(Duration::from_secs(3));
        client.set_read_timeout(Some(LIMIT))?;
        client.write_all(REQUEST)?;
        let (mut server, _) = raw.listeners[family as usize].accept()?;
        let mut request = vec![0; REQUEST.len()];
        server.read_exact(&mut request)?;
        assert_eq!(request, REQUEST);
    }
    Ok(())
}

#[test]
fn a_long_request_arrives_whole() -> Result<()> {
    let raw = Raw::start("long")?;
    for family in Family::BOTH {
        // Several segments at once, the key in the first.
        let mut long = b"GET /ws?chat=long HTTP/1.1\r\nCookie: ".to_vec();
        long.extend(std::iter::repeat_n(b'c', 40_000));
        long.extend(b"\r\n\r\n");
        let mut client = connect(&raw.site, raw.site.vip(family), None)?;
        let want = long.clone();
        let writer = thread::spawn(move || client.write_all(&long).map(|()| client));
        raw.listeners[family as usize].set_nonblocking(false)?;
        let (mut server, _) = raw.listeners[family as usize].accept()?;
        server.set_read_timeout(Some(LIMIT))?;
        let mut got = vec![0; want.len()];
        server.read_exact(&mut got)?;
        assert!(got == want, "{family}");
        writer.join().expect("the writer")?;
    }
    Ok(())
}

#[test]
fn other_ports_of_the_vip_are_passed_untouched() -> Result<()> {
    let raw = Raw::start("other")?;
    for family in Family::BOTH {
        let other = SocketAddr::new(raw.site.lab.vip(family), VIP_PORT + 1);
        let error = raw.site.lab.client.connect(other).expect_err("nobody is there");
        // The node's own route says so; Roost would have answered with an RST.
        assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "{family}");
        assert_ne!(error.kind(), ErrorKind::TimedOut, "{family}");
    }
    assert_eq!(raw.site.counter("syn_answered")?, 0);
    Ok(())
}

/// As with VRRP: the address of a virtual router is that of a macvlan on the machine that has it at the moment.
#[test]
fn frames_for_another_machine_wait_until_this_one_has_their_address() -> Result<()> {
    const VIRTUAL: &str = "00:00:5e:00:01:07";
    let raw = Raw::start("macs")?;
    let lab = &raw.site.lab;
    for (n, family) in (1..).zip(Family::BOTH) {
        let node = lab.node_addrs()[family as usize].to_string();
        let neighbour = ["neigh", "replace", &node, "lladdr", VIRTUAL, "dev", "eth0"];
        run_in(&lab.client, IP, &[&neighbour[..], &["nud", "permanent"]].concat())?;
        let answered = raw.site.counter("syn_answered")?;
        thread::scope(|scope| -> Result<()> {
            let opening = scope.spawn(|| raw.open(family));
            try_until(LIMIT, "a SYN that is not for the node", || {
                Ok((raw.site.counter("passed_other_mac")? >= n).then_some(()))
            })?;
            assert_eq!(raw.site.counter("syn_answered")?, answered, "{family}");
            for words in [
                &["link", "add", "vrrp", "link", "eth0", "address", VIRTUAL, "type", "macvlan"][..],
                &["link", "set", "vrrp", "up"],
            ] {
                run_in(&lab.node, IP, words)?;
            }
            let (client, server) = opening.join().expect("the client")?;
            drop((client, server));
            raw.wait_until_empty()
        })?;
        run_in(&lab.node, IP, &["link", "del", "vrrp"])?;
        // What is known of it is forgotten, too.
        let shown = || Ok(raw.site.roost.text(&["maps", "dump", "MACS"])?.contains(VIRTUAL));
        try_until(LIMIT, "the address to go", || shown().map(|shown| (!shown).then_some(())))?;
    }
    Ok(())
}

/// Neither end says anything, so nothing but Roost can tell it.
#[test]
fn both_ends_that_are_silent_learn_that_their_connection_has_ended() -> Result<()> {
    let raw = Raw::start_with("told", |config| config.with("idle_timeout = \"6s\""))?;
    let are_told = |ends: Vec<(TcpStream, TcpStream)>| -> Result<()> {
        for (mut client, mut server) in ends {
            assert_reset(client.read(&mut [0]));
            assert_reset(server.read(&mut [0]));
        }
        raw.wait_until_empty()?;
        for answered in ["reset_expired", "reset_gone", "reset_replica"] {
            assert_eq!(raw.site.counter(answered)?, 0, "{answered}");
        }
        Ok(())
    };
    let open = || Family::BOTH.map(|family| raw.open(family)).into_iter().collect::<Result<_>>();
    are_told(open()?)?;
    assert_eq!(raw.site.counter("ended_idle")?, 2);
    let ends = open()?;
    // They live on, but not for Roost.
    raw.site
        .roost
        .write_config(&Config::new(&raw.site.lab).only(&raw.site.lab, &[]).to_string())?;
    are_told(ends)?;
    assert_eq!((raw.site.counter("ended_gone")?, raw.site.counter("ended_idle")?), (2, 2));
    Ok(())
}
