//! One pipeline, and no second way:
//!
//! ```text
//! key -> key hash -> CHAT_COOKIES override? -> cookie -> CHATS: live home? -> slot table -> replica
//! ```

use roost_place::cookie;

use crate::{
    maps::{
        Chat, ChatKey, MISSING_REJECT, MISSING_REPLICA, NO_REPLICA, POLICY_HOME, REPLICA_DRAINING,
        REPLICA_READY, Replica, Service, Tuple,
    },
    siphash,
    syn_cookie::tuple_words,
    tables::Tables,
    verifier::reread,
};

/// In nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;

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
    /// That of the whole chat, if `cookie` stands for a part of it.
    pub whole: u64,
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
        whole: 0,
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

/// What the search for a replica came to: see [`crate::route`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    /// It is in `scratch.route`.
    Yes,
    /// There is none: no key, and the service rejects that.
    MissingKey,
    /// There is none: no usable replica.
    NoReplica,
    /// Nobody can tell before more bytes are there.
    More,
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
    let chat_hash = match key_hash {
        _ if service.policy != POLICY_HOME => None,
        Some(hash) => Some(hash),
        None => match without_key(tables, number, service) {
            WithoutKey::Spread => None,
            WithoutKey::Reject => return Err(NoRoute::MissingKey),
            WithoutKey::Replica(replica) => {
                *route = Route {
                    key_hash: tuple_hash,
                    cookie: tuple_hash,
                    replica,
                    why: Why::MissingKey,
                    ..Route::NONE
                };
                return Ok(());
            }
        },
    };
    let chat = match chat_hash {
        Some(hash) => look_up(tables, number, service, hash, tuple_hash, chat_secret),
        None => Named::nothing(tuple_hash),
    };
    *route = Route {
        key_hash: chat_hash.unwrap_or(tuple_hash),
        cookie: chat.cookie,
        whole: chat.whole,
        replica: NO_REPLICA,
        slot: cookie::slot(chat.cookie),
        slot_replica: NO_REPLICA,
        pinned: chat.pinned,
        chat: chat_hash.is_some() as u32,
        overridden: chat.overridden as u32,
        why: Why::Slot,
        width: chat.width,
    };
    by_slot(tables, service, route);
    by_pin(tables, number, route);
    by_home(tables, service, chat_key(number, chat.cookie), route);
    if route.replica == NO_REPLICA || !is_usable(tables, number, route.replica) {
        return Err(NoRoute::NoReplica);
    }
    Ok(())
}

/// Where a connection goes that has no key, but should.
enum WithoutKey {
    /// To any replica.
    Spread,
    /// To none.
    Reject,
    /// To this one.
    Replica(u32),
}

#[inline(always)]
fn without_key(tables: &impl Tables, number: u32, service: &Service) -> WithoutKey {
    match service.on_missing_key {
        MISSING_REJECT => WithoutKey::Reject,
        MISSING_REPLICA if is_usable(tables, number, service.missing_replica) => {
            WithoutKey::Replica(service.missing_replica)
        }
        _ => WithoutKey::Spread,
    }
}

/// What a key names, as far as `CHAT_COOKIES` knows it.
struct Named {
    /// The cookie of the chat, or of one of its parts.
    cookie: u64,
    whole: u64,
    overridden: bool,
    pinned: u32,
    width: u32,
}

impl Named {
    /// No chat: the connection goes by its tuple.
    #[inline(always)]
    const fn nothing(tuple_hash: u64) -> Self {
        Self {
            cookie: tuple_hash,
            whole: tuple_hash,
            overridden: false,
            pinned: NO_REPLICA,
            width: 1,
        }
    }
}

