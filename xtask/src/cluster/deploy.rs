//! `cargo xtask deploy`.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use super::kubectl::{ClusterOptions, Kubectl, Trouble};
use super::manifests::{What, render};
use super::rollout::{Progress, Waiting, progress, refused};
use super::{NAME, NAMESPACE, SELECTOR};
use crate::process::say;
use crate::workspace::Workspace;

/// How often the API server is asked how far it is.
const POLL: Duration = Duration::from_secs(1);
/// How much of a log is shown.
const LOG_LINES: &str = "--tail=8";

/// Apply the objects of deploy/ to a cluster, and wait until every node runs the daemon.
///
/// Applies by the server (`kubectl apply --server-side`), so it can be repeated: what has changed is
/// changed, node after node, and connections stay. The image has to be on the nodes or in a registry
/// that they reach: `cargo xtask image`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Take over fields that somebody else has set.
    #[arg(long)]
    force_conflicts: bool,
    /// Say what the server would do, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Give up waiting after SECONDS; what was applied stays.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let kubectl = Kubectl::find(&options.cluster)?;
    let objects = render(workspace, &kubectl, &options.what)?;
    let context = kubectl.context();
    let to = context.map_or_else(|| "the cluster".to_owned(), |name| format!("the context {name}"));
    say(format_args!("applying overlay {} to {to}", options.what.overlay));
    let workloads: &[Workload] = if options.what.example { &[ROOST, CHAT] } else { &[ROOST] };
    let words = words(&kubectl, options, workloads)?;
    let before = match options.dry_run {
        true => Vec::new(),
        false => workloads.iter().map(|it| it.generation(&kubectl)).collect::<Result<_>>()?,
    };
    for line in kubectl.read_with(&words, &objects)?.lines() {
        eprintln!("  {line}");
    }
    if options.dry_run {
        say("nothing was changed");
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    for (workload, before) in workloads.iter().zip(before) {
        let after = workload.wait(&kubectl, deadline, options.timeout)?;
        if before == Some(after) {
            let Workload { namespace, kind, name, .. } = workload;
            say(format_args!(
                "the {kind} {name} is as it was, so no pod was replaced. An image that was made anew under \
                 the same name is taken with: kubectl rollout restart --namespace {namespace} {kind}/{name}"
            ));
        }
    }
    if options.what.example {
        say("the example's address: kubectl get service chat --namespace roost-example");
    }
    say(format_args!(
        "every node runs the daemon; look inside with: \
         kubectl exec --namespace {NAMESPACE} daemonset/{NAME} -- roost status"
    ));
    Ok(())
}

/// How the objects are applied, or are not.
fn words(
    kubectl: &Kubectl,
    options: &Options,
    workloads: &[Workload],
) -> Result<Vec<&'static str>> {
    let mut words = vec!["apply", "--server-side", "--field-manager=cargo-xtask-deploy"];
    if options.force_conflicts {
        words.push("--force-conflicts");
    }
    if options.dry_run {
        words.push("--dry-run=server");
        for Workload { namespace, .. } in workloads {
            if kubectl.get(&["namespace", namespace])?.is_none() {
                // Objects in it would be refused, as a dry run does not make it.
                say(format_args!(
                    "there is no namespace {namespace} yet, in which the server could try: this is what \
                     kubectl would do by itself"
                ));
                words = vec!["apply", "--dry-run=client"];
                break;
            }
        }
    }
    words.extend(["-f", "-"]);
    Ok(words)
}

const ROOST: Workload =
    Workload { namespace: NAMESPACE, kind: "daemonset", name: NAME, selector: SELECTOR };
const CHAT: Workload = Workload {
    namespace: "roost-example",
    kind: "deployment",
    name: "chat",
    selector: "app.kubernetes.io/name=chat",
};

/// What a rollout is of.
struct Workload {
    namespace: &'static str,
    kind: &'static str,
    name: &'static str,
    selector: &'static str,
}

