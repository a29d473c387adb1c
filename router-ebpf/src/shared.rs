//! Values in maps that several CPUs change at the same time.

use core::ptr::NonNull;

use crate::{
    atomic::{swap_u32, swap_u64, try_some},
    maps::{
        CHAT_LINGERS, Chat, Flow, FlowBack, Pending, STATE_EXPIRED, STATE_SYN_SEEN, STATE_SYN_TICK,
        STATE_SYN_TICK_SHIFT, Stash, TICK_SHIFT,
    },
};

/// A value in a map that several CPUs change at the same time.
///
/// It stays mapped while the program runs, though it may already be out of its map, or even be the
/// value of another key there (elements are used again at once, kernel/bpf/memalloc.c): nothing here
/// may rely on more than that a moment after the look-up. The sweeper corrects the counts that such a
/// moment leaves wrong.
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
        let attempt = || {
            let state = self.state();
            // SAFETY: see `Shared`; all writers of the field swap it.
            let done = unsafe { swap_u32(&raw mut (*self.0.as_ptr()).state, state, state | bits) };
            done.then_some(state)
        };
        try_some!(attempt()).unwrap_or(bits)
    }
}

impl Shared<FlowBack> {
    /// Notes where the replica's two directions stand.
    #[inline(always)]
    pub fn advance(&self, acked: u32, sent: u32) {
        word!(self, acked = acked);
        word!(self, sent = sent);
    }

    /// What follows the replica's last segment, in its own numbers.
    #[inline(always)]
    pub fn sent(&self) -> u32 {
        word!(self, sent)
    }

    /// From now on the replica's segments are answered with an RST.
    #[inline(always)]
    pub fn expire(&self) {
        word!(self, state = STATE_EXPIRED);
    }

    /// The replica's last acknowledgement number.
    #[inline(always)]
    pub fn acked(&self) -> u32 {
        word!(self, acked)
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
        // SAFETY: see `Shared`; this is the only writer of the field.
        unsafe { swap_u64(&raw mut (*self.0.as_ptr()).state, old, new) }
    }

    /// Notes that a connection was bound.
    #[inline(always)]
    pub fn set_bound_at(&self, now: u64) {
        word!(self, bound_at = now & !CHAT_LINGERS);
    }

    /// Notes that the last flow has ended.
    #[inline(always)]
    pub fn set_lingers(&self, now: u64) {
        word!(self, bound_at = now | CHAT_LINGERS);
    }

    /// Notes that the chat came to another home.
    #[inline(always)]
    pub fn set_since(&self, now: u64) {
        word!(self, since = now);
    }
}

impl Shared<Stash> {
    /// Which connection it belongs to, at this moment.
    #[inline(always)]
    pub fn server_isn(&self) -> u32 {
        word!(self, server_isn)
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
