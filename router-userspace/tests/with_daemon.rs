//! The command line beside a daemon, with the real programs on a veth pair in a network namespace.
//! Needs root and a bpffs.

use std::{
    path::PathBuf,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use roost::{
    maps::{secrets::monotonic, tables::Tables},
    plan::addr::to_map,
};
use roost_programs::{NSENTER, UNSHARE, built};
use router_ebpf::maps::{Flow, FlowBack, STATE_COUNTED, Tuple, Watched};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const CONFIG: &str = r#"
interfaces = ["cli0"]

[limits]
flows = 1024
chats = 1024
pending = 64
stash = 64
services = 4
replicas = 16

[[service]]
name = "rooms"
addresses = ["192.0.2.1", "2001:db8::1"]
port = 80
policy = "home"
key = "query:chat"

[[service.replica]]
name = "r0"
address = ["10.0.0.10", "fd00::10"]
port = 8080

[[service.replica]]
name = "r1"
address = ["10.0.0.11", "fd00::11"]
port = 8080
"#;

/// A daemon in a network namespace of its own, which ends with it.
struct Daemon {
    process: Child,
    pin_dir: PathBuf,
    log: NamedTempFile,
    config: NamedTempFile,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.roost(&["detach"], false);
        let name = self.pin_dir.file_name().unwrap_or_default().to_string_lossy();
        let _ = std::fs::remove_file(format!("/run/roost/sys-fs-bpf-{name}.lock"));
    }
}

