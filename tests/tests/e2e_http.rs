//! Plain HTTP beside WebSockets on one VIP: the page, and requests over connections that are kept.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use roost_chat::client::{Tab, Upgrade};
use roost_chat::tls::ClientTls;
use roost_programs::CURL;
use roost_tests::lab::{Authority, Family, HTTPS_PORT, Nginx, Site, Upstream, run_in, until_homes};
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
    let site = Site::home("curl")?;
    let vip = site.vip(Family::V4);
    let url = format!("http://{vip}/whoami?chat=bound-[1-9]");
    let form = "%{num_connects} %header{roost-replica}\\n";
    let words = ["-sS", "--max-time", "60", "-o", "/dev/null", "-w", form];
    let bound = run_in(&site.lab.client, CURL, &[&words[..], &[&url]].concat())?;
    let bound: Vec<_> = bound.lines().filter_map(|line| line.split_once(' ')).collect();
    ensure!(bound.len() == 9 && bound[0].0 == "1", "{bound:?}");
    ensure!(bound[1..].iter().all(|(connects, _)| *connects == "0"), "{bound:?}");
    // Nine chats: all that the first connection has asked for went to the home of the first chat.
    ensure!(bound.iter().all(|(_, replica)| *replica == bound[0].1), "{bound:?}");

    // With a connection for each, every chat is at its home, and they are not all at one.
    until_homes(2, |n| {
        let url = format!("http://{vip}/whoami?chat=bound-{n}");
        let own = run_in(&site.lab.client, CURL, &[&words[..], &[&url]].concat())?;
        Ok(own.trim().to_owned())
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
    let site = Site::home("reused")?;
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

/// The mistake that the counter is there for: a proxy that keeps its connections to the VIP, and
/// sends by them whatever comes next.
#[test]
fn nginx_that_uses_connections_again_is_seen() -> Result<()> {
    let site = Site::home("nginx-reuse")?;
    let tabs = two_homes(&site, Family::V4)?;
    let authority = Authority::new(&site.lab)?;
    let certificate = authority.certify("nginx", &["chat.test"])?;
    let vip = site.vip(Family::V4);
    let _nginx = Nginx::start(&site.lab, &certificate, vip, Upstream::Reused)?;
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
    assert_eq!(lost.replica(), tabs[0].replica(), "nginx took another connection");
    assert_eq!(site.counter("affinity_violation")?, 1);
    Ok(())
}
