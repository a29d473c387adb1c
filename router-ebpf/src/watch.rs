//! Connections that are used again. A connection goes where its first request belongs; a client that
//! keeps it alive may later ask for the upgrade of a chat that lives elsewhere. It cannot be moved any
//! more, but it is seen.

use crate::{
    key::{self, Kind, Reason},
    maps::{Flow, PART, STATE_UPGRADED},
    packet::Packet,
    route::route,
    scratch::Scratch,
    shared::Shared,
    steer::Routed,
    tables::FlowTables,
    verdict::Counter,
};

/// Looks at a segment of a flow that was bound by an HTTP request. A request that is not in one
/// segment is not recognised.
#[inline(never)]
pub fn watch<P: Packet>(
    packet: &P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
) -> Option<()> {
    let segment = &scratch.segment;
    let at = segment.l4() + segment.header_len();
    let len = segment.payload_len();
    if len == 0 || flow.state() & STATE_UPGRADED != 0 || packet.read(at)? != *b"GET " {
        return None;
    }
    let len = len.min(PART);
    scratch.stash.clear(0, segment.seq.wrapping_sub(1), 0, 0);
    packet.load(at, scratch.stash.bytes_mut(0), len)?;
    scratch.stash.add(0, len as u32);
    let (number, home) = (flow.get().service, flow.get().replica);
    let service = tables.service(number)?;
    if key::kind(tables, service, scratch) != Kind::Upgrade {
        return None;
    }
    if flow.set_state(STATE_UPGRADED) & STATE_UPGRADED != 0 {
        // Another CPU has the same segment, come again.
        return None;
    }
    scratch.service = number;
    let routed = route(tables, scratch, Some(Reason::TooLong))?;
    let route = &scratch.route;
    // A chat of several parts is at home on several replicas: there is nothing to be violated.
    let is_whole = route.chat != 0 && route.width <= 1;
    if routed == Routed::Yes && is_whole && route.replica != home {
        tables.count(Counter::AffinityViolation);
    }
    Some(())
}
