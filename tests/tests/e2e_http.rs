//! Plain HTTP beside WebSockets on one VIP: the page, and requests over connections that are kept.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use roost_chat::client::{Tab, Upgrade};
use roost_chat::tls::ClientTls;
use roost_programs::CURL;
use roost_tests::lab::{
    Authority, Config, Family, HTTPS_PORT, Lab, Nginx, Site, Upstream, run_in, until_homes,
};
use roost_tests::peers;
use serde_json::Value;

const SECONDS: Duration = Duration::from_secs(60);

/// Requests over one connection of Python's http.client, see tests/peers/rest.py.
fn requests(site: &Site, family: Family, requests: &[&str]) -> Result<Vec<Value>> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let (host, port) = (site.lab.vip(family).to_string(), site.vip(family).port().to_string());
    let mut command = site.lab.client.enter(peers::command(root, "rest.py")?);
    command.args(["--address", &host, &port]).args(requests);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{requests:?}: {}: {said}", output.status);
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    ensure!(answers.len() == requests.len(), "{answers:?}");
    // One connection for all, or the test is of something else.
    ensure!(answers.iter().all(|answer| answer["port"] == answers[0]["port"]), "{answers:?}");
    Ok(answers)
}

#[test]
fn the_page_and_requests_over_one_connection_go_to_the_chat() -> Result<()> {
    let site = Site::home("rest")?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        for n in 0..6 {
            let chat = format!("rest-{n}");
            let mut tab = clients.tab(site.vip(family), &chat)?;
            let paths = [
                format!("GET /?chat={chat}"),
                format!("GET /whoami?chat={chat}"),
                format!("POST /say?chat={chat} by POST"),
                format!("GET /chats?chat={chat}"),
            ];
            let answers = requests(&site, family, &paths.each_ref().map(String::as_str))?;
            for answer in &answers {
                assert_eq!(answer["status"], 200);
                assert_eq!(answer["replica"], tab.replica(), "{chat}: {answers:?}");
            }
            assert!(answers[0]["body"].as_str().context("a page")?.starts_with("<!doctype html>"));
            let said: Value = serde_json::from_str(answers[2]["body"].as_str().context("text")?)?;
            assert_eq!((&said["chat"], &said["reached"]), (&chat.as_str().into(), &1.into()));
            assert!(clients.run(tab.hears("by POST", SECONDS))?);
        }
    }
    Ok(())
}

#[test]
fn curl_keeps_its_connection_and_the_first_request_binds_it() -> Result<()> {
    let site = with_reuse("curl", "stay")?;
    let vip = site.vip(Family::V4);
    let bound = nine_chats(&site)?;
    ensure!(bound.len() == 9 && bound[0].0 == "1", "{bound:?}");
    ensure!(bound[1..].iter().all(|(connects, _)| *connects == "0"), "{bound:?}");
    // Nine chats: all that the first connection has asked for went to the home of the first chat.
    ensure!(bound.iter().all(|(_, replica)| *replica == bound[0].1), "{bound:?}");

    // With a connection for each, every chat is at its home, and they are not all at one.
    until_homes(2, |n| {
        let url = format!("http://{vip}/whoami?chat=bound-{n}");
        let words = ["-sS", "--max-time", "60", "-o", "/dev/null", "-w", "%header{roost-replica}"];
        run_in(&site.lab.client, CURL, &[&words[..], &[&url]].concat())
    })
}

/// Tabs of chats, of which the first two live on two replicas.
fn two_homes(site: &Site, family: Family) -> Result<Vec<Tab>> {
    let clients = site.clients()?;
    let open = |n| clients.tab(site.vip(family), &format!("{family}-{n}"));
    let mut tabs = vec![open(0)?];
    for n in 1..30 {
        let tab = open(n)?;
        if tab.replica() != tabs[0].replica() {
            tabs.push(tab);
            return Ok(tabs);
        }
    }
    bail!("30 chats, and all on {}", tabs[0].replica())
}

