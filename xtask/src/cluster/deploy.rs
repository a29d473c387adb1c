//! `cargo xtask deploy`.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::kubectl::{ClusterOptions, Kubectl};
use super::manifests::{What, render};
use super::rollout::{Progress, Waiting, progress};
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
    let mut words = vec!["apply", "--server-side", "--field-manager=cargo-xtask-deploy"];
    if options.force_conflicts {
        words.push("--force-conflicts");
    }
    if options.dry_run {
        words.push("--dry-run=server");
    }
    words.extend(["-f", "-"]);
    for line in kubectl.read_with(&words, &objects)?.lines() {
        eprintln!("  {line}");
    }
    if options.dry_run {
        say("nothing was changed");
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let roost =
        Workload { namespace: NAMESPACE, kind: "daemonset", name: NAME, selector: SELECTOR };
    roost.wait(&kubectl, deadline, options.timeout)?;
    if options.what.example {
        let selector = "app.kubernetes.io/name=chat";
        let namespace = "roost-example";
        let chat = Workload { namespace, kind: "deployment", name: "chat", selector };
        chat.wait(&kubectl, deadline, options.timeout)?;
        say("the example's address: kubectl get service chat --namespace roost-example");
    }
    say(format_args!(
        "every node runs the daemon; look inside with: \
         kubectl exec --namespace {NAMESPACE} daemonset/{NAME} -- roost status"
    ));
    Ok(())
}

/// What a rollout is of.
struct Workload {
    namespace: &'static str,
    kind: &'static str,
    name: &'static str,
    selector: &'static str,
}

impl Workload {
    /// Waits until it is rolled out, and tells what changes on the way.
    fn wait(&self, kubectl: &Kubectl, deadline: Instant, seconds: u64) -> Result<()> {
        let mut told = String::new();
        let mut logs = BTreeMap::new();
        loop {
            let progress = self.look(kubectl)?;
            let text = text(&progress);
            if text != told {
                say(&text);
                told = text;
            }
            if progress.done {
                return Ok(());
            }
            for pod in progress.waiting.iter().filter(|pod| pod.crashed) {
                let log = self.log(kubectl, pod);
                if logs.insert(pod.pod.clone(), log.clone()).as_ref() != Some(&log) {
                    eprintln!("  the end of the log of {}:\n{}", pod.pod, indent(&log));
                }
            }
            if Instant::now() >= deadline {
                bail!(
                    "not rolled out after {seconds} s: {told}\nWhat was applied stays. `kubectl describe \
                     pods --namespace {} --selector {}` says more",
                    self.namespace,
                    self.selector
                );
            }
            sleep(POLL);
        }
    }

    fn look(&self, kubectl: &Kubectl) -> Result<Progress> {
        let namespace = ["--namespace", self.namespace];
        let workload = kubectl.get(&[&[self.kind, self.name], &namespace[..]].concat())?;
        let Some(workload) = workload else {
            bail!("the {} {} is gone: somebody has deleted it", self.kind, self.name);
        };
        let pods =
            kubectl.get(&[&["pods", "--selector", self.selector], &namespace[..]].concat())?;
        Ok(progress(&workload, &pods.unwrap_or_default()))
    }

    /// The end of the log of a container that has ended.
    fn log(&self, kubectl: &Kubectl, pod: &Waiting) -> String {
        let words = ["logs", "--namespace", self.namespace, &pod.pod, LOG_LINES];
        let before = kubectl.read(&[&words[..], &["--previous"]].concat());
        let log = before.or_else(|_| kubectl.read(&words));
        log.unwrap_or_else(|error| format!("none: {error:#}"))
    }
}

fn text(progress: &Progress) -> String {
    let mut text = progress.line.clone();
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
