//! Services: whose they are, their annotations and addresses.

use std::net::IpAddr;

use roost::{
    kube::{Claims, Derived, ObjectKey, Reason},
    plan::config::{self, OnMissing, Prefix, State},
};
use serde_json::json;

use crate::objects::*;

#[test]
fn a_service_with_its_slice() {
    let slice = slice("chat", "chat-1", &[pod("chat-0", "10.1.0.2"), pod("chat-1", "10.1.0.3")]);
    let service = only(&[service("chat", &[])], &[slice]);
    assert_eq!((service.name.as_str(), service.port), ("default/chat:80", 80));
    is_set_as(&service, "policy = \"home\"\nkey = \"query:chat\"");
    assert_eq!(vips(&service), ["192.0.2.10 80"]);
    assert_eq!(
        replicas(&service),
        [("chat-0", "10.1.0.2".into(), State::Ready), ("chat-1", "10.1.0.3".into(), State::Ready)]
    );
    assert!(service.replicas.iter().all(|r| (r.port, r.weight) == (8080, 1)));
}

#[test]
fn which_services_are_roosts() {
    let other = [
        service(
            "none",
            &[("spec.loadBalancerClass", json!(null)), ("metadata.annotations", json!({}))],
        ),
        service(
            "other-class",
            &[
                ("spec.loadBalancerClass", json!("x/y")),
                ("metadata.annotations", json!({"roost.rs/key": "client"})),
            ],
        ),
    ];
    assert_eq!(derive(&other, &[]), Derived::default());
    // By the annotation, whoever gives the address.
    let annotation = service("metallb", &[("spec.loadBalancerClass", json!("metallb.io/l2"))]);
    assert_eq!(only(&[annotation], &[]).name, "default/metallb:80");
    // By the class alone.
    let class = only(&[annotated("class", &[])], &[]);
    is_set_as(&class, "policy = \"spread\"");
    let keyed = only(&[annotated("keyed", &[("key", "client")])], &[]);
    is_set_as(&keyed, "policy = \"home\"\nkey = \"client\"");
}

#[test]
fn annotations_are_the_files_fields() {
    let service = only(
        &[annotated(
            "chat",
            &[
                ("policy", "home"),
                ("key", " query:room "),
                ("on-missing-key", "chat-0"),
                ("idle-timeout", "1h30m"),
                ("handshake-timeout", "3s"),
                ("client-closed-timeout", "4s"),
                ("replica-closed-timeout", "5s"),
                ("closing-timeout", "6s"),
                ("linger", "1m"),
                ("mss", "1380"),
                ("width", "3"),
                ("identity", "uid"),
            ],
        )],
        &[slice("chat", "s", &[pod("chat-0", "10.1.0.2")])],
    );
    assert_eq!(service.on_missing_key, OnMissing::Replica("chat-0".into()));
    let service = config::Service { on_missing_key: OnMissing::Reject, ..service };
    is_set_as(
        &service,
        "policy = \"home\"\nkey = \"query:room\"\non_missing_key = \"reject\"\n\
         idle_timeout = \"5400s\"\nhandshake_timeout = \"3s\"\n\
         client_closed_timeout = \"4s\"\nreplica_closed_timeout = \"5s\"\nclosing_timeout = \"6s\"\nlinger = \"60s\"\nmss = 1380\nwidth = 3",
    );
    assert_eq!(service.replicas[0].name, "uid-chat-0");
}

#[test]
fn wrong_annotations_are_problems_of_their_service_alone() {
    let wrong = [
        ("policy", "nearest", "roost.rs/policy: \"nearest\" is no policy; write"),
        ("key", "chat", "roost.rs/key: "),
        ("key", "[\"query:chat\"", "roost.rs/key: \"[\\\"query:chat\\\"\" is no list"),
        ("key", "[1]", "roost.rs/key"),
        ("idle-timeout", "3", "roost.rs/idle-timeout: \"3\" is not a duration; write"),
        ("handshake-timeout", "6m", "roost.rs/handshake-timeout: \"6m\": at most 5m"),
        ("closing-timeout", "0s", "roost.rs/closing-timeout: \"0s\": a duration is 1s to"),
        ("linger", "1d", "roost.rs/linger: \"1d\": at most 1h"),
        ("on-missing-key", "", "roost.rs/on-missing-key: "),
        ("mss", "12", "roost.rs/mss: is 12; write a number, 536 to 65495"),
        ("mss", "big", "roost.rs/mss: is a string; write a number"),
        ("node-port", "yes", "roost.rs/node-port: \"yes\"; write \"true\" or \"false\""),
        ("cluster-ip", "1", "roost.rs/cluster-ip: \"1\"; write"),
        ("identity", "ip", "roost.rs/identity: \"ip\"; write"),
        ("width", "0", "roost.rs/width: is 0; write a number, 1 to 64"),
        ("width", "wide", "roost.rs/width: is a string; write a number"),
    ];
    for (name, value, message) in wrong {
        let bad = if name == "policy" || name == "key" {
            annotated("bad", &[(name, value)])
        } else {
            annotated("bad", &[("key", "client"), (name, value)])
        };
        let derived = derive(&[bad, annotated("good", &[])], &[]);
        let [problem] = &derived.problems[..] else { panic!("{name}={value}: {derived:?}") };
        assert_eq!(problem.reason, Reason::InvalidAnnotation, "{name}={value}");
        assert!(problem.message.starts_with(message), "{name}={value}: {}", problem.message);
        assert_eq!(
            (&problem.service, problem.uid.as_str()),
            (&ObjectKey::new("default", "bad"), "uid-of-bad")
        );
        let names: Vec<_> = derived.services.iter().map(|(_, s)| s.name.as_str()).collect();
        assert_eq!(names, ["default/good:80"], "{name}={value}");
    }
}

