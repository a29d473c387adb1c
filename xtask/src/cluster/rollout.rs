//! How far a rollout is, and what it waits for: pure, of what the API server says.

use serde_json::Value;

/// What is to be told about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// All there are to be are there, new and ready.
    pub done: bool,
    /// In one line.
    pub line: String,
    /// Pods that are not ready, and why; in the order of their names.
    pub waiting: Vec<Waiting>,
    /// There are fewer pods than there are to be.
    pub too_few: bool,
}

/// A pod that is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The pod's name.
    pub pod: String,
    /// The node's, as far as it has one.
    pub node: String,
    /// Why.
    pub why: String,
    /// Whether a container has ended, and its log may say more.
    pub crashed: bool,
}

/// Of a DaemonSet or a Deployment, with its pods.
pub fn progress(workload: &Value, pods: &Value) -> Progress {
    let status = &workload["status"];
    let number = |name: &str| status[name].as_u64().unwrap_or(0);
    let is_daemon_set = workload["kind"] == "DaemonSet";
    let (wanted, new, ready) = if is_daemon_set {
        (
            number("desiredNumberScheduled"),
            number("updatedNumberScheduled"),
            number("numberAvailable"),
        )
    } else {
        let wanted = workload["spec"]["replicas"].as_u64().unwrap_or(1);
        (wanted, number("updatedReplicas"), number("availableReplicas"))
    };
    let generation = workload["metadata"]["generation"].as_u64().unwrap_or(0);
    let seen = number("observedGeneration") >= generation;
    let old = if is_daemon_set { 0 } else { number("replicas").saturating_sub(new) };
    let name = workload["metadata"]["name"].as_str().unwrap_or_default();
    let unit = if is_daemon_set { "nodes" } else { "replicas" };
    let line = if !seen {
        format!("{name}: the controller has not seen it yet")
    } else if wanted == 0 {
        format!("{name}: there are no {unit} for it")
    } else {
        format!("{name}: {ready} of {wanted} {unit} ready, {new} of them as they are to be")
    };
    let done = seen && wanted > 0 && new >= wanted && ready >= wanted && old == 0;
    let waiting = if done { Vec::new() } else { waiting(pods) };
    let there = pods["items"].as_array().map_or(0, Vec::len) as u64;
    Progress { done, line, waiting, too_few: !done && seen && there < wanted }
}

