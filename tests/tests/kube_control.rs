//! What the daemons write into a cluster, against a server that has the real one's rules: the Lease,
//! addresses, Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use roost::{
    kube::{Claims, Options, Reason, Source},
    lead::{Control, ControlState, Known, LEASE, Times, Usage},
    plan::{addr::Family, config::AddressPool, index::SyncError},
};
use roost_tests::kube::{
    ApiServer, Endpoint, Fault, NODE, Request, annotate, node, service, slice,
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Longer than anything takes, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
/// An election that does not take long, and that no machine loses because it does much else.
const TIMES: Times = Times {
    lease: Duration::from_secs(12),
    renew: Duration::from_secs(9),
    retry: Duration::from_millis(250),
};
const NAMESPACE: &str = "roost-system";

/// What a daemon does with a cluster, without the data path.
struct Daemon {
    control: Control,
    pools: watch::Sender<Vec<AddressPool>>,
    task: JoinHandle<Result<()>>,
    _dir: tempfile::TempDir,
}

impl Daemon {
    async fn start(server: &ApiServer, node_name: &str, pools: &[AddressPool]) -> Result<Self> {
        Self::start_with(server, node_name, pools, TIMES).await
    }

    async fn start_with(
        server: &ApiServer,
        node_name: &str,
        pools: &[AddressPool],
        times: Times,
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let kubeconfig = server.kubeconfig(dir.path())?;
        let client = roost::kube::client(Some(&kubeconfig), Some(NAMESPACE)).await?;
        let control = Control::start(client.clone(), node_name, times);
        let options = Options {
            node_name: node_name.into(),
            hold: Duration::ZERO,
            silence: Options::SILENCE,
        };
        let mut source = Source::start(client, options, []);
        let learner = control.learner();
        let (pools, mut changed) = watch::channel(pools.to_vec());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = source.changed() => changed?,
                    changed = changed.changed(), if source.is_synced() => changed?,
                }
                let publication = source.take(Claims::new());
                source.published(publication, &BTreeMap::<_, SyncError<String>>::new());
                learner.learn(Known::of(&source, &changed.borrow_and_update()));
            }
        });
        Ok(Self { control, pools, task, _dir: dir })
    }

    fn state(&self) -> ControlState {
        self.control.state().clone()
    }

    async fn stop(self) {
        self.control.stop().await;
        self.task.abort();
    }

    /// As if the machine had lost its power.
    fn kill(self) {
        self.task.abort();
        drop(self.control);
    }
}

async fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = ready() {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "waited {LIMIT:?} for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn pool(first: &str, last: &str) -> AddressPool {
    AddressPool { first: first.parse().expect("it"), last: last.parse().expect("it") }
}

fn pools() -> Vec<AddressPool> {
    vec![pool("203.0.113.17", "203.0.113.30"), pool("2001:db8:1::10", "2001:db8:1::2f")]
}

/// A Service that has no address.
fn waiting(name: &str, families: &[&str]) -> Value {
    let mut service = service(name, &[]);
    service["spec"]["ipFamilies"] = json!(families);
    service
}

/// A server with a Node, and a Service of two families that waits for its addresses.
fn server() -> Result<ApiServer> {
    let server = ApiServer::on_loopback()?;
    server.apply(node(NODE, &["172.16.0.1".parse()?]));
    server.apply(node("node-2", &["172.16.0.2".parse()?]));
    server.apply(waiting("chat", &["IPv4", "IPv6"]));
    Ok(server)
}

