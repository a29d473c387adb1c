//! The watches of a cluster against a server that speaks the API, and does what servers do at times.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use roost::{
    kube::{Claims, Kind, Options, Problem, Reason, Source, WatchState},
    plan::{
        config,
        index::{Change, Index, Published, Room, Synced},
        origin::Origin,
    },
};
use roost_tests::kube::{
    ApiServer, Endpoint, Fault, NODE, annotate, bind_again, node, service, slice,
};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

/// Longer than anything takes, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
/// Longer than changes are gathered.
const SETTLED: Duration = Duration::from_millis(600);
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

/// A daemon's part: publishes what the source says into maps that are only a value.
struct Follower {
    source: Source,
    index: Index,
    maps: Published,
    /// How many writes each publication was, in order.
    publications: Vec<usize>,
    _dir: tempfile::TempDir,
}

impl Follower {
    /// Starts to follow a server, with maps from before.
    async fn start(server: &ApiServer, maps: Published, hold: Duration) -> Result<Self> {
        Self::start_with(server, maps, Options { hold, ..options() }).await
    }

    async fn start_with(server: &ApiServer, maps: Published, options: Options) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let client = roost::kube::client(Some(&server.kubeconfig(dir.path())?), None).await?;
        let names = maps.services.values().map(|s| String::from_utf8_lossy(s.name.kept()).into());
        let known: Vec<String> = names.collect();
        let mut index =
            Index::new(Room { services: 8, replicas: 2048, vips: 64, ranges: 64 }, maps.clone());
        index.keep(known.iter().cloned().collect());
        let source = Source::start(client, options, known);
        Ok(Self { source, index, maps, publications: Vec::new(), _dir: dir })
    }

    fn state(&self) -> WatchState {
        self.source.state().clone()
    }

    /// Publishes once. Returns what was written.
    fn publish(&mut self) -> Result<Vec<Change>> {
        let publication = self.source.take(Claims::new());
        self.index.keep(publication.held.clone());
        self.index.reset(Origin::KUBERNETES, publication.services.clone());
        let Synced { changes, failed } = self.index.sync(&mut self.maps, Duration::from_secs(1000));
        self.source.published(publication, &failed);
        self.publications.push(changes.len());
        Ok(changes)
    }

    /// Follows until `ready`. Polls it, too, because not all that happens is published.
    async fn until(&mut self, what: &str, ready: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !ready(self) {
            ensure!(Instant::now() < end, "waited {LIMIT:?} for {what}: {:?}", self.state().get());
            match timeout(Duration::from_millis(20), self.source.changed()).await {
                Ok(changed) => {
                    changed?;
                    self.publish()?;
                }
                Err(_) => continue,
            }
        }
        Ok(())
    }

    /// Follows until nothing is left to publish; fails if something is written.
    async fn is_quiet(&mut self) -> Result<()> {
        while let Ok(changed) = timeout(SETTLED, self.source.changed()).await {
            changed?;
            let changes = self.publish()?;
            ensure!(changes.is_empty(), "written: {changes:?}");
        }
        Ok(())
    }

    /// The live replicas in the maps, by name.
    fn replicas(&self) -> Vec<String> {
        let live =
            self.maps.replicas.values().filter(|r| r.state != router_ebpf::maps::REPLICA_GONE);
        let mut names: Vec<_> =
            live.map(|r| String::from_utf8_lossy(r.name.kept()).into_owned()).collect();
        names.sort();
        names
    }

    async fn until_replicas(&mut self, names: &[&str]) -> Result<()> {
        self.until(&format!("{names:?}"), |f| f.replicas() == names).await
    }

    /// Follows until every watch is open, and was opened at least this often.
    async fn until_watched(&mut self, server: &ApiServer, times: usize) -> Result<()> {
        let kinds = Kind::ALL.map(Kind::name);
        self.until("the watches", |f| {
            f.state().get().is_current() && kinds.iter().all(|k| server.count("watch", k) >= times)
        })
        .await
    }
}

fn options() -> Options {
    let hold = Duration::from_secs(3600);
    Options { node_name: NODE.into(), hold, silence: Options::SILENCE }
}

fn pod(n: u8) -> Endpoint {
    Endpoint::ready(&format!("chat-{n}"), Ipv4Addr::new(10, 1, 0, 2 + n).into())
}

