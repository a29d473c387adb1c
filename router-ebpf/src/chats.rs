//! `CHATS`: who lives where, and how many flows hold a chat at its home.
//!
//! Home and number of flows are one word that is only changed by compare-and-swap, so a chat cannot
//! get a second home between two looks at it.

use crate::{
    atomic::try_some,
    maps::{Chat, ChatKey, NO_REPLICA, Name},
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
        if !is_live(tables, chat.get(), state) && Chat::home(state) != replica {
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
    chat.bound_at = now;
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
    } else if is_live(tables, chat.get(), state) {
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
        try_some!(try_release(chat, replica));
    }
}

#[inline(never)]
fn try_release(chat: Shared<Chat>, replica: u32) -> Option<()> {
    let state = chat.state();
    // A chat whose home was gone has started anew elsewhere and never counted this flow.
    if Chat::home(state) != replica || Chat::flows(state) == 0 {
        return Some(());
    }
    chat.swap_state(state, state - 1).then_some(())
}
