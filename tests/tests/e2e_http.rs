//! Plain HTTP beside WebSockets on one VIP: the page, and requests over connections that are kept.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::lab::{Family, Site, run_in};
use roost_tests::peers;
use serde_json::Value;

const SECONDS: Duration = Duration::from_secs(5);

/// Requests over one connection of Python's http.client, see tests/peers/rest.py.
fn requests(site: &Site, family: Family, requests: &[&str]) -> Result<Vec<Value>> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let words = peers::words(root, "rest.py")?;
    let (host, port) = (site.lab.vip(family).to_string(), site.vip(family).port().to_string());
    let mut command = site.lab.client.command(&words[0]);
    command.args(&words[1..]).args(["--address", &host, &port]).args(requests);
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
    let words = ["-sS", "--max-time", "10", "-o", "/dev/null", "-w", form];
    let bound = run_in(&site.lab.client, "curl", &[&words[..], &[&url]].concat())?;
    let bound: Vec<_> = bound.lines().filter_map(|line| line.split_once(' ')).collect();
    ensure!(bound.len() == 9 && bound[0].0 == "1", "{bound:?}");
    ensure!(bound[1..].iter().all(|(connects, _)| *connects == "0"), "{bound:?}");
    // Nine chats: all that the first connection has asked for went to the home of the first chat.
    ensure!(bound.iter().all(|(_, replica)| *replica == bound[0].1), "{bound:?}");

    // With a connection for each, every chat is at its home, and they are not all at one.
    let mut homes = std::collections::BTreeSet::new();
    for n in 1..=9 {
        let url = format!("http://{vip}/whoami?chat=bound-{n}");
        let own = run_in(&site.lab.client, "curl", &[&words[..], &[&url]].concat())?;
        homes.insert(own.trim().to_owned());
    }
    ensure!(homes.len() > 1, "{homes:?}");
    Ok(())
}
