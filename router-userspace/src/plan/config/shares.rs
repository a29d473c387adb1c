//! `[shares]`: who is one source, and who has no share.

use super::{
    prefix::Prefix,
    reader::{Field, Table},
    value,
};

/// How the tables are shared that a stranger could fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Clients of IPv4 with the same prefix of this length are one source.
    pub ipv4_prefix: u8,
    /// The same for IPv6.
    pub ipv6_prefix: u8,
    /// Clients that have no share but their service's.
    pub trusted_sources: Vec<Prefix>,
    /// The nodes and pods of the cluster that is followed are such clients, too.
    pub trust_cluster: bool,
}

impl Default for Shares {
    fn default() -> Self {
        Self { ipv4_prefix: 32, ipv6_prefix: 64, trusted_sources: Vec::new(), trust_cluster: true }
    }
}

/// Prefixes that the file may have: the map has room for the cluster's nodes beside them.
const MOST: usize = 4096;

/// Reads the table.
pub(super) fn shares(table: &Table<'_>) -> Shares {
    table.only(&["ipv4_prefix", "ipv6_prefix", "trusted_sources", "trust_cluster"]);
    let d = Shares::default();
    let length = |name: &str, most: i64, default: u8| {
        let value = table.get(name).and_then(|field| field.integer(1..=most));
        value.map_or(default, |value| value as u8)
    };
    Shares {
        ipv4_prefix: length("ipv4_prefix", 32, d.ipv4_prefix),
        ipv6_prefix: length("ipv6_prefix", 128, d.ipv6_prefix),
        trusted_sources: table
            .get("trusted_sources")
            .map(|list| trusted(&list))
            .unwrap_or_default(),
        trust_cluster: table
            .get("trust_cluster")
            .and_then(|field| field.boolean())
            .unwrap_or(d.trust_cluster),
    }
}

fn trusted(list: &Field<'_>) -> Vec<Prefix> {
    let items = list.list();
    if items.len() > MOST {
        list.refuse(format!("has {} prefixes; there may be {MOST}", items.len()));
    }
    let mut prefixes = Vec::new();
    for item in items {
        let Some(text) = item.text("a prefix of clients, \"10.0.0.0/8\",") else { continue };
        match value::source(text) {
            Ok(prefix) if prefixes.contains(&prefix) => {
                item.refuse(format!("{text:?} is listed twice; leave one out"));
            }
            Ok(prefix) => prefixes.push(prefix),
            Err(message) => item.refuse(message),
        }
    }
    prefixes
}
