use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows = 1000
[secrets]
chat_file = "chat.key"
[[service]]
name = "chat"
addresses = ["10.0.0.1", "fd00::1", "2001:db8:1::/64"]
port = 80
policy = "home"
key = "query:ch%61t"
on_missing_key = "replica-1"
idle_timeout = "1h30m"
  [[service.replica]]
  name = "replica-1"
  address = ["10.1.0.2", "fd00:1::2"]
  port = 8080
  weight = 3
  [[service.replica]]
  name = "replica-2"
  address = ["10.1.0.3", "fd00:1::3"]
  state = "draining"
"#;

/// A file with one service whose fields are `fields`, and what is wrong with it.
fn problems(fields: &str) -> Vec<String> {
    let text = format!("interfaces = [\"eth0\"]\n[[service]]\n{fields}\n");
    match Config::parse(&text, "r.toml") {
        Ok(_) => Vec::new(),
        Err(e) => e.to_string().lines().map(str::to_owned).collect(),
    }
}

/// Exactly one problem, which begins with `at` and holds `says`.
#[track_caller]
fn refused(fields: &str, at: &str, says: &str) {
    let found = problems(fields);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with(&format!("r.toml:{at}: ")), "{found:#?}");
    assert!(found[0].contains(says), "{found:#?}");
}

const BASE: &str =
    "name = \"a\"\naddresses = [\"10.0.0.1\"]\nport = 80\npolicy = \"home\"\nkey = \"query:chat\"";

#[test]
fn a_whole_file_is_read() {
    let config = Config::parse(WHOLE, "r.toml").unwrap();
    assert_eq!(config.interfaces, ["eth0", "eth1"]);
    assert_eq!(config.limits, Limits { flows: 1000, ..Limits::default() });
    let service = &config.services[0];
    assert_eq!(service.addresses[2].to_string(), "2001:db8:1::/64");
    assert_eq!(service.keys, key_sources(["query:chat"]).unwrap());
    assert_eq!(service.on_missing_key, OnMissing::Replica("replica-1".into()));
    assert_eq!(service.idle_timeout.as_secs(), 5400);
    assert_eq!((service.replicas[0].port, service.replicas[1].port), (8080, 80));
    assert_eq!((service.replicas[0].weight, service.replicas[1].weight), (3, 1));
    assert_eq!(service.replicas[1].state, State::Draining);
}

