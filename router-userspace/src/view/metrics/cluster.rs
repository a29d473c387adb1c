//! The cluster as a source: its watches, what was published of it, and what is wrong with Services.

use std::collections::BTreeMap;

use crate::kube::{Kind, Reason, Watched};

use super::{Facts, Family};

const RESOURCE: &[&str] = &["resource"];

pub(super) fn families(facts: &Facts<'_>) -> Vec<Family> {
    let mut all = watches(facts);
    all.extend(published(facts.watched));
    all.extend(problems(facts));
    all
}

fn watches(facts: &Facts<'_>) -> Vec<Family> {
    let mut connected = Family::gauge(
        "kubernetes_watch_connected",
        "1 if the watch of a resource is open, else 0.",
        RESOURCE,
    );
    let mut listed = Family::gauge(
        "kubernetes_watch_listed",
        "1 if the resource was listed completely since the start.",
        RESOURCE,
    );
    let mut lists = Family::counter(
        "kubernetes_lists",
        "Complete lists of a resource. After the first one they should be rare.",
        RESOURCE,
    );
    let mut events = Family::counter(
        "kubernetes_watch_events",
        "Events of a resource's watch, without bookmarks.",
        RESOURCE,
    );
    let mut errors = Family::counter(
        "kubernetes_watch_errors",
        "Failed requests for a resource, and watches that broke off.",
        RESOURCE,
    );
    let mut silence = Family::gauge(
        "kubernetes_watch_silence_seconds",
        "How long ago the API server last said something of a resource: a list, an event, a bookmark.",
        RESOURCE,
    );
    let secret = facts.state.secret.as_ref().map(|secret| secret.watch().get());
    let sources = facts.watched.iter().flat_map(|w| Kind::ALL.map(|kind| (kind, w.kind(kind))));
    let secrets = secret.iter().map(|w| (Kind::Secrets, w.kind(Kind::Secrets)));
    for (kind, watch) in sources.chain(secrets) {
        let resource = [kind.name()];
        connected.add(resource, watch.is_connected.into());
        listed.add(resource, watch.is_listed.into());
        lists.add(resource, watch.lists);
        events.add(resource, watch.events);
        errors.add(resource, watch.errors);
        if let Some(heard) = watch.heard {
            let ago = facts.now.saturating_duration_since(heard);
            silence.add_seconds(resource, ago.as_secs_f64());
        }
    }
    vec![connected, listed, lists, events, errors, silence]
}

fn published(watched: Option<&Watched>) -> Vec<Family> {
    let mut services =
        Family::gauge("kubernetes_services", "Services of the cluster that are Roost's.", &[]);
    let mut endpoints =
        Family::gauge("kubernetes_endpoints", "Endpoints in the slices of these Services.", &[]);
    let mut publications = Family::counter(
        "kubernetes_publications",
        "How often what the cluster says was taken over.",
        &[],
    );
    let mut lag = Family::gauge(
        "kubernetes_publication_lag_seconds",
        "How long the last publication came after the first event that it took in.",
        &[],
    );
    let mut held = Family::gauge(
        "kubernetes_held_services",
        "Services that stay as they are because a list that empties them is doubted.",
        &[],
    );
    if let Some(watched) = watched {
        services.add([], watched.services as u64);
        endpoints.add([], watched.endpoints as u64);
        publications.add([], watched.publications);
        held.add([], watched.held.len() as u64);
        if let Some(duration) = watched.lag {
            lag.add_seconds([], duration.as_secs_f64());
        }
    }
    vec![services, endpoints, publications, lag, held]
}

fn problems(facts: &Facts<'_>) -> [Family; 2] {
    let mut sum = Family::gauge(
        "kubernetes_problems",
        "What is wrong with Services of the cluster, by reason.",
        &["reason"],
    );
    let mut each = Family::gauge(
        "kubernetes_service_problems",
        "What is wrong with the Service NAMESPACE/NAME, by reason; nothing for those that are right.",
        &["object", "reason"],
    );
    let Some(watched) = facts.watched else { return [sum, each] };
    let of_pools = facts.control.iter().flat_map(|control| &control.problems);
    let all: Vec<_> = watched.problems.iter().chain(of_pools).collect();
    for reason in Reason::ALL {
        let of_reason = all.iter().filter(|problem| problem.reason == reason);
        // `namespace` would be taken for the daemon's own by whoever scrapes it.
        let mut by_object: BTreeMap<String, u64> = BTreeMap::new();
        for problem in of_reason {
            *by_object.entry(problem.service.to_string()).or_default() += 1;
        }
        sum.add([reason.name()], by_object.values().sum());
        for (object, count) in by_object {
            each.add([&object, reason.name()], count);
        }
    }
    [sum, each]
}
