//! Durations as people write them: `90s`, `1h30m`, `200ms`. One grammar for the file, annotations and
//! flags: a sum of numbers, each with a unit; which units there are is said where it is read.
//!
//! By hand, because the libraries take more and less than this. humantime also takes `3 h`, `1.5h` and
//! `2months`, and panics (2.4) at a sum of 2⁶⁴ s, which the owner of any Service could annotate; jiff
//! takes neither days nor `30m1h`.

use std::time::Duration;

/// A unit's name, and its milliseconds.
pub(crate) type Unit = (&'static str, u64);

const SECOND: Unit = ("s", 1000);
const MINUTE: Unit = ("m", 60 * SECOND.1);
const HOUR: Unit = ("h", 60 * MINUTE.1);

/// What lasts for hours and days.
pub(crate) const WHOLE_SECONDS: [Unit; 4] = [SECOND, MINUTE, HOUR, ("d", 24 * HOUR.1)];
/// What may be short.
pub(crate) const MILLISECONDS: [Unit; 4] = [("ms", 1), SECOND, MINUTE, HOUR];

/// Reads a duration in these units; `None` if it is none, or has more than 2⁶⁴ ms.
pub(crate) fn parse(text: &str, units: &[Unit]) -> Option<Duration> {
    let mut sum: Option<u64> = None;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (_, size) = units.iter().find(|(name, _)| *name == &tail[..end])?;
        let part = number.parse::<u64>().ok()?.checked_mul(*size)?;
        sum = Some(sum.unwrap_or(0).checked_add(part)?);
        rest = &tail[end..];
    }
    sum.map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_a_sum_of_numbers_with_units() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("5m", 300),
            ("3h", 10_800),
            ("1h30m", 5400),
            ("30m1h", 5400),
            ("1s1s", 2),
            ("007s", 7),
            ("1d", 86_400),
            ("4294967295s", u32::MAX.into()),
        ] {
            let read = parse(text, &WHOLE_SECONDS);
            assert_eq!(read, Some(Duration::from_secs(seconds)), "{text:?}");
            if !text.contains('d') {
                assert_eq!(parse(text, &MILLISECONDS), read, "{text:?}");
            }
        }
        assert_eq!(parse("1s500ms", &MILLISECONDS), Some(Duration::from_millis(1500)));
        assert_eq!((parse("1d", &MILLISECONDS), parse("1000ms", &WHOLE_SECONDS)), (None, None));
    }

    #[test]
    fn all_else_is_none() {
        for text in [
            "",
            "0",
            "5",
            "s",
            "5 s",
            " 5s",
            "5s ",
            "-5s",
            "+5s",
            "1.5h",
            "5S",
            "5sec",
            "5s3",
            "1w",
            "1h 30m",
            "1:30",
            "٣s",
            "3µs",
            "99999999999999999999h",
            "18446744073709551615s",
            "18446744073709551615s1000ms",
        ] {
            assert_eq!(parse(text, &MILLISECONDS), None, "{text:?}");
            assert_eq!(parse(text, &WHOLE_SECONDS), None, "{text:?}");
        }
    }

    proptest! {
        /// Whatever is written is read as what was meant, in any order.
        #[test]
        fn sums_are_read_as_they_are_meant(
            parts in prop::collection::vec((0..1_000_000u64, 0..4usize), 1..6),
        ) {
            for units in [&WHOLE_SECONDS, &MILLISECONDS] {
                let text: String =
                    parts.iter().map(|&(n, unit)| format!("{n}{}", units[unit].0)).collect();
                let sum = parts.iter().map(|&(n, unit)| n * units[unit].1).sum();
                prop_assert_eq!(parse(&text, units), Some(Duration::from_millis(sum)));
            }
        }

        /// Nothing that anybody may write ends the daemon.
        #[test]
        fn no_text_panics(text in "([0-9]{0,21}(ms|s|m|h|d|µ|.)?){0,4}") {
            let _ = (parse(&text, &WHOLE_SECONDS), parse(&text, &MILLISECONDS));
        }
    }
}