#[test]
fn an_upgrade_for_a_chat_elsewhere_on_a_kept_connection_is_counted() -> Result<()> {
    let site = with_reuse("reused", "stay")?;
    let violations = || site.counter("affinity_violation");
    for family in Family::BOTH {
        let tabs = two_homes(&site, family)?;
        let [own, other] = [&tabs[0].hello().chat, &tabs[1].hello().chat];
        let (ask_own, ask_other) =
            (format!("GET /whoami?chat={own}"), format!("GET /whoami?chat={other}"));
        let (open_own, open_other) =
            (format!("UPGRADE /ws?chat={own}"), format!("UPGRADE /ws?chat={other}"));
        let before = violations()?;
        // Its own chat, a plain request for another, and an upgrade that comes first: all well.
        for well in [
            vec![ask_own.as_str(), &open_own],
            vec![&ask_own, &ask_other, &ask_own],
            vec![&open_other],
        ] {
            requests(&site, family, &well)?;
            assert_eq!(violations()?, before, "{family}: {well:?}");
        }
        let answers = requests(&site, family, &[&ask_own, &ask_other, &open_other])?;
        assert_eq!(answers[2]["status"], 101);
        assert_eq!(answers[2]["replica"], tabs[0].replica(), "it is bound: {answers:?}");
        assert_eq!(violations()?, before + 1, "{family}");
    }
    Ok(())
}

/// What curl finds at nine chats, one request after the other: connections that it made, and who has answered.
fn nine_chats(site: &Site) -> Result<Vec<(String, String)>> {
    let url = format!("http://{}/whoami?chat=bound-[1-9]", site.vip(Family::V4));
    let form = "%{num_connects} %header{roost-replica}\\n";
    let words = ["-sS", "--max-time", "60", "-o", "/dev/null", "-w", form, &url];
    let said = run_in(&site.lab.client, CURL, &words)?;
    let pairs = said.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(connects, replica)| (connects.to_owned(), replica.to_owned())).collect())
}

/// One connection, and a request for each chat in turn: each is executed once, where its chat is.
#[test]
fn requests_on_one_connection_go_to_their_own_chats() -> Result<()> {
    const CHATS: usize = 20;
    let site = Site::home("rebind")?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let mut tabs = Vec::new();
        for n in 0..CHATS {
            tabs.push(clients.tab(site.vip(family), &format!("{family}-{n}"))?);
        }
        let mut paths = Vec::new();
        for tab in &tabs {
            let chat = &tab.hello().chat;
            paths.push(format!("GET /whoami?chat={chat}"));
            paths.push(format!("POST /say?chat={chat} to {chat}"));
            paths.push("GET /".to_owned());
        }
        let again = site.counter("rebound_request")?;
        let answers =
            requests(&site, family, &paths.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut moves = 0;
        for (n, own) in answers.chunks(3).enumerate() {
            moves += u64::from(n > 0 && tabs[n].replica() != tabs[n - 1].replica());
            for answer in own {
                assert_eq!(answer["status"], 200);
                // What names no chat is answered where the connection is.
                assert_eq!(answer["replica"], tabs[n].replica(), "{answers:?}");
            }
            let said: Value = serde_json::from_str(own[1]["body"].as_str().context("text")?)?;
            assert_eq!(said["reached"], 1);
        }
        // Each tab hears what was said to its chat, once.
        for (n, tab) in tabs.iter_mut().enumerate() {
            let chat = format!("{family}-{n}");
            requests(&site, family, &[&format!("POST /say?chat={chat} and no more")])?;
            for expected in [&*format!("to {chat}"), "and no more"] {
                let heard = clients.run(tab.next_message(SECONDS))?.context("a message")?;
                assert_eq!(heard.text, expected, "{chat}");
            }
        }
        ensure!(moves > CHATS as u64 / 3, "{moves} moves of {CHATS}");
        assert_eq!(site.counter("rebound_request")? - again, moves, "{}", site.diagnosis());
    }
    assert_eq!(site.counter("affinity_violation")?, 0);
    Ok(())
}

/// A site with this `on_reuse`.
fn with_reuse(name: &str, on_reuse: &str) -> Result<Site> {
    Site::start(Lab::builder(name), |lab| {
        Config::new(lab).with(&format!("on_reuse = {on_reuse:?}"))
    })
}

