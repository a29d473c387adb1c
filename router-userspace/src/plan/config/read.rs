//! Reads the model from the file's tables.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use router_ebpf::maps::{
    CLIENT_CLOSED_TIMEOUT, CLOSING_TIMEOUT, HANDSHAKE_TIMEOUT, LINGER, NAME_LEN,
    REPLICA_CLOSED_TIMEOUT, SOURCES_OF_SERVICE,
};

use super::{
    check::{self, ReplicaFields, ServiceFields},
    links::LinkPattern,
    model::{Config, Limits, OnMissing, OnReuse, Policy, Replica, SecretFiles, Service, State},
    pool::{Kubernetes, kubernetes},
    prefix::Prefix,
    reader::{Field, Table},
    shares::{Shares, shares},
    source::{KeySource, key_sources},
    value,
};

/// Reads the whole file. With problems noted, the result is incomplete and not to be used.
pub(super) fn read(root: &Table<'_>, needs_interfaces: bool) -> Config {
    root.only(&[
        "interfaces",
        "client_links",
        "host_clients",
        "limits",
        "shares",
        "secrets",
        "kubernetes",
        "service",
    ]);
    let interfaces = interfaces(root, needs_interfaces);
    let client_links = client_links(root, &interfaces);
    let host_clients = root.get("host_clients").and_then(|field| field.boolean()).unwrap_or(false);
    let limits = root.table("limits").map_or_else(Limits::default, |table| limits(&table));
    let shares = root.table("shares").map_or_else(Shares::default, |table| shares(&table));
    let secrets = root.table("secrets").map_or_else(SecretFiles::default, |table| secrets(&table));
    let kubernetes =
        root.table("kubernetes").map_or_else(Kubernetes::default, |table| kubernetes(&table));
    let read: Vec<_> = root.tables("service").iter().map(service).collect();
    // A value that was refused is missing here, and what is missed by it would only confuse.
    if root.is_sound() {
        check::across(&read);
    }
    let services = read.into_iter().map(|(service, _)| service).collect();
    Config { interfaces, client_links, host_clients, limits, shares, secrets, kubernetes, services }
}

fn interfaces(root: &Table<'_>, needed: bool) -> Vec<String> {
    let right = "the client-facing interfaces, interfaces = [\"eth0\"]; beside a cluster, with \
                 --kubernetes, it may be left out";
    let field = if needed { root.required("interfaces", right) } else { root.get("interfaces") };
    let Some(field) = field else { return Vec::new() };
    let mut names: Vec<String> = Vec::new();
    for item in field.list() {
        let Some(name) = item.text("an interface's name") else { continue };
        let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > 15 || name.contains(odd) || name == "." || name == ".." {
            item.refuse(format!(
                "{name:?} cannot be an interface's name: 1 to 15 bytes without space or slash"
            ));
        } else if names.iter().any(|n| n == name) {
            item.refuse(format!("{name:?} is listed twice; leave one out"));
        } else {
            names.push(name.to_owned());
        }
    }
    if field.is_list() && field.list().is_empty() {
        field.refuse(format!("is empty; write {right}"));
    }
    names
}

fn client_links(root: &Table<'_>, interfaces: &[String]) -> Vec<LinkPattern> {
    let Some(field) = root.get("client_links") else { return Vec::new() };
    let mut patterns: Vec<LinkPattern> = Vec::new();
    for item in field.list() {
        let Some(text) = item.text("a link's name or a pattern of names") else { continue };
        match LinkPattern::parse(text) {
            Err(wrong) => item.refuse(wrong),
            Ok(pattern) if patterns.contains(&pattern) => {
                item.refuse(format!("{text:?} is listed twice; leave one out"));
            }
            Ok(_) if interfaces.iter().any(|name| name == text) => item.refuse(format!(
                "{text:?} is one of the interfaces, whose clients are outside; leave one of the two out"
            )),
            Ok(pattern) => patterns.push(pattern),
        }
    }
    patterns
}

