//! A later head in several segments that belongs where its connection is after all. None of it has been there yet: its replica is
//! asked where it stands, by a byte that it has already, and its acknowledgement is turned around as a SYN-ACK is.

use crate::{
    accept::{Entered, Recalled, count_chat, deliver, recall, refuse, refused, waiting},
    chats,
    connect::is_at,
    egress::is_in_time,
    flow::end_change,
    hand::{When, next_chat},
    head::{forget, release},
    ingress::is_gone,
    maps::{
        FLOW_CHAT, FLOW_EXCHANGE, Flow, FlowBack, PENDING_READING, Pending, STATE_ENDED,
        STATE_HEAD, STATE_MOVING, Stash,
    },
    packet::Packet,
    request::{Doubt, Exchange, Standing},
    reuse::change,
    scratch::Scratch,
    shared::Shared,
    stash::Held,
    steer::chat_key,
    tables::FlowTables,
    translate::rescale,
    verdict::Counter,
    verifier::reread,
    wire::flags,
};

/// A replica's segment while its connection waits for what `PENDING` says, which is at that very replica: if it says that it stands
/// where it should, it gets the head.
#[inline(always)]
pub fn stay<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    let Some(pending) = tables.pending(&scratch.replica_side) else {
        return Some(Counter::EgressDropLeft);
    };
    scratch.pending = *pending.get();
    let Pending { vip, vip_port, client_isn, server_isn, .. } = scratch.pending;
    scratch.write_vip_side(&vip, vip_port);
    let Some(flow) = tables.flow(&scratch.vip_side) else {
        return Some(Counter::EgressDropLeft);
    };
    let Some((back, exchange)) = waiting(tables, scratch, flow, (client_isn, server_isn)) else {
        return Some(Counter::EgressDropLeft);
    };
    // Asked before another one was chosen, or it has gone: nothing of it counts any more.
    let replica = scratch.pending.replica;
    let is_its = |entry: Shared<Stash>| entry.get().replica == replica;
    if is_gone(tables, replica) || !tables.stash(&scratch.vip_side).is_none_or(is_its) {
        return Some(Counter::EgressDropLeft);
    }
    let ahead = scratch.segment.seq.wrapping_sub(flow.get().seq_delta).wrapping_sub(exchange.sent);
    if scratch.segment.has(flags::RST) {
        return match ahead {
            0 => is_refused(packet, tables, scratch),
            _ => Some(Counter::EgressDropLeft),
        };
    }
    let is_here = is_at(flow, scratch) && is_in_time(tables, &scratch.pending);
    if !is_here || (ahead as i32) < 0 || scratch.segment.ack != exchange.boundary {
        return Some(Counter::EgressDropLeft);
    }
    if scratch.pending.flags & FLOW_CHAT != 0 {
        // Who makes the map grow looks after it first.
        next_chat(tables, When::Due, &mut scratch.turn);
    }
    scratch.answer.parse(packet, &scratch.segment, &mut scratch.cursor)?;
    scratch.flow = *flow.get();
    scratch.back = *back.get();
    // As if its head had not been whole when it was bound: it is read to its end now.
    scratch.pending.flags |= FLOW_EXCHANGE | PENDING_READING;
    scratch.segment.window = rescale(scratch.segment.window, scratch.back.replica_scale, 0);
    match recall(tables, scratch, 1) {
        Recalled::Yes => {}
        Recalled::Elsewhere | Recalled::Busy => return Some(Counter::EgressDropBusy),
        Recalled::Lost => return refuse(packet, tables, scratch, pending, Counter::ResetLost),
    }
    // Nothing of it, or no room for anything: its client sends again, and it is asked again.
    if reread(&scratch.held) != Held::Claimed || reread(&scratch.delivery.limit) == 0 {
        release(tables, scratch);
        return Some(Counter::EgressDropBusy);
    }
    let FlowBack { exchange: word, boundary, .. } = scratch.back;
    let read = Exchange::of(word, boundary, exchange.sent, exchange.boundary);
    let mut next = Exchange {
        standing: read.standing,
        number: exchange.number.wrapping_add(1),
        boundary,
        answer: exchange.sent,
        tries: 0,
        ..exchange
    };
    if ahead != 0 && !matches!(next.standing, Standing::Doubt(_)) {
        // It has said something that was kept from its client, and says it again: that is no answer to this.
        next.standing = Standing::Doubt(Doubt::MisplacedAnswer);
    }
    let went_on = go_on(tables, scratch, flow, back, (&exchange, &next));
    if !went_on {
        release(tables, scratch);
        return Some(Counter::EgressDropBusy);
    }
    if flow.state() & STATE_ENDED != 0 {
        forget(tables, scratch);
        return Some(Counter::EgressDropLeft);
    }
    tables.count(Counter::StayedRequest);
    let delivered = deliver(packet, tables, scratch);
    tables.remove_pending(&scratch.replica_side);
    delivered
}

/// Lets a flow go on where it is, at the next request, and count for that one's chat. Returns whether it does: not if another CPU
/// is changing it, or its chat is to live elsewhere by now.
#[inline(always)]
fn go_on(
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    flow: Shared<Flow>,
    back: Shared<FlowBack>,
    (old, new): (&Exchange, &Exchange),
) -> bool {
    if !flow.begin_change() {
        return false;
    }
    let is_counted = scratch.pending.flags & FLOW_CHAT == 0 || is_chat_counted(tables, scratch);
    let is_done = is_counted && change(tables, flow, back, old, new);
    if is_done {
        if scratch.back.state & STATE_HEAD != 0 {
            back.set_state(STATE_HEAD);
        }
        flow.clear_state(STATE_MOVING);
        flow.touch(tables.now());
    }
    if scratch.pending.flags & FLOW_CHAT != 0 && is_counted {
        let Flow { flags, cookie, service, replica, .. } = *flow.get();
        if is_done {
            flow.set_chat(scratch.flow.cookie, scratch.flow.flags & FLOW_CHAT);
            if flags & FLOW_CHAT != 0 {
                chats::release(tables, &chat_key(service, cookie), replica);
            }
        } else if scratch.flow.flags & FLOW_CHAT != 0 {
            chats::undo(tables, &scratch.chat_key, replica);
        }
    }
    let Scratch { vip_side, last, .. } = scratch;
    end_change(tables, vip_side, flow, last);
    is_done
}

/// Lets `scratch.flow` count for the chat of `scratch.pending`. If that is to live elsewhere, the client's next segment decides
/// anew.
#[inline(never)]
fn is_chat_counted(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let Pending { service, cookie, charged, .. } = scratch.pending;
    scratch.holder.set(tables, service, &scratch.vip_side.client, &charged);
    scratch.flow.cookie = cookie;
    scratch.flow.flags |= FLOW_CHAT;
    scratch.flow.share = scratch.holder.source;
    let counted = count_chat(tables, scratch);
    if counted == Entered::Moved {
        tables.remove_pending(&scratch.replica_side);
    }
    counted == Entered::Yes
}

/// The replica has no such connection any more: the client is told, and may ask on a new one. In a stack frame of its own.
#[inline(never)]
fn is_refused<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Counter> {
    refused(packet, tables, scratch)
}
