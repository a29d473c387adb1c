//! What the kernels said, as tables.

use std::fmt::Write as _;

use super::report::{Ended, Loaded, Report};

/// What the verifier looks at, at the most.
const VERIFIER_LIMIT: u32 = 1_000_000;

/// What was loaded and tested, for all kernels.
pub fn show(reports: &[Report]) -> String {
    let mut rows =
        vec![["kernel", "program", "events", "verified", "bytes", "result"].map(String::from)];
    for (report, load) in each(reports, |report| &report.loads) {
        let (verified, bytes, result) = match &load.loaded {
            Some(Loaded { verified, bytes, ms }) => {
                let share = f64::from(*verified) * 100.0 / f64::from(VERIFIER_LIMIT);
                let result = format!("loaded in {}, {share:.0} % of the limit", seconds(*ms));
                (verified.to_string(), bytes.to_string(), result)
            }
            None => ("-".into(), "-".into(), "REFUSED".into()),
        };
        let events = if load.events { "on" } else { "off" };
        let kernel = report.name().to_owned();
        rows.push([kernel, load.program.clone(), events.into(), verified, bytes, result]);
    }
    let mut text = columns(&rows);
    let mut rows =
        vec![["kernel", "tests", "passed", "failed", "ignored", "result"].map(String::from)];
    for (report, run) in each(reports, |report| &report.runs) {
        let counts = run.counts.unwrap_or_default();
        let result = match &run.ended {
            Some(Ended { status, ms }) => {
                format!("{} after {}", status.as_deref().unwrap_or("passed"), seconds(*ms))
            }
            None => "not ended".into(),
        };
        let [passed, failed, ignored] =
            [counts.passed, counts.failed, counts.ignored].map(|count| count.to_string());
        rows.push([report.name().into(), run.test.clone(), passed, failed, ignored, result]);
    }
    let _ = write!(text, "\n{}", columns(&rows));
    for report in reports {
        let _ = write!(text, "\n{} took {} s", report.name(), report.took.as_secs());
    }
    text
}

fn each<'a, T>(
    reports: &'a [Report],
    part: impl Fn(&'a Report) -> &'a Vec<T>,
) -> Vec<(&'a Report, &'a T)> {
    reports.iter().flat_map(|report| part(report).iter().map(move |one| (report, one))).collect()
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

/// Rows with a header, in columns as wide as their widest; numbers to the right.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let number =
        |at: usize| rows.iter().skip(1).all(|row| row[at] == "-" || row[at].parse::<u64>().is_ok());
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if number(at) {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:width$}  ")
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_was_verified() {
        let mut report = Report::new("6.1", vec!["run_rows".to_owned()]);
        for line in [
            r#"roost-guest: {"kernel":{"release":"6.1.0-56-cloud-amd64"}}"#,
            r#"roost-guest: {"loaded":{"program":"roost_ingress","events":false,"verified":163225,"bytes":54688,"ms":7110}}"#,
            r#"roost-guest: {"refused":{"program":"roost_ingress","events":true}}"#,
            r#"roost-guest: {"run":{"test":"run_rows"}}"#,
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            r#"roost-guest: {"ran":{"test":"run_rows","status":null,"ms":186815}}"#,
        ] {
            report.hear(line);
        }
        let table = show(&[report]);
        let expected = "\
kernel                program        events  verified  bytes  result
6.1.0-56-cloud-amd64  roost_ingress  off       163225  54688  loaded in 7.1 s, 16 % of the limit
6.1.0-56-cloud-amd64  roost_ingress  on             -      -  REFUSED

kernel                tests     passed  failed  ignored  result
6.1.0-56-cloud-amd64  run_rows      12       0        0  passed after 186.8 s

6.1.0-56-cloud-amd64 took 0 s";
        assert_eq!(table, expected, "{table}");
    }
}
