//! The daemon and the commands where there is nothing else: a root file system, read-only, with the
//! program and what the DaemonSet mounts. No shell, no home, no /tmp, no users, no devices.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_chat::client::Tab;
use roost_programs::{LDD, UNSHARE};
use roost_tests::kube::{ApiServer, Endpoint, NODE, node, service, slice};
use roost_tests::lab::{
    ChatServer, Clients, Family, Lab, Process, REPLICA_PORT, VIP_PORT, binary, try_until,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// The parts of the file system that are there.
const DIRECTORIES: [&str; 4] =
    ["etc/roost", "run/roost", "var/run/secrets/kubernetes.io/serviceaccount", "dev"];
/// Makes the root in a mount namespace of its own and runs the program in it. The libraries are for a
/// program that is not linked statically.
const SCRIPT: &str = r#"
set -e
root=$1 binary=$2 mounts=$3 libraries=$4
shift 4
mount -t tmpfs -o mode=755 roost "$root"
mkdir -p "$root/proc" "$root/sys"
for file in $libraries; do
    mkdir -p "$root${file%/*}"
    touch "$root$file"
    mount --bind "$file" "$root$file"
done
touch "$root/roost"
mount --bind "$binary" "$root/roost"
for directory in $(cd "$mounts" && find . -type d -links 2); do
    mkdir -p "$root/$directory"
    mount --bind "$mounts/$directory" "$root/$directory"
done
mount --rbind /proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --bind /sys/fs/bpf "$root/sys/fs/bpf"
mount -o remount,ro "$root"
exec chroot "$root" /roost "$@"
"#;

/// A pod on the lab's node.
struct Pod<'a> {
    lab: &'a Lab,
    api: &'a ApiServer,
    binary: PathBuf,
    libraries: String,
}

impl<'a> Pod<'a> {
    fn new(lab: &'a Lab, api: &'a ApiServer) -> Result<Self> {
        let mounts = lab.dir().join("mounts");
        for directory in DIRECTORIES {
            fs::create_dir_all(mounts.join(directory))?;
        }
        fs::create_dir_all(lab.dir().join("root"))?;
        fs::write(mounts.join("etc/roost/roost.toml"), "interfaces = [\"eth0\"]\n")?;
        let account = api.account(lab.dir(), "roost-system")?;
        for file in fs::read_dir(account)? {
            let file = file?.path();
            let name = file.file_name().context("a file")?;
            fs::copy(&file, mounts.join(DIRECTORIES[2]).join(name))?;
        }
        let binary = binary("roost", "ROOST_BIN")?;
        let said = LDD.command()?.arg(&binary).output()?;
        let (said, error) = (String::from_utf8(said.stdout)?, String::from_utf8(said.stderr)?);
        let libraries: Vec<_> =
            said.split_whitespace().filter(|word| word.starts_with('/')).collect();
        // It fails with a static program.
        let is_static = (said.clone() + &error).contains("not a dynamic executable");
        ensure!(is_static || !libraries.is_empty(), "{}: {said}{error}", binary.display());
        Ok(Self { lab, api, binary, libraries: libraries.join(" ") })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.lab.node.command(UNSHARE)?;
        for (name, _) in std::env::vars_os().filter(|(name, _)| name != "PATH") {
            command.env_remove(name);
        }
        let server = self.api.address();
        command.env("KUBERNETES_SERVICE_HOST", server.ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", server.port().to_string());
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
        command.arg(self.lab.dir().join("root")).arg(&self.binary);
        command.arg(self.lab.dir().join("mounts")).arg(&self.libraries);
        command.args(arguments).arg("--pin-dir").arg(self.lab.pin_dir());
        Ok(command)
    }

    fn roost(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments)?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {}: {said}", output.status);
        ensure!(said.is_empty(), "{arguments:?}: {said}");
        Ok(output)
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.roost(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?}"))
    }
}

/// Removes what is pinned.
struct Pins<'a>(&'a Lab);

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.pin_dir());
    }
}

#[test]
fn nothing_but_the_program_is_needed() -> Result<()> {
    let lab = Lab::builder("pod").replicas(2).build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    let api = ApiServer::start(lab.node.listen("127.0.0.1:0".parse()?)?)?;
    api.apply(node(NODE, &lab.node_addrs()));
    api.apply(service("chat", &Family::BOTH.map(|family| lab.vip(family))));
    for (family, name) in [(Family::V4, "chat-v4"), (Family::V6, "chat-v6")] {
        let pods =
            [0, 1].map(|n| Endpoint::ready(&format!("chat-{n}"), lab.replicas[n].addr(family)));
        api.apply(slice("chat", name, REPLICA_PORT, &pods));
    }
    let pod = Pod::new(&lab, &api)?;
    let _pins = Pins(&lab);
    let arguments = [
        "run",
        "--kubernetes",
        "--config=/etc/roost/roost.toml",
        "--node-name",
        NODE,
        "--listen=:9469",
        "--log-format=json",
    ];
    let daemon = Process::spawn("roost in a pod", &mut pod.command(&arguments)?)?;
    daemon.wait_line(LIMIT, "\"ready\"")?;
    try_until(LIMIT, "the cluster's service", || {
        Ok((pod.json(&["services"])?[0]["usable"] == 2).then_some(()))
    })?;
    let status = pod.json(&["status"])?;
    assert_eq!(status["daemon_pid"], daemon.pid());
    assert_eq!(status["interfaces"][0]["ingress"], "native", "{status}");
    assert_eq!(status["sources"], serde_json::json!(["kubernetes"]));

    let clients = Clients::new(&lab.client)?;
    let vip = (lab.vip(Family::V4), VIP_PORT).into();
    let mut tabs = (0..3).map(|_| clients.tab(vip, "lobby")).collect::<Result<Vec<Tab>>>()?;
    assert_eq!(pod.json(&["flows"])?.as_array().map(Vec::len), Some(3));
    assert_eq!(pod.json(&["chats"])?[0]["flows"], 3);
    let explain = ["explain", "--service", "default/chat:ws", "--key", "lobby"];
    assert_eq!(pod.json(&explain)?["why"], "live_home");
    pod.roost(&["chat", "pin", "default/chat:ws", "other", "--replica", "chat-1"])?;
    let all: [&[&str]; 13] = [
        &["status"],
        &["services"],
        &["sources"],
        &["replicas"],
        &["chats"],
        &["flows"],
        &["counters", "--all"],
        &explain,
        &["chat", "list"],
        &["maps", "list"],
        &["maps", "dump", "CHATS"],
        &["completions", "bash"],
        &["man"],
    ];
    for arguments in all {
        let said = pod.roost(arguments)?.stdout;
        assert!(!said.is_empty() && !said.contains(&0x1b), "{arguments:?}");
    }
    // What it finds here does not matter, only that it can look, and where: at what the daemon has.
    for which in [&["--interface", "eth0"][..], &["--kubernetes"]] {
        let check = pod.command(&[&["check", "-o", "json"], which].concat())?.output()?;
        let report: Value = serde_json::from_slice(&check.stdout).context("roost check")?;
        let findings = report["findings"].as_array().context("findings")?;
        ensure!(findings.iter().any(|f| f["interface"] == "eth0"), "{which:?}: {report}");
    }

    // The maps are enough.
    drop(daemon);
    assert_eq!(pod.json(&["status"])?["daemon_pid"], Value::Null);
    assert_eq!(pod.json(&["chats"])?[0]["flows"], 3);
    for tab in &mut tabs {
        clients.run(tab.ping(LIMIT))?;
    }
    pod.roost(&["detach"])?;
    Ok(())
}
