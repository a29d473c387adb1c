//! How single values of the maps are written: addresses, keys, names, identities. Ages are not humantime's, which writes
//! all units down to nanoseconds.

use std::net::SocketAddr;

use router_ebpf::{
    maps::{Addr, NAME_LEN, Name, Port, Tuple},
    source::Shape,
};

use crate::plan::addr::from_map;

/// What stands where there is nothing to show.
pub const NONE: &str = "-";

/// An address and a port of a map.
pub fn endpoint(addr: &Addr, port: Port) -> SocketAddr {
    SocketAddr::new(from_map(*addr), u16::from_be_bytes(port))
}

/// The client's end of a tuple.
pub fn client(tuple: &Tuple) -> SocketAddr {
    endpoint(&tuple.client, tuple.client_port)
}

/// The other end of a tuple: the VIP or the replica.
pub fn server(tuple: &Tuple) -> SocketAddr {
    endpoint(&tuple.server, tuple.server_port)
}

/// Bytes that somebody else chose, safe for a terminal: printable text stays, all else is escaped.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => text.push(c),
                _ => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A name out of a map. `…` stands for what the kernel did not keep.
pub fn name(name: &Name) -> String {
    let mut text = escape(name.kept());
    if name.len as usize > NAME_LEN {
        text.push('…');
    }
    text
}

/// The readable key of a chat. Sources that take the key from the packet's header keep its bytes,
/// which are shown as an address or as `client:port,vip:port`. A chat that was named by a person
/// can have the same length: it is text, which an address as good as never is.
pub fn key(shape: Shape, key: &Name) -> String {
    let is_text = key.kept().iter().all(|byte| matches!(byte, b' '..=b'~'));
    match shape {
        _ if is_text => {}
        Shape::Address => {
            if let Ok(addr) = Addr::try_from(key.kept()) {
                return from_map(addr).to_string();
            }
        }
        Shape::Tuple => {
            if let Some(tuple) = tuple_from_bytes(key.kept()) {
                return format!("{},{}", client(&tuple), server(&tuple));
            }
        }
        Shape::Text => {}
    }
    name(key)
}

/// A tuple as key bytes: the fields in the order of [`Tuple`].
pub fn tuple_to_bytes(tuple: &Tuple) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..16].copy_from_slice(&tuple.client);
    bytes[16..32].copy_from_slice(&tuple.server);
    bytes[32..34].copy_from_slice(&tuple.client_port);
    bytes[34..].copy_from_slice(&tuple.server_port);
    bytes
}

fn tuple_from_bytes(bytes: &[u8]) -> Option<Tuple> {
    let bytes: &[u8; 36] = bytes.try_into().ok()?;
    Some(Tuple {
        client: bytes[..16].try_into().ok()?,
        server: bytes[16..32].try_into().ok()?,
        client_port: bytes[32..34].try_into().ok()?,
        server_port: bytes[34..].try_into().ok()?,
    })
}

/// 64 bits that identify something (cookie, digest): 16 hexadecimal digits.
pub fn hex(value: u64) -> String {
    format!("{value:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::addr::to_map;

    #[test]
    fn mapped_addresses_are_shown_as_ipv4() {
        let v4 = to_map("192.0.2.7".parse().unwrap());
        let v6 = to_map("2001:db8::7".parse().unwrap());
        assert_eq!(endpoint(&v4, [0x1f, 0x90]).to_string(), "192.0.2.7:8080");
        assert_eq!(endpoint(&v6, [0, 80]).to_string(), "[2001:db8::7]:80");
    }

    #[test]
    fn keys_cannot_write_to_the_terminal() {
        assert_eq!(escape(b"room 42 / \xc3\xbcber"), "room 42 / über");
        assert_eq!(escape(b"\x1b[31m\r\n\0"), "\\u{1b}[31m\\r\\n\\0");
        assert_eq!(escape(b"it's \"x\" \\"), "it's \"x\" \\\\");
        assert_eq!(escape(b"a\xff\xfeb"), "a\\xff\\xfeb");
        assert_eq!(escape("\u{202e}x".as_bytes()), "\\u{202e}x", "direction overrides");
    }

    #[test]
    fn a_name_that_was_cut_says_so() {
        assert_eq!(name(&Name::new(b"42")), "42");
        assert_eq!(name(&Name::new(&[b'a'; 64])), "a".repeat(64));
        assert_eq!(name(&Name::new(&[b'a'; 65])), "a".repeat(64) + "…");
    }

    #[test]
    fn keys_are_shown_by_their_source() {
        let addr = to_map("192.0.2.7".parse().unwrap());
        assert_eq!(key(Shape::Address, &Name::new(&addr)), "192.0.2.7");
        assert_eq!(key(Shape::Address, &Name::new(b"short")), "short");
        assert_eq!(key(Shape::Address, &Name::new(b"conference-room1")), "conference-room1");
        assert_eq!(key(Shape::Text, &Name::new(b"42")), "42");
        let tuple = Tuple {
            client: addr,
            server: to_map("2001:db8::1".parse().unwrap()),
            client_port: 40000u16.to_be_bytes(),
            server_port: 80u16.to_be_bytes(),
        };
        let bytes = tuple_to_bytes(&tuple);
        assert_eq!(key(Shape::Tuple, &Name::new(&bytes)), "192.0.2.7:40000,[2001:db8::1]:80");
    }
}
