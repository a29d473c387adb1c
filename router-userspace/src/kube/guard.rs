//! Doubts a list of the API server that says that a service has no replicas any more.
//!
//! Replicas leave by events: a slice that changes, a Service that is deleted. A list that takes the
//! last replica of a service, without an event, is what a server says that has lost its data or has
//! not read it yet. Believed at once, it would end every connection of the service. So the service
//! stays as the maps have it for a while.
//!
//! The price is small: a service that was really emptied just while the watch was interrupted sends
//! its clients to replicas that do not answer, for that while.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::plan::config;

use super::ObjectKey;

/// Which services had replicas, and which are held.
#[derive(Debug)]
pub(super) struct Guard {
    hold: Duration,
    /// Services with replicas; the Service, if it was seen.
    filled: BTreeMap<String, Option<ObjectKey>>,
    /// Those of them that are held, until when.
    held: BTreeMap<String, Duration>,
}

impl Guard {
    /// `known` are the services that the maps have replicas of.
    pub(super) fn new(hold: Duration, known: impl IntoIterator<Item = String>) -> Self {
        let filled = known.into_iter().map(|name| (name, None)).collect();
        Self { hold, filled, held: BTreeMap::new() }
    }

    /// Learns what the cluster says now, and which Services events were about. Returns the services
    /// that are held. None is given up while the server is not there to say more (`is_current`).
    pub(super) fn judge(
        &mut self,
        services: &[(ObjectKey, config::Service)],
        by_event: &BTreeSet<ObjectKey>,
        is_current: bool,
        now: Duration,
    ) -> BTreeSet<String> {
        let declared: BTreeMap<&str, &config::Service> =
            services.iter().map(|(_, service)| (service.name.as_str(), service)).collect();
        let mut filled: BTreeMap<String, Option<ObjectKey>> = services
            .iter()
            .filter(|(_, service)| !service.replicas.is_empty())
            .map(|(key, service)| (service.name.clone(), Some(key.clone())))
            .collect();
        let before = std::mem::take(&mut self.filled);
        let mut held = BTreeMap::new();
        for (name, key) in before {
            if filled.contains_key(&name) {
                continue;
            }
            let has_event = key.as_ref().is_some_and(|key| by_event.contains(key));
            let is_declared = declared.contains_key(name.as_str());
            let until = match self.held.get(&name) {
                // The Service was there and was deleted.
                Some(_) if has_event && !is_declared => continue,
                Some(until) => *until,
                None if has_event => continue,
                None => now + self.hold,
            };
            if now >= until && is_current {
                continue;
            }
            held.insert(name.clone(), until);
            filled.insert(name, key);
        }
        (self.filled, self.held) = (filled, held);
        self.held.keys().cloned().collect()
    }

    /// When the first of those that are held is given up.
    pub(super) fn next(&self) -> Option<Duration> {
        self.held.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::config::Config;

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    fn service(name: &str, replicas: usize) -> (ObjectKey, config::Service) {
        let mut text =
            "interfaces = [\"x\"]\n[[service]]\nname = \"x\"\naddresses = [\"192.0.2.1\"]\n\
                        port = 80\npolicy = \"spread\"\n"
                .to_owned();
        for i in 0..replicas {
            text += &format!("[[service.replica]]\nname = \"r{i}\"\naddress = \"10.0.0.{i}\"\n");
        }
        let mut config = Config::parse(&text.replace("10.0.0.0", "10.0.0.99"), "").unwrap();
        let mut service = config.services.remove(0);
        service.name = format!("default/{name}:80");
        (key(name), service)
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    fn names(held: BTreeSet<String>) -> Vec<String> {
        held.into_iter().collect()
    }

    fn guard() -> Guard {
        let mut guard = Guard::new(SECONDS(60), []);
        let two = [service("a", 2), service("b", 1)];
        assert_eq!(names(guard.judge(&two, &BTreeSet::new(), true, SECONDS(0))), [""; 0]);
        guard
    }

    #[test]
    fn what_an_event_empties_is_empty_at_once() {
        let mut guard = guard();
        let held = guard.judge(&[service("a", 0)], &[key("a"), key("b")].into(), true, SECONDS(1));
        assert_eq!(names(held), [""; 0]);
        assert_eq!(guard.next(), None);
    }

    #[test]
    fn what_a_list_empties_is_held_for_a_while() {
        let mut guard = guard();
        let none = BTreeSet::new();
        let empty = [service("a", 0)];
        let both = ["default/a:80", "default/b:80"];
        assert_eq!(names(guard.judge(&empty, &none, true, SECONDS(1))), both);
        assert_eq!(guard.next(), Some(SECONDS(61)));
        // Once more the same does not make it longer, and an event about it does not end it.
        assert_eq!(names(guard.judge(&empty, &[key("a")].into(), true, SECONDS(30))), both);
        // While the server is away it goes on.
        assert_eq!(names(guard.judge(&empty, &none, false, SECONDS(100))), both);
        assert_eq!(names(guard.judge(&empty, &none, true, SECONDS(101))), [""; 0]);
        assert_eq!(names(guard.judge(&empty, &none, true, SECONDS(102))), [""; 0]);
    }

    #[test]
    fn what_comes_back_is_not_held() {
        let mut guard = guard();
        let none = BTreeSet::new();
        guard.judge(&[], &none, true, SECONDS(1));
        let back = [service("a", 1)];
        assert_eq!(names(guard.judge(&back, &none, true, SECONDS(2))), ["default/b:80"]);
        // A Service that comes back and is deleted by an event.
        guard.judge(&[service("b", 0)], &[key("b")].into(), true, SECONDS(3));
        assert_eq!(
            names(guard.judge(&[], &[key("a"), key("b")].into(), true, SECONDS(4))),
            [""; 0]
        );
    }

    #[test]
    fn what_the_maps_had_is_held_when_the_first_list_is_empty() {
        let mut guard = Guard::new(SECONDS(60), ["default/a:80".to_owned()]);
        let held = guard.judge(&[], &BTreeSet::new(), true, SECONDS(5));
        assert_eq!(names(held), ["default/a:80"]);
        assert_eq!(names(guard.judge(&[], &BTreeSet::new(), true, SECONDS(65))), [""; 0]);
    }

    #[test]
    fn without_a_hold_lists_are_believed() {
        let mut guard = Guard::new(Duration::ZERO, ["default/a:80".to_owned()]);
        assert_eq!(names(guard.judge(&[], &BTreeSet::new(), true, SECONDS(5))), [""; 0]);
    }
}
