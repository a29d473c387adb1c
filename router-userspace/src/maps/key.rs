//! Keys as people write them: text, an address, or `client:port,vip:port`, by the key source.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use router_ebpf::{
    key::Key,
    maps::{Name, PART, Service, Tuple},
    siphash,
    source::Shape,
};

use super::{names, text};
use crate::plan::{
    addr::{Family, to_map},
    config::KeySource,
};

/// A key that was written by a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The bytes that are hashed.
    pub bytes: Vec<u8>,
    /// The family of the connections that can have it; `None` for any.
    pub family: Option<Family>,
}

impl Written {
    /// Its hash: what the kernel program computes for a connection with this key.
    pub fn hash(&self, secret: &siphash::Key) -> u64 {
        let mut key = Key::EMPTY;
        key.set_bytes(&self.bytes);
        key.hash(secret)
    }

    /// What the maps keep of it.
    pub fn name(&self) -> Name {
        Name::new(&self.bytes)
    }

    fn addr(ip: IpAddr) -> Self {
        Self { bytes: to_map(ip).to_vec(), family: Some(Family::of(ip)) }
    }

    fn tuple(tuple: &Tuple, family: Family) -> Self {
        Self { bytes: text::tuple_to_bytes(tuple).to_vec(), family: Some(family) }
    }

    fn text(written: &str, folds: bool) -> Result<Self> {
        if written.is_empty() {
            bail!("the key is empty: a connection with an empty key has no key");
        }
        if written.len() > PART {
            bail!("the key has {} bytes: no key has more than {PART}", written.len());
        }
        // The data path lower-cases ASCII letters only: host names have no others.
        let bytes = if folds { written.to_ascii_lowercase() } else { written.to_owned() };
        Ok(Self { bytes: bytes.into_bytes(), family: None })
    }
}

/// How keys and chats are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    /// They are text, even where the service has a key source that takes an address and they read
    /// as one.
    pub text: bool,
}

/// Reads a key of a connection of this service: what reads as the addresses of its one key source
/// that takes them, and text otherwise, if another source takes it.
pub fn parse(service: &Service, written: &str, form: Form) -> Result<Written> {
    let of_text = || KeySource::of_service(service).filter(|source| !source.always_yields());
    let has_text = of_text().next().is_some();
    let Some(source) = names::addresses(service).filter(|_| !form.text || !has_text) else {
        let folds = has_text && of_text().all(KeySource::folds_case);
        return Written::text(written, folds);
    };
    match (parse_addresses(source, written), has_text) {
        (Err(_), true) => Written::text(written, false),
        (parsed, _) => parsed,
    }
}

fn parse_addresses(source: KeySource, written: &str) -> Result<Written> {
    if source.shape() == Shape::Tuple {
        let (tuple, family) = parse_tuple(written)?;
        return Ok(Written::tuple(&tuple, family));
    }
    let ip: IpAddr = written.parse().with_context(|| {
        format!("the key source is `{source}`: `{written}` should be an IP address")
    })?;
    Ok(Written::addr(ip.to_canonical()))
}

/// Reads the name of a chat: a key of the service, or any text, which only keys that are bound to
/// it can reach.
pub fn parse_chat(service: &Service, written: &str, form: Form) -> Result<Written> {
    if form.text {
        return Written::text(written, false);
    }
    parse(service, written, form).or_else(|_| Written::text(written, false))
}

