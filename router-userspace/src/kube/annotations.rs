//! Roost's annotations on a Service. They mean what the fields of the configuration file mean, and
//! are read by its parser.

use std::collections::BTreeMap;

use crate::plan::config::{Config, OnMissing, Service};

use super::PREFIX;

/// Annotations that are fields of the file, and the field.
const FIELDS: [(&str, &str); 13] = [
    ("proxy-protocol-from", "proxy_protocol_from"),
    ("policy", "policy"),
    ("key", "key"),
    ("on-missing-key", "on_missing_key"),
    ("on-reuse", "on_reuse"),
    ("width", "width"),
    ("idle-timeout", "idle_timeout"),
    ("handshake-timeout", "handshake_timeout"),
    ("client-closed-timeout", "client_closed_timeout"),
    ("replica-closed-timeout", "replica_closed_timeout"),
    ("closing-timeout", "closing_timeout"),
    ("linger", "linger"),
    ("mss", "mss"),
];
/// Annotations of the cluster alone.
const OTHERS: [&str; 3] = ["node-port", "cluster-ip", "identity"];

/// How a Service is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Policy, key and timeout; without name, addresses, port and replicas.
    pub(super) service: Service,
    /// Whether its node ports are served.
    pub(super) node_port: bool,
    /// Whether its cluster IPs are served.
    pub(super) cluster_ip: bool,
    /// What its replicas are known by.
    pub(super) identity: Identity,
}

/// What the replicas that are pods are known by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Identity {
    /// The pod's name if it ends like that of a StatefulSet's pod, else its UID.
    #[default]
    Auto,
    /// The pod's name.
    Name,
    /// The pod's UID.
    Uid,
}

/// What is said under `roost.rs/`, without that.
pub(super) fn ours(annotations: Option<&BTreeMap<String, String>>) -> BTreeMap<&str, &str> {
    let all = annotations.into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str()))).collect()
}

/// The names that mean nothing, each with a hint.
pub(super) fn unknown(annotations: &BTreeMap<&str, &str>) -> Vec<String> {
    let known = || FIELDS.iter().map(|(name, _)| *name).chain(OTHERS);
    let mut out = Vec::new();
    for name in annotations.keys().filter(|name| !known().any(|known| known == **name)) {
        let nearest = known()
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .min()
            .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2);
        let hint = match nearest {
            Some((_, nearest)) => format!("did you mean {PREFIX}{nearest}?"),
            None => format!("known are {PREFIX}{}", known().collect::<Vec<_>>().join(", ")),
        };
        out.push(format!("{PREFIX}{name}: there is no such annotation; {hint}"));
    }
    out
}

/// Reads the annotations; every wrong one is in the error.
pub(super) fn read(annotations: &BTreeMap<&str, &str>) -> Result<Settings, Vec<String>> {
    let mut problems = Vec::new();
    let on_missing_key = match annotations.get("on-missing-key").copied() {
        // Replicas come and go, so a name is not compared with those that are there.
        Some(name) if !matches!(name, "spread" | "reject" | "") => {
            Some(OnMissing::Replica(name.to_owned()))
        }
        _ => None,
    };
    let mut service = match service(annotations, on_missing_key.is_some()) {
        Ok(service) => Some(service),
        Err(found) => {
            problems.extend(found);
            None
        }
    };
    if let (Some(service), Some(on_missing_key)) = (&mut service, on_missing_key) {
        service.on_missing_key = on_missing_key;
    }
    let mut flag = |name: &str| match annotations.get(name).copied() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            problems.push(format!("{PREFIX}{name}: {other:?}; write \"true\" or \"false\""));
            false
        }
    };
    let (node_port, cluster_ip) = (flag("node-port"), flag("cluster-ip"));
    let identity = match annotations.get("identity").copied() {
        None | Some("auto") => Identity::Auto,
        Some("name") => Identity::Name,
        Some("uid") => Identity::Uid,
        Some(other) => {
            problems
                .push(format!("{PREFIX}identity: {other:?}; write \"auto\", \"name\" or \"uid\""));
            Identity::Auto
        }
    };
    match service {
        Some(service) if problems.is_empty() => {
            Ok(Settings { service, node_port, cluster_ip, identity })
        }
        _ => Err(problems),
    }
}

/// The file that says the same, read by the file's parser.
fn service(
    annotations: &BTreeMap<&str, &str>,
    without_missing: bool,
) -> Result<Service, Vec<String>> {
    let mut table = toml::Table::new();
    for (name, field) in FIELDS {
        let Some(text) = annotations.get(name).copied() else { continue };
        if field == "on_missing_key" && without_missing {
            continue;
        }
        let value = match field {
            "key" => key(text).map_err(|e| vec![format!("{PREFIX}{name}: {e}")])?,
            "proxy_protocol_from" => several(text).into(),
            "mss" | "width" => text.trim().parse().map_or(text.into(), toml::Value::Integer),
            _ => text.into(),
        };
        table.insert(field.into(), value);
    }
    if !table.contains_key("policy") {
        let policy = if table.contains_key("key") { "home" } else { "spread" };
        table.insert("policy".into(), policy.into());
    }
    // What is not the annotations' to say; taken out again.
    table.insert("name".into(), "x".into());
    table.insert("addresses".into(), vec!["192.0.2.1"].into());
    table.insert("port".into(), 80.into());
    let mut root = toml::Table::new();
    root.insert("interfaces".into(), vec!["x"].into());
    root.insert("service".into(), vec![table].into());
    let mut config = Config::parse(&root.to_string(), "").map_err(|e| {
        let annotation = |problem: crate::plan::config::Problem| {
            let field = problem.field.strip_prefix("service[0].").unwrap_or(&problem.field);
            format!("{PREFIX}{}: {}", field.replace('_', "-"), problem.message)
        };
        e.problems.into_iter().map(annotation).collect::<Vec<_>>()
    })?;
    let mut service = config.services.pop().expect("the file has one service");
    (service.name, service.addresses, service.port) = (String::new(), Vec::new(), 0);
    Ok(service)
}

/// One key source, several with commas between them, or a list as in the file.
fn key(text: &str) -> Result<toml::Value, String> {
    let text = text.trim();
    if text.starts_with('[') {
        return text.parse::<toml::Value>().map_err(|e| {
            format!("{text:?} is no list: {}; write [\"query:chat\", \"client\"]", e.message())
        });
    }
    Ok(match several(text).as_slice() {
        [only] => (*only).into(),
        all => all.to_vec().into(),
    })
}

/// What stands between commas.
fn several(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).collect()
}
