//! Who is in which chat on this replica, and passing messages on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::mpsc;

use crate::protocol::ChatCount;

/// Messages that may wait for one slow connection. More than that and it is closed: the memory of
/// the replica is bounded, and a client never has a silent gap.
const QUEUE: usize = 1024;

/// The chats of this process.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    chats: Mutex<HashMap<Arc<str>, Vec<Member>>>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Member {
    id: u64,
    queue: mpsc::Sender<Utf8Bytes>,
}

/// A connection's place in its chat; dropping it leaves the chat.
#[derive(Debug)]
pub(crate) struct Seat {
    rooms: Arc<Rooms>,
    chat: Arc<str>,
    id: u64,
    /// What is to be sent to this connection; ended when it was too slow.
    pub(crate) queue: mpsc::Receiver<Utf8Bytes>,
    /// Connections of the chat when this one joined, itself included.
    pub(crate) connections: usize,
}

impl Rooms {
    pub(crate) fn join(self: &Arc<Self>, chat: &str) -> Seat {
        let (sender, queue) = mpsc::channel(QUEUE);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let chat: Arc<str> = chat.into();
        let mut chats = self.lock();
        let members = chats.entry(Arc::clone(&chat)).or_default();
        members.push(Member { id, queue: sender });
        let connections = members.len();
        drop(chats);
        Seat { rooms: Arc::clone(self), chat, id, queue, connections }
    }

    pub(crate) fn counts(&self) -> Vec<ChatCount> {
        let chats = self.lock();
        let mut counts: Vec<_> = chats
            .iter()
            .map(|(chat, members)| ChatCount { chat: chat.to_string(), connections: members.len() })
            .collect();
        drop(chats);
        counts.sort_unstable_by(|a, b| a.chat.cmp(&b.chat));
        counts
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Member>>> {
        // No code under the lock leaves the table half changed, so a panic elsewhere is no reason
        // to give up on the other chats.
        self.chats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Sends `frame` to every connection of this chat, this one included.
    pub(crate) fn broadcast(&self, frame: &Utf8Bytes) {
        if let Some(members) = self.rooms.lock().get_mut(&self.chat) {
            members.retain(|member| member.queue.try_send(frame.clone()).is_ok());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut chats = self.rooms.lock();
        if let Some(members) = chats.get_mut(&self.chat) {
            members.retain(|member| member.id != self.id);
            if members.is_empty() {
                chats.remove(&self.chat);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_in_its_chat() {
        let rooms = Arc::new(Rooms::default());
        let (mut a, mut b) = (rooms.join("1"), rooms.join("1"));
        let mut other = rooms.join("2");
        assert_eq!((a.connections, b.connections, other.connections), (1, 2, 1));
        a.broadcast(&"hi".into());
        assert_eq!(a.queue.try_recv().unwrap(), "hi");
        assert_eq!(b.queue.try_recv().unwrap(), "hi");
        assert!(other.queue.try_recv().is_err());
    }

    #[test]
    fn an_empty_chat_is_forgotten() {
        let rooms = Arc::new(Rooms::default());
        let (a, b) = (rooms.join("1"), rooms.join("1"));
        drop(a);
        assert_eq!(rooms.counts(), [ChatCount { chat: "1".into(), connections: 1 }]);
        drop(b);
        assert!(rooms.counts().is_empty());
    }

    #[test]
    fn a_slow_member_is_put_out_and_the_others_stay() {
        let rooms = Arc::new(Rooms::default());
        let (mut quick, mut slow) = (rooms.join("1"), rooms.join("1"));
        for _ in 0..=QUEUE {
            quick.broadcast(&"x".into());
            quick.queue.try_recv().unwrap();
        }
        assert_eq!(rooms.counts()[0].connections, 1);
        for _ in 0..QUEUE {
            slow.queue.try_recv().unwrap();
        }
        assert_eq!(slow.queue.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }
}