#[test]
fn all_that_is_wrong_is_said_and_nothing_can_be_smuggled_in() {
    let bad = annotated(
        "bad",
        &[("key", "[\"client\"]\nport = 1"), ("idle-timeout", "x"), ("node-port", "x")],
    );
    let derived = derive(&[bad], &[]);
    assert!(derived.services.is_empty());
    assert!(derived.problems.len() >= 2, "{derived:?}");
}

#[test]
fn a_service_whose_annotations_become_wrong_is_served_as_before() {
    let mut cluster =
        cluster(&[service("chat", &[])], &[slice("chat", "s", &[pod("chat-0", "10.1.0.2")])]);
    let bad = annotated("chat", &[("policy", "home"), ("key", "quary:chat")]);
    assert!(cluster.apply_service(&bad));
    cluster.apply_slice(&slice("chat", "s", &[pod("chat-1", "10.1.0.3")]));
    for listed in [false, true] {
        if listed {
            assert!(!cluster.list_services(std::slice::from_ref(&bad)));
        }
        let derived = cluster.derive(&Claims::new());
        assert_eq!(derived.problems[0].reason, Reason::InvalidAnnotation);
        let service = &derived.services[0].1;
        is_set_as(service, "policy = \"home\"\nkey = \"query:chat\"");
        assert_eq!(service.replicas[0].name, "chat-1");
    }
}

#[test]
fn annotations_that_mean_nothing_are_said_and_left_out() {
    let derived =
        derive(&[annotated("chat", &[("idle-timout", "3h"), ("zzzzzzzzzzzzzzz", "")])], &[]);
    let messages: Vec<_> = problems(&derived);
    assert_eq!(messages[0].0, Reason::UnknownAnnotation);
    assert!(messages[0].1.contains("did you mean roost.rs/idle-timeout?"), "{messages:?}");
    assert!(messages[1].1.contains("known are"), "{messages:?}");
    assert_eq!(derived.services.len(), 1);
}

#[test]
fn addresses_are_ingress_external_and_what_was_asked_for() {
    let all = |annotations: &[(&str, &str)]| {
        let mut service = annotated("chat", annotations);
        let spec = service.spec.as_mut().unwrap();
        spec.external_ips = Some(vec!["198.51.100.7".into(), "192.0.2.10".into()]);
        let mut cluster = cluster(&[service], &[]);
        cluster.list_nodes(&[
            node("other", &[("InternalIP", "172.16.0.9")]),
            node(
                NODE,
                &[
                    ("Hostname", NODE),
                    ("InternalIP", "172.16.0.1"),
                    ("ExternalIP", "203.0.113.1"),
                    ("InternalIP", "fd00::1"),
                ],
            ),
        ]);
        let derived = cluster.derive(&Claims::new());
        assert_eq!(derived.problems, []);
        vips(&derived.services[0].1)
    };
    assert_eq!(all(&[]), ["192.0.2.10 80", "198.51.100.7 80"]);
    assert_eq!(
        all(&[("cluster-ip", "true"), ("node-port", "true")]),
        [
            "192.0.2.10 80",
            "198.51.100.7 80",
            "10.96.0.10 80",
            "172.16.0.1 30080",
            "203.0.113.1 30080"
        ]
    );
}

