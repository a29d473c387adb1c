//! What the daemon may do in a cluster. The roles in `deploy/` give just this, and the API server of the
//! tests allows nothing else.

/// Verbs on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The plural, with the subresource behind a slash.
    pub resource: &'static str,
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// Only in the namespace of the daemons.
    pub namespaced: bool,
    /// Only with the object of this name.
    pub name: Option<&'static str>,
}

/// The name of the Lease and of the Secret.
const ROOST: Option<&str> = Some("roost");

/// All of them.
pub const RIGHTS: &[Right] = &[
    everywhere("", "services", &["list", "watch"]),
    everywhere("", "nodes", &["list", "watch"]),
    everywhere("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    everywhere("", "services/status", &["patch"]),
    everywhere("events.k8s.io", "events", &["create", "patch"]),
    // A right to create cannot be for one name: the object has none when it is judged.
    here("coordination.k8s.io", "leases", &["create"], None),
    here("coordination.k8s.io", "leases", &["get", "update"], ROOST),
    here("", "secrets", &["create"], None),
    here("", "secrets", &["get", "list", "watch", "update"], ROOST),
];

const fn everywhere(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
) -> Right {
    Right { group, resource, verbs, namespaced: false, name: None }
}

const fn here(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    name: Option<&'static str>,
) -> Right {
    Right { group, resource, verbs, namespaced: true, name }
}
