//! Chats: what userspace has said of their keys, and where they live.

use super::{NO_REPLICA, Name};

/// Key of `CHATS` and `CHAT_COOKIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChatKey {
    /// The cookie (`CHATS`), or the key hash (`CHAT_COOKIES`).
    pub cookie: u64,
    /// The service's number.
    pub service: u32,
    /// Always zero.
    pub reserved: u32,
}

/// What userspace said about a key: a value of `CHAT_COOKIES`. The entry of the key itself gives
/// its cookie; `replica` and `width` are read from the entry whose key hash is that cookie, so they
/// hold for every key that is bound to the chat.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatCookie {
    /// The cookie of the chat that this key belongs to: the key hash of the chat's own key.
    pub cookie: u64,
    /// The replica this chat is pinned to while it has no live home, or [`NO_REPLICA`].
    pub replica: u32,
    /// How many parts the chat has, each with a home of its own; 0: as its service says.
    pub width: u32,
    /// The key, readable.
    pub key: Name,
    /// The key of the chat that this key is bound to, readable; empty if it is its own.
    pub chat: Name,
}

/// A chat with a home: a value of `CHATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chat {
    /// The home's replica number in the upper half, the number of live flows in the lower half, with
    /// [`CHAT_COUNTED`]: one word, so that they change together.
    pub state: u64,
    /// When the last flow ended, in nanoseconds of `CLOCK_MONOTONIC`; 0 if none did.
    pub ended_at: u64,
    /// When the chat came to this home, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// The key that came first, readable.
    pub key: Name,
    /// What kind of key that is: a [`KeyKind`](crate::source::KeyKind); 0 if it is not known.
    pub source: u32,
    /// Where the source that made it is counted: see [`rows`](super::rows); 0 if it is not.
    pub share: u32,
    /// Always zero.
    pub reserved: u32,
}

/// In `Chat::state`: the chat counts for its home in `LOADS`.
pub const CHAT_COUNTED: u64 = 1 << 31;

impl Chat {
    /// The state of a chat that is about to go: nobody counts in it any more.
    pub const OVER: u64 = Self::pack(NO_REPLICA, 0);

    /// Packs a home and its number of flows.
    pub const fn pack(home: u32, flows: u32) -> u64 {
        ((home as u64) << 32) | flows as u64
    }
    /// The replica number of a packed state.
    pub const fn home(state: u64) -> u32 {
        (state >> 32) as u32
    }
    /// The number of flows of a packed state.
    pub const fn flows(state: u64) -> u32 {
        state as u32 & !(CHAT_COUNTED as u32)
    }
}

/// A chat in `CHAT_RING`, which the clock hand looks at in turn: each chat is in it once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchedChat {
    /// Its key in `CHATS`.
    pub key: ChatKey,
    /// When it was looked at: see [`watch_time`](super::watch_time).
    pub at: u32,
    /// Always zero.
    pub reserved: u32,
}

/// What a replica carries: a value of `LOADS`, by its number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Live flows.
    pub flows: u64,
    /// Chats that have their home there, with those that linger.
    pub chats: u64,
}
