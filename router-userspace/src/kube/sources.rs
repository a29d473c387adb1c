//! From where clients may connect to a Service.

use k8s_openapi::api::core::v1::Service;

use crate::plan::config::{self, Prefix};

/// From where clients may connect, and what is wrong with `spec.loadBalancerSourceRanges`. `None`: from
/// anywhere. What is not understood lets nobody in.
pub(super) fn of(service: &Service) -> (Option<Vec<Prefix>>, Vec<String>) {
    let ranges = service.spec.as_ref().and_then(|spec| spec.load_balancer_source_ranges.as_ref());
    let Some(ranges) = ranges.filter(|ranges| !ranges.is_empty()) else {
        return (None, Vec::new());
    };
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for text in ranges {
        match range(text.trim()) {
            Ok(prefix) if sources.contains(&prefix) => {}
            Ok(prefix) => sources.push(prefix),
            Err(e) => {
                problems.push(format!("spec.loadBalancerSourceRanges: {e}; nobody is let in by it"))
            }
        }
    }
    (Some(sources), problems)
}

/// The API server takes bits behind the prefix, which do not count.
fn range(text: &str) -> Result<Prefix, String> {
    let net: ipnet::IpNet =
        text.parse().map_err(|_| format!("{text:?} is no prefix such as \"192.0.2.0/24\""))?;
    config::source_prefix(&Prefix::from(net).to_string())
}
