use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use router_ebpf::{
    maps::{Name, POLICY_SPREAD, REPLICA_DRAINING, REPLICA_GONE, REPLICA_READY, Replica, Service},
    verdict::Counter,
};

use super::*;
use crate::{
    kube::WatchState,
    plan::addr,
    tend::{Carried, Entries, Load, Report, Told},
    view::status::Status,
};

fn service(name: &str) -> Service {
    let name = Name::new(name.as_bytes());
    Service {
        digest: 0xabc,
        generation: 3,
        usable: 1,
        policy: POLICY_SPREAD,
        name,
        ..Service::EMPTY
    }
}

fn replica(name: &str, state: u8) -> Replica {
    Replica {
        v4: addr::to_map("10.0.0.1".parse().unwrap()),
        v6: [0; 16],
        port: 8080u16.to_be_bytes(),
        state,
        reserved: 0,
        service: 1,
        weight: 2,
        name: Name::new(name.as_bytes()),
    }
}

fn status() -> Status {
    let status = Status::new();
    status.expects(true, true, &["eth0".to_owned()]);
    status.file_applied(&["eth0".to_owned()]);
    status.watches(WatchState::default(), None);
    let replicas = [(0, "a", REPLICA_READY), (1, "b", REPLICA_DRAINING), (2, "a", REPLICA_GONE)];
    let published = crate::plan::index::Published {
        services: [(1, service("ro\"oms"))].into(),
        replicas: replicas.map(|(n, name, state)| (n, replica(name, state))).into(),
        ..Default::default()
    };
    status.published(&published, 4, std::collections::BTreeMap::new());
    let mut load = Load::default();
    for (number, flows, chats) in [(0, 5, 2), (2, 1, 1)] {
        let carried = Carried { flows, chats };
        load.replicas.insert(number, carried);
        let all = load.services.entry(1).or_default();
        (all.flows, all.chats) = (all.flows + flows, all.chats + chats);
    }
    load.entries = Entries { flows: 9, chats: 4, chat_cookies: 1 };
    let report = Report { told: Told { flows: 7, resets: 13 }, load, ..Report::default() };
    status.went_round(&report, Duration::from_millis(3));
    status
}

fn rendered(format: Format) -> String {
    let state = status().get();
    let counters: Vec<u64> = (0..Counter::COUNT as u64).collect();
    let watched = state.watches.as_ref().map(WatchState::get);
    let facts = Facts {
        state: &state,
        counters: &counters,
        rooms: &[Room { map: Map::Flows, max_entries: 1024 }],
        interfaces: &[],
        watched: watched.as_ref(),
        control: None,
        now: Instant::now(),
    };
    render(&facts, format).unwrap()
}

/// The values, by name and labels.
fn values(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    let all: Vec<_> = lines.map(value).collect();
    let values: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(values.len(), all.len(), "a series comes twice");
    values
}

#[test]
fn what_is_known_is_shown() {
    let values = values(&rendered(Format::Text));
    for (series, value) in [
        (r#"roost_service_info{service="ro\"oms",policy="spread",key=""}"#, 1.0),
        (r#"roost_service_table_info{service="ro\"oms",digest="0000000000000abc"}"#, 1.0),
        (r#"roost_service_table_generation{service="ro\"oms"}"#, 3.0),
        (r#"roost_service_replicas{service="ro\"oms",state="gone"}"#, 1.0),
        (r#"roost_service_flows{service="ro\"oms"}"#, 6.0),
        (r#"roost_replica_flows{service="ro\"oms",replica="a"}"#, 6.0),
        (r#"roost_replica_chats{service="ro\"oms",replica="a"}"#, 3.0),
        (r#"roost_replica_flows{service="ro\"oms",replica="b"}"#, 0.0),
        (r#"roost_replica_state{service="ro\"oms",replica="b",state="draining"}"#, 1.0),
        (r#"roost_replica_state{service="ro\"oms",replica="b",state="ready"}"#, 0.0),
        (r#"roost_replica_weight{service="ro\"oms",replica="b"}"#, 2.0),
        (r#"roost_map_entries{map="FLOWS"}"#, 9.0),
        (r#"roost_map_max_entries{map="FLOWS"}"#, 1024.0),
        (r#"roost_packets_total{hook="ingress",action="reply",verdict="syn_answered"}"#, 1.0),
        ("roost_datapath_bound_total", 3.0),
        ("roost_farewells_total", 7.0),
        ("roost_farewell_resets_total", 13.0),
        ("roost_round_duration_seconds_count", 1.0),
        (r#"roost_round_duration_seconds_bucket{le="0.005"}"#, 1.0),
        ("roost_publication_changes_total", 4.0),
        (r#"roost_interface_attached{interface="eth0",ingress="",egress=""}"#, 0.0),
        (r#"roost_kubernetes_watch_connected{resource="nodes"}"#, 0.0),
        (r#"roost_kubernetes_problems{reason="NoRoom"}"#, 0.0),
    ] {
        assert_eq!(values.get(series), Some(&value), "{series}; there are {:#?}", values.keys());
    }
    let info: Vec<_> = values.keys().filter(|s| s.starts_with("roost_replica_info{")).collect();
    let of_a = r#"roost_replica_info{service="ro\"oms",replica="a",number="0",address="10.0.0.1",port="8080"}"#;
    assert_eq!((info.len(), info[0].as_str()), (2, of_a), "none for what is gone");
}

#[test]
fn every_counter_of_the_data_path_is_there_with_its_help() {
    let text = rendered(Format::Text);
    let values = values(&text);
    let mut verdicts = 0;
    for (index, counter) in Counter::ALL.iter().enumerate() {
        let name = format!("roost_datapath_{}_total", counter.name());
        assert_eq!(values.get(&name), Some(&(index as f64)), "{name}");
        assert!(text.contains(&format!("# HELP {name} {}\n", counter.help().trim())), "{name}");
        assert!(text.contains(&format!("# TYPE {name} counter\n")), "{name}");
        verdicts += usize::from(counter.action().is_some());
    }
    let packets = values.keys().filter(|series| series.starts_with("roost_packets_total{"));
    assert_eq!(packets.count(), verdicts);
}

#[test]
fn both_formats_say_the_same() {
    let [old, new] = [Format::Text, Format::OpenMetrics].map(rendered);
    let keys = |text: &str| values(text).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(keys(&old), keys(&new));
    assert!(new.ends_with("\n# EOF\n") && !old.contains("# EOF"));
    assert!(new.contains("# TYPE roost_packets counter\nroost_packets_total{"));
    assert!(old.contains("# TYPE roost_packets_total counter\nroost_packets_total{"));
}

#[test]
fn families_have_names_and_helps_of_their_own() {
    let state = status().get();
    let facts = Facts {
        state: &state,
        counters: &[],
        rooms: &[],
        interfaces: &[],
        watched: None,
        control: None,
        now: Instant::now(),
    };
    let mut names = BTreeSet::new();
    for family in families(&facts) {
        let name = family.name();
        assert!(
            family.help.ends_with('.') && !family.help.contains('\n'),
            "{name}: {}",
            family.help
        );
        let plain = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
        assert!(name.chars().all(plain), "{name}");
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
    // What is not known has no value, but is there.
    let text = render(&facts, Format::Text).unwrap();
    assert!(text.contains("# TYPE roost_kubernetes_lists_total counter\n#"));
}
