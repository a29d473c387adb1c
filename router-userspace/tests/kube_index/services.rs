//! Services: whose they are, their annotations and addresses.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use roost::{
    kube::{Claims, Cluster, Derived, ObjectKey, Reason},
    plan::config::{self, AddressPool, OnMissing, Prefix, State},
};
use serde_json::{Value, json};

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
                ("proxy-protocol-from", "192.0.2.0/24, 2001:db8::1"),
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
         client_closed_timeout = \"4s\"\nreplica_closed_timeout = \"5s\"\nclosing_timeout = \"6s\"\nlinger = \"60s\"\nmss = 1380\nwidth = 3\n\
         proxy_protocol_from = [\"192.0.2.0/24\", \"2001:db8::1\"]",
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
        ("proxy-protocol-from", "", "roost.rs/proxy-protocol-from[0]: \"\" is not an IP address"),
        ("proxy-protocol-from", "192.0.2.1/24", "roost.rs/proxy-protocol-from[0]: "),
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
        cluster.allow(&[allowed("198.51.100.0/24")]);
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

/// A Service that names these addresses by itself, or has them of a load balancer, and what is refused.
fn names(addresses: &[&str], is_external: bool) -> Service {
    let mut service = annotated("chat", &[]);
    let addresses = addresses.iter().map(|addr| (*addr).to_owned());
    if is_external {
        service.spec.as_mut().unwrap().external_ips = Some(addresses.collect());
        return service;
    }
    let ingress: Vec<_> = addresses.map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    let status = json!({"loadBalancer": {"ingress": ingress}});
    service.status = Some(serde_json::from_value(status).unwrap());
    service
}

/// What is served, and what is said of the rest: the address and whether the text has this in it.
#[track_caller]
fn refused(cluster: &Cluster, wanted: &[(&str, &str)]) -> Vec<String> {
    let derived = cluster.derive(&Claims::new());
    let said: Vec<_> = problems(&derived);
    assert_eq!(said.len(), wanted.len(), "{said:?}");
    for (addr, text) in wanted {
        let of = |(_, message): &&(Reason, &str)| message.contains(&format!(": {addr} "));
        let (reason, message) = said.iter().find(of).unwrap_or_else(|| panic!("{addr}: {said:?}"));
        assert_eq!(*reason, Reason::AddressNotServed);
        assert!(message.contains(text), "{message}");
    }
    vips(&derived.services[0].1)
}

const OF_A_NODE: &str = "is an address of a Node, and nobody is given a Node's own ports: use the annotation \
                         roost.rs/node-port, or have";

/// Whoever may write a Service must not get what others listen to on a Node, be it this one or another.
#[test]
fn no_nodes_own_ports_are_given_away() {
    let nodes = [
        node(NODE, &[("InternalIP", "172.16.0.1"), ("ExternalIP", "203.0.113.9")]),
        node("other", &[("InternalIP", "172.16.0.2")]),
    ];
    for is_external in [true, false] {
        let service = names(&["172.16.0.1", "172.16.0.2", "203.0.113.9"], is_external);
        let served: &[&str] = if is_external { &["192.0.2.10 80"] } else { &[] };
        let mut cluster = cluster(&[service], &[]);
        cluster.list_nodes(&nodes);
        let of_node = |addr| (addr, OF_A_NODE);
        let all = ["172.16.0.1", "172.16.0.2", "203.0.113.9"].map(of_node);
        assert_eq!(refused(&cluster, &all), served);
        // All of a prefix is not meant for Nodes.
        cluster.allow(&["172.16.0.0/24", "203.0.113.0/24", "203.0.113.9:81"].map(allowed));
        assert_eq!(refused(&cluster, &all), served);
        // The operator may say so; with this port, and no other.
        cluster.allow(&["172.16.0.1:80", "203.0.113.9:81"].map(allowed));
        let wanted = [served, &["172.16.0.1 80"]].concat();
        assert_eq!(refused(&cluster, &all[1..]), wanted);
        // A list without any Node is wrong, and gives nothing away.
        assert!(!cluster.list_nodes(&[]));
        assert_eq!(refused(&cluster, &all[1..]), wanted);
        // What is no Node's any more is served again, if a load balancer gives it.
        assert!(cluster.delete_node("other"));
        let left = "is none that Services may take by themselves";
        match is_external {
            true => drop(refused(&cluster, &[("172.16.0.2", left), all[2]])),
            false => drop(refused(&cluster, &all[2..])),
        }
        assert!(cluster.apply_node(&nodes[1]));
        refused(&cluster, &all[1..]);
    }
}

