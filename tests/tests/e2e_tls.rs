//! TLS that the replicas end: a chat is known by the server name of the ClientHello.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_chat::client::{Tab, Upgrade};
use roost_chat::tls::ClientTls;
use roost_programs::CURL;
use roost_tests::browser::{Kind, Launch, talk};
use roost_tests::lab::{
    Authority, ChatServer, Clients, Config, Family, HTTPS_PORT, Lab, REPLICA_PORT, Roost, Site,
    heavy, run_in, until_homes,
};
use roost_tests::peers;
use serde_json::Value;

const SECONDS: Duration = Duration::from_secs(60);

/// A site whose replicas end TLS for `*.chat.test`, and which goes by the first label of the name.
fn site(name: &str) -> Result<(Site, Authority)> {
    let lab = Lab::new(name)?;
    let authority = Authority::new(&lab)?;
    let tls = authority.certify("replicas", &["*.chat.test"])?;
    let servers = ChatServer::start_all_tls(&lab, REPLICA_PORT, &tls)?;
    let config = Config::new(&lab).key("sni:label.chat.test").port(HTTPS_PORT);
    let roost = Roost::start(&lab, &config.to_string())?;
    Ok((Site { roost, servers, lab }, authority))
}

/// Fails if a connection was bound without a key: it may have been lucky.
fn no_key_was_missing(site: &Site) -> Result<()> {
    let missing = site.counter("missing_key")?;
    ensure!(missing == 0, "{missing} connections without a key: {}", site.diagnosis());
    Ok(())
}

fn open(
    clients: &Clients,
    site: &Site,
    family: Family,
    tls: &ClientTls,
    chat: &str,
) -> Result<Tab> {
    let vip = (site.lab.vip(family), HTTPS_PORT).into();
    let stream = site.lab.client.connect(vip)?;
    let request = Upgrade::chat(format!("{chat}.chat.test"), chat).tls(Some(tls.clone()));
    clients.run(Tab::upgrade(stream, &request))
}

#[test]
fn tabs_of_a_server_name_meet() -> Result<()> {
    let (site, authority) = site("tls")?;
    let clients = site.clients()?;
    let tls = ClientTls::read(authority.file())?;
    for family in Family::BOTH {
        for n in 0..8 {
            // A host's name is the same however it is written.
            let written = [format!("room-{n}"), format!("ROOM-{n}"), format!("Room-{n}")];
            let mut tabs = Vec::new();
            for name in &written {
                let vip = (site.lab.vip(family), HTTPS_PORT).into();
                let stream = site.lab.client.connect(vip)?;
                let request =
                    Upgrade::chat(format!("{name}.chat.test"), "all").tls(Some(tls.clone()));
                tabs.push(clients.run(Tab::upgrade(stream, &request))?);
            }
            ensure!(tabs.iter().all(|tab| tab.replica() == tabs[0].replica()), "{written:?}");
            clients.run(tabs[0].say("hello"))?;
            ensure!(clients.run(tabs[2].hears("hello", SECONDS))?);
            let chats = site.live_chats()?;
            ensure!(chats.iter().any(|chat| chat["key"] == written[0]), "{chats:?}");
            for tab in tabs {
                clients.run(tab.close())?;
            }
        }
    }
    until_homes(3, |n| {
        let tab = open(&clients, &site, Family::V4, &tls, &format!("more-{n}"))?;
        let home = tab.replica().to_owned();
        clients.run(tab.close())?;
        Ok(home)
    })?;
    no_key_was_missing(&site)?;

    // Elsewhere than under the suffix there is no key.
    let stream = site.lab.client.connect((site.lab.vip(Family::V4), HTTPS_PORT).into())?;
    let other = Upgrade::chat("room.other.test", "all").tls(Some(tls.clone()));
    let error = format!("{:#}", clients.run(Tab::upgrade(stream, &other)).unwrap_err());
    ensure!(error.contains("not valid for name"), "{error}");
    assert!(site.counter("missing_key")? > 0);
    let long = open(&clients, &site, Family::V4, &tls, &"x".repeat(63))?;
    clients.run(long.close())
}

