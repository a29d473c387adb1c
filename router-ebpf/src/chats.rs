//! `CHATS`: who lives where, and how many flows hold a chat at its home.
//!
//! Home and number of flows are one word that is only changed by compare-and-swap, so a chat cannot
//! get a second home between two looks at it.

use crate::{
    atomic::try_some,
    maps::{CHAT_LINGERS, Chat, ChatKey, NO_REPLICA, Name},
    scratch::Scratch,
    shared::Shared,
    steer::is_live,
    tables::{FlowTables, Refused},
    verdict::Counter,
};

/// Makes `scratch.route.replica` the home of `scratch.chat_key` if that has none that is live, and
/// returns its home. `None`: the map is full, and the chat goes without an entry.
#[inline(always)]
pub fn claim(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<u32> {
    match try_some!(try_claim(tables, scratch)) {
        Some(NO_REPLICA) => None,
        Some(home) => Some(home),
        // Whether it is the home is seen again when the replica accepts.
        None => Some(scratch.route.replica),
    }
}

/// `Some(NO_REPLICA)` if the map is full, `None` if another CPU was faster.
#[inline(never)]
fn try_claim(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<u32> {
    let now = tables.now();
    let replica = scratch.route.replica;
    if let Some(chat) = tables.chat(&scratch.chat_key) {
        let mut state = chat.state();
        if Chat::home(state) != replica && !lives(tables, &scratch.chat_key, chat, state) {
            let new = Chat::pack(replica, 0);
            if !chat.swap_state(state, new) {
                return None;
            }
            state = new;
            chat.set_since(now);
        }
        chat.set_bound_at(now);
        return Some(Chat::home(state));
    }
    prepare(scratch, Chat::pack(replica, 0), now);
    scratch.key.write_name(&mut scratch.chat.key);
    scratch.chat.source = scratch.scan.kind;
    match tables.add_chat(&scratch.chat_key, &scratch.chat) {
        Ok(()) => Some(replica),
        Err(Refused::Exists) => None,
        Err(Refused::Full) => {
            tables.count(Counter::ChatsFull);
            Some(NO_REPLICA)
        }
    }
}

#[inline(always)]
fn prepare(scratch: &mut Scratch, state: u64, now: u64) {
    let chat = &mut scratch.chat;
    chat.state = state;
    chat.bound_at = now & !CHAT_LINGERS;
    chat.since = now;
    chat.key = Name::EMPTY;
    chat.source = 0;
}

/// What became of a flow's claim to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It counts: [`release`] is owed.
    Counted,
    /// It does not: the map is full.
    Uncounted,
    /// The chat lives elsewhere by now, and the flow must not be.
    Elsewhere,
}

/// Counts a new flow to `scratch.flow.replica` for the chat `scratch.chat_key`.
#[inline(always)]
pub fn acquire(tables: &impl FlowTables, scratch: &mut Scratch) -> Acquired {
    // Rather reset than not counted: an uncounted flow would not hold its chat.
    try_some!(try_acquire(tables, scratch)).unwrap_or(Acquired::Elsewhere)
}

#[inline(never)]
fn try_acquire(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<Acquired> {
    let replica = scratch.flow.replica;
    let Some(chat) = tables.chat(&scratch.chat_key) else {
        // The entry may be swept between binding and acceptance.
        prepare(scratch, Chat::pack(replica, 1), tables.now());
        return match tables.add_chat(&scratch.chat_key, &scratch.chat) {
            Ok(()) => Some(Acquired::Counted),
            Err(Refused::Exists) => None,
            Err(Refused::Full) => Some(Acquired::Uncounted),
        };
    };
    let state = chat.state();
    let new = if Chat::home(state) == replica {
        state + 1
    } else if lives(tables, &scratch.chat_key, chat, state) {
        return Some(Acquired::Elsewhere);
    } else {
        Chat::pack(replica, 1)
    };
    chat.swap_state(state, new).then_some(Acquired::Counted)
}

/// Counts a flow to `replica` no longer.
#[inline(always)]
pub fn release(tables: &impl FlowTables, key: &ChatKey, replica: u32) {
    if let Some(chat) = tables.chat(key) {
        try_some!(try_release(tables, chat, replica));
    }
}

#[inline(never)]
fn try_release(tables: &impl FlowTables, chat: Shared<Chat>, replica: u32) -> Option<()> {
    let state = chat.state();
    // A chat whose home was gone has started anew elsewhere and never counted this flow.
    if Chat::home(state) != replica || Chat::flows(state) == 0 {
        return Some(());
    }
    // Before the count goes: between the two nobody may find a chat without flows that was bound long ago.
    if Chat::flows(state) == 1 {
        chat.set_lingers(tables.now());
    }
    chat.swap_state(state, state - 1).then_some(())
}

/// Whether a chat holds on to its home. One of a service that is gone does not.
#[inline(always)]
fn lives(tables: &impl FlowTables, key: &ChatKey, chat: Shared<Chat>, state: u64) -> bool {
    let service = tables.service(key.service);
    service.is_some_and(|service| is_live(tables, service, chat.get(), state))
}
