//! Objects of a cluster, as the API server has them.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::store::At;

/// The Node that tests are on.
pub const NODE: &str = "node-1";

pub(super) fn place(plural: &str, namespace: &str, name: &str) -> At {
    At { plural: plural.into(), namespace: namespace.into(), name: name.into() }
}

/// Where an object belongs.
pub(super) fn at(object: &Value) -> At {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = object["kind"].as_str().unwrap_or_else(|| panic!("no kind: {object}"));
    At {
        plural: format!("{}s", kind.to_lowercase()),
        namespace: text(&object["metadata"]["namespace"]),
        name: text(&object["metadata"]["name"]),
    }
}

/// A Service of Roost's in the namespace `default`: class `roost.rs/router`, policy `home`, key
/// `query:chat`, port 80, with these load-balancer addresses.
pub fn service(name: &str, addresses: &[IpAddr]) -> Value {
    let ingress: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    let family = |v4: bool| addresses.iter().any(|ip| ip.is_ipv4() == v4);
    let mut families = Vec::new();
    if family(true) || addresses.is_empty() {
        families.push("IPv4");
    }
    if family(false) {
        families.push("IPv6");
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": "default",
            "annotations": {"roost.rs/policy": "home", "roost.rs/key": "query:chat"},
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "roost.rs/router",
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
            "ipFamilies": families, "allocateLoadBalancerNodePorts": false,
            "ports": [{"name": "ws", "port": 80, "protocol": "TCP", "targetPort": "ws"}],
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

/// Sets an annotation under `roost.rs/`.
pub fn annotate(mut service: Value, name: &str, value: &str) -> Value {
    service["metadata"]["annotations"][format!("roost.rs/{name}")] = json!(value);
    service
}

/// An endpoint of a slice: a pod.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The pod's name.
    pub pod: String,
    /// Its address.
    pub address: IpAddr,
    /// The condition.
    pub ready: bool,
    /// The condition.
    pub serving: bool,
    /// The condition.
    pub terminating: bool,
}

impl Endpoint {
    /// A pod that is ready.
    pub fn ready(pod: &str, address: IpAddr) -> Self {
        Self { pod: pod.into(), address, ready: true, serving: true, terminating: false }
    }

    /// The same pod, as it ends.
    pub fn terminating(self) -> Self {
        Self { ready: false, terminating: true, ..self }
    }

    fn object(&self) -> Value {
        json!({
            "addresses": [self.address],
            "conditions": {
                "ready": self.ready, "serving": self.serving, "terminating": self.terminating,
            },
            "nodeName": NODE,
            "targetRef": {
                "kind": "Pod", "namespace": "default", "name": self.pod,
                "uid": format!("uid-of-{}", self.pod),
            },
        })
    }
}

/// A slice of a Service, of the family of its first endpoint; the port `ws` is `port`.
pub fn slice(service: &str, name: &str, port: u16, endpoints: &[Endpoint]) -> Value {
    let is_v6 = endpoints.first().is_some_and(|endpoint| endpoint.address.is_ipv6());
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": if is_v6 { "IPv6" } else { "IPv4" },
        "ports": [{"name": "ws", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints.iter().map(Endpoint::object).collect::<Vec<_>>(),
    })
}

/// A Node.
pub fn node(name: &str, addresses: &[IpAddr]) -> Value {
    let addresses: Vec<_> =
        addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": addresses},
    })
}
