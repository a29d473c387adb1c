//! The pods that take from the nodes what a daemon has pinned there.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The label of these pods, and what they are called.
pub const PURGE: &str = "roost-purge";

/// The nodes that pods are on.
pub fn nodes(pods: &Value) -> BTreeSet<String> {
    let pods = pods["items"].as_array().map_or(&[][..], Vec::as_slice);
    let names = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str());
    names.map(str::to_owned).collect()
}

/// Of the nodes of a cluster those that run pods, and of these those for Linux: names.
pub fn ready(nodes: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let nodes = nodes["items"].as_array().map_or(&[][..], Vec::as_slice);
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let name = |node: &Value| Some(node["metadata"]["name"].as_str()?.to_owned());
    let is_linux = |node: &&Value| node["metadata"]["labels"]["kubernetes.io/os"] == "linux";
    let ready = nodes.iter().filter(is_ready);
    (ready.clone().filter_map(name).collect(), ready.filter(is_linux).filter_map(name).collect())
}

/// A pod that runs `roost detach` on a node, with image, mounts and security context of the daemon.
pub fn pod(daemon_set: &Value, number: usize, node: &str) -> Value {
    let template = &daemon_set["spec"]["template"];
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!(node);
    // Until it has worked: the daemon before may still hold its lock for a moment.
    spec["restartPolicy"] = json!("OnFailure");
    // It has nothing to say to the API server, whose account and file may be gone before it.
    spec["automountServiceAccountToken"] = json!(false);
    let is_file = |entry: &Value| entry["name"] == "config";
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.retain(|volume| !is_file(volume));
    }
    for container in spec["containers"].as_array_mut().into_iter().flatten() {
        container["args"] = json!(["detach"]);
        if let Some(mounts) = container["volumeMounts"].as_array_mut() {
            mounts.retain(|mount| !is_file(mount));
        }
        if let Some(container) = container.as_object_mut() {
            for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
                container.remove(field);
            }
        }
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            // A node's name may be too long for a pod's.
            "name": format!("{PURGE}-{number}"),
            "namespace": daemon_set["metadata"]["namespace"],
            "labels": {"app.kubernetes.io/name": PURGE},
        },
        "spec": spec,
    })
}

/// Those that have not done it yet, with what they are at.
pub fn unfinished(pods: &Value) -> Vec<String> {
    let pods = pods["items"].as_array().map_or(&[][..], Vec::as_slice);
    let unfinished = pods.iter().filter(|pod| pod["status"]["phase"] != "Succeeded");
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    unfinished
        .map(|pod| {
            let state = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
            let why = state.as_str().map_or_else(|| text(&pod["status"]["phase"]), str::to_owned);
            format!("{}: {why}", text(&pod["spec"]["nodeName"]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purging_pod_is_the_daemons_with_other_words() {
        let daemon_set = json!({
            "metadata": {"name": "roost", "namespace": "roost-system"},
            "spec": {"template": {
                "metadata": {"labels": {"app.kubernetes.io/name": "roost"}},
                "spec": {
                    "hostNetwork": true,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "roost", "image": "r:1", "args": ["run"], "ports": [{}],
                        "readinessProbe": {}, "livenessProbe": {},
                        "securityContext": {"privileged": true},
                        "volumeMounts": [
                            {"name": "config", "mountPath": "/etc/roost"},
                            {"name": "bpffs", "mountPath": "/sys/fs/bpf"},
                        ],
                    }],
                    "volumes": [{"name": "config"}, {"name": "bpffs"}],
                },
            }},
        });
        assert_eq!(
            pod(&daemon_set, 3, "n1"),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": "roost-purge-3", "namespace": "roost-system",
                    // Not the daemon's label, or the DaemonSet would take it for its own.
                    "labels": {"app.kubernetes.io/name": "roost-purge"},
                },
                "spec": {
                    "hostNetwork": true, "nodeName": "n1", "restartPolicy": "OnFailure",
                    "automountServiceAccountToken": false,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "roost", "image": "r:1", "args": ["detach"],
                        "securityContext": {"privileged": true},
                        "volumeMounts": [{"name": "bpffs", "mountPath": "/sys/fs/bpf"}],
                    }],
                    "volumes": [{"name": "bpffs"}],
                },
            })
        );
    }

    #[test]
    fn nodes_that_run_no_pods_are_seen() {
        let node = |name: &str, os: &str, ready: &str| {
            json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/os": os}},
                "status": {"conditions": [
                    {"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": ready},
                ]},
            })
        };
        let nodes = json!({"items": [
            node("a", "linux", "True"), node("b", "linux", "Unknown"),
            node("c", "linux", "False"), node("d", "windows", "True"),
        ]});
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(ready(&nodes), (names(&["a", "d"]), names(&["a"])));
    }

    #[test]
    fn what_is_unfinished_says_where_and_why() {
        let waiting =
            json!({"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]});
        let pods = json!({"items": [
            {"spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"}},
            {"spec": {"nodeName": "n2"}, "status": waiting},
            {"spec": {"nodeName": "n3"}, "status": {"phase": "Running"}},
        ]});
        assert_eq!(unfinished(&pods), ["n2: ErrImagePull", "n3: Running"]);
        assert_eq!(nodes(&pods).into_iter().collect::<Vec<_>>(), ["n1", "n2", "n3"]);
    }
}
