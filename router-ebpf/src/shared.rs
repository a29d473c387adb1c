//! Values in maps that several CPUs change at the same time.

use core::ptr::NonNull;

use crate::{
    atomic::{
        fetch_add_u32, fetch_add_u64, fetch_and_u32, fetch_or_u32, fetch_or_u64, fetch_xor_u64,
        swap_u32, swap_u64, try_some,
    },
    maps::{
        CHAT_COUNTED, Chat, FLOW_CHAT, Flow, FlowBack, Load, Pending, Ring, STASH_CLAIMED,
        STATE_CHANGING, STATE_ENDED, STATE_SYN_SEEN, STATE_SYN_TICK, STATE_SYN_TICK_SHIFT, Share,
        Stash, TICK_SHIFT,
    },
    request::{Exchange, Standing},
};

/// A value in a map that several CPUs change at the same time.
///
/// It stays mapped while the program runs, though it may already be out of its map, or even be the
/// value of another key there (elements are used again at once, kernel/bpf/memalloc.c): nothing here
/// may rely on more than that a moment after the look-up.
#[derive(Clone, Copy)]
pub struct Shared<T>(NonNull<T>);

/// Reads or writes a word once, as a whole.
macro_rules! word {
    ($this:expr, $field:ident) => {
        // SAFETY: the pointer is valid and aligned, see `Shared`.
        unsafe { (&raw const (*$this.0.as_ptr()).$field).read_volatile() }
    };
    ($this:expr, $field:ident = $value:expr) => {
        // SAFETY: the pointer is valid and aligned, see `Shared`.
        unsafe { (&raw mut (*$this.0.as_ptr()).$field).write_volatile($value) }
    };
}

/// Writes a number of TCP's if it takes the place of the one that is there.
macro_rules! renew {
    ($this:expr, $field:ident = $number:expr) => {
        if is_newer($number, word!($this, $field)) {
            word!($this, $field = $number);
        }
    };
}

impl<T: Copy> Shared<T> {
    /// Wraps a pointer to a map value.
    ///
    /// # Safety
    ///
    /// The pointer must be aligned and stay valid for as long as the value is used.
    #[inline(always)]
    pub const unsafe fn new(value: NonNull<T>) -> Self {
        Self(value)
    }

    /// The value, for its fields that do not change once it is in its map.
    #[inline(always)]
    pub fn get(&self) -> &T {
        // SAFETY: see `Shared`. Fields that change are words: a reader sees an old or a new one.
        unsafe { self.0.as_ref() }
    }
}

impl Shared<Flow> {
    /// Notes that the client was heard of.
    #[inline(always)]
    pub fn touch(&self, now: u64) {
        word!(self, last_seen = now);
    }

    /// Notes where the client's two directions stand.
    #[inline(always)]
    pub fn advance(&self, acked: u32, sent: u32) {
        renew!(self, acked = acked);
        renew!(self, sent = sent);
    }

    /// Notes where its source is counted.
    #[inline(always)]
    pub fn set_share(&self, source: u32) {
        word!(self, share = source);
    }

    /// The client's highest acknowledgement number.
    #[inline(always)]
    pub fn acked(&self) -> u32 {
        word!(self, acked)
    }

    /// What follows the client's highest segment.
    #[inline(always)]
    pub fn sent(&self) -> u32 {
        word!(self, sent)
    }

    /// Notes what follows the client's FIN. The one that was believed last counts.
    #[inline(always)]
    pub fn set_client_fin(&self, end: u32) {
        word!(self, client_fin = end);
    }

    /// Notes what follows the replica's FIN.
    #[inline(always)]
    pub fn set_replica_fin(&self, end: u32) {
        word!(self, replica_fin = end);
    }

    /// What follows the client's FIN.
    #[inline(always)]
    pub fn client_fin(&self) -> u32 {
        word!(self, client_fin)
    }

    /// What follows the replica's FIN.
    #[inline(always)]
    pub fn replica_fin(&self) -> u32 {
        word!(self, replica_fin)
    }

    /// The `STATE_*` bits.
    #[inline(always)]
    pub fn state(&self) -> u32 {
        word!(self, state)
    }

    /// Notes a SYN on the tuple.
    #[inline(always)]
    pub fn note_syn(&self, now: u64) {
        let at = ((now >> TICK_SHIFT) as u32) << STATE_SYN_TICK_SHIFT;
        self.replace_state(STATE_SYN_SEEN | STATE_SYN_TICK, STATE_SYN_SEEN | at);
    }

