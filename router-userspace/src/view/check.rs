//! What this machine and its interfaces can do, and what to do about the rest.

mod interface;
mod machine;
mod network;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{attach::uplinks, plan::config::Config};

/// What to look at, beside the machine.
#[derive(Clone, Debug, Default)]
pub struct LookAt {
    /// Interfaces that clients reach.
    pub interfaces: Vec<String>,
    /// A configuration file, its interfaces, and the way to its replicas.
    pub config: Option<PathBuf>,
    /// As a daemon beside a cluster would find it: without interfaces those of the default routes.
    pub kubernetes: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, with a cost or a risk.
    Warn,
    /// Does not work.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// `ok`, `warn` or `fail`.
    pub level: Level,
    /// The interface, or null for the machine.
    pub interface: Option<String>,
    /// What was looked at, a stable name.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if there is nothing to do.
    pub advice: String,
}

impl Finding {
    fn new(level: Level, check: &'static str, found: String, advice: String) -> Self {
        Self { level, interface: None, check, found, advice }
    }
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, found.into(), String::new())
    }
    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Warn, check, found.into(), advice.into())
    }
    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Fail, check, found.into(), advice.into())
    }
    fn of(self, interface: &str) -> Self {
        Self { interface: Some(interface.to_owned()), ..self }
    }
}

/// JSON: `{"fails": n, "warns": n, "findings": [{"level", "interface", "check", "found",
/// "advice"}]}`.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// Findings that are `fail`.
    pub fails: usize,
    /// Findings that are `warn`.
    pub warns: usize,
    /// All findings, those about the machine first.
    pub findings: Vec<Finding>,
}

/// Looks at the machine and at the interfaces that were asked for.
pub fn check(look_at: &LookAt, pin_dir: &Path) -> CheckReport {
    let LookAt { interfaces: named, config, kubernetes } = look_at;
    let mut findings = machine::findings(pin_dir);
    let mut interfaces = named.clone();
    let config = config.as_deref().map(|file| match kubernetes {
        true => uplinks::load(file, named, pin_dir),
        false => Config::load(file),
    });
    match &config {
        None => {
            findings.extend(network::forwarding(None, *kubernetes));
            if *kubernetes {
                match uplinks::of(named, pin_dir) {
                    Ok(found) => interfaces.extend(found),
                    Err(e) => findings.push(Finding::fail("interfaces", "none", e.to_string())),
                }
            }
        }
        Some(Ok(config)) => {
            let services = config.services.len();
            findings.push(Finding::ok("config", format!("valid; services: {services}")));
            findings.extend(network::forwarding(Some(config), *kubernetes));
            interfaces.extend(config.interfaces.iter().cloned());
        }
        Some(Err(error)) => findings.extend(error.problems.iter().map(|problem| {
            // One of the file as a whole is at line 0.
            let place = match problem.line {
                0 => error.file.clone(),
                line => format!("{}:{line}:{}", error.file, problem.column),
            };
            Finding::fail("config", place, format!("{} {}", problem.field, problem.message))
        })),
    }
    interfaces.sort();
    interfaces.dedup();
    for name in &interfaces {
        findings.extend(interface::findings(name, pin_dir));
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    CheckReport { fails: count(Level::Fail), warns: count(Level::Warn), findings }
}

/// A value under `/proc/sys`, without the line's end.
fn sysctl(path: &str) -> Option<String> {
    Some(fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_a_cluster_a_file_is_checked_as_it_is_run() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("roost.toml");
        let checked = |text: &str, interface: &[&str], kubernetes| {
            fs::write(&file, text).unwrap();
            let interfaces = interface.iter().map(|&name| name.to_owned()).collect();
            let args = LookAt { interfaces, config: Some(file.clone()), kubernetes };
            check(&args, directory.path())
        };
        let of_config = |report: &CheckReport| {
            let found = report.findings.iter().find(|finding| finding.check == "config");
            found.map(|finding| (finding.level, finding.advice.clone())).unwrap()
        };
        let on = |report: &CheckReport| {
            let names = report.findings.iter().filter_map(|finding| finding.interface.clone());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let empty = "# the routes say which\n";

        let alone = checked(empty, &[], false);
        let (level, advice) = of_config(&alone);
        assert_eq!(level, Level::Fail);
        assert!(advice.starts_with("interfaces is missing; write"), "{advice}");
        assert!(advice.contains("with --kubernetes, it may be left out"), "{advice}");
        assert!(on(&alone).is_empty());

        // As they are named by --interface here: the routes of this machine are not known.
        let beside = checked(empty, &["lo"], true);
        assert_eq!(of_config(&beside).0, Level::Ok);
        assert!(on(&beside).iter().eq(["lo"]));

        let named = checked("interfaces = [\"lo\"]\n", &[], true);
        assert_eq!(of_config(&named).0, Level::Ok);
        assert!(on(&named).iter().eq(["lo"]));
        // What is wrong for the daemon is wrong here.
        assert_eq!(of_config(&checked("interfaces = []\n", &[], true)).0, Level::Fail);

        fs::remove_file(&file).unwrap();
        let args = LookAt { interfaces: Vec::new(), config: Some(file.clone()), kubernetes: true };
        let gone = check(&args, directory.path());
        let found = gone.findings.iter().find(|finding| finding.check == "config").unwrap();
        assert_eq!(found.found, file.display().to_string());
        assert!(found.advice.contains("cannot be read"), "{}", found.advice);
    }
}
