//! The server and the Rust client over loopback.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use roost_chat::client::{Http, Tab, Upgrade, load};
use roost_chat::pattern;
use roost_chat::protocol::ChatCount;
use roost_chat::server::{Config, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything takes, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(100);

/// A server on loopback, IPv4 and IPv6. It ends with the runtime of its test at the latest.
struct Running {
    v4: SocketAddr,
    v6: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<()>>,
}

impl Running {
    fn start(name: &str) -> Result<Self> {
        let any = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
        let server = Server::bind(&Config::new(name, any))?;
        let &[v4, v6] = server.addresses() else { unreachable!("two were asked for") };
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server.run(async { drop(stopped.await) }));
        Ok(Self { v4, v6, stop, server })
    }

    async fn tab(&self, chat: &str) -> Result<Tab> {
        Tab::open(self.v4, "chat.test", chat, None).await
    }

    async fn http(&self) -> Result<Http> {
        Http::open(self.v4, "chat.test", None).await
    }

    async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        self.server.await?
    }
}

#[tokio::test]
async fn a_message_reaches_all_tabs_of_its_chat_and_no_other() -> Result<()> {
    let server = Running::start("replica-1")?;
    let mut first = server.tab("42").await?;
    let mut second = Tab::open(server.v6, "chat.test", "42", None).await?;
    let mut other = server.tab("43").await?;

    assert_eq!(first.replica(), "replica-1");
    assert_eq!(first.hello().peer, first.local_addr());
    assert_eq!(second.hello().peer, second.local_addr());
    assert_eq!((first.hello().connections, second.hello().connections), (1, 2));

    first.say("good \"morning\" ü").await?;
    for tab in [&mut first, &mut second] {
        let message = tab.next_message(LIMIT).await?.expect("the message");
        assert_eq!(message.text, "good \"morning\" ü");
        assert_eq!((message.chat.as_str(), message.replica.as_str()), ("42", "replica-1"));
        assert_eq!(message.from.ip(), Ipv4Addr::LOCALHOST);
    }
    assert_eq!(other.next_message(QUIET).await?, None);
    Ok(())
}

#[tokio::test]
async fn replicas_know_nothing_of_each_other() -> Result<()> {
    let (one, two) = (Running::start("replica-1")?, Running::start("replica-2")?);
    let (mut here, mut there) = (one.tab("42").await?, two.tab("42").await?);
    here.say("anybody?").await?;
    assert!(here.hears("anybody?", LIMIT).await?);
    assert!(!there.hears("anybody?", QUIET).await?);
    Ok(())
}

