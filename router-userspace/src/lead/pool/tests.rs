use std::collections::BTreeSet;

use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pool(first: &str, last: &str) -> AddressPool {
    AddressPool { first: first.parse().unwrap(), last: last.parse().unwrap() }
}

fn prefix(text: &str) -> Prefix {
    text.parse::<IpNet>().unwrap().into()
}

/// A Service of Roost's, created at a second.
fn object(name: &str, second: u32, families: &[&str], ingress: &[&str]) -> Value {
    let ingress: Vec<_> = ingress.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("uid-of-{name}"),
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": CLASS, "ipFamilies": families,
            "clusterIPs": ["10.96.0.10"],
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn claimant(object: Value) -> Claimant {
    Claimant::of(&serde_json::from_value(object).unwrap())
}

fn service(name: &str, second: u32, families: &[&str], ingress: &[&str]) -> Claimant {
    claimant(object(name, second, families, ingress))
}

/// Names and addresses of the gifts.
fn gifts(plan: &Plan) -> Vec<(&str, Vec<String>)> {
    let gift = |gift: &'_ Gift| gift.addresses.iter().map(ToString::to_string).collect();
    plan.gifts.iter().map(|g| (g.service.name.as_str(), gift(g))).collect()
}

fn reasons(plan: &Plan) -> Vec<(&str, Reason)> {
    plan.problems.iter().map(|p| (p.service.name.as_str(), p.reason)).collect()
}

#[test]
fn each_service_gets_one_address_of_each_family_that_it_lacks_the_oldest_first() {
    let pools = [pool("203.0.113.17", "203.0.113.30"), pool("2001:db8:1::10", "2001:db8:1::2f")];
    let services = [
        service("young", 9, &["IPv4", "IPv6"], &[]),
        service("old", 1, &["IPv6"], &[]),
        service("half", 5, &["IPv4", "IPv6"], &["203.0.113.17"]),
        service("has", 2, &["IPv4"], &["203.0.113.19"]),
    ];
    let plan = plan(&pools, &services, []);
    let all: Vec<(&str, Vec<String>)> = vec![
        ("old", vec!["2001:db8:1::10".into()]),
        ("half", vec!["2001:db8:1::11".into()]),
        ("young", vec!["203.0.113.18".into(), "2001:db8:1::12".into()]),
    ];
    assert_eq!(gifts(&plan), all);
    assert_eq!(plan.problems, []);
    assert_eq!(plan.usage[&Family::V4], Usage { given: 3, free: 11 });
    assert_eq!(plan.usage[&Family::V6], Usage { given: 3, free: 29 });
}

#[test]
fn what_anybody_else_has_is_not_given() {
    let pools = [pool("203.0.113.1", "203.0.113.9")];
    let mut external = object("external", 1, &["IPv4"], &[]);
    external["spec"]["loadBalancerClass"] = json!("example.com/other");
    external["spec"]["externalIPs"] = json!(["203.0.113.2"]);
    let mut other = object("other", 1, &["IPv4"], &["203.0.113.3"]);
    other["spec"]["loadBalancerClass"] = Value::Null;
    let mut cluster_ip = object("cluster-ip", 1, &["IPv4"], &[]);
    cluster_ip["spec"] = json!({"type": "ClusterIP", "clusterIPs": ["203.0.113.4"]});
    let services = [
        claimant(external),
        claimant(other),
        claimant(cluster_ip),
        service("chat", 5, &["IPv4"], &[]),
    ];
    let taken = [
        prefix("203.0.113.0/31"),
        prefix("203.0.113.5/32"),
        prefix("203.0.113.6/31"),
        prefix("203.0.113.6/32"),
    ];
    let plan = plan(&pools, &services, taken);
    assert_eq!(gifts(&plan), [("chat", vec!["203.0.113.8".to_owned()])]);
    assert_eq!(plan.usage[&Family::V4].free, 1);
}

#[test]
fn what_cannot_be_given_is_waited_for_and_harms_no_other() {
    let pools = [pool("203.0.113.1", "203.0.113.1")];
    let services =
        [service("first", 1, &["IPv4", "IPv6"], &[]), service("second", 2, &["IPv4"], &[])];
    let found = plan(&pools, &services, []);
    assert_eq!(gifts(&found), [("first", vec!["203.0.113.1".to_owned()])]);
    assert_eq!(reasons(&found), [("first", Reason::NoAddress), ("second", Reason::NoAddress)]);
    assert!(found.problems[0].message.contains("has none of this family (203.0.113.1)"));
    assert!(found.problems[1].message.contains("all of [kubernetes] address_pools are taken"));
    assert_eq!(found.usage.keys().copied().collect::<Vec<_>>(), [Family::V4]);
}

#[test]
fn one_that_prefers_two_families_is_content_with_the_one_that_there_is() {
    let of = |policy: &str, ingress: &[&str]| {
        let mut object = object("chat", 1, &["IPv4", "IPv6"], ingress);
        object["spec"]["ipFamilyPolicy"] = json!(policy);
        [claimant(object)]
    };
    let four = [pool("203.0.113.1", "203.0.113.1")];
    let six = [pool("2001:db8::1", "2001:db8::1")];
    for pools in [&four, &six] {
        let found = plan(pools, &of("PreferDualStack", &[]), []);
        assert_eq!((found.gifts.len(), reasons(&found)), (1, vec![]));
        let found = plan(pools, &of("RequireDualStack", &[]), []);
        assert_eq!((found.gifts.len(), reasons(&found)), (1, vec![("chat", Reason::NoAddress)]));
    }
    let has = of("PreferDualStack", &["203.0.113.1"]);
    assert_eq!(reasons(&plan(&four, &has, [])), []);
    // One that could have both waits for the other; so does one that has none.
    let both = [four[0], six[0]];
    let taken = Prefix::from(six[0].first);
    assert_eq!(reasons(&plan(&both, &has, [taken])), [("chat", Reason::NoAddress)]);
    let taken = Prefix::from(four[0].first);
    let found = plan(&four, &of("PreferDualStack", &[]), [taken]);
    assert_eq!(reasons(&found), [("chat", Reason::NoAddress); 2]);

    assert!(is_needed(&both, &has) && is_needed(&six, &has));
    assert!(!is_needed(&four, &has) && !is_needed(&[], &has));
}

#[test]
fn without_pools_only_a_service_with_no_other_way_is_told() {
    let mut external = object("external", 1, &["IPv4"], &[]);
    external["spec"]["externalIPs"] = json!(["203.0.113.2"]);
    let mut node_port = object("node-port", 1, &["IPv4"], &[]);
    node_port["metadata"]["annotations"] = json!({"roost.rs/node-port": "true"});
    let services = [
        claimant(external),
        claimant(node_port),
        service("half", 1, &["IPv4", "IPv6"], &["203.0.113.9"]),
        service("none", 1, &["IPv4"], &[]),
    ];
    let found = plan(&[], &services, []);
    assert_eq!((gifts(&found).len(), reasons(&found)), (0, vec![("none", Reason::NoAddress)]));
    assert!(found.problems[0].message.contains("set [kubernetes] address_pools"));
}

#[test]
fn an_address_outside_the_pools_stays_and_is_told() {
    let pools = [pool("203.0.113.1", "203.0.113.9")];
    let found = plan(&pools, &[service("chat", 1, &["IPv4"], &["203.0.113.20"])], []);
    assert_eq!(reasons(&found), [("chat", Reason::AddressOutsidePool)]);
    assert!(found.problems[0].message.contains("203.0.113.20"), "{:?}", found.problems);
    assert_eq!(found.gifts, []);
}

#[test]
fn one_that_is_deleted_or_of_another_class_or_type_gets_nothing() {
    let pools = [pool("203.0.113.1", "203.0.113.9")];
    let mut deleted = object("deleted", 1, &["IPv4"], &[]);
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut class = object("class", 1, &["IPv4"], &[]);
    class["spec"]["loadBalancerClass"] = json!("example.com/other");
    let mut kind = object("type", 1, &["IPv4"], &[]);
    kind["spec"]["type"] = json!("NodePort");
    let found = plan(&pools, &[deleted, class, kind].map(claimant), []);
    assert_eq!((found.gifts.len(), found.problems.len()), (0, 0));
}

#[test]
fn large_pools_are_counted_and_used_from_their_begin() {
    let pools = [pool("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")];
    let found = plan(&pools, &[service("chat", 1, &["IPv6"], &[])], []);
    assert_eq!(gifts(&found), [("chat", vec!["2001:db8::".to_owned()])]);
    assert_eq!(found.usage[&Family::V6], Usage { given: 1, free: u64::MAX });
    // Up to the last address there is.
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let found =
        Free::new(Family::V6, &[pool(last, last)], &[last.parse::<IpAddr>().unwrap().into()]);
    assert_eq!(found.count(), 0);
}

/// A small world, in which much collides: pools, Services, and what is taken.
fn world() -> impl Strategy<Value = (Vec<AddressPool>, Vec<Claimant>, Vec<Prefix>)> {
    let addr = |n: u8| IpAddr::from([192, 0, 2, n]);
    let v6 = |n: u8| -> IpAddr { format!("2001:db8::{n:x}").parse().unwrap() };
    // Pools that do not overlap: the file's reader sees to that.
    let cuts = proptest::collection::btree_set(0_u8..40, 0..6);
    let pools = (cuts, any::<bool>()).prop_map(move |(cuts, both)| {
        let cuts: Vec<u8> = cuts.into_iter().collect();
        let pairs: Vec<_> = cuts.chunks_exact(2).map(|c| (c[0], c[1])).collect();
        let mut pools: Vec<_> =
            pairs.iter().map(|(a, b)| AddressPool { first: addr(*a), last: addr(*b) }).collect();
        if both {
            pools.extend(pairs.iter().map(|(a, b)| AddressPool { first: v6(*a), last: v6(*b) }));
        }
        pools.reverse();
        pools
    });
    let one = (0_u32..60, 0..4_u8, proptest::option::of(0_u8..44), proptest::option::of(0_u8..44));
    let services = proptest::collection::vec(one, 0..24).prop_map(move |all| {
        let mut services = Vec::new();
        for (i, (second, families, v4, six)) in all.into_iter().enumerate() {
            let families: &[&str] = match families {
                0 => &[],
                1 => &["IPv4"],
                2 => &["IPv6"],
                _ => &["IPv6", "IPv4"],
            };
            let ingress: Vec<_> =
                v4.map(addr).into_iter().chain(six.map(v6)).map(|ip| ip.to_string()).collect();
            let ingress: Vec<_> = ingress.iter().map(String::as_str).collect();
            services.push(service(&format!("s{i:02}"), second, families, &ingress));
        }
        services
    });
    let taken = proptest::collection::vec((0_u8..40, 28_u8..=32), 0..4);
    let taken = taken.prop_map(move |all| {
        let prefix = |(n, len): (u8, u8)| {
            let whole = 32 - u32::from(len);
            Prefix::from(IpNet::new(addr(n >> whole << whole), len).unwrap())
        };
        all.into_iter().map(prefix).collect::<Vec<_>>()
    });
    (pools, services, taken)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn a_plan_gives_only_what_is_free_and_all_that_it_can((pools, services, taken) in world()) {
        let found = plan(&pools, &services, taken.clone());
        let new: Vec<IpAddr> =
            found.gifts.iter().flat_map(|gift| gift.addresses.clone()).collect();
        let distinct: BTreeSet<_> = new.iter().collect();
        prop_assert_eq!(distinct.len(), new.len(), "given twice");
        for addr in &new {
            prop_assert!(pools.iter().any(|pool| pool.contains(*addr)), "{} of no pool", addr);
            prop_assert!(!taken.iter().any(|prefix| prefix.contains(addr)), "{} is taken", addr);
            let has = services.iter().any(|s| s.given().any(|given| given == *addr));
            prop_assert!(!has, "{} belongs to a Service", addr);
        }
        for claimant in &services {
            let gift = found.gifts.iter().find(|gift| gift.service == claimant.key);
            for family in claimant.lacks() {
                let got = gift.map_or(0, |gift| {
                    gift.addresses.iter().filter(|a| Family::of(**a) == family).count()
                });
                let waits = found.problems.iter().any(|p| {
                    p.service == claimant.key && p.reason == Reason::NoAddress
                });
                prop_assert!(got == 1 || (got == 0 && (waits || pools.is_empty())));
                prop_assert!(got == 1 || found.usage.get(&family).is_none_or(|u| u.free == 0));
            }
            let lacks = claimant.lacks().count();
            prop_assert!(gift.map_or(0, |gift| gift.addresses.len()) <= lacks);
        }
    }

    #[test]
    fn a_plan_is_the_same_again_and_when_it_is_done_there_is_none(
        (pools, services, taken) in world()
    ) {
        let found = plan(&pools, &services, taken.clone());
        let mut other_order = services.clone();
        other_order.reverse();
        prop_assert_eq!(&found, &plan(&pools, &other_order, taken.clone()));
        // Done, in part or whole, from any leader's view.
        for done in 0..=found.gifts.len() {
            let mut after = services.clone();
            for gift in &found.gifts[..done] {
                let claimant = after.iter_mut().find(|s| s.key == gift.service).unwrap();
                claimant.ingress.extend(gift.addresses.iter().map(|addr| LoadBalancerIngress {
                    ip: Some(addr.to_string()),
                    ..LoadBalancerIngress::default()
                }));
            }
            let rest = plan(&pools, &after, taken.clone());
            prop_assert_eq!(&rest.gifts, &found.gifts[done..]);
            prop_assert_eq!(&rest.usage, &found.usage);
        }
    }
}
