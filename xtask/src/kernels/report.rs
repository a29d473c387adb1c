//! What a virtual machine says, and what follows from that.

use std::time::Duration;

use serde::Deserialize;

/// What the guest's own lines begin with; a JSON object follows.
const MARK: &str = "roost-guest: ";

/// One of the guest's lines: see `tests/src/bin/roost-guest.rs`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Kernel { release: String },
    Loaded { program: String, events: bool, verified: u32, bytes: u32, ms: u64 },
    Refused { program: String, events: bool },
    Run { test: String },
    Ran { test: String, status: Option<String>, ms: u64 },
    Failed { why: String },
    End {},
}

/// A program that was given to the kernel.
#[derive(Debug)]
pub struct Load {
    /// Its name.
    pub program: String,
    /// Whether it was loaded with events.
    pub events: bool,
    /// Unless it was refused.
    pub loaded: Option<Loaded>,
}

/// A program that the kernel has taken.
#[derive(Debug)]
pub struct Loaded {
    /// Instructions that the verifier looked at.
    pub verified: u32,
    /// Size after the verifier's changes.
    pub bytes: u32,
    /// How long loading took.
    pub ms: u64,
}

/// A test program that has begun.
#[derive(Debug, Default)]
pub struct Run {
    /// Its name.
    pub test: String,
    /// When it has ended.
    pub ended: Option<Ended>,
    /// What it says that it did.
    pub counts: Option<Counts>,
    failed: Vec<String>,
}

/// How a test program ended.
#[derive(Debug)]
pub struct Ended {
    /// How, if not well.
    pub status: Option<String>,
    /// How long it took.
    pub ms: u64,
}

/// A test program's own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that were not run.
    pub ignored: u32,
    filtered: u32,
}

/// What one machine said.
#[derive(Debug)]
pub struct Report {
    version: String,
    release: Option<String>,
    expected: Vec<String>,
    /// The programs, in the order in which they were loaded.
    pub loads: Vec<Load>,
    /// The test programs, in the order in which they were run.
    pub runs: Vec<Run>,
    failures: Vec<String>,
    complete: bool,
    /// From start to end.
    pub took: Duration,
}

impl Report {
    /// A report of a machine that has said nothing; these are the test programs that it is to run.
    pub fn new(version: &str, expected: Vec<String>) -> Self {
        Self {
            version: version.to_owned(),
            release: None,
            expected,
            loads: Vec::new(),
            runs: Vec::new(),
            failures: Vec::new(),
            complete: false,
            took: Duration::ZERO,
        }
    }

    /// Takes a line, and says what of it the user should see.
    pub fn hear(&mut self, line: &str) -> Option<String> {
        let Some(json) = line.strip_prefix(MARK) else {
            self.hear_test(line);
            return (!line.is_empty()).then(|| line.to_owned());
        };
        match serde_json::from_str(json) {
            Ok(said) => Some(self.note(said)),
            Err(e) => {
                self.fail(format!("a line that is not understood ({e}): {line}"));
                Some(line.to_owned())
            }
        }
    }

    fn note(&mut self, said: Said) -> String {
        match said {
            Said::Kernel { release } => {
                let text = format!("this is Linux {release}");
                self.release = Some(release);
                text
            }
            Said::Loaded { program, events, verified, bytes, ms } => {
                let text = format!("{program} loads, {}: {verified} verified", with(events));
                let loaded = Some(Loaded { verified, bytes, ms });
                self.loads.push(Load { program, events, loaded });
                text
            }
            Said::Refused { program, events } => {
                let text = format!("{program} is REFUSED, {}", with(events));
                self.loads.push(Load { program, events, loaded: None });
                text
            }
            Said::Run { test } => {
                let text = format!("{test}:");
                self.runs.push(Run { test, ..Run::default() });
                text
            }
            Said::Ran { test, status, ms } => {
                let text = format!(
                    "{test}: {} after {} s",
                    status.as_deref().unwrap_or("passed"),
                    ms / 1000
                );
                match self.runs.last_mut().filter(|run| run.test == test) {
                    Some(run) => run.ended = Some(Ended { status, ms }),
                    None => self.fail(format!("{test} has ended and not begun")),
                }
                text
            }
            Said::Failed { why } => {
                let text = format!("FAILED: {why}");
                self.fail(why);
                text
            }
            Said::End {} => {
                self.complete = true;
                "done".to_owned()
            }
        }
    }

    /// A line of a test program.
    fn hear_test(&mut self, line: &str) {
        let Some(run) = self.runs.last_mut().filter(|run| run.ended.is_none()) else { return };
        if let Some(counts) = Counts::parse(line) {
            run.counts = Some(counts);
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some(name) = rest.strip_suffix(" ... FAILED")
        {
            run.failed.push(name.to_owned());
        }
    }

    /// Adds a failure that is not the guest's word.
    pub fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    /// Whether the machine has done all that it was to do, well or not.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// All that is wrong, each with the kernel's version before it.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.release.is_none() {
            problems.push("the machine has not come up".to_owned());
        }
        for events in [false, true] {
            if !self.loads.iter().any(|load| load.events == events) {
                problems.push(format!("no program was loaded, {}", with(events)));
            }
        }
        for load in self.loads.iter().filter(|load| load.loaded.is_none()) {
            problems.push(format!("{} is refused, {}", load.program, with(load.events)));
        }
        for test in &self.expected {
            match self.runs.iter().find(|run| run.test == *test) {
                Some(run) => problems.extend(run.problem()),
                None => problems.push(format!("{test} was not run")),
            }
        }
        if self.runs.iter().all(|run| run.counts.is_none_or(|counts| counts.passed == 0)) {
            problems.push("no test has passed".to_owned());
        }
        problems.extend_from_slice(&self.failures);
        if !self.complete {
            problems.push("the machine ended before its work was done".to_owned());
        }
        problems.iter().map(|problem| format!("Linux {}: {problem}", self.version)).collect()
    }

    /// The kernel's own name, if it has come up.
    pub fn name(&self) -> &str {
        self.release.as_deref().unwrap_or(&self.version)
    }
}