impl Workload {
    /// Waits until it is rolled out, and tells what changes on the way. Returns its generation.
    fn wait(&self, kubectl: &Kubectl, deadline: Instant, seconds: u64) -> Result<u64> {
        let Self { namespace, kind, name, selector } = self;
        let mut told = String::new();
        let mut logs = BTreeMap::new();
        let mut trouble = Trouble::default();
        loop {
            if let Some(found) = trouble.note(self.look(kubectl)) {
                let Some((generation, progress, refused)) = found else {
                    bail!("the {kind} {name} is gone: somebody has deleted it");
                };
                let text = text(&progress, refused.as_deref());
                if text != told {
                    say(&text);
                    told = text;
                }
                if progress.done {
                    return Ok(generation);
                }
                for pod in progress.waiting.iter().filter(|pod| pod.crashed) {
                    let log = self.log(kubectl, pod);
                    if logs.insert(pod.pod.clone(), log.clone()).as_ref() != Some(&log) {
                        eprintln!("  the end of the log of {}:\n{}", pod.pod, indent(&log));
                    }
                }
            }
            if Instant::now() >= deadline {
                bail!(
                    "not rolled out after {seconds} s: {told}\nWhat was applied stays. `kubectl describe \
                     --namespace {namespace} {kind}/{name}` says more, and of its pods `kubectl describe \
                     pods --namespace {namespace} --selector {selector}`{}",
                    trouble.last()
                );
            }
            sleep(POLL);
        }
    }

    fn get(&self, kubectl: &Kubectl) -> Result<Option<Value>> {
        kubectl.get(&[self.kind, self.name, "--namespace", self.namespace])
    }

    /// Which version of it the cluster has; `None`: none.
    fn generation(&self, kubectl: &Kubectl) -> Result<Option<u64>> {
        Ok(self.get(kubectl)?.map(|it| generation(&it)))
    }

    /// Its generation, how far it is, and why pods are not created; `None` without the workload.
    fn look(&self, kubectl: &Kubectl) -> Result<Option<(u64, Progress, Option<String>)>> {
        let Some(workload) = self.get(kubectl)? else { return Ok(None) };
        let namespace = ["--namespace", self.namespace];
        let pods =
            kubectl.get(&[&["pods", "--selector", self.selector], &namespace[..]].concat())?;
        let progress = progress(&workload, &pods.unwrap_or_default());
        let mut why = None;
        if progress.too_few {
            let selector = ["events", "--field-selector", "reason=FailedCreate"];
            let events = kubectl.get(&[&selector[..], &namespace[..]].concat())?;
            why = refused(&events.unwrap_or_default(), self.name);
        }
        Ok(Some((generation(&workload), progress, why)))
    }

    /// The end of the log of a container that has ended.
    fn log(&self, kubectl: &Kubectl, pod: &Waiting) -> String {
        let words = ["logs", "--namespace", self.namespace, &pod.pod, LOG_LINES];
        let before = kubectl.read(&[&words[..], &["--previous"]].concat());
        let log = before.or_else(|_| kubectl.read(&words));
        log.unwrap_or_else(|error| format!("none: {error:#}"))
    }
}

fn generation(workload: &Value) -> u64 {
    workload["metadata"]["generation"].as_u64().unwrap_or(0)
}

fn text(progress: &Progress, refused: Option<&str>) -> String {
    let mut text = progress.line.clone();
    if let Some(why) = refused {
        text.push_str(&format!("\n  not all pods are created: {why}"));
    }
    for Waiting { pod, node, why, .. } in &progress.waiting {
        let on = if node.is_empty() { String::new() } else { format!(" on {node}") };
        text.push_str(&format!("\n  {pod}{on}: {why}"));
    }
    if progress
        .waiting
        .iter()
        .any(|pod| pod.why.contains("ErrImage") || pod.why.contains("ImagePull"))
    {
        text.push_str(
            "\n  the image is not on that node, and in no registry that it reaches: `cargo xtask image` \
             makes it and says how to bring it there; --image takes another",
        );
    }
    text
}

fn indent(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect::<String>()
        .trim_end()
        .into()
}
