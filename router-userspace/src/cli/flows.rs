//! `roost flows`.

use super::{
    output::Report,
    table::{Cell, Table},
};
use crate::{
    maps::text::NONE,
    view::{
        flows::{FlowsReport, Which},
        units,
    },
};

/// Which flows to show.
#[derive(Debug, Default, clap::Args)]
pub struct FlowsArgs {
    /// Show flows of the service named SERVICE only
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Show flows of chats whose readable key is KEY only
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Show flows to the replica named REPLICA only
    #[arg(long, value_name = "REPLICA")]
    pub replica: Option<String>,
}

impl FlowsArgs {
    /// The flows that are asked for.
    pub fn which(&self) -> Which<'_> {
        Which {
            service: self.service.as_deref(),
            key: self.key.as_deref(),
            replica: self.replica.as_deref(),
        }
    }
}

impl Report for FlowsReport {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "no flows\n".to_owned();
        }
        let columns = [
            "client", "vip", "service", "replica", "chat", ">bound", "state", ">age", ">idle",
            ">ends in",
        ];
        let mut table = Table::new(columns);
        for line in &self.0 {
            let dim = if line.state == "established" {
                anstyle::Style::new()
            } else {
                anstyle::Style::new().dimmed()
            };
            table.row([
                line.client.as_str().into(),
                line.vip.as_str().into(),
                line.service.as_str().into(),
                line.replica.as_str().into(),
                line.chat.as_deref().unwrap_or(NONE).into(),
                line.bound.to_string().into(),
                Cell::styled(line.state, dim),
                units::age_ms(line.age_ms).into(),
                units::age_ms(line.idle_ms).into(),
                line.ends_in_ms.map_or(NONE.to_owned(), units::age_ms).into(),
            ]);
        }
        table.to_string()
    }
}
