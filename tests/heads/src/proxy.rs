//! What a proxy sends first, by another one's parser (`ppp`), which takes less and more in some places: see
//! [`expected`].

use std::net::IpAddr;

use ppp::{PartialResult as _, v1, v2};

/// What the bytes begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A header of so many bytes, and the client's address if it names one.
    Header(usize, Option<IpAddr>),
    /// None.
    Malformed,
    /// A part of one; or of none, if a byte behind its end would tell.
    Partial,
}

/// The longest line of version 1.
const LINE: usize = 107;
/// What is in front of the addresses in version 2.
const FRONT: usize = 16;

/// What a head begins with.
pub fn expected(head: &[u8]) -> Expected {
    match head.first() {
        None => Expected::Partial,
        Some(b'P') => line(head),
        Some(_) => binary(head),
    }
}

/// Version 1. What is in a line of `UNKNOWN` does not matter, whatever the other parser wants it to be; and a port has
/// no sign.
fn line(head: &[u8]) -> Expected {
    let end = head.windows(2).position(|two| two == b"\r\n").map(|at| at + 2);
    let Some(end) = end.filter(|end| *end <= LINE) else {
        return if head.len() < LINE { Expected::Partial } else { Expected::Malformed };
    };
    let line = &head[..end];
    if line.starts_with(b"PROXY UNKNOWN ") || line == b"PROXY UNKNOWN\r\n" {
        return Expected::Header(end, None);
    }
    if line.starts_with(b"PROXY UNKNOWN\r") {
        // A carriage return ends the word, too.
        return Expected::Header(end, None);
    }
    if line.contains(&b'+') {
        return Expected::Malformed;
    }
    match v1::Header::try_from(line).map(|header| header.addresses) {
        Ok(v1::Addresses::Tcp4(ip)) => Expected::Header(end, Some(ip.source_address.into())),
        Ok(v1::Addresses::Tcp6(ip)) => Expected::Header(end, Some(ip.source_address.into())),
        Ok(v1::Addresses::Unknown) | Err(_) => Expected::Malformed,
    }
}

/// Version 2. Of `LOCAL` the family does not matter.
fn binary(head: &[u8]) -> Expected {
    if head.len() >= FRONT && head.starts_with(v2::PROTOCOL_PREFIX) && head[12] == 0x20 {
        let end = FRONT + usize::from(u16::from_be_bytes([head[14], head[15]]));
        return if head.len() < end { Expected::Partial } else { Expected::Header(end, None) };
    }
    match v2::Header::try_from(head) {
        Ok(header) => {
            let client = match header.addresses {
                v2::Addresses::IPv4(ip) => Some(ip.source_address.into()),
                v2::Addresses::IPv6(ip) => Some(ip.source_address.into()),
                v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
            };
            Expected::Header(header.len(), client)
        }
        Err(error) if error.is_incomplete() => Expected::Partial,
        Err(_) => Expected::Malformed,
    }
}

/// A header of either version that names these ends.
pub fn header(version: u8, client: IpAddr, server: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    let ends = ((client, ports.0).into(), (server, ports.1).into());
    if version == 1 {
        return v1::Addresses::from(ends).to_string().into_bytes();
    }
    let kind = v2::Protocol::Stream;
    let builder = v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, kind, ends);
    let mut bytes = builder.build().expect("a header of 16 and 36 bytes at the most");
    bytes[13] |= u8::from(bytes[13] & 15 == 0);
    bytes
}
