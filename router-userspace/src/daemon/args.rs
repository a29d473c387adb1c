//! The arguments of `roost run`, and what they mean for the log.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use super::http::Listen;
use crate::plan::{config::LinkPattern, duration};

/// Run the daemon: load, attach, and follow the configuration file
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Read services and replicas from FILE, and follow its changes
    #[arg(long, value_name = "FILE", env = "ROOST_CONFIG", required_unless_present = "kubernetes")]
    pub config: Option<PathBuf>,

    /// Say whether the file is good, and change nothing
    #[arg(long, requires = "config")]
    pub check_only: bool,

    /// Log what the data path does with every connection (slower)
    #[arg(long)]
    pub events: bool,

    /// Read every DURATION what replicas carry, and tell the ends of flows that the kernel has ended
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub round_interval: Duration,

    /// Write the log, on standard error, as FORMAT
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// Log at LEVEL: error, warn, info, debug or trace, also by module
    #[arg(long, value_name = "LEVEL", env = "ROOST_LOG", default_value = "info")]
    pub log_level: String,

    /// Answer /healthz, /readyz and /metrics on ADDRESS:PORT, or on :PORT of all addresses; several
    /// with commas between them [default: on none]
    #[arg(long, value_name = "ADDRESS:PORT", env = "ROOST_LISTEN", value_delimiter = ',')]
    pub listen: Vec<Listen>,

    /// Processes of this machine that are to be clients are those under the cgroup (v2) at DIRECTORY [default: where one is
    /// mounted]
    #[arg(long, value_name = "DIRECTORY")]
    pub cgroup: Option<PathBuf>,

    /// What is said about a cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// The part of the arguments that is about a Kubernetes cluster.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct ClusterArgs {
    /// Also read services and replicas from a cluster, and follow its changes
    #[arg(long)]
    pub kubernetes: bool,

    /// Reach the API server by this FILE [default: KUBECONFIG, ~/.kube/config, or the pod's account]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,

    /// This machine is the Node NAME [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,

    /// What the daemons of a cluster share is in the namespace NAME [default: the pod's, or the
    /// kubeconfig's]
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub namespace: Option<String>,

    /// Attach to the interface NAME, also more than one [default: the default routes', or the file's]
    #[arg(long, value_name = "NAME", requires = "kubernetes", conflicts_with = "config")]
    pub interface: Vec<String>,

    /// Clients are also at the other ends of the links that are called so: a name or a pattern such as "veth*", also more than
    /// one [default: none, or the file's]
    #[arg(long, value_name = "PATTERN", requires = "kubernetes", conflicts_with = "config", value_parser = LinkPattern::parse)]
    pub client_link: Vec<LinkPattern>,

    /// Processes of this machine itself are clients, too [default: they are not, or as the file says]
    #[arg(long, requires = "kubernetes", conflicts_with = "config")]
    pub host_clients: bool,

    /// When a list of the API server empties a service, without an event that says so, keep the
    /// service for DURATION; 0s believes it at once
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = hold)]
    pub empty_list_hold: Duration,

    /// The keys of the cluster are in the Secret NAME, in the daemons' namespace; the first daemon
    /// creates it
    #[arg(long, value_name = "NAME", requires = "kubernetes", value_parser = object_name)]
    pub secret: Option<String>,

    /// Rotate the handshake key in the Secret every DURATION (15m or more); 0s never
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = rotation)]
    pub rotate_handshake: Duration,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object on each line
    Json,
}

impl RunArgs {
    /// Starts logging to standard error, for the whole process.
    pub(super) fn start_logging(&self) -> Result<()> {
        let filter = EnvFilter::try_new(self.log_filter()).with_context(|| {
            let level = &self.log_level;
            format!("--log-level {level:?}: write for example \"debug\" or \"roost=debug\"")
        })?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => log.try_init(),
            LogFormat::Json => log.json().flatten_event(true).try_init(),
        }
        .map_err(|e| anyhow::anyhow!("starting the log: {e}"))
    }

    /// A level alone is for what roost itself says; its events come under the names of the crates
    /// of the data path. Of the loader's library only errors matter here: it warns, with hundreds of
    /// lines, when the kernel does not take the debug information of an object. What fails towards the API
    /// server is said where it is known what it means.
    fn log_filter(&self) -> String {
        let level = self.log_level.trim();
        if level.contains(['=', ',']) {
            return level.to_owned();
        }
        let events = if self.events { "trace" } else { "off" };
        format!(
            "warn,aya=error,kube_client=off,roost={level},roost_ebpf={events},router_ebpf={events}"
        )
    }
}

/// `200ms`, `5s`, `1m30s`: at least 10 ms.
fn duration(text: &str) -> Result<Duration, String> {
    duration::parse(text, &duration::MILLISECONDS)
        .filter(|duration| *duration >= Duration::from_millis(10))
        .ok_or_else(|| "write a duration of 10ms or more, such as 200ms, 5s or 1m".into())
}

fn hold(text: &str) -> Result<Duration, String> {
    if text == "0s" { Ok(Duration::ZERO) } else { duration(text) }
}

/// A rotation takes five to seven minutes, and cookies are good for two.
fn rotation(text: &str) -> Result<Duration, String> {
    let least = Duration::from_secs(15 * 60);
    let wrong = || "write a duration of 15m or more, such as 24h, or 0s".to_owned();
    hold(text).ok().filter(|period| period.is_zero() || *period >= least).ok_or_else(wrong)
}

/// The name of an object, as Kubernetes takes it.
fn object_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            label.starts_with(is_plain)
                && label.ends_with(is_plain)
                && label.chars().all(|c| is_plain(c) || c == '-')
        });
    let wrong = "write small letters, digits, dashes and dots, such as roost";
    is_name.then(|| text.to_owned()).ok_or_else(|| wrong.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "5", "s", "1ms", "0s", "-5s", "5 s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rotations_are_longer_than_their_steps() {
        assert_eq!(rotation("0s"), Ok(Duration::ZERO));
        assert_eq!(rotation("15m"), Ok(Duration::from_secs(900)));
        for wrong in ["", "0", "14m", "899s", "1d"] {
            assert!(rotation(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_of_secrets_are_those_that_kubernetes_takes() {
        assert!(["roost", "a.b-c.2"].iter().all(|name| object_name(name).is_ok()));
        for wrong in ["", "Roost", "-a", "a-", "a..b", "a_b", "a/b"] {
            assert!(object_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
