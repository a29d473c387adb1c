//! One pipeline, and no second way:
//!
//! ```text
//! key -> key hash -> CHAT_COOKIES override? -> cookie -> CHATS: live home? -> slot table -> replica
//! ```

use crate::{
    maps::{
        Chat, ChatKey, MISSING_REJECT, MISSING_REPLICA, NO_REPLICA, POLICY_HOME, REPLICA_DRAINING,
        REPLICA_READY, Replica, SLOT_COUNT, Service, Tuple,
    },
    siphash,
    syn_cookie::tuple_words,
    tables::Tables,
    verifier::reread,
};

/// A chat keeps its home for so long after a connection was bound to it, even if that connection is
/// not a live flow yet: in nanoseconds.
const BINDING_LIFE: u64 = 10_000_000_000;

/// Why a connection goes to its replica.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The slot table says so.
    Slot,
    /// The chat is pinned to it.
    Pinned,
    /// The chat lives there.
    LiveHome,
    /// It has no key, and the service names this replica for that.
    MissingKey,
}

/// Where a connection goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Hash of the key; of the 4-tuple if there is none.
    pub key_hash: u64,
    /// The chat's cookie.
    pub cookie: u64,
    /// The replica's number.
    pub replica: u32,
    /// `cookie mod M`.
    pub slot: u32,
    /// The replica that the slot table gives.
    pub slot_replica: u32,
    /// The replica that the chat is pinned to, if it is.
    pub pinned: u32,
    /// 1 if the connection counts for a chat in `CHATS`.
    pub chat: u32,
    /// 1 if `CHAT_COOKIES` has an entry for the key.
    pub overridden: u32,
    /// Why this replica.
    pub why: Why,
    /// How many parts the chat has, of which the cookie stands for one.
    pub width: u32,
}

impl Route {
    /// No route yet.
    pub const NONE: Self = Self {
        key_hash: 0,
        cookie: 0,
        replica: NO_REPLICA,
        slot: 0,
        slot_replica: NO_REPLICA,
        pinned: NO_REPLICA,
        chat: 0,
        overridden: 0,
        why: Why::Slot,
        width: 1,
    };
}

/// Why there is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No key, and the service rejects that.
    MissingKey,
    /// No usable replica.
    NoReplica,
}

/// The cookie of one part of a chat that is split, from the chat's own. It does not depend on how many
/// parts there are.
#[inline(always)]
pub fn part_cookie(secret: &siphash::Key, cookie: u64, part: u64) -> u64 {
    siphash::words(secret, &[cookie, part])
}

/// What takes the place of the key's hash if there is none.
#[inline(always)]
pub fn tuple_hash(secret: &siphash::Key, tuple: &Tuple) -> u64 {
    siphash::words(secret, &tuple_words(tuple))
}

/// Chooses the replica for a connection and writes it to `route`. `key_hash` is `None` if the
/// connection has no key; with the policy `spread` the hash of the 4-tuple takes its place in any
/// case. It is computed before the key is searched: see [`reread`].
#[inline(always)]
pub fn steer(
    tables: &impl Tables,
    number: u32,
    service: &Service,
    tuple_hash: u64,
    key_hash: Option<u64>,
    chat_secret: &siphash::Key,
    route: &mut Route,
) -> Result<(), NoRoute> {
    let mut chat = service.policy == POLICY_HOME;
    let key_hash = match key_hash {
        _ if !chat => tuple_hash,
        Some(hash) => hash,
        None => {
            chat = false;
            match service.on_missing_key {
                MISSING_REJECT => return Err(NoRoute::MissingKey),
                MISSING_REPLICA => {
                    let number = service.missing_replica;
                    if is_usable(tables, number) {
                        *route = Route {
                            key_hash: tuple_hash,
                            cookie: tuple_hash,
                            replica: number,
                            slot: 0,
                            slot_replica: NO_REPLICA,
                            pinned: NO_REPLICA,
                            chat: 0,
                            overridden: 0,
                            why: Why::MissingKey,
                            width: 1,
                        };
                        return Ok(());
                    }
                }
                _ => {}
            }
            tuple_hash
        }
    };

    let mut cookie = key_hash;
    let mut overridden = false;
    let mut pinned = NO_REPLICA;
    let mut width = 1;
    if chat {
        width = service.width as u32;
        let mut entry = tables.chat_cookie(&chat_key(number, key_hash));
        if let Some(own) = entry {
            overridden = true;
            if own.cookie != key_hash {
                cookie = own.cookie;
                entry = tables.chat_cookie(&chat_key(number, cookie));
            }
        }
        if let Some(of_chat) = entry {
            pinned = of_chat.replica;
            if of_chat.width > 0 {
                width = of_chat.width;
            }
        }
        if width > 1 {
            let part = tuple_hash % width as u64;
            cookie = part_cookie(chat_secret, cookie, part);
        }
    }

    let slot = (cookie % SLOT_COUNT as u64) as u32;
    *route = Route {
        key_hash,
        cookie,
        replica: NO_REPLICA,
        slot,
        slot_replica: NO_REPLICA,
        pinned,
        chat: chat as u32,
        overridden: overridden as u32,
        why: Why::Slot,
        width,
    };
    if service.slots != NO_REPLICA {
        // The table is an array: an index that is too large finds nothing.
        if let Some(replica) = tables.slot(service.slots.wrapping_add(slot)) {
            route.slot_replica = replica;
        }
    }
    route.replica = route.slot_replica;
    let pinned = reread(&route.pinned);
    if pinned != NO_REPLICA && is_usable(tables, pinned) {
        route.replica = pinned;
        route.why = Why::Pinned;
    }
    if reread(&route.chat) != 0
        && let Some(home) = live_home(tables, &chat_key(number, cookie))
    {
        route.replica = home;
        route.why = Why::LiveHome;
    }
    if route.replica == NO_REPLICA || !is_usable(tables, route.replica) {
        return Err(NoRoute::NoReplica);
    }
    Ok(())
}

/// The home of a chat that has a live flow or was bound just now.
#[inline(always)]
fn live_home(tables: &impl Tables, key: &ChatKey) -> Option<u32> {
    let chat = tables.chat(key)?;
    let state = chat.state();
    is_live(tables, chat.get(), state).then_some(Chat::home(state))
}

/// Whether a chat with this state holds on to its home.
#[inline(always)]
pub fn is_live(tables: &impl Tables, chat: &Chat, state: u64) -> bool {
    let bound_for = tables.now().saturating_sub(chat.bound_at);
    (Chat::flows(state) > 0 || bound_for < BINDING_LIFE) && is_usable(tables, Chat::home(state))
}

/// Whether connections can go to this replica.
#[inline(always)]
pub fn is_usable(tables: &impl Tables, number: u32) -> bool {
    tables.replica(number).is_some_and(usable)
}

#[inline(always)]
fn usable(replica: &Replica) -> bool {
    matches!(replica.state, REPLICA_READY | REPLICA_DRAINING)
}

/// The key of a chat in `CHATS` and `CHAT_COOKIES`.
#[inline(always)]
pub const fn chat_key(service: u32, cookie: u64) -> ChatKey {
    ChatKey { cookie, service, reserved: 0 }
}
