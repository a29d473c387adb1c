//! Which capabilities this process has of those that the daemon needs.

use std::fs;

/// By their numbers in `linux/capability.h`.
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];
/// It includes the two that came later than it.
const SYS_ADMIN: u32 = 21;

/// Those that are missing, by name; `None` if that cannot be read.
pub(crate) fn missing() -> Option<Vec<&'static str>> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    Some(missing_of(u64::from_str_radix(hex.trim(), 16).ok()?))
}

/// What to say about an operation that was not permitted.
pub(crate) fn hint() -> String {
    match missing() {
        Some(missing) if !missing.is_empty() => format!(" (missing: {})", missing.join(", ")),
        _ => " (this needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)".to_owned(),
    }
}

fn missing_of(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective & (1 << number) != 0;
    let given = |name: &str, number| has(number) || (name != "CAP_NET_ADMIN" && has(SYS_ADMIN));
    NEEDED.iter().filter(|(name, number)| !given(name, *number)).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_includes_what_came_later() {
        assert_eq!(missing_of(0), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(missing_of(1 << SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_of(1 << 39 | 1 << 38), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_of(1 << 39 | 1 << 12), ["CAP_PERFMON"]);
        assert_eq!(missing_of(u64::MAX), [""; 0]);
    }
}
