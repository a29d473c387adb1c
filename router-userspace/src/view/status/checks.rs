//! Whether the daemon lives, and whether it does what it was told to.

use std::time::Instant;

use crate::{
    kube::{Kind, SecretState},
    view::interfaces::InterfaceLine,
};

use super::State;

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What is missing, a line for each; empty if nothing is.
    pub problems: Vec<String>,
}

impl Check {
    fn new(name: &'static str, problems: impl IntoIterator<Item = String>) -> Self {
        let line = |problem: String| problem.lines().collect::<Vec<_>>().join("; ");
        Self { name, problems: problems.into_iter().map(line).collect() }
    }
}

/// Whether the main loop goes round.
pub fn health(state: &State, now: Instant) -> Vec<Check> {
    let age = now.saturating_duration_since(state.since);
    let stuck = (age > state.activity.limit).then(|| {
        format!(
            "the main loop has been {} for {:.1} s, and should not be for more than {} s",
            state.activity.what,
            age.as_secs_f64(),
            state.activity.limit.as_secs()
        )
    });
    vec![Check::new("loop", stuck)]
}

/// Whether everything is in place. What was there and is not needed for the data path does not count:
/// an API server that goes away, for one.
pub fn readiness(state: &State, attached: &[InterfaceLine], now: Instant) -> Vec<Check> {
    let mut checks = health(state, now);
    checks.push(maps(state));
    checks.push(interfaces(state, attached));
    if let Some(file) = &state.file {
        let problem = file.problem.as_ref();
        let problem = problem.map(|e| format!("the changed file was not applied: {e}"));
        checks.push(Check::new("file", problem));
    }
    if state.is_in_cluster {
        checks.push(cluster(state));
    }
    if let Some(state_of_secret) = &state.secret {
        checks.push(secret(state_of_secret, state.secret_was_read));
    }
    checks
}

fn maps(state: &State) -> Check {
    let refused = state.maps.failed.iter().filter(|(_, failure)| failure.is_refusal);
    let mut problems: Vec<_> = refused.map(|(name, e)| format!("{name}: {}", e.problem)).collect();
    // Services that do not fit do not count: whoever may write one would stop the roll-out on all nodes.
    if !state.maps.is_filled {
        problems.push("they are not filled yet".to_owned());
    }
    Check::new("maps", problems)
}

fn interfaces(state: &State, attached: &[InterfaceLine]) -> Check {
    let problem = |wanted: &String| {
        let line = attached.iter().find(|line| line.interface == *wanted);
        let problem = match line {
            None => "not attached",
            Some(line) if !line.problem.is_empty() => line.problem.as_str(),
            Some(line) if line.ingress.is_none() => "nothing meets packets from clients",
            Some(line) if line.egress.is_none() => "nothing meets packets from replicas",
            Some(_) => return None,
        };
        Some(format!("{wanted}: {problem}"))
    };
    Check::new("interfaces", state.interfaces.iter().filter_map(problem))
}

fn cluster(state: &State) -> Check {
    let Some(watches) = &state.watches else {
        return Check::new("cluster", ["it is not watched yet".to_owned()]);
    };
    let watched = watches.get();
    let missing = |kind: Kind| {
        let watch = watched.kind(kind);
        let error = watch.last_error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
        (!watch.is_listed).then(|| format!("{kind} were not listed completely yet{error}"))
    };
    let mut problems: Vec<String> = Kind::ALL.into_iter().filter_map(missing).collect();
    if problems.is_empty() && watched.publications == 0 {
        problems.push("what it says is not in the maps yet".to_owned());
    }
    Check::new("cluster", problems)
}

