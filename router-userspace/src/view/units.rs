//! How lengths of time and sizes are written.

use std::time::Duration;

/// A length of time in its two largest units: `420ms`, `12s`, `3m12s`, `5h2m`, `3d4h`.
pub fn age(age: Duration) -> String {
    let s = age.as_secs();
    match s {
        0 => format!("{}ms", age.as_millis()),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// As [`age`], from the milliseconds of a report.
pub fn age_ms(ms: u64) -> String {
    age(Duration::from_millis(ms))
}

/// A number of bytes: `512 B`, `1.5 KiB`, `64.0 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_short() {
        let ages = [0, 999, 1_000, 59_999, 192_000, 18_120_000, 273_600_000]
            .map(|ms| age(Duration::from_millis(ms)));
        assert_eq!(ages, ["0ms", "999ms", "1s", "59s", "3m12s", "5h2m", "3d4h"]);
        let sizes = [0, 1023, 1536, 64 << 20, 3 << 40].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "64.0 MiB", "3.0 TiB"]);
    }
}