fn limits(table: &Table<'_>) -> Limits {
    table.only(&["flows", "chats", "pending", "stash", "ended", "services", "replicas"]);
    let d = Limits::default();
    let size = |name: &str, most: i64, default: u32| {
        let value = table.get(name).and_then(|field| field.integer(1..=most));
        value.map_or(default, |value| value as u32)
    };
    Limits {
        flows: size("flows", 1 << 26, d.flows),
        chats: size("chats", 1 << 26, d.chats),
        pending: size("pending", 1 << 24, d.pending),
        stash: size("stash", 1 << 20, d.stash),
        ended: size("ended", 1 << 24, d.ended),
        services: size("services", 4096, d.services),
        replicas: size("replicas", 1 << 20, d.replicas),
    }
}

fn secrets(table: &Table<'_>) -> SecretFiles {
    table.only(&["handshake_file", "chat_file"]);
    let file = |name: &str| {
        let field = table.get(name)?;
        let text = field.text("a file name")?;
        if text.is_empty() {
            field.refuse("is empty; write the name of a file with 32 hex digits");
        }
        Some(PathBuf::from(text))
    };
    SecretFiles { handshake_file: file("handshake_file"), chat_file: file("chat_file") }
}

fn service<'a>(table: &Table<'a>) -> (Service, ServiceFields<'a>) {
    table.only(&[
        "name",
        "addresses",
        "port",
        "allowed_sources",
        "proxy_protocol_from",
        "policy",
        "key",
        "on_missing_key",
        "on_reuse",
        "width",
        "idle_timeout",
        "handshake_timeout",
        "client_closed_timeout",
        "replica_closed_timeout",
        "closing_timeout",
        "linger",
        "mss",
        "replica",
    ]);
    let name = table.required("name", "a name, name = \"chat\"");
    let port = table.required("port", "the service's TCP port, port = 80");
    let port = port.and_then(|f| f.integer(1..=65535)).unwrap_or(0) as u16;
    let policy = policy(table);
    let on_missing_key = table.get("on_missing_key");
    let keys = keys(table, policy);
    let (addresses, address_fields) = addresses(table);
    let time = |name: &str, default: u32, parse: fn(&str) -> Result<Duration, String>| {
        let given = parsed(table.get(name), "a duration, \"30s\",", parse);
        given.unwrap_or(Duration::from_secs(default.into()))
    };
    let (allowed_sources, proxy_protocol_from) = sources(table);
    let replicas: Vec<_> = table.tables("replica").iter().map(|t| replica(t, port)).collect();
    let (replicas, replica_fields) = replicas.into_iter().unzip();
    let service = Service {
        name: name.as_ref().map_or_else(String::new, read_name),
        addresses,
        port,
        other_vips: Vec::new(),
        allowed_sources,
        proxy_protocol_from,
        policy,
        on_reuse: on_reuse(table, policy, &keys),
        keys,
        on_missing_key: match on_missing_key.as_ref().and_then(|f| f.text("\"spread\"")) {
            None | Some("spread") => OnMissing::Spread,
            Some("reject") => OnMissing::Reject,
            Some(name) => OnMissing::Replica(name.to_owned()),
        },
        width: width(table, policy),
        idle_timeout: time("idle_timeout", 3 * 3600, value::duration),
        handshake_timeout: time("handshake_timeout", HANDSHAKE_TIMEOUT, value::handshake_timeout),
        client_closed_timeout: time(
            "client_closed_timeout",
            CLIENT_CLOSED_TIMEOUT,
            value::duration,
        ),
        replica_closed_timeout: time(
            "replica_closed_timeout",
            REPLICA_CLOSED_TIMEOUT,
            value::duration,
        ),
        closing_timeout: time("closing_timeout", CLOSING_TIMEOUT, value::duration),
        linger: time("linger", LINGER, value::linger),
        mss: table.get("mss").and_then(|f| f.integer(536..=65495)).map(|mss| mss as u16),
        replicas,
    };
    let fields =
        ServiceFields { name, addresses: address_fields, on_missing_key, replicas: replica_fields };
    (service, fields)
}