/// A server with a Service of two pods.
fn server() -> Result<ApiServer> {
    let server = ApiServer::on_loopback()?;
    server.apply(node(NODE, &["172.16.0.1".parse()?]));
    server.apply(node("another", &["172.16.0.2".parse()?]));
    server.apply(service("chat", &[VIP]));
    server.apply(slice("chat", "chat-1", 8080, &[pod(0), pod(1)]));
    Ok(server)
}

/// Sends an event to every watch. It works, so the next failure is not waited for long.
async fn works(server: &ApiServer, follower: &mut Follower) -> Result<()> {
    let events = |f: &Follower| Kind::ALL.map(|kind| f.state().get().kind(kind).events);
    follower.until("open watches", |f| f.state().get().is_current()).await?;
    let before = events(follower);
    server.repeat("nodes", "", NODE);
    server.repeat("services", "default", "chat");
    server.repeat("endpointslices", "default", "chat-1");
    let all_more = |f: &Follower| events(f).iter().zip(&before).all(|(now, then)| now > then);
    follower.until("an event of each kind", all_more).await
}

async fn follower(server: &ApiServer) -> Result<Follower> {
    let mut follower =
        Follower::start(server, Published::default(), Duration::from_secs(3600)).await?;
    follower.until_replicas(&["chat-0", "chat-1"]).await?;
    follower.until_watched(server, 1).await?;
    Ok(follower)
}

#[tokio::test]
async fn lists_then_watches_with_the_token_over_tls() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    assert_eq!(follower.publications, [5]);
    server.apply(slice("chat", "chat-1", 8080, &[pod(0), pod(1), pod(2)]));
    follower.until_replicas(&["chat-0", "chat-1", "chat-2"]).await?;
    server.apply(slice("chat", "chat-2", 8080, &[pod(3)]));
    follower.until_replicas(&["chat-0", "chat-1", "chat-2", "chat-3"]).await?;
    server.delete("endpointslices", "default", "chat-1");
    follower.until_replicas(&["chat-3"]).await?;
    server.delete("services", "default", "chat");
    follower.until("no service", |f| f.maps.services.is_empty()).await?;

    let state = follower.state().get();
    assert!(state.is_synced() && state.is_current(), "{state:?}");
    assert_eq!(state.kind(Kind::EndpointSlices).lists, 1);
    assert_eq!(state.kind(Kind::EndpointSlices).events, 3);
    assert_eq!(state.problems, []);
    // What is asked for is what the ClusterRole has to allow, and no more.
    let requests = server.requests();
    assert!(requests.iter().all(|r| r.verb == "list" || r.verb == "watch"), "{requests:?}");
    for request in requests.iter().filter(|r| r.verb == "watch") {
        assert_eq!(request.query["allowWatchBookmarks"], "true");
        assert!(request.query["resourceVersion"].parse::<u64>().is_ok());
    }
    let nodes = requests.iter().filter(|r| r.resource == "nodes");
    assert!(nodes.clone().count() >= 2);
    // Of all Nodes: no Service may take what belongs to any.
    assert!(nodes.clone().all(|r| !r.query.contains_key("fieldSelector")));
    Ok(())
}

#[tokio::test]
async fn a_watch_goes_on_where_it_ended() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    for (round, names) in
        [(2, ["chat-0", "chat-2"]), (3, ["chat-0", "chat-3"]), (4, ["chat-0", "chat-4"])]
    {
        match round {
            2 => server.end_watches(),
            3 => server.break_watches(),
            _ => server.garbage(),
        }
        // While nobody watches.
        server.apply(slice("chat", "chat-1", 8080, &[pod(0), pod(round)]));
        follower.until_replicas(&names).await?;
        follower.until_watched(&server, usize::from(round)).await?;
    }
    assert_eq!(server.count("list", "endpointslices"), 1, "it did not have to list again");
    Ok(())
}

#[tokio::test]
async fn bookmarks_spare_a_list() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    let heard = |f: &Follower| Kind::ALL.map(|kind| f.state().get().kind(kind).heard);
    let before = heard(&follower);
    // Much happens that is not watched, and is forgotten.
    server.compact();
    server.bookmark();
    let all_later = |f: &Follower| heard(f).iter().zip(&before).all(|(now, then)| now > then);
    follower.until("the bookmarks", all_later).await?;
    follower.is_quiet().await?;
    server.end_watches();
    follower.until_watched(&server, 2).await?;
    server.apply(slice("chat", "chat-1", 8080, &[pod(0)]));
    follower.until_replicas(&["chat-0"]).await?;
    assert_eq!(server.count("list", "services"), 1);
    assert_eq!(server.count("list", "endpointslices"), 1);
    Ok(())
}

