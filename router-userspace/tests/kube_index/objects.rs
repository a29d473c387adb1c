//! Objects as the API server has them, and what becomes of them.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use roost::{
    kube::{Claims, Cluster, Derived, Node, Reason},
    plan::config::{self, AllowedAddress, Prefix, State},
};
use serde_json::{Value, json};

pub const NODE: &str = "node-1";

/// Sets a value in an object, by the path of its names.
pub fn set(object: &mut Value, path: &str, value: Value) {
    *path.split('.').fold(object, |at, name| &mut at[name]) = value;
}

/// A Service of type LoadBalancer with an address, in `default`; `changes` are made to it.
pub fn service(name: &str, changes: &[(&str, Value)]) -> Service {
    let mut object = json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("uid-of-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"roost.rs/policy": "home", "roost.rs/key": "query:chat"},
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "roost.rs/router",
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10", "ipMode": "VIP"}]}},
    });
    for (path, value) in changes {
        set(&mut object, path, value.clone());
    }
    serde_json::from_value(object).expect("a Service")
}

pub fn annotated(name: &str, annotations: &[(&str, &str)]) -> Service {
    let all: serde_json::Map<_, _> =
        annotations.iter().map(|(k, v)| (format!("roost.rs/{k}"), json!(v))).collect();
    service(name, &[("metadata.annotations", Value::Object(all))])
}

/// A slice of IPv4 (IPv6 if its first address is) with one port without a name.
pub fn slice(service: &str, name: &str, endpoints: &[Value]) -> EndpointSlice {
    slice_with(service, name, json!([{"name": "", "port": 8080, "protocol": "TCP"}]), endpoints)
}

pub fn slice_with(service: &str, name: &str, ports: Value, endpoints: &[Value]) -> EndpointSlice {
    let is_v6 = endpoints.first().is_some_and(|e| e["addresses"][0].to_string().contains(':'));
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": if is_v6 { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": endpoints,
    }))
    .expect("an EndpointSlice")
}

/// A ready pod.
pub fn pod(name: &str, address: &str) -> Value {
    json!({
        "addresses": [address],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": name, "uid": format!("uid-{name}")},
    })
}

pub fn with(mut endpoint: Value, ready: Value, serving: Value, terminating: Value) -> Value {
    endpoint["conditions"] =
        json!({"ready": ready, "serving": serving, "terminating": terminating});
    endpoint
}

pub fn terminating(endpoint: Value) -> Value {
    with(endpoint, json!(false), json!(true), json!(true))
}

/// What a file with this in `allowed_addresses` says.
pub fn allowed(text: &str) -> AllowedAddress {
    match text.parse() {
        Ok(address) => AllowedAddress::Port(address),
        Err(_) => {
            AllowedAddress::All(Prefix::from(text.parse::<ipnet::IpNet>().expect("a prefix")))
        }
    }
}

pub fn node(name: &str, addresses: &[(&str, &str)]) -> Node {
    let addresses: Vec<_> =
        addresses.iter().map(|(t, a)| json!({"type": t, "address": a})).collect();
    serde_json::from_value(json!({
        "metadata": {"name": name}, "status": {"addresses": addresses},
    }))
    .expect("a Node")
}

pub fn cluster(services: &[Service], slices: &[EndpointSlice]) -> Cluster {
    let mut cluster = Cluster::new(NODE);
    cluster.list_services(services);
    cluster.list_slices(slices);
    cluster
}

pub fn derive(services: &[Service], slices: &[EndpointSlice]) -> Derived {
    cluster(services, slices).derive(&Claims::new())
}

/// The only service, without problems.
pub fn only(services: &[Service], slices: &[EndpointSlice]) -> config::Service {
    let mut derived = derive(services, slices);
    assert_eq!(derived.problems, []);
    assert_eq!(derived.services.len(), 1, "{derived:?}");
    derived.services.remove(0).1
}

/// Whether a service is set as these lines of the configuration file would set it.
pub fn is_set_as(service: &config::Service, lines: &str) {
    let text = format!(
        "interfaces = [\"x\"]\n[[service]]\nname = \"x\"\naddresses = [\"192.0.2.1\"]\nport = 80\n{lines}"
    );
    let config::Service { name, addresses, port, other_vips, replicas, .. } = service.clone();
    let of_file = config::Config::parse(&text, "").expect("a file").services.remove(0);
    let wanted = config::Service { name, addresses, port, other_vips, replicas, ..of_file };
    assert_eq!(*service, wanted);
}

pub fn replicas(service: &config::Service) -> Vec<(&str, String, State)> {
    let addresses = |r: &config::Replica| {
        r.addresses.iter().map(|a| format!("{a}")).collect::<Vec<_>>().join(" ")
    };
    service.replicas.iter().map(|r| (r.name.as_str(), addresses(r), r.state)).collect()
}

pub fn states(endpoints: &[Value]) -> Vec<State> {
    let service = only(&[service("chat", &[])], &[slice("chat", "chat-1", endpoints)]);
    service.replicas.iter().map(|r| r.state).collect()
}

pub fn vips(service: &config::Service) -> Vec<String> {
    service.vips().map(|(prefix, port)| format!("{prefix} {port}")).collect()
}

pub fn problems(derived: &Derived) -> Vec<(Reason, &str)> {
    derived.problems.iter().map(|p| (p.reason, p.message.as_str())).collect()
}
