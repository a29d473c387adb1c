//! What the cluster's services and replicas are called in the maps.

use std::hash::Hasher as _;

use router_ebpf::maps::NAME_LEN;
use siphasher::sip::SipHasher24;

/// A name that fits into the maps. The end of a longer one becomes a hash, so that names that begin
/// the same stay different.
pub(super) fn fitting(name: &str) -> String {
    if name.len() <= NAME_LEN {
        return name.to_owned();
    }
    let mut hasher = SipHasher24::new();
    hasher.write(name.as_bytes());
    // Names in Kubernetes are ASCII.
    let kept: String = name.chars().take(NAME_LEN - 17).collect();
    format!("{kept}~{:016x}", hasher.finish())
}

/// Whether a service of the maps is called like one of this source.
pub fn is_named_like(service: &str) -> bool {
    let plain = service.split_once('/').is_some_and(|(_, rest)| rest.contains(':'));
    plain || (service.len() == NAME_LEN && service.contains('~'))
}
