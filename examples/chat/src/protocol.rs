//! The messages on the wire.

use std::net::SocketAddr;

use axum::extract::ws::Utf8Bytes;
use serde::{Deserialize, Serialize};

/// The header of every HTTP answer that names the replica.
pub const REPLICA_HEADER: &str = "roost-replica";

/// The longest chat id that the server takes, in bytes.
pub const MAX_CHAT: usize = 256;

/// The longest name of a member, in bytes; what is longer is cut.
pub const MAX_NAME: usize = 64;

/// How many members of a chat are listed by name; the others are counted.
pub const LISTED: usize = 100;

/// The largest WebSocket message that the server takes, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What a connection reads at once. The library's own default of 128 KiB is held for as long as the
/// connection lives, and there are thousands of them, most of them idle.
pub(crate) const READ_BUFFER: usize = 4 * 1024;

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FromServer {
    /// The first frame of every connection.
    Hello(Hello),
    /// Somebody said something in the chat.
    Message(Message),
    /// Who is in the chat on this replica; to those who have entered by name, at every change.
    Present(Present),
    /// The last frame of this client was not understood; the connection stays.
    Error {
        /// What was wrong, and what would be right.
        reason: String,
    },
}

impl FromServer {
    /// As the text of a frame.
    pub(crate) fn encode(&self) -> Utf8Bytes {
        // Strings, numbers and addresses: nothing in it can fail to be JSON.
        serde_json::to_string(self).expect("the protocol's types are JSON").into()
    }
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FromClient {
    /// Say something to the chat of this connection, the sender included.
    Say {
        /// The words.
        text: String,
    },
    /// Go by a name from now on, and be told who is there.
    Enter {
        /// The name.
        name: String,
    },
}

/// Where a connection has arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The name of the replica that accepted the connection.
    pub replica: String,
    /// The chat as the replica understood it.
    pub chat: String,
    /// The client's address as the replica sees it.
    pub peer: SocketAddr,
    /// Connections of this chat on this replica, this one included.
    pub connections: usize,
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The replica that passed the message on.
    pub replica: String,
    /// The chat.
    pub chat: String,
    /// What was said.
    pub text: String,
    /// The address of who said it, as the replica sees it.
    pub from: SocketAddr,
    /// The name of who said it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Who is in a chat, as far as one replica knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// The name of the replica.
    pub replica: String,
    /// Connections of the chat on this replica.
    pub connections: usize,
    /// The first of them, in the order in which they came.
    pub members: Vec<Member>,
}

/// One connection of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its address as the replica sees it.
    pub peer: SocketAddr,
    /// Its name, if it has entered by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The answer of `GET /whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The name of the replica.
    pub replica: String,
    /// The client's address as the replica sees it.
    pub peer: SocketAddr,
}

/// The answer of `POST /say`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The name of the replica.
    pub replica: String,
    /// The chat.
    pub chat: String,
    /// To how many connections of the chat on this replica the message was sent.
    pub reached: usize,
}

/// One element of the answer of `GET /chats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatCount {
    /// The chat.
    pub chat: String,
    /// Its connections on this replica.
    pub connections: usize,
}

/// The answer of `POST /sink`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// How many bytes the body had.
    pub bytes: u64,
    /// The SHA-256 of the body, in lower-case hexadecimal.
    pub sha256: String,
}
