//! Checks across fields and services.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
};

use super::{
    model::{OnMissing, Service},
    reader::Field,
};

/// Where the values are, for checks across fields.
pub(super) struct ServiceFields<'a> {
    pub(super) name: Option<Field<'a>>,
    pub(super) addresses: Vec<Field<'a>>,
    pub(super) on_missing_key: Option<Field<'a>>,
    pub(super) replicas: Vec<ReplicaFields<'a>>,
}

/// Where the values of a replica are.
pub(super) struct ReplicaFields<'a> {
    pub(super) name: Option<Field<'a>>,
    pub(super) addresses: Vec<Field<'a>>,
}

/// Notes what does not fit together.
pub(super) fn across(services: &[(Service, ServiceFields<'_>)]) {
    service_names(services);
    vips(services);
    for (service, fields) in services {
        replica_names(service, fields);
        endpoints(service, fields, services);
        families(service, fields);
        on_missing_key(service, fields);
    }
}

fn service_names(services: &[(Service, ServiceFields<'_>)]) {
    for (i, (service, fields)) in services.iter().enumerate() {
        let first = services[..i].iter().position(|(other, _)| other.name == service.name);
        if let (Some(first), Some(field)) = (first, &fields.name) {
            let name = &service.name;
            field
                .refuse(format!("{name:?} is also the name of service[{first}]; names are unique"));
        }
    }
}

/// The same prefix and port twice. Overlaps are fine: the longest prefix wins.
fn vips(services: &[(Service, ServiceFields<'_>)]) {
    let mut owners = HashMap::new();
    for (service, fields) in services {
        for (prefix, field) in service.addresses.iter().zip(&fields.addresses) {
            match owners.entry((*prefix, service.port)) {
                Entry::Vacant(entry) => {
                    entry.insert(&service.name);
                }
                Entry::Occupied(entry) => field.refuse(format!(
                    "\"{prefix}\" with port {} already belongs to service {:?}; one of them needs \
                     another address or port",
                    service.port,
                    entry.get()
                )),
            }
        }
    }
}

fn replica_names(service: &Service, fields: &ServiceFields<'_>) {
    for (i, replica) in service.replicas.iter().enumerate() {
        let Some(field) = &fields.replicas[i].name else { continue };
        let name = &replica.name;
        if service.replicas[..i].iter().any(|other| other.name == *name) {
            field.refuse(format!(
                "{name:?} is already a replica of this service; a name is an identity, give each \
                 its own (one replica can have an IPv4 and an IPv6 address: address = [\"...\", \
                 \"...\"])"
            ));
        } else if name == "spread" || name == "reject" {
            field
                .refuse(format!("{name:?} means something else in on_missing_key; choose another"));
        }
    }
}

fn endpoints(
    service: &Service,
    fields: &ServiceFields<'_>,
    services: &[(Service, ServiceFields<'_>)],
) {
    let mut seen: HashMap<(IpAddr, u16), &str> = HashMap::new();
    for (replica, fields) in service.replicas.iter().zip(&fields.replicas) {
        for (addr, field) in replica.addresses.iter().zip(&fields.addresses) {
            let port = replica.port;
            if let Some(other) = seen.insert((*addr, port), &replica.name) {
                field.refuse(format!(
                    "\"{addr}\" with port {port} is also replica {other:?}; two identities of one \
                     endpoint would split a chat"
                ));
            }
            let vip = services.iter().find(|(other, _)| {
                other.port == port && other.addresses.iter().any(|p| p.contains(addr))
            });
            if let Some((other, _)) = vip {
                field.refuse(format!(
                    "\"{addr}\" with port {port} is itself an address of service {:?}; write where \
                     the replica listens",
                    other.name
                ));
            }
        }
    }
}

/// The data path does not translate between families, and any client may have any chat.
fn families(service: &Service, fields: &ServiceFields<'_>) {
    let name = &service.name;
    for ipv4 in [true, false] {
        let (family, other) = if ipv4 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let Some(vip) = service.addresses.iter().find(|p| p.addr().is_ipv4() == ipv4) else {
            continue;
        };
        for (replica, fields) in service.replicas.iter().zip(&fields.replicas) {
            let Some(only) = replica.addresses.first() else { continue };
            if replica.addresses.iter().any(|addr| addr.is_ipv4() == ipv4) {
                continue;
            }
            let both = service.addresses.iter().any(|p| p.addr().is_ipv4() != ipv4);
            let right = if both {
                format!("give both, address = [\"{only}\", an {family} one]")
            } else {
                format!("give an {family} one, or let the service have {other} addresses only")
            };
            if let Some(field) = fields.addresses.first() {
                field.refuse(format!(
                    "replica {:?} has no {family} address and cannot serve clients of \"{vip}\" of \
                     service {name:?}: families are not translated; {right}",
                    replica.name
                ));
            }
        }
    }
}

fn on_missing_key(service: &Service, fields: &ServiceFields<'_>) {
    let (OnMissing::Replica(name), Some(field)) = (&service.on_missing_key, &fields.on_missing_key)
    else {
        return;
    };
    if service.replicas.iter().all(|r| r.name != *name) {
        let known: Vec<_> = service.replicas.iter().map(|r| format!("{:?}", r.name)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        field.refuse(format!(
            "{name:?} is no replica of this service; write \"spread\", \"reject\" or one of its \
             replicas ({known})"
        ));
    }
}