#[test]
fn the_least_file_has_defaults() {
    assert_eq!(problems(BASE), Vec::<String>::new());
    let config = Config::parse("interfaces = [\"eth0\"]", "r.toml").unwrap();
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn client_links_are_patterns_of_names() {
    let text = |links: &str| format!("interfaces = [\"eth0\"]\nclient_links = {links}\n");
    let read = |links: &str| Config::parse(&text(links), "r.toml");
    let config = read("[\"veth*\", \"eth?\", \"pod1\"]").unwrap();
    let names: Vec<_> = config.client_links.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["veth*", "eth?", "pod1"]);
    for (links, says) in [
        ("[\"eth0\"]", "r.toml:2:17: client_links[0]: \"eth0\" is one of the interfaces"),
        ("[\"a*\", \"a*\"]", "2:23: client_links[1]: \"a*\" is listed twice"),
        ("[\"*\"]", "would take every interface"),
        ("[\"a b\"]", "cannot be a link's name"),
        ("\"veth*\"", "write a list"),
    ] {
        let e = read(links).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
}

#[test]
fn a_problem_has_its_place_and_what_would_be_right() {
    refused(&BASE.replace("80", "0"), "5:8: service[0].port", "is 0; write a number, 1 to 65535");
    refused(&BASE.replace("80", "\"80\""), "5:8: service[0].port", "is a string; write a number");
    refused(&format!("{BASE}\nportt = 1"), "8:1: service[0].portt", "did you mean `port`?");
    refused(&BASE.replace("home", "thin"), "6:10: service[0].policy", "not in this version");
    refused(&BASE.replace("home", "house"), "6:10: service[0].policy", "\"house\" is no policy");
    refused(&BASE.replace("query:chat", "url:x"), "7:7: service[0].key", "no key source");
    refused(&BASE.replace("query:chat", "query:%4"), "7:7: service[0].key", "two hex digits");
    let keys = |list: &str| BASE.replace("\"query:chat\"", list);
    assert_eq!(problems(&keys("[\"path:2\", \"client\"]")), Vec::<String>::new());
    refused(&keys("[\"sni\", \"path:0\"]"), "7:15: service[0].key[1]", "counted from 1");
    refused(&keys("[\"client\", \"sni\"]"), "7:18: service[0].key[1]", "never be used");
    refused(&keys("[\"sni\", 7]"), "7:15: service[0].key[1]", "is an integer; write a key source");
    refused(&keys("[]"), "7:7: service[0].key", "has 0 key sources; write 1 to 4");
    refused(&keys("7"), "7:7: service[0].key", "is an integer; write a key source");
    refused(&BASE.replace("10.0.0.1", "10.0.0"), "4:14: service[0].addresses[0]", "not an IP");
    refused(&BASE.replace("10.0.0.1", "10.0.0.1/24"), "4:14", "write \"10.0.0.0/24\"");
    refused(&BASE.replace("10.0.0.1", "127.0.0.1"), "4:14", "loopback");
    refused(&BASE.replace("10.0.0.1", "ff02::1"), "4:14", "multicast");
    refused(&BASE.replace("10.0.0.1", "0.0.0.0"), "4:14", "unspecified");
    refused(&format!("{BASE}\nidle_timeout = \"3 h\""), "8:16", "write \"90s\"");
    refused(
        &format!("{BASE}\non_reuse = \"go\""),
        "8:12: service[0].on_reuse",
        "\"reset\" or \"stay\"",
    );
    let reset = |base: &str| format!("{base}\non_reuse = \"reset\"");
    refused(&reset(&BASE.replace("query:chat", "sni")), "8:12", "a key that is in each request");
    refused(&reset(&BASE.replace("home", "spread")), "8:12", "the policy `spread` has none");
    assert_eq!(problems(&reset(&keys("[\"sni\", \"query:chat\"]"))), Vec::<String>::new());
    refused(&format!("{BASE}\nmss = 10"), "8:7: service[0].mss", "536 to");
    refused(&BASE.replace("name = \"a\"", ""), "2:1: service[0].name", "is missing");
    refused(&BASE.replace("\nkey = \"query:chat\"", ""), "2:1: service[0].key", "is missing");
    refused(&BASE.replace("= 80", "= = 80"), "5:8", "is not TOML");
    refused(&BASE.replace("\"a\"", &format!("\"{}\"", "x".repeat(65))), "3:8", "65 bytes");
    let long = format!("query:{}", "x".repeat(65));
    refused(&BASE.replace("query:chat", &long), "7:7", "65 bytes; 64 are the most");
}

#[test]
fn connections_are_bound_again_where_the_key_is_in_the_request() {
    let on_reuse = |fields: &str| {
        let text = format!("interfaces = [\"eth0\"]\n[[service]]\n{fields}\n");
        Config::parse(&text, "r.toml").unwrap().services[0].on_reuse
    };
    assert_eq!(on_reuse(BASE), OnReuse::Rebind);
    assert_eq!(on_reuse(&format!("{BASE}\non_reuse = \"stay\"")), OnReuse::Stay);
    let key = |key: &str| BASE.replace("\"query:chat\"", key);
    assert_eq!(on_reuse(&key("[\"sni\", \"header:chat\"]")), OnReuse::Rebind);
    assert_eq!(on_reuse(&key("\"sni\"")), OnReuse::Stay);
    assert_eq!(on_reuse(&key("\"client\"")), OnReuse::Stay);
    assert_eq!(on_reuse(&key("\"query:chat\"").replace("home", "spread")), OnReuse::Stay);
}

#[test]
fn sources_are_prefixes_of_clients() {
    let with = |list: &str| BASE.replace("= 80", &format!("= 80\nallowed_sources = {list}"));
    let sources = |fields: &str| {
        let text = format!("interfaces = [\"eth0\"]\n[[service]]\n{fields}\n");
        let sources = Config::parse(&text, "r.toml").unwrap().services[0].allowed_sources.clone();
        sources.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(sources(BASE), None);
    let all = "[\"192.0.2.7\", \"10.0.0.0/8\", \"0.0.0.0/0\", \"::/0\", \"fe80::/10\"]";
    let read = ["192.0.2.7", "10.0.0.0/8", "0.0.0.0/0", "::/0", "fe80::/10"];
    assert_eq!(sources(&with(all)).unwrap(), read);
    let at = "6:19: service[0].allowed_sources";
    refused(&with("[]"), at, "so nobody may connect; write prefixes of clients");
    refused(&with("\"10.0.0.0/8\""), at, "write a list");
    refused(&with("[7]"), "6:20: service[0].allowed_sources[0]", "write a prefix of clients");
    refused(&with("[\"10.0.0.1/8\"]"), "6:20", "write \"10.0.0.0/8\"");
    refused(&with("[\"10.0.0.0/33\"]"), "6:20", "a prefix length is 0 to 32 here");
    refused(&with("[\"example.com\"]"), "6:20", "is not an IP address");
    refused(&with("[\"::ffff:10.0.0.0/104\"]"), "6:20", "write them as IPv4");
    let many: Vec<_> = (0..257).map(|i| format!("\"10.0.{}.{}\"", i / 256, i % 256)).collect();
    refused(
        &with(&format!("[{}]", many.join(","))),
        at,
        "has 257 prefixes; a service has at most 256",
    );
}

#[test]
fn proxies_are_prefixes_too() {
    let with = |list: &str| BASE.replace("= 80", &format!("= 80\nproxy_protocol_from = {list}"));
    let proxies = |fields: &str| {
        let text = format!("interfaces = [\"eth0\"]\n[[service]]\n{fields}\n");
        let service = Config::parse(&text, "r.toml").unwrap().services.remove(0);
        let proxies = service.proxy_protocol_from.iter().map(ToString::to_string);
        (proxies.collect::<Vec<_>>(), service.allowed_sources)
    };
    assert_eq!(proxies(BASE), (vec![], None));
    let read = proxies(&with("[\"192.0.2.7\", \"10.0.0.0/8\", \"2001:db8::/32\"]"));
    assert_eq!(read.0, ["192.0.2.7", "10.0.0.0/8", "2001:db8::/32"]);
    let at = "6:23: service[0].proxy_protocol_from";
    refused(
        &with("[]"),
        at,
        "is empty, so nobody sends the PROXY protocol; write prefixes of those that do",
    );
    refused(&with("\"10.0.0.0/8\""), at, "write a list");
    refused(&with("true"), at, "write a list");
    refused(&with("[7]"), "6:24: service[0].proxy_protocol_from[0]", "write a prefix of proxies");
    refused(&with("[\"10.0.0.1/8\"]"), "6:24", "write \"10.0.0.0/8\"");
    refused(&with("[\"lb.example\"]"), "6:24", "is not an IP address");
    let many = |count| {
        let all = (0..count).map(|i| format!("\"10.0.{}.{}\"", i / 256, i % 256));
        format!("[{}]", all.collect::<Vec<_>>().join(","))
    };
    refused(&with(&many(257)), at, "has 257 prefixes; a service has at most 256");
    let both = format!("{}\nallowed_sources = {}", many(57), many(200));
    refused(
        &with(&both),
        at,
        "has 57 prefixes; a service has at most 256 in all, with those of allowed",
    );
}

#[test]
fn shares_are_of_prefixes_and_some_are_trusted() {
    let with = |fields: &str| format!("[shares]\n{fields}\n[[service]]\n{BASE}");
    let read = |fields: &str| {
        let text = format!("interfaces = [\"eth0\"]\n{}\n", with(fields));
        let shares = Config::parse(&text, "r.toml").unwrap().shares;
        let trusted: Vec<_> = shares.trusted_sources.iter().map(ToString::to_string).collect();
        (shares.ipv4_prefix, shares.ipv6_prefix, trusted)
    };
    assert_eq!(read(""), (32, 64, vec![]));
    let all = "ipv4_prefix = 24\nipv6_prefix = 48\ntrusted_sources = [\"10.0.0.0/8\", \"::/0\"]";
    assert_eq!(read(all), (24, 48, vec!["10.0.0.0/8".to_owned(), "::/0".to_owned()]));
    let trusts = |line| {
        let text = format!("interfaces = [\"eth0\"]\n{}\n", with(line));
        Config::parse(&text, "r.toml").unwrap().shares.trust_cluster
    };
    assert!(trusts("") && trusts("trust_cluster = true") && !trusts("trust_cluster = false"));
    let refused = |fields: &str, place: &str, what: &str| {
        let text = format!("interfaces = [\"eth0\"]\n{}\n", with(fields));
        let problem = Config::parse(&text, "r.toml").unwrap_err().to_string();
        assert!(
            problem.starts_with(&format!("r.toml:{place}")) && problem.contains(what),
            "{problem}"
        );
    };
    refused("ipv4_prefix = 33", "3:15: shares.ipv4_prefix", "1 to 32");
    refused("ipv6_prefix = 0", "3:15: shares.ipv6_prefix", "1 to 128");
    let at = "3:17: shares.trust_cluster";
    refused("trust_cluster = \"no\"", at, "is a string; write true or false");
    refused("trusted = []", "3:1: shares.trusted", "trusted_sources");
    let at = "3:19: shares.trusted_sources";
    refused("trusted_sources = \"10.0.0.0/8\"", at, "write a list");
    let at = "3:20: shares.trusted_sources[0]";
    refused("trusted_sources = [7]", at, "write a prefix of clients");
    refused("trusted_sources = [\"10.0.0.1/8\"]", at, "write \"10.0.0.0/8\"");
    refused("trusted_sources = [\"nodes\"]", at, "is not an IP address");
    let twice = "trusted_sources = [\"10.0.0.0/8\", \"10.0.0.0/8\"]";
    refused(twice, "3:34: shares.trusted_sources[1]", "listed twice");
    let many: Vec<_> = (0..4097).map(|i| format!("\"10.0.{}.{}\"", i / 256, i % 256)).collect();
    let at = "3:19: shares.trusted_sources";
    refused(&format!("trusted_sources = [{}]", many.join(",")), at, "has 4097 prefixes");
}

#[test]
fn a_width_is_of_chats() {
    let with = |width: &str| BASE.replace("= 80", &format!("= 80\nwidth = {width}"));
    let width = |fields: &str| {
        let text = format!("interfaces = [\"eth0\"]\n[[service]]\n{fields}\n");
        Config::parse(&text, "r.toml").unwrap().services[0].width
    };
    assert_eq!((width(BASE), width(&with("64"))), (1, 64));
    refused(&with("0"), "6:9: service[0].width", "is 0; write a number, 1 to 64");
    refused(&with("65"), "6:9: service[0].width", "1 to 64");
    refused(&with("3").replace("home", "spread"), "6:9: service[0].width", "`spread` has none");
    assert_eq!(problems(&with("1").replace("home", "spread")), Vec::<String>::new());
}

#[test]
fn each_state_of_a_connection_has_its_time() {
    let times = |fields: &str| {
        let service = BASE.replace("= 80", &format!("= 80\n{fields}"));
        let text = format!("interfaces = [\"eth0\"]\n[[service]]\n{service}");
        let service = Config::parse(&text, "r.toml").unwrap().services.remove(0);
        [
            service.handshake_timeout,
            service.idle_timeout,
            service.client_closed_timeout,
            service.replica_closed_timeout,
            service.closing_timeout,
        ]
        .map(|time| time.as_secs())
    };
    assert_eq!(times(""), [120, 10_800, 120, 120, 60]);
    let set = "handshake_timeout = \"5m\"\nidle_timeout = \"1s\"\nclient_closed_timeout = \"2s\"\n\
               replica_closed_timeout = \"1d\"\nclosing_timeout = \"3s\"";
    assert_eq!(times(set), [300, 1, 2, 86_400, 3]);
    for (name, value, says) in [
        ("handshake_timeout", "\"301s\"", "\"301s\": at most 5m, for which what is known of a"),
        ("handshake_timeout", "\"0s\"", "a duration is 1s to"),
        ("client_closed_timeout", "60", "a duration, \"30s\""),
        ("closing_timeout", "\"0s\"", "a duration is 1s to"),
    ] {
        let text = BASE.replace("= 80", &format!("= 80\n{name} = {value}"));
        let column = name.len() + 4;
        refused(&text, &format!("6:{column}: service[0].{name}"), says);
    }
}

#[test]
fn a_chat_lingers_for_an_hour_at_the_most() {
    let with = |linger: &str| BASE.replace("= 80", &format!("= 80\nlinger = {linger}"));
    let linger = |fields: &str| {
        let text = format!("interfaces = [\"eth0\"]\n[[service]]\n{fields}\n");
        Config::parse(&text, "r.toml").unwrap().services[0].linger.as_secs()
    };
    assert_eq!((linger(BASE), linger(&with("\"2m\"")), linger(&with("\"1h\""))), (30, 120, 3600));
    refused(&with("\"2h\""), "6:10: service[0].linger", "\"2h\": at most 1h, for which a chat");
    refused(&with("\"soon\""), "6:10: service[0].linger", "is not a duration; write");
    refused(&with("30"), "6:10: service[0].linger", "a duration, \"30s\"");
}

#[test]
fn all_problems_are_reported_in_the_files_order() {
    let found = problems(&BASE.replace("80", "0").replace("home", "x").replace("10.0.0.1", "y"));
    let lines: Vec<_> = found.iter().map(|p| p.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["4", "5", "6"]);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let replica = |fields: &str| format!("{BASE}\n[[service.replica]]\n{fields}");
    let one = replica("name = \"r\"\naddress = \"10.1.0.2\"");
    assert_eq!(problems(&one), Vec::<String>::new());
    refused(&replica("name = \"spread\"\naddress = \"10.1.0.2\""), "9:8", "on_missing_key");
    refused(&replica("name = \"r\"\naddress = \"10.0.0.1\""), "10:11", "itself an address of");
    refused(
        &replica("name = \"r\"\naddress = \"fd00::2\""),
        "10:11",
        "cannot serve clients of \"10.0.0.1\"",
    );
    refused(
        &replica("name = \"r\"\naddress = [\"10.1.0.2\", \"10.1.0.3\"]"),
        "10:24: service[0].replica[0].address[1]",
        "second address of its family",
    );
    let with = |second: &str| format!("{one}\n[[service.replica]]\n{second}");
    refused(&with("name = \"r\"\naddress = \"10.1.0.3\""), "12:8", "already a replica");
    refused(&with("name = \"s\"\naddress = \"10.1.0.2\""), "13:11", "also replica \"r\"");
    refused(
        &one.replace("\"10.0.0.1\"", "\"10.0.0.1\", \"fd00::1\""),
        "10:11: service[0].replica[0].address",
        "give both, address = [\"10.1.0.2\", an IPv6 one]",
    );
    refused(
        &one.replace("port = 80", "port = 80\non_missing_key = \"q\""),
        "6:18: service[0].on_missing_key",
        "no replica of this service; write \"spread\", \"reject\" or one of its replicas (\"r\")",
    );
    let twice = format!("{BASE}\n[[service]]\n{BASE}");
    let found = problems(&twice);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("also the name of service[0]"));
    assert!(found[1].contains("already belongs to service \"a\""));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let e = Config::load(Path::new("no/such.toml")).unwrap_err();
    assert!(e.to_string().starts_with("no/such.toml: cannot be read: "), "{e}");
}

/// A duration as the file writes it: `3h`, `1h30m`, `90s`.
fn duration_text(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, size) in [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)] {
        if seconds >= size {
            text.push_str(&format!("{}{unit}", seconds / size));
            seconds %= size;
        }
    }
    text
}