/// Reads `client:port,vip:port`.
pub fn parse_tuple(written: &str) -> Result<(Tuple, Family)> {
    let expected = || format!("`{written}` should be `client:port,vip:port`");
    let (client, server) = written.split_once(',').with_context(expected)?;
    let client: SocketAddr = client.trim().parse().with_context(expected)?;
    let server: SocketAddr = server.trim().parse().with_context(expected)?;
    let (client_ip, server_ip) = (client.ip().to_canonical(), server.ip().to_canonical());
    if client_ip.is_ipv4() != server_ip.is_ipv4() {
        bail!("`{written}` mixes IPv4 and IPv6: both ends of a connection have the same family");
    }
    let tuple = Tuple {
        client: to_map(client_ip),
        server: to_map(server_ip),
        client_port: client.port().to_be_bytes(),
        server_port: server.port().to_be_bytes(),
    };
    Ok((tuple, Family::of(client_ip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::service;

    fn parse(source: &str, written: &str) -> Result<Written> {
        super::parse(&service(&[source]), written, Form::default())
    }

    #[test]
    fn keys_have_the_form_of_their_source() {
        let key = parse("query:chat", "room 42").unwrap();
        assert_eq!((key.bytes.as_slice(), key.family), (&b"room 42"[..], None));
        let key = parse("client", "192.0.2.7").unwrap();
        assert_eq!(key.bytes, to_map("192.0.2.7".parse().unwrap()));
        assert_eq!(key, parse("client", "::ffff:192.0.2.7").unwrap());
        assert_eq!(key.family, Some(Family::V4));
        let key = parse("tuple", "[2001:db8::7]:40000,[2001:db8::1]:80").unwrap();
        assert_eq!((key.bytes.len(), key.family), (36, Some(Family::V6)));
        assert_eq!(key.bytes[32..], [0x9c, 0x40, 0, 80]);
    }

    #[test]
    fn host_names_are_lower_cased_and_only_they() {
        for source in ["sni", "sni:label", "header:host"] {
            assert_eq!(parse(source, "Rooms.Example").unwrap().bytes, b"rooms.example");
        }
        for source in ["query:chat", "path:1", "header:x-chat", "cookie:chat"] {
            assert_eq!(parse(source, "Rooms.Example").unwrap().bytes, b"Rooms.Example");
        }
        let mixed = service(&["sni:label", "query:chat"]);
        let key = super::parse(&mixed, "Lobby", Form::default()).unwrap();
        assert_eq!(key.bytes, b"Lobby", "it may be either's");
    }

    #[test]
    fn with_both_kinds_of_sources_an_address_is_one_unless_it_is_said_to_be_text() {
        let service = service(&["query:chat", "header:x-chat", "client"]);
        let parse = |written, text| super::parse(&service, written, Form { text }).unwrap();
        assert_eq!(parse("lobby", false).bytes, b"lobby");
        assert_eq!(parse("192.0.2.7", false).bytes, to_map("192.0.2.7".parse().unwrap()));
        assert_eq!(parse("192.0.2.7", true).bytes, b"192.0.2.7");
        let chat = parse_chat(&service, "192.0.2.7", Form { text: true }).unwrap();
        assert_eq!(chat.bytes, b"192.0.2.7");
    }

    #[test]
    fn errors_say_what_would_be_right() {
        let message = |source, key: &str| parse(source, key).unwrap_err().to_string();
        assert!(message("query:chat", "").starts_with("the key is empty"));
        assert!(message("query:chat", &"a".repeat(4097)).contains("4097 bytes"));
        assert!(message("destination", "x").contains("`x` should be an IP address"));
        assert!(message("tuple", "1.2.3.4:5").contains("`client:port,vip:port`"));
        assert!(message("tuple", "1.2.3.4:5,[::1]:6").contains("mixes"));
    }

    #[test]
    fn a_chat_can_have_any_name() {
        let chat = parse_chat(&service(&["client"]), "room 42", Form::default()).unwrap();
        assert_eq!(chat.bytes, b"room 42");
        assert!(parse_chat(&service(&["client"]), "", Form::default()).is_err());
    }

    #[test]
    fn hashes_are_those_of_the_kernel_program() {
        let secret = [1, 2];
        let addr = to_map("192.0.2.7".parse().unwrap());
        let mut key = Key { bytes: [0xff; PART], ..Key::EMPTY };
        key.set_addr(&addr);
        let written = parse("client", "192.0.2.7").unwrap();
        assert_eq!(written.hash(&secret), key.hash(&secret));
        let text = "192.0.2.7:40000,192.0.2.1:80";
        key.set_tuple(&parse_tuple(text).unwrap().0);
        let written = parse("tuple", text).unwrap();
        assert_eq!(written.hash(&secret), key.hash(&secret));
    }
}
