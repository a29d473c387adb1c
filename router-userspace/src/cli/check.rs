//! `roost check`.

use std::path::PathBuf;

use anstyle::{AnsiColor, Style};

use super::{
    output::Report,
    table::{Cell, Table},
};
use crate::{
    maps::text::NONE,
    view::check::{CheckReport, Level, LookAt},
};

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Check the interface IF, which clients reach; can be given more than once
    #[arg(long, short, value_name = "IF")]
    pub interface: Vec<String>,
    /// Check the configuration in FILE, its interfaces, and the way to its replicas
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check what `roost run --kubernetes` would find: without interfaces in FILE or by --interface,
    /// those of the default routes
    #[arg(long)]
    pub kubernetes: bool,
}

impl CheckArgs {
    /// What is asked for.
    pub fn look_at(self) -> LookAt {
        let Self { interface, config, kubernetes } = self;
        LookAt { interfaces: interface, config, kubernetes }
    }
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