/// What Roost gives is not taken away by a Node that says that it has it, or its pods.
#[test]
fn what_is_given_from_a_pool_is_no_nodes() {
    let takes: roost::kube::Node = serde_json::from_value(json!({
        "metadata": {"name": "other"}, "spec": {"podCIDRs": ["203.0.113.24/29"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "203.0.113.17"}]},
    }))
    .unwrap();
    let pool = AddressPool {
        first: "203.0.113.16".parse().unwrap(),
        last: "203.0.113.31".parse().unwrap(),
    };
    let of_pods = ("203.0.113.25", "is an address of pods, and never a Service's");
    let all = [("203.0.113.17", OF_A_NODE), of_pods];
    for is_external in [true, false] {
        let named = ["203.0.113.17", "203.0.113.25"];
        let mut cluster = cluster(&[names(&named, is_external)], &[]);
        cluster.list_nodes(std::slice::from_ref(&takes));
        refused(&cluster, &all);
        cluster.give_from(&[pool]);
        // Nobody takes it by himself.
        match is_external {
            true => drop(refused(&cluster, &all)),
            false => assert_eq!(refused(&cluster, &[]), ["203.0.113.17 80", "203.0.113.25 80"]),
        }
    }
}

#[test]
fn external_ips_are_those_that_the_file_allows() {
    let mut cluster = cluster(&[names(&["198.51.100.7", "198.51.100.8"], true)], &[]);
    let says = |addr| (addr, "let a load balancer give it one, or have \"198.51.100.");
    assert_eq!(refused(&cluster, &["198.51.100.7", "198.51.100.8"].map(says)), ["192.0.2.10 80"]);
    cluster.allow(&["198.51.100.7:80", "198.51.100.8:81"].map(allowed));
    let served = refused(&cluster, &[says("198.51.100.8")]);
    assert_eq!(served, ["192.0.2.10 80", "198.51.100.7 80"]);
    cluster.allow(&[allowed("198.51.100.0/29"), allowed("198.51.100.8/32")]);
    assert_eq!(refused(&cluster, &[]), ["192.0.2.10 80", "198.51.100.7 80", "198.51.100.8 80"]);
}

#[test]
fn addresses_of_pods_and_of_other_services_stay_with_them() {
    let other = |name: &str, changes: &[(&str, Value)]| {
        let plain = [("spec.loadBalancerClass", json!(null)), ("metadata.annotations", json!({}))];
        service(name, &[&plain[..], changes].concat())
    };
    let of_pods = "is an address of pods, and never a Service's";
    let of_service = "is the cluster IP of a Service, which has it alone";
    let balanced = "with port 80 is what a load balancer has given to another Service";
    let has_pods: roost::kube::Node = serde_json::from_value(json!({
        "metadata": {"name": "other"}, "spec": {"podCIDRs": ["10.244.7.0/24", "fd00:7::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.2"}]},
    }))
    .unwrap();
    for is_external in [true, false] {
        let named = ["10.244.7.3", "10.1.0.9", "10.96.0.99", "192.0.2.77", "192.0.2.78"];
        let mut cluster = cluster(&[names(&named, is_external)], &[]);
        // The operator has said so of all of them.
        cluster.allow(&["0.0.0.0/1", "128.0.0.0/1"].map(allowed));
        assert_eq!(refused(&cluster, &[]).len(), if is_external { 6 } else { 5 });
        assert!(cluster.apply_node(&has_pods), "an address that is named");
        assert!(cluster.apply_slice(&slice("other", "o", &[pod("other-0", "10.1.0.9")])));
        let changes = [
            ("spec.clusterIPs", json!(["10.96.0.99"])),
            ("status.loadBalancer.ingress", json!([{"ip": "192.0.2.77"}])),
        ];
        assert!(cluster.apply_service(&other("other", &changes)));
        // Another port of a shared address is another thing.
        let shared = [
            ("spec.clusterIPs", json!(["10.96.0.50"])),
            ("status.loadBalancer.ingress", json!([{"ip": "192.0.2.78"}])),
            ("spec.ports", json!([{"port": 443, "protocol": "TCP"}])),
        ];
        assert!(cluster.apply_service(&other("shared", &shared)));
        let mut wanted =
            vec![("10.244.7.3", of_pods), ("10.96.0.99", of_service), ("192.0.2.77", balanced)];
        // Who writes a load balancer's status is trusted more than who writes an EndpointSlice.
        if is_external {
            wanted.push(("10.1.0.9", of_pods));
        }
        let served = refused(&cluster, &wanted);
        assert!(served.contains(&"192.0.2.78 80".to_owned()), "{served:?}");
        // When the others are gone, it is free; what they have said is forgotten.
        assert!(cluster.list_services(&[names(&named, is_external)]));
        assert!(cluster.list_slices(&[]), "an address that is named");
        cluster.delete_node("other");
        assert_eq!(refused(&cluster, &[]).len(), if is_external { 6 } else { 5 });
    }
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

