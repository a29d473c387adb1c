//! The Secret with the cluster's keys, against a server that speaks the API.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use roost::{
    kube::{Keeper, Kind, SecretOptions, SecretStatus},
    maps::secrets::{Key, Keys},
};
use roost_tests::kube::{ApiServer, Fault, bind_again};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// Longer than anything takes, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "roost-system";
const NAME: &str = "roost";

/// Nothing is due while a test runs.
fn slow() -> SecretOptions {
    SecretOptions::new(NAME, Some(Duration::from_secs(24 * 3600)))
}

/// Much is due while a test runs.
fn quick() -> SecretOptions {
    SecretOptions {
        rotate: Some(Duration::from_millis(400)),
        stage: Duration::from_millis(200),
        hold: Duration::from_millis(100),
        spread: Duration::from_millis(50),
        ..slow()
    }
}

fn keys(n: u64) -> Keys {
    Keys { handshake: [n, 1], handshake_before: [n, 1], chat: [n, 2] }
}

fn text(key: Key) -> String {
    format!("{:016x}{:016x}", key[0], key[1])
}

/// A daemon's part.
async fn keep(server: &ApiServer, options: SecretOptions, keys: Keys) -> Result<Keeper> {
    let dir = tempfile::tempdir()?;
    let kubeconfig = server.kubeconfig(dir.path())?;
    let client = roost::kube::client(Some(&kubeconfig), Some(NAMESPACE)).await?;
    Ok(Keeper::start(client, options, keys))
}

fn secret(data: &[(&str, &str)]) -> Value {
    let encode = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let data: BTreeMap<_, _> = data.iter().map(|(name, value)| (*name, encode(value))).collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data,
    })
}

/// A Secret with these keys.
fn secret_of(keys: Keys) -> Value {
    secret(&[("handshake", &text(keys.handshake)), ("chats", &text(keys.chat))])
}

/// What a Secret says.
fn data_of(secret: &Value) -> BTreeMap<String, String> {
    let data = secret["data"].as_object().into_iter().flatten();
    let text = |value: &Value| {
        let bytes = data_encoding::BASE64.decode(value.as_str()?.as_bytes()).ok()?;
        String::from_utf8(bytes).ok()
    };
    data.map(|(name, value)| (name.clone(), text(value).unwrap_or_default())).collect()
}

/// What the server's says.
fn data(server: &ApiServer) -> BTreeMap<String, String> {
    server.get("secrets", NAMESPACE, NAME).as_ref().map(data_of).unwrap_or_default()
}

/// Waits for something of a keeper's.
async fn until(
    keeper: &mut Keeper,
    what: &str,
    ready: impl Fn(Keys, &SecretStatus) -> bool,
) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !ready(keeper.keys(), &keeper.state().get()) {
        ensure!(Instant::now() < end, "waited {LIMIT:?} for {what}: {:?}", keeper.state());
        if let Ok(changed) = timeout(Duration::from_millis(20), keeper.changed()).await {
            changed?;
        }
    }
    Ok(())
}

/// Waits until a keeper watches.
async fn watches(keeper: &mut Keeper) -> Result<()> {
    let watch = keeper.state().watch().clone();
    until(keeper, "a watch", |_, _| watch.get().kind(Kind::Secrets).is_connected).await
}

