//! `cargo xtask deploy` and `undeploy` against a kubectl that plays a cluster: what is asked in which order,
//! and what is told. No API server is in this.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use anyhow::{Result, ensure};
use roost_programs::{self as programs, built};
use serde_json::{Value, json};
use tempfile::TempDir;

/// It notes each call, keeps what it is given, and answers with the files that a test has written: for
/// `get daemonset` with `get-daemonset.1`, then `get-daemonset.2`, and with the last of them from then
/// on. Manifests are rendered by the real one.
const KUBECTL: &str = r#"#!/bin/sh
here=$(dirname "$0")
verb=$1; shift
case $verb in
    version|kustomize) exec "$REAL_KUBECTL" "$verb" "$@";;
esac
echo "$verb $*" >> "$here/calls"
what=
for word in "$@"; do
    case $word in
        daemonset|deployment|pods|namespace|nodes|events) test -n "$what" || what=-$word;;
        app.kubernetes.io/name=*) what=$what-${word#*=};;
        -) cat > "$here/stdin-$verb";;
    esac
done
name=$verb$what
times=$(($(cat "$here/times-$name" 2>/dev/null || echo 0) + 1))
test -e "$here/$name.$((times + 1))" && echo $times > "$here/times-$name"
while test $times -gt 1 -a ! -e "$here/$name.$times"; do times=$((times - 1)); done
if test -e "$here/$name.error"; then cat "$here/$name.error" >&2; exit 1; fi
test -e "$here/$name.$times" || exit 0
case $(head -n 1 "$here/$name.$times") in
    "Unable to connect"*) cat "$here/$name.$times" >&2; exit 1;;
esac
cat "$here/$name.$times"
"#;

/// A kubectl with its answers.
struct Cluster {
    directory: TempDir,
}

impl Cluster {
    fn new() -> Result<Self> {
        let directory = TempDir::with_prefix("roost-kubectl-")?;
        let program = directory.path().join("kubectl");
        fs::write(&program, KUBECTL)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { directory })
    }

    /// The next answers to calls of a name.
    fn answer(&self, name: &str, answers: &[Value]) -> Result<&Self> {
        for (i, answer) in answers.iter().enumerate() {
            // Nothing there: nothing is printed.
            let text = if answer.is_null() { String::new() } else { answer.to_string() };
            fs::write(self.directory.path().join(format!("{name}.{}", i + 1)), text)?;
        }
        Ok(self)
    }

    fn text(&self, name: &str, text: &str) -> Result<&Self> {
        fs::write(self.directory.path().join(name), text)?;
        Ok(self)
    }

    fn xtask(&self, arguments: &[&str]) -> Result<(Output, String)> {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/xtask");
        ensure!(xtask.exists(), "{} is missing: cargo build --package xtask", xtask.display());
        let path = [self.directory.path(), programs::registered()];
        let mut command = built(xtask)?;
        command.args(arguments).env("PATH", env::join_paths(path)?);
        command.env("REAL_KUBECTL", programs::KUBECTL.path()?);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output, said))
    }

    /// The calls so far, without those that only ask.
    fn changes(&self) -> Result<Vec<String>> {
        let calls = fs::read_to_string(self.directory.path().join("calls"))?;
        let asks = |call: &&str| call.starts_with("get ") || call.starts_with("config ");
        Ok(calls.lines().filter(|call| !asks(call)).map(str::to_owned).collect())
    }
}

fn daemon_set(ready: u64) -> Value {
    json!({
        "kind": "DaemonSet",
        "metadata": {"name": "roost", "namespace": "roost-system", "generation": 1},
        "spec": {"template": {"spec": {
            "hostNetwork": true,
            "containers": [{"name": "roost", "image": "localhost/roost:9", "args": ["run"]}],
        }}},
        "status": {
            "observedGeneration": 1, "desiredNumberScheduled": 2,
            "updatedNumberScheduled": 2, "numberAvailable": ready,
        },
    })
}

/// Nodes, and whether they are ready.
fn nodes(nodes: &[(&str, bool)]) -> Value {
    let node = |(name, ready): &(&str, bool)| {
        let status = if *ready { "True" } else { "Unknown" };
        json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        })
    };
    list(&nodes.iter().map(node).collect::<Vec<_>>())
}

fn pod(name: &str, node: &str, status: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": status})
}

fn list(pods: &[Value]) -> Value {
    json!({"kind": "List", "items": pods})
}

fn ready() -> Value {
    json!({"conditions": [{"type": "Ready", "status": "True"}]})
}

