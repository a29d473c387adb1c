//! `roost chats`.

use super::{output::Report, table::Table};
use crate::{
    maps::text::NONE,
    view::{chats::ChatsReport, units},
};

/// Which chats to show.
#[derive(Debug, Default, clap::Args)]
pub struct ChatsArgs {
    /// Show chats of the service named SERVICE only
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Show chats whose readable key is KEY only
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

impl Report for ChatsReport {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "no chats\n".to_owned();
        }
        let columns = ["service", "chat", "from", "home", ">flows", ">age", ">ended", "cookie"];
        let mut table = Table::new(columns);
        for line in &self.0 {
            table.row([
                line.service.as_str().into(),
                line.key.as_str().into(),
                line.key_source.as_deref().unwrap_or(NONE).into(),
                line.home.as_str().into(),
                line.flows.into(),
                units::age_ms(line.age_ms).into(),
                line.ended_ms.map_or(NONE.to_owned(), units::age_ms).into(),
                line.cookie.as_str().into(),
            ]);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_said() {
        assert_eq!(ChatsReport(Vec::new()).text(), "no chats\n");
    }
}
