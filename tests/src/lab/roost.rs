//! The daemon on the lab's node.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use roost_programs::{Program, UNSHARE};

use super::netns::Netns;
use super::process::Process;
use super::{Lab, pins, tools, try_until};

/// How long the daemon may take to load and attach, on a loaded machine.
const START: Duration = Duration::from_secs(180);

/// `roost run` on the node, with a configuration file and a pin directory of its own.
#[derive(Debug)]
pub struct Roost {
    node: Arc<Netns>,
    binary: PathBuf,
    config: PathBuf,
    /// What it is started with.
    arguments: Vec<OsString>,
    /// The account's directory and the API server, if it is started as in a pod.
    pod: Option<(PathBuf, SocketAddr)>,
    pin_dir: PathBuf,
    /// What runs the program, and its words before it, if it is not to run by itself.
    wrapper: Option<(Program, Vec<OsString>)>,
    process: Option<Process>,
}

impl Roost {
    /// Starts it as in a pod: with the account in a directory, and what tells pods of the API server.
    pub fn start_in_pod(
        lab: &Lab,
        account: &Path,
        server: SocketAddr,
        arguments: &[&OsStr],
    ) -> Result<Self> {
        let mut roost = Self::new(lab, arguments)?;
        roost.pod = Some((account.to_owned(), server));
        roost.restart()?;
        Ok(roost)
    }

    /// Writes `config` to a file, starts the daemon with it and waits until it is ready.
    pub fn start(lab: &Lab, config: &str) -> Result<Self> {
        Self::start_with(lab, Some(config), &[])
    }

    /// The same with further arguments, and perhaps without a file.
    pub fn start_with(lab: &Lab, config: Option<&str>, arguments: &[&OsStr]) -> Result<Self> {
        let mut roost = Self::new(lab, arguments)?;
        if let Some(config) = config {
            roost.arguments.extend(["--config".into(), roost.config.clone().into()]);
            roost.write_config(config)?;
        }
        roost.restart()?;
        Ok(roost)
    }

    /// The same as [`Roost::start`], with every command run by another, such as setpriv, with its words.
    pub fn start_under(lab: &Lab, config: &str, by: Program, words: &[&str]) -> Result<Self> {
        let mut roost = Self::new(lab, &[])?;
        roost.wrapper = Some((by, words.iter().map(OsString::from).collect()));
        roost.arguments.extend(["--config".into(), roost.config.clone().into()]);
        roost.write_config(config)?;
        roost.restart()?;
        Ok(roost)
    }

    fn new(lab: &Lab, arguments: &[&OsStr]) -> Result<Self> {
        Ok(Self {
            node: Arc::clone(&lab.node),
            binary: tools::binary("roost", "ROOST_BIN")?,
            config: lab.dir().join("roost.toml"),
            arguments: arguments.iter().map(OsString::from).collect(),
            pod: None,
            pin_dir: lab.pin_dir(),
            wrapper: None,
            process: None,
        })
    }

    /// Rewrites the configuration file, as an editor does: a running daemon notices.
    pub fn write_config(&self, config: &str) -> Result<()> {
        let new = self.config.with_extension("new");
        fs::write(&new, config).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, &self.config).context("replacing the configuration file")
    }

    /// Starts the daemon (after [`Roost::kill`]) and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.process = None;
        let mut command = match &self.pod {
            None => self.command(&["run"])?,
            Some((account, server)) => self.pod_command(account, *server)?,
        };
        command.args(&self.arguments);
        let process = Process::spawn("roost run", &mut command)?;
        process.wait_line(START, "roost::daemon: ready")?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until `roost status` says that a link of a pod is served, or is not listed any more.
    pub fn wait_client_link(&self, link: &str, is_served: bool) -> Result<()> {
        try_until(START, &format!("{link} to be served: {is_served}"), || {
            let status = self.json(&["status"])?;
            let all = status["interfaces"].as_array().context("no interfaces")?;
            let line = all.iter().find(|line| line["interface"] == link);
            let is_so = match line {
                Some(line) if is_served => {
                    let is_there = |way: &&str| line[*way] == "tcx" || line[*way] == "clsact";
                    let is_whole = ["ingress", "egress"].iter().all(is_there);
                    is_whole && line["clients"] == "inside" && line["problem"] == ""
                }
                line => line.is_none() && !is_served,
            };
            Ok(is_so.then_some(()))
        })
    }

    /// Kills the daemon with SIGKILL; maps and programs stay.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The daemon's process; panics after [`Roost::kill`].
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the daemon was killed")
    }

    /// The daemon's process number; panics after [`Roost::kill`].
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon was killed").pid()
    }

    /// The program that runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Where the daemon pins.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Where its configuration is.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs a subcommand with `-o json` on the node; returns what it prints.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let mut command = self.command(args)?;
        let text = tools::finish(command.args(["-o", "json"]), None)?;
        serde_json::from_str(&text).with_context(|| format!("`roost {}`: {text}", args.join(" ")))
    }

    /// Runs a subcommand on the node; returns what it prints for people.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        // With colours, although it is a pipe: whoever shows the text takes them out if need be.
        tools::finish(self.command(args)?.env("CLICOLOR_FORCE", "1"), None)
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = match &self.wrapper {
            None => self.node.command(&self.binary)?,
            Some((wrapper, words)) => {
                let mut command = self.node.command(*wrapper)?;
                command.args(words).arg(&self.binary);
                command
            }
        };
        command.args(args).arg("--pin-dir").arg(&self.pin_dir);
        Ok(command)
    }

    /// `roost run` where pods have their account, in a mount namespace of its own.
    fn pod_command(&self, account: &Path, server: SocketAddr) -> Result<Command> {
        // As the machine may have no such directory, all of /run is another one.
        const SCRIPT: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io && \
             cp -r \"$0\" /run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
        let mut command = self.node.command(UNSHARE)?;
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT]);
        command.arg(account).arg(&self.binary).args(["run", "--pin-dir"]).arg(&self.pin_dir);
        command.env("KUBERNETES_SERVICE_HOST", server.ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", server.port().to_string());
        command.env_remove("KUBECONFIG").env_remove("HOME");
        Ok(command)
    }
}

impl Drop for Roost {
    fn drop(&mut self) {
        self.process = None;
        pins::remove(&self.pin_dir);
    }
}
