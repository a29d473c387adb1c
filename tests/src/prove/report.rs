//! What a scenario has measured: a table for people, one JSON object for programs.

use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use serde_json::{Map, Number, Value};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// The measured numbers of a scenario, and whether each is what it has to be.
#[derive(Debug)]
pub struct Report {
    scenario: &'static str,
    lines: Vec<Line>,
}

#[derive(Debug)]
enum Line {
    /// A heading for those that follow.
    Part(String),
    /// What says more than single numbers would.
    Text(String),
    Measured(Measured),
}

#[derive(Debug)]
struct Measured {
    name: String,
    value: f64,
    words: String,
    goal: Option<Goal>,
}

#[derive(Debug, Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl Report {
    /// With nothing measured yet.
    pub(super) fn new(scenario: &'static str) -> Self {
        Self { scenario, lines: Vec::new() }
    }

    /// A heading for the numbers that follow.
    pub(super) fn part(&mut self, title: impl Into<String>) {
        self.lines.push(Line::Part(title.into()));
    }

    /// A line of text beneath a heading. Numbers that it tells need no words of their own: they are in the table only if
    /// they are not what they have to be.
    pub(super) fn text(&mut self, line: impl Into<String>) {
        self.lines.push(Line::Text(line.into()));
    }

    /// A number that may be anything. `name` is its key in the JSON object, `words` say what it is, with
    /// its unit.
    pub(super) fn tell(&mut self, name: impl Into<String>, value: f64, words: impl Into<String>) {
        self.add(name.into(), value, words.into(), None);
    }

    /// A number that must not be more.
    pub(super) fn at_most(
        &mut self,
        name: impl Into<String>,
        value: f64,
        most: f64,
        words: impl Into<String>,
    ) {
        self.add(name.into(), value, words.into(), Some(Goal::AtMost(most)));
    }

    /// A number that must not be less.
    pub(super) fn at_least(
        &mut self,
        name: impl Into<String>,
        value: f64,
        least: f64,
        words: impl Into<String>,
    ) {
        self.add(name.into(), value, words.into(), Some(Goal::AtLeast(least)));
    }

    fn add(&mut self, name: String, value: f64, words: String, goal: Option<Goal>) {
        self.lines.push(Line::Measured(Measured { name, value: rounded(value), words, goal }));
    }

    /// Whether every number is what it has to be.
    pub fn ok(&self) -> bool {
        self.measured().all(|line| line.goal.is_none_or(|goal| goal.is_met(line.value)))
    }

    /// A measured number, by its name.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.measured().find(|line| line.name == name).map(|line| line.value)
    }

    fn measured(&self) -> impl Iterator<Item = &Measured> {
        self.lines.iter().filter_map(|line| match line {
            Line::Part(_) | Line::Text(_) => None,
            Line::Measured(measured) => Some(measured),
        })
    }

    /// Prints the table, and the JSON object as the last line.
    pub fn print(&self, json: bool) -> Result<()> {
        let mut text = self.table();
        if json {
            let _ = writeln!(text, "{}", self.json());
        }
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to stdout")
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = format!("\n{BOLD}{}{BOLD:#}\n", self.scenario);
        for line in &self.lines {
            match line {
                Line::Part(title) => {
                    let _ = writeln!(text, "\n  {title}");
                }
                Line::Text(line) => {
                    let _ = writeln!(text, "  {line}");
                }
                Line::Measured(Measured { value, words, goal, .. })
                    if words.is_empty() && goal.is_none_or(|goal| goal.is_met(*value)) => {}
                Line::Measured(Measured { name, value, words, goal }) => {
                    let words = if words.is_empty() { name } else { words };
                    let (style, goal) = match goal {
                        None => (Style::new(), String::new()),
                        Some(goal) => {
                            let style = if goal.is_met(*value) { GOOD } else { BAD };
                            let (word, bound) = match goal {
                                Goal::AtMost(most) => ("at most", most),
                                Goal::AtLeast(least) => ("at least", least),
                            };
                            (style, format!("   {DIM}{word} {bound}{DIM:#}"))
                        }
                    };
                    let _ = writeln!(text, "  {style}{value:>12}{style:#} {words}{goal}");
                }
            }
        }
        let (style, verdict) = if self.ok() { (GOOD, "held") } else { (BAD, "did not hold") };
        text + &format!("\n  {style}{verdict}{style:#}\n\n")
    }

    /// The JSON object.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("scenario".to_owned(), self.scenario.into());
        object.insert("ok".to_owned(), self.ok().into());
        for line in self.measured() {
            object.insert(line.name.clone(), number(line.value));
        }
        object.into()
    }
}

/// Whole numbers without a fraction.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// To three digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_number_that_is_not_what_it_has_to_be_is_enough() {
        let mut report = Report::new("some");
        report.tell("opened", 10.0, "connections");
        report.at_most("refused", 0.0, 0.0, "refused");
        report.at_least("rate", 0.9, 0.9, "of what is left");
        assert!(report.ok() && report.table().contains("held"));
        let all = json!({"scenario": "some", "ok": true, "opened": 10, "refused": 0, "rate": 0.9});
        assert_eq!(report.json(), all);
        report.at_most("late", 1.0, 0.0, "late");
        assert!(!report.ok() && report.table().contains("did not hold"));
        assert_eq!((&report.json()["ok"], report.value("late")), (&false.into(), Some(1.0)));
    }

    #[test]
    fn a_number_without_words_is_shown_if_it_is_wrong() {
        let mut report = Report::new("some");
        report.text("of all");
        report.at_least("right", 1.0, 1.0, "");
        report.at_least("wrong", 0.0, 1.0, "");
        let table = report.table();
        assert!(table.contains("of all") && table.contains("wrong") && !table.contains("right"));
    }

    #[test]
    fn what_is_no_number_holds_nothing() {
        let mut report = Report::new("some");
        report.at_most("cpu", f64::NAN, 1.0, "% of a CPU");
        assert_eq!(report.json(), json!({"scenario": "some", "ok": false, "cpu": null}));
    }
}
