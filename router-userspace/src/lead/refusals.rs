//! Services whose status the server refuses to have written, a webhook's work for example, and when that
//! is tried again. Pure.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::Claimant;
use crate::kube::{ObjectKey, Problem, backoff::Backoff};

/// What one Service waits for at the most: each try costs a list of all Services.
const MOST: Duration = Duration::from_secs(240);

/// Those that are refused, each with a wait of its own.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<ObjectKey, Refusal>);

#[derive(Debug)]
struct Refusal {
    /// The Service that was refused: another one may be taken.
    claimant: Claimant,
    problem: Problem,
    backoff: Backoff,
    /// When it is tried again.
    until: Instant,
    /// From when on it is tried with another one that is due, so that many cost one list together.
    along: Instant,
}

impl Refusals {
    /// Whether a Service has to wait. One that has changed has not, nor one whose wait is half over.
    pub(super) fn holds(&self, claimant: &Claimant, now: Instant) -> bool {
        self.0.get(&claimant.key).is_some_and(|r| r.claimant == *claimant && now < r.along)
    }

    /// A Service is refused, again or for the first time. `least` is what the server asks for.
    pub(super) fn add(
        &mut self,
        claimant: &Claimant,
        problem: Problem,
        least: Duration,
        now: Instant,
    ) {
        let before = self.0.remove(&claimant.key).filter(|r| r.problem.uid == claimant.uid);
        let (backoff, said) = before.map(|r| (r.backoff, (r.claimant, r.problem))).unzip();
        let mut backoff = backoff.unwrap_or_else(|| Backoff::up_to(MOST));
        // What the server says may name an address, and the next one is another.
        let said = said.filter(|(before, _)| before == claimant);
        let wait = backoff.next(least);
        let refusal = Refusal {
            claimant: claimant.clone(),
            problem: said.map_or(problem, |(_, problem)| problem),
            backoff,
            until: now + wait,
            along: now + least.max(wait / 2),
        };
        self.0.insert(claimant.key.clone(), refusal);
    }

    /// Keeps those that still wait for something.
    pub(super) fn retain(&mut self, waits: impl Fn(&ObjectKey) -> bool) {
        self.0.retain(|key, _| waits(key));
    }

    /// A Service is refused no longer.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }

    /// When the next one is to be tried again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|refusal| refusal.until).min()
    }

    /// Whether one of these has changed since it was refused.
    pub(super) fn have_changed(&self, claimants: &[Claimant]) -> bool {
        claimants.iter().any(|c| self.0.get(&c.key).is_some_and(|r| r.claimant != *c))
    }

    /// What is to be said of them.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.0.values().map(|refusal| &refusal.problem)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;
    use crate::kube::Reason;

    fn claimant(name: &str, uid: &str, label: &str) -> Claimant {
        let service: Service = serde_json::from_value(json!({
            "metadata": {
                "namespace": "default", "name": name, "uid": uid, "labels": {"team": label},
            },
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "roost.rs/router"},
        }))
        .unwrap();
        Claimant::of(&service)
    }

    fn problem(of: &Claimant, message: &str) -> Problem {
        Problem {
            service: of.key.clone(),
            uid: of.uid.clone(),
            reason: Reason::NoAddress,
            message: message.into(),
        }
    }

    #[test]
    fn each_waits_for_itself_and_up_to_minutes() {
        let mut refusals = Refusals::default();
        let (chat, other) = (claimant("chat", "1", "a"), claimant("other", "2", "a"));
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for n in 0..20 {
            refusals.add(&chat, problem(&chat, &format!("try {n}")), Duration::ZERO, now);
            assert!(refusals.holds(&chat, now) && !refusals.holds(&other, now));
            let next = refusals.next().unwrap();
            waits.push(next - now);
            now = next;
            assert!(!refusals.holds(&chat, now));
        }
        assert!(waits[0] <= Duration::from_millis(500), "{waits:?}");
        assert!((MOST / 2..=MOST).contains(&waits[19]), "{waits:?}");
        let texts: Vec<_> = refusals.problems().map(|p| p.message.as_str()).collect();
        assert_eq!(texts, ["try 0"], "what is said stays the same");
        // Another one begins anew, and is not held up.
        refusals.add(&other, problem(&other, "no"), Duration::ZERO, now);
        assert!(refusals.next().unwrap() - now <= Duration::from_millis(500));
        refusals.retain(|key| *key != chat.key);
        refusals.forget(&other.key);
        assert_eq!(refusals.next(), None);
    }

    #[test]
    fn many_are_tried_together() {
        let mut refusals = Refusals::default();
        let all: Vec<_> = (0..200).map(|n| claimant(&n.to_string(), &n.to_string(), "a")).collect();
        let begin = Instant::now();
        let (mut now, mut rounds) = (begin, 0);
        let hour = Duration::from_secs(3600);
        while now - begin < hour {
            for one in &all {
                if !refusals.holds(one, now) {
                    refusals.add(one, problem(one, "no"), Duration::ZERO, now);
                }
            }
            now = refusals.next().unwrap();
            rounds += 1;
        }
        assert!(rounds < 100, "{rounds} lists in an hour");
    }

    #[test]
    fn one_that_has_changed_does_not_wait() {
        let mut refusals = Refusals::default();
        let (chat, changed) = (claimant("chat", "1", "a"), claimant("chat", "1", "b"));
        let now = Instant::now();
        refusals.add(&chat, problem(&chat, "team a"), Duration::from_secs(60), now);
        assert!(refusals.holds(&chat, now + Duration::from_secs(59)));
        assert!(!refusals.have_changed(std::slice::from_ref(&chat)));
        assert!(!refusals.holds(&changed, now));
        assert!(refusals.have_changed(std::slice::from_ref(&changed)));
        refusals.add(&changed, problem(&changed, "team b"), Duration::from_secs(60), now);
        assert!(refusals.holds(&changed, now));
        let problems: Vec<_> = refusals.problems().collect();
        assert!(!problems.is_empty() && problems.iter().all(|p| p.message == "team b"));
    }
}
