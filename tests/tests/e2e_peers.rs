//! WebSocket libraries of other people as clients and as servers, through Roost.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::lab::{
    ChatServer, Config, Family, Lab, Netns, Process, REPLICA_PORT, Roost, Site,
};
use serde_json::Value;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// A script of tests/peers with its interpreter, to run in a namespace.
fn peer(ns: &Netns, script: &str) -> Result<Command> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers");
    let installed = std::env::var_os("ROOST_PEERS").map_or_else(|| built.into(), PathBuf::from);
    let (program, needed) = if script.ends_with(".py") {
        let python = installed.join("venv/bin/python");
        (python.clone(), python)
    } else {
        (PathBuf::from("node"), installed.join("node_modules/ws"))
    };
    let missing = needed.display();
    ensure!(needed.exists(), "{missing} is missing: run cargo xtask test, or see tests/peers");
    let mut command = ns.command(program);
    command.arg(PathBuf::from(SCRIPTS).join(script)).env("ROOST_PEERS", installed);
    Ok(command)
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
        server.wait_line(Duration::from_secs(20), &format!("[::]:{REPLICA_PORT}"))?;
        Ok(server)
    };
    lab.replicas.iter().map(start).collect()
}

/// Lets a client of another library open a chat; its own verdict and the replicas are checked.
fn check_client(site: &Site, script: &str, vip: SocketAddr, chat: &str) -> Result<()> {
    let url = format!("ws://{vip}/ws?chat={chat}");
    let mut command = peer(&site.lab.client, script)?;
    command.args(["--url", &url, "--tabs", "6", "--say", "grüß euch", "--limit", "10"]);
    let output = command.output().context(script.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script} with {url}: {}: {said}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let replicas = report["replicas"].as_array().context("no replicas")?;
    ensure!(replicas.len() == 6 && replicas.iter().all(|on| *on == replicas[0]), "{report}");
    Ok(())
}

fn check(site: &Site) -> Result<()> {
    for family in Family::BOTH {
        let vip = site.vip(family);
        for chat in 0..5 {
            check_client(site, "client.py", vip, &format!("py-{chat}"))?;
            check_client(site, "client.mjs", vip, &format!("node-{chat}"))?;
        }
        let clients = site.clients()?;
        let mut tabs = (0..3).map(|_| clients.tab(vip, "rust")).collect::<Result<Vec<_>>>()?;
        clients.run(tabs[0].say("hello"))?;
        for tab in &mut tabs {
            ensure!(clients.run(tab.hears("hello", Duration::from_secs(5)))?, "{family}: unheard");
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
    for script in ["server.py", "server.mjs"] {
        let lab = Lab::new(&script.replace('.', "-"))?;
        let _servers = servers(&lab, script)?;
        let roost = Roost::start(&lab, &Config::new(&lab).to_string())?;
        check(&Site { roost, servers: Vec::<ChatServer>::new(), lab }).context(script)?;
    }
    Ok(())
}