#[tokio::test]
async fn the_first_creates_it_with_the_keys_of_its_maps() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    let mut keeper = keep(&server, slow(), keys(1)).await?;
    assert!(keeper.first(LIMIT).await);
    assert!(keeper.keys() == keys(1));
    let created = server.get("secrets", NAMESPACE, NAME).expect("a Secret");
    let wanted = [("chats", text([1, 2])), ("handshake", text([1, 1]))];
    assert_eq!(data_of(&created), wanted.map(|(k, v)| (k.to_owned(), v)).into());
    assert_eq!(created["type"], "Opaque");
    assert_eq!(created["metadata"]["labels"]["app.kubernetes.io/managed-by"], "roost");
    let at = created["metadata"]["annotations"]["roost.rs/rotated-at"].as_str().unwrap_or_default();
    assert!(at.parse::<k8s_openapi::jiff::Timestamp>().is_ok() && at.ends_with('Z'), "{at}");

    // Another comes, with other keys.
    let mut other = keep(&server, slow(), keys(2)).await?;
    assert!(other.first(LIMIT).await);
    assert!(other.keys() == Keys { handshake_before: [2, 1], ..keys(1) });
    watches(&mut keeper).await?;
    watches(&mut other).await?;
    // What is asked for is what the Role has to allow, and no more.
    for request in server.requests() {
        assert_eq!(request.resource, "secrets");
        match request.verb.as_str() {
            "create" => assert_eq!(request.object, NAMESPACE),
            "list" | "watch" => {
                assert_eq!(request.object, NAMESPACE);
                assert_eq!(request.query["fieldSelector"], format!("metadata.name={NAME}"));
            }
            verb => assert!(["get", "update"].contains(&verb), "{verb}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn daemons_that_start_at_once_end_with_the_same_keys() -> Result<()> {
    for _ in 0..5 {
        let server = ApiServer::on_loopback()?;
        let mut keepers = Vec::new();
        for n in 1..5 {
            keepers.push(keep(&server, slow(), keys(n)).await?);
        }
        for keeper in &mut keepers {
            assert!(keeper.first(LIMIT).await);
        }
        let said = data(&server);
        for keeper in &mut keepers {
            let Keys { handshake, chat, .. } = keeper.keys();
            assert_eq!((&said["handshake"], &said["chats"]), (&text(handshake), &text(chat)));
        }
        let writes: u64 = keepers.iter().map(|keeper| keeper.state().get().writes).sum();
        assert_eq!(writes, 1);
        assert!(keepers.iter().all(|keeper| keeper.state().get().errors == 0));
    }
    Ok(())
}

#[tokio::test]
async fn a_list_that_is_empty_by_fault_overwrites_nothing() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    server.apply(secret_of(keys(1)));
    server.lists_come_back_empty("secrets", true);
    let mut keeper = keep(&server, slow(), keys(2)).await?;
    assert!(keeper.first(LIMIT).await);
    assert!(keeper.keys().handshake == [1, 1] && keeper.keys().chat == [1, 2]);
    assert_eq!(data(&server)["handshake"], text([1, 1]));
    assert!(server.requests().iter().any(|r| r.verb == "create" && r.status == 409));
    Ok(())
}

#[tokio::test]
async fn what_it_lacks_is_added_and_the_rest_stays() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    server.apply(secret(&[("chats", &text([7, 7])), ("mine", "stays")]));
    let mut keeper = keep(&server, slow(), keys(1)).await?;
    assert!(keeper.first(LIMIT).await);
    assert!(keeper.keys() == Keys { chat: [7, 7], ..keys(1) });
    let said = data(&server);
    assert_eq!((said["handshake"].as_str(), said["mine"].as_str()), (&*text([1, 1]), "stays"));
    assert_eq!(said["chats"], text([7, 7]));
    Ok(())
}

#[tokio::test]
async fn a_malformed_one_changes_nothing_until_it_is_mended() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    server.apply(secret(&[("handshake", "0123456789abcdefXYZ"), ("chats", &text([7, 7]))]));
    let mut keeper = keep(&server, quick(), keys(1)).await?;
    until(&mut keeper, "the problem", |_, state| state.problem.is_some()).await?;
    let problem = keeper.state().get().problem.unwrap_or_default();
    assert!(problem.contains("data.handshake has 19 bytes"), "{problem}");
    assert!(!problem.contains("XYZ"), "{problem}");
    assert!(keeper.keys() == keys(1) && !keeper.state().get().is_read);
    server.apply(secret_of(keys(2)));
    until(&mut keeper, "the keys", |keys, state| keys.chat == [2, 2] && state.is_read).await?;
    // Again, by an event.
    server.change("secrets", NAMESPACE, NAME, |secret| secret["data"]["chats"] = json!("AAAA"));
    until(&mut keeper, "the problem", |_, state| state.problem.is_some()).await?;
    assert!(keeper.keys().chat == [2, 2]);
    assert_eq!(data(&server)["chats"], "\0\0\0", "nothing is written over it");
    Ok(())
}

