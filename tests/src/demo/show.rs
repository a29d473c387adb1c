//! How the demo looks: tables with colours, which are taken out where there is no terminal.

use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};

use super::Totals;
use super::round::{Chat, Round};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const REPLICAS: [AnsiColor; 6] = [
    AnsiColor::Blue,
    AnsiColor::Yellow,
    AnsiColor::Magenta,
    AnsiColor::Cyan,
    AnsiColor::BrightBlue,
    AnsiColor::BrightMagenta,
];

/// Prints to stdout, without colours if that is no terminal.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to stdout")
}

/// Prints to stderr.
pub(super) fn note(text: &str) {
    anstream::eprintln!("{text}");
}

/// A heading.
pub(super) fn heading(title: &str, rest: &str) -> String {
    format!("\n{BOLD}{title}{BOLD:#}  {DIM}{rest}{DIM:#}\n\n")
}

/// A round as a table: chats down, tabs across.
pub(super) fn round(title: &str, meaning: &str, round: &Round) -> String {
    let name = round.chats.iter().map(|chat| chat.name.len()).max().unwrap_or(0).max(4);
    let titles: Vec<String> = (round.seats.iter().enumerate())
        .map(|(n, seat)| format!("{}{}", seat.title, if n == round.speaker { " says" } else { "" }))
        .collect();
    let tabs = round.chats.iter().flat_map(|chat| &chat.tabs);
    let cell = tabs.map(|tab| tab.replica().len() + 2).max().unwrap_or(0);
    let cells: Vec<usize> = titles.iter().map(|title| title.len().max(cell)).collect();
    let mut text = heading(title, meaning);
    let _ = write!(text, "  {DIM}{:name$}", "chat");
    for (title, cell) in titles.iter().zip(&cells) {
        let _ = write!(text, "  {title:cell$}");
    }
    let _ = writeln!(text, "  reached{DIM:#}");
    for chat in &round.chats {
        text += &row(chat, name, &cells);
    }
    let totals = round.totals();
    text + "\n  " + &summary(&totals) + "\n"
}

fn row(chat: &Chat, name: usize, cells: &[usize]) -> String {
    let mut text = format!("  {:name$}", chat.name);
    for (tab, cell) in chat.tabs.iter().zip(cells) {
        let (mark, style) = if tab.heard { ("✓", GOOD) } else { ("✗", BAD) };
        let colour = colour(tab.replica());
        let pad = cell.saturating_sub(tab.replica().len() + 2);
        let replica = tab.replica();
        let _ = write!(text, "  {colour}{replica}{colour:#} {style}{mark}{style:#}{:pad$}", "");
    }
    let (reached, tabs) = (chat.reached(), chat.tabs.len());
    let (verdict, style) = match chat.replicas().len() {
        _ if chat.whole() => ("whole".to_owned(), GOOD),
        1 => ("not all heard".to_owned(), BAD),
        n => (format!("split over {n} replicas"), BAD),
    };
    let _ = writeln!(text, "  {reached} of {tabs}  {style}{verdict}{style:#}");
    text
}

/// The same replica has the same colour everywhere.
fn colour(replica: &str) -> Style {
    let digits = replica.trim_start_matches(|c: char| !c.is_ascii_digit());
    let n = digits.parse::<usize>().unwrap_or(0);
    REPLICAS[(n + REPLICAS.len() - 1) % REPLICAS.len()].on_default()
}

fn summary(totals: &Totals) -> String {
    let Totals { chats, whole, tabs, reached } = totals;
    let style = if totals.all_whole() { GOOD } else { BAD };
    format!(
        "{style}{whole} of {chats} chats whole{style:#}, messages reached {reached} of {tabs} tabs"
    )
}

/// The last word: rounds by name.
pub(super) fn verdict(rounds: &[(&str, Totals)]) -> String {
    let mut text = heading("result", "");
    let name = rounds.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (round, totals) in rounds {
        let _ = writeln!(text, "  {round:name$}  {}", summary(totals));
    }
    text + "\n"
}

/// The output of a command, indented under the command.
pub(super) fn command(command: &str, output: &str) -> String {
    let mut text = format!("  {BOLD}$ {command}{BOLD:#}\n");
    for line in output.lines() {
        let _ = writeln!(text, "  {line}");
    }
    text + "\n"
}