    /// Forgets a SYN that no connection can come of any more: the cookie that answered it is good for
    /// its tick and the next. Says whether there is one left.
    #[inline(always)]
    pub fn has_syn(&self, now: u64) -> bool {
        let state = self.state();
        if state & STATE_SYN_SEEN == 0 {
            return false;
        }
        let ticks = ((now >> TICK_SHIFT) as u32).wrapping_sub(state >> STATE_SYN_TICK_SHIFT) & 0xff;
        // Of one that another CPU has noted since this one looked at the clock, it is less than none.
        if !(3..128).contains(&ticks) {
            return true;
        }
        let new = state & !(STATE_SYN_SEEN | STATE_SYN_TICK);
        // Not if another one has come meanwhile.
        // SAFETY: see `Shared`; all writers of the field swap it.
        unsafe { !swap_u32(&raw mut (*self.0.as_ptr()).state, state, new) }
    }

    #[inline(always)]
    fn replace_state(&self, mask: u32, bits: u32) {
        let attempt = || {
            let state = self.state();
            let new = state & !mask | bits;
            // SAFETY: see `Shared`; all writers of the field swap it.
            unsafe { swap_u32(&raw mut (*self.0.as_ptr()).state, state, new) }.then_some(())
        };
        try_some!(attempt());
    }

    /// Sets bits and returns those that were set before.
    #[inline(always)]
    pub fn set_state(&self, bits: u32) -> u32 {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_or_u32(&raw mut (*self.0.as_ptr()).state, bits) }
    }

    /// Clears bits and returns those that were set before.
    #[inline(always)]
    pub fn clear_state(&self, bits: u32) -> u32 {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_and_u32(&raw mut (*self.0.as_ptr()).state, !bits) }
    }

    /// Takes it to change where it is or which chat it counts for: until [`end_change`](Self::end_change) nobody else does,
    /// and who ends it leaves the rest to the caller. Not if it has ended, or somebody else has it.
    #[inline(always)]
    pub fn begin_change(&self) -> bool {
        let attempt = || {
            let state = self.state();
            if state & (STATE_ENDED | STATE_CHANGING) != 0 {
                return Some(false);
            }
            // SAFETY: see `Shared`; all writers of the field are atomic.
            unsafe { swap_u32(&raw mut (*self.0.as_ptr()).state, state, state | STATE_CHANGING) }
                .then_some(true)
        };
        try_some!(attempt()).unwrap_or(false)
    }

    /// Lets it go, and returns its state. If it has ended meanwhile, [`finish`](crate::flow::finish) is owed.
    #[inline(always)]
    pub fn end_change(&self) -> u32 {
        self.clear_state(STATE_CHANGING)
    }

    /// Copies it. Returns whether nobody has changed where it is meanwhile: then the copy is of one moment in that.
    #[inline(always)]
    pub fn copy(&self, to: &mut Flow) -> bool {
        // Atomic, so that all between the two is read between them.
        let before = self.set_state(0);
        let times = word!(self, bound_again);
        *to = *self.get();
        (before | self.set_state(0)) & STATE_CHANGING == 0 && word!(self, bound_again) == times
    }

    /// Makes it count for another chat, or for none. Only for who has taken it.
    #[inline(always)]
    pub fn set_chat(&self, cookie: u64, chat: u8) {
        word!(self, cookie = cookie);
        let flags = self.get().flags & !FLOW_CHAT | chat;
        word!(self, flags = flags);
    }

    /// Lets it go on where `new` is, and counts that. Only for who has taken it.
    #[inline(always)]
    pub fn relocate(&self, new: &Flow) {
        let flow = self.0.as_ptr();
        // SAFETY: see `Shared`. Whoever just now translates a segment by it may find a part of each: that segment is lost.
        unsafe {
            (*flow).replica_addr = new.replica_addr;
            (*flow).replica_port = new.replica_port;
            (*flow).flags = new.flags;
            (*flow).window_shift = new.window_shift;
            (*flow).cookie = new.cookie;
            (*flow).replica = new.replica;
            (*flow).seq_delta = new.seq_delta;
            (*flow).ts_delta = new.ts_delta;
            (*flow).bound_again = (*flow).bound_again.wrapping_add(1);
        }
    }
}

/// What is behind by no more than this is something that comes again: a retransmission, a keepalive.
const AGAIN: u32 = 1 << 24;

/// Whether a number of TCP's takes the place of the one before. One that is far behind does, too: then the one
/// before was not the sender's.
#[inline(always)]
const fn is_newer(number: u32, before: u32) -> bool {
    before.wrapping_sub(number) > AGAIN
}

impl Shared<FlowBack> {
    /// Notes where the replica's two directions stand.
    #[inline(always)]
    pub fn advance(&self, acked: u32, sent: u32) {
        renew!(self, acked = acked);
        renew!(self, sent = sent);
    }

    /// What follows the replica's highest segment, in its own numbers.
    #[inline(always)]
    pub fn sent(&self) -> u32 {
        word!(self, sent)
    }