fn addresses<'a>(table: &Table<'a>) -> (Vec<Prefix>, Vec<Field<'a>>) {
    let right = "the addresses to answer for, addresses = [\"10.0.0.1\"]";
    let Some(field) = table.required("addresses", right) else { return Default::default() };
    if field.is_list() && field.list().is_empty() {
        field.refuse(format!("is empty; write {right}"));
    }
    field
        .list()
        .into_iter()
        .filter_map(|item| Some((parsed(Some(item.clone()), "an address", value::prefix)?, item)))
        .unzip()
}

/// From where clients may connect, and from where what comes begins with the PROXY protocol.
fn sources(table: &Table<'_>) -> (Option<Vec<Prefix>>, Vec<Prefix>) {
    let mut left = SOURCES_OF_SERVICE as usize;
    let allowed = table.get("allowed_sources").map(|field| {
        let right = "so nobody may connect; write prefixes of clients, allowed_sources = [\"192.0.2.0/24\"], or \
                     leave it out: then anybody may";
        prefixes(&field, "a prefix of clients, \"192.0.2.0/24\",", right, &mut left)
    });
    let proxies = table.get("proxy_protocol_from").map(|field| {
        let right = "so nobody sends the PROXY protocol; write prefixes of those that do, \
                     proxy_protocol_from = [\"10.0.0.0/24\"], or leave it out";
        prefixes(&field, "a prefix of proxies, \"10.0.0.0/24\",", right, &mut left)
    });
    (allowed, proxies.unwrap_or_default())
}

/// A list of prefixes, of which `left` more may be in all.
fn prefixes(list: &Field<'_>, one: &str, if_empty: &str, left: &mut usize) -> Vec<Prefix> {
    let items = list.list();
    if list.is_list() && items.is_empty() {
        list.refuse(format!("is empty, {if_empty}"));
    }
    if items.len() > *left {
        let most = SOURCES_OF_SERVICE;
        let all = match *left == most as usize {
            true => "",
            false => " in all, with those of allowed_sources",
        };
        list.refuse(format!("has {} prefixes; a service has at most {most}{all}", items.len()));
    }
    *left = left.saturating_sub(items.len());
    items.into_iter().filter_map(|item| parsed(Some(item), one, value::source)).collect()
}

fn policy(table: &Table<'_>) -> Policy {
    let right = "policy = \"home\" or policy = \"spread\"";
    let Some(field) = table.required("policy", right) else { return Policy::Spread };
    match field.text("\"home\" or \"spread\"") {
        None | Some("spread") => Policy::Spread,
        Some("home") => Policy::Home,
        Some("thin") => {
            field.refuse("\"thin\" is not in this version; write \"home\" or \"spread\"");
            Policy::Spread
        }
        Some(other) => {
            field.refuse(format!("{other:?} is no policy; write \"home\" or \"spread\""));
            Policy::Spread
        }
    }
}

fn on_reuse(table: &Table<'_>, policy: Policy, keys: &[KeySource]) -> OnReuse {
    let has_chats = policy == Policy::Home;
    let by_request = keys.iter().any(KeySource::is_in_requests);
    let usual = if has_chats && by_request { OnReuse::Rebind } else { OnReuse::Stay };
    let Some(field) = table.get("on_reuse") else { return usual };
    let right = "\"rebind\", \"reset\" or \"stay\"";
    let (word, on_reuse) = match field.text(right) {
        None => return usual,
        Some("stay") => return OnReuse::Stay,
        Some("reset") => ("reset", OnReuse::Reset),
        Some("rebind") => ("rebind", OnReuse::Rebind),
        Some(other) => {
            field.refuse(format!("{other:?} means nothing; write {right}"));
            return usual;
        }
    };
    if !has_chats {
        field.refuse(format!(
            "{word:?} is of chats, and the policy `spread` has none; leave it out"
        ));
    } else if !keys.is_empty() && !by_request {
        field.refuse(format!(
            "{word:?} needs a key that is in each request, and a connection has these once only; leave it \
             out"
        ));
    }
    on_reuse
}

