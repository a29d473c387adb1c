//! `cargo xtask undeploy`.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::kubectl::{ClusterOptions, Kubectl, Trouble};
use super::manifests::{What, of_kind, render};
use super::purge::{self, PURGE};
use super::{NAME, NAMESPACE, SELECTOR};
use crate::process::say;
use crate::workspace::Workspace;

const POLL: Duration = Duration::from_secs(1);
const IN_NAMESPACE: [&str; 2] = ["--namespace", NAMESPACE];

/// Remove from a cluster what `cargo xtask deploy` has applied, the Secret too.
///
/// Programs and maps stay pinned on the nodes: connections go on, and new ones are taken, by what the
/// daemons have said last. With --purge they are removed, which ends the connections through Roost.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Remove what is pinned on the nodes, by a pod on each that runs `roost detach`.
    #[arg(long)]
    purge: bool,
    /// With --purge where the DaemonSet is gone: run the image REF [default: localhost/roost with this
    /// version].
    #[arg(long, value_name = "REF", requires = "purge")]
    image: Option<String>,
    /// Give up waiting after SECONDS.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let kubectl = Kubectl::find(&options.cluster)?;
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let overlay = "privileged".to_owned();
    // The names are those of every overlay.
    let image = options.image.clone();
    let what = What { overlay, image, example: true, example_image: None };
    let objects = render(workspace, &kubectl, &what)?;
    let set = kubectl.get(&[&["daemonset", NAME], &IN_NAMESPACE[..]].concat())?;
    if let Some(set) = &set {
        let nodes = stop(&kubectl, deadline)?;
        if options.purge {
            purge(&kubectl, set, &nodes, deadline)?;
        }
    } else if options.purge {
        let (set, nodes) =
            without_set(&kubectl, &render(workspace, &kubectl, &What { example: false, ..what })?)?;
        purge(&kubectl, &set, &nodes, deadline)?;
    }
    let words = ["delete", "--ignore-not-found", "--wait=false", "-f", "-"];
    let deleted = kubectl.read_with(&words, &objects)?;
    for line in deleted.lines() {
        eprintln!("  {line}");
    }
    if set.is_none() && deleted.trim().is_empty() {
        say("nothing of it was there");
        return Ok(());
    }
    wait(deadline, "what is deleted is still there", || {
        let mut left = Vec::new();
        for name in [NAMESPACE, "roost-example"] {
            if kubectl.get(&["namespace", name])?.is_some() {
                left.push(format!("the namespace {name}"));
            }
        }
        Ok(left)
    })?;
    if options.purge {
        say(
            "removed; the nodes that were cleaned have nothing of Roost's any more but the directory \
             /run/roost",
        );
    } else if set.is_some() {
        say(
            "removed from the cluster. On the nodes programs and maps stay pinned: connections go on, and \
             new ones are taken by what was known last. `roost detach` on a node removes them; so does \
             `cargo xtask undeploy --purge`, still",
        );
    }
    Ok(())
}

/// Ends the daemons; returns the nodes that they were on, without those that run no pods now.
fn stop(kubectl: &Kubectl, deadline: Instant) -> Result<BTreeSet<String>> {
    let daemons = || {
        let pods = kubectl.get(&[&["pods", "--selector", SELECTOR], &IN_NAMESPACE[..]].concat())?;
        Ok::<_, anyhow::Error>(pods.unwrap_or_else(|| json!({"items": []})))
    };
    let (ready, _) = purge::ready(&kubectl.get(&["nodes"])?.unwrap_or_default());
    let before = daemons()?;
    let (nodes, lost): (BTreeSet<_>, BTreeSet<_>) =
        purge::nodes(&before).into_iter().partition(|node| ready.contains(node));
    say(format_args!("ending the daemons on {} nodes", nodes.len()));
    kubectl.read(&[&["delete", "daemonset", NAME, "--wait=false"], &IN_NAMESPACE[..]].concat())?;
    if !lost.is_empty() {
        say(format_args!(
            "warning: {} not ready, and not waited for. A daemon there ends when its node is back; what is \
             pinned there stays until then, for `cargo xtask undeploy --purge` or `roost detach` there",
            list(&lost)
        ));
        // Nobody there confirms that they have ended, and the namespace would stay for that.
        let pods = before["items"].as_array().map_or(&[][..], Vec::as_slice).iter();
        let pods =
            pods.filter(|pod| pod["spec"]["nodeName"].as_str().is_some_and(|n| lost.contains(n)));
        let names: Vec<_> = pods.filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        delete_now(kubectl, &names)?;
    }
    // A daemon that still ran would attach again what is removed.
    wait(deadline, "daemons are still there", || {
        let left = purge::nodes(&daemons()?);
        Ok(left.intersection(&nodes).map(|node| format!("the daemon on {node}")).collect())
    })?;
    Ok(nodes)
}