/// Looks up what was said about the key and about its chat, and takes the part of the chat that the
/// connection belongs to.
#[inline(always)]
fn look_up(
    tables: &impl Tables,
    number: u32,
    service: &Service,
    key_hash: u64,
    tuple_hash: u64,
    secret: &siphash::Key,
) -> Named {
    let mut chat = Named {
        cookie: key_hash,
        whole: key_hash,
        overridden: false,
        pinned: NO_REPLICA,
        width: service.width as u32,
    };
    let mut entry = tables.chat_cookie(&chat_key(number, key_hash));
    if let Some(own) = entry {
        chat.overridden = true;
        if own.cookie != key_hash {
            chat.cookie = own.cookie;
            entry = tables.chat_cookie(&chat_key(number, own.cookie));
        }
    }
    if let Some(of_chat) = entry {
        chat.pinned = of_chat.replica;
        if of_chat.width > 0 {
            chat.width = of_chat.width;
        }
    }
    chat.whole = chat.cookie;
    if chat.width > 1 {
        chat.cookie = cookie::of_part(secret, chat.cookie, tuple_hash % chat.width as u64);
    }
    chat
}

/// The replica that the slot table gives.
#[inline(always)]
fn by_slot(tables: &impl Tables, service: &Service, route: &mut Route) {
    if service.slots != NO_REPLICA {
        // The table is an array: an index that is too large finds nothing.
        if let Some(replica) = tables.slot(service.slots.wrapping_add(route.slot)) {
            route.slot_replica = replica;
        }
    }
    route.replica = route.slot_replica;
}

/// The one that the chat is pinned to instead, if connections can go there.
#[inline(always)]
fn by_pin(tables: &impl Tables, number: u32, route: &mut Route) {
    let pinned = reread(&route.pinned);
    if pinned != NO_REPLICA && is_usable(tables, number, pinned) {
        route.replica = pinned;
        route.why = Why::Pinned;
    }
}

/// The one where the chat lives instead, if it lives.
#[inline(always)]
fn by_home(tables: &impl Tables, service: &Service, key: ChatKey, route: &mut Route) {
    if reread(&route.chat) != 0
        && let Some(home) = live_home(tables, service, &key)
    {
        route.replica = home;
        route.why = Why::LiveHome;
    }
}

/// The home of a chat that lives: that has a live flow, or had one not long ago.
#[inline(always)]
fn live_home(tables: &impl Tables, service: &Service, key: &ChatKey) -> Option<u32> {
    let chat = tables.chat(key)?;
    let state = chat.state();
    is_live(tables, service, key.service, chat.get(), state).then_some(Chat::home(state))
}

/// Whether a chat of service `number` with this state holds on to its home.
#[inline(always)]
pub fn is_live(
    tables: &impl Tables,
    service: &Service,
    number: u32,
    chat: &Chat,
    state: u64,
) -> bool {
    (Chat::flows(state) > 0 || lingers(service, chat.ended_at, tables.now()))
        && is_usable(tables, number, Chat::home(state))
}

/// Whether a chat whose last flow ended then still lingers.
#[inline(always)]
pub fn lingers(service: &Service, ended_at: u64, now: u64) -> bool {
    ended_at != 0 && now.saturating_sub(ended_at) < service.linger as u64 * SECOND
}

/// Decides again, when its replica has accepted, where a chat begins to live: whether slot table and pins still
/// give this replica. `whole` is the cookie that pins are looked up by.
#[inline(always)]
pub fn still_gives(
    tables: &impl Tables,
    number: u32,
    cookie: u64,
    whole: u64,
    replica: u32,
    route: &mut Route,
) -> bool {
    let Some(service) = tables.service(number) else {
        return false;
    };
    let pinned = tables.chat_cookie(&chat_key(number, whole)).map_or(NO_REPLICA, |own| own.replica);
    *route = Route { cookie, whole, slot: cookie::slot(cookie), pinned, ..Route::NONE };
    by_slot(tables, service, route);
    by_pin(tables, number, route);
    route.replica == replica
}

/// Whether connections of a service can go to this replica. Where its number was read from may have become
/// another's meanwhile: a replica of another service is none.
#[inline(always)]
pub fn is_usable(tables: &impl Tables, service: u32, number: u32) -> bool {
    let usable = |replica: &Replica| {
        matches!(replica.state, REPLICA_READY | REPLICA_DRAINING) && replica.service == service
    };
    tables.replica(number).is_some_and(usable)
}

/// The key of a chat in `CHATS` and `CHAT_COOKIES`.
#[inline(always)]
pub const fn chat_key(service: u32, cookie: u64) -> ChatKey {
    ChatKey { cookie, service, reserved: 0 }
}