fn width(table: &Table<'_>, policy: Policy) -> u16 {
    let Some(field) = table.get("width") else { return 1 };
    let width = field.integer(1..=64).unwrap_or(1) as u16;
    if width > 1 && policy == Policy::Spread {
        field
            .refuse(format!("{width} is of chats, and the policy `spread` has none; leave it out"));
    }
    width
}

fn keys(table: &Table<'_>, policy: Policy) -> Vec<KeySource> {
    let right = "where a connection names its chat, key = \"query:chat\" or key = \
                 [\"query:chat\", \"path:/rooms/{chat}\"]";
    let field = match policy {
        Policy::Home => table.required("key", right),
        Policy::Spread => table.get("key"),
    };
    let Some(field) = field else { return vec![KeySource::TUPLE] };
    let items = if field.is_list() { field.list() } else { vec![field.clone()] };
    let right = "a key source, \"query:chat\",";
    let texts: Option<Vec<_>> = items.iter().map(|item| item.text(right)).collect();
    match texts.map(key_sources) {
        Some(Ok(keys)) => return keys,
        Some(Err(problems)) => {
            for problem in problems {
                items.get(problem.index).unwrap_or(&field).refuse(problem.message);
            }
        }
        None => {}
    }
    Vec::new()
}

fn replica<'a>(table: &Table<'a>, service_port: u16) -> (Replica, ReplicaFields<'a>) {
    table.only(&["name", "address", "port", "weight", "state"]);
    let name = table.required("name", "an identity that stays, name = \"replica-1\"");
    let field = table.required("address", "where it listens, address = \"10.1.0.2\"");
    let items = match field {
        Some(field) if field.is_list() => field.list(),
        field => field.into_iter().collect(),
    };
    let (addresses, fields): (Vec<IpAddr>, Vec<_>) = items
        .into_iter()
        .filter_map(|item| Some((parsed(Some(item.clone()), "an address", value::address)?, item)))
        .unzip();
    for (i, addr) in addresses.iter().enumerate() {
        if addresses[..i].iter().any(|a| a.is_ipv4() == addr.is_ipv4()) {
            fields[i].refuse(format!("\"{addr}\" is a second address of its family; write one"));
        }
    }
    let replica = Replica {
        name: name.as_ref().map_or_else(String::new, read_name),
        addresses,
        port: match table.get("port") {
            Some(field) => field.integer(1..=65535).unwrap_or(0) as u16,
            None => service_port,
        },
        weight: table.get("weight").and_then(|f| f.integer(1..=100)).unwrap_or(1) as u32,
        state: match table.get("state") {
            None => State::Ready,
            Some(field) => match field.text("\"ready\" or \"draining\"") {
                None | Some("ready") => State::Ready,
                Some("draining") => State::Draining,
                Some(other) => {
                    field.refuse(format!("{other:?} is no state; write \"ready\" or \"draining\""));
                    State::Ready
                }
            },
        },
    };
    (replica, ReplicaFields { name, addresses: fields })
}

fn read_name(field: &Field<'_>) -> String {
    let Some(name) = field.text("a name") else { return String::new() };
    if name.is_empty() || name.len() > NAME_LEN || name.contains(char::is_control) {
        field.refuse(format!(
            "{name:?} has {} bytes; a name has 1 to {NAME_LEN} and no control characters",
            name.len()
        ));
    }
    name.to_owned()
}

/// Parses a string field; a value that does not parse is noted and `None`.
fn parsed<T>(
    field: Option<Field<'_>>,
    right: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let field = field?;
    match parse(field.text(right)?) {
        Ok(value) => Some(value),
        Err(message) => {
            field.refuse(message);
            None
        }
    }
}