#[tokio::test]
async fn a_server_that_has_gone_back_is_listed_anew() -> Result<()> {
    let server = server()?;
    let options = Options { silence: Duration::from_secs(2), ..options() };
    let mut follower = Follower::start_with(&server, Published::default(), options).await?;
    follower.until_replicas(&["chat-0", "chat-1"]).await?;
    let backup = server.version();
    for more in [2, 4] {
        server.apply(slice("chat", "chat-1", 8080, &[pod(0), pod(more)]));
        follower.until_replicas(&["chat-0", &format!("chat-{more}")]).await?;
    }
    server.rewind(backup);
    // Not as new as what the watches have seen: no event says so, and no bookmark comes.
    server.apply(slice("chat", "chat-1", 8080, &[pod(0), pod(3)]));
    follower.until_replicas(&["chat-0", "chat-3"]).await
}

#[tokio::test]
async fn a_watch_that_is_too_old_lists_again_and_nothing_is_written() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    let maps = follower.maps.clone();
    // As an event of the watch that is opened, as an event in the middle, and as the answer's status.
    server.compact();
    server.end_watches();
    follower.until("a list", |_| server.count("list", "endpointslices") >= 2).await?;
    works(&server, &mut follower).await?;
    server.error_event(410);
    follower.until("a list", |_| server.count("list", "endpointslices") >= 3).await?;
    works(&server, &mut follower).await?;
    server.fail(Fault { verb: "watch", plural: "endpointslices", status: 410, times: 1 });
    server.end_watches();
    follower.until("a list", |_| server.count("list", "endpointslices") >= 4).await?;
    follower.is_quiet().await?;
    assert_eq!(follower.maps, maps);
    // What changes meanwhile is seen.
    works(&server, &mut follower).await?;
    server.compact();
    server.end_watches();
    server.apply(slice("chat", "chat-1", 8080, &[pod(1), pod(5)]));
    follower.until_replicas(&["chat-1", "chat-5"]).await
}

#[tokio::test]
async fn other_errors_do_not_list_again() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    server.error_event(500);
    follower.until("the error", |f| f.state().get().kind(Kind::Nodes).errors == 1).await?;
    follower.until_watched(&server, 2).await?;
    server.fail(Fault { verb: "watch", plural: "services", status: 429, times: 2 });
    server.fail(Fault { verb: "watch", plural: "services", status: 503, times: 1 });
    server.end_watches();
    follower.until("three errors", |f| f.state().get().kind(Kind::Services).errors == 4).await?;
    server.delete("endpointslices", "default", "chat-1");
    follower.until_replicas(&[]).await?;
    follower.until("an open watch", |f| f.state().get().is_current()).await?;
    assert_eq!(server.count("list", "services"), 1);
    assert_eq!(follower.state().get().kind(Kind::Services).last_error, None);
    Ok(())
}

#[tokio::test]
async fn lists_have_pages_and_survive_the_loss_of_one() -> Result<()> {
    let server = server()?;
    for n in 0..1200 {
        server.apply(slice("other", &format!("other-{n}"), 8080, &[]));
    }
    let follower = follower(&server).await?;
    let pages = server.count("list", "endpointslices");
    assert_eq!(pages, 3);
    let asked = |server: &ApiServer| {
        let requests = server.requests().into_iter();
        requests.filter(|r| r.resource == "endpointslices" && r.verb == "list").collect::<Vec<_>>()
    };
    assert!(asked(&server).iter().all(|r| r.query["limit"] == "500"));
    drop(follower);

    // The second page is gone: all at once.
    server.fail(Fault { verb: "list", plural: "endpointslices", status: 500, times: 1 });
    server.lose_pages(1);
    let mut follower = Follower::start(&server, Published::default(), LIMIT).await?;
    follower
        .until("the first error", |f| f.state().get().kind(Kind::EndpointSlices).errors >= 1)
        .await?;
    follower.until_replicas(&["chat-0", "chat-1"]).await?;
    let last = asked(&server).pop().context("a list")?;
    assert!(!last.query.contains_key("limit") && !last.query.contains_key("continue"), "{last:?}");
    Ok(())
}