#[tokio::test]
async fn connections_are_counted_until_they_end_in_any_way() -> Result<()> {
    let server = Running::start("replica-1")?;
    let mut http = server.http().await?;
    let (a, b, c) = (server.tab("b/ü?&=").await?, server.tab("a").await?, server.tab("a").await?);
    assert_eq!(a.hello().chat, "b/ü?&=");
    let count = |chat: &str, connections| ChatCount { chat: chat.to_owned(), connections };
    assert_eq!(http.chats().await?, [count("a", 2), count("b/ü?&=", 1)]);
    a.close().await?;
    b.abort()?;
    drop(c);
    for _ in 0..3000 {
        if http.chats().await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still there: {:?}", http.chats().await?);
}

#[tokio::test]
async fn a_stream_of_the_caller_is_taken_as_it_is() -> Result<()> {
    let server = Running::start("replica-1")?;
    let stream = TcpStream::connect(server.v4)?;
    let local = stream.local_addr()?;
    let tab = Tab::from_stream(stream, "chat.test", "1").await?;
    assert_eq!((tab.hello().peer, tab.local_addr()), (local, local));

    let mut http =
        Http::from_stream(TcpStream::connect(server.v6)?, "chat.test").await?.in_chat("1");
    let who = http.whoami().await?;
    assert_eq!((who.replica.as_str(), who.peer.ip()), ("replica-1", Ipv6Addr::LOCALHOST.into()));
    Ok(())
}

#[tokio::test]
async fn a_tab_can_be_bound_and_can_send_headers() -> Result<()> {
    let server = Running::start("replica-1")?;
    let bind = "127.0.0.2:0".parse()?;
    let tab = Tab::open(server.v4, "chat.test", "1", Some(bind)).await?;
    assert_eq!(tab.hello().peer.ip(), Ipv4Addr::new(127, 0, 0, 2));
    let stream = TcpStream::connect(server.v4)?;
    let request = Upgrade::path("chat.test", "/ws?x=1&chat=a+b").header("cookie", "c".repeat(3000));
    assert_eq!(Tab::upgrade(stream, &request).await?.hello().chat, "a b");
    Ok(())
}

#[tokio::test]
async fn an_ipv4_client_of_a_dual_stack_server_is_seen_as_ipv4() -> Result<()> {
    let server = Server::bind(&Config::new("replica-1", ["[::]:0".parse()?]))?;
    let port = server.addresses()[0].port();
    let server = tokio::spawn(server.run(std::future::pending()));
    for ip in ["127.0.0.1", "::1"] {
        let tab = Tab::open(SocketAddr::new(ip.parse()?, port), "chat.test", "1", None).await?;
        assert_eq!(tab.hello().peer, tab.local_addr());
    }
    server.abort();
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_said() -> Result<()> {
    let server = Running::start("replica-1")?;
    let open = async |path: &str| {
        let stream = TcpStream::connect(server.v4)?;
        Tab::upgrade(stream, &Upgrade::path("chat.test", path)).await
    };
    for path in ["/ws", "/ws?chat=", "/ws?chats=1"] {
        let error = format!("{:#}", open(path).await.unwrap_err());
        assert!(error.contains("400") && error.contains("open /ws?chat=<id>"), "{path}: {error}");
    }
    let long = format!("/ws?chat={}", "x".repeat(257));
    assert!(format!("{:#}", open(&long).await.unwrap_err()).contains("257 bytes: at most 256"));

    let mut tab = open("/ws?chat=1").await?;
    let error = answer_to_garbage(server.v4).await?;
    assert!(error.contains(r#"expected {\"type\":\"say\""#), "{error}");
    tab.say("still there").await?;
    assert!(tab.hears("still there", LIMIT).await?);
    Ok(())
}

/// Sends a text frame that is not of the protocol, by hand, and gives the answer.
async fn answer_to_garbage(address: SocketAddr) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let head = "GET /ws?chat=2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    // FIN, text, masked with zeros, 2 bytes: hi.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await?;
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    while !answer.contains("expected") {
        let n = stream.read(&mut buffer).await?;
        anyhow::ensure!(n > 0, "ended after {answer:?}");
        answer.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    Ok(answer)
}

#[tokio::test]
async fn transfers_arrive_whole() -> Result<()> {
    let server = Running::start("replica-1")?;
    let mut http = server.http().await?;
    for length in [0, 1, 1_000_003, 8 << 20] {
        let down = http.download(length, 7).await?;
        let up = http.upload(length, 7).await?;
        assert_eq!((down.bytes, up.bytes), (length, length));
        assert_eq!(down.sha256, pattern::sha256(7, length));
        assert_eq!(down.sha256, up.sha256);
        assert_eq!(down.replica, "replica-1");
    }
    Ok(())
}

#[tokio::test]
async fn a_ping_does_not_eat_messages() -> Result<()> {
    let server = Running::start("replica-1")?;
    let (mut a, mut b) = (server.tab("1").await?, server.tab("1").await?);
    a.say("one").await?;
    a.say("two").await?;
    assert!(a.hears("two", LIMIT).await?);
    b.ping(LIMIT).await?;
    for text in ["one", "two"] {
        assert_eq!(b.next_message(LIMIT).await?.expect("a message").text, text);
    }
    Ok(())
}

#[tokio::test]
async fn the_end_of_the_server_closes_tabs_properly() -> Result<()> {
    let server = Running::start("replica-1")?;
    let mut tab = server.tab("1").await?;
    let heard = tokio::spawn(async move { tab.next_message(LIMIT).await });
    tokio::time::timeout(Duration::from_secs(4), server.stop()).await??;
    let error = format!("{:#}", heard.await?.unwrap_err());
    assert!(error.contains("closed with 1001"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_load_is_held_and_reported() -> Result<()> {
    roost_chat::listen::raise_file_limit();
    let server = Running::start("replica-1")?;
    let mut load = load::open(&load::Plan::new(server.v4, 50, 400)).await;
    load.say(LIMIT).await;
    let opened = load.opened();
    assert_eq!((opened.opened, opened.failed, opened.whole), (400, 0, 50), "{:?}", opened.errors);
    assert_eq!(opened.reached, Some(400));
    assert_eq!(opened.chats["load-49"]["replica-1"], 8);
    let ended = load.hold(Some(QUIET), tokio::time::sleep(20 * QUIET)).await;
    assert_eq!((ended.held, ended.lost), (400, 0), "{:?}", ended.errors);
    assert!(ended.pings >= 400, "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn a_lost_tab_is_counted() -> Result<()> {
    let server = Running::start("replica-1")?;
    let load = load::open(&load::Plan::new(server.v4, 2, 6)).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let held = tokio::spawn(load.hold(None, async { drop(stopped.await) }));
    server.stop().await?;
    tokio::time::sleep(10 * QUIET).await;
    drop(stop);
    let ended = held.await?;
    assert_eq!((ended.held, ended.lost), (0, 6));
    assert!(ended.errors[0].contains("1001"), "{:?}", ended.errors);
    Ok(())
}

#[tokio::test]
async fn the_page_has_the_name_of_the_parameter() -> Result<()> {
    let mut config = Config::new("replica-1", ["127.0.0.1:0".parse()?]);
    config.query = "room</script>".to_owned();
    let server = Server::bind(&config)?;
    let address = server.addresses()[0];
    let server = tokio::spawn(server.run(std::future::pending()));
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    assert!(page.contains("roost-replica: replica-1"), "{page}");
    assert!(page.contains(r#"const query = "room\u003c/script>";"#), "{page}");
    server.abort();
    Ok(())
}

#[tokio::test]
async fn a_message_can_be_posted() -> Result<()> {
    let server = Running::start("replica-1")?;
    let (mut a, mut b) = (server.tab("a b").await?, server.tab("a b").await?);
    let mut http = server.http().await?.in_chat("a b");
    let said = http.say("by POST").await?;
    assert_eq!((said.replica.as_str(), said.chat.as_str(), said.reached), ("replica-1", "a b", 2));
    for tab in [&mut a, &mut b] {
        let message = tab.next_message(LIMIT).await?.expect("a message");
        assert_eq!((message.text.as_str(), message.name), ("by POST", None));
    }
    // Over the same connection.
    assert_eq!(http.chats().await?[0].connections, 2);
    let error = format!("{:#}", server.http().await?.say("nowhere").await.unwrap_err());
    assert!(error.contains("400"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_name_is_in_what_its_owner_says() -> Result<()> {
    let server = Running::start("replica-1")?;
    let (mut a, mut b) = (server.tab("1").await?, server.tab("1").await?);
    a.enter("Ada").await?;
    a.say("hello").await?;
    b.say("hello too").await?;
    for (text, name) in [("hello", Some("Ada")), ("hello too", None)] {
        let message = b.next_message(LIMIT).await?.expect("a message");
        assert_eq!((message.text.as_str(), message.name.as_deref()), (text, name));
    }
    Ok(())
}

#[tokio::test]
async fn a_probe_is_greeted_and_does_not_join() -> Result<()> {
    let server = Running::start("replica-1")?;
    let mut tab = server.tab("1").await?;
    let stream = TcpStream::connect(server.v4)?;
    let probe = Upgrade::path("chat.test", "/ws?chat=1&probe=1");
    let mut probe = Tab::upgrade(stream, &probe).await?;
    assert_eq!((probe.replica(), probe.hello().connections), ("replica-1", 1));
    tab.say("for those who are here").await?;
    let error = format!("{:#}", probe.next_message(LIMIT).await.unwrap_err());
    assert!(error.contains("closed with 1000"), "{error}");
    assert_eq!(server.http().await?.chats().await?[0].connections, 1);
    Ok(())
}
