//! EndpointSlices: ports, conditions, families, identities.

use roost::{
    kube::{Claims, Cluster, Reason},
    plan::config::State,
};
use serde_json::{Value, json};

use crate::objects::*;

#[test]
fn each_tcp_port_is_a_service_with_ports_resolved_by_name() {
    let ports = json!([
        {"name": "ws", "port": 80, "targetPort": "ws"},
        {"name": "admin", "port": 81, "protocol": "TCP", "targetPort": 9000},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]);
    // A named target port differs between the pods of two versions, which are in two slices.
    let of = |ws| {
        json!([
            {"name": "ws", "port": ws, "protocol": "TCP"},
            {"name": "admin", "port": 9000},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ])
    };
    let derived = derive(
        &[service("chat", &[("spec.ports", ports)])],
        &[
            slice_with("chat", "s1", of(8080), &[pod("chat-0", "10.1.0.2")]),
            slice_with("chat", "s2", of(8888), &[pod("chat-1", "10.1.0.3")]),
        ],
    );
    assert_eq!(derived.problems, []);
    let ports: Vec<_> = derived
        .services
        .iter()
        .map(|(_, s)| {
            (s.name.as_str(), s.port, s.replicas.iter().map(|r| r.port).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(
        ports,
        [("default/chat:admin", 81, vec![9000, 9000]), ("default/chat:ws", 80, vec![8080, 8888])]
    );
}

#[test]
fn conditions_are_read_as_kube_proxy_reads_them() {
    let (yes, no, nil) = (json!(true), json!(false), json!(null));
    let e = |ready: &Value, serving: &Value, terminating: &Value| {
        let endpoint =
            with(pod("chat-0", "10.1.0.2"), ready.clone(), serving.clone(), terminating.clone());
        states(&[endpoint])[0]
    };
    assert_eq!(e(&nil, &nil, &nil), State::Ready);
    assert_eq!(e(&yes, &yes, &no), State::Ready);
    // publishNotReadyAddresses.
    assert_eq!(e(&yes, &no, &yes), State::Ready);
    assert_eq!(e(&no, &yes, &yes), State::Draining);
    assert_eq!(e(&no, &nil, &yes), State::Draining);
    assert_eq!(e(&no, &no, &yes), State::Unready);
    assert_eq!(e(&no, &no, &no), State::Unready);
    assert_eq!(e(&no, &yes, &no), State::Unready);
    let mut without = pod("chat-0", "10.1.0.2");
    without.as_object_mut().unwrap().remove("conditions");
    assert_eq!(states(&[without]), [State::Ready]);
}

#[test]
fn an_endpoint_in_two_slices_is_one_replica() {
    let (a, b) = (pod("chat-0", "10.1.0.2"), pod("chat-1", "10.1.0.3"));
    let slices = [
        slice("chat", "s1", &[a.clone(), b.clone()]),
        slice("chat", "s2", std::slice::from_ref(&b)),
    ];
    assert_eq!(only(&[service("chat", &[])], &slices).replicas.len(), 2);
    // A slice that knows that it terminates is right, in any order.
    for (first, second) in [(terminating(b.clone()), b.clone()), (b.clone(), terminating(b))] {
        let slices = [slice("chat", "s1", &[a.clone(), first]), slice("chat", "s2", &[second])];
        let service = only(&[service("chat", &[])], &slices);
        assert_eq!(service.replicas[1].state, State::Draining);
    }
}

#[test]
fn families_are_joined_by_the_pods_uid() {
    let dual = [
        ("spec.ipFamilies", json!(["IPv6", "IPv4"])),
        ("status.loadBalancer.ingress", json!([{"ip": "2001:db8::1"}, {"ip": "192.0.2.10"}])),
    ];
    let mut cluster = cluster(
        &[service("chat", &dual)],
        &[
            slice("chat", "v4", &[pod("chat-0", "10.1.0.2"), pod("chat-1", "10.1.0.3")]),
            slice("chat", "v6", &[pod("chat-0", "fd00::2"), pod("chat-1", "fd00::3")]),
        ],
    );
    let of = |cluster: &Cluster| {
        let derived = cluster.derive(&Claims::new());
        assert_eq!(derived.problems, []);
        derived.services[0].1.clone()
    };
    let service = of(&cluster);
    assert_eq!(vips(&service), ["2001:db8::1 80", "192.0.2.10 80"]);
    let two = |state| {
        [
            ("chat-0", "10.1.0.2 fd00::2".to_owned(), State::Ready),
            ("chat-1", "10.1.0.3 fd00::3".to_owned(), state),
        ]
    };
    assert_eq!(replicas(&service), two(State::Ready));
    // The slices of the families change one after the other.
    let ending = terminating(pod("chat-1", "10.1.0.3"));
    cluster.apply_slice(&slice("chat", "v4", &[pod("chat-0", "10.1.0.2"), ending]));
    assert_eq!(replicas(&of(&cluster)), two(State::Draining));
    let third = pod("chat-2", "10.1.0.4");
    cluster.apply_slice(&slice("chat", "v4", &[pod("chat-0", "10.1.0.2"), third]));
    let service = of(&cluster);
    let states: Vec<_> = service.replicas.iter().map(|r| (r.name.as_str(), r.state)).collect();
    assert_eq!(
        states,
        [("chat-0", State::Ready), ("chat-1", State::Draining), ("chat-2", State::Draining)]
    );
}

#[test]
fn an_identity_is_a_stable_name_or_a_uid_or_an_address() {
    let bare = json!({"addresses": ["10.1.0.9"]});
    let vm = json!({"addresses": ["10.1.0.8"], "targetRef": {"kind": "VirtualMachine", "name": "vm-0", "uid": "u"}});
    let endpoints = [pod("chat-0", "10.1.0.2"), pod("chat-7d4b9c5d6f-x2zvb", "10.1.0.3"), bare, vm];
    let service = only(&[service("chat", &[])], &[slice("chat", "s", &endpoints)]);
    let names: Vec<_> = service.replicas.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["10.1.0.8", "10.1.0.9", "chat-0", "uid-chat-7d4b9c5d6f-x2zvb"]);
    let named = annotated("chat", &[("identity", "name")]);
    let service = only(&[named], &[slice("chat", "s", &endpoints)]);
    let names: Vec<_> = service.replicas.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["10.1.0.8", "10.1.0.9", "chat-0", "chat-7d4b9c5d6f-x2zvb"]);
}

#[test]
fn a_successor_replaces_what_a_slice_still_says() {
    // A StatefulSet's pod comes back under its name, and another pod under an old one's address.
    let mut new = pod("chat-0", "10.1.0.7");
    new["targetRef"]["uid"] = json!("a-new-one");
    let old = with(pod("chat-0", "10.1.0.2"), json!(false), json!(false), json!(true));
    let slices = [slice("chat", "s1", std::slice::from_ref(&old)), slice("chat", "s2", &[new])];
    let of_name = only(&[service("chat", &[])], &slices);
    assert_eq!(replicas(&of_name), [("chat-0", "10.1.0.7".into(), State::Ready)]);
    let slices = [slice("chat", "s1", &[old]), slice("chat", "s2", &[pod("chat-5", "10.1.0.2")])];
    let of_address = only(&[service("chat", &[])], &slices);
    assert_eq!(replicas(&of_address), [("chat-5", "10.1.0.2".into(), State::Ready)]);
}

#[test]
fn an_endpoint_that_is_an_address_of_roosts_is_left_out() {
    let endpoints = [pod("chat-0", "10.1.0.2"), pod("chat-1", "192.0.2.10")];
    let ports = json!([{"name": "", "port": 80}]);
    let derived = derive(&[service("chat", &[])], &[slice_with("chat", "s", ports, &endpoints)]);
    assert_eq!(derived.services[0].1.replicas.len(), 1);
    assert!(derived.problems[0].message.contains("itself an address"), "{derived:?}");
    assert_eq!(derived.problems[0].uid, "uid-of-chat");
}

#[test]
fn endpoints_on_other_nodes_are_served_and_told() {
    let on = |node: &str, mut pod: Value| {
        pod["nodeName"] = json!(node);
        pod
    };
    let both = [service("chat", &[("spec.ipFamilies", json!(["IPv4", "IPv6"]))])];
    let four = [
        on(NODE, pod("chat-0", "10.1.0.2")),
        on("node-2", pod("chat-1", "10.1.0.3")),
        pod("chat-2", "10.1.0.4"),
    ];
    // The same pods have addresses of the other family, in a slice of its own.
    let six = [on(NODE, pod("chat-0", "fd00::2")), on("node-2", pod("chat-1", "fd00::3"))];
    let slices = [slice("chat", "chat-a", &four), slice("chat", "chat-b", &six)];
    let derived = derive(&both, &slices);
    assert_eq!(derived.services[0].1.replicas.len(), 3);
    let found: Vec<_> = derived.problems.iter().map(|p| (p.reason, p.message.as_str())).collect();
    let [(Reason::EndpointElsewhere, message)] = found[..] else { panic!("{found:?}") };
    assert!(message.starts_with("has endpoints on other Nodes"), "{message}");
    // It is the same problem, however many they are.
    let mut more = four.to_vec();
    more.push(on("node-3", pod("chat-3", "10.1.0.5")));
    let again = derive(&both, &[slice("chat", "chat-a", &more)]);
    assert_eq!(again.problems, derived.problems);
    let here = derive(&both, &[slice("chat", "chat-a", &four[..1])]);
    assert_eq!(here.problems, []);
    // One that is not served has nothing to tell.
    let wrong = [annotated("chat", &[("policy", "house")])];
    let reasons: Vec<_> = derive(&wrong, &slices).problems.iter().map(|p| p.reason).collect();
    assert_eq!(reasons, [Reason::InvalidAnnotation]);
}
