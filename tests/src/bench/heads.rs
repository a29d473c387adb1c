//! The key sources that are measured, each with a service of its own, and what a client sends first.

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
}

impl Head {
    /// All of them: the number of each one's service.
    pub const ALL: [Self; 6] =
        [Self::Query, Self::Tuple, Self::Path, Self::Header, Self::Cookie, Self::Sni];

    /// As it is configured.
    pub fn source(self) -> KeySource {
        match self {
            Self::Query => KeySource::new(KeyKind::Query, b"chat"),
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
            return client_hello(&format!("room-{chat:04}.chat.example.com"));
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

/// A TLS 1.3 ClientHello (RFC 8446 section 4.1.2) of the usual 517 bytes, the name behind others.
fn client_hello(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let server_name = [&be16(name.len() + 3)[..], &[0], &be16(name.len()), name].concat();
    let mut extensions = Vec::new();
    for (kind, body) in [
        (0x0017, &[][..]),
        (0x002b, &[4, 3, 4, 3, 3]),
        (0x000a, &[0, 4, 0, 29, 0, 23]),
        (0x0033, &[0x42; 38]),
        (0x0000, &server_name),
        (0x000d, &[0x43; 20]),
        (0x0010, &[0, 9, 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1']),
    ] {
        extensions.extend([&be16(kind)[..], &be16(body.len()), body].concat());
    }
    let fixed = 5 + 4 + 34 + 33 + 2 + 32 + 2 + 2;
    let padding = 517 - fixed - extensions.len() - 4;
    extensions.extend([&be16(0x0015)[..], &be16(padding), &vec![0; padding]].concat());
    let hello = [
        &[3, 3][..],
        &[0x44; 32],
        &[32],
        &[0x45; 32],
        &be16(32),
        &[0x13; 32],
        &[1, 0],
        &be16(extensions.len()),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &be16(hello.len()), &hello].concat();
    [&[22, 3, 1][..], &be16(message.len()), &message].concat()
}

fn be16(number: usize) -> [u8; 2] {
    (number as u16).to_be_bytes()
}
