//! Chats: what userspace has said of their keys, and where they live.

use super::Name;

/// Key of `CHATS` and `CHAT_COOKIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// The home's replica number in the upper half, the number of live flows in the lower half:
    /// one word, so that they change together.
    pub state: u64,
    /// When the last connection was bound or the last flow ended, whichever came later, in nanoseconds
    /// of `CLOCK_MONOTONIC`; [`CHAT_LINGERS`] says which.
    pub bound_at: u64,
    /// When the chat came to this home, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// The key that came first, readable.
    pub key: Name,
    /// What kind of key that is: a [`KeyKind`]; 0 if it is not known.
    pub source: u32,
}

/// The lowest bit of `Chat::bound_at`: it is when the last flow ended, and the chat lingers from then on. Else
/// a connection was bound, which no replica may have accepted yet.
pub const CHAT_LINGERS: u64 = 1;

impl Chat {
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
        state as u32
    }
}
