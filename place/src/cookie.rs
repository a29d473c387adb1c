//! Cookies: 64 bits that stand for a chat, and the slot that they belong to.

use crate::siphash;

/// Slots of a service: a prime, so that `cookie mod M` uses all bits, and above 100 x replicas.
pub const SLOT_COUNT: u32 = 16381;

/// The hash of a key, which is the cookie of a chat of its own: of the first `len` bytes of `key`, as
/// [`siphash::bytes`] takes them.
#[inline(always)]
pub fn of_key<const N: usize>(secret: &siphash::Key, key: &[u8; N], len: usize) -> u64 {
    siphash::bytes(secret, key, len)
}

/// The cookie of one part of a chat that is split, from the chat's own. It does not depend on how many
/// parts there are.
#[inline(always)]
pub fn of_part(secret: &siphash::Key, cookie: u64, part: u64) -> u64 {
    siphash::words(secret, &[cookie, part])
}

/// The slot of a cookie.
#[inline(always)]
pub const fn slot(cookie: u64) -> u32 {
    (cookie % SLOT_COUNT as u64) as u32
}
