//! `roost counters`.

use super::{
    output::Report,
    table::{Cell, Table},
};
use crate::view::counters::{CounterLine, CountersReport};

impl Report for CountersReport {
    fn text(&self) -> String {
        table(&self.0)
    }
}

/// The counters as a table.
pub fn table(counters: &[CounterLine]) -> String {
    if counters.is_empty() {
        return "nothing was counted yet\n".to_owned();
    }
    let mut table = Table::new(["counter", ">packets", "what it counts"]);
    let dimmed = anstyle::Style::new().dimmed();
    for line in counters {
        table.row([line.counter.into(), line.packets.into(), Cell::styled(line.help, dimmed)]);
    }
    table.to_string()
}