/// Why pods are not even created, by the events `FailedCreate` of a namespace: the newest that is of the
/// workload, or of a ReplicaSet of it.
pub fn refused(events: &Value, name: &str) -> Option<String> {
    let is_its = |event: &&Value| {
        let of = event["involvedObject"]["name"].as_str().unwrap_or_default();
        of.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    // Times of the API sort as text.
    let when = |event: &&Value| {
        let times = [&event["lastTimestamp"], &event["eventTime"]];
        times.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
    };
    let newest = events["items"].as_array()?.iter().filter(is_its).max_by_key(when)?;
    Some(newest["message"].as_str()?.trim().to_owned())
}

fn waiting(pods: &Value) -> Vec<Waiting> {
    let pods = pods["items"].as_array().map_or(&[][..], Vec::as_slice);
    let mut waiting: Vec<_> = pods.iter().filter_map(one).collect();
    waiting.sort_by(|a, b| a.pod.cmp(&b.pod));
    waiting
}

fn one(pod: &Value) -> Option<Waiting> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let status = &pod["status"];
    let conditions = array(&status["conditions"]);
    let condition = |name: &str| conditions.iter().find(|c| c["type"] == name);
    if condition("Ready").is_some_and(|c| c["status"] == "True") {
        return None;
    }
    let mut crashed = false;
    let mut reasons = Vec::new();
    let mut add = |reason: &str, message: &str| {
        let message = message.trim();
        if !reason.is_empty() || !message.is_empty() {
            let colon = if reason.is_empty() || message.is_empty() { "" } else { ": " };
            reasons.push(format!("{reason}{colon}{message}"));
        }
    };
    for container in array(&status["containerStatuses"]) {
        let waiting = &container["state"]["waiting"];
        if waiting.is_object() {
            add(&text(&waiting["reason"]), &text(&waiting["message"]));
        }
        for ended in [&container["state"]["terminated"], &container["lastState"]["terminated"]] {
            if ended.is_object() {
                crashed = true;
                let code = ended["exitCode"].as_i64().unwrap_or(0);
                add(&format!("ended with {code} ({})", text(&ended["reason"])), "");
                break;
            }
        }
        if container["state"]["running"].is_object() && container["ready"] == false {
            add("", "runs, but its readiness probe does not succeed");
        }
    }
    if let Some(c) = condition("PodScheduled").filter(|c| c["status"] == "False") {
        add(&text(&c["reason"]), &text(&c["message"]));
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        add("", "is being deleted");
    }
    // Of the kubelet, when it refuses the pod.
    add(&text(&status["reason"]), &text(&status["message"]));
    if reasons.is_empty() {
        reasons.push(text(&status["phase"]));
    }
    let node = text(&pod["spec"]["nodeName"]);
    Some(Waiting { pod: text(&pod["metadata"]["name"]), node, why: reasons.join("; "), crashed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn daemon_set(observed: u64, wanted: u64, updated: u64, available: u64) -> Value {
        json!({
            "kind": "DaemonSet", "metadata": {"name": "roost", "generation": 2},
            "status": {
                "observedGeneration": observed, "desiredNumberScheduled": wanted,
                "updatedNumberScheduled": updated, "numberAvailable": available,
            },
        })
    }

    #[test]
    fn a_rollout_is_done_when_all_are_new_and_ready() {
        let none = json!({"items": []});
        assert!(progress(&daemon_set(2, 3, 3, 3), &none).done);
        for (observed, wanted, updated, available) in
            [(1, 3, 3, 3), (2, 0, 0, 0), (2, 3, 2, 3), (2, 3, 3, 2)]
        {
            let set = daemon_set(observed, wanted, updated, available);
            assert!(!progress(&set, &none).done, "{set}");
        }
        let deployment = |replicas: u64| {
            json!({
                "kind": "Deployment", "metadata": {"name": "chat", "generation": 1},
                "spec": {"replicas": 3},
                "status": {
                    "observedGeneration": 1, "replicas": replicas, "updatedReplicas": 3,
                    "availableReplicas": 3,
                },
            })
        };
        assert!(progress(&deployment(3), &none).done);
        assert!(!progress(&deployment(4), &none).done, "an old pod is still there");
    }

    #[test]
    fn the_newest_refusal_of_a_workload_counts() {
        let event = |of: &str, when: &str, message: &str| {
            json!({
                "involvedObject": {"name": of}, "lastTimestamp": when, "message": message,
            })
        };
        let events = json!({"items": [
            event("roost", "2026-01-01T00:00:02Z", "exceeded quota"),
            event("roost", "2026-01-01T00:00:01Z", "denied by a webhook"),
            event("roosters", "2026-01-01T00:00:03Z", "of another"),
            event("chat-5d8f", "2026-01-01T00:00:00Z", "of a ReplicaSet"),
        ]});
        assert_eq!(refused(&events, "roost").as_deref(), Some("exceeded quota"));
        assert_eq!(refused(&events, "chat").as_deref(), Some("of a ReplicaSet"));
        assert_eq!(refused(&json!({"items": []}), "roost"), None);
        let pods = json!({"items": [{}, {}, {}]});
        assert!(progress(&daemon_set(2, 4, 3, 3), &pods).too_few);
        assert!(!progress(&daemon_set(2, 3, 3, 2), &pods).too_few);
    }

    #[test]
    fn pods_that_are_not_ready_say_why() {
        let pod = |name: &str, status: Value| json!({"metadata": {"name": name}, "spec": {"nodeName": "n1"}, "status": status});
        let pods = json!({"items": [
            pod("d", json!({"conditions": [{"type": "Ready", "status": "True"}]})),
            pod("c", json!({"phase": "Pending", "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/1 nodes are available",
            }]})),
            pod("b", json!({"phase": "Running", "containerStatuses": [{
                "ready": false,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
            }]})),
            pod("a", json!({"phase": "Pending", "containerStatuses": [{
                "ready": false,
                "state": {"waiting": {"reason": "ErrImageNeverPull"}},
            }]})),
            pod("e", json!({"phase": "Running", "containerStatuses": [{
                "ready": false, "state": {"running": {"startedAt": "now"}},
            }]})),
        ]});
        let progress = progress(&daemon_set(2, 5, 5, 1), &pods);
        assert_eq!(progress.line, "roost: 1 of 5 nodes ready, 5 of them as they are to be");
        let why: Vec<_> =
            progress.waiting.iter().map(|w| (w.pod.as_str(), w.why.as_str(), w.crashed)).collect();
        assert_eq!(
            why,
            [
                ("a", "ErrImageNeverPull", false),
                ("b", "CrashLoopBackOff: back-off 10s; ended with 1 (Error)", true),
                ("c", "Unschedulable: 0/1 nodes are available", false),
                ("e", "runs, but its readiness probe does not succeed", false),
            ]
        );
    }
}