#[tokio::test]
async fn repeated_and_slow_events_and_those_of_others_write_nothing() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    let maps = follower.maps.clone();
    for _ in 0..20 {
        server.repeat("endpointslices", "default", "chat-1");
        server.repeat("services", "default", "chat");
    }
    server.apply(slice("other", "other-1", 8080, &[pod(7)]));
    server.change("services", "default", "chat", |object| {
        object["metadata"]["managedFields"] = json!([{"manager": "x"}])
    });
    server.change("nodes", "", NODE, |object| {
        object["status"]["conditions"] = json!([{"type": "Ready"}])
    });
    follower
        .until("the events", |f| f.state().get().kind(Kind::EndpointSlices).events >= 21)
        .await?;
    follower.is_quiet().await?;
    assert_eq!(follower.maps, maps);
    server.pause_between_events(Duration::from_millis(300));
    for n in 2..5 {
        server.apply(slice("chat", &format!("chat-{n}"), 8080, &[pod(n)]));
    }
    follower.until_replicas(&["chat-0", "chat-1", "chat-2", "chat-3", "chat-4"]).await
}

#[tokio::test]
async fn a_slice_that_is_not_selected_any_more_is_gone() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    server.change("endpointslices", "default", "chat-1", |object| {
        object["metadata"]["labels"] = json!({});
    });
    follower.until_replicas(&[]).await
}

#[tokio::test]
async fn a_thousand_endpoints_are_one_publication() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    follower.publications.clear();
    let begin = Instant::now();
    let all: Vec<_> = (0..1000u32)
        .map(|n| Endpoint::ready(&format!("chat-{n}"), Ipv4Addr::from_bits(0x0a02_0000 + n).into()))
        .collect();
    server.delete("endpointslices", "default", "chat-1");
    for (n, endpoints) in all.chunks(4).enumerate() {
        server.apply(slice("chat", &format!("mass-{n}"), 8080, endpoints));
    }
    follower.until("1000 replicas", |f| f.replicas().len() == 1000).await?;
    // Changes are gathered until nothing has come for a tenth of a second: a machine that does much else
    // lets some be later than that.
    let most = 2 + 10 * begin.elapsed().as_secs() as usize;
    follower.is_quiet().await?;
    assert!(follower.publications.len() <= most, "{:?}", follower.publications);
    assert_eq!(follower.state().get().endpoints, 1000);
    Ok(())
}

#[tokio::test]
async fn without_a_server_the_maps_hold() -> Result<()> {
    let mut server = server()?;
    let maps = follower(&server).await?.maps;
    server.stop();
    let mut follower = Follower::start(&server, maps.clone(), LIMIT).await?;
    follower.until("errors", |f| f.state().get().kind(Kind::Services).errors >= 2).await?;
    // The daemon has another reason to write, such as a changed file.
    assert_eq!(follower.index.sync(&mut follower.maps, Duration::ZERO).changes, []);
    assert!(!follower.state().get().is_synced());
    let error = follower.state().get().kind(Kind::Services).last_error.clone();
    assert!(error.is_some_and(|error| error.contains("refused")));
    // It comes, and part of what it knows cannot be read.
    server.forbid("list", "endpointslices", true);
    server.apply(slice("chat", "chat-1", 8080, &[pod(1), pod(2)]));
    server.restart(bind_again)?;
    follower.until("the Services", |f| f.state().get().kind(Kind::Services).is_listed).await?;
    follower
        .until("the refusal", |f| {
            let error = f.state().get().kind(Kind::EndpointSlices).last_error.clone();
            error.is_some_and(|error| error.contains("403") && error.contains("ClusterRole"))
        })
        .await?;
    assert_eq!(follower.maps, maps);
    server.forbid("list", "endpointslices", false);
    follower.until_replicas(&["chat-1", "chat-2"]).await?;
    // Those that stayed kept their numbers.
    let number = |maps: &Published| {
        let named = maps.replicas.iter().find(|(_, r)| r.name.kept() == b"chat-1");
        named.map(|(number, _)| *number)
    };
    assert_eq!(number(&maps), number(&follower.maps));
    Ok(())
}