    /// The `STATE_*` bits.
    #[inline(always)]
    pub fn state(&self) -> u32 {
        word!(self, state)
    }

    /// Sets bits.
    #[inline(always)]
    pub fn set_state(&self, bits: u32) {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_or_u32(&raw mut (*self.0.as_ptr()).state, bits) };
    }

    /// The replica's highest acknowledgement number.
    #[inline(always)]
    pub fn acked(&self) -> u32 {
        word!(self, acked)
    }

    /// Clears bits.
    #[inline(always)]
    pub fn clear_state(&self, bits: u32) {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_and_u32(&raw mut (*self.0.as_ptr()).state, !bits) };
    }

    /// The highest timestamp that was sent to the client.
    #[inline(always)]
    pub fn ts_sent(&self) -> u32 {
        word!(self, ts_sent)
    }

    /// Notes one that is about to be sent.
    #[inline(always)]
    pub fn note_timestamp(&self, value: u32) {
        if (value.wrapping_sub(self.ts_sent()) as i32) > 0 {
            word!(self, ts_sent = value);
        }
    }

    /// Where its requests stand.
    #[inline(always)]
    pub fn exchange(&self) -> Exchange {
        // Atomic, so that what is read after it is no older.
        // SAFETY: see `Shared`; all writers of the field are atomic.
        let word = unsafe { fetch_or_u64(&raw mut (*self.0.as_ptr()).exchange, 0) };
        Exchange::of(word, word!(self, boundary), word!(self, answer), self.acked())
    }

    /// Whether a head with this number of ours before it is what its binding was for, or the request that it is at: the
    /// replica has it, or misses some of it.
    #[inline(always)]
    pub fn is_at(&self, server_isn: u32) -> bool {
        self.get().server_isn == server_isn || word!(self, answer) == server_isn.wrapping_add(1)
    }

    /// Whether it waits for what such a head is to decide.
    #[inline(always)]
    pub fn waits_for(&self, server_isn: u32) -> bool {
        let Exchange { standing, sent, .. } = self.exchange();
        standing == Standing::Moving && sent == server_isn.wrapping_add(1)
    }

    /// Changes that from `old` to `new`, which is at the same request, unless another CPU has changed it.
    #[inline(always)]
    pub fn swap_exchange(&self, old: &Exchange, new: &Exchange) -> bool {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { swap_u64(&raw mut (*self.0.as_ptr()).exchange, old.word(), new.word()) }
    }

    /// The same for one that is at the next request. `None` if another CPU has changed it; else what it is now, which has
    /// another `sent` than `new` if the replica has sent something meanwhile.
    #[inline(always)]
    pub fn begin_exchange(&self, old: &Exchange, new: &Exchange) -> Option<Exchange> {
        let claimed = Exchange { standing: Standing::Changing, sent: old.sent, ..*new };
        if !self.swap_exchange(old, &claimed) {
            return None;
        }
        // Nobody else writes these as long as it is so.
        word!(self, boundary = new.boundary);
        word!(self, answer = new.answer);
        let turned = claimed.word() ^ Exchange { sent: old.sent, ..*new }.word();
        // SAFETY: see `Shared`; all writers of the field are atomic.
        let before = unsafe { fetch_xor_u64(&raw mut (*self.0.as_ptr()).exchange, turned) };
        Some(Exchange { sent: (before >> 32) as u32, ..*new })
    }
}

impl Shared<Chat> {
    /// The packed home and number of flows.
    #[inline(always)]
    pub fn state(&self) -> u64 {
        word!(self, state)
    }

    /// Changes the state if it is still `old`.
    #[inline(always)]
    pub fn swap_state(&self, old: u64, new: u64) -> bool {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { swap_u64(&raw mut (*self.0.as_ptr()).state, old, new) }
    }

    /// Counts a flow more, or less by `u64::MAX`, and returns the state before.
    #[inline(always)]
    pub fn add_flow(&self, by: u64) -> u64 {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_add_u64(&raw mut (*self.0.as_ptr()).state, by) }
    }

    /// Notes that the chat counts for its home, and returns the state before.
    #[inline(always)]
    pub fn set_counted(&self) -> u64 {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_or_u64(&raw mut (*self.0.as_ptr()).state, CHAT_COUNTED) }
    }

    /// When the last flow ended.
    #[inline(always)]
    pub fn ended_at(&self) -> u64 {
        word!(self, ended_at)
    }

    /// Notes that the last flow has ended.
    #[inline(always)]
    pub fn set_ended_at(&self, now: u64) {
        word!(self, ended_at = now);
    }

    /// Notes that the chat came to another home.
    #[inline(always)]
    pub fn set_since(&self, now: u64) {
        word!(self, since = now);
    }
}

