//! One way out: every command makes a report, which is a table for people or JSON for programs.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    Table,
    /// One JSON object or array for programs.
    Json,
}

/// What a command has to say. The fields are the JSON; `text` is the same for people.
pub trait Report: Serialize {
    /// The report as text with ANSI styles, which are taken out again where they are not wanted.
    fn text(&self) -> String;
}

/// Prints a report to stdout.
pub fn print(format: Format, report: &impl Report) -> Result<()> {
    match format {
        Format::Table => print_text(&report.text()),
        Format::Json => {
            let json = serde_json::to_string_pretty(report).context("cannot write JSON")?;
            print_text(&(json + "\n"))
        }
    }
}

/// Prints text to stdout, with colours on a terminal unless `NO_COLOR` is set. A reader that has
/// seen enough (`head`) is no error.
pub fn print_text(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// Prints an error and its causes to stderr.
pub fn print_error(error: &anyhow::Error) {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let mut err = anstream::stderr().lock();
    // Nothing is left to be done about a stderr that cannot be written.
    let _ = write!(err, "{red}error:{red:#} {error}");
    for cause in error.chain().skip(1) {
        let _ = write!(err, ": {cause}");
    }
    let _ = writeln!(err);
}