/// Whoever may write a Service must not get what others listen to on the node.
#[test]
fn the_nodes_own_ports_are_not_given_away() {
    let mut service = annotated("chat", &[]);
    service.spec.as_mut().unwrap().external_ips =
        Some(vec!["172.16.0.1".into(), "203.0.113.9".into(), "198.51.100.7".into()]);
    let mut cluster = cluster(&[service], &[]);
    let refused = |cluster: &roost::kube::Cluster, addresses: &[&str]| {
        let derived = cluster.derive(&Claims::new());
        let said: Vec<_> = problems(&derived);
        assert_eq!(said.len(), addresses.len(), "{said:?}");
        for ((reason, message), addr) in said.iter().zip(addresses) {
            assert_eq!(*reason, Reason::AddressNotServed);
            let right = format!("have \"{addr}:80\" in [kubernetes] allowed_addresses");
            assert!(
                message.contains(&right) && message.contains("roost.rs/node-port"),
                "{message}"
            );
        }
        vips(&derived.services[0].1)
    };
    // Of a node that nobody knows any address might be.
    let all = ["172.16.0.1", "198.51.100.7", "203.0.113.9"];
    assert_eq!(refused(&cluster, &all), ["192.0.2.10 80"]);
    cluster
        .list_nodes(&[node(NODE, &[("InternalIP", "172.16.0.1"), ("ExternalIP", "203.0.113.9")])]);
    let own = ["172.16.0.1", "203.0.113.9"];
    assert_eq!(refused(&cluster, &own), ["192.0.2.10 80", "198.51.100.7 80"]);
    // The operator may; with this port, and no other.
    cluster.allow(&["172.16.0.1:80".parse().unwrap(), "203.0.113.9:81".parse().unwrap()]);
    let served = ["192.0.2.10 80", "172.16.0.1 80", "198.51.100.7 80"];
    assert_eq!(refused(&cluster, &["203.0.113.9"]), served);
}