#[tokio::test]
async fn a_deleted_one_comes_back_with_the_same_keys() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    let mut both = [keep(&server, slow(), keys(1)).await?, keep(&server, slow(), keys(2)).await?];
    for keeper in &mut both {
        assert!(keeper.first(LIMIT).await);
        watches(keeper).await?;
    }
    let before = (data(&server), both[0].keys(), both[1].keys());
    for round in 1..4 {
        server.delete("secrets", NAMESPACE, NAME);
        let end = Instant::now() + LIMIT;
        while data(&server).is_empty() {
            ensure!(Instant::now() < end, "it is not created anew in round {round}");
            sleep(Duration::from_millis(10)).await;
        }
        let events = |keeper: &Keeper| keeper.state().watch().get().kind(Kind::Secrets).events;
        for keeper in &mut both {
            let watch = keeper.state().watch().clone();
            let seen = move || watch.get().kind(Kind::Secrets).events;
            until(keeper, "the events", |_, state| seen() >= 2 * round && state.is_read).await?;
        }
        assert!(both.iter().all(|keeper| events(keeper) >= 2 * round));
        assert!((data(&server), both[0].keys(), both[1].keys()) == before);
    }
    Ok(())
}

#[tokio::test]
async fn a_key_replaced_by_hand_is_taken_and_the_old_one_accepted() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    let mut keeper = keep(&server, slow(), keys(1)).await?;
    assert!(keeper.first(LIMIT).await);
    watches(&mut keeper).await?;
    server.change("secrets", NAMESPACE, NAME, |secret| {
        let key = data_encoding::BASE64.encode(format!("{}\n", text([5, 5])).as_bytes());
        secret["data"]["handshake"] = json!(key);
    });
    until(&mut keeper, "the key", |keys, _| keys.handshake == [5, 5]).await?;
    assert!(keeper.keys() == Keys { handshake: [5, 5], handshake_before: [1, 1], chat: [1, 2] });
    // Whoever comes later has them, too.
    let mut other = keep(&server, slow(), keys(2)).await?;
    assert!(other.first(LIMIT).await && other.keys().handshake == [5, 5]);
    Ok(())
}

#[tokio::test]
async fn rotations_are_staged_and_each_step_is_taken_by_one() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    let mut keepers = Vec::new();
    for n in 1..4 {
        keepers.push(keep(&server, quick(), keys(n)).await?);
    }
    for keeper in &mut keepers {
        assert!(keeper.first(LIMIT).await);
    }
    let chats = data(&server)["chats"].clone();
    let steps = |server: &ApiServer| -> Vec<_> {
        let requests = server.requests().into_iter();
        let written =
            requests.filter(|r| ["create", "update"].contains(&&*r.verb) && r.status < 300);
        written.map(|r| data_of(&r.body)).collect()
    };
    // Homes stay where they are all the time.
    let end = Instant::now() + LIMIT;
    while steps(&server).len() < 9 {
        ensure!(Instant::now() < end, "{:?}", server.requests().len());
        sleep(Duration::from_millis(10)).await;
        for keeper in &mut keepers {
            let keys = keeper.keys();
            assert_eq!(text(keys.chat), chats);
        }
    }
    for pair in steps(&server).windows(2) {
        let [old, new] = pair else { unreachable!() };
        assert_eq!(new["chats"], chats);
        match old.get("handshake-next") {
            None => {
                assert_eq!(new["handshake"], old["handshake"]);
                assert!(
                    new.contains_key("handshake-next") && !new.contains_key("handshake-before")
                );
                assert_ne!(new["handshake-next"], old["handshake"]);
            }
            Some(next) => {
                assert_eq!(
                    (&new["handshake"], &new["handshake-before"]),
                    (next, &old["handshake"])
                );
                assert!(!new.contains_key("handshake-next"));
            }
        }
    }
    for keeper in &keepers {
        let state = keeper.state().get();
        assert_eq!((state.errors, state.last_error), (0, None));
    }
    Ok(())
}

