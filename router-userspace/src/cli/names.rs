//! What the numbers in the maps mean: services, replicas and the words for constants.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use router_ebpf::maps::{
    FLOW_CHAT, KEY_CLIENT, KEY_DESTINATION, KEY_QUERY, KEY_TUPLE, MISSING_REJECT, MISSING_REPLICA,
    MISSING_SPREAD, NO_REPLICA, OFFER_SACK, OFFER_SCALE, OFFER_TIMESTAMPS, PENDING_REFUSED,
    POLICY_HOME, POLICY_SPREAD, REPLICA_DRAINING, REPLICA_GONE, REPLICA_READY, Replica,
    STATE_CLIENT_FIN, STATE_CLOSED, STATE_EXPIRED, STATE_REPLICA_FIN, STATE_SYN_SEEN, Service,
};

use super::{read, text};
use crate::tables::Tables;

/// Services and replicas by their numbers.
#[derive(Default)]
pub struct Names {
    /// Services by number.
    pub services: BTreeMap<u32, Service>,
    /// Replicas by number, without the free numbers.
    pub replicas: BTreeMap<u32, Replica>,
}

impl Names {
    /// Reads them from the maps.
    pub fn read(tables: &Tables) -> Result<Self> {
        let replicas = tables.all_replicas().context("cannot read map REPLICAS")?;
        Ok(Self {
            services: read::sorted(&tables.services, "SERVICES")?,
            replicas: replicas.into_iter().collect(),
        })
    }

    /// The name of a service; its number if there is no such service any more.
    pub fn service(&self, number: u32) -> String {
        match self.services.get(&number) {
            Some(service) => text::name(&service.name),
            None => format!("#{number}"),
        }
    }

    /// The name of a replica; its number if there is no such replica any more.
    pub fn replica(&self, number: u32) -> String {
        match self.replicas.get(&number) {
            Some(replica) => text::name(&replica.name),
            None if number == NO_REPLICA => text::NONE.to_owned(),
            None => format!("#{number}"),
        }
    }

    /// The service with this name, and its number.
    pub fn find(&self, name: &str) -> Result<(u32, Service)> {
        let named = |service: &Service| text::name(&service.name) == name;
        if let Some((number, service)) = self.services.iter().find(|(_, service)| named(service)) {
            return Ok((*number, *service));
        }
        let known = self.services.values().map(|service| text::name(&service.name));
        let mut known: Vec<String> = known.collect();
        known.sort();
        match known.as_slice() {
            [] => bail!("there is no service `{name}`, nor any other"),
            known => bail!("there is no service `{name}`; there are: {}", known.join(", ")),
        }
    }

    /// Refuses the name of a service that is not there: an empty list would hide a slip.
    pub fn check(&self, service: Option<&str>) -> Result<()> {
        service.map_or(Ok(()), |name| self.find(name).map(drop))
    }

    /// The readable key of a chat of a service.
    pub fn key(&self, service: u32, key: &router_ebpf::maps::Name) -> String {
        let source = self.services.get(&service).map_or(KEY_QUERY, |service| service.key_source);
        text::key(source, key)
    }
}

/// The word for a `POLICY_*`.
pub fn policy(policy: u8) -> String {
    word(policy, &[(POLICY_SPREAD, "spread"), (POLICY_HOME, "home")])
}

/// The word for a `REPLICA_*`.
pub fn replica_state(state: u8) -> String {
    let words = [(REPLICA_READY, "ready"), (REPLICA_DRAINING, "draining"), (REPLICA_GONE, "gone")];
    word(state, &words)
}

/// The word for a `MISSING_*`.
pub fn on_missing_key(missing: u8) -> String {
    let words =
        [(MISSING_SPREAD, "spread"), (MISSING_REJECT, "reject"), (MISSING_REPLICA, "replica")];
    word(missing, &words)
}

/// A key source as the configuration writes it: `query:chat`, `client`, ...
pub fn key_source(service: &Service) -> String {
    let words = [(KEY_CLIENT, "client"), (KEY_DESTINATION, "destination"), (KEY_TUPLE, "tuple")];
    if service.key_source == KEY_QUERY {
        return format!("query:{}", param(service));
    }
    word(service.key_source, &words)
}

/// The name of the query parameter.
pub fn param(service: &Service) -> String {
    let len = usize::from(service.param_len).min(service.param.len());
    text::escape(&service.param[..len])
}

/// The words for `STATE_*` bits; none for a flow that is simply open.
pub fn flow_state(state: u32) -> Vec<String> {
    let words = [
        (STATE_CLIENT_FIN, "client_fin"),
        (STATE_REPLICA_FIN, "replica_fin"),
        (STATE_CLOSED, "closed"),
        (STATE_SYN_SEEN, "syn_seen"),
        (STATE_EXPIRED, "expired"),
    ];
    bits(state, &words)
}

/// The words for `OFFER_*` bits.
pub fn offers(offers: u8) -> Vec<String> {
    let words = [(OFFER_TIMESTAMPS, "timestamps"), (OFFER_SACK, "sack"), (OFFER_SCALE, "scale")];
    bits(offers.into(), &words.map(|(bit, word)| (bit.into(), word)))
}

/// The words for the bits of `Flow::flags` and `Pending::flags`.
pub fn flags(flags: u8) -> Vec<String> {
    let words = [(FLOW_CHAT, "chat"), (PENDING_REFUSED, "refused")];
    bits(flags.into(), &words.map(|(bit, word)| (bit.into(), word)))
}

fn word(value: u8, words: &[(u8, &str)]) -> String {
    let found = words.iter().find(|(of, _)| *of == value);
    found.map_or_else(|| format!("unknown({value})"), |(_, word)| (*word).to_owned())
}

fn bits(value: u32, words: &[(u32, &str)]) -> Vec<String> {
    let set = words.iter().filter(|(bit, _)| value & bit != 0);
    let mut found: Vec<String> = set.map(|(_, word)| (*word).to_owned()).collect();
    let unknown = words.iter().fold(value, |rest, (bit, _)| rest & !bit);
    if unknown != 0 {
        found.push(format!("unknown({unknown:#x})"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_values_are_shown_and_not_hidden() {
        assert_eq!(policy(POLICY_HOME), "home");
        assert_eq!(policy(9), "unknown(9)");
        assert_eq!(flow_state(0), Vec::<String>::new());
        assert_eq!(flow_state(STATE_CLIENT_FIN | 64), ["client_fin", "unknown(0x40)"]);
    }

    #[test]
    fn numbers_without_a_name_stay_numbers() {
        let names = Names::default();
        assert_eq!(names.service(3), "#3");
        assert_eq!(names.replica(7), "#7");
        assert_eq!(names.replica(NO_REPLICA), "-");
    }
}
