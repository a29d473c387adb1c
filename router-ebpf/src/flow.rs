//! How flows end.

use crate::{
    chats,
    maps::{FLOW_CHAT, Flow, STATE_CLIENT_FIN, STATE_CLOSED, STATE_EXPIRED, STATE_REPLICA_FIN},
    shared::Shared,
    steer::chat_key,
    tables::FlowTables,
    verdict::Counter,
};

/// Notes a FIN; the second one ends the flow.
#[inline(always)]
pub fn note_fin(tables: &impl FlowTables, flow: Shared<Flow>, bit: u32) {
    const BOTH: u32 = STATE_CLIENT_FIN | STATE_REPLICA_FIN;
    if (flow.set_state(bit) | bit) & BOTH == BOTH && end(tables, flow) {
        tables.count(Counter::Closed);
    }
}

/// Ends a flow, once: it counts for its chat no longer. Returns whether it was live.
#[inline(always)]
pub fn end(tables: &impl FlowTables, shared: Shared<Flow>) -> bool {
    const ENDED: u32 = STATE_CLOSED | STATE_EXPIRED;
    if shared.set_state(STATE_CLOSED) & ENDED != 0 {
        return false;
    }
    let flow = shared.get();
    if flow.flags & FLOW_CHAT != 0 {
        chats::release(tables, &chat_key(flow.service, flow.cookie), flow.replica);
    }
    true
}
