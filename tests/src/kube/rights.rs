//! RBAC: the daemon may do what the roles in `deploy/` allow, and nothing else.

use std::collections::BTreeMap;

use hyper::Response;
use roost::kube::{RIGHTS, Right};

use super::{
    http::Target,
    reply::{self, Body},
};

/// The answer to a request that is not allowed.
pub(super) fn refusal(
    verb: &str,
    target: &Target,
    query: &BTreeMap<String, String>,
) -> Option<Response<Body>> {
    let group = target.api_version.split_once('/').map_or("", |(group, _)| group);
    let resource = match &target.subresource {
        Some(subresource) => format!("{}/{subresource}", target.plural),
        None => target.plural.clone(),
    };
    // A list or a watch is of one object if it selects it by name.
    let selected = query.get("fieldSelector").and_then(|text| {
        let mut terms = text.split(',').filter_map(|term| term.split_once('='));
        terms.find(|(field, _)| *field == "metadata.name").map(|(_, name)| name)
    });
    // What is created has no name yet.
    let name = target.name.as_deref().or(selected).filter(|_| verb != "create");
    let allows = |right: &Right| {
        right.group == group
            && right.resource == resource
            && right.verbs.contains(&verb)
            && (!right.namespaced || target.namespace.is_some())
            && (right.name.is_none() || right.name == name)
    };
    if RIGHTS.iter().any(allows) {
        return None;
    }
    let message = format!(
        "{resource} is forbidden: User \"system:serviceaccount:roost-system:roost\" cannot {verb} \
         resource \"{resource}\" in API group \"{group}\""
    );
    Some(reply::refusal(403, &message))
}
