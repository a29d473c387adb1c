//! Where the bytes of a connection belong: their key, and what the tables say of that.

use crate::{
    ingress::listed,
    key::{self, Reason, Search},
    maps::{PROXIES, Service},
    scratch::Scratch,
    steer::{NoRoute, Routed, steer, tuple_hash},
    tables::FlowTables,
};

/// Finds where the connection with the bytes in `scratch.stash` goes. `last`: no more bytes will
/// come, for this reason.
#[inline(never)]
pub fn route(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    last: Option<Reason>,
) -> Option<Routed> {
    let service = tables.service(scratch.service)?;
    let secrets = tables.secrets()?;
    scratch.missing = 0;
    note_proxy(tables, scratch, service);
    let tuple_hash = tuple_hash(&secrets.chat, &scratch.vip_side);
    let key_hash = match key::search(tables, service, last, scratch) {
        Search::Found => Some(scratch.key.hash(&secrets.chat)),
        Search::More => return Some(Routed::More),
        Search::Missing(reason) => {
            scratch.missing = reason as u32;
            None
        }
    };
    let number = scratch.service;
    let route = &mut scratch.route;
    Some(match steer(tables, number, service, tuple_hash, key_hash, &secrets.chat, route) {
        Ok(()) => Routed::Yes,
        Err(NoRoute::MissingKey) => Routed::MissingKey,
        Err(NoRoute::NoReplica) => Routed::NoReplica,
    })
}

/// Notes whether the connection begins with the PROXY protocol: it comes from where the service's
/// `proxy_protocol_from` says so.
#[inline(always)]
fn note_proxy(tables: &impl FlowTables, scratch: &mut Scratch, service: &Service) {
    scratch.from_proxy = 0;
    if service.proxied != 0 {
        let list = scratch.service | PROXIES;
        scratch.from_proxy = listed(tables, list, &scratch.vip_side.client, &mut scratch.source);
    }
}
