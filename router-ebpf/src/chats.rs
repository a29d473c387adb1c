//! `CHATS`: who lives where, and how many flows hold a chat at its home.
//!
//! Home and number of flows are one word that is only changed by compare-and-swap, so a chat cannot
//! get a second home between two looks at it.

use crate::{
    atomic::TRIES,
    maps::{Chat, ChatKey, Name},
    scratch::Scratch,
    steer::is_live,
    tables::{FlowTables, Refused, Shared},
    verdict::Counter,
};

/// Makes `scratch.route.replica` the home of `scratch.chat_key` if that has none that is live, and
/// returns its home. `None`: the map is full, and the chat goes without an entry.
#[inline(always)]
pub fn claim(tables: &impl FlowTables, scratch: &mut Scratch) -> Option<u32> {
    let now = tables.now();
    let replica = scratch.route.replica;
    // Twice: another CPU may add the chat in between.
    for _ in 0..2 {
        if let Some(chat) = tables.chat(&scratch.chat_key) {
            let state = chat.state();
            if !is_live(tables, chat.get(), state) && Chat::home(state) != replica {
                if !chat.swap_state(state, Chat::pack(replica, 0)) {
                    continue;
                }
                chat.set_since(now);
            }
            chat.set_bound_at(now);
            return Some(Chat::home(chat.state()));
        }
        prepare(scratch, Chat::pack(replica, 0), now);
        scratch.key.write_name(&mut scratch.chat.key);
        match tables.add_chat(&scratch.chat_key, &scratch.chat) {
            Ok(()) => return Some(replica),
            Err(Refused::Exists) => {}
            Err(Refused::Full) => {
                tables.count(Counter::ChatsFull);
                return None;
            }
        }
    }
    None
}

#[inline(always)]
fn prepare(scratch: &mut Scratch, state: u64, now: u64) {
    let chat = &mut scratch.chat;
    chat.state = state;
    chat.bound_at = now;
    chat.since = now;
    chat.key = Name::EMPTY;
    chat.reserved = 0;
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
    let replica = scratch.flow.replica;
    for _ in 0..TRIES {
        let Some(chat) = tables.chat(&scratch.chat_key) else {
            // The entry may be swept between binding and acceptance.
            prepare(scratch, Chat::pack(replica, 1), tables.now());
            match tables.add_chat(&scratch.chat_key, &scratch.chat) {
                Ok(()) => return Acquired::Counted,
                Err(Refused::Exists) => continue,
                Err(Refused::Full) => return Acquired::Uncounted,
            }
        };
        let state = chat.state();
        let new = if Chat::home(state) == replica {
            state + 1
        } else if is_live(tables, chat.get(), state) {
            return Acquired::Elsewhere;
        } else {
            Chat::pack(replica, 1)
        };
        if chat.swap_state(state, new) {
            return Acquired::Counted;
        }
    }
    Acquired::Uncounted
}

/// Counts a flow to `replica` no longer.
#[inline(always)]
pub fn release(tables: &impl FlowTables, key: &ChatKey, replica: u32) {
    if let Some(chat) = tables.chat(key) {
        release_one(chat, replica);
    }
}

#[inline(always)]
fn release_one(chat: Shared<Chat>, replica: u32) {
    for _ in 0..TRIES {
        let state = chat.state();
        // A chat whose home was gone has started anew elsewhere and never counted this flow.
        if Chat::home(state) != replica || Chat::flows(state) == 0 {
            return;
        }
        if chat.swap_state(state, state - 1) {
            return;
        }
    }
}
