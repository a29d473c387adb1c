//! Plain tables: a heading, aligned columns, no lines.
//!
//! By hand: comfy-table (8) can print the same, but for that brings eight more crates, one of them for
//! whole terminal programs (crossterm), into a program that runs as root.

use std::fmt::{self, Display, Write as _};

use anstyle::Style;
use unicode_width::UnicodeWidthStr as _;

/// The heading's style.
const HEADING: Style = Style::new().bold();
const GAP: &str = "  ";

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// One cell: its text, and how it is set off on a terminal.
#[derive(Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell with a style of its own.
    pub fn styled(text: impl Display, style: Style) -> Self {
        Self { text: text.to_string(), style }
    }
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// A table that is written with `{}`. The widths are those of the longest cells.
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns; a name that begins with `>` makes a column of numbers.
    pub fn new<S: AsRef<str>>(columns: impl IntoIterator<Item = S>) -> Self {
        let column = |name: S| match name.as_ref().strip_prefix('>') {
            Some(name) => (name.to_uppercase(), Align::Right),
            None => (name.as_ref().to_uppercase(), Align::Left),
        };
        Self { columns: columns.into_iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row, which has as many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let row: Vec<Cell> = cells.into_iter().collect();
        debug_assert_eq!(row.len(), self.columns.len(), "a row fits its table");
        self.rows.push(row);
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn widths(&self) -> Vec<usize> {
        let widest = |(index, (heading, _)): (usize, &(String, Align))| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.map(|cell| cell.text.width()).chain([heading.width()]).max().unwrap_or(0)
        };
        self.columns.iter().enumerate().map(widest).collect()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let heading = self.columns.iter().map(|(name, _)| Cell::styled(name, HEADING)).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[index].saturating_sub(cell.text.width()));
                let Cell { text, style } = cell;
                // No style around nothing: it would hide the spaces at the end of the line.
                let style = if text.is_empty() { &Style::new() } else { style };
                let gap = if index == 0 { "" } else { GAP };
                match self.columns[index].1 {
                    Align::Right => write!(line, "{gap}{pad}{style}{text}{style:#}")?,
                    Align::Left => write!(line, "{gap}{style}{text}{style:#}{pad}")?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_text() {
        let mut table = Table::new(["chat", ">flows", "home"]);
        table.row(["42".into(), 7.into(), "r0".into()]);
        table.row(["部屋".into(), 1234567.into(), Cell::styled("", HEADING)]);
        let plain = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert_eq!(plain, "CHAT    FLOWS  HOME\n42          7  r0\n部屋  1234567\n");
    }
}