/// A Node whose kubelet says what it likes is not believed all.
#[test]
fn nodes_and_their_pods_are_trusted_but_not_half_the_internet() {
    let with = |name: &str, addresses: &[(&str, &str)], pods: &[&str]| -> roost::kube::Node {
        let addresses: Vec<_> =
            addresses.iter().map(|(kind, addr)| json!({"type": kind, "address": addr})).collect();
        let node = json!({
            "metadata": {"name": name},
            "spec": {"podCIDRs": pods},
            "status": {"addresses": addresses},
        });
        serde_json::from_value(node).unwrap()
    };
    let trusted = |cluster: &Cluster| -> Vec<String> {
        cluster.trusted().iter().map(ToString::to_string).collect()
    };
    let mut cluster = Cluster::new(NODE);
    assert_eq!(trusted(&cluster), [""; 0]);
    let own = with(
        NODE,
        &[("Hostname", NODE), ("InternalIP", "172.16.0.1"), ("ExternalIP", "203.0.113.1")],
        &["10.244.0.0/24", "fd00:10:244::/64", "nonsense"],
    );
    let wide = with(
        "wide",
        &[("InternalIP", "127.0.0.1"), ("InternalIP", "0.0.0.0")],
        &[
            "0.0.0.0/0",
            "::/0",
            "10.0.0.0/15",
            "2001:db8::/55",
            "10.1.0.0/16",
            "fd00:1::/56",
            "::ffff:0.0.0.0/96",
            "::ffff:10.0.0.0/104",
        ],
    );
    assert!(cluster.list_nodes(&[own.clone(), wide]));
    let of_own = ["10.244.0.0/24", "172.16.0.1", "fd00:10:244::/64"];
    let all = ["10.1.0.0/16", of_own[0], of_own[1], "fd00:1::/56", of_own[2]];
    assert_eq!(trusted(&cluster), all);
    let addresses: Vec<_> = (1..100).map(|n| format!("198.51.100.{n}")).collect();
    let many: Vec<_> = addresses.iter().map(|addr| ("InternalIP", addr.as_str())).collect();
    assert!(cluster.apply_node(&with("wide", &many, &[])));
    assert_eq!(trusted(&cluster).len(), 3 + 8);
    assert!(!cluster.apply_node(&with("wide", &many, &[])), "the same again");
    assert!(cluster.delete_node("wide"));
    assert_eq!(trusted(&cluster), of_own);
    assert!(!cluster.list_nodes(&[]) && trusted(&cluster) == of_own, "a list without any is wrong");
    assert!(!cluster.list_nodes(&[own]));
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
        &[
            ("spec.loadBalancerClass", json!(null)),
            ("metadata.annotations", json!({})),
            ("status.loadBalancer.ingress", json!([{"ip": "192.0.2.99"}])),
        ]
    )));
    assert!(!cluster.apply_node(&node("other", &[("ExternalIP", "203.0.113.2")])));
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
