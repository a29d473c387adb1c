//! kubectl, and the cluster that it is told to speak to.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use roost_programs::{KUBECTL, Need, built};
use serde_json::Value;

use crate::{apt, process};

/// How long an answer may take, as it does where the way to the API server is cut.
const TIMEOUT: &str = "--request-timeout=10s";

/// Which cluster.
#[derive(Args, Clone, Default)]
pub struct ClusterOptions {
    /// Reach the cluster by this FILE [default: KUBECONFIG, ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Use the context NAME of it [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// kubectl with the words that every call begins with.
pub struct Kubectl {
    program: PathBuf,
    words: Vec<OsString>,
}

impl Kubectl {
    /// Finds kubectl; without one installs Debian's.
    pub fn find(options: &ClusterOptions) -> Result<Self> {
        apt::ensure(&apt::programs(&[Need::Kubectl]), "for kubectl")?;
        let program = KUBECTL.find().context(
            "there is no kubectl in PATH: install one (https://kubernetes.io/docs/tasks/tools/)",
        )?;
        let mut words = Vec::new();
        if let Some(file) = &options.kubeconfig {
            words.extend(["--kubeconfig".into(), file.into()]);
        }
        if let Some(name) = &options.context {
            words.extend(["--context".into(), name.into()]);
        }
        Ok(Self { program, words })
    }

    /// Whether its kustomize is older than 2.1: Debian 12's is. It knows other words for some fields.
    pub fn is_old(&self) -> Result<bool> {
        let mut version = built(&self.program)?;
        let version: Value = serde_json::from_str(&process::read(
            version.args(["version", "--client", "-o", "json"]),
        )?)
        .context("what `kubectl version --client -o json` says")?;
        let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
        let minor: u32 = minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        // kubectl 1.21 brought kustomize 4.
        Ok(minor < 21)
    }

    /// The context that is used, as far as there is one.
    pub fn context(&self) -> Option<String> {
        let given = self.words.iter().position(|word| word == "--context");
        match given {
            Some(at) => Some(self.words[at + 1].to_string_lossy().into_owned()),
            None => Some(self.read(&["config", "current-context"]).ok()?.trim().to_owned()),
        }
    }

    /// A call with these words.
    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = built(&self.program)?;
        command.args(&self.words).args(words);
        Ok(command)
    }

    /// What a call writes to stdout.
    pub fn read(&self, words: &[&str]) -> Result<String> {
        self.read_with(words, "")
    }

    /// The same, with something on stdin.
    pub fn read_with(&self, words: &[&str], stdin: &str) -> Result<String> {
        let output = self.output(words, stdin)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let said = said.trim();
            bail!("`kubectl {}` failed:\n{said}{}", words.join(" "), hint(said));
        }
        // Warnings of the server, such as those of pod security.
        for line in said.lines() {
            eprintln!("  {line}");
        }
        String::from_utf8(output.stdout).context("kubectl wrote something that is not UTF-8")
    }

    /// An object or a list; `None` if there is no such thing.
    pub fn get(&self, words: &[&str]) -> Result<Option<Value>> {
        let words = [&["get", TIMEOUT, "--ignore-not-found", "-o", "json"], words].concat();
        let text = self.read(&words)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let value = serde_json::from_str(&text);
        value.map(Some).with_context(|| format!("what `kubectl {}` says", words.join(" ")))
    }

    fn output(&self, words: &[&str], stdin: &str) -> Result<Output> {
        let mut command = self.command(words)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = || format!("running {}", self.program.display());
        let mut child = command.spawn().with_context(run)?;
        let mut pipe = child.stdin.take().context("kubectl has no stdin")?;
        let text = stdin.to_owned();
        // In a thread: it may answer before it has read everything. If it ends early, its status says so.
        let writer = std::thread::spawn(move || pipe.write_all(text.as_bytes()));
        let output = child.wait_with_output().with_context(run);
        let _ = writer.join();
        output
    }
}

/// What failed last, for those who ask again: attaching programs may cut the way to the API server for a
/// moment.
#[derive(Default)]
pub struct Trouble(Option<String>);

impl Trouble {
    /// What was answered, or `None` for a failure; says one that is new.
    pub fn note<T>(&mut self, answer: Result<T>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.0 = None;
                Some(answer)
            }
            Err(error) => {
                let text = format!("{error:#}");
                if self.0.as_ref() != Some(&text) {
                    process::say(format_args!("asking again, because: {text}"));
                }
                self.0 = Some(text);
                None
            }
        }
    }

    /// For the message of who gives up.
    pub fn last(&self) -> String {
        self.0.as_ref().map(|text| format!("\nLast, {text}")).unwrap_or_default()
    }
}

/// What would be right, for errors that are not about Roost.
fn hint(said: &str) -> &'static str {
    let has = |text: &str| said.contains(text);
    if has("connect: connection refused") || has("was refused - did you specify the right host") {
        "\nno API server answers there: is the cluster up, and is it the right one? \
         --kubeconfig and --context say which, `kubectl config get-contexts` shows those there are"
    } else if has("does not exist") && has("context") {
        "\n`kubectl config get-contexts` shows the contexts there are"
    } else if has("(Forbidden)") || has("is forbidden") {
        "\nwhoever deploys has to be allowed to create namespaces, ClusterRoles with the rights that they \
         give, and DaemonSets: the role cluster-admin has all of it"
    } else if has("Apply failed with") && has("conflict") {
        "\nsomebody else has set these fields, for example `kubectl apply` without --server-side: \
         --force-conflicts takes them over"
    } else if has("no such host") || has("i/o timeout") || has("Unable to connect to the server") {
        "\nthe API server cannot be reached: --kubeconfig and --context say which it is"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_failures_say_what_would_be_right() {
        for (said, hint_has) in [
            (
                "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
                "--kubeconfig",
            ),
            ("error: context \"nope\" does not exist", "get-contexts"),
            ("Error from server (Forbidden): namespaces is forbidden: User \"x\"", "cluster-admin"),
            (
                "error: Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\"",
                "--force-conflicts",
            ),
            (
                "Unable to connect to the server: dial tcp: lookup nope: no such host",
                "--kubeconfig",
            ),
        ] {
            assert!(hint(said).contains(hint_has), "{said}");
        }
        assert_eq!(hint("something else"), "");
    }
}