impl Run {
    fn problem(&self) -> Option<String> {
        let test = &self.test;
        let Some(ended) = &self.ended else {
            return Some(format!("{test} has not ended"));
        };
        if let Some(status) = &ended.status {
            return Some(format!("{test}: {status}: {}", self.failed.join(", ")));
        }
        match self.counts {
            None => Some(format!("{test} did not say what it tested")),
            Some(counts) if counts.ignored > 0 => {
                Some(format!("{test}: {} tests are ignored", counts.ignored))
            }
            Some(counts) if counts.passed + counts.filtered == 0 => {
                Some(format!("{test} has no tests"))
            }
            Some(_) => None,
        }
    }
}

impl Counts {
    /// From the last line of a test program.
    fn parse(line: &str) -> Option<Self> {
        let (_, list) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Self::default();
        for item in list.split("; ") {
            let (number, what) = item.split_once(' ')?;
            let field = match what {
                "passed" => &mut counts.passed,
                "failed" => &mut counts.failed,
                "ignored" => &mut counts.ignored,
                "filtered out" => &mut counts.filtered,
                _ => continue,
            };
            *field = number.parse().ok()?;
        }
        Some(counts)
    }
}

fn with(events: bool) -> &'static str {
    if events { "events on" } else { "events off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = r#"roost-guest: {"kernel":{"release":"6.1.0-56-cloud-amd64"}}"#;
    const OFF: &str = r#"roost-guest: {"loaded":{"program":"roost_ingress","events":false,"verified":163225,"bytes":54688,"ms":7110}}"#;
    const ON: &str = r#"roost-guest: {"loaded":{"program":"roost_ingress","events":true,"verified":233670,"bytes":59480,"ms":6830}}"#;
    const RUN: &str = r#"roost-guest: {"run":{"test":"run_rows"}}"#;
    const RESULT: &str = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 186.81s";
    const RAN: &str = r#"roost-guest: {"ran":{"test":"run_rows","status":null,"ms":186815}}"#;
    const END: &str = r#"roost-guest: {"end":{}}"#;
    const GOOD: &[&str] = &[KERNEL, OFF, ON, RUN, "test a ... ok", RESULT, RAN, END];

    fn heard(lines: &[&str]) -> Report {
        let mut report = Report::new("6.1", vec!["run_rows".to_owned()]);
        for line in lines {
            report.hear(line);
        }
        report
    }

    /// The good report with one line replaced, or left out.
    fn but(line: &str, by: Option<&str>) -> Report {
        let lines = GOOD.iter().filter_map(|l| if *l == line { by } else { Some(l) });
        heard(&lines.collect::<Vec<_>>())
    }

    #[test]
    fn a_good_report_has_no_problems() {
        let report = heard(GOOD);
        assert_eq!(report.problems(), Vec::<String>::new());
        assert!(report.is_complete());
    }

    #[test]
    fn nothing_that_is_missing_goes_unseen() {
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let ignored = "test result: ok. 3 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out";
        let others = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        let killed =
            r#"roost-guest: {"ran":{"test":"run_rows","status":"signal: 9 (SIGKILL)","ms":1}}"#;
        for (line, by, expected) in [
            (KERNEL, None, "has not come up"),
            (OFF, None, "no program was loaded, events off"),
            (ON, None, "no program was loaded, events on"),
            (RUN, None, "run_rows was not run"),
            (RESULT, None, "did not say what it tested"),
            (RESULT, Some(none), "has no tests"),
            (RESULT, Some(ignored), "2 tests are ignored"),
            (RESULT, Some(others), "no test has passed"),
            (RAN, None, "has not ended"),
            (RAN, Some(killed), "signal: 9"),
            (END, None, "before its work was done"),
            (END, Some("roost-guest: {\"end\":"), "not understood"),
        ] {
            let problems = but(line, by).problems().join("\n");
            assert!(problems.contains(expected), "without {line}: {problems}");
            assert!(problems.starts_with("Linux 6.1: "), "{problems}");
        }
    }

    #[test]
    fn failed_tests_and_refused_programs_are_named() {
        let refused = r#"roost-guest: {"refused":{"program":"roost_ingress","events":true}}"#;
        let problems = but(ON, Some(refused)).problems();
        assert_eq!(problems, ["Linux 6.1: roost_ingress is refused, events on"]);

        let failed =
            r#"roost-guest: {"ran":{"test":"run_rows","status":"exit status: 101","ms":1}}"#;
        let lines = [KERNEL, OFF, ON, RUN, "test a::b ... FAILED", RESULT, failed, END];
        let problems = heard(&lines).problems();
        assert_eq!(problems, ["Linux 6.1: run_rows: exit status: 101: a::b"]);
    }

    #[test]
    fn a_panic_in_a_guest_is_its_problem() {
        let mut report = heard(&[KERNEL]);
        let shown = report.hear(r#"roost-guest: {"failed":{"why":"mounting bpf"}}"#);
        assert_eq!(shown.as_deref(), Some("FAILED: mounting bpf"));
        assert!(report.problems().contains(&"Linux 6.1: mounting bpf".to_owned()));
    }
}
