//! What a client sends first: from a file, or made from a URL or a host name.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use router_ebpf::maps::HEAD_LEN;
use url::Url;

/// What the client sends, instead of a key.
#[derive(Debug, Default, clap::Args)]
pub struct HeadArgs {
    /// Look for the key in FILE, which has the first bytes of a connection: an HTTP request's head
    /// or a TLS ClientHello; `-` is standard input
    #[arg(
        long,
        value_name = "FILE",
        group = "connection",
        conflicts_with_all = ["key", "address", "url", "sni"]
    )]
    pub request: Option<PathBuf>,
    /// Look for the key in the request for URL; of `https:` and `wss:` only the host name can be seen
    #[arg(
        long,
        value_name = "URL",
        group = "connection",
        conflicts_with_all = ["key", "address", "sni"]
    )]
    pub url: Option<String>,
    /// Add a header to that request; can be repeated
    #[arg(long, value_name = "NAME: VALUE", requires = "url")]
    pub header: Vec<String>,
    /// Look for the key in a TLS ClientHello to the host NAME
    #[arg(long, value_name = "NAME", group = "connection", conflicts_with_all = ["key", "address"])]
    pub sni: Option<String>,
}

impl HeadArgs {
    /// The first bytes; `None` if none were asked for.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        if let Some(file) = &self.request {
            return read(file).map(Some);
        }
        if let Some(name) = &self.sni {
            return client_hello(name).map(Some);
        }
        let Some(url) = &self.url else { return Ok(None) };
        let url = parse(url)?;
        if is_tls(&url) {
            if !self.header.is_empty() {
                bail!("the headers of `{url}` are inside of TLS: nothing outside can see them");
            }
            return client_hello(url.host_str().unwrap_or_default()).map(Some);
        }
        request(&url, &self.header).map(Some)
    }

    /// What should be known about it.
    pub(super) fn note(&self) -> Option<String> {
        let url = parse(self.url.as_deref()?).ok()?;
        let other = if url.scheme() == "https" { "http" } else { "ws" };
        is_tls(&url).then(|| {
            format!(
                "of a URL with {}: only the host name can be seen; if TLS is ended in front of \
                 Roost, write {other}: instead",
                url.scheme()
            )
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    // What is behind the limit is not looked at; one more byte tells that there is something.
    let most = HEAD_LEN as u64 + 1;
    let mut bytes = Vec::new();
    let (source, name): (Box<dyn io::Read>, _) = if file == Path::new("-") {
        (Box::new(io::stdin()), "standard input".to_owned())
    } else {
        let name = file.display().to_string();
        (Box::new(fs::File::open(file).with_context(|| format!("cannot open {name}"))?), name)
    };
    source.take(most).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.is_empty() {
        bail!("{name} is empty: a connection is looked at when its first bytes are there");
    }
    Ok(bytes)
}

fn is_tls(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "wss")
}

/// A whole URL, or the path and query of one.
fn parse(text: &str) -> Result<Url> {
    let base = Url::parse("http://vip/").context("a URL that is always right")?;
    let url = if text.starts_with('/') && !text.starts_with("//") {
        base.join(text)
    } else {
        Url::parse(text)
    };
    let url = url.with_context(|| {
        format!("`{text}` is no URL; write `ws://host/path?query` or `/path?query`")
    })?;
    if !matches!(url.scheme(), "http" | "ws" | "https" | "wss") {
        bail!("`{text}`: the scheme should be `http`, `ws`, `https` or `wss`");
    }
    Ok(url)
}

/// The request that a browser sends.
fn request(url: &Url, headers: &[String]) -> Result<Vec<u8>> {
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut head = format!("GET {target} HTTP/1.1\r\n");
    let mut has_host = false;
    for header in headers {
        let Some((name, _)) = header.split_once(':').filter(|_| !header.contains(['\r', '\n']))
        else {
            bail!("`{header}` is no header; write `Name: value`");
        };
        has_host |= name.eq_ignore_ascii_case("host");
        head.push_str(&format!("{header}\r\n"));
    }
    if !has_host {
        head.push_str(&format!("Host: {host}\r\n"));
    }
    if url.scheme() == "ws" {
        head.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    }
    head.push_str("\r\n");
    Ok(head.into_bytes())
}

/// The least ClientHello with a server name (RFC 8446 section 4.1.2, RFC 6066 section 3). Clients send
/// no server name for an IP address.
fn client_hello(name: &str) -> Result<Vec<u8>> {
    if name.is_empty() || name.len() > 255 {
        bail!("a host name has 1 to 255 bytes, `{name}` has {}", name.len());
    }
    let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let prefixed = |len_bytes: usize, bytes: &[u8]| {
        let len = (bytes.len() as u32).to_be_bytes();
        [&len[4 - len_bytes..], bytes].concat()
    };
    let server_name = prefixed(2, &[&[0], prefixed(2, name.as_bytes()).as_slice()].concat());
    let extension = [&[0, 0], prefixed(2, &server_name).as_slice()].concat();
    let hello = [
        &[3, 3],
        [0; 32].as_slice(),
        &prefixed(1, &[]),
        &prefixed(2, &[0x13, 0x01]),
        &prefixed(1, &[0]),
        &prefixed(2, if is_address { &[] } else { &extension }),
    ]
    .concat();
    let handshake = [&[1], prefixed(3, &hello).as_slice()].concat();
    Ok([&[22, 3, 1], prefixed(2, &handshake).as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use router_ebpf::{key::Reason, maps::Tuple};

    use super::*;
    use crate::{
        testing::service,
        view::search::{Outcome, search},
    };

    fn found(sources: &[&str], head: &HeadArgs) -> String {
        let bytes = head.read().unwrap().unwrap();
        match search(&service(sources), &Tuple::default(), &bytes) {
            Outcome::Found { source, key } => {
                format!("{} from {source}", String::from_utf8(key).unwrap())
            }
            Outcome::Missing(reason) => format!("{reason:?}"),
            Outcome::More => "more".to_owned(),
        }
    }

    fn url(url: &str) -> HeadArgs {
        HeadArgs { url: Some(url.to_owned()), ..HeadArgs::default() }
    }

    #[test]
    fn a_url_is_what_a_browser_sends() {
        let rooms = &["path:/rooms/{chat}/ws", "query:chat", "header:host"];
        assert_eq!(
            found(rooms, &url("ws://a/x/../rooms/caf\u{e9}/ws#top")),
            "café from path:/rooms/{chat}/ws"
        );
        assert_eq!(found(rooms, &url("/ws?chat=a+b%21")), "a b! from query:chat");
        assert_eq!(
            found(rooms, &url("http://Rooms.Example:8080/")),
            "rooms.example:8080 from header:host"
        );
        let with = HeadArgs { header: vec!["HOST:\t b ".to_owned()], ..url("/") };
        assert_eq!(found(rooms, &with), "b from header:host");
        let odd = HeadArgs { header: vec!["host".to_owned()], ..url("/") };
        assert!(odd.read().unwrap_err().to_string().contains("`Name: value`"));
        for wrong in ["rooms", "//host/x", "ftp://a/"] {
            assert!(url(wrong).read().is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_tls_only_the_name_is_seen() {
        let sources = &["query:chat", "sni:label.example.com"];
        let lobby = url("wss://Lobby.example.com/ws?chat=42");
        assert_eq!(found(sources, &lobby), "lobby from sni:label.example.com");
        assert!(lobby.note().unwrap().contains("write ws:"));
        assert_eq!(url("ws://a/").note(), None);
        let sni = HeadArgs { sni: Some("A.B.C".to_owned()), ..HeadArgs::default() };
        assert_eq!(found(&["sni"], &sni), "a.b.c from sni");
        assert_eq!(found(&["sni:label"], &sni), "a from sni:label");
        assert_eq!(found(sources, &sni), format!("{:?}", Reason::Absent));
        assert_eq!(found(&["query:chat"], &sni), format!("{:?}", Reason::Unreadable));
        assert_eq!(found(&["sni"], &url("https://192.0.2.1/")), format!("{:?}", Reason::Absent));
        let with = HeadArgs { header: vec!["a: b".to_owned()], ..lobby };
        assert!(with.read().unwrap_err().to_string().contains("inside of TLS"));
    }
}
