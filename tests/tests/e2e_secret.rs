//! Keys in a Secret: handshakes and chats while they are rotated, replaced, deleted and read again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_chat::client::{Tab, load};
use roost_tests::kube::{ApiServer, Endpoint, NODE, node, service, slice};
use roost_tests::lab::{
    ChatServer, Clients, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, heavy, run_in, try_until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "roost-system";

struct Cluster {
    roost: Roost,
    api: ApiServer,
    _servers: Vec<ChatServer>,
    lab: Lab,
}

impl Cluster {
    fn start(name: &str) -> Result<Self> {
        let lab = Lab::builder(name).replicas(3).build()?;
        let servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
        let api = ApiServer::start(lab.node.listen("127.0.0.1:0".parse()?)?)?;
        api.apply(node(NODE, &lab.node_addrs()));
        api.apply(service("chat", &[lab.vip(Family::V4)]));
        let pods = lab.replicas.iter().enumerate();
        let pods: Vec<_> = pods
            .map(|(n, site)| Endpoint::ready(&format!("chat-{n}"), site.addr(Family::V4)))
            .collect();
        api.apply(slice("chat", "chat-1", REPLICA_PORT, &pods));
        let kubeconfig = api.kubeconfig(lab.dir())?;
        let arguments: [&OsStr; 9] = [
            "--kubernetes".as_ref(),
            "--kubeconfig".as_ref(),
            kubeconfig.as_ref(),
            "--node-name".as_ref(),
            NODE.as_ref(),
            "--namespace".as_ref(),
            NAMESPACE.as_ref(),
            "--secret".as_ref(),
            "roost".as_ref(),
        ];
        let roost = Roost::start_with(&lab, Some("interfaces = [\"eth0\"]\n"), &arguments)?;
        let cluster = Self { roost, api, _servers: servers, lab };
        cluster.wait()?;
        Ok(cluster)
    }

    fn vip(&self) -> SocketAddr {
        (self.lab.vip(Family::V4), VIP_PORT).into()
    }

    /// Waits until all replicas are used.
    fn wait(&self) -> Result<()> {
        try_until(LIMIT, "three replicas", || {
            let services = self.roost.json(&["services"])?;
            Ok((services[0]["usable"] == 3).then_some(()))
        })
    }

    /// The keys of the maps, by their fingerprints.
    fn keys(&self) -> Result<[Value; 3]> {
        let entries = self.roost.json(&["maps", "dump", "SECRETS"])?;
        let text = entries.to_string();
        let value = find(&entries, "handshake_before").with_context(|| text)?;
        Ok(["handshake", "handshake_before", "chat"].map(|name| value[name].clone()))
    }

    fn until_keys(&self, what: &str, ready: impl Fn(&[Value; 3]) -> bool) -> Result<[Value; 3]> {
        try_until(LIMIT, what, || Ok(Some(self.keys()?).filter(&ready)))
    }

    fn data(&self) -> BTreeMap<String, String> {
        let secret = self.api.get("secrets", NAMESPACE, "roost").unwrap_or_default();
        let data = secret["data"].as_object().into_iter().flatten();
        data.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
    }

    /// As another daemon of the cluster does it.
    fn write(&self, change: impl FnOnce(&mut Value)) {
        self.api.change("secrets", NAMESPACE, "roost", |secret| change(&mut secret["data"]));
    }

    /// Clients whose handshake is done, and who have not said anything.
    fn in_flight(&self) -> Result<Vec<TcpStream>> {
        let connect = |_| self.lab.client.connect(self.vip());
        (0..10).map(connect).collect::<std::io::Result<_>>().context("connecting")
    }
}

/// The object that has a field, wherever it is.
fn find<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) if object.contains_key(field) => Some(value),
        Value::Object(object) => object.values().find_map(|value| find(value, field)),
        Value::Array(array) => array.iter().find_map(|value| find(value, field)),
        _ => None,
    }
}

/// A key as it is in a Secret.
fn key(digit: char) -> Value {
    json!(data_encoding::BASE64.encode(digit.to_string().repeat(32).as_bytes()))
}

/// They say something now.
fn go_on(clients: &Clients, streams: Vec<TcpStream>, chat: &str) -> Result<Vec<Tab>> {
    let open = |stream| clients.run(Tab::from_stream(stream, "chat.example", chat));
    streams.into_iter().map(open).collect()
}

fn one_home(tabs: &[Tab]) -> Result<()> {
    let first = tabs[0].replica();
    ensure!(tabs.iter().all(|tab| tab.replica() == first), "the chat is split");
    Ok(())
}

