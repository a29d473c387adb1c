//! A small WebSocket chat with state per chat in the memory of one process: the replica of Roost's
//! demo and tests, and the clients that look at it from outside.
//!
//! The server is deliberately naive about other replicas. A message reaches the connections of its
//! chat *on this process* and nothing else, so two tabs of one chat on two replicas do not see each
//! other: the failure that Roost's policy `home` is there to prevent, made visible.
//!
//! # WebSocket
//!
//! `GET /ws?chat=<id>` upgrades. Every frame is a JSON object in a text frame, see [`protocol`]:
//!
//! ```text
//! server, once on connect  {"type":"hello","replica":"replica-1","chat":"42","peer":"10.0.0.9:51234","connections":1}
//! client                   {"type":"say","text":"good morning"}
//! server, to the chat      {"type":"message","replica":"replica-1","chat":"42","text":"good morning","from":"10.0.0.9:51234"}
//! server, to one client    {"type":"error","reason":"..."}
//! ```
//!
//! A client that says `{"type":"enter","name":"Ada"}` has that name in its messages from then on
//! (`"name":"Ada"`), and is told who is there, at every change:
//! `{"type":"present","replica":"replica-1","connections":2,"members":[{"peer":"...","name":"Ada"},{"peer":"..."}]}`.
//!
//! With `probe=1` in the query a connection is greeted and closed: it is routed like any other of its
//! chat, but does not join it. The page finds out by it where a new tab would go.
//!
//! With a certificate ([`tls`]) the server speaks the same under TLS, and nothing in plain text.
//!
//! # HTTP
//!
//! Every answer has the header `roost-replica: <name>`.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the page: a chat to look at, see [`server`] |
//! | `GET /healthz` | `ok` |
//! | `GET /whoami` | `{"replica","peer"}`: who answers, and which client address it sees |
//! | `GET /chats` | `[{"chat","connections"}]`, sorted by chat |
//! | `POST /say?chat=<id>` | says the body, a text, in the chat: `{"replica","chat","reached"}` |
//! | `GET /bytes?n=N&seed=S` | N bytes of the [`pattern`] with seed S (default 0) |
//! | `POST /sink` | reads the body, answers `{"bytes","sha256"}` |

pub mod client;
pub mod listen;
pub mod pattern;
pub mod protocol;
mod rooms;
pub mod server;
mod stream;
pub mod tls;

/// Completes once `flag` is true, or its sender is gone.
async fn turned_on(flag: &mut tokio::sync::watch::Receiver<bool>) {
    // The value is of no use, and holding it would keep the sender from changing it.
    drop(flag.wait_for(|on| *on).await);
}
