//! `roost status`.

use std::fmt::Write as _;

use super::{
    counters,
    output::Report,
    services,
    table::{Cell, Table},
};
use crate::{maps::text::NONE, view::overview::StatusReport};

impl Report for StatusReport {
    fn text(&self) -> String {
        let mut text = String::new();
        let daemon = match self.daemon_pid {
            Some(pid) => format!("running, pid {pid}"),
            None => "not running: connections go on, changes are not seen".to_owned(),
        };
        let sources = if self.sources.is_empty() { NONE } else { &self.sources.join(", ") };
        let pin_dir = self.pin_dir.display();
        let _ = writeln!(text, "daemon  {daemon}\npins    {pin_dir}\nsources {sources}\n");
        text.push_str(&self.interfaces_text());
        let _ = writeln!(text, "\n{}", services::table(&self.services));
        if !self.problems.is_empty() {
            let red = anstyle::AnsiColor::Red.on_default();
            let mut problems = Table::new(["not as its source says", "why"]);
            for line in &self.problems {
                problems.row([line.service.as_str().into(), Cell::styled(&line.problem, red)]);
            }
            let _ = writeln!(text, "{problems}");
        }
        let mut limits = Table::new(["map", ">entries", ">max", ">full"]);
        for limit in &self.limits {
            let most = f64::from(limit.max_entries.max(1));
            let full = |entries| format!("{:.1} %", 100.0 * entries as f64 / most);
            limits.row([
                limit.map.into(),
                limit.entries.map_or(NONE.into(), Into::into),
                limit.max_entries.into(),
                limit.entries.map_or(NONE.to_owned(), full).into(),
            ]);
        }
        let _ = writeln!(text, "{limits}");
        text + &counters::table(&self.counters)
    }
}

impl StatusReport {
    fn interfaces_text(&self) -> String {
        if self.interfaces.is_empty() {
            return "not attached to any interface\n".to_owned();
        }
        let red = anstyle::AnsiColor::Red.on_default();
        let mut table = Table::new(["interface", "clients", "ingress", "egress", "problem"]);
        for line in &self.interfaces {
            table.row([
                line.interface.as_str().into(),
                line.clients.into(),
                line.ingress.unwrap_or(NONE).into(),
                line.egress.unwrap_or(NONE).into(),
                Cell::styled(&line.problem, red),
            ]);
        }
        table.to_string()
    }
}
