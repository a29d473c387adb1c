//! What a run of the fresh machine has shown.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::packages::Installed;

/// All of it.
#[derive(Serialize)]
pub struct Report {
    /// Debian's release.
    pub debian: String,
    /// The commit that was cloned.
    pub commit: String,
    /// The compiler's release.
    pub rust: String,
    /// Seconds until the machine was there.
    pub made_in: f64,
    /// How many packages it had then.
    pub packages: usize,
    /// The commands, in their order.
    pub commands: Vec<Command>,
}

/// One of the README's commands.
#[derive(Serialize)]
pub struct Command {
    /// As one types it.
    pub command: String,
    /// Whether it ended well.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// The packages that were there after it, and not before.
    pub installed: Vec<Installed>,
}

impl Report {
    /// For machines, in one line.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// For people.
    pub fn text(&self) -> String {
        let Self { debian, rust, packages, .. } = self;
        let commit = self.commit.get(..12).unwrap_or(&self.commit);
        let mut text = format!(
            "fresh machine: Debian {debian} with {packages} packages, made in {}; \
             Rust {rust}; commit {commit}\n",
            duration(self.made_in),
        );
        for Command { command, passed, seconds, installed } in &self.commands {
            let result = if *passed { "ok" } else { "FAILED" };
            let _ = writeln!(text, "\n  {command}  {result} after {}", duration(*seconds));
            let asked: Vec<_> = installed.iter().filter(|package| package.asked_for).collect();
            let names: Vec<&str> = asked.iter().map(|package| package.package.as_str()).collect();
            let _ = match installed.len() - asked.len() {
                _ if installed.is_empty() => writeln!(text, "    installed nothing"),
                0 => writeln!(text, "    installed {}", names.join(", ")),
                more => {
                    writeln!(text, "    installed {}, and {more} that they need", names.join(", "))
                }
            };
        }
        text.trim_end().to_owned()
    }
}

/// Minutes and seconds.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min {:02} s", seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let installed = |package: &str, asked_for| Installed {
            package: package.to_owned(),
            version: "1".to_owned(),
            asked_for,
        };
        let command = |command: &str, passed, seconds, installed| Command {
            command: command.to_owned(),
            passed,
            seconds,
            installed,
        };
        Report {
            debian: "12.11".to_owned(),
            commit: "0123456789abcdef".to_owned(),
            rust: "1.95.0".to_owned(),
            made_in: 70.2,
            packages: 120,
            commands: vec![
                command("one", true, 59.4, vec![installed("ip", true), installed("libx", false)]),
                command("two", false, 605.0, Vec::new()),
            ],
        }
    }

    #[test]
    fn the_text_says_what_was_asked_for_and_how_long_it_took() {
        let expected = "fresh machine: Debian 12.11 with 120 packages, made in 1 min 10 s; \
                        Rust 1.95.0; commit 0123456789ab\n\n  \
                        one  ok after 59 s\n    installed ip, and 1 that they need\n\n  \
                        two  FAILED after 10 min 05 s\n    installed nothing";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn the_json_is_one_line() {
        let json = report().json().expect("JSON");
        assert!(!json.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["commands"][0]["installed"][1]["asked_for"], false);
    }
}