#[test]
fn source_ranges_are_those_of_all_ports_and_what_is_not_understood_lets_nobody_in() {
    let with = |ranges: &[&str]| {
        let mut service = annotated("chat", &[]);
        let ranges = ranges.iter().map(|text| (*text).to_owned()).collect();
        service.spec.as_mut().unwrap().load_balancer_source_ranges = Some(ranges);
        derive(&[service], &[])
    };
    let sources = |derived: &Derived| {
        let sources = derived.services[0].1.allowed_sources.clone();
        sources.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let plain = derive(&[annotated("chat", &[])], &[]);
    assert_eq!((sources(&plain), sources(&with(&[]))), (None, None));
    // The API server takes spaces, and bits behind the prefix.
    let good = with(&["192.0.2.0/24", " 10.1.2.3/8 ", "::/0", "10.0.0.0/8"]);
    assert_eq!(problems(&good), []);
    assert_eq!(sources(&good).unwrap(), ["192.0.2.0/24", "10.0.0.0/8", "::/0"]);
    let bad = with(&["192.0.2.0", "10.0.0.0/8", "::ffff:10.0.0.0/104"]);
    assert_eq!(sources(&bad).unwrap(), ["10.0.0.0/8"]);
    let said = problems(&bad);
    assert_eq!(said.len(), 2, "{said:?}");
    for ((reason, message), text) in
        said.iter().zip(["\"192.0.2.0\" is no prefix", "IPv4 addresses in"])
    {
        assert_eq!(*reason, Reason::SourceNotAllowed);
        assert!(message.contains(text) && message.ends_with("nobody is let in by it"), "{message}");
    }
    assert_eq!(sources(&with(&["nonsense"])), Some(Vec::new()));
}

#[test]
fn addresses_that_cannot_be_served_are_problems_and_the_others_are_served() {
    let ingress = json!([
        {"ip": "192.0.2.10"}, {"hostname": "lb.example"}, {"ip": "192.0.2.11", "ipMode": "Proxy"},
        {"ip": "2001:db8::1"}, {"ip": "127.0.0.1"}, {"ip": "nonsense"},
    ]);
    let derived = derive(&[service("chat", &[("status.loadBalancer.ingress", ingress)])], &[]);
    assert_eq!(vips(&derived.services[0].1), ["192.0.2.10 80"]);
    assert_eq!(derived.problems.len(), 3, "{derived:?}");
    assert!(derived.problems.iter().all(|p| p.reason == Reason::AddressNotServed));
}

#[test]
fn services_that_cannot_be_served_say_why() {
    let cases = [
        (
            vec![("spec.type", json!("ExternalName")), ("spec.loadBalancerClass", json!(null))],
            "ExternalName",
        ),
        (vec![("spec.clusterIP", json!("None")), ("spec.type", json!("ClusterIP"))], "headless"),
        (vec![("spec.ports", json!([{"port": 53, "protocol": "UDP"}]))], "no TCP port"),
        (vec![("spec.type", json!("ClusterIP")), ("status", json!({}))], "no address for Roost"),
    ];
    for (changes, message) in cases {
        let derived = derive(&[service("chat", &changes)], &[]);
        let [problem] = &derived.problems[..] else { panic!("{message}: {derived:?}") };
        assert_eq!(problem.reason, Reason::NotServed);
        assert!(problem.message.contains(message), "{}", problem.message);
    }
    // One that waits for its address is no problem.
    let waits = only(&[service("chat", &[("status", json!({}))])], &[]);
    assert_eq!(vips(&waits), [""; 0]);
}

#[test]
fn node_ports_need_a_node_and_a_port() {
    let of_node = annotated("chat", &[("node-port", "true")]);
    let derived = derive(std::slice::from_ref(&of_node), &[]);
    assert!(derived.problems[0].message.contains("--node-name"), "{derived:?}");
    let mut without = of_node;
    without.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = None;
    let mut cluster = cluster(&[without], &[]);
    cluster.apply_node(&node(NODE, &[("InternalIP", "172.16.0.1")]));
    let derived = cluster.derive(&Claims::new());
    assert!(derived.problems[0].message.contains("no node port"), "{derived:?}");
}

#[test]
fn of_two_services_with_one_address_the_older_has_it() {
    let younger = [("metadata.creationTimestamp", json!("2026-02-01T00:00:00Z"))];
    let derived = derive(&[service("a", &younger), service("b", &[])], &[]);
    let vips: Vec<_> = derived.services.iter().map(|(_, s)| (s.name.as_str(), vips(s))).collect();
    assert_eq!(vips, [("default/a:80", vec![]), ("default/b:80", vec!["192.0.2.10 80".into()])]);
    assert_eq!(derived.problems[0].service.name, "a");
    assert!(derived.problems[0].message.contains("\"default/b:80\""));
    // And what the file has is the file's.
    let prefix = Prefix::from(IpAddr::from([192, 0, 2, 10]));
    let taken = Claims::from([((prefix, 80), "of-the-file".into())]);
    let derived = cluster(&[service("b", &[])], &[]).derive(&taken);
    assert!(derived.problems[0].message.contains("\"of-the-file\""), "{derived:?}");
}

#[test]
fn what_does_not_matter_changes_nothing() {
    let chat = service("chat", &[]);
    let of_chat = slice("chat", "s", &[pod("chat-0", "10.1.0.2")]);
    let mut cluster = cluster(std::slice::from_ref(&chat), std::slice::from_ref(&of_chat));
    cluster.apply_node(&node(NODE, &[("InternalIP", "172.16.0.1")]));
    // The same again, and as lists.
    assert!(!cluster.apply_service(&chat));
    assert!(!cluster.apply_slice(&of_chat));
    assert!(!cluster.list_services(std::slice::from_ref(&chat)));
    assert!(!cluster.list_slices(&[of_chat]));
    // What is of no Service of Roost's, or not of this node.
    assert!(!cluster.apply_slice(&slice("other", "o", &[pod("other-0", "10.1.0.5")])));
    assert!(!cluster.apply_service(&service(
        "other",
        &[("spec.loadBalancerClass", json!(null)), ("metadata.annotations", json!({}))]
    )));
    assert!(!cluster.apply_node(&node("other", &[("InternalIP", "172.16.0.2")])));
    assert!(!cluster.delete_slice(&ObjectKey::new("default", "o")));
    // Only a new version of the object.
    let mut touched = chat;
    touched.metadata.resource_version = Some("77".into());
    touched.metadata.managed_fields = Some(vec![Default::default()]);
    assert!(!cluster.apply_service(&touched));
    // What matters.
    assert!(cluster.apply_slice(&slice("chat", "s", &[])));
    assert!(cluster.delete_slice(&ObjectKey::new("default", "s")));
    assert!(cluster.list_services(&[]));
}

#[test]
fn slices_count_when_a_service_becomes_roosts() {
    let plain = service(
        "chat",
        &[("spec.loadBalancerClass", json!(null)), ("metadata.annotations", json!({}))],
    );
    let mut cluster = cluster(&[plain], &[slice("chat", "s", &[pod("chat-0", "10.1.0.2")])]);
    assert!(cluster.derive(&Claims::new()).services.is_empty());
    assert!(cluster.apply_service(&service("chat", &[])));
    assert_eq!(cluster.derive(&Claims::new()).services[0].1.replicas.len(), 1);
}

#[test]
fn long_names_stay_different() {
    let long = |end: &str| format!("{}-{end}", "x".repeat(62 - end.len()));
    let names: Vec<String> = ["a", "b"].iter().map(|end| long(end)).collect();
    let services: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let ip = json!([{"ip": format!("192.0.2.{}", i + 1)}]);
            service(name, &[("status.loadBalancer.ingress", ip)])
        })
        .collect();
    let derived = derive(&services, &[]);
    let names: Vec<_> = derived.services.iter().map(|(_, s)| s.name.clone()).collect();
    assert!(names.iter().all(|name| name.len() == 64), "{names:?}");
    assert_ne!(names[0], names[1]);
}
