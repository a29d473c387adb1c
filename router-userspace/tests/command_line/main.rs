//! The command line on pinned maps, with no daemon and no traffic: what was put into the maps comes
//! out readable. Needs root and a bpffs.

mod pinned;

use std::path::Path;

use roost_programs::built;
use router_ebpf::maps::SLOT_COUNT;
use serde_json::{Value, json};

use pinned::{BPFFS, Pinned, SECRET, hash, hex, part, stderr};

#[test]
fn lists_say_what_is_in_the_maps() {
    let pinned = Pinned::filled("lists");

    let services = pinned.json(&["services"]);
    assert_eq!(services[0]["service"], "rooms");
    assert_eq!(services[0]["addresses"], json!(["192.0.2.1"]));
    assert_eq!(services[0]["port"], 80);
    assert_eq!(services[0]["key_sources"], json!(["query:chat"]));
    assert_eq!(services[0]["on_missing_key"], "reject");
    assert_eq!(services[0]["digest"], "0000000000d19e57");

    let replicas = pinned.json(&["replicas"]);
    assert_eq!(replicas[0]["replica"], "r0");
    assert_eq!(replicas[0]["slots"], SLOT_COUNT - 100);
    assert_eq!(replicas[1]["addresses"], json!(["10.0.0.11", "fd00::1"]));
    assert_eq!(replicas[1]["port"], 8080);
    assert_eq!(replicas[1]["state"], "draining");
    assert_eq!(replicas[1]["slots"], 100);
    assert_eq!((&replicas[1]["chats"], &replicas[1]["flows"]), (&json!(1), &json!(1)));

    let chats = pinned.json(&["chats", "--service", "rooms", "--key", "42"]);
    assert_eq!(chats[0]["home"], "r1");
    assert_eq!(chats[0]["flows"], 1);
    assert_eq!(chats[0]["key_source"], "query");
    assert_eq!(chats[0]["cookie"], format!("{:016x}", hash("42")));
    assert_eq!(pinned.json(&["chats", "--key", "43"]), json!([]));
    assert_eq!(pinned.text(&["chats", "--key", "43"]), "no chats\n");

    let flows = pinned.json(&["flows"]);
    assert_eq!(flows[0]["client"], "198.51.100.7:40000");
    assert_eq!(flows[0]["vip"], "192.0.2.1:80");
    assert_eq!((&flows[0]["chat"], &flows[0]["replica"]), (&json!("42"), &json!("r1")));
    assert_eq!(flows[0]["state"], "established");
    let ms = |field: &str| flows[0][field].as_u64().unwrap();
    assert_eq!(ms("ends_in_ms"), (3 * 3_600_000_u64).saturating_sub(ms("idle_ms")));

    let counters = pinned.json(&["counters"]);
    assert_eq!(counters.as_array().unwrap().len(), 1, "zeros are left out");
    assert_eq!(counters[0]["counter"], "bound");
    let cpus = aya::util::nr_cpus().unwrap();
    assert_eq!(counters[0]["packets"], 2 * cpus, "summed over CPUs");

    let text = pinned.text(&["flows"]);
    assert!(text.starts_with("CLIENT "), "no colours in a pipe: {text:?}");
}

#[test]
fn sources_are_listed_by_what_they_hold() {
    let pinned = Pinned::filled("sources");
    let clients = [
        ("198.51.100.9", 1),
        ("203.0.113.1", 1),
        ("203.0.113.1", 2),
        ("203.0.113.2", 1),
        ("2001:db8::1", 1),
        ("2001:db8::2", 1),
    ];
    pinned.hold(&[("2001:db8::", 64), ("203.0.113.1", 128)], &clients);
    let line = |source: &str, flows: u64, chats: u64, trusted: bool| json!({"source": source, "flows": flows, "chats": chats, "trusted": trusted});
    let lines = [
        line("203.0.113.0/24", 3, 0, false),
        line("198.51.100.0/24", 2, 1, false),
        line("2001:db8::/64", 2, 0, true),
    ];
    assert_eq!(pinned.json(&["sources"]), json!(lines));
    assert_eq!(pinned.json(&["sources", "--top", "1"]), json!(lines[..1]));
    assert!(pinned.text(&["sources"]).starts_with("SOURCE "));
    let services = pinned.json(&["services"]);
    assert_eq!((&services[0]["flows"], &services[0]["chats"]), (&json!(7), &json!(1)));
}

