//! The key sources that are measured, each with a service of its own, and what a client sends first.

use crate::hello::{Padding, client_hello, records};
use router_ebpf::{
    maps::KeySource,
    source::{KeyKind, PATH_ANY, PATH_KEY},
};

/// A key source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `query:chat`.
    Query,
    /// `tuple`, which reads nothing.
    Tuple,
    /// `path:/rooms/{chat}/*`.
    Path,
    /// `header:x-chat`, the last one.
    Header,
    /// `cookie:chat`, the last of some.
    Cookie,
    /// `sni:label.chat.example.com`.
    Sni,
    /// `query:chat`, of a service whose connections are bound again: a head is read to its end.
    Again,
}

impl Head {
    /// All of them: the number of each one's service.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Tuple, Self::Path, Self::Header, Self::Cookie, Self::Sni, Self::Again];

    /// As it is configured.
    pub fn source(self) -> KeySource {
        match self {
            Self::Query | Self::Again => KeySource::new(KeyKind::Query, b"chat"),
            Self::Tuple => KeySource::new(KeyKind::Tuple, b""),
            Self::Path => {
                let path = [b"/rooms/".as_slice(), &[PATH_KEY], b"/", &[PATH_ANY]].concat();
                KeySource::new(KeyKind::Path, &path)
            }
            Self::Header => KeySource::new(KeyKind::Header, b"x-chat"),
            Self::Cookie => KeySource::new(KeyKind::Cookie, b"chat"),
            Self::Sni => KeySource::new(KeyKind::SniLabel, b".chat.example.com"),
        }
    }

    /// The first bytes of a connection to this chat.
    pub fn bytes(self, chat: u32) -> Vec<u8> {
        if self == Self::Sni {
            let message =
                client_hello(&format!("room-{chat:04}.chat.example.com"), 517, Padding::Last);
            return records(&message, message.len());
        }
        let target = match self {
            Self::Path => format!("/rooms/room-{chat:04}/ws"),
            _ => format!("/ws?chat=room-{chat:04}"),
        };
        let cookies = "consent=yes; theme=dark; session=0123456789abcdef0123456789abcdef";
        format!(
            "GET {target} HTTP/1.1\r\nHost: chat.example.com\r\nConnection: Upgrade\r\n\
             Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
             x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
             Upgrade: websocket\r\nOrigin: https://chat.example.com\r\nSec-WebSocket-Version: 13\r\n\
             Accept-Encoding: gzip, deflate\r\nAccept-Language: en-GB\r\nSec-WebSocket-Key: \
             dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: {cookies}; chat=room-{chat:04}\r\n\
             X-Chat: room-{chat:04}\r\n\r\n"
        )
        .into_bytes()
    }
}