#[test]
fn clients_of_others_are_known_by_their_server_names() -> Result<()> {
    let (site, authority) = site("tls-peers")?;
    let ca = authority.file().to_str().context("the authority's path is not UTF-8")?;
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for family in Family::BOTH {
        let vip = site.lab.vip(family).to_string();
        let hosts = site.lab.dir().join("hosts");
        for (n, file) in peers::CLIENTS.iter().enumerate() {
            for chat in [format!("one-{n}"), format!("two-{n}")] {
                let url = format!("wss://{chat}.chat.test/ws?chat={chat}");
                let mut client = site.lab.client.enter(peers::command(root, file)?);
                if file.ends_with(".java") {
                    fs::write(&hosts, format!("{vip} {chat}.chat.test\n"))?;
                    let names = format!("-Djdk.net.hosts.file={}", hosts.display());
                    client.env("JDK_JAVA_OPTIONS", names);
                }
                client.args(["--url", &url, "--tabs", "6", "--limit", "60", "--ca", ca]);
                if !file.ends_with(".java") {
                    client.args(["--address", &vip]);
                }
                let output = client.output()?;
                let said = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{file} with {url}: {}: {said}", output.status);
                let report: Value = serde_json::from_slice(&output.stdout)?;
                let on = report["replicas"].as_array().context("no replicas")?;
                ensure!(on.len() == 6 && on.iter().all(|one| *one == on[0]), "{file}: {report}");
            }
        }
        let vip = if family == Family::V6 { format!("[{vip}]") } else { vip };
        let resolve = format!("curl.chat.test:{HTTPS_PORT}:{vip}");
        let url = "https://curl.chat.test/whoami";
        let words = ["-sS", "--max-time", "60", "--cacert", ca, "--resolve", &resolve, url];
        let ask = || -> Result<Value> {
            Ok(serde_json::from_str(&run_in(&site.lab.client, CURL, &words)?)?)
        };
        let first = ask()?;
        for _ in 0..5 {
            ensure!(ask()?["replica"] == first["replica"], "curl, {family}");
        }
    }
    no_key_was_missing(&site)
}

/// A tab's URL names its chat twice: for Roost in the host, for the application in the query.
fn address(chat: &str) -> String {
    format!("https://{chat}.chat.test/?chat={chat}")
}

#[test]
fn three_tabs_of_chromium_meet_under_tls() -> Result<()> {
    let _heavy = heavy()?;
    let (site, authority) = site("tls-chromium")?;
    for family in Family::BOTH {
        let browser = Launch::new(Kind::Chromium)
            .name("*.chat.test", site.lab.vip(family))
            .authority(authority.file().to_owned())
            .start(&site.lab)?;
        let prefix = if family == Family::V4 { "four" } else { "six" };
        browser.check_chats(prefix, address)?;
        if family == Family::V4 {
            let tabs = browser.three_tabs(&address("lobby"))?;
            talk(&tabs, 0, "Can everybody see this, under TLS?")?;
            tabs[2].screenshot("chat-wss")?;
        }
    }
    // Its ClientHellos are of two segments, in an order of its own: a key was found in every one.
    ensure!(site.counter("head_kept")? > 0, "no head of several segments: {}", site.diagnosis());
    no_key_was_missing(&site)
}

#[test]
fn three_tabs_of_firefox_meet_under_tls() -> Result<()> {
    let _heavy = heavy()?;
    let (site, authority) = site("tls-firefox")?;
    let browser = Launch::new(Kind::Firefox)
        .name("*.chat.test", site.lab.vip(Family::V4))
        .authority(authority.file().to_owned())
        .start(&site.lab)?;
    // Its own connections, to names of its maker, are sent to the VIP as well and have no key: the
    // counter says nothing here.
    browser.check_chats("fox", address)
}
