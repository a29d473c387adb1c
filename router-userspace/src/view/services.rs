//! The services and their replicas.

use std::collections::BTreeMap;

use anyhow::Result;
use router_ebpf::maps::{MISSING_REPLICA, NO_REPLICA, SERVICE_SHARES, SLOT_COUNT, Service};
use serde::Serialize;

use super::decode;
use crate::{
    maps::{
        names::{self, Names},
        read,
        tables::Tables,
        text,
    },
    plan::addr::of_replica,
    tend::Load,
};

/// A service as the kernel has it. JSON: an array of these.
#[derive(Debug, Serialize)]
pub struct ServiceLine {
    /// Its name.
    pub service: String,
    /// Its number in the maps.
    pub number: u32,
    /// Its addresses or prefixes; with another port than `port`, that is behind the address.
    pub addresses: Vec<String>,
    /// Its port, 0 if it has no address.
    pub port: u16,
    /// From where clients may connect; null: from anywhere.
    pub allowed_sources: Option<Vec<String>>,
    /// Prefixes of those that send the PROXY protocol.
    pub proxy_protocol_from: Vec<String>,
    /// `spread` or `home`.
    pub policy: String,
    /// Where the key comes from: the first that yields one.
    pub key_sources: Vec<String>,
    /// `spread`, `reject`, or the name of a replica.
    pub on_missing_key: String,
    /// What becomes of a request for another chat on a connection that is used again: `stay` or `reset`.
    pub on_reuse: String,
    /// How many parts each chat has, unless `roost chat width` says otherwise.
    pub width: u16,
    /// Replicas, draining ones too.
    pub replicas: usize,
    /// Replicas that take new chats.
    pub usable: u32,
    /// Its live flows.
    pub flows: u32,
    /// Its chats with a home, those that linger too.
    pub chats: u32,
    /// How many times its slot table was published.
    pub generation: u32,
    /// Digest of its slot table, equal on every node.
    pub digest: String,
    /// Seconds after which an idle flow is ended.
    pub idle_timeout_s: u32,
    /// Seconds for which a replica may take to accept.
    pub handshake_timeout_s: u32,
    /// Seconds after which a flow is ended whose client has closed and is silent.
    pub client_closed_timeout_s: u32,
    /// The same for a flow whose replica has closed.
    pub replica_closed_timeout_s: u32,
    /// The same for a flow that both have closed.
    pub closing_timeout_s: u32,
    /// Seconds for which a chat holds its home after its last flow has ended.
    pub linger_s: u32,
    /// MSS announced to IPv4 clients.
    pub mss4: u16,
    /// MSS announced to IPv6 clients.
    pub mss6: u16,
}

/// What `roost services` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ServicesReport(pub Vec<ServiceLine>);

/// Reads all services.
pub fn services(tables: &Tables) -> Result<ServicesReport> {
    let names = Names::read(tables)?;
    let mut vips: BTreeMap<u32, Vec<(String, u16)>> = BTreeMap::new();
    for ((bits, vip), number) in read::vips(tables)? {
        let vip = (decode::prefix(bits, &vip), u16::from_be_bytes(vip.port));
        vips.entry(number).or_default().push(vip);
    }
    let mut addresses: BTreeMap<u32, (Vec<String>, u16)> =
        vips.into_iter().map(|(number, vips)| (number, with_port(vips))).collect();
    let [mut clients, mut proxies] = read::ranges(tables)?;
    let line = |(number, service): (&u32, &Service)| {
        let (addresses, port) = addresses.remove(number).unwrap_or_default();
        let of_service = |replica: &&_| is_of(replica, *number);
        let held = tables.shares.get(SERVICE_SHARES + number)?;
        Ok(ServiceLine {
            service: text::name(&service.name),
            number: *number,
            addresses,
            port,
            allowed_sources: (service.restricted != 0)
                .then(|| clients.remove(number).unwrap_or_default()),
            proxy_protocol_from: proxies.remove(number).unwrap_or_default(),
            policy: names::policy(service.policy),
            key_sources: names::key_sources(service),
            on_missing_key: match service.on_missing_key {
                MISSING_REPLICA => names.replica(service.missing_replica),
                other => names::on_missing_key(other),
            },
            on_reuse: names::on_reuse(service.on_reuse),
            width: service.width.max(1),
            replicas: names.replicas.values().filter(of_service).count(),
            usable: service.usable,
            flows: held.flows,
            chats: held.chats,
            generation: service.generation,
            digest: text::hex(service.digest),
            idle_timeout_s: service.idle_timeout,
            handshake_timeout_s: service.handshake_timeout,
            client_closed_timeout_s: service.client_closed_timeout,
            replica_closed_timeout_s: service.replica_closed_timeout,
            closing_timeout_s: service.closing_timeout,
            linger_s: service.linger,
            mss4: service.mss4,
            mss6: service.mss6,
        })
    };
    Ok(ServicesReport(names.services.iter().map(line).collect::<Result<_>>()?))
}

