//! What the numbers in the maps mean: services, replicas and the words for constants.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use router_ebpf::{
    maps::{
        Chat, FLOW_CHAT, FLOW_EXCHANGE, FLOW_REQUESTS, MISSING_REJECT, MISSING_REPLICA,
        MISSING_SPREAD, NO_REPLICA, OFFER_SACK, OFFER_SCALE, OFFER_TIMESTAMPS,
        PENDING_ACKNOWLEDGED, PENDING_AGAIN, PENDING_REFUSED, POLICY_HOME, POLICY_SPREAD,
        REPLICA_DRAINING, REPLICA_GONE, REPLICA_READY, REUSE_REBIND, REUSE_RESET, REUSE_STAY,
        Replica, STATE_CHANGING, STATE_CLIENT_FIN, STATE_CLIENT_FIN_ACKED, STATE_CLOSED,
        STATE_COUNTED, STATE_DOUBT, STATE_EXCHANGE, STATE_EXPIRED, STATE_HEAD, STATE_LEAVING,
        STATE_MOVING, STATE_REPLICA_FIN, STATE_REPLICA_FIN_ACKED, STATE_SYN_SEEN, STATE_SYN_TICK,
        STATE_UPGRADED, Service,
    },
    source::{self, KeyKind, Shape},
};

use super::text;
use crate::{
    maps::{read, tables::Tables},
    plan::config::KeySource,
};

/// Services and replicas by their numbers.
#[derive(Debug, Default)]
pub struct Names {
    /// Services by number.
    pub services: BTreeMap<u32, Service>,
    /// Replicas by number, without the free numbers.
    pub replicas: BTreeMap<u32, Replica>,
}

impl Names {
    /// Reads them from the maps.
    pub fn read(tables: &Tables) -> Result<Self> {
        let replicas = tables.all_replicas()?;
        Ok(Self {
            services: read::sorted(&tables.services)?,
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

    /// A readable key of a service, of which nobody knows what kind it is.
    pub fn key(&self, service: u32, key: &router_ebpf::maps::Name) -> String {
        let source = self.services.get(&service).and_then(addresses);
        text::key(source.map_or(Shape::Text, KeySource::shape), key)
    }

    /// The readable key of a chat of a service.
    pub fn chat(&self, service: u32, chat: &Chat) -> String {
        match u8::try_from(chat.source) {
            Ok(kind) if kind != source::NONE => {
                let shape = KeyKind::from_map(kind).map_or(Shape::Text, KeyKind::shape);
                text::key(shape, &chat.key)
            }
            _ => self.key(service, &chat.key),
        }
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

/// The word for a `REUSE_*`.
pub fn on_reuse(reuse: u8) -> String {
    let words = [(REUSE_STAY, "stay"), (REUSE_RESET, "reset"), (REUSE_REBIND, "rebind")];
    word(reuse, &words)
}

/// The key sources as the configuration writes them: `query:chat`, `client`, ...
pub fn key_sources(service: &Service) -> Vec<String> {
    KeySource::of_service(service).map(|source| source.to_string()).collect()
}

/// The key source of a service that takes addresses and ports for a key. There is one at the most.
pub fn addresses(service: &Service) -> Option<KeySource> {
    KeySource::of_service(service).find(|source| source.always_yields())
}

/// The word for a kind of key source, as the configuration begins it; none if it is not known.
pub fn key_kind(kind: u32) -> Option<String> {
    let words: Vec<_> = KeyKind::ALL.iter().map(|kind| (*kind as u8, kind.word())).collect();
    (kind != u32::from(source::NONE)).then(|| word(u8::try_from(kind).unwrap_or(u8::MAX), &words))
}

/// The words for `STATE_*` bits; none for a flow that is simply open.
pub fn flow_state(state: u32) -> Vec<String> {
    let words = [
        (STATE_CLIENT_FIN, "client_fin"),
        (STATE_REPLICA_FIN, "replica_fin"),
        (STATE_CLOSED, "closed"),
        (STATE_SYN_SEEN, "syn_seen"),
        (STATE_EXPIRED, "expired"),
        (STATE_UPGRADED, "upgraded"),
        (STATE_CLIENT_FIN_ACKED, "client_fin_acked"),
        (STATE_REPLICA_FIN_ACKED, "replica_fin_acked"),
        (STATE_COUNTED, "counted"),
        (STATE_EXCHANGE, "exchange"),
        (STATE_DOUBT, "doubt"),
        (STATE_LEAVING, "leaving"),
        (STATE_MOVING, "moving"),
        (STATE_CHANGING, "changing"),
        (STATE_HEAD, "head"),
    ];
    // When that SYN came stands beside its bit.
    bits(state & !STATE_SYN_TICK, &words)
}

/// The words for `OFFER_*` bits.
pub fn offers(offers: u8) -> Vec<String> {
    let words = [(OFFER_TIMESTAMPS, "timestamps"), (OFFER_SACK, "sack"), (OFFER_SCALE, "scale")];
    bits(offers.into(), &words.map(|(bit, word)| (bit.into(), word)))
}

/// The words for the bits of `Flow::flags` and `Pending::flags`.
pub fn flags(flags: u8) -> Vec<String> {
    let words = [
        (FLOW_CHAT, "chat"),
        (FLOW_REQUESTS, "requests"),
        (FLOW_EXCHANGE, "exchange"),
        (PENDING_REFUSED, "refused"),
        (PENDING_AGAIN, "again"),
        (PENDING_ACKNOWLEDGED, "acknowledged"),
    ];
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
        assert_eq!(flow_state(STATE_CLIENT_FIN | 0x10_0000), ["client_fin", "unknown(0x100000)"]);
    }

    #[test]
    fn numbers_without_a_name_stay_numbers() {
        let names = Names::default();
        assert_eq!(names.service(3), "#3");
        assert_eq!(names.replica(7), "#7");
        assert_eq!(names.replica(NO_REPLICA), "-");
    }
}
