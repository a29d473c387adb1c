//! `nodes`: a cluster of thousands of Nodes, all of which each daemon watches.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::report::Report;
use super::step;
use super::usage::{cpu_time, resident};
use crate::kube::{ApiServer, Endpoint, NODE, node, service, slice};
use crate::lab::{Family, Lab, REPLICA_PORT, Roost, try_until};

/// A kubelet writes the status of its Node so often if nothing changes (`nodeStatusReportFrequency`).
const HEARTBEAT: f64 = 300.0;
/// Images in the status of a Node (`nodeStatusMaxImages`).
const IMAGES: usize = 50;
/// What the Nodes may cost: MB of memory, and percent of a CPU while each tells that it lives.
const MEMORY: f64 = 64.0;
const CPU: f64 = 1.0;

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Let the cluster have N Nodes
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub nodes: u32,
    /// Let them tell that they live for N seconds
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub seconds: u64,
}

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let lab = Lab::builder("nodes").replicas(1).build()?;
    let api = ApiServer::start(lab.node.listen("127.0.0.1:0".parse()?)?)?;
    let pod = Endpoint::ready("chat-0", lab.replicas[0].addr(Family::V4));
    api.apply(slice("chat", "chat-v4", REPLICA_PORT, &[pod]));
    api.apply(service("chat", &[lab.vip(Family::V4)]));
    let mut own = large(NODE, 0);
    own["status"]["addresses"] = node(NODE, &lab.node_addrs())["status"]["addresses"].clone();
    let bytes = own.to_string().len();
    api.apply(own);
    let mut report = Report::new("nodes");

    step("one Node");
    let alone = start(&lab, &api)?;
    let before = resident(alone.pid())?;
    drop(alone);

    step(&format!("{} Nodes of {bytes} bytes", options.nodes));
    for n in 1..options.nodes {
        api.apply(large(&format!("node-{}", n + 1), n));
    }
    let begin = Instant::now();
    let roost = start(&lab, &api)?;
    let (ready, start_cpu) = (begin.elapsed(), cpu_time(roost.pid())?);
    let after = resident(roost.pid())?;

    step(&format!("each tells that it lives, for {} s", options.seconds));
    let (begin, mut told) = (Instant::now(), 0);
    let all = Duration::from_secs(options.seconds);
    while begin.elapsed() < all {
        // As many as are due by now, however late this thread wakes.
        let due = begin.elapsed().as_secs_f64() * f64::from(options.nodes) / HEARTBEAT;
        while f64::from(told) < due {
            let n = 1 + told % options.nodes.max(2);
            let mut beat = large(&format!("node-{}", n + 1), n);
            beat["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "message": told}]);
            api.apply(beat);
            told += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let watched = begin.elapsed();
    let cpu = cpu_time(roost.pid())? - start_cpu;
    let percent = |cpu: Duration| 100.0 * cpu.as_secs_f64() / watched.as_secs_f64();

    report.part(format!("{} Nodes of {bytes} bytes", options.nodes));
    report.tell("nodes", f64::from(options.nodes), "Nodes");
    report.tell(
        "ready_seconds",
        ready.as_secs_f64(),
        "s until a new daemon has read them and is ready",
    );
    report.tell(
        "start_cpu_seconds",
        start_cpu.as_secs_f64(),
        "s of a CPU for that, the verifier's with it",
    );
    report.tell("memory_one_mb", before, "MB of the daemon with one Node");
    report.at_most("memory_more_mb", after - before, MEMORY, "MB more with all");
    report.tell("heartbeats", f64::from(told), "changes of Nodes that say nothing new");
    report.at_most("cpu_percent", percent(cpu), CPU, "% of a CPU meanwhile");
    Ok(report)
}

/// A daemon that follows the cluster, when it has published what that says.
fn start(lab: &Lab, api: &ApiServer) -> Result<Roost> {
    let kubeconfig = api.kubeconfig(lab.dir())?;
    let arguments: [&OsStr; 5] = [
        "--kubernetes".as_ref(),
        "--kubeconfig".as_ref(),
        kubeconfig.as_ref(),
        "--node-name".as_ref(),
        NODE.as_ref(),
    ];
    let roost = Roost::start_with(lab, None, &arguments)?;
    try_until(Duration::from_secs(300), "the replica", || {
        let replicas = roost.json(&["replicas"])?;
        let replicas = replicas.as_array().context("`roost replicas` prints no array")?;
        let ready = replicas.iter().any(|r| r["replica"] == "chat-0" && r["state"] == "ready");
        Ok(ready.then_some(()))
    })?;
    Ok(roost)
}

/// A Node with as much about its images as there usually is.
fn large(name: &str, n: u32) -> Value {
    let [high, low] = [n / 250, n % 250 + 1];
    let address = std::net::Ipv4Addr::new(10, 200, high as u8, low as u8);
    let mut node = node(name, &[address.into()]);
    node["spec"]["podCIDRs"] = json!([format!("10.{}.{}.0/24", 100 + n / 256 % 100, n % 256)]);
    let image = |i: usize| {
        let digest = format!("{:064x}", i + 1);
        json!({
            "names": [
                format!("images.example/team/service-{i}@sha256:{digest}"),
                format!("images.example/team/service-{i}:v1.{i}.0"),
            ],
            "sizeBytes": 10_000_000 + i,
        })
    };
    node["status"]["images"] = (0..IMAGES).map(image).collect();
    node
}