#[test]
fn deploying_waits_and_says_what_for() -> Result<()> {
    let cluster = Cluster::new()?;
    let pulling =
        json!({"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]});
    let crashed = json!({"containerStatuses": [{
        "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }]});
    cluster
        .answer("get-daemonset", &[Value::Null, daemon_set(0), daemon_set(1), daemon_set(2)])?
        .answer(
            "get-pods-roost",
            &[
                list(&[pod("roost-a", "n1", ready()), pod("roost-b", "n2", pulling)]),
                list(&[pod("roost-a", "n1", ready()), pod("roost-b", "n2", crashed)]),
                list(&[]),
            ],
        )?
        .text("logs.1", "what went wrong\n")?;
    let (output, said) = cluster.xtask(&["deploy", "--image", "r.io/roost:9"])?;
    ensure!(output.status.success(), "{said}");
    ensure!(!said.contains("rollout restart"), "{said}");
    for part in [
        "roost: 0 of 2 nodes ready",
        "roost-b on n2: ErrImagePull",
        "the image is not on that node",
        "roost: 1 of 2 nodes ready",
        "roost-b on n2: CrashLoopBackOff; ended with 1 (Error)",
        "what went wrong",
        "every node runs the daemon",
    ] {
        ensure!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    let applied = fs::read_to_string(cluster.directory.path().join("stdin-apply"))?;
    ensure!(applied.contains("image: r.io/roost:9"), "{applied}");
    let changes = cluster.changes()?;
    assert_eq!(changes[0], "apply --server-side --field-manager=cargo-xtask-deploy -f -");
    ensure!(changes.len() > 1, "no log was asked for: {changes:?}");
    ensure!(changes[1..].iter().all(|call| call.starts_with("logs ")), "{changes:?}");
    Ok(())
}

#[test]
fn a_rollout_that_hangs_ends_with_an_error() -> Result<()> {
    let cluster = Cluster::new()?;
    let pending = json!({"phase": "Pending"});
    cluster
        .answer("get-daemonset", &[daemon_set(1)])?
        .answer("get-pods-roost", &[list(&[pod("roost-b", "n2", pending)])])?;
    let (output, said) = cluster.xtask(&["deploy", "--timeout", "0"])?;
    ensure!(!output.status.success());
    ensure!(said.contains("not rolled out after 0 s: roost: 1 of 2 nodes ready"), "{said}");
    ensure!(said.contains("roost-b on n2: Pending") && said.contains("kubectl describe"), "{said}");
    Ok(())
}

#[test]
fn a_set_that_stays_as_it_is_is_not_called_new() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.answer("get-daemonset", &[daemon_set(2)])?;
    let (output, said) = cluster.xtask(&["deploy"])?;
    ensure!(output.status.success(), "{said}");
    let restart = "kubectl rollout restart --namespace roost-system daemonset/roost";
    ensure!(said.contains("is as it was") && said.contains(restart), "{said}");
    Ok(())
}

#[test]
fn a_moment_without_an_answer_ends_no_wait() -> Result<()> {
    let cluster = Cluster::new()?;
    let error = "Unable to connect to the server: dial tcp: i/o timeout\n";
    cluster
        .answer("get-daemonset", &[Value::Null, daemon_set(1)])?
        .text("get-daemonset.3", error)?
        .answer("get-pods-roost", &[list(&[pod("roost-a", "n1", ready())])])?
        .text("get-daemonset.4", &daemon_set(2).to_string())?;
    let (output, said) = cluster.xtask(&["deploy"])?;
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("asking again, because: `kubectl get --request-timeout=10s"), "{said}");
    let cluster = Cluster::new()?;
    cluster.answer("get-daemonset", &[Value::Null])?.text("get-daemonset.2", error)?;
    let (output, said) = cluster.xtask(&["deploy", "--timeout", "0"])?;
    ensure!(!output.status.success());
    ensure!(said.contains("Last, `kubectl get") && said.contains("i/o timeout"), "{said}");
    Ok(())
}

#[test]
fn pods_that_are_refused_say_why() -> Result<()> {
    let cluster = Cluster::new()?;
    let message = "Error creating: pods \"roost-\" is forbidden: exceeded quota: few";
    let event =
        json!({"involvedObject": {"kind": "DaemonSet", "name": "roost"}, "message": message});
    cluster.answer("get-daemonset", &[daemon_set(0)])?.answer("get-events", &[list(&[event])])?;
    let (output, said) = cluster.xtask(&["deploy", "--timeout", "0"])?;
    ensure!(!output.status.success());
    ensure!(said.contains("not all pods are created: Error creating: pods"), "{said}");
    ensure!(said.contains("kubectl describe --namespace roost-system daemonset/roost"), "{said}");
    Ok(())
}

#[test]
fn a_dry_run_is_the_servers_where_the_namespace_is() -> Result<()> {
    let cluster = Cluster::new()?;
    let (output, said) = cluster.xtask(&["deploy", "--dry-run"])?;
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("there is no namespace roost-system yet"), "{said}");
    assert_eq!(cluster.changes()?, ["apply --dry-run=client -f -"]);
    let cluster = Cluster::new()?;
    cluster.answer("get-namespace", &[json!({"kind": "Namespace"})])?;
    let (output, said) = cluster.xtask(&["deploy", "--dry-run"])?;
    ensure!(output.status.success(), "{said}");
    let words = "apply --server-side --field-manager=cargo-xtask-deploy --dry-run=server -f -";
    assert_eq!(cluster.changes()?, [words]);
    Ok(())
}

#[test]
fn whoever_may_not_deploy_is_told_what_it_takes() -> Result<()> {
    let cluster = Cluster::new()?;
    let forbidden = "Error from server (Forbidden): namespaces \"roost-system\" is forbidden\n";
    cluster.text("apply.error", forbidden)?;
    let (output, said) = cluster.xtask(&["deploy"])?;
    ensure!(!output.status.success());
    ensure!(said.contains("Forbidden") && said.contains("cluster-admin"), "{said}");
    Ok(())
}

#[test]
fn undeploying_says_what_stays() -> Result<()> {
    let cluster = Cluster::new()?;
    let pods = list(&[pod("roost-a", "n1", ready())]);
    cluster
        .answer("get-nodes", &[nodes(&[("n1", true)])])?
        .answer("get-daemonset", &[daemon_set(1)])?
        .answer("get-pods-roost", &[pods, list(&[])])?
        .text("delete.1", "namespace \"roost-system\" deleted\n")?;
    let (output, said) = cluster.xtask(&["undeploy"])?;
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("programs and maps stay pinned"), "{said}");
    assert_eq!(
        cluster.changes()?,
        [
            "delete daemonset roost --wait=false --namespace roost-system",
            "delete --ignore-not-found --wait=false -f -",
        ]
    );
    Ok(())
}

#[test]
fn purging_runs_detach_on_every_node_after_the_daemons_and_before_the_rest() -> Result<()> {
    let cluster = Cluster::new()?;
    let daemons = list(&[pod("roost-a", "n1", ready()), pod("roost-b", "n2", ready())]);
    let purging = |phases: [&str; 2]| {
        let pods = ["n1", "n2"].into_iter().zip(phases).enumerate();
        let pods = pods.map(|(i, (node, phase))| {
            pod(&format!("roost-purge-{i}"), node, json!({"phase": phase}))
        });
        list(&pods.collect::<Vec<_>>())
    };
    cluster
        .answer("get-nodes", &[nodes(&[("n1", true), ("n2", true)])])?
        .answer("get-daemonset", &[daemon_set(2)])?
        .answer("get-pods-roost", &[daemons.clone(), daemons, list(&[])])?
        .answer(
            "get-pods-roost-purge",
            &[list(&[]), purging(["Pending", "Running"]), purging(["Succeeded", "Succeeded"])],
        )?
        .text("logs.1", "removed the link of eth0\n")?
        .text("delete.1", "namespace \"roost-system\" deleted\n")?;
    let (output, said) = cluster.xtask(&["undeploy", "--purge"])?;
    ensure!(output.status.success(), "{said}");
    for part in ["waiting for n1: Pending, n2: Running", "n2: removed the link of eth0"] {
        ensure!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    let made = fs::read_to_string(cluster.directory.path().join("stdin-create"))?;
    let made: Value = serde_json::from_str(&made)?;
    for (i, node) in ["n1", "n2"].iter().enumerate() {
        assert_eq!(made["items"][i]["spec"]["nodeName"], *node);
        assert_eq!(made["items"][i]["spec"]["containers"][0]["args"], json!(["detach"]));
    }
    let changes = cluster.changes()?;
    let verbs: Vec<_> = changes.iter().map(|c| c.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(verbs, ["delete", "create", "logs", "logs", "delete"]);
    ensure!(changes[0].starts_with("delete daemonset"), "{changes:?}");
    Ok(())
}

#[test]
fn a_node_that_is_not_ready_holds_up_no_purge() -> Result<()> {
    let cluster = Cluster::new()?;
    let lost = pod("roost-b", "n2", ready());
    cluster
        .answer("get-nodes", &[nodes(&[("n1", true), ("n2", false)])])?
        .answer("get-daemonset", &[daemon_set(2)])?
        .answer(
            "get-pods-roost",
            // The second is never confirmed to have ended.
            &[list(&[pod("roost-a", "n1", ready()), lost.clone()]), list(&[lost])],
        )?
        .answer(
            "get-pods-roost-purge",
            // The first is of a purge before.
            &[
                list(&[pod("roost-purge-0", "n2", json!({"phase": "Pending"}))]),
                list(&[pod("roost-purge-0", "n1", json!({"phase": "Succeeded"}))]),
            ],
        )?;
    let (output, said) = cluster.xtask(&["undeploy", "--purge"])?;
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("warning: n2 is not ready, and not waited for"), "{said}");
    let now = "delete pods --ignore-not-found --force --grace-period=0";
    assert_eq!(
        cluster.changes()?,
        [
            "delete daemonset roost --wait=false --namespace roost-system",
            &format!("{now} roost-b --namespace roost-system"),
            &format!("{now} roost-purge-0 --namespace roost-system"),
            "create -f -",
            "logs roost-purge-0 --namespace roost-system",
            "delete --ignore-not-found --wait=false -f -",
        ]
    );
    Ok(())
}

#[test]
fn who_gives_up_a_purge_says_where() -> Result<()> {
    let cluster = Cluster::new()?;
    let pending = pod("roost-purge-0", "n1", json!({"phase": "Pending"}));
    cluster
        .answer("get-nodes", &[nodes(&[("n1", true)])])?
        .answer("get-daemonset", &[daemon_set(1)])?
        .answer("get-pods-roost", &[list(&[pod("roost-a", "n1", ready())]), list(&[])])?
        .answer("get-pods-roost-purge", &[list(&[]), list(&[pending])])?;
    let (output, said) = cluster.xtask(&["undeploy", "--purge", "--timeout", "0"])?;
    ensure!(!output.status.success());
    ensure!(said.contains("gave up waiting (--timeout) for n1: Pending"), "{said}");
    Ok(())
}

#[test]
fn a_set_without_nodes_leaves_nothing_to_purge() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.answer("get-daemonset", &[daemon_set(0)])?;
    let (output, said) = cluster.xtask(&["undeploy", "--purge"])?;
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("there is no node to clean"), "{said}");
    let changes = cluster.changes()?;
    ensure!(!changes.is_empty(), "nothing was deleted: {said}");
    ensure!(changes.iter().all(|call| call.starts_with("delete ")), "{said}");
    Ok(())
}

#[test]
fn purging_after_the_set_is_done_on_all_nodes() -> Result<()> {
    let cluster = Cluster::new()?;
    let succeeded = pod("roost-purge-0", "n1", json!({"phase": "Succeeded"}));
    cluster
        .answer("get-nodes", &[nodes(&[("n1", true), ("n2", false)])])?
        .answer("create", &[daemon_set(0)])?
        .answer("get-pods-roost-purge", &[list(&[]), list(&[succeeded])])?
        .text("delete.1", "namespace \"roost-system\" deleted\n")?;
    let (output, said) = cluster.xtask(&["undeploy", "--purge", "--image", "r.io/roost:9"])?;
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("cleaning all Linux nodes that are ready"), "{said}");
    let applied = fs::read_to_string(cluster.directory.path().join("stdin-apply"))?;
    let kinds: Vec<_> = applied.lines().filter(|line| line.starts_with("kind: ")).collect();
    assert_eq!(kinds, ["kind: Namespace", "kind: ServiceAccount"]);
    let made = fs::read_to_string(cluster.directory.path().join("stdin-create"))?;
    let made: Value = serde_json::from_str(&made)?;
    assert_eq!(made["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(made["items"][0]["spec"]["nodeName"], "n1");
    Ok(())
}

#[test]
fn purging_needs_nodes() -> Result<()> {
    let cluster = Cluster::new()?;
    let (output, said) = cluster.xtask(&["undeploy", "--purge"])?;
    ensure!(!output.status.success());
    ensure!(said.contains("the cluster has no Linux node that is ready"), "{said}");
    let (output, said) = cluster.xtask(&["undeploy"])?;
    ensure!(output.status.success() && said.contains("nothing of it was there"), "{said}");
    Ok(())
}