impl Shared<Load> {
    /// Counts live flows more, or less by `u64::MAX`.
    #[inline(always)]
    pub fn add_flows(&self, by: u64) {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_add_u64(&raw mut (*self.0.as_ptr()).flows, by) };
    }

    /// Counts chats more, or less by `u64::MAX`.
    #[inline(always)]
    pub fn add_chats(&self, by: u64) {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_add_u64(&raw mut (*self.0.as_ptr()).chats, by) };
    }
}

impl Shared<Ring> {
    /// How many entries it has, at this moment.
    #[inline(always)]
    pub fn entries(&self) -> u32 {
        word!(self, entries)
    }

    /// Counts entries more, or less by `u32::MAX`.
    #[inline(always)]
    pub fn add(&self, by: u32) {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_add_u32(&raw mut (*self.0.as_ptr()).entries, by) };
    }

    /// Notes that it was met full.
    #[inline(always)]
    pub fn set_full(&self) {
        word!(self, entries = Ring::FULL);
    }
}

impl Shared<Share> {
    /// Counts live flows more, or less by `u32::MAX`.
    #[inline(always)]
    pub fn add_flows(&self, by: u32) {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_add_u32(&raw mut (*self.0.as_ptr()).flows, by) };
    }

    /// Counts chats more, or less by `u32::MAX`.
    #[inline(always)]
    pub fn add_chats(&self, by: u32) {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_add_u32(&raw mut (*self.0.as_ptr()).chats, by) };
    }

    /// Counts entries of waiting heads more, or less by their negation modulo 2^32.
    #[inline(always)]
    pub fn add_heads(&self, by: u32) {
        // SAFETY: see `Shared`; all writers of the field are atomic.
        unsafe { fetch_add_u32(&raw mut (*self.0.as_ptr()).heads, by) };
    }

    /// Live flows, at this moment.
    #[inline(always)]
    pub fn flows(&self) -> u32 {
        word!(self, flows)
    }

    /// Entries of waiting heads, at this moment.
    #[inline(always)]
    pub fn heads(&self) -> u32 {
        word!(self, heads)
    }

    /// Chats, at this moment.
    #[inline(always)]
    pub fn chats(&self) -> u32 {
        word!(self, chats)
    }
}

/// Copies a stash by words.
///
/// # Safety
///
/// Both must be valid, and aligned to eight bytes.
#[inline(always)]
pub(crate) unsafe fn copy_words(from: *const u64, to: *mut u64) {
    const { assert!(size_of::<Stash>().is_multiple_of(8)) };
    for i in 0..size_of::<Stash>() / 8 {
        // SAFETY: inside both. Volatile, or LLVM makes it a call of memcpy, which there is not.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

impl Shared<Stash> {
    /// Which connection it belongs to, and whether it is claimed, at this moment.
    #[inline(always)]
    pub fn owner(&self) -> u64 {
        word!(self, owner)
    }

    /// Which connection it belongs to, at this moment.
    #[inline(always)]
    pub fn server_isn(&self) -> u32 {
        (self.owner() >> 32) as u32
    }

    /// Claims it, if it is still `owner`'s, whom nobody has claimed it of.
    #[inline(always)]
    pub fn claim(&self, owner: u64) -> bool {
        // SAFETY: see `Shared`; all writers of the field swap it.
        unsafe { swap_u64(&raw mut (*self.0.as_ptr()).owner, owner, owner | STASH_CLAIMED) }
    }

    /// Lets it go.
    #[inline(always)]
    pub fn release(&self, owner: u64) {
        let (claimed, free) = (owner | STASH_CLAIMED, owner & !STASH_CLAIMED);
        // SAFETY: as above.
        unsafe { swap_u64(&raw mut (*self.0.as_ptr()).owner, claimed, free) };
    }

    /// Writes it, if it is claimed for this connection, and lets it go.
    #[inline(always)]
    pub fn put(&self, stash: &Stash) {
        let claimed = stash.owner | STASH_CLAIMED;
        if self.owner() == claimed {
            let from: *const Stash = stash;
            // SAFETY: both are aligned, and nobody else reads or writes what is claimed. The first word is the same.
            unsafe { copy_words(from.cast(), self.0.as_ptr().cast()) };
            self.release(claimed);
        }
    }

    /// Where it is, to be copied.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *const Stash {
        self.0.as_ptr()
    }
}

impl Shared<Pending> {
    /// Our initial sequence number, at this moment.
    #[inline(always)]
    pub fn server_isn(&self) -> u32 {
        word!(self, server_isn)
    }

    /// Sets bits of `Pending::flags`: whoever writes last wins, which is as good as the other.
    #[inline(always)]
    pub fn set_flags(&self, bits: u8) {
        // SAFETY: see `Shared`.
        unsafe { (*self.0.as_ptr()).flags |= bits }
    }
}
