//! `cargo xtask undeploy`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::kubectl::{ClusterOptions, Kubectl};
use super::manifests::{What, render};
use super::purge::{self, PURGE};
use super::{NAME, NAMESPACE, SELECTOR};
use crate::process::say;
use crate::workspace::Workspace;

const POLL: Duration = Duration::from_secs(1);

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
    /// Give up waiting after SECONDS.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let kubectl = Kubectl::find(&options.cluster)?;
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let in_namespace = ["--namespace", NAMESPACE];
    let set = kubectl.get(&[&["daemonset", NAME], &in_namespace[..]].concat())?;
    if let Some(set) = &set {
        stop(&kubectl, options, set, deadline)?;
    } else if options.purge {
        bail!(
            "--purge: there is no DaemonSet {NAME} in {NAMESPACE}, which would say on which nodes and \
             with which image: `cargo xtask deploy` first, or run `roost detach` on the nodes"
        );
    }
    let overlay = "privileged".to_owned();
    // The names are those of every overlay.
    let what = What { overlay, image: None, example: true, example_image: None };
    let objects = render(workspace, &kubectl, &what)?;
    let words = ["delete", "--ignore-not-found", "--wait=false", "-f", "-"];
    let deleted = kubectl.read_with(&words, &objects)?;
    for line in deleted.lines() {
        eprintln!("  {line}");
    }
    if set.is_none() && deleted.trim().is_empty() {
        say("nothing of it was there");
        return Ok(());
    }
    wait(deadline, "the namespaces are still being deleted", || {
        let left = [NAMESPACE, "roost-example"].map(|name| kubectl.get(&["namespace", name]));
        Ok(left.into_iter().collect::<Result<Vec<_>>>()?.iter().all(Option::is_none))
    })?;
    if options.purge {
        say("removed; the nodes have nothing of Roost's any more but the directory /run/roost");
    } else if set.is_some() {
        say(
            "removed from the cluster. On the nodes programs and maps stay pinned: connections go on, and \
             new ones are taken by what was known last. `roost detach` on a node removes them; so does \
             `cargo xtask deploy` and then `undeploy --purge`",
        );
    }
    Ok(())
}

/// Ends the daemons; with --purge removes what they leave.
fn stop(kubectl: &Kubectl, options: &Options, set: &Value, deadline: Instant) -> Result<()> {
    let in_namespace = ["--namespace", NAMESPACE];
    let daemons = || {
        let pods = kubectl.get(&[&["pods", "--selector", SELECTOR], &in_namespace[..]].concat())?;
        Ok::<_, anyhow::Error>(pods.unwrap_or_else(|| json!({"items": []})))
    };
    let nodes = purge::nodes(&daemons()?);
    say(format_args!("ending the daemons on {} nodes", nodes.len()));
    kubectl.read(&[&["delete", "daemonset", NAME, "--wait=false"], &in_namespace[..]].concat())?;
    // A daemon that still ran would attach again what is removed.
    wait(deadline, "daemons are still there", || Ok(purge::nodes(&daemons()?).is_empty()))?;
    if !options.purge {
        return Ok(());
    }
    say(format_args!("running `roost detach` on {} nodes", nodes.len()));
    let pods = nodes.iter().enumerate().map(|(number, node)| purge::pod(set, number, node));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": pods.collect::<Vec<_>>()});
    kubectl.read_with(&["create", "-f", "-"], &list.to_string())?;
    let label = format!("app.kubernetes.io/name={PURGE}");
    let mut told = Vec::new();
    wait(deadline, "not all nodes are cleaned; their pods stay, to be looked at", || {
        let words = [&["pods", "--selector", &label], &in_namespace[..]].concat();
        let pods = kubectl.get(&words)?.unwrap_or_default();
        let unfinished = purge::unfinished(&pods);
        if unfinished != told && !unfinished.is_empty() {
            say(format_args!("waiting for {}", unfinished.join(", ")));
            told.clone_from(&unfinished);
        }
        let all = pods["items"].as_array().map_or(0, Vec::len) == nodes.len();
        Ok(all && unfinished.is_empty())
    })?;
    for (number, node) in nodes.iter().enumerate() {
        let pod = format!("{PURGE}-{number}");
        let log = kubectl.read(&[&["logs", &pod], &in_namespace[..]].concat());
        let log = log.with_context(|| format!("what was removed from {node}"))?;
        eprintln!("  {node}: {}", log.trim_end().replace('\n', ", "));
    }
    Ok(())
}

fn wait(deadline: Instant, what: &str, mut is_done: impl FnMut() -> Result<bool>) -> Result<()> {
    while !is_done()? {
        if Instant::now() >= deadline {
            bail!("gave up waiting (--timeout): {what}");
        }
        sleep(POLL);
    }
    Ok(())
}
