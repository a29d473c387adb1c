//! HAProxy in front, which sends the PROXY protocol, and nginx as the replicas, which reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::lab::{
    Config, Family, Lab, Netns, Proxy, REPLICA_PORT, Roost, VIP_PORT, nginx_places,
};
use socket2::{Domain, Socket, Type};

const LIMIT: Duration = Duration::from_secs(60);
/// Where the service is whose key is the client's address.
const CLIENT_PORT: u16 = VIP_PORT + 1;
/// Where HAProxy listens, the first of four: by version, and by the family of the VIP.
const FRONT: u16 = 9000;

struct Site {
    roost: Roost,
    _proxies: Vec<Proxy>,
    lab: Lab,
}

impl Site {
    fn start(name: &str, port: u16) -> Result<Self> {
        let lab = Lab::builder(name).build()?;
        let mut proxies = Vec::new();
        for (n, replica) in (1..).zip(&lab.replicas) {
            let at = lab.replica_at(n, Family::V4, REPLICA_PORT);
            let dir = lab.dir().join(&replica.name);
            proxies.push(Proxy::nginx(&replica.ns, &dir, &nginx(&lab, n, &dir), at)?);
        }
        let roost = Roost::start(&lab, &services(&lab))?;
        let at = front(&lab, Family::V4, 0);
        let dir = lab.dir().join("haproxy");
        proxies.push(Proxy::haproxy(&lab.client, &dir, &haproxy(&lab, port), at)?);
        Ok(Self { roost, _proxies: proxies, lab })
    }

    /// Through all of HAProxy's ways from this address: who it was by the replicas, and which replicas answered.
    fn ask_by_all(&self, from: IpAddr, chat: &str) -> Result<Vec<(Answer, TcpStream)>> {
        let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
        let ask = |way| ask(&self.lab.client, from, front(&self.lab, family, way), chat);
        (0..4).map(ask).collect()
    }
}

/// A replica says whom it takes its client for, and its own name.
fn nginx(lab: &Lab, n: usize, dir: &Path) -> String {
    let listen = Family::BOTH.map(|family| {
        format!("listen {} proxy_protocol;", lab.replica_at(n, family, REPLICA_PORT))
    });
    format!(
        "events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n{}server {{ {} \
         location / {{ return 200 \"$proxy_protocol_addr replica-{n}\\n\"; }} }}\n}}\n",
        nginx_places(dir),
        listen.concat(),
    )
}

/// Two services: by the chat's name, and by the client's address.
fn services(lab: &Lab) -> String {
    let proxies: Vec<_> = Family::BOTH.map(|family| lab.client_addr(family).to_string()).into();
    let from = format!("proxy_protocol_from = {proxies:?}");
    let first = Config::new(lab).with(&from).to_string();
    let second = Config { name: "client".to_owned(), ..Config::new(lab) };
    let second = second.port(CLIENT_PORT).key("client").with(&from).to_string();
    let (_, second) = second.split_once("[[service]]").expect("it has a service");
    format!("{first}\n[[service]]{second}")
}

fn haproxy(lab: &Lab, port: u16) -> String {
    let mut text =
        "global\n    maxconn 1000\ndefaults\n    mode tcp\n    timeout connect 10s\n    \
                    timeout client 1m\n    timeout server 1m\n"
            .to_owned();
    for way in 0..4 {
        let [four, six] = Family::BOTH.map(|family| front(lab, family, way));
        let vip = SocketAddr::new(lab.vip(Family::BOTH[usize::from(way % 2)]), port);
        let send = if way < 2 { "send-proxy" } else { "send-proxy-v2" };
        text += &format!(
            "listen way-{way}\n    bind {four}\n    bind {six}\n    server vip {vip} {send}\n"
        );
    }
    text
}

fn front(lab: &Lab, family: Family, way: u16) -> SocketAddr {
    SocketAddr::new(lab.client_addr(family), FRONT + way)
}

/// Whom the replica takes its client for, and its name.
type Answer = (IpAddr, String);

/// Asks for a chat from an address, by a connection that stays.
fn ask(ns: &Netns, from: IpAddr, to: SocketAddr, chat: &str) -> Result<(Answer, TcpStream)> {
    let open = || -> Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&to.into(), LIMIT)?;
        Ok(socket.into())
    };
    let mut stream = ns.run(open).with_context(|| format!("from {from} to {to}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET /?chat={chat} HTTP/1.1\r\nHost: chat\r\n\r\n")?;
    let mut answer = BufReader::new(&stream);
    let mut len = 0;
    loop {
        let mut line = String::new();
        ensure!(answer.read_line(&mut line)? > 0, "no answer from {to}");
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = text.trim().parse()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; len];
    answer.read_exact(&mut body)?;
    let body = String::from_utf8(body)?;
    let (client, replica) = body.trim().split_once(' ').with_context(|| body.clone())?;
    Ok(((client.parse()?, replica.to_owned()), stream))
}

#[test]
fn chats_meet_by_their_names_and_replicas_see_who_asks() -> Result<()> {
    let site = Site::start("haproxy", VIP_PORT)?;
    let mut open = Vec::new();
    let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for n in 0..12 {
        let chat = format!("room-{n}");
        for family in Family::BOTH {
            let from = site.lab.client_addr_n(family, 1 + n);
            for ((client, replica), stream) in site.ask_by_all(from, &chat)? {
                assert_eq!(client, from);
                homes.entry(chat.clone()).or_default().insert(replica);
                open.push(stream);
            }
        }
    }
    assert!(homes.values().all(|replicas| replicas.len() == 1), "{homes:?}");
    assert!(homes.values().flatten().collect::<BTreeSet<_>>().len() > 1, "{homes:?}");
    let chats = site.roost.json(&["chats"])?;
    let flows: Vec<_> =
        chats.as_array().into_iter().flatten().map(|c| c["flows"].clone()).collect();
    assert_eq!(flows, vec![8; 12], "{chats}");
    Ok(())
}

#[test]
fn the_client_is_who_the_proxy_says_it_is() -> Result<()> {
    let site = Site::start("haproxy-client", CLIENT_PORT)?;
    let mut open = Vec::new();
    let mut homes: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for n in 0..8 {
        for family in Family::BOTH {
            let from = site.lab.client_addr_n(family, 1 + n);
            for ((client, replica), stream) in site.ask_by_all(from, "any")? {
                assert_eq!(client, from);
                homes.entry(from).or_default().insert(replica);
                open.push(stream);
            }
        }
    }
    assert!(homes.values().all(|replicas| replicas.len() == 1), "{homes:?}");
    assert!(homes.values().flatten().collect::<BTreeSet<_>>().len() > 1, "{homes:?}");
    let chats = site.roost.json(&["chats"])?;
    // Whoever asked whether HAProxy is there has left.
    let live = chats.as_array().into_iter().flatten().filter(|chat| chat["flows"] != 0);
    let keys: BTreeSet<_> = live.filter_map(|chat| chat["key"].as_str()).collect();
    let clients: BTreeSet<_> = homes.keys().map(IpAddr::to_string).collect();
    assert_eq!(keys, clients.iter().map(String::as_str).collect(), "{chats}");
    Ok(())
}