#[tokio::test]
async fn a_list_that_is_empty_by_fault_empties_no_service() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    let maps = follower.maps.clone();
    for plural in ["endpointslices", "services"] {
        server.lists_come_back_empty(plural, true);
        let lists = server.count("list", plural);
        server.compact();
        server.end_watches();
        follower.until("a list", |_| server.count("list", plural) > lists).await?;
        follower.until("a service that is held", |f| !f.state().get().held.is_empty()).await?;
        follower.is_quiet().await?;
        assert_eq!(follower.maps, maps);
        server.lists_come_back_empty(plural, false);
        works(&server, &mut follower).await?;
        server.compact();
        server.end_watches();
        follower.until("no service that is held", |f| f.state().get().held.is_empty()).await?;
        follower.is_quiet().await?;
        assert_eq!(follower.maps, maps);
    }
    // An event is believed, also after all that.
    follower.until("open watches", |f| f.state().get().is_current()).await?;
    server.apply(slice("chat", "chat-1", 8080, &[]));
    follower.until_replicas(&[]).await
}

#[tokio::test]
async fn an_empty_list_is_believed_in_the_end() -> Result<()> {
    let server = server()?;
    let maps = follower(&server).await?.maps;
    server.delete("endpointslices", "default", "chat-1");
    // Also after a restart, when only the maps know that there were replicas.
    let hold = Duration::from_secs(4);
    let begin = Instant::now();
    let mut follower = Follower::start(&server, maps, hold).await?;
    follower.until("a service that is held", |f| !f.state().get().held.is_empty()).await?;
    follower.until_replicas(&[]).await?;
    assert!(begin.elapsed() >= hold, "{:?}", begin.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_wrong_annotation_harms_no_other_service() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    server.apply(annotate(service("bad", &["192.0.2.11".parse()?]), "policy", "nearest"));
    server.apply(slice("bad", "bad-1", 8080, &[pod(8)]));
    server.apply(service("good", &["192.0.2.12".parse()?]));
    server.apply(slice("good", "good-1", 8080, &[pod(9)]));
    follower.until_replicas(&["chat-0", "chat-1", "chat-9"]).await?;
    let problems = |f: &Follower| f.state().get().problems;
    follower.until("the problem", |f| problems(f).len() == 1).await?;
    let Problem { service, reason, .. } = &problems(&follower)[0];
    assert_eq!((service.name.as_str(), *reason), ("bad", Reason::InvalidAnnotation));
    server.change("services", "default", "bad", |object| {
        object["metadata"]["annotations"]["roost.rs/policy"] = json!("spread");
    });
    follower.until_replicas(&["chat-0", "chat-1", "chat-8", "chat-9"]).await?;
    assert_eq!(problems(&follower), []);
    Ok(())
}

#[tokio::test]
async fn more_than_there_is_room_for_is_a_problem_of_its_own() -> Result<()> {
    let server = server()?;
    let mut follower = follower(&server).await?;
    for n in 0..9u8 {
        server.apply(service(&format!("s{n}"), &[Ipv4Addr::new(192, 0, 2, 20 + n).into()]));
    }
    follower.until("eight services", |f| f.maps.services.len() == 8).await?;
    follower.until("the problems", |f| f.state().get().problems.len() == 2).await?;
    let problems = follower.state().get().problems;
    assert!(
        problems.iter().all(|p| p.reason == Reason::NoRoom && !p.uid.is_empty()),
        "{problems:?}"
    );
    assert_eq!(follower.replicas(), ["chat-0", "chat-1"]);
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_said() -> Result<()> {
    let server = server()?;
    let dir = tempfile::tempdir()?;
    let path = server.kubeconfig(dir.path())?;
    let text = std::fs::read_to_string(&path)?.replace(roost_tests::kube::TOKEN, "wrong");
    std::fs::write(&path, text)?;
    let client = roost::kube::client(Some(&path), None).await?;
    let options = Options { hold: Duration::ZERO, ..options() };
    let source = Source::start(client, options, []);
    let end = Instant::now() + LIMIT;
    loop {
        let error = source.state().get().kind(Kind::Services).last_error.clone();
        if error.is_some_and(|error| error.contains("401") && error.contains("token")) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{:?}", source.state().get());
        sleep(Duration::from_millis(10)).await;
    }
}

/// The model does not know of the cluster: what a file would say is the same.
#[tokio::test]
async fn names_and_settings_are_those_of_the_service() -> Result<()> {
    let server = server()?;
    let mut follower = Follower::start(&server, Published::default(), LIMIT).await?;
    timeout(LIMIT, follower.source.changed()).await??;
    let publication = follower.source.take(Claims::new());
    let [service] = &publication.services[..] else { panic!("{publication:?}") };
    assert_eq!(service.name, "default/chat:ws");
    assert_eq!(service.policy, config::Policy::Home);
    assert_eq!(service.replicas[0].port, 8080);
    Ok(())
}