/// Under other keys than the other nodes' the same chats would have other homes here.
fn secret(secret: &SecretState, was_read: bool) -> Check {
    let problem = || {
        let heard = secret.watch().get().kind(Kind::Secrets).last_error.clone();
        let secret = secret.get();
        let why = secret.problem.or(secret.last_error).or(heard);
        format!("its keys are not in use yet{}", why.map(|e| format!(": {e}")).unwrap_or_default())
    };
    Check::new("secret", (!was_read).then(problem))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::{super::Failure, *};
    use crate::{
        kube::WatchState,
        plan::index::Published,
        view::status::{Activity, Status},
    };

    fn failing(checks: &[Check]) -> Vec<(&'static str, &[String])> {
        let failing = checks.iter().filter(|check| !check.problems.is_empty());
        failing.map(|check| (check.name, check.problems.as_slice())).collect()
    }

    fn line(interface: &str) -> InterfaceLine {
        InterfaceLine {
            interface: interface.to_owned(),
            clients: "outside",
            ingress: Some("native"),
            egress: Some("tcx"),
            problem: String::new(),
        }
    }

    #[test]
    fn a_loop_that_is_stuck_is_seen_and_named() {
        let status = Status::new();
        let after = |seconds| {
            let state = status.get();
            let now = state.since + Duration::from_secs(seconds);
            health(&state, now)
        };
        assert_eq!(failing(&after(200)), []);
        assert_eq!(after(301)[0].problems.len(), 1, "the start ends, too");
        status.does(Activity::CLUSTER);
        assert_eq!(failing(&after(9)), []);
        let checks = after(12);
        let said = &checks[0].problems[0];
        assert!(said.starts_with("the main loop has been applying what the cluster says for 12."));
        status.does(Activity::WAITING);
        assert_eq!(failing(&after(9)), []);
    }

    #[test]
    fn readiness_names_each_thing_that_is_missing() {
        let now = Instant::now();
        let status = Status::new();
        status.does(Activity::WAITING);
        status.expects(true, true, &["eth0".to_owned(), "eth1".to_owned()]);
        let broken = InterfaceLine { problem: "was made anew".to_owned(), ..line("eth1") };
        let checks = readiness(&status.get(), &[broken], now);
        let names: Vec<_> = failing(&checks).iter().map(|(name, p)| (*name, p.len())).collect();
        assert_eq!(names, [("maps", 1), ("interfaces", 2), ("cluster", 1)]);
        assert_eq!(checks[2].problems, ["eth0: not attached", "eth1: was made anew"]);

        status.published(&Published::default(), 0, BTreeMap::new());
        status.watches(WatchState::default(), None);
        let both = [line("eth0"), line("eth1")];
        let checks = readiness(&status.get(), &both, now);
        assert_eq!(failing(&checks).len(), 1);
        assert_eq!(failing(&checks)[0].1.len(), 3, "a line for each kind");

        status.keeps(SecretState::default());
        let checks = readiness(&status.get(), &both, now);
        assert_eq!(failing(&checks)[1].1, ["its keys are not in use yet"]);

        let status = Status::new();
        status.does(Activity::WAITING);
        status.published(&Published::default(), 0, BTreeMap::new());
        status.expects(true, false, &["eth0".to_owned()]);
        assert_eq!(failing(&readiness(&status.get(), &both, now)), []);
        status.file_refused("port: 0 is not one\nname: missing");
        let checks = readiness(&status.get(), &both, now);
        let said = "the changed file was not applied: port: 0 is not one; name: missing";
        assert_eq!(failing(&checks), [("file", &[said.to_owned()][..])]);
        status.file_applied(&["eth0".to_owned()]);
        let failure = |is_refusal| {
            let failure = Failure { problem: "why".to_owned(), is_refusal };
            BTreeMap::from([("chat".to_owned(), failure)])
        };
        // One that does not fit is the matter of whoever wrote it.
        status.published(&Published::default(), 0, failure(false));
        assert_eq!(failing(&readiness(&status.get(), &both, now)), []);
        status.published(&Published::default(), 0, failure(true));
        let checks = readiness(&status.get(), &both, now);
        assert_eq!(failing(&checks), [("maps", &["chat: why".to_owned()][..])]);
    }
}
