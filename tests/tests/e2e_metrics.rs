//! Probes and metrics of the daemon while chats, API server and main loop come and go.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use roost_chat::client::load;
use roost_tests::kube::{ApiServer, Endpoint, NODE, node, service, slice};
use roost_tests::lab::{
    ChatServer, Clients, Config, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, heavy, try_until,
};
use roost_tests::peers;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// What the daemon answers: status, headers and body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Asks the daemon on the node. Nothing is decoded: it does not send in chunks.
fn ask(lab: &Lab, method: &str, path: &str, more: &str) -> Result<Answer> {
    let at: SocketAddr = "127.0.0.1:9469".parse()?;
    let mut stream = lab.node.connect(at).with_context(|| format!("{method} {path}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{more}\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (head, body) = said.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

fn get(lab: &Lab, path: &str) -> Result<(u16, String)> {
    let answer = ask(lab, "GET", path, "")?;
    Ok((answer.status, answer.body))
}

fn wait_status(lab: &Lab, path: &str, status: u16) -> Result<String> {
    try_until(LIMIT, &format!("{path} to say {status}"), || {
        let (said, body) = get(lab, path)?;
        ensure!(said == status, "{said}: {body}");
        Ok(Some(body))
    })
}

/// Metrics as Prometheus' own library for Python reads them.
#[derive(Debug)]
struct Metrics(BTreeMap<String, Value>);

impl Metrics {
    fn read(lab: &Lab, open: bool) -> Result<Self> {
        let accept = if open { OPENMETRICS } else { "text/plain" };
        let answer = ask(lab, "GET", "/metrics", &format!("Accept: {accept}\r\n"))?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
        ensure!(
            answer.head.contains(accept.split(';').next().unwrap_or(accept)),
            "{}",
            answer.head
        );
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let mut python = peers::command(root, "metrics.py")?;
        python.arg(if open { "openmetrics" } else { "text" });
        let pipes = python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn()?;
        let mut input = child.stdin.take().context("no standard input")?;
        let body = answer.body.clone();
        let writer = thread::spawn(move || input.write_all(body.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}\n{}", answer.body);
        Ok(Self(serde_json::from_slice(&output.stdout)?))
    }

    /// The values of a series, by those labels that are not asked for.
    fn value(&self, series: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let samples = self.0.values().flat_map(|family| family["samples"].as_array());
        let mut found = samples.flatten().filter(|sample| {
            sample[0] == series && labels.iter().all(|(name, value)| sample[1][name] == *value)
        });
        let Some(sample) = found.next() else { bail!("no {series} with {labels:?}") };
        ensure!(found.next().is_none(), "several {series} with {labels:?}");
        sample[2].as_f64().context("no number")
    }
}

fn start(lab: &Lab, config: Option<&str>, more: &[&OsStr]) -> Result<Roost> {
    let mut arguments: Vec<&OsStr> = vec![
        "--listen".as_ref(),
        "127.0.0.1:9469".as_ref(),
        "--round-interval=200ms".as_ref(),
        "--log-level=debug".as_ref(),
    ];
    arguments.extend(more);
    Roost::start_with(lab, config, &arguments)
}

#[test]
fn metrics_follow_real_traffic() -> Result<()> {
    let _heavy = heavy()?;
    let lab = Lab::builder("metrics").build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    let roost = start(&lab, Some(&Config::new(&lab).to_string()), &[])?;
    assert_eq!(get(&lab, "/healthz")?, (200, "ok\n".to_owned()));
    let ready = wait_status(&lab, "/readyz?verbose", 200)?;
    assert_eq!(
        ready,
        "[+]loop ok\n[+]maps ok\n[+]interfaces ok\n[+]file ok\nreadyz check passed\n"
    );
    let before = Metrics::read(&lab, false)?;
    assert_eq!(before.value("roost_datapath_bound_total", &[])?, 0.0);

    let clients = Clients::new(&lab.client)?;
    let opened = Family::BOTH.map(|family| {
        let plan = load::Plan::new((lab.vip(family), VIP_PORT).into(), 20, 40);
        clients.run(load::open(&plan))
    });

    let now = try_until(LIMIT, "the flows to be swept", || {
        let metrics = Metrics::read(&lab, true)?;
        Ok((metrics.value("roost_service_flows", &[])? == 80.0).then_some(metrics))
    })?;
    // A first segment that a slow machine lets a client send again is bound again.
    let bound = now.value("roost_datapath_bound_total", &[])?;
    assert!(bound >= 80.0, "{bound}");
    assert_eq!(now.value("roost_datapath_delivered_total", &[])?, 80.0);
    let verdict = [("verdict", "bound"), ("hook", "ingress"), ("action", "pass")];
    assert_eq!(now.value("roost_packets_total", &verdict)?, bound);
    assert_eq!(now.value("roost_service_chats", &[("service", "chat")])?, 20.0);
    let replicas = roost.json(&["replicas"])?;
    let replicas = replicas.as_array().context("no replicas")?;
    assert_eq!(replicas.len(), lab.replicas.len());
    for replica in replicas {
        let name = replica["replica"].as_str().unwrap_or_default();
        let of = [("service", "chat"), ("replica", name)];
        for (series, field) in [
            ("roost_replica_flows", "flows"),
            ("roost_replica_chats", "chats"),
            ("roost_replica_weight", "weight"),
        ] {
            assert_eq!(Some(now.value(series, &of)?), replica[field].as_f64(), "{series} {name}");
        }
        let ready = [of[0], of[1], ("state", "ready")];
        assert_eq!(now.value("roost_replica_state", &ready)?, 1.0);
        let addresses = replica["addresses"].as_array().context("no addresses")?;
        assert_eq!(addresses.len(), 2, "{replica}");
        for address in addresses {
            let address = address.as_str().unwrap_or_default();
            now.value(
                "roost_replica_info",
                &[of[0], of[1], ("address", address), ("port", "8080")],
            )?;
        }
    }
    let service = &roost.json(&["services"])?[0];
    let digest = service["digest"].as_str().unwrap_or_default();
    now.value("roost_service_table_info", &[("service", "chat"), ("digest", digest)])?;
    let generation = now.value("roost_service_table_generation", &[])?;
    assert_eq!(Some(generation), service["generation"].as_f64());
    for (map, entries) in [("FLOWS", 80.0), ("CHATS", 20.0), ("SERVICES", 1.0)] {
        assert_eq!(now.value("roost_map_entries", &[("map", map)])?, entries, "{map}");
        assert!(now.value("roost_map_max_entries", &[("map", map)])? > entries, "{map}");
    }
    let attached = [("interface", "eth0"), ("ingress", "native"), ("egress", "tcx")];
    assert_eq!(now.value("roost_interface_attached", &attached)?, 1.0);
    // What is not there yet in one format is in neither, and each counter has its help.
    let (old, new) = (Metrics::read(&lab, false)?, Metrics::read(&lab, true)?);
    assert_eq!(old.0.keys().collect::<Vec<_>>(), new.0.keys().collect::<Vec<_>>());
    let counters = roost.json(&["counters", "--all"])?;
    let counters = counters.as_array().context("no counters")?;
    assert!(counters.len() > 40);
    for counter in counters {
        let name = counter["counter"].as_str().unwrap_or_default();
        let family = &new.0[&format!("roost_datapath_{name}")];
        assert_eq!((&family["type"], &family["help"]), (&"counter".into(), &counter["help"]));
        assert_eq!(family["samples"].as_array().map(Vec::len), Some(1), "{name}");
    }

    drop(opened);
    drop(clients);
    try_until(LIMIT, "the flows to be over", || {
        let metrics = Metrics::read(&lab, false)?;
        let flows = metrics.value("roost_service_flows", &[])?;
        Ok((flows == 0.0 && metrics.value("roost_service_chats", &[])? == 0.0).then_some(()))
    })?;
    Ok(())
}

#[test]
fn requests_are_answered_by_the_book() -> Result<()> {
    let lab = Lab::builder("requests").replicas(1).build()?;
    let mut roost = start(&lab, Some(&Config::new(&lab).to_string()), &[])?;
    let other = ask(&lab, "GET", "/", "")?;
    assert_eq!(other.status, 404);
    assert!(["/healthz", "/readyz", "/metrics"].iter().all(|path| other.body.contains(path)));
    let posted = ask(&lab, "POST", "/metrics", "Content-Length: 0\r\n")?;
    assert_eq!(posted.status, 405);
    assert!(posted.head.contains("allow: get, head"), "{}", posted.head);
    let head = ask(&lab, "HEAD", "/metrics", "")?;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let long = ask(&lab, "GET", "/metrics", &format!("X: {}\r\n", "x".repeat(40_000)))?;
    assert_eq!(long.status, 431);
    // Connections that say nothing keep nobody from being heard.
    let silent = (0..70).map(|_| lab.node.connect("127.0.0.1:9469".parse()?).map_err(Into::into));
    let silent = silent.collect::<Result<Vec<_>>>()?;
    assert_eq!(wait_status(&lab, "/healthz", 200)?, "ok\n");
    drop(silent);
    // A file that is wrong leaves everything as it is, and says so.
    let good = Config::new(&lab).to_string();
    roost.write_config(&good.replace("port = 80\n", "port = 0\n"))?;
    let said = wait_status(&lab, "/readyz", 503)?;
    assert!(said.starts_with("[-]file: the changed file was not applied: "), "{said}");
    assert!(said.ends_with("\nreadyz check failed\n") && said.lines().count() == 2, "{said}");
    let metrics = Metrics::read(&lab, true)?;
    assert_eq!(metrics.value("roost_config_last_reload_successful", &[])?, 0.0);
    assert_eq!(metrics.value("roost_config_reloads_total", &[("result", "refused")])?, 1.0);
    roost.write_config(&good)?;
    wait_status(&lab, "/readyz", 200)?;
    // Nothing of all this is worth a line.
    let log = roost.process().log();
    assert!(log.contains("DEBUG") && log.contains("answered an HTTP request"));
    let loud = |line: &&str| line.contains("HTTP") && !line.contains("DEBUG");
    assert_eq!(log.lines().find(loud), None);

    let mut second = lab.node.command(roost.binary())?;
    second.args(["run", "--listen", "127.0.0.1:9469", "--config"]).arg(roost.config());
    let second = second.args(["--pin-dir", "/sys/fs/bpf/roost-never"]).output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("127.0.0.1:9469: cannot listen"), "{said}");
    Ok(())
}

#[test]
fn readiness_takes_a_cluster_once_and_then_does_without() -> Result<()> {
    let lab = Lab::builder("readyz").replicas(1).build()?;
    let mut api = ApiServer::start(lab.node.listen("127.0.0.1:0".parse()?)?)?;
    api.apply(node(NODE, &lab.node_addrs()));
    api.apply(service("chat", &Family::BOTH.map(|family| lab.vip(family))));
    let pods = [Endpoint::ready("chat-0", lab.replicas[0].addr(Family::V4))];
    api.apply(slice("chat", "chat-v4", REPLICA_PORT, &pods));
    let kubeconfig = api.kubeconfig(lab.dir())?;
    api.stop();
    let more: [&OsStr; 6] = [
        "--kubernetes".as_ref(),
        "--secret=roost".as_ref(),
        "--kubeconfig".as_ref(),
        kubeconfig.as_ref(),
        "--node-name".as_ref(),
        NODE.as_ref(),
    ];
    let _roost = start(&lab, None, &more)?;
    let (status, said) = get(&lab, "/readyz")?;
    assert_eq!(status, 503);
    for kind in ["services", "endpointslices", "nodes"] {
        let line = format!("[-]cluster: {kind} were not listed completely yet");
        assert!(said.lines().any(|said| said.starts_with(&line)), "{said}");
    }
    assert!(said.contains("\n[-]secret: its keys are not in use yet"), "{said}");
    assert_eq!(said.lines().count(), 5, "{said}");
    assert_eq!(get(&lab, "/healthz")?.0, 200);

    api.restart(|address| lab.node.listen(address))?;
    let said = wait_status(&lab, "/readyz?verbose", 200)?;
    assert!(said.contains("[+]cluster ok\n[+]secret ok\n") && !said.contains("file"), "{said}");
    let metrics = Metrics::read(&lab, true)?;
    let slices = [("resource", "endpointslices")];
    assert_eq!(metrics.value("roost_kubernetes_watch_listed", &slices)?, 1.0);
    assert_eq!(metrics.value("roost_kubernetes_services", &[])?, 1.0);
    assert!(metrics.value("roost_kubernetes_lists_total", &slices)? >= 1.0);
    assert!(metrics.value("roost_kubernetes_publication_lag_seconds", &[])? >= 0.0);
    assert!(metrics.value("roost_kubernetes_watch_silence_seconds", &slices)? < 60.0);
    assert_eq!(metrics.value("roost_kubernetes_problems", &[("reason", "NoRoom")])?, 0.0);

    assert_eq!(metrics.value("roost_secret_read", &[])?, 1.0);
    assert_eq!(metrics.value("roost_secret_writes_total", &[])?, 1.0);
    let secrets = [("resource", "secrets")];
    assert_eq!(metrics.value("roost_kubernetes_watch_connected", &secrets)?, 1.0);

    try_until(LIMIT, "a leader", || {
        let metrics = Metrics::read(&lab, false)?;
        Ok((metrics.value("roost_kubernetes_leader", &[])? == 1.0).then_some(()))
    })?;
    // A wrong annotation is a Service's own affair.
    api.change("services", "default", "chat", |service| {
        service["metadata"]["annotations"]["roost.rs/policy"] = "hom".into();
    });
    let wrong = [("object", "default/chat"), ("reason", "InvalidAnnotation")];
    try_until(LIMIT, "the wrong annotation", || {
        let metrics = Metrics::read(&lab, false)?;
        Ok(metrics.value("roost_kubernetes_service_problems", &wrong).ok())
    })?;
    try_until(LIMIT, "an Event about it", || {
        let metrics = Metrics::read(&lab, false)?;
        let events = metrics.value("roost_kubernetes_events_written_total", &[])?;
        Ok((events >= 1.0).then_some(()))
    })?;
    assert_eq!(get(&lab, "/readyz")?.0, 200);

    api.stop();
    try_until(LIMIT, "the watches to be closed", || {
        let metrics = Metrics::read(&lab, false)?;
        let closed = metrics.value("roost_kubernetes_watch_connected", &slices)? == 0.0;
        let errors = metrics.value("roost_kubernetes_watch_errors_total", &slices)? > 0.0;
        Ok((closed && errors).then_some(()))
    })?;
    assert_eq!(get(&lab, "/readyz")?.0, 200);
    assert_eq!(get(&lab, "/healthz")?.0, 200);
    Ok(())
}

#[test]
fn a_main_loop_that_is_stuck_is_told_and_metrics_go_on() -> Result<()> {
    let lab = Lab::builder("healthz").replicas(1).build()?;
    let config = Config::new(&lab).to_string();
    let roost = start(&lab, Some(&config), &[])?;
    wait_status(&lab, "/readyz", 200)?;
    // Whoever reads a FIFO waits for somebody who writes to it.
    let fifo = lab.dir().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU)?;
    fs::rename(&fifo, roost.config())?;
    let said = wait_status(&lab, "/healthz", 503)?;
    let age =
        said.strip_prefix("[-]loop: the main loop has been reading or applying the file for ");
    let age = age.and_then(|rest| rest.split_once(' ')?.0.parse::<f64>().ok());
    assert!(age.is_some_and(|age| (10.0..120.0).contains(&age)), "{said}");
    assert_eq!(get(&lab, "/readyz")?.0, 503);
    let metrics = Metrics::read(&lab, false)?;
    assert!(metrics.value("roost_loop_step_age_seconds", &[])? > 10.0);
    fs::rename(roost.config(), &fifo)?;
    roost.write_config(&config)?;
    drop(fs::OpenOptions::new().write(true).open(&fifo)?);
    wait_status(&lab, "/healthz", 200)?;
    wait_status(&lab, "/readyz", 200)?;
    Ok(())
}