/// The addresses and their port: the lowest, if there are several. Others, which are node ports, are
/// written behind their address.
fn with_port(vips: Vec<(String, u16)>) -> (Vec<String>, u16) {
    let own = vips.iter().map(|(_, port)| *port).min().unwrap_or_default();
    let text = |(prefix, port): (String, u16)| match prefix {
        prefix if port == own => prefix,
        prefix if prefix.contains(':') => format!("[{prefix}]:{port}"),
        prefix => format!("{prefix}:{port}"),
    };
    (vips.into_iter().map(text).collect(), own)
}

fn is_of(replica: &router_ebpf::maps::Replica, service: u32) -> bool {
    replica.service == service && replica.state != router_ebpf::maps::REPLICA_GONE
}

/// A replica and what it carries. JSON: an array of these.
#[derive(Debug, Serialize)]
pub struct ReplicaLine {
    /// Its service.
    pub service: String,
    /// Its identity.
    pub replica: String,
    /// Its number in the maps.
    pub number: u32,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<String>,
    /// The port that it listens on.
    pub port: u16,
    /// `ready`, `draining` or `gone`.
    pub state: String,
    /// Its weight.
    pub weight: u32,
    /// Slots that it owns.
    pub slots: usize,
    /// Chats that have their home here, with those that linger.
    pub chats: usize,
    /// Live flows.
    pub flows: usize,
}

/// What `roost replicas` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ReplicasReport(pub Vec<ReplicaLine>);

/// Reads all replicas and what they carry, which the kernel counts.
pub fn replicas(tables: &Tables) -> Result<ReplicasReport> {
    let names = Names::read(tables)?;
    let mut slots = vec![0; tables.replicas.room() as usize];
    for service in names.services.values().filter(|service| service.slots != NO_REPLICA) {
        let end = service.slots.saturating_add(SLOT_COUNT);
        for replica in tables.slots.range(service.slots..end)? {
            if let Some(slots) = slots.get_mut(replica as usize) {
                *slots += 1;
            }
        }
    }
    let load = Load::read(tables, &names.replicas)?;
    let carried = |number| load.replicas.get(number).copied().unwrap_or_default();
    let mut lines: Vec<ReplicaLine> = names
        .replicas
        .iter()
        .map(|(number, replica)| ReplicaLine {
            service: names.service(replica.service),
            replica: text::name(&replica.name),
            number: *number,
            addresses: of_replica(replica).map(|addr| addr.to_string()).collect(),
            port: u16::from_be_bytes(replica.port),
            state: names::replica_state(replica.state),
            weight: replica.weight,
            slots: slots.get(*number as usize).copied().unwrap_or(0),
            chats: carried(number).chats,
            flows: carried(number).flows,
        })
        .collect();
    lines.sort_by(|a, b| {
        (&a.service, &a.replica, a.number).cmp(&(&b.service, &b.replica, b.number))
    });
    Ok(ReplicasReport(lines))
}
