//! Who is in which chat on this replica, and passing messages on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::mpsc;

use crate::protocol::{ChatCount, FromServer, LISTED, MAX_NAME, Member, Present};

/// Messages that may wait for one slow connection. More than that and it is closed: the memory of
/// the replica is bounded, and a client never has a silent gap.
const QUEUE: usize = 1024;

/// The chats of this process.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// The name of the replica.
    replica: Arc<str>,
    chats: Mutex<HashMap<Arc<str>, Vec<Place>>>,
    next_id: AtomicU64,
}

/// One connection of a chat.
#[derive(Debug)]
struct Place {
    id: u64,
    queue: mpsc::Sender<Utf8Bytes>,
    peer: SocketAddr,
    /// Those who have one are told who is there.
    name: Option<String>,
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
    pub(crate) fn new(replica: Arc<str>) -> Self {
        Self { replica, chats: Mutex::default(), next_id: AtomicU64::new(0) }
    }

    pub(crate) fn join(self: &Arc<Self>, chat: &str, peer: SocketAddr) -> Seat {
        let (sender, queue) = mpsc::channel(QUEUE);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let chat: Arc<str> = chat.into();
        let mut chats = self.lock();
        let places = chats.entry(Arc::clone(&chat)).or_default();
        places.push(Place { id, queue: sender, peer, name: None });
        let connections = places.len();
        self.tell_who_is_there(places);
        drop(chats);
        Seat { rooms: Arc::clone(self), chat, id, queue, connections }
    }

    /// Sends `frame` to every connection of a chat: how many there were.
    pub(crate) fn broadcast(&self, chat: &str, frame: &Utf8Bytes) -> usize {
        let mut chats = self.lock();
        let Some(places) = chats.get_mut(chat) else { return 0 };
        let before = places.len();
        places.retain(|place| place.queue.try_send(frame.clone()).is_ok());
        if places.len() < before {
            self.tell_who_is_there(places);
        }
        places.len()
    }

    /// How many connections a chat has.
    pub(crate) fn connections(&self, chat: &str) -> usize {
        self.lock().get(chat).map_or(0, Vec::len)
    }

    pub(crate) fn counts(&self) -> Vec<ChatCount> {
        let chats = self.lock();
        let mut counts: Vec<_> = chats
            .iter()
            .map(|(chat, places)| ChatCount { chat: chat.to_string(), connections: places.len() })
            .collect();
        drop(chats);
        counts.sort_unstable_by(|a, b| a.chat.cmp(&b.chat));
        counts
    }

    fn tell_who_is_there(&self, places: &[Place]) {
        // Most chats of a load test have nobody who wants to know.
        if places.iter().all(|place| place.name.is_none()) {
            return;
        }
        let members = places.iter().take(LISTED);
        let present = FromServer::Present(Present {
            replica: self.replica.to_string(),
            connections: places.len(),
            members: members
                .map(|place| Member { peer: place.peer, name: place.name.clone() })
                .collect(),
        });
        let frame = present.encode();
        for place in places.iter().filter(|place| place.name.is_some()) {
            // Whoever is too slow for this is put out with the next message.
            let _ = place.queue.try_send(frame.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Place>>> {
        // No code under the lock leaves the table half changed, so a panic elsewhere is no reason
        // to give up on the other chats.
        self.chats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Gives this connection a name: the name as it is kept.
    pub(crate) fn enter(&self, name: &str) -> String {
        let name = name.trim();
        let name = &name[..name.floor_char_boundary(MAX_NAME)];
        let mut chats = self.rooms.lock();
        let places = chats.get_mut(&self.chat).map(Vec::as_mut_slice).unwrap_or_default();
        if let Some(place) = places.iter_mut().find(|place| place.id == self.id) {
            place.name = Some(name.to_owned());
        }
        self.rooms.tell_who_is_there(places);
        name.to_owned()
    }

    /// Sends `frame` to every connection of this chat, this one included.
    pub(crate) fn broadcast(&self, frame: &Utf8Bytes) {
        self.rooms.broadcast(&self.chat, frame);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut chats = self.rooms.lock();
        if let Some(places) = chats.get_mut(&self.chat) {
            places.retain(|place| place.id != self.id);
            if places.is_empty() {
                chats.remove(&self.chat);
            } else {
                self.rooms.tell_who_is_there(places);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;

    fn rooms() -> Arc<Rooms> {
        Arc::new(Rooms::new("replica-1".into()))
    }

    fn peer(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn a_message_stays_in_its_chat() {
        let rooms = rooms();
        let (mut a, mut b) = (rooms.join("1", peer(1)), rooms.join("1", peer(2)));
        let mut other = rooms.join("2", peer(3));
        assert_eq!((a.connections, b.connections, other.connections), (1, 2, 1));
        a.broadcast(&"hi".into());
        assert_eq!(a.queue.try_recv().unwrap(), "hi");
        assert_eq!(b.queue.try_recv().unwrap(), "hi");
        assert_eq!(other.queue.try_recv(), Err(TryRecvError::Empty));
    }

    #[test]
    fn an_empty_chat_is_forgotten() {
        let rooms = rooms();
        let (a, b) = (rooms.join("1", peer(4)), rooms.join("1", peer(5)));
        drop(a);
        assert_eq!(rooms.counts(), [ChatCount { chat: "1".into(), connections: 1 }]);
        drop(b);
        assert!(rooms.counts().is_empty());
    }

    #[test]
    fn a_slow_member_is_put_out_and_the_others_stay() {
        let rooms = rooms();
        let (mut quick, mut slow) = (rooms.join("1", peer(6)), rooms.join("1", peer(7)));
        for _ in 0..=QUEUE {
            quick.broadcast(&"x".into());
            quick.queue.try_recv().unwrap();
        }
        assert_eq!(rooms.counts()[0].connections, 1);
        for _ in 0..QUEUE {
            slow.queue.try_recv().unwrap();
        }
        assert_eq!(slow.queue.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn only_those_with_a_name_are_told_who_is_there() {
        let rooms = rooms();
        let mut silent = rooms.join("1", peer(1));
        let mut named = rooms.join("1", peer(2));
        assert_eq!(named.queue.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(named.enter(" Ada "), "Ada");
        let mut told = || match serde_json::from_str(&named.queue.try_recv().unwrap()).unwrap() {
            FromServer::Present(present) => (present.connections, present.members),
            other => panic!("{other:?}"),
        };
        let member =
            |port, name: Option<&str>| Member { peer: peer(port), name: name.map(str::to_owned) };
        assert_eq!(told(), (2, vec![member(1, None), member(2, Some("Ada"))]));
        let third = rooms.join("1", peer(3));
        assert_eq!(told().0, 3);
        drop(third);
        assert_eq!(told().0, 2);
        assert_eq!(silent.queue.try_recv(), Err(TryRecvError::Empty));
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        let rooms = rooms();
        let seat = rooms.join("1", peer(1));
        assert_eq!(seat.enter(&format!("x{}", "ü".repeat(40))), format!("x{}", "ü".repeat(31)));
    }
}
