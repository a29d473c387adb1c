//! From inside: nginx in a pod of the node ends TLS for tabs, beside another pod and a client outside.

use anyhow::{Context, Result};
use roost_chat::tls::ClientTls;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::round::{Round, Seat};
use super::{Options, Totals, guide, show, step};
use crate::lab::{
    Authority, ChatServer, Config, Family, HTTPS_PORT, Joined, Lab, Nginx, REPLICA_PORT, Roost,
    Site, Upstream,
};

/// How many replicas are ready, one after the other.
const SIZES: [usize; 4] = [3, 6, 2, 4];
/// The name in the certificate.
const HOST: &str = "chat.test";

/// What `--json` prints.
#[derive(Serialize, Debug)]
struct Outcome {
    /// Whether every chat was whole at every stage.
    ok: bool,
    stages: Vec<Stage>,
}

#[derive(Serialize, Debug)]
struct Stage {
    /// How many replicas were ready.
    replicas: usize,
    #[serde(flatten)]
    totals: Totals,
}

/// Runs it, and tells whether every chat was whole at every stage.
pub(super) fn run(options: &Options, park: impl FnOnce()) -> Result<bool> {
    let family = options.family();
    let most = SIZES.into_iter().max().unwrap_or_default();
    step(&format!("network namespaces: a client, a node, {most} replicas, two pods of the node"));
    let lab = Lab::builder("demo").replicas(most).host_link(options.keep).build()?;
    let (front, pod) = (lab.pod(1, Joined::Routed)?, lab.pod(2, Joined::Bridged)?);
    step(&format!("{most} chat servers"));
    let servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    step("roost on the node, with client_links = [\"pod*\"], and 3 of the replicas");
    let roost = Roost::start(&lab, &config(&lab, 0))?;
    let site = Site { roost, servers, lab };
    for pod in [&front, &pod] {
        site.roost.wait_client_link(&pod.node_device, true)?;
    }
    step("nginx in one of the pods: it ends TLS, and its upstream is the VIP");
    let (lab, vip) = (&site.lab, site.vip(family));
    let authority = Authority::new(lab)?;
    let certificate = authority.certify("nginx", &[HOST])?;
    let at = front.addr(Family::V4);
    let _nginx = Nginx::start_in(lab, &front.ns, at, &certificate, vip, Upstream::Reused)?;

    let tls = Some(ClientTls::read(authority.file())?);
    let through = |n| Seat {
        host: HOST.to_owned(),
        tls: tls.clone(),
        ..Seat::plain(format!("wss tab {n}"), &lab.client, (at, HTTPS_PORT).into())
    };
    let mut seats: Vec<Seat> = (1..=options.tabs).map(through).collect();
    seats.push(Seat::plain("outside", &lab.client, vip));
    seats.push(Seat::plain("pod", &pod.ns, vip));
    // Those who stay connected all the time; the others come anew at each stage.
    let kept = usize::from(options.tabs).saturating_sub(1).max(1);
    let chats = usize::from(options.chats);
    let more = chats.div_ceil(4);

    let last = seats.len() - 1;
    let mut round = Round::new(seats);

    let runtime = Runtime::new()?;
    let mut stages = Vec::new();
    for (n, ready) in SIZES.into_iter().enumerate() {
        let mut meaning = "tabs through nginx, a client outside, a pod".to_owned();
        if n > 0 {
            step(&format!("{ready} replicas are ready in the file; the daemon takes it over"));
            site.roost.write_config(&config(lab, n))?;
            let names = lab.replicas[..ready].iter().map(|replica| replica.name.as_str());
            site.wait_replicas(&names.collect::<Vec<_>>())?;
            let back = last + 1 - kept;
            step(&format!("the last {back} of each chat leave and come back; new chats: {more}"));
            runtime.block_on(round.leave(kept))?;
            meaning = format!("the last {back} of each chat have come back; new chats: {more}");
        } else {
            step(&format!("{} connections of each of {chats} chats", last + 1));
        }
        runtime.block_on(round.open(if n > 0 { more } else { chats }))?;
        // One who stays, and those who have come back.
        runtime.block_on(round.ask([0, last, last - 1, kept][n]))?;
        show::print(&show::round(&format!("{ready} replicas"), &meaning, &round))?;
        stages.push(Stage { replicas: ready, totals: round.totals() });
    }
    show::print(&guide::explanation(&site.roost, &round, guide::LINKS)?)?;

    let names: Vec<String> = SIZES.iter().map(|ready| format!("{ready} replicas")).collect();
    let totals = stages.iter().map(|stage| stage.totals);
    let totals: Vec<_> = names.iter().map(String::as_str).zip(totals).collect();
    show::print(&show::verdict(&totals))?;
    let outcome = Outcome { ok: totals.iter().all(|(_, totals)| totals.all_whole()), stages };
    if options.keep {
        show::note(&guide::next_steps_inside(&site, at, authority.file()));
    }
    if options.json {
        show::print(&format!("{}\n", serde_json::to_string(&outcome)?))?;
    }
    if options.keep {
        park();
    }
    runtime.block_on(round.close()).context("closing the tabs")?;
    Ok(outcome.ok)
}

fn config(lab: &Lab, stage: usize) -> String {
    Config::after(lab, &SIZES[..=stage]).client_links("pod*").to_string()
}
