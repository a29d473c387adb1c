//! The daemon itself: what it is, where it is attached, what it has published and done.

use std::time::{SystemTime, UNIX_EPOCH};

use router_ebpf::schema::FILLED;

use crate::view::status::{RoundState, State};

use super::{Facts, Family};

pub(super) fn families(facts: &Facts<'_>) -> Vec<Family> {
    let state = facts.state;
    let mut all = daemon(facts);
    all.push(interfaces(facts));
    all.extend(file(state));
    all.extend(publications(state));
    all.extend(rounds(state));
    all
}

fn daemon(facts: &Facts<'_>) -> Vec<Family> {
    let state = facts.state;
    let age = facts.now.saturating_duration_since(state.since);
    vec![
        Family::gauge(
            "build_info",
            "1, with the version of the daemon and of how its maps are described.",
            &["version", "map_schema"],
        )
        .with([env!("CARGO_PKG_VERSION"), &FILLED.to_string()], 1),
        Family::gauge(
            "start_time_seconds",
            "When the daemon was started, as Unix time. The data path may be older.",
            &[],
        )
        .with_seconds([], unix(state.started_at)),
        Family::gauge(
            "loop_step_age_seconds",
            "How long the main loop has been at what it does now. It waits for less than a second.",
            &[],
        )
        .with_seconds([], age.as_secs_f64()),
    ]
}

fn interfaces(facts: &Facts<'_>) -> Family {
    let mut family = Family::gauge(
        "interface_attached",
        "1 if both programs are on an interface where they should be, else 0; the modes are empty where nothing is.",
        &["interface", "ingress", "egress"],
    );
    for name in &facts.state.interfaces {
        let line = facts.interfaces.iter().find(|line| line.interface == *name);
        let ingress = line.and_then(|line| line.ingress).unwrap_or_default();
        let egress = line.and_then(|line| line.egress).unwrap_or_default();
        let sound = line.is_some_and(|line| line.problem.is_empty());
        let attached = sound && !ingress.is_empty() && !egress.is_empty();
        family.add([name, ingress, egress], attached.into());
    }
    family
}

fn file(state: &State) -> Vec<Family> {
    let mut good = Family::gauge(
        "config_last_reload_successful",
        "1 if the configuration file was applied the last time that it changed, 0 if it was refused.",
        &[],
    );
    let mut reloads = Family::counter(
        "config_reloads",
        "Configurations that were read from the file, the first one included, by what became of them.",
        &["result"],
    );
    let mut applied_at = Family::gauge(
        "config_last_applied_timestamp_seconds",
        "When the configuration file was last applied.",
        &[],
    );
    if let Some(file) = &state.file {
        good.add([], file.problem.is_none().into());
        reloads.add(["applied"], file.applied);
        reloads.add(["refused"], file.refused);
        if let Some(at) = file.applied_at {
            applied_at.add_seconds([], unix(at));
        }
    }
    vec![good, reloads, applied_at]
}

fn publications(state: &State) -> Vec<Family> {
    let maps = &state.maps;
    let mut published_at = Family::gauge(
        "last_publication_timestamp_seconds",
        "When the maps of services and replicas were last written.",
        &[],
    );
    if let Some(at) = maps.published_at {
        published_at.add_seconds([], unix(at));
    }
    vec![
        Family::gauge(
            "maps_current",
            "1 if the maps hold what the sources say, else 0: `roost status` says why.",
            &[],
        )
        .with([], (maps.is_filled && maps.failed.is_empty()).into()),
        Family::gauge(
            "services_not_published",
            "Services that are not as their sources say: `roost status` says which and why.",
            &[],
        )
        .with([], maps.failed.len() as u64),
        Family::counter(
            "publications",
            "How often the maps of services and replicas were written. Changes that come together are one.",
            &[],
        )
        .with([], maps.publications),
        Family::counter(
            "publication_changes",
            "Single changes in these publications; a slot table is one.",
            &[],
        )
        .with([], maps.changes),
        published_at,
    ]
}

/// What rounds do. The rest of a report is about the present.
type Done = (&'static str, &'static str, fn(&RoundState) -> usize);
const DONE: [Done; 4] = [
    (
        "farewells",
        "Flows that the kernel has ended and of which the daemon has learned, to tell their ends.",
        |rounds| rounds.told.flows,
    ),
    (
        "farewell_resets",
        "RSTs that were sent to their ends with that: two for each, unless there is no way.",
        |rounds| rounds.told.resets,
    ),
    ("pins_moved", "Pins that followed their replica to its new number.", |rounds| {
        rounds.judged.repinned
    }),
    (
        "keys_forgotten",
        "Entries of CHAT_COOKIES that were removed because their service is no more.",
        |rounds| rounds.judged.forgotten,
    ),
];

fn rounds(state: &State) -> Vec<Family> {
    let rounds = &state.rounds;
    let mut done_at = Family::gauge(
        "last_round_timestamp_seconds",
        "When the last round ended. What is said of flows and chats is as old as that.",
        &[],
    );
    if let Some(at) = rounds.done_at {
        done_at.add_seconds([], unix(at));
    }
    let mut all = vec![
        Family::histogram(
            "round_duration_seconds",
            "How long rounds took, in which the daemon reads what there is and tells the ends of ended flows.",
            &rounds.took,
        ),
        Family::counter(
            "round_failures",
            "Rounds that ended early; the next one does the rest.",
            &[],
        )
        .with([], rounds.failed),
        done_at,
    ];
    all.extend(
        DONE.iter()
            .map(|(name, help, of)| Family::counter(*name, help, &[]).with([], of(rounds) as u64)),
    );
    all
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
