//! Which capabilities this process has of those that the daemon needs.

use rustix::thread::{CapabilitySet, capabilities};

const NEEDED: [(&str, CapabilitySet); 3] = [
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_PERFMON", CapabilitySet::PERFMON),
];

/// Those that are missing, by name; `None` if that cannot be read.
pub(crate) fn missing() -> Option<Vec<&'static str>> {
    Some(missing_of(capabilities(None).ok()?.effective))
}

/// What to say about an operation that was not permitted.
pub(crate) fn hint() -> String {
    match missing() {
        Some(missing) if !missing.is_empty() => format!(" (missing: {})", missing.join(", ")),
        _ => " (this needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)".to_owned(),
    }
}

fn missing_of(effective: CapabilitySet) -> Vec<&'static str> {
    // CAP_SYS_ADMIN includes the two that came later than it.
    let by_admin =
        |needed| needed != CapabilitySet::NET_ADMIN && effective.contains(CapabilitySet::SYS_ADMIN);
    let given = |needed| effective.contains(needed) || by_admin(needed);
    NEEDED.iter().filter(|(_, needed)| !given(*needed)).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_includes_what_came_later() {
        /// `CAP_SYS_ADMIN`, by its number in `linux/capability.h`.
        const SYS_ADMIN: u32 = 21;
        let missing_of = |bits: u64| missing_of(CapabilitySet::from_bits_retain(bits));
        assert_eq!(missing_of(0), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(missing_of(1 << SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_of(1 << 39 | 1 << 38), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_of(1 << 39 | 1 << 12), ["CAP_PERFMON"]);
        assert_eq!(missing_of(u64::MAX), [""; 0]);
    }
}