#[test]
fn durations_are_written_as_they_are_read() {
    for text in ["90s", "1h30m", "3h", "1d", "1d1s"] {
        let duration = value::duration(text).unwrap();
        assert_eq!(value::duration(&duration_text(duration)).unwrap(), duration);
    }
    assert!(value::duration("0s").is_err() && value::duration("").is_err());
    assert!(value::duration("99999999999d").is_err());
}

#[test]
fn a_wrong_duration_is_told_what_would_be_right() {
    for (text, says) in [
        ("0s", "a duration is 1s to 4294967295s"),
        ("4294967296s", "a duration is 1s to 4294967295s"),
        ("49711d", "a duration is 1s to 4294967295s"),
        ("2000ms", "is not a duration; write \"90s\", \"5m\", \"3h\" or \"1h30m\""),
        ("90", "is not a duration"),
        ("1h 30m", "is not a duration"),
    ] {
        let found = value::duration(text).unwrap_err();
        assert!(found.starts_with(&format!("{text:?}")) && found.contains(says), "{found}");
    }
}

#[test]
fn a_wrong_prefix_length_is_told_the_right_ones() {
    for (text, says) in [
        ("10.0.0.0/0", "a prefix length is 1 to 32 here"),
        ("10.0.0.0/33", "a prefix length is 1 to 32 here"),
        ("10.0.0.0/", "a prefix length is 1 to 32 here"),
        ("10.0.0.0/-1", "a prefix length is 1 to 32 here"),
        ("10.0.0.0/255.0.0.0", "a prefix length is 1 to 32 here"),
        ("2001:db8::/129", "a prefix length is 1 to 128 here"),
        ("10.0.0/8", "is not an IP address"),
        ("10.0.0.0 /8", "is not an IP address"),
        ("10.0.0.1/8", "write \"10.0.0.0/8\""),
        ("2001:db8::1/127", "write \"2001:db8::/127\""),
        ("169.254.0.0/8", "link-local"),
    ] {
        let found = value::prefix(text).unwrap_err();
        assert!(found.contains(says), "{text}: {found}");
    }
}

