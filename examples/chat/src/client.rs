//! Clients of the chat: a WebSocket [`Tab`], plain [`Http`], and [`load`] of thousands of tabs.
//!
//! Callers that live in another network namespace switch a thread to it, connect a
//! [`std::net::TcpStream`] there and hand it over (`from_stream`); a socket stays in the namespace
//! where it was made. Everything works in a current-thread runtime, so that such a thread can also
//! call `open` and [`load::open`] itself.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::{TcpSocket, TcpStream};

mod http;
pub mod load;
mod tab;

pub use http::{Http, Transfer};
pub use tab::{Tab, Upgrade};

/// How long connecting and the upgrade may take before they count as failed.
pub const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// What a URL leaves alone everywhere (RFC 3986, unreserved).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `path` with the query parameter `name` added, escaped as needed.
pub fn with_query(path: &str, name: &str, value: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    let (name, value) = (utf8_percent_encode(name, ESCAPED), utf8_percent_encode(value, ESCAPED));
    format!("{path}{joint}{name}={value}")
}

/// Connects to `address`, from `bind` if that is given.
pub async fn connect(address: SocketAddr, bind: Option<SocketAddr>) -> Result<TcpStream> {
    connect_within(OPEN_LIMIT, address, bind).await
}

async fn connect_within(
    limit: Duration,
    address: SocketAddr,
    bind: Option<SocketAddr>,
) -> Result<TcpStream> {
    let attempt = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bind) = bind {
            socket.bind(bind)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    let from = bind.map(|bind| format!(" from {bind}")).unwrap_or_default();
    match tokio::time::timeout(limit, attempt).await {
        Ok(stream) => stream.with_context(|| format!("cannot connect to {address}{from}")),
        Err(_) => bail!("cannot connect to {address}{from}: no answer in {limit:?}"),
    }
}

/// Takes a connected stream into the current tokio runtime.
fn adopt(stream: StdStream) -> Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(TcpStream::from_std(stream)?)
}

/// Where a URL of a WebSocket or of HTTP points to, with its name resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The address to connect to.
    pub address: SocketAddr,
    /// The host and port, as in the header `Host`.
    pub host: String,
    /// The path with the query.
    pub path: String,
    /// Whether it is `wss://` or `https://`.
    pub tls: bool,
}

impl Location {
    /// Takes `url` apart and looks its host up, unless `connect` says where it is.
    pub async fn resolve(url: &str, connect: Option<SocketAddr>) -> Result<Self> {
        let expected = "expected ws://HOST:PORT/ws?chat=ID";
        let uri: hyper::Uri = url.parse().with_context(|| format!("url: {url:?}: {expected}"))?;
        let tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => bail!("url: {url:?} is none of ws://, wss://, http://, https://: {expected}"),
        };
        let (Some(authority), Some(name)) = (uri.authority(), uri.host()) else {
            bail!("url: {url:?} has no host: {expected}")
        };
        let address = match connect {
            Some(address) => address,
            None => {
                let bare = name.trim_start_matches('[').trim_end_matches(']');
                let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
                tokio::net::lookup_host((bare, port))
                    .await
                    .with_context(|| format!("url: cannot look up {bare:?}"))?
                    .next()
                    .with_context(|| format!("url: {bare:?} has no address"))?
            }
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { address, host: authority.as_str().to_owned(), path: path.to_owned(), tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(with_query("/ws", "chat", "42"), "/ws?chat=42");
        assert_eq!(with_query("/bytes?n=1", "chat", "a b&ü"), "/bytes?n=1&chat=a%20b%26%C3%BC");
    }

    #[tokio::test]
    async fn a_location_is_resolved() {
        let v6 = Location::resolve("ws://[::1]:8080/ws?chat=1", None).await.unwrap();
        assert_eq!(v6.address, "[::1]:8080".parse().unwrap());
        assert_eq!((v6.host.as_str(), v6.path.as_str()), ("[::1]:8080", "/ws?chat=1"));
        let bare = Location::resolve("http://127.0.0.1", None).await.unwrap();
        assert_eq!((bare.address.port(), bare.path.as_str(), bare.tls), (80, "/", false));
        let secure = Location::resolve("wss://127.0.0.1/ws", None).await.unwrap();
        assert_eq!((secure.address.port(), secure.tls), (443, true));
        let elsewhere = Some("192.0.2.1:8443".parse().unwrap());
        let named = Location::resolve("wss://chat.test/ws", elsewhere).await.unwrap();
        assert_eq!((Some(named.address), named.host.as_str()), (elsewhere, "chat.test"));
        for wrong in ["ftp://h/", "127.0.0.1:80", "/ws"] {
            let error = Location::resolve(wrong, None).await.unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("expected ws://"), "{error}");
        }
    }
}
