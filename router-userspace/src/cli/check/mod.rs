//! `roost check`: what this machine and its interfaces can do, and what to do about the rest.

mod ethtool;
mod interface;
mod machine;
mod network;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{
    output::Report,
    table::{Cell, Table},
    text::NONE,
};
use crate::config::Config;

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Check the interface IF, which clients reach; can be given more than once
    #[arg(long, short, value_name = "IF")]
    pub interface: Vec<String>,
    /// Check the configuration in FILE, its interfaces, and the way to its replicas
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
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
pub fn check(args: &CheckArgs, pin_dir: &Path) -> CheckReport {
    let mut findings = machine::findings(pin_dir);
    let mut interfaces = args.interface.clone();
    let config = args.config.as_deref().map(Config::load);
    match &config {
        None => findings.extend(network::forwarding(None)),
        Some(Ok(config)) => {
            let services = config.services.len();
            findings.push(Finding::ok("config", format!("valid; services: {services}")));
            findings.extend(network::forwarding(Some(config)));
            interfaces.extend(config.interfaces.iter().cloned());
        }
        Some(Err(error)) => findings.extend(error.problems.iter().map(|problem| {
            let place = format!("{}:{}:{}", error.file, problem.line, problem.column);
            Finding::fail("config", place, format!("{} {}", problem.field, problem.message))
        })),
    }
    interfaces.sort();
    interfaces.dedup();
    for name in &interfaces {
        findings.extend(interface::findings(name));
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    CheckReport { fails: count(Level::Fail), warns: count(Level::Warn), findings }
}

/// A value under `/proc/sys`, without the line's end.
fn sysctl(path: &str) -> Option<String> {
    Some(fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?.trim().to_owned())
}

impl Report for CheckReport {
    fn text(&self) -> String {
        let mut table = Table::new(["level", "on", "check", "found", "what to do"]);
        for finding in &self.findings {
            let (level, colour) = match finding.level {
                Level::Ok => ("ok", AnsiColor::Green),
                Level::Warn => ("warn", AnsiColor::Yellow),
                Level::Fail => ("fail", AnsiColor::Red),
            };
            table.row([
                Cell::styled(level, Style::new().fg_color(Some(colour.into()))),
                finding.interface.as_deref().unwrap_or(NONE).into(),
                finding.check.into(),
                finding.found.as_str().into(),
                finding.advice.as_str().into(),
            ]);
        }
        format!("{table}\n{} failed, {} with a warning\n", self.fails, self.warns)
    }
}