proptest! {
    /// Any prefix of routable addresses, against masks made here.
    #[test]
    fn prefixes_are_read_as_they_are_written(bits: u128, other: u128, len in 1..=128u8, is_ipv4: bool) {
        let (whole, len) = if is_ipv4 { (32, (len - 1) % 32 + 1) } else { (128, len) };
        let to_addr = |bits: u128| -> IpAddr {
            if is_ipv4 { Ipv4Addr::from(bits as u32).into() } else { Ipv6Addr::from(bits).into() }
        };
        // 10.0.0.0/8 and fc00::/7 are routable as a whole.
        let (top, top_bits) = if is_ipv4 { (10 << 24, 8) } else { (0xfc << 120, 7) };
        let len = len.max(top_bits);
        let below = |len: u8| u128::MAX.checked_shr(128 - u32::from(whole - len)).unwrap_or(0);
        let addr = top | (bits & below(top_bits));
        let net = addr & !below(len);
        let written = |len: u8| match to_addr(net) {
            net if len == whole => net.to_string(),
            net => format!("{net}/{len}"),
        };
        let prefix = value::prefix(&format!("{}/{len}", to_addr(net))).unwrap();
        prop_assert_eq!(prefix.to_string(), written(len));
        prop_assert_eq!(value::prefix(&written(len)), Ok(prefix));
        let other = top | (other & below(top_bits));
        for of in [addr, other, net, net | below(len)] {
            prop_assert_eq!(prefix.contains(&to_addr(of)), of & !below(len) == net);
        }
        if addr != net {
            let refused = value::prefix(&format!("{}/{len}", to_addr(addr))).unwrap_err();
            prop_assert!(refused.ends_with(&format!("write \"{}\"", written(len))), "{}", refused);
        }
    }
}
