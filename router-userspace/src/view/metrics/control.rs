//! The part of the daemon that writes to the cluster: the Lease, the address pool, Events.

use crate::lead::Controls;

use super::{Facts, Family};

pub(super) fn families(facts: &Facts<'_>) -> Vec<Family> {
    let mut leads = Family::gauge(
        "kubernetes_leader",
        "1 if this daemon holds the Lease and writes to the cluster, else 0.",
        &[],
    );
    let mut pool = Family::gauge(
        "pool_addresses",
        "Addresses of the pools by family: what Services have of them, and what is left. Of the leader only.",
        &["family", "state"],
    );
    let mut given = Family::counter(
        "pool_addresses_given",
        "Addresses that this daemon gave to Services.",
        &[],
    );
    let mut written = Family::counter(
        "kubernetes_events_written",
        "Events about Services that this daemon wrote, also those that it wrote again.",
        &[],
    );
    let mut failed = Family::counter(
        "kubernetes_events_failed",
        "Events that could not be written, each try.",
        &[],
    );
    if let Some(control) = facts.control {
        let Controls { is_leader, pools, addresses_given, .. } = control;
        leads.add([], (*is_leader).into());
        for (family, usage) in pools {
            pool.add([family.name(), "given"], usage.given);
            pool.add([family.name(), "free"], usage.free);
        }
        given.add([], *addresses_given);
        written.add([], control.events_written);
        failed.add([], control.events_failed);
    }
    vec![leads, pool, given, written, failed]
}
