//! `CHATS`: who lives where, and how many flows hold a chat at its home.
//!
//! Home and number of flows are one word, which is only changed atomically, so a chat cannot get a second home
//! between two looks at it. An entry is made when a replica accepts, and goes when its chat has lingered.

use crate::{
    maps::{CHAT_COUNTED, Chat, ChatKey, watch_time},
    scratch::Scratch,
    shared::Shared,
    shares::{self, OFF, Table, count_chat},
    steer::{is_usable, lingers},
    tables::{FlowTables, Refused, Tables},
    verdict::Counter,
};

/// What became of a flow's claim to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It counts: [`release`] is owed.
    Counted,
    /// The same, and the chat did not live before: what was decided for it at binding may hold no longer.
    First,
    /// It does not: the map is full, or there is no memory.
    Uncounted,
    /// The chat lives elsewhere by now, and the flow must not be.
    Elsewhere,
    /// Another CPU is changing the chat, or a map is busy.
    Busy,
    /// A map did what it should not.
    Fault,
    /// There is no entry for it: its source or its service has its share, as `scratch.over` says.
    Over,
}

/// Counts a new flow to `scratch.flow.replica` for the chat `scratch.chat_key`.
#[inline(never)]
pub fn acquire(tables: &impl FlowTables, scratch: &mut Scratch) -> Acquired {
    let now = tables.now();
    let replica = scratch.flow.replica;
    let Some(chat) = tables.chat(&scratch.chat_key) else {
        return enter(tables, scratch, now);
    };
    let state = chat.state();
    if state & !CHAT_COUNTED == Chat::OVER {
        return Acquired::Busy;
    }
    if Chat::home(state) == replica {
        let before = chat.add_flow(1);
        if Chat::home(before) != replica {
            chat.add_flow(u64::MAX);
            return Acquired::Busy;
        }
        let lived = holds(tables, scratch.chat_key.service, chat, before, now);
        return if lived { Acquired::Counted } else { Acquired::First };
    }
    let service = scratch.chat_key.service;
    if holds(tables, service, chat, state, now) && is_usable(tables, service, Chat::home(state)) {
        return Acquired::Elsewhere;
    }
    // The flows that its old home still counts, if that is gone, are not counted off here.
    if !chat.swap_state(state, Chat::pack(replica, 1) | CHAT_COUNTED) {
        return Acquired::Busy;
    }
    chat.set_since(now);
    chat.set_ended_at(0);
    if state & CHAT_COUNTED == 0 {
        // A release before has entered it: it counts from now on.
        shares::count(tables, Table::Chats, service, chat.get().share, 1);
    } else if let Some(load) = tables.load(Chat::home(state)) {
        load.add_chats(u64::MAX);
    }
    if let Some(load) = tables.load(replica) {
        load.add_chats(1);
    }
    Acquired::First
}

/// Makes the entry of a chat that has none.
#[inline(always)]
fn enter(tables: &impl FlowTables, scratch: &mut Scratch, now: u64) -> Acquired {
    let replica = scratch.flow.replica;
    let chat = &mut scratch.chat;
    chat.state = Chat::pack(replica, 1) | CHAT_COUNTED;
    chat.ended_at = 0;
    chat.since = now;
    chat.key = scratch.pending.key;
    chat.source = scratch.pending.source;
    chat.share = scratch.flow.share;
    chat.reserved = 0;
    let (service, share) = (scratch.chat_key.service, scratch.flow.share);
    if let Some(over) = shares::over(tables, Table::Chats, &scratch.holder, &mut scratch.trusted) {
        scratch.over = over;
        return Acquired::Over;
    }
    // Before it is there: whoever removes it counts it off.
    count_chat(tables, service, share, replica, 1);
    if let Err(why) = tables.add_chat(&scratch.chat_key, &scratch.chat) {
        count_chat(tables, service, share, replica, OFF);
        return without(tables, why);
    }
    let watched = &mut scratch.turn.chat;
    watched.key = scratch.chat_key;
    watched.at = watch_time(now);
    watched.reserved = 0;
    if let Err(why) = tables.watch_chat(watched) {
        // Nothing would ever remove it.
        tables.remove_chat(&scratch.chat_key);
        count_chat(tables, service, share, replica, OFF);
        return without(tables, why);
    }
    Acquired::First
}

/// What comes of a chat that a map did not take.
#[inline(always)]
fn without(tables: &impl FlowTables, why: Refused) -> Acquired {
    match why {
        Refused::Exists | Refused::Busy => return Acquired::Busy,
        Refused::Full => tables.count(Counter::ChatsFull),
        Refused::NoMemory => tables.count(Counter::ChatsNoMemory),
        Refused::Fault => return Acquired::Fault,
    }
    Acquired::Uncounted
}

/// Counts a flow to `replica` no longer.
#[inline(always)]
pub fn release(tables: &impl FlowTables, key: &ChatKey, replica: u32) {
    leave(tables, key, replica, tables.now());
}

/// The same for a flow that never was: the chat does not linger for it.
#[inline(always)]
pub fn undo(tables: &impl FlowTables, key: &ChatKey, replica: u32) {
    leave(tables, key, replica, 0);
}

#[inline(never)]
fn leave(tables: &impl FlowTables, key: &ChatKey, replica: u32, now: u64) {
    let Some(chat) = tables.chat(key) else {
        return;
    };
    let state = chat.state();
    // A chat whose home was gone has started anew elsewhere and never counted this flow.
    if Chat::home(state) != replica || Chat::flows(state) == 0 {
        return;
    }
    // Before the count goes: between the two nobody may find a chat without flows that ended long ago.
    if now != 0 {
        chat.set_ended_at(now);
    }
    let before = chat.add_flow(u64::MAX);
    if Chat::home(before) != replica || Chat::flows(before) == 0 {
        chat.add_flow(1);
    }
}

/// Whether a chat is to be looked at again. One that has no flow and has lingered goes.
#[inline(always)]
pub fn stays(tables: &impl FlowTables, key: &ChatKey) -> bool {
    let Some(chat) = tables.chat(key) else {
        return false;
    };
    let state = chat.state();
    if state & CHAT_COUNTED == 0 {
        // A release before has entered it.
        let before = chat.set_counted();
        if before & CHAT_COUNTED == 0 {
            count_chat(tables, key.service, 0, Chat::home(before), 1);
        }
        return true;
    }
    if holds(tables, key.service, chat, state, tables.now())
        // Nobody counts in it from here on, and who is about to comes again.
        || !chat.swap_state(state, Chat::OVER)
    {
        return true;
    }
    count_chat(tables, key.service, chat.get().share, Chat::home(state), OFF);
    tables.remove_chat(key);
    false
}

/// Whether a chat with this state holds its home: it has flows, or lingers. One of a service that is gone
/// does not linger.
#[inline(always)]
fn holds(tables: &impl Tables, service: u32, chat: Shared<Chat>, state: u64, now: u64) -> bool {
    Chat::flows(state) > 0
        || tables.service(service).is_some_and(|service| lingers(service, chat.ended_at(), now))
}