impl Daemon {
    fn start() -> Self {
        let (config, log) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        std::fs::write(config.path(), CONFIG).unwrap();
        let pin_dir =
            PathBuf::from(format!("/sys/fs/bpf/roost-test-daemon-{}", std::process::id()));
        let script = "ip link add cli0 type veth peer name cli1 && ip link set cli0 up && \
                      ip link set cli1 up && exec \"$0\" run --config \"$1\" --pin-dir \"$2\"";
        let process = UNSHARE
            .command()
            .unwrap()
            .args(["--net", "sh", "-c", script, env!("CARGO_BIN_EXE_roost")])
            .arg(config.path())
            .arg(&pin_dir)
            .stdin(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let daemon = Self { process, pin_dir, log, config };
        daemon.wait_until_ready();
        daemon
    }

    fn wait_until_ready(&self) {
        self.wait(Duration::from_secs(180), "the daemon is not ready", || {
            let output = self.roost(&["status", "-o", "json"], true);
            let status: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            status.is_some_and(|status| status["interfaces"][0]["ingress"].is_string())
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    fn wait(&self, most: Duration, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < most, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Enters live flows of no chat to a replica, as the data path does.
    fn enter_flows(&self, replica: u32, ports: std::ops::Range<u8>) {
        let mut tables = Tables::open(&self.pin_dir).unwrap();
        let known = tables.replicas.get(replica).unwrap();
        let client = to_map("192.0.2.99".parse().unwrap());
        for port in ports {
            let vip = to_map("192.0.2.1".parse().unwrap());
            let tuple =
                Tuple { client, server: vip, client_port: [200, port], server_port: [0, 80] };
            let now = monotonic().as_nanos() as u64;
            let flow = Flow {
                last_seen: now,
                since: now,
                replica_addr: known.v4,
                replica_port: known.port,
                service: known.service,
                replica,
                state: STATE_COUNTED,
                server_isn: 7,
                // SAFETY: any bytes are a valid value of the maps' types.
                ..unsafe { std::mem::zeroed() }
            };
            let back = FlowBack {
                vip,
                vip_port: [0, 80],
                // SAFETY: as above.
                ..unsafe { std::mem::zeroed() }
            };
            let side = Tuple { server: known.v4, server_port: known.port, ..tuple };
            tables.flows_back.set(&side, &back).unwrap();
            tables.flows.set(&tuple, &flow).unwrap();
            let mut load = tables.loads.get(replica).unwrap();
            load.flows += 1;
            tables.loads.set(replica, &load).unwrap();
            assert!(
                tables
                    .flow_ring
                    .put(&Watched { tuple, server_isn: 7, ..Watched::default() })
                    .unwrap()
            );
        }
    }

    /// Runs a command, in the daemon's network namespace or outside.
    fn roost(&self, arguments: &[&str], inside: bool) -> Output {
        let mut command = if inside {
            let mut command = NSENTER.command().unwrap();
            command.arg(format!("--net=/proc/{}/ns/net", self.process.id()));
            command.arg(env!("CARGO_BIN_EXE_roost"));
            command
        } else {
            built(env!("CARGO_BIN_EXE_roost")).unwrap()
        };
        command.args(arguments).arg("--pin-dir").arg(&self.pin_dir).output().unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.roost(&[arguments, &["-o", "json"]].concat(), true);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn the_command_line_sees_what_the_daemon_did() {
    let mut daemon = Daemon::start();

    let status = daemon.json(&["status"]);
    assert_eq!(status["daemon_pid"], daemon.process.id());
    let interface = &status["interfaces"][0];
    assert_eq!(interface["interface"], "cli0");
    assert_eq!((&interface["ingress"], &interface["problem"]), (&json!("generic"), &json!("")));
    assert!(["tcx", "clsact"].iter().any(|hook| interface["egress"] == *hook), "{interface}");

    let services = daemon.json(&["services"]);
    let services = services.as_array().unwrap();
    assert_eq!(services.len(), 1, "both families in one");
    assert_eq!(services[0]["addresses"], json!(["192.0.2.1", "2001:db8::1"]));
    assert_eq!(services[0]["usable"], 2);

    let maps = daemon.json(&["maps", "list"]);
    let kinds: Vec<(&str, &str)> = maps
        .as_array()
        .unwrap()
        .iter()
        .map(|map| (map["name"].as_str().unwrap(), map["kind"].as_str().unwrap()))
        .collect();
    let expected = [
        ("VIPS", "lpm_trie"),
        ("SERVICES", "hash"),
        ("SOURCE_RANGES", "lpm_trie"),
        ("REPLICAS", "array"),
        ("SLOTS", "array"),
        ("CHAT_COOKIES", "hash"),
        ("CHATS", "hash"),
        ("PENDING", "lru_hash"),
        ("STASH", "hash"),
        ("CHUNKS", "hash"),
        ("HEAD_RING", "queue"),
        ("FLOWS", "hash"),
        ("FLOWS_BACK", "hash"),
        ("ENDED", "lru_hash"),
        ("ENDED_BACK", "lru_hash"),
        ("FLOW_RING", "queue"),
        ("CHAT_RING", "queue"),
        ("RINGS", "array"),
        ("LOADS", "array"),
        ("SHARES", "array"),
        ("SHARING", "array"),
        ("TRUSTED", "lpm_trie"),
        ("FAREWELLS", "queue"),
        ("MACS", "hash"),
        ("LINKS", "hash"),
        ("HOST", "array"),
        ("STAND_INS", "hash"),
        ("STANDS_FOR", "hash"),
        ("HOST_SOURCES", "lru_hash"),
        ("PROBLEMS", "hash"),
        ("SECRETS", "array"),
        ("COUNTERS", "percpu_array"),
        ("SCHEMA", "hash"),
    ];
    assert_eq!(kinds, expected);
    daemon.json(&["maps", "dump"]);

    let explained = daemon.json(&["explain", "--service", "rooms", "--key", "42"]);
    assert_eq!(explained["why"], "slot");
    assert_eq!(explained["replica_addresses"].as_array().unwrap().len(), 2, "{explained}");
    let home = explained["replica"].as_str().unwrap();
    let other = if home == "r0" { "r1" } else { "r0" };

    daemon.json(&["chat", "pin", "rooms", "42", "--replica", other]);
    let explained = daemon.json(&["explain", "--service", "rooms", "--key", "42"]);
    assert_eq!((&explained["why"], &explained["replica"]), (&json!("pinned"), &json!(other)));

    // A replica leaves: its flows end at once, and the daemon learns of each.
    daemon.enter_flows(0, 0..3);
    daemon.enter_flows(1, 3..5);
    assert_eq!(daemon.json(&["flows", "--replica", "r0"]).as_array().unwrap().len(), 3);
    let (before, leaving) = CONFIG.split_once("[[service.replica]]\nname = \"r0\"").unwrap();
    let (_, stays) = leaving.split_once("[[service.replica]]").unwrap();
    std::fs::write(daemon.config.path(), format!("{before}[[service.replica]]{stays}")).unwrap();
    daemon.wait(Duration::from_secs(10), "its flows are there", || {
        daemon.log().contains("ended flows of replicas that are gone flows=3")
    });
    let flows = daemon.json(&["flows"]);
    assert_eq!(flows.as_array().unwrap().len(), 2, "{flows}");
    assert!(flows.as_array().unwrap().iter().all(|flow| flow["replica"] == "r1"), "{flows}");
    let replicas = daemon.json(&["replicas"]);
    assert_eq!((&replicas[0]["state"], &replicas[0]["flows"]), (&json!("gone"), &json!(0)));
    let counters = daemon.json(&["counters"]);
    let ended = |line: &Value| line["counter"] == "ended_gone" && line["packets"] == 3;
    assert!(counters.as_array().unwrap().iter().any(ended), "{counters}");

    // From here the interface is not seen, whatever has its name or its index.
    let output = daemon.roost(&["status", "-o", "json"], false);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let elsewhere = json!({
        "interface": "cli0", "clients": "outside", "ingress": null, "egress": null,
        "problem": "cannot be seen from this network namespace",
    });
    assert_eq!(status["interfaces"], json!([elsewhere]));

    let refused = daemon.roost(&["detach"], true);
    assert_eq!(refused.status.code(), Some(1), "a daemon runs");

    daemon.process.kill().unwrap();
    daemon.process.wait().unwrap();
    let output = daemon.roost(&["status", "-o", "json"], false);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["daemon_pid"], Value::Null);
    assert_eq!(status["services"].as_array().unwrap().len(), 1, "maps outlive the daemon");
    let removed = daemon.roost(&["detach"], false);
    assert!(removed.status.success());
    assert!(!daemon.pin_dir.exists());
}
