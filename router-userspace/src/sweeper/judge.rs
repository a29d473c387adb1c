//! What is to be done with an entry: pure, with the time passed in.

use std::time::Duration;

use router_ebpf::maps::{CHAT_LINGERS, Chat, Flow, STATE_CLOSED, STATE_EXPIRED};

/// A chat without a flow is kept for this long at least after a connection was bound to it: the replica
/// may still be about to accept.
const BINDING: Duration = Duration::from_secs(120);

/// What is to be done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Keep,
    /// It ends: each end gets an RST with its next segment, and the chat counts it no longer.
    Expire,
    /// Its entries go.
    Remove,
}

/// What is known about a flow's service and replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The service's idle timeout; `None`: there is no such service.
    pub idle_timeout: Option<Duration>,
    /// The replica is gone: its chats have another home by now, so its flows must not stay.
    pub is_gone: bool,
}

/// Decides about a flow. A flow that has ended, or that was made to, is silent for `keep_ended` before
/// its entries go, so that late segments still find it.
pub fn flow(flow: &Flow, place: Place, now: Duration, keep_ended: Duration) -> Fate {
    let silent = since(flow.last_seen, now);
    if has_ended(flow) {
        return if silent >= keep_ended { Fate::Remove } else { Fate::Keep };
    }
    match place.idle_timeout {
        Some(timeout) if silent < timeout && !place.is_gone => Fate::Keep,
        _ => Fate::Expire,
    }
}

/// Whether a flow counts for its chat no longer.
pub fn has_ended(flow: &Flow) -> bool {
    flow.state & (STATE_CLOSED | STATE_EXPIRED) != 0
}

/// A chat that counts a flow to `replica` no longer, from now on; `None` if it never did.
pub fn released(chat: &Chat, replica: u32, now: Duration) -> Option<Chat> {
    let is_counted = Chat::home(chat.state) == replica && Chat::flows(chat.state) > 0;
    let mut released = Chat { state: chat.state.wrapping_sub(1), ..*chat };
    if Chat::flows(chat.state) == 1 {
        released.bound_at = now.as_nanos() as u64 | CHAT_LINGERS;
    }
    is_counted.then_some(released)
}

/// Whether a chat has no connection, none on its way, and has lingered.
pub fn is_over(chat: &Chat, linger: Duration, now: Duration) -> bool {
    Chat::flows(chat.state) == 0 && since(chat.bound_at, now) >= BINDING.max(linger)
}

/// How long ago; the kernel's clock may be a little ahead of what we read before.
fn since(then: u64, now: Duration) -> Duration {
    now.saturating_sub(Duration::from_nanos(then))
}
