//! Where a later request belongs: where its connection is, at another replica, or nowhere. Asked of a request whose first
//! segment is in hand, and again of one whose key only its later segments tell.

use crate::{
    first::read_head,
    ingress::is_gone,
    maps::{Flow, POLICY_HOME, REUSE_REBIND, REUSE_RESET, REUSE_STAY, STATE_REPLICA_FIN, Service},
    request::{Head, Place, Read},
    route::route,
    scratch::Scratch,
    shared::Shared,
    steer::{Route, Routed, Why},
    tables::FlowTables,
    verifier::reread,
};

/// Where the request in `scratch.stash` belongs, of which `known` bytes are there and were read into `scratch.head`.
#[inline(always)]
pub fn place(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    known: u32,
) -> Option<Place> {
    if is_bound_to_stay(scratch.head.read(), known) {
        return Some(Place::Here);
    }
    scratch.service = flow.get().service;
    let service = tables.service(scratch.service)?;
    if leaves_alone(service) {
        return Some(Place::Always);
    }
    let on_reuse = service.on_reuse;
    // Of a head that is not whole nothing is missing yet.
    let routed = route(tables, scratch, None)?;
    Some(compare(scratch, flow.get(), on_reuse, routed))
}

/// Where nobody can tell where a request ends, its key may be anything; and what is behind it goes where it goes.
#[inline(always)]
const fn is_bound_to_stay(head: Read, known: u32) -> bool {
    match head {
        Read::Whole { head, body } => known.wrapping_sub(head) > body,
        Read::Doubt(_) => true,
        Read::More => false,
    }
}

/// Whether a service leaves connections where they are by now.
#[inline(always)]
const fn leaves_alone(service: &Service) -> bool {
    service.on_reuse == REUSE_STAY || service.policy != POLICY_HOME
}

/// What a route says of a request beside where its connection is. A chat is where its flow is; a connection without one may be
/// anywhere.
#[inline(always)]
fn compare(scratch: &Scratch, flow: &Flow, on_reuse: u8, routed: Routed) -> Place {
    let &Flow { replica, cookie, .. } = flow;
    let route = &scratch.route;
    let is_here = match routed {
        Routed::Yes if matches!(route.why, Why::MissingKey) => route.replica == replica,
        Routed::Yes => scratch.missing != 0 || route.cookie == cookie,
        Routed::MissingKey => return Place::Nowhere,
        // There is nothing better.
        Routed::NoReplica => true,
        Routed::More => return Place::Unknown,
    };
    match on_reuse {
        _ if is_here => Place::Here,
        REUSE_RESET => Place::Nowhere,
        _ if route.replica == replica => Place::Beside,
        _ => Place::Elsewhere,
    }
}

/// Decides about a request whose connection waits for it, by all that is known of it: the place is in `scratch.place`.
/// `scratch.found` is what the search for its key came to, and becomes where it goes: if it stays, that is where its connection is.
#[inline(never)]
pub fn settle(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<()> {
    scratch.place = Place::Unknown;
    // More of it may come.
    if reread(&scratch.found) == Routed::More && reread(&scratch.acknowledges) == 0 {
        return Some(());
    }
    let known = scratch.stash.get().known;
    let Scratch { stash, chunk_key, head, .. } = &mut *scratch;
    *head = Head::NEW;
    if !stash.load_all(tables, chunk_key, 0, known) {
        return None;
    }
    read_head(tables, scratch, 0, known);
    // Nobody waits any more.
    scratch.place = Place::Nowhere;
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return Some(());
    };
    let (read, found, replica) = (scratch.head.read(), scratch.found, flow.get().replica);
    let service = tables.service(scratch.service)?;
    scratch.place = if is_bound_to_stay(read, known) {
        Place::Here
    } else if leaves_alone(service) {
        Place::Always
    } else {
        compare(scratch, flow.get(), service.on_reuse, found)
    };
    scratch.place = match reread(&scratch.place) {
        // It has an end that the search for its key does not see.
        Place::Unknown if !matches!(read, Read::More) => Place::Here,
        // Nobody could answer behind a FIN.
        Place::Elsewhere if flow.state() & STATE_REPLICA_FIN != 0 => Place::Nowhere,
        place => place,
    };
    if !matches!(reread(&scratch.place), Place::Here | Place::Always) {
        return Some(());
    }
    if !is_gone(tables, replica) {
        scratch.found = Routed::Yes;
        scratch.route = Route { replica, ..Route::NONE };
        scratch.missing = 0;
        return Some(());
    }
    // It has gone while the connection waited.
    let may_move = found == Routed::Yes
        && scratch.route.replica != replica
        && service.on_reuse == REUSE_REBIND;
    scratch.place = if may_move { Place::Elsewhere } else { Place::Nowhere };
    Some(())
}