#[test]
fn a_rotation_breaks_no_handshake_and_moves_no_chat() -> Result<()> {
    let _heavy = heavy()?;
    let cluster = Cluster::start("secret-rotate")?;
    let clients = Clients::new(&cluster.lab.client)?;
    let vip = cluster.vip();
    let said = cluster.data();
    ensure!(said.len() == 2 && said.contains_key("handshake"), "{:?}", said.keys());
    let plan = load::Plan::new(vip, 30, 30);
    let mut live = clients.run(load::open(&plan));
    let homes: BTreeMap<String, String> =
        live.tabs().iter().map(|t| (t.hello().chat.clone(), t.replica().to_owned())).collect();
    ensure!(homes.len() == 30, "{:?}", live.opened().errors);

    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        // Clients connect all the time.
        let connecting = scope.spawn(|| -> Result<usize> {
            let clients = Clients::new(&cluster.lab.client)?;
            let mut opened = 0;
            while !stop.load(Ordering::Relaxed) {
                for (chat, home) in &homes {
                    let tab = clients.tab(vip, chat)?;
                    ensure!(tab.replica() == home, "{chat}: {} instead of {home}", tab.replica());
                    opened += 1;
                }
            }
            Ok(opened)
        });
        let steps = || -> Result<()> {
            let mut handshake = said["handshake"].clone();
            for round in ["a", "b", "c"] {
                let [used, replaced, chat] = cluster.keys()?;
                let before = cluster.in_flight()?;
                let next = key(round.chars().next().context("a digit")?);
                cluster.write(|data| {
                    data["handshake-next"] = next.clone();
                    data.as_object_mut().expect("an object").remove("handshake-before");
                });
                // Not yet the one of the last round.
                let [_, announced, _] = cluster.until_keys("the next key", |[now, also, _]| {
                    now == &used && also != now && also != &replaced
                })?;
                let between = cluster.in_flight()?;
                cluster.write(|data| {
                    data["handshake"] = next.clone();
                    data["handshake-before"] = json!(handshake);
                    data.as_object_mut().expect("an object").remove("handshake-next");
                });
                cluster.until_keys("its use", |keys| {
                    *keys == [announced.clone(), used.clone(), chat.clone()]
                })?;
                let after = cluster.in_flight()?;
                for streams in [before, between, after] {
                    one_home(&go_on(&clients, streams, &format!("round-{round}"))?)?;
                }
                handshake = next.as_str().context("a key")?.to_owned();
            }
            Ok(())
        };
        let result = steps();
        stop.store(true, Ordering::Relaxed);
        let opened = connecting.join().expect("no panic");
        // It says more than clients for whom ports were too few by then.
        result?;
        let opened = opened?;
        ensure!(opened >= homes.len(), "only {opened} connections");
        Ok(())
    })?;
    for tab in live.tabs() {
        clients.run(tab.ping(LIMIT))?;
    }
    Ok(())
}

#[test]
fn a_secret_that_is_replaced_or_deleted_breaks_no_handshake() -> Result<()> {
    let mut cluster = Cluster::start("secret-hand")?;
    let clients = Clients::new(&cluster.lab.client)?;
    let [used, _, chat] = cluster.keys()?;
    let streams = cluster.in_flight()?;
    cluster.write(|data| data["handshake"] = key('d'));
    cluster.until_keys("the key", |[now, before, _]| *now != used && *before == used)?;
    one_home(&go_on(&clients, streams, "by-hand")?)?;

    let (keys, said) = (cluster.keys()?, cluster.data());
    let streams = cluster.in_flight()?;
    cluster.api.delete("secrets", NAMESPACE, "roost");
    try_until(
        LIMIT,
        "the Secret to be there again",
        || Ok((cluster.data() == said).then_some(())),
    )?;
    cluster.roost.process().wait_line(LIMIT, "created anew, with the same keys")?;
    ensure!(cluster.keys()? == keys && keys[2] == chat, "the keys have changed");
    one_home(&go_on(&clients, streams, "deleted")?)?;

    // Malformed: said in the log, without the value.
    cluster.write(|data| data["chats"] = json!(data_encoding::BASE64.encode(b"0123abcd")));
    cluster.roost.process().wait_line(LIMIT, "data.chats has 8 bytes")?;
    ensure!(!cluster.roost.process().log().contains("0123abcd"), "a key is in the log");
    ensure!(cluster.keys()? == keys, "the keys have changed");
    cluster.write(|data| data["chats"] = key('e'));
    cluster.until_keys("the chat key", |[.., now]| *now != chat)?;
    cluster.roost.process().wait_line(LIMIT, "the chat key has changed")?;
    Ok(())
}

#[test]
fn new_maps_have_the_keys_of_the_secret_from_the_first_packet_on() -> Result<()> {
    let mut cluster = Cluster::start("secret-new")?;
    let clients = Clients::new(&cluster.lab.client)?;
    let keys = cluster.keys()?;
    let home = clients.tab(cluster.vip(), "room")?.replica().to_owned();
    cluster.roost.kill();
    let detach = |cluster: &Cluster| {
        let pin_dir = cluster.roost.pin_dir().display().to_string();
        run_in(&cluster.lab.node, cluster.roost.binary(), &["detach", "--pin-dir", &pin_dir])
    };
    detach(&cluster)?;
    cluster.roost.restart()?;
    // It is ready: nothing is waited for.
    let [handshake, _, chat] = cluster.keys()?;
    ensure!(handshake == keys[0] && chat == keys[2], "other keys");
    cluster.wait()?;
    ensure!(clients.tab(cluster.vip(), "room")?.replica() == home, "the chat has moved");

    // Without an API server they are random, until it is there.
    cluster.roost.kill();
    detach(&cluster)?;
    cluster.api.stop();
    cluster.roost.restart()?;
    cluster.roost.process().wait_line(LIMIT, "the keys are random until it is")?;
    let [.., random] = cluster.keys()?;
    ensure!(random != chat, "no other key");
    let at = std::sync::Arc::clone(&cluster.lab.node);
    cluster.api.restart(|address| at.listen(address))?;
    cluster
        .until_keys("the keys of the Secret", |[now, _, of]| *now == handshake && *of == chat)?;
    cluster.roost.process().wait_line(LIMIT, "the chat key has changed")?;

    // Keys from two places.
    cluster.roost.write_config("interfaces = [\"eth0\"]\n[secrets]\nchat_file = \"/key\"\n")?;
    let line = cluster.roost.process().wait_line(LIMIT, "secrets.chat_file")?;
    ensure!(line.contains("--secret roost"), "{line}");
    cluster.roost.process().wait_line(LIMIT, "the changed file was not applied")?;
    Ok(())
}