#[test]
fn dumps_are_typed_and_keep_secrets() {
    let pinned = Pinned::filled("dumps");

    let dump = pinned.json(&["maps", "dump", "chats"]);
    let expected = json!([{"map": "CHATS", "entries": [{
        "key": {"service": 1, "cookie": format!("{:016x}", hash("42"))},
        "value": {"key": "42", "source": "query", "home": 1, "flows": 1, "since": 1, "ended_at": 0,
            "counted": false},
    }]}]);
    assert_eq!(dump, expected);

    let all = pinned.json(&["maps", "dump"]);
    let maps: Vec<&str> =
        all.as_array().unwrap().iter().map(|m| m["map"].as_str().unwrap()).collect();
    let expected = [
        "VIPS",
        "SERVICES",
        "SOURCE_RANGES",
        "REPLICAS",
        "CHAT_COOKIES",
        "CHATS",
        "PENDING",
        "STASH",
        "CHUNKS",
        "FLOWS",
        "FLOWS_BACK",
        "ENDED",
        "ENDED_BACK",
        "RINGS",
        "LOADS",
        "SHARES",
        "SHARING",
        "TRUSTED",
        "MACS",
        "LINKS",
        "HOST",
        "STAND_INS",
        "STANDS_FOR",
        "HOST_SOURCES",
        "PROBLEMS",
        "SECRETS",
        "COUNTERS",
        "SCHEMA",
    ];
    assert_eq!(maps, expected, "SLOTS only when asked for, and no queue");
    for printed in [all.to_string(), pinned.text(&["maps", "dump"])] {
        for word in SECRET {
            assert!(!printed.contains(&word.to_string()), "a secret in clear");
            assert!(!printed.contains(&format!("{word:x}")), "a secret in clear");
        }
    }

    let slots = pinned.json(&["maps", "dump", "SLOTS"]);
    assert_eq!(slots[0]["entries"].as_array().unwrap().len(), SLOT_COUNT as usize);

    let loads = pinned.json(&["maps", "dump", "LOADS"]);
    let load = json!({"key": {"replica": 1}, "value": {"flows": 1, "chats": 1}});
    assert_eq!(loads[0]["entries"][1], load);

    let list = pinned.json(&["maps", "list"]);
    let map = |name: &str| {
        let mut lines = list.as_array().unwrap().iter();
        lines.find(|map| map["name"] == name).unwrap().clone()
    };
    let flows = map("FLOWS");
    assert_eq!(flows["kind"], "hash");
    assert_eq!((&flows["key_size"], &flows["value_size"]), (&json!(36), &json!(96)));
    assert_eq!((&flows["entries"], &flows["max_entries"]), (&json!(1), &json!(8)));
    let ring = map("FLOW_RING");
    assert_eq!((&ring["kind"], &ring["key_size"]), (&json!("queue"), &json!(0)));
    assert_eq!((&ring["entries"], &ring["max_entries"]), (&Value::Null, &json!(16)));
    let output = pinned.roost(&["maps", "dump", "FLOW_RING"]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("to read an entry of it is to take it"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn chats_are_bound_and_pinned() {
    let pinned = Pinned::filled("chat");
    assert_eq!(pinned.text(&["chat", "list"]), "no chat is bound, pinned or spread\n");

    pinned.text(&["chat", "bind", "rooms", "guest", "--chat", "42"]);
    pinned.text(&["chat", "pin", "rooms", "42", "--replica", "r0"]);
    pinned.text(&["chat", "width", "rooms", "hall", "2"]);
    let list = pinned.json(&["chat", "list", "--service", "rooms"]);
    let lines: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            (
                line["chat"].as_str().unwrap(),
                line["key"].as_str().unwrap(),
                line["replica"].as_str(),
                line["width"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected =
        [("42", "42", Some("r0"), 1), ("42", "guest", None, 1), ("hall", "hall", None, 2)];
    assert_eq!(lines, expected);
    assert_eq!(list[0]["cookie"], list[1]["cookie"], "one chat");

    // The cookie is what the kernel program computes for `?chat=42`.
    let dump = pinned.json(&["maps", "dump", "CHAT_COOKIES"]);
    let hash = format!("{:016x}", hash("42"));
    let entries = dump[0]["entries"].as_array().unwrap();
    assert!(entries.iter().any(|entry| entry["key"]["key_hash"] == hash.as_str()));

    let refused = [
        (&["chat", "bind", "rooms", "hall", "--chat", "42"][..], "is pinned or has a width"),
        (&["chat", "pin", "rooms", "42", "--replica", "r9"], "has no replica `r9`; it has: r0, r1"),
        (&["chat", "pin", "room", "42", "--replica", "r0"], "no service `room`; there are: rooms"),
        (&["chat", "unbind", "rooms", "42"], "not bound"),
        (&["chat", "list", "--service", "room"], "no service `room`; there are: rooms"),
        (&["flows", "--service", "room"], "no service `room`; there are: rooms"),
    ];
    for (arguments, reason) in refused {
        let output = pinned.roost(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains(reason), "{arguments:?}: {}", stderr(&output));
    }

    pinned.text(&["chat", "unbind", "rooms", "guest"]);
    pinned.text(&["chat", "unpin", "rooms", "42"]);
    pinned.text(&["chat", "width", "rooms", "hall", "1"]);
    assert_eq!(pinned.json(&["chat", "list"]), json!([]));
}

#[test]
fn live_flows_that_stay_elsewhere_are_said() {
    let pinned = Pinned::filled("elsewhere");
    let notes = |arguments: &[&str]| {
        pinned.json(&[&["chat", "pin", "rooms"], arguments].concat())["notes"].clone()
    };
    assert_eq!(notes(&["42", "--replica", "r1"]), json!([]));
    let stays = json!(["chat `42` stays on r1 until its 1 live flows end"]);
    assert_eq!(notes(&["42", "--replica", "r0"]), stays);
    assert_eq!(notes(&["other", "--replica", "r0"]), json!([]));

    // The parts of a width that the chat has no more: before that it cannot be pinned.
    pinned.live(part("hall", 0), "hall", 0, 2);
    pinned.live(part("hall", 1), "hall", 1, 3);
    pinned.live(part("hall", 1023), "hall", 1, 4);
    let stay = json!(["7 live flows of `hall` stay on r1 until they end"]);
    assert_eq!(notes(&["hall", "--replica", "r0"]), stay);
    pinned.text(&["chat", "unpin", "rooms", "hall"]);
    let bound = pinned.json(&["chat", "bind", "rooms", "hall", "--chat", "42"]);
    assert_eq!(bound["notes"], json!(["9 live flows of `hall` stay on r0, r1 until they end"]));
}

#[test]
fn explain_follows_the_pipeline() {
    let pinned = Pinned::filled("explain");
    let explain =
        |arguments: &[&str]| pinned.json(&[&["explain", "--service", "rooms"], arguments].concat());

    let live = explain(&["--key", "42"]);
    assert_eq!((&live["why"], &live["replica"]), (&json!("live_home"), &json!("r1")));
    assert_eq!(live["chat"]["flows"], 1);
    assert_eq!(live["cookie"], format!("{:016x}", hash("42")));
    assert_eq!(live["slot"], hash("42") % u64::from(SLOT_COUNT));
    assert_eq!(live["replica_addresses"], json!(["10.0.0.11:8080", "[fd00::1]:8080"]));
    let tuple = explain(&["--key", "42", "--tuple", "198.51.100.7:40000,192.0.2.1:80"]);
    assert_eq!(tuple["replica_addresses"], json!(["10.0.0.11:8080"]));

    let slot = explain(&["--key", "other"]);
    let owner = if hash("other") % u64::from(SLOT_COUNT) < 100 { "r1" } else { "r0" };
    assert_eq!((&slot["why"], &slot["replica"]), (&json!("slot"), &json!(owner)));
    assert_eq!((&slot["chat"], &slot["overridden"]), (&Value::Null, &Value::Null));

    pinned.text(&["chat", "bind", "rooms", "guest", "--chat", "other"]);
    pinned.text(&["chat", "pin", "rooms", "other", "--replica", "r1"]);
    let bound = explain(&["--key", "guest"]);
    assert_eq!((&bound["why"], &bound["replica"]), (&json!("pinned"), &json!("r1")));
    assert_eq!(bound["cookie"], slot["cookie"]);
    assert_eq!(bound["overridden"], json!({"chat": "other", "pinned_to": "r1", "width": null}));

    let none = explain(&["--tuple", "198.51.100.7:40000,192.0.2.1:80"]);
    assert_eq!((&none["why"], &none["replica"]), (&json!("rejected"), &Value::Null));

    let text = pinned.text(&["explain", "--service", "rooms", "--key", "42"]);
    let goes = "goes to    r1 at 10.0.0.11:8080 and [fd00::1]:8080: the chat lives there\n";
    assert!(text.ends_with(goes), "{text}");
    let output = pinned.roost(&["explain", "--service", "rooms", "--address", "192.0.2.9"]);
    assert!(stderr(&output).contains("an address is no key"), "{}", stderr(&output));
    let output = pinned.roost(&["explain", "--service", "rooms", "--tuple", "[::1]:1,[::2]:2"]);
    assert!(stderr(&output).contains("no IPv6 address"), "{}", stderr(&output));
}

#[test]
fn who_may_connect_is_shown() {
    let pinned = Pinned::filled("sources");
    assert_eq!(pinned.json(&["services"])[0]["allowed_sources"], Value::Null);
    assert!(pinned.text(&["services"]).contains("anywhere"));
    pinned.restrict(&[("198.51.100.0", 24, 1), ("203.0.113.0", 24, 1), ("203.0.113.0", 28, 0)]);
    let sources = json!(["198.51.100.0/24", "203.0.113.0/24"]);
    assert_eq!(pinned.json(&["services"])[0]["allowed_sources"], sources);
    assert!(pinned.text(&["services"]).contains("198.51.100.0/24 +1"));
    let dumped = pinned.json(&["maps", "dump", "SOURCE_RANGES"]);
    let entry = |prefix: &str, may: bool| json!({"key": {"service": 1, "list": "allowed_sources", "prefix": prefix}, "value": {"listed": may}});
    let entries = json!([
        entry("198.51.100.0/24", true),
        entry("203.0.113.0/24", true),
        entry("203.0.113.0/28", false),
    ]);
    assert_eq!(dumped[0]["entries"], entries);

    let explain = |client: &str| {
        let tuple = format!("{client}:40000,192.0.2.1:80");
        pinned.json(&["explain", "--service", "rooms", "--key", "42", "--tuple", &tuple])
    };
    assert_eq!(explain("198.51.100.7")["why"], "live_home");
    for refused in ["192.0.2.7", "203.0.113.1"] {
        let explained = explain(refused);
        assert_eq!((&explained["why"], &explained["replica"]), (&json!("source"), &Value::Null));
    }
    let arguments = ["explain", "--service", "rooms", "--key", "42"];
    let text = pinned.text(&[&arguments[..], &["--tuple", "192.0.2.7:1,192.0.2.1:80"]].concat());
    assert!(text.contains("goes to    nowhere: dropped, its client is none"), "{text}");
    assert!(pinned.text(&arguments).contains("note       not anybody may connect"));
}

#[test]
fn explain_reads_what_a_client_sends() {
    let pinned = Pinned::filled_by("heads", &["path:/rooms/{chat}/ws", "cookie:room", "client"]);
    let sources = json!(["path:/rooms/{chat}/ws", "cookie:room", "client"]);
    assert_eq!(pinned.json(&["services"])[0]["key_sources"], sources);
    let text = pinned.text(&["services"]);
    assert!(text.contains("path:/rooms/{chat}/ws, cookie:room, client"), "{text}");
    let explain =
        |arguments: &[&str]| pinned.json(&[&["explain", "--service", "rooms"], arguments].concat());

    let path = explain(&["--url", "ws://rooms.example/rooms/42/ws"]);
    assert_eq!(
        (&path["key"], &path["key_source"]),
        (&json!("42"), &json!("path:/rooms/{chat}/ws"))
    );
    assert_eq!((&path["why"], &path["cookie"]), (&json!("live_home"), &json!(hex("42"))));
    let cookie = explain(&["--url", "/", "--header", "Cookie: a=b; room=lobby"]);
    assert_eq!((&cookie["key"], &cookie["key_source"]), (&json!("lobby"), &json!("cookie:room")));

    let head = tempfile::NamedTempFile::new().unwrap();
    let explain_head = |bytes: &str, more: &[&str]| {
        std::fs::write(head.path(), bytes).unwrap();
        let file = ["--request", head.path().to_str().unwrap()];
        pinned.roost(&[&["explain", "--service", "rooms", "-o", "json"], &file[..], more].concat())
    };
    let found = |bytes: &str, more: &[&str]| -> Value {
        serde_json::from_slice(&explain_head(bytes, more).stdout).unwrap()
    };
    let whole = found("GET /rooms/42/ws HTTP/1.1\r\nHost: a\r\n\r\n", &[]);
    assert_eq!(whole["key_hash"], path["key_hash"]);
    let part = found("GET /rooms/42", &[]);
    assert_eq!((&part["why"], &part["replica"]), (&json!("incomplete"), &Value::Null));
    let tuple = ["--tuple", "198.51.100.7:40000,192.0.2.1:80"];
    let client = found("GET / HTTP/1.1\r\n\r\n", &tuple);
    assert_eq!((&client["key"], &client["key_source"]), (&json!("198.51.100.7"), &json!("client")));
    let output = explain_head("GET / HTTP/1.1\r\n\r\n", &[]);
    assert!(stderr(&output).contains("taken from `client`: give --tuple"), "{}", stderr(&output));
    let mut roost = built(env!("CARGO_BIN_EXE_roost")).unwrap();
    roost.args(["explain", "--service", "rooms", "-o", "json", "--request", "-", "--pin-dir"]);
    std::fs::write(head.path(), "GET /rooms/42/ws HTTP/1.1\r\n").unwrap();
    roost.arg(&pinned.dir).stdin(std::fs::File::open(head.path()).unwrap());
    let from_stdin: Value = serde_json::from_slice(&roost.output().unwrap().stdout).unwrap();
    assert_eq!(from_stdin["key"], "42", "the path is known before the head is");
    // From a proxy it begins with what that sends; what a client sends is the same as without.
    pinned.believe("198.51.100.0", 24);
    let proxied = found("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\nGET / HTTP/1.1\r\n\r\n", &tuple);
    assert_eq!(
        (&proxied["client"], &proxied["key"], &proxied["key_source"]),
        (&json!("203.0.113.7"), &json!("203.0.113.7"), &json!("client"))
    );
    let other = ["--tuple", "192.0.2.77:40000,192.0.2.1:80"];
    let direct = found("GET / HTTP/1.1\r\n\r\n", &other);
    assert_eq!((&direct["client"], &direct["key"]), (&Value::Null, &json!("192.0.2.77")));
    let without = found("GET / HTTP/1.1\r\n\r\n", &tuple);
    assert_eq!((&without["missing"], &without["key"]), (&json!("unreadable"), &Value::Null));
    let url = explain(&["--url", "ws://rooms.example/rooms/42/ws", tuple[0], tuple[1]]);
    assert_eq!(url["key"], "42");
    let output = pinned.roost(&["explain", "--service", "rooms", "--url", "/", tuple[0], tuple[1]]);
    assert!(stderr(&output).contains("what is sent there names its client"), "{}", stderr(&output));
    assert_eq!(pinned.json(&["services"])[0]["proxy_protocol_from"], json!(["198.51.100.0/24"]));
    let output = explain_head("", &[]);
    assert!(stderr(&output).contains("is empty"), "{}", stderr(&output));
}

#[test]
fn explain_says_why_there_is_no_key() {
    let pinned = Pinned::filled_by("missing", &["query:chat", "sni:label.rooms.example"]);
    let missing = |arguments: &[&str]| {
        let said = pinned.json(&[&["explain", "--service", "rooms"], arguments].concat());
        assert_eq!((&said["why"], &said["key"]), (&json!("rejected"), &Value::Null));
        said["missing"].as_str().unwrap().to_owned()
    };
    assert_eq!(missing(&["--url", "/ws"]), "absent");
    assert_eq!(missing(&["--url", "/ws?chat="]), "empty");
    assert_eq!(missing(&["--sni", "lobby.other.example"]), "absent");
    let long = format!("/ws?{}", "a".repeat(16_384));
    assert_eq!(missing(&["--url", &long]), "too_long");
    let text = pinned.text(&["explain", "--service", "rooms", "--url", "/ws?chat="]);
    let why = "key        none from query:chat or sni:label.rooms.example: it is empty\n";
    assert!(text.contains(why), "{text}");
    let text =
        pinned.text(&["explain", "--service", "rooms", "--url", "wss://LOBBY.rooms.example/"]);
    assert!(text.contains("`lobby` from sni:label.rooms.example\n"), "{text}");
    assert!(text.contains("note       of a URL with wss: only the host name"), "{text}");
}

#[test]
fn keys_of_both_kinds_are_told_apart() {
    let pinned = Pinned::filled_by("kinds", &["query:chat", "client"]);
    let bind = |arguments: &[&str]| {
        let said = pinned.json(&[&["chat", "bind", "rooms"], arguments].concat());
        said["key_hash"].as_str().unwrap().to_owned()
    };
    let address = bind(&["198.51.100.7", "--chat", "42"]);
    let text = bind(&["198.51.100.7", "--chat", "42", "--text"]);
    assert_eq!(text, hex("198.51.100.7"));
    assert_ne!(address, text);
    let list = pinned.json(&["chat", "list"]);
    assert_eq!((&list[0]["key"], &list[1]["key"]), (&json!("198.51.100.7"), &list[0]["key"]));
    let key = ["explain", "--service", "rooms", "--key", "198.51.100.7"];
    assert_eq!(pinned.json(&key)["key_source"], "client");
    let key = [&key[..], &["--text"]].concat();
    assert_eq!(pinned.json(&key)["key_source"], "query:chat");
}

#[test]
fn status_and_detach_need_no_daemon() {
    let pinned = Pinned::filled("status");

    let status = pinned.json(&["status"]);
    assert_eq!((&status["daemon_pid"], &status["interfaces"]), (&Value::Null, &json!([])));
    assert_eq!(status["services"], pinned.json(&["services"]));
    assert_eq!(status["counters"], pinned.json(&["counters"]));
    let flows = json!({"map": "FLOWS", "entries": 1, "max_entries": 8});
    assert!(status["limits"].as_array().unwrap().contains(&flows));
    // By the kernel's own counts: nothing is walked, which here has one flow and one chat.
    pinned.carry(1, 1_000_000, 300_000);
    let limits = pinned.json(&["status"])["limits"].clone();
    let entries =
        |map: usize| (limits[map]["map"].as_str().unwrap(), limits[map]["entries"].as_u64());
    assert_eq!(entries(0), ("FLOWS", Some(1_000_000)));
    assert_eq!(entries(1), ("CHATS", Some(300_000)));
    assert_eq!(entries(2), ("CHAT_COOKIES", Some(0)));
    assert_eq!(pinned.json(&["replicas"])[1]["flows"], 1_000_000);
    pinned.carry(1, 1, 1);
    let text = pinned.text(&["status"]);
    assert!(text.starts_with("daemon  not running"), "{text}");
    assert!(text.contains("not attached to any interface"), "{text}");

    let removed = pinned.json(&["detach"]);
    assert!(removed["removed"].as_array().unwrap().contains(&json!("map FLOWS")), "{removed}");
    assert!(!pinned.dir.exists());
    assert_eq!(pinned.text(&["detach"]), "nothing of roost is there\n");
}

#[test]
fn maps_that_are_not_there_are_an_error() {
    let pinned = Pinned { dir: Path::new(BPFFS).join("roost-test-nothing") };
    let output = pinned.roost(&["chats"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let error = stderr(&output);
    assert!(error.starts_with("error: ") && error.contains("--pin-dir"), "{error}");
}