fn ingress(server: &ApiServer, name: &str) -> Vec<String> {
    let service = server.get("services", "default", name).unwrap_or_default();
    let all = service["status"]["loadBalancer"]["ingress"].as_array().cloned();
    let all = all.unwrap_or_default();
    all.iter().map(|item| item["ip"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn until_ingress(server: &ApiServer, name: &str, right: &[&str]) -> Result<()> {
    let what = format!("{name} to have {right:?}");
    let result = until(&what, || (ingress(server, name) == right).then_some(()));
    result.await.with_context(|| format!("it has {:?}", ingress(server, name)))
}

fn lease(server: &ApiServer) -> Value {
    server.get("leases", NAMESPACE, LEASE).unwrap_or_default()["spec"].clone()
}

/// The Events about a Service with a reason.
fn events(server: &ApiServer, name: &str, reason: &str) -> Vec<Value> {
    let mut all = server.all("events");
    all.retain(|event| event["regarding"]["name"] == name && event["reason"] == reason);
    all
}

async fn until_event(server: &ApiServer, name: &str, reason: &str) -> Result<Value> {
    until(&format!("an Event {reason} on {name}"), || events(server, name, reason).pop()).await
}

#[tokio::test]
async fn one_of_two_daemons_leads_and_gives_an_address_of_each_family() -> Result<()> {
    let server = server()?;
    let daemons = [
        Daemon::start(&server, NODE, &pools()).await?,
        Daemon::start(&server, "node-2", &pools()).await?,
    ];
    until_ingress(&server, "chat", &["203.0.113.17", "2001:db8:1::10"]).await?;
    let status = server.get("services", "default", "chat").context("it")?["status"].clone();
    assert_eq!(status["loadBalancer"]["ingress"][1]["ipMode"], "VIP");

    let holder = lease(&server)["holderIdentity"].as_str().context("a holder")?.to_owned();
    assert_eq!(lease(&server)["leaseDurationSeconds"], 12);
    assert_eq!(lease(&server)["leaseTransitions"], 0);
    until("both to know who leads", || {
        let states = daemons.each_ref().map(|daemon| daemon.state().get());
        let given: u64 = states.iter().map(|state| state.addresses_given).sum();
        let know = states.iter().all(|state| state.leader.as_ref() == Some(&holder));
        (know && given == 2 && states.iter().any(|state| !state.pools.is_empty())).then_some(())
    })
    .await?;
    let states = daemons.each_ref().map(|daemon| daemon.state().get());
    let leads: Vec<_> = states.iter().filter(|state| state.is_leader).collect();
    assert!(matches!(leads[..], [leader] if leader.identity == holder), "{states:?}");
    assert!(holder.starts_with("node-"), "{holder}");
    assert_eq!(leads[0].addresses_given, 2);
    assert_eq!(leads[0].pools[&Family::V4], Usage { given: 1, free: 13 });

    let event = until_event(&server, "chat", "AddressGiven").await?;
    assert_eq!(
        (&event["type"], &event["regarding"]["kind"]),
        (&json!("Normal"), &json!("Service"))
    );
    let uid = &server.get("services", "default", "chat").context("it")?["metadata"]["uid"];
    assert_eq!(event["regarding"]["uid"], *uid);
    assert_eq!(event["reportingController"], "roost.rs/router");
    assert!(event["note"].as_str().is_some_and(|note| note.contains("203.0.113.17")), "{event}");

    // It renews.
    let before = lease(&server)["renewTime"].clone();
    until("a renewal", || (lease(&server)["renewTime"] != before).then_some(())).await?;
    // What is asked for is what the roles have to allow, and no more.
    let used: BTreeSet<(String, String)> =
        server.requests().into_iter().map(|r| (r.verb, r.resource)).collect();
    let allowed = [
        ("list", "services"),
        ("watch", "services"),
        ("patch", "services/status"),
        ("list", "endpointslices"),
        ("watch", "endpointslices"),
        ("list", "nodes"),
        ("watch", "nodes"),
        ("get", "leases"),
        ("create", "leases"),
        ("update", "leases"),
        ("create", "events"),
        ("patch", "events"),
    ];
    for (verb, resource) in &used {
        assert!(allowed.contains(&(verb, resource)), "{verb} {resource}");
    }
    let patches = server.requests();
    let patches: Vec<_> = patches.iter().filter(|r| r.resource == "services/status").collect();
    assert!(!patches.is_empty(), "an address was given");
    assert!(patches.iter().all(|r| r.body["metadata"]["resourceVersion"].is_string()));
    let refused: Vec<_> =
        server.requests().into_iter().filter(|r| [400, 422, 500].contains(&r.status)).collect();
    assert!(refused.is_empty(), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn another_daemon_takes_over_when_the_leader_dies_and_when_it_ends() -> Result<()> {
    let server = server()?;
    let first = Daemon::start(&server, NODE, &pools()).await?;
    until_ingress(&server, "chat", &["203.0.113.17", "2001:db8:1::10"]).await?;
    let second = Daemon::start(&server, "node-2", &pools()).await?;
    until("the second to know the first", || second.state().get().leader).await?;
    first.kill();
    let killed = Instant::now();
    server.apply(waiting("late", &["IPv4"]));
    until_ingress(&server, "late", &["203.0.113.18"]).await?;
    // A renewal may have been a moment ago, so not all of the Lease's time has passed.
    assert!(killed.elapsed() >= TIMES.lease - TIMES.renew, "{:?}", killed.elapsed());
    assert_eq!(lease(&server)["leaseTransitions"], 1);
    until("it to be counted", || (second.state().get().addresses_given == 1).then_some(())).await?;
    assert!(second.state().get().is_leader);

    // While another one renews, a server's cache is enough to see that.
    let cached = |r: &Request| r.query.get("resourceVersion").is_some_and(|version| version == "0");
    let gets = server.requests();
    let mut gets = gets.iter().filter(|r| r.verb == "get" && r.resource == "leases");
    assert!(gets.clone().any(cached), "{:?}", gets.next());
    assert!(gets.any(|r| !cached(r)));

    // It ends cleanly, though a renewal has been written that it does not know of: nobody waits for
    // the Lease to end.
    server.fail(Fault { verb: "update", plural: "leases", status: 409, times: 1 });
    second.stop().await;
    let released = lease(&server);
    assert!(released["holderIdentity"].is_null(), "{released}");
    assert_eq!(released["leaseTransitions"], 1);
    let third = Daemon::start(&server, NODE, &pools()).await?;
    until("the third to lead", || third.state().get().is_leader.then_some(())).await?;
    assert_eq!(lease(&server)["leaseTransitions"], 2);
    // What was given stays.
    until("the third to have looked", || third.state().get().pools.get(&Family::V4).copied())
        .await?;
    assert_eq!(third.state().get().addresses_given, 0);
    assert_eq!(ingress(&server, "chat"), ["203.0.113.17", "2001:db8:1::10"]);
    Ok(())
}

#[tokio::test]
async fn a_leader_that_cannot_renew_leads_no_longer() -> Result<()> {
    let server = server()?;
    let daemon = Daemon::start(&server, NODE, &pools()).await?;
    until("a leader", || daemon.state().get().is_leader.then_some(())).await?;
    server.forbid("update", "leases", true);
    until("no leader", || (!daemon.state().get().is_leader).then_some(())).await?;
    server.apply(waiting("late", &["IPv4"]));
    sleep(TIMES.retry).await;
    assert_eq!(ingress(&server, "late"), [""; 0]);
    server.forbid("update", "leases", false);
    until_ingress(&server, "late", &["203.0.113.18"]).await?;
    // Somebody else takes it, by force.
    server.change("leases", NAMESPACE, LEASE, |lease| {
        lease["spec"]["holderIdentity"] = json!("somebody");
        lease["spec"]["leaseDurationSeconds"] = json!(3600);
    });
    until("no leader", || (!daemon.state().get().is_leader).then_some(())).await?;
    until("it to be known", || {
        (daemon.state().get().leader.as_deref() == Some("somebody")).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_renewal_that_gets_no_answer_is_tried_again_in_time() -> Result<()> {
    let server = server()?;
    let times = Times { retry: Duration::from_millis(250), ..Times::default() };
    let daemon = Daemon::start_with(&server, NODE, &pools(), times).await?;
    until("a leader", || daemon.state().get().is_leader.then_some(())).await?;
    server.be_silent("update", "leases");
    until("no answer", || server.was_silent().then_some(())).await?;
    let before = lease(&server)["renewTime"].clone();
    let mut has_led = true;
    until("a renewal", || {
        has_led &= daemon.state().get().is_leader;
        (lease(&server)["renewTime"] != before).then_some(())
    })
    .await?;
    assert!(has_led && daemon.state().get().is_leader);
    Ok(())
}

#[tokio::test]
async fn a_conflict_is_looked_at_again() -> Result<()> {
    let server = server()?;
    for status in [409, 500, 409] {
        server.fail(Fault { verb: "patch", plural: "services", status, times: 1 });
    }
    server.fail(Fault { verb: "list", plural: "nodes", status: 500, times: 2 });
    let daemon = Daemon::start(&server, NODE, &pools()).await?;
    until_ingress(&server, "chat", &["203.0.113.17", "2001:db8:1::10"]).await?;
    until("it to be counted", || (daemon.state().get().addresses_given == 2).then_some(())).await
}

#[tokio::test]
async fn changes_do_not_cut_the_wait_after_a_failure_short() -> Result<()> {
    let server = server()?;
    server.fail(Fault { verb: "patch", plural: "services", status: 500, times: 1000 });
    let _daemon = Daemon::start(&server, NODE, &pools()).await?;
    until("a failure", || (server.count("patch", "services") > 0).then_some(())).await?;
    // Each of these is published by itself, and is a reason to look at the addresses again.
    for i in 0..30 {
        server.apply(waiting(&format!("other-{i:02}"), &["IPv4"]));
        sleep(Duration::from_millis(150)).await;
    }
    // The waits double, from 0.25 s on.
    let tries = server.count("patch", "services");
    assert!(tries <= 8, "{tries}");
    Ok(())
}

#[tokio::test]
async fn a_pool_that_is_used_up_is_waited_for() -> Result<()> {
    let server = server()?;
    server.delete("services", "default", "chat");
    server.apply(waiting("first", &["IPv4"]));
    let one = [pool("203.0.113.17", "203.0.113.17")];
    let daemon = Daemon::start(&server, NODE, &one).await?;
    until_ingress(&server, "first", &["203.0.113.17"]).await?;
    server.apply(waiting("second", &["IPv4"]));
    let event = until_event(&server, "second", "NoAddress").await?;
    assert_eq!(event["type"], "Warning");
    assert!(event["note"].as_str().is_some_and(|note| note.contains("203.0.113.17")), "{event}");
    let state = daemon.state().get();
    assert_eq!(state.pools[&Family::V4], Usage { given: 1, free: 0 }, "{state:?}");
    assert_eq!(state.problems[0].reason, Reason::NoAddress);
    // One that goes gives its address back.
    server.delete("services", "default", "first");
    until_ingress(&server, "second", &["203.0.113.17"]).await?;
    // More of them, for another one.
    server.apply(waiting("third", &["IPv4", "IPv6"]));
    until_event(&server, "third", "NoAddress").await?;
    daemon.pools.send_replace(pools());
    until_ingress(&server, "third", &["203.0.113.18", "2001:db8:1::10"]).await?;
    until("no problem", || daemon.state().get().problems.is_empty().then_some(())).await
}

#[tokio::test]
async fn an_address_stays_over_a_restart_and_another_pool() -> Result<()> {
    let server = server()?;
    let daemon = Daemon::start(&server, NODE, &pools()).await?;
    until_ingress(&server, "chat", &["203.0.113.17", "2001:db8:1::10"]).await?;
    daemon.stop().await;
    let other = [pool("203.0.113.100", "203.0.113.110"), pool("2001:db8:1::", "2001:db8:1::ff")];
    let daemon = Daemon::start(&server, NODE, &other).await?;
    let event = until_event(&server, "chat", "AddressOutsidePool").await?;
    assert!(event["note"].as_str().is_some_and(|note| note.contains("203.0.113.17 ")), "{event}");
    server.apply(waiting("late", &["IPv4", "IPv6"]));
    until_ingress(&server, "late", &["203.0.113.100", "2001:db8:1::"]).await?;
    assert_eq!(ingress(&server, "chat"), ["203.0.113.17", "2001:db8:1::10"]);
    assert_eq!(daemon.state().get().problems.len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_others_have_is_not_given() -> Result<()> {
    let server = server()?;
    server.apply(node("node-3", &["203.0.113.17".parse()?]));
    let mut external = service("external", &[]);
    external["metadata"]["annotations"] = json!({});
    external["spec"]["type"] = json!("ClusterIP");
    external["spec"]["loadBalancerClass"] = Value::Null;
    external["spec"]["externalIPs"] = json!(["203.0.113.18"]);
    server.apply(external);
    let mut other = service("other", &["203.0.113.19".parse::<IpAddr>()?]);
    other["metadata"]["annotations"] = json!({});
    other["spec"]["loadBalancerClass"] = json!("example.com/other");
    server.apply(other);
    let _daemon = Daemon::start(&server, NODE, &pools()).await?;
    until_ingress(&server, "chat", &["203.0.113.20", "2001:db8:1::10"]).await
}

#[tokio::test]
async fn a_problem_becomes_one_event_whoever_leads() -> Result<()> {
    let server = server()?;
    server.apply(annotate(service("wrong", &["192.0.2.10".parse()?]), "policy", "house"));
    let mut elsewhere = slice(
        "wrong",
        "wrong-1",
        8080,
        &[
            Endpoint::ready("wrong-0", "10.1.0.2".parse()?),
            Endpoint::ready("wrong-1", "10.1.0.3".parse()?),
        ],
    );
    elsewhere["endpoints"][1]["nodeName"] = json!("node-2");
    server.apply(elsewhere);
    let first = Daemon::start(&server, NODE, &pools()).await?;
    let event = until_event(&server, "wrong", "InvalidAnnotation").await?;
    assert!(event["note"].as_str().is_some_and(|note| note.contains("\"house\"")), "{event}");
    until_ingress(&server, "chat", &["203.0.113.17", "2001:db8:1::10"]).await?;
    assert!(events(&server, "wrong", "EndpointElsewhere").is_empty(), "it is not served");
    server.apply(annotate(service("wrong", &["192.0.2.10".parse()?]), "polic", "home"));
    let event = until_event(&server, "wrong", "EndpointElsewhere").await?;
    let note = event["note"].as_str().context("a note")?;
    assert!(note.starts_with("has endpoints on other Nodes"), "{note}");
    until_event(&server, "wrong", "UnknownAnnotation").await?;

    // The next leader finds the Event there.
    let creates = server.count("create", "events");
    first.stop().await;
    let second = Daemon::start(&server, "node-2", &pools()).await?;
    until("the second to have written", || {
        (server.count("create", "events") >= creates + 2).then_some(())
    })
    .await?;
    for reason in ["InvalidAnnotation", "UnknownAnnotation", "EndpointElsewhere"] {
        assert_eq!(events(&server, "wrong", reason).len(), 1, "{reason}");
    }
    assert_eq!(server.count("patch", "events"), 0);
    assert_eq!(second.state().get().events_failed, 0);
    // It goes and comes back: the same Event, once more. What is written about a later change says that the
    // leader knows.
    server.apply(service("wrong", &["192.0.2.10".parse()?]));
    server.apply(annotate(service("later", &["192.0.2.11".parse()?]), "policy", "house"));
    until_event(&server, "later", "InvalidAnnotation").await?;
    server.apply(annotate(service("wrong", &["192.0.2.10".parse()?]), "polic", "home"));
    until("a series", || {
        let event = events(&server, "wrong", "UnknownAnnotation").pop()?;
        (event["series"]["count"] == 2).then_some(())
    })
    .await
}

#[tokio::test]
async fn what_may_not_be_written_harms_nothing_else() -> Result<()> {
    let server = server()?;
    server.forbid("create", "events", true);
    server.apply(annotate(service("wrong", &["192.0.2.10".parse()?]), "policy", "house"));
    let daemon = Daemon::start(&server, NODE, &pools()).await?;
    until_ingress(&server, "chat", &["203.0.113.17", "2001:db8:1::10"]).await?;
    until("failures", || (daemon.state().get().events_failed >= 3).then_some(())).await?;
    server.forbid("create", "events", false);
    until_event(&server, "wrong", "InvalidAnnotation").await?;
    until_event(&server, "chat", "AddressGiven").await?;
    // Now addresses may not be written, but Events may.
    server.forbid("patch", "services/status", true);
    server.apply(waiting("late", &["IPv4"]));
    until("a refusal", || {
        server
            .requests()
            .iter()
            .any(|r| r.resource == "services/status" && r.status == 403)
            .then_some(())
    })
    .await?;
    server.apply(annotate(service("wrong", &["192.0.2.10".parse()?]), "policy", "castle"));
    until("another Event", || {
        (events(&server, "wrong", "InvalidAnnotation").len() == 2).then_some(())
    })
    .await?;
    server.forbid("patch", "services/status", false);
    until_ingress(&server, "late", &["203.0.113.18"]).await
}

#[tokio::test]
async fn a_service_whose_status_is_refused_says_so_and_holds_no_other_up() -> Result<()> {
    let server = server()?;
    let one = [pool("203.0.113.17", "203.0.113.18")];
    server.deny("services", "chat", true);
    // They are younger: what there is is given to the oldest first.
    server.apply(waiting("second", &["IPv4"]));
    server.apply(waiting("third", &["IPv4"]));
    let daemon = Daemon::start(&server, NODE, &one).await?;
    until("an address", || {
        ["second", "third"].iter().any(|name| !ingress(&server, name).is_empty()).then_some(())
    })
    .await?;
    // What it is refused for is in its Event, once, and all that depends on a plan is there.
    let event = until("an Event of the refusal", || {
        let mut all = events(&server, "chat", "NoAddress");
        all.retain(|event| event["note"].as_str().is_some_and(|note| note.contains("webhook")));
        all.pop()
    })
    .await?;
    assert_eq!(event["type"], "Warning");
    until("the pool's state", || daemon.state().get().pools.get(&Family::V4).copied()).await?;
    let patches = || {
        let all = server.requests();
        all.iter().filter(|r| r.resource == "services/status" && r.status == 403).count()
    };
    until("it to be tried again", || (patches() >= 3).then_some(())).await?;
    let refusals = events(&server, "chat", "NoAddress");
    assert_eq!(refusals.len(), 2, "one for the family that no pool has: {refusals:?}");
    server.deny("services", "chat", false);
    until("an address", || (!ingress(&server, "chat").is_empty()).then_some(())).await?;
    until("the problem to end", || {
        let problems = daemon.state().get().problems;
        (!problems.iter().any(|problem| problem.message.contains("webhook"))).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_refused_service_that_changes_does_not_wait() -> Result<()> {
    let server = server()?;
    // An hour: only the change can be why it is tried again.
    server.deny_for("services", "chat", 3600);
    let _daemon = Daemon::start(&server, NODE, &pools()).await?;
    until("a refusal", || {
        let all = server.requests();
        all.iter().any(|r| r.resource == "services/status" && r.status == 403).then_some(())
    })
    .await?;
    server.deny("services", "chat", false);
    let mut changed = waiting("chat", &["IPv4", "IPv6"]);
    changed["metadata"]["labels"] = json!({"team": "chat"});
    server.apply(changed);
    until_ingress(&server, "chat", &["203.0.113.17", "2001:db8:1::10"]).await
}

#[tokio::test]
async fn events_wait_when_the_server_wants_to_be_left_alone() -> Result<()> {
    let server = server()?;
    server.delete("services", "default", "chat");
    for name in ["a", "b", "c", "d"] {
        server.apply(annotate(service(name, &[]), "policy", "house"));
    }
    server.fail(Fault { verb: "create", plural: "events", status: 429, times: 3 });
    let daemon = Daemon::start(&server, NODE, &[]).await?;
    for name in ["a", "b", "c", "d"] {
        until_event(&server, name, "InvalidAnnotation").await?;
    }
    let refused = server.requests();
    let refused = refused.iter().filter(|r| r.resource == "events" && r.status == 429);
    let refused: BTreeSet<_> = refused
        .map(|r| r.body["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(refused.len(), 1, "the others were not tried: {refused:?}");
    assert_eq!(daemon.state().get().events_failed, 3);
    Ok(())
}

#[tokio::test]
async fn it_ends_in_time_without_the_server() -> Result<()> {
    let mut server = server()?;
    let daemon = Daemon::start(&server, NODE, &pools()).await?;
    until_ingress(&server, "chat", &["203.0.113.17", "2001:db8:1::10"]).await?;
    server.stop();
    timeout(LIMIT, daemon.stop()).await?;
    // And one that has never known anything.
    let daemon = Daemon::start(&server, NODE, &pools()).await?;
    timeout(LIMIT, daemon.stop()).await?;
    Ok(())
}
