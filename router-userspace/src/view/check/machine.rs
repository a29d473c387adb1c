//! What the kernel and this process may do.

use std::path::{Path, PathBuf};

use aya::{
    maps::{HashMap, MapData, MapType},
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use super::Finding;
use crate::os::capabilities;

/// Since 5.11 the memory of maps counts for the cgroup, before that for `RLIMIT_MEMLOCK`.
const MEMCG_ACCOUNTING: Version = Version(5, 11);
/// The first kernel that has all helpers the programs call.
const OLDEST: Version = Version(5, 18);
/// The first kernel with TCX links.
const TCX: Version = Version(6, 6);

/// All findings about the machine.
pub fn findings(pin_dir: &Path) -> Vec<Finding> {
    let kernel = kernel_release();
    let version = Version::parse(&kernel);
    let capabilities = capabilities();
    let may_probe = capabilities.level != super::Level::Fail;
    let mut findings = vec![kernel_version(&kernel, version), tcx(version), capabilities];
    if may_probe {
        findings.extend(features());
    }
    findings.extend([bpffs(pin_dir), memlock(version), jit()]);
    findings
}

/// Major and minor version of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// Reads `6.18.44-anything`.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn kernel_version(release: &str, version: Option<Version>) -> Finding {
    match version {
        Some(version) if version >= OLDEST => Finding::ok("kernel", release),
        Some(_) => Finding::fail(
            "kernel",
            release,
            format!("the programs need Linux {}.{} or later", OLDEST.0, OLDEST.1),
        ),
        None => Finding::warn("kernel", release, "the version is not understood; 5.18 is needed"),
    }
}

fn tcx(version: Option<Version>) -> Finding {
    if version.is_some_and(|version| version >= TCX) {
        return Finding::ok("tcx", "available");
    }
    Finding::warn(
        "tcx",
        "not before Linux 6.6",
        "egress uses a clsact filter, which other software that edits TC filters can remove",
    )
}

fn capabilities() -> Finding {
    let Some(missing) = capabilities::missing() else {
        return Finding::warn("capabilities", "not readable", "mount /proc");
    };
    if missing.is_empty() {
        Finding::ok("capabilities", "bpf, net_admin, perfmon")
    } else {
        let missing = missing.join(", ").to_lowercase();
        Finding::fail("capabilities", format!("without {missing}"), "run as root, or grant them")
    }
}

/// Probes that load tiny programs and maps, which are gone again at once.
fn features() -> Vec<Finding> {
    let helper = |program, helper| is_helper_supported(program, helper).map_err(into_text);
    vec![
        feature("xdp", is_program_supported(ProgramType::Xdp).map_err(into_text)),
        feature("tc", is_program_supported(ProgramType::SchedClassifier).map_err(into_text)),
        feature("bpf_loop", helper(ProgramType::Xdp, BpfHelper::BPF_FUNC_loop)),
        feature("bpf_xdp_load_bytes", helper(ProgramType::Xdp, BpfHelper::BPF_FUNC_xdp_load_bytes)),
        feature("ring_buffer", is_map_supported(MapType::RingBuf).map_err(into_text)),
        feature("lpm_trie", is_map_supported(MapType::LpmTrie).map_err(into_text)),
        feature("hash_on_demand", hash_on_demand()),
    ]
}

/// A hash map that takes memory for the entries it has, and not for all it could have.
fn hash_on_demand() -> Result<bool, String> {
    const BPF_F_NO_PREALLOC: u32 = 1;
    HashMap::<MapData, u32, u32>::create(1, BPF_F_NO_PREALLOC).map(|_| true).map_err(into_text)
}

fn into_text(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

fn feature(check: &'static str, supported: Result<bool, String>) -> Finding {
    match supported {
        Ok(true) => Finding::ok(check, "available"),
        Ok(false) => Finding::fail(check, "not available", "boot a kernel that has it"),
        Err(error) => Finding::fail(check, error, "allow the bpf system call for this process"),
    }
}

fn bpffs(pin_dir: &Path) -> Finding {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let existing = pin_dir.ancestors().find(|path| path.exists()).map(PathBuf::from);
    let existing = existing.unwrap_or_else(|| PathBuf::from("/"));
    let found = format!("{}", existing.display());
    match rustix::fs::statfs(&existing) {
        Ok(stat) if stat.f_type as u64 == BPF_FS_MAGIC => Finding::ok("bpffs", found),
        Ok(_) if pin_dir.starts_with("/sys/fs/bpf") => Finding::warn(
            "bpffs",
            "not mounted at /sys/fs/bpf: `roost run` will mount it",
            "mount -t bpf bpf /sys/fs/bpf, where it is to outlive a container",
        ),
        Ok(_) => Finding::fail(
            "bpffs",
            format!("{} is not on one", pin_dir.display()),
            "mount -t bpf bpf DIR, or choose --pin-dir under /sys/fs/bpf",
        ),
        Err(error) => Finding::fail("bpffs", format!("{found}: {error}"), "mount it readable"),
    }
}

fn memlock(version: Option<Version>) -> Finding {
    if version.is_some_and(|version| version >= MEMCG_ACCOUNTING) {
        return Finding::ok("memlock", "not used by this kernel");
    }
    match rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum {
        None => Finding::ok("memlock", "unlimited"),
        Some(limit) => {
            let found = crate::view::units::size(limit);
            Finding::fail("memlock", found, "ulimit -l unlimited, or LimitMEMLOCK=infinity")
        }
    }
}

fn jit() -> Finding {
    const ADVICE: &str = "sysctl -w net.core.bpf_jit_enable=1";
    match super::sysctl("net/core/bpf_jit_enable").as_deref() {
        Some("1") => Finding::ok("jit", "on"),
        Some("2") => Finding::warn("jit", "on, dumps its output to the kernel log", ADVICE),
        Some(_) => Finding::warn("jit", "off: packets cost many times as much", ADVICE),
        None => Finding::ok("jit", "set in the first network namespace, not seen from this one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_understood() {
        assert_eq!(Version::parse("6.18.44-fc-v595"), Some(Version(6, 18)));
        assert_eq!(Version::parse("5.4.0"), Some(Version(5, 4)));
        assert_eq!(Version::parse("7.0-rc1"), Some(Version(7, 0)));
        assert_eq!(Version::parse("unknown"), None);
        assert!(Version(6, 6) > Version(5, 18));
    }
}
