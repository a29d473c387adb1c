//! `roost sources`.

use super::{output::Report, table::Table};
use crate::view::sources::SourcesReport;

/// How many sources to show.
#[derive(Debug, clap::Args)]
pub struct SourcesArgs {
    /// Show the largest N sources
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,
}

impl Report for SourcesReport {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "no flows\n".to_owned();
        }
        let mut table = Table::new(["source", ">flows", ">chats", "trusted"]);
        for line in &self.0 {
            table.row([
                line.source.as_str().into(),
                line.flows.into(),
                line.chats.into(),
                if line.trusted { "yes" } else { "no" }.into(),
            ]);
        }
        table.to_string()
    }
}