#[test]
fn curl_asks_again_on_a_connection_of_its_own() -> Result<()> {
    let site = with_reuse("curl-reset", "reset")?;
    let found = nine_chats(&site)?;
    ensure!(found.len() == 9, "{found:?}");
    // One ended for each chat but the first; curl tells of none of them.
    assert_eq!(site.counter("ended_reuse")?, 8, "{found:?}\n{}", site.diagnosis());
    for (n, (connects, replica)) in (1..).zip(&found) {
        assert_eq!(connects, "1", "{found:?}");
        let url = format!("http://{}/whoami?chat=bound-{n}", site.vip(Family::V4));
        let words = ["-sS", "--max-time", "60", "-o", "/dev/null", "-w", "%header{roost-replica}"];
        let own = run_in(&site.lab.client, CURL, &[&words[..], &[&url]].concat())?;
        assert_eq!(*replica, own, "bound-{n}: {found:?}");
    }
    assert_eq!(site.counter("affinity_violation")?, 0);
    Ok(())
}

#[test]
fn requests_of_one_chat_are_not_reset() -> Result<()> {
    let site = with_reuse("own-reset", "reset")?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let chat = format!("own-{family}");
        let mut tab = clients.tab(site.vip(family), &chat)?;
        let paths = [
            format!("GET /?chat={chat}"),
            format!("POST /say?chat={chat} by POST"),
            "GET /".to_owned(),
            format!("UPGRADE /ws?chat={chat}"),
        ];
        let answers = requests(&site, family, &paths.each_ref().map(String::as_str))?;
        for answer in &answers {
            assert_eq!(answer["replica"], tab.replica(), "{answers:?}");
        }
        assert_eq!(answers[3]["status"], 101);
        assert!(clients.run(tab.hears("by POST", SECONDS))?);
    }
    assert_eq!(site.counter("ended_reuse")?, 0);
    Ok(())
}

/// The mistake that the counter is there for: a proxy that keeps its connections to the VIP, and
/// sends by them whatever comes next.
#[test]
fn nginx_that_uses_connections_again_is_seen() -> Result<()> {
    let (own, got, site) = through_nginx(with_reuse("nginx-reuse", "stay")?)?;
    assert_eq!(got, own[0], "nginx took another connection");
    assert_eq!(site.counter("affinity_violation")?, 1);
    Ok(())
}

/// It asks again on another connection then, and its clients do not notice.
#[test]
fn nginx_that_uses_connections_again_gets_to_each_chat() -> Result<()> {
    let (own, got, site) = through_nginx(with_reuse("nginx-reset", "reset")?)?;
    assert_eq!(got, own[1], "{}", site.diagnosis());
    assert_eq!(site.counter("ended_reuse")?, 1);
    assert_eq!(site.counter("affinity_violation")?, 0);
    Ok(())
}

/// Through an nginx that keeps its connections: a request for a chat, and a tab for another one. The replicas of the two,
/// and that of the tab.
fn through_nginx(site: Site) -> Result<([String; 2], String, Site)> {
    let tabs = two_homes(&site, Family::V4)?;
    let authority = Authority::new(&site.lab)?;
    let certificate = authority.certify("nginx", &["chat.test"])?;
    let vip = site.vip(Family::V4);
    let nginx = Nginx::start(&site.lab, &certificate, vip, Upstream::Reused)?;
    let at = SocketAddr::new(site.lab.client_addr(Family::V4), HTTPS_PORT);
    let ca = authority.file().to_str().context("the authority's path is not UTF-8")?;
    let resolve = format!("chat.test:443:{}", at.ip());
    let url = format!("https://chat.test/whoami?chat={}", tabs[0].hello().chat);
    let words = ["-sS", "--max-time", "60", "--cacert", ca, "--resolve", &resolve, &url];
    let answer: Value = serde_json::from_str(&run_in(&site.lab.client, CURL, &words)?)?;
    assert_eq!(answer["replica"], tabs[0].replica());
    assert_eq!(site.counter("affinity_violation")?, 0);

    let tls = ClientTls::read(authority.file())?;
    let upgrade = Upgrade::chat("chat.test", &tabs[1].hello().chat).tls(Some(tls));
    let stream = site.lab.client.connect(at)?;
    let lost = site.clients()?.run(Tab::upgrade(stream, &upgrade))?;
    let own = [0, 1].map(|n: usize| tabs[n].replica().to_owned());
    let got = lost.replica().to_owned();
    drop((tabs, lost, nginx));
    Ok((own, got, site))
}