#[tokio::test]
async fn what_may_not_be_done_is_said_and_tried_again() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    server.forbid("create", "secrets", true);
    let mut keeper = keep(&server, slow(), keys(1)).await?;
    until(&mut keeper, "the refusal", |_, state| {
        state.last_error.as_ref().is_some_and(|e| e.contains("403") && e.contains("create"))
    })
    .await?;
    assert!(keeper.keys() == keys(1) && !keeper.state().get().is_read);
    server.forbid("create", "secrets", false);
    assert!(keeper.first(LIMIT).await);
    assert_eq!(keeper.state().get().last_error, None);
    drop(keeper);

    server.forbid("list", "secrets", true);
    let mut keeper = keep(&server, slow(), keys(2)).await?;
    let watch = keeper.state().watch().clone();
    let error = move || watch.get().kind(Kind::Secrets).last_error.clone().unwrap_or_default();
    until(&mut keeper, "the refusal", |_, _| error().contains("403")).await?;
    assert!(keeper.keys() == keys(2));
    server.forbid("list", "secrets", false);
    assert!(keeper.first(LIMIT).await && keeper.keys().chat == [1, 2]);

    // A rotation that may not be written is tried again, and the keys stay good.
    server.forbid("update", "secrets", true);
    let mut keeper = keep(&server, quick(), keys(3)).await?;
    until(&mut keeper, "the refusal", |_, state| state.errors >= 2).await?;
    assert!(keeper.keys().handshake == [1, 1]);
    server.forbid("update", "secrets", false);
    until(&mut keeper, "a rotation", |keys, _| keys.handshake != [1, 1]).await
}

#[tokio::test]
async fn a_conflict_is_looked_at_again() -> Result<()> {
    let server = ApiServer::on_loopback()?;
    server.apply(secret_of(keys(1)));
    server.fail(Fault { verb: "update", plural: "secrets", status: 409, times: 2 });
    let mut keeper = keep(&server, quick(), keys(2)).await?;
    until(&mut keeper, "a rotation", |keys, _| keys.handshake != [1, 1] && keys.chat == [1, 2])
        .await?;
    assert_eq!(keeper.state().get().errors, 0);
    Ok(())
}

#[tokio::test]
async fn without_a_server_the_keys_hold() -> Result<()> {
    let mut server = ApiServer::on_loopback()?;
    server.apply(secret_of(keys(1)));
    server.stop();
    let mut keeper = keep(&server, slow(), keys(2)).await?;
    assert!(!keeper.first(Duration::from_millis(500)).await);
    assert!(keeper.keys() == keys(2));
    server.restart(bind_again)?;
    assert!(keeper.first(LIMIT).await);
    assert!(keeper.keys() == Keys { handshake_before: [2, 1], ..keys(1) });
    // It goes away, forgets, and comes back.
    watches(&mut keeper).await?;
    server.stop();
    server.compact();
    server.apply(secret_of(keys(3)));
    assert!(keeper.keys().chat == [1, 2]);
    server.restart(bind_again)?;
    until(&mut keeper, "the keys", |keys, _| keys.chat == [3, 2]).await?;
    assert!(keeper.keys().handshake_before == [1, 1]);
    Ok(())
}