/// For a purge after the DaemonSet: one as it would be deployed, and all nodes for Linux that are ready.
fn without_set(kubectl: &Kubectl, objects: &str) -> Result<(Value, BTreeSet<String>)> {
    let (_, nodes) = purge::ready(&kubectl.get(&["nodes"])?.unwrap_or_default());
    ensure!(!nodes.is_empty(), "--purge: the cluster has no Linux node that is ready");
    let words = ["create", "--dry-run=client", "-o", "json", "-f", "-"];
    let set = kubectl.read_with(&words, &of_kind(objects, "DaemonSet"))?;
    let set: Value = serde_json::from_str(&set)
        .with_context(|| format!("what `kubectl {}` says", words.join(" ")))?;
    let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
    say(format_args!(
        "there is no DaemonSet {NAME} in {NAMESPACE} any more: cleaning all Linux nodes that are ready, \
         with the image {} (--image takes another)",
        image.as_str().unwrap_or_default()
    ));
    let needed = ["Namespace", "ServiceAccount"].map(|kind| of_kind(objects, kind)).join("---\n");
    let apply = ["apply", "--server-side", "--field-manager=cargo-xtask-deploy", "-f", "-"];
    kubectl.read_with(&apply, &needed)?;
    Ok((set, nodes))
}

/// Removes what is pinned on nodes, by a pod on each.
fn purge(
    kubectl: &Kubectl,
    set: &Value,
    nodes: &BTreeSet<String>,
    deadline: Instant,
) -> Result<()> {
    let label = format!("app.kubernetes.io/name={PURGE}");
    let words = [&["pods", "--selector", &label], &IN_NAMESPACE[..]].concat();
    // Those of a purge that was given up; a lock on the node keeps two from working at once.
    let old = kubectl.get(&words)?.unwrap_or_default();
    let old = old["items"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let old: Vec<_> = old.filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    delete_now(kubectl, &old)?;
    if nodes.is_empty() {
        say("there is no node to clean");
        return Ok(());
    }
    say(format_args!("running `roost detach` on {} nodes", nodes.len()));
    let pods = nodes.iter().enumerate().map(|(number, node)| purge::pod(set, number, node));
    let pods = json!({"apiVersion": "v1", "kind": "List", "items": pods.collect::<Vec<_>>()});
    kubectl.read_with(&["create", "-f", "-"], &pods.to_string())?;
    wait(deadline, "not all nodes are cleaned; their pods stay, to be looked at", || {
        let pods = kubectl.get(&words)?.unwrap_or_default();
        let mut left = purge::unfinished(&pods);
        let there = purge::nodes(&pods);
        left.extend(nodes.difference(&there).map(|node| format!("{node}: no pod")));
        Ok(left)
    })?;
    for (number, node) in nodes.iter().enumerate() {
        let pod = format!("{PURGE}-{number}");
        let log = kubectl.read(&[&["logs", &pod], &IN_NAMESPACE[..]].concat());
        let log = log.unwrap_or_else(|error| format!("cleaned, but its log is missing: {error:#}"));
        eprintln!("  {node}: {}", log.trim_end().replace('\n', ", "));
    }
    Ok(())
}

/// Takes pods out of the API without waiting for their nodes.
fn delete_now(kubectl: &Kubectl, pods: &[&str]) -> Result<()> {
    if pods.is_empty() {
        return Ok(());
    }
    let words = ["delete", "pods", "--ignore-not-found", "--force", "--grace-period=0"];
    kubectl.read(&[&words, pods, &IN_NAMESPACE[..]].concat()).map(drop)
}

/// `n1 and n2 are`.
fn list(nodes: &BTreeSet<String>) -> String {
    let names: Vec<_> = nodes.iter().map(String::as_str).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// Waits until there is nothing to wait for any more, and says what that is.
fn wait(
    deadline: Instant,
    what: &str,
    mut waits_for: impl FnMut() -> Result<Vec<String>>,
) -> Result<()> {
    let mut trouble = Trouble::default();
    let mut told = Vec::new();
    loop {
        if let Some(left) = trouble.note(waits_for()) {
            if left.is_empty() {
                return Ok(());
            }
            if left != told {
                say(format_args!("waiting for {}", left.join(", ")));
                told = left;
            }
        }
        if Instant::now() >= deadline {
            let told = told.join(", ");
            bail!("gave up waiting (--timeout) for {told}: {what}{}", trouble.last());
        }
        sleep(POLL);
    }
}
