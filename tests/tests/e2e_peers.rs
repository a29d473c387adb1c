//! WebSocket libraries of other people as clients and as servers, through Roost; and nginx between
//! them, which ends TLS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_programs::CURL;
use roost_tests::browser::{Kind, Launch};
use roost_tests::lab::{
    Authority, ChatServer, Config, Family, Lab, Netns, Nginx, Process, REPLICA_PORT, Roost, Site,
    Upstream, heavy, run_in,
};
use roost_tests::peers;
use serde_json::Value;

/// Three replicas, six tabs each: that one chat is whole by luck is one in 243.
const TABS: usize = 6;

/// The command that runs a file of tests/peers in a namespace.
fn peer(ns: &Netns, file: &str) -> Result<Command> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    Ok(ns.enter(peers::command(root, file)?))
}

/// A server of another library on each replica.
fn servers(lab: &Lab, script: &str) -> Result<Vec<Process>> {
    let start = |site: &roost_tests::lab::ReplicaSite| {
        let mut command = peer(&site.ns, script)?;
        for any in ["0.0.0.0", "::"] {
            command.args(["--listen", any, &REPLICA_PORT.to_string()]);
        }
        let server = Process::spawn(script, command.args(["--name", &site.name]))?;
        // The last one of the two.
        server.wait_line(Duration::from_secs(60), &format!("[::]:{REPLICA_PORT}"))?;
        Ok(server)
    };
    lab.replicas.iter().map(start).collect()
}

/// Lets a client of another library open a chat; its own verdict and the replicas are checked.
fn check_client(lab: &Lab, file: &str, url: &str, more: &[&str]) -> Result<()> {
    let mut command = peer(&lab.client, file)?;
    command.args(["--url", url, "--tabs", &TABS.to_string(), "--say", "grüß euch"]);
    let output = command.args(["--limit", "60"]).args(more).output().context(file.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{file} with {url}: {}: {said}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let replicas = report["replicas"].as_array().context("no replicas")?;
    ensure!(replicas.len() == TABS && replicas.iter().all(|on| *on == replicas[0]), "{report}");
    Ok(())
}

fn check(site: &Site) -> Result<()> {
    for family in Family::BOTH {
        let vip = site.vip(family);
        for file in peers::CLIENTS {
            for chat in ["one", "two"] {
                check_client(&site.lab, file, &format!("ws://{vip}/ws?chat={file}-{chat}"), &[])?;
            }
        }
        let clients = site.clients()?;
        let mut tabs = (0..3).map(|_| clients.tab(vip, "rust")).collect::<Result<Vec<_>>>()?;
        clients.run(tabs[0].say("hello"))?;
        for tab in &mut tabs {
            ensure!(clients.run(tab.hears("hello", Duration::from_secs(60)))?, "{family}: unheard");
        }
    }
    Ok(())
}

#[test]
fn clients_of_others_with_our_server() -> Result<()> {
    check(&Site::home("peers-rust")?)
}

#[test]
fn servers_of_others() -> Result<()> {
    for script in peers::SERVERS {
        let lab = Lab::new(&script.replace(['.', '_'], "-"))?;
        let _servers = servers(&lab, script)?;
        let roost = Roost::start(&lab, &Config::new(&lab).to_string())?;
        check(&Site { roost, servers: Vec::<ChatServer>::new(), lab }).context(script)?;
    }
    Ok(())
}

#[test]
fn nginx_ends_tls_in_front_of_the_vip() -> Result<()> {
    let _heavy = heavy()?;
    let site = Site::home("nginx")?;
    let (lab, vip) = (&site.lab, site.vip(Family::V4));
    let authority = Authority::new(lab)?;
    let tls = authority.certify("nginx", &["chat.test"])?;
    let _nginx = Nginx::start(lab, &tls, vip, Upstream::OneRequest)?;
    let ca = authority.file().to_str().context("the authority's path is not UTF-8")?;
    let address = lab.client_addr(Family::V4).to_string();
    for file in peers::CLIENTS.iter().filter(|file| **file != "Client.java") {
        for chat in ["one", "two"] {
            let url = format!("wss://chat.test/ws?chat={file}-{chat}");
            check_client(lab, file, &url, &["--ca", ca, "--address", &address])?;
        }
    }

    // HTTP/2 outside, a connection for each request inside: every chat's requests go to its home.
    let resolve = format!("chat.test:443:{address}");
    for chat in 0..4 {
        let url = format!("https://chat.test/whoami?chat={chat}&n=[1-5]");
        let words = ["-sS", "--max-time", "60", "--cacert", ca, "--resolve", &resolve, &url];
        let answers = run_in(&lab.client, CURL, &words)?;
        let answers = serde_json::Deserializer::from_str(&answers).into_iter::<Value>();
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        ensure!(answers.len() == 5, "{answers:?}");
        ensure!(answers.iter().all(|one| one["replica"] == answers[0]["replica"]), "{answers:?}");
    }

    let browser = Launch::new(Kind::Chromium)
        .name("chat.test", lab.client_addr(Family::V4))
        .authority(authority.file().to_owned())
        .start(lab)?;
    browser.check_chats("nginx", |chat| format!("https://chat.test/?chat={chat}"))
}
