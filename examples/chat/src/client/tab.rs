//! One WebSocket connection to one chat, as a browser tab has it.

use std::collections::VecDeque;
use std::future::Future;
use std::io::ErrorKind::UnexpectedEof;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::header::{HeaderName, HeaderValue};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{OPEN_LIMIT, adopt, connect, with_query};
use crate::protocol::{FromClient, FromServer, Hello, Message, READ_BUFFER};
use crate::stream::Stream;
use crate::tls::ClientTls;

/// The HTTP request that opens a tab.
#[derive(Clone, Debug)]
pub struct Upgrade {
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    tls: Option<ClientTls>,
    limit: Duration,
}

impl Upgrade {
    /// `GET /ws?chat=<chat>` to `host` (with the port, as in the header).
    pub fn chat(host: impl Into<String>, chat: &str) -> Self {
        Self::path(host, with_query("/ws", "chat", chat))
    }

    /// `GET <path>`, query included, to `host`.
    pub fn path(host: impl Into<String>, path: impl Into<String>) -> Self {
        let (host, path) = (host.into(), path.into());
        Self { host, path, headers: Vec::new(), tls: None, limit: OPEN_LIMIT }
    }

    /// Adds a header after the usual ones.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sends it under TLS, to the host's name without the port.
    #[must_use]
    pub fn tls(mut self, tls: Option<ClientTls>) -> Self {
        self.tls = tls;
        self
    }

    /// Waits so long for the replica's greeting, in place of [`OPEN_LIMIT`](super::OPEN_LIMIT).
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// An open connection to a chat that has been greeted by its replica.
#[derive(Debug)]
pub struct Tab {
    socket: WebSocketStream<Stream>,
    hello: Hello,
    local: SocketAddr,
    /// Messages that came while something else was awaited.
    inbox: VecDeque<Message>,
    pings: u64,
}

impl Tab {
    /// Connects to `address`, from `bind` if that is given, and opens `chat` there.
    pub async fn open(
        address: SocketAddr,
        host: &str,
        chat: &str,
        bind: Option<SocketAddr>,
    ) -> Result<Self> {
        Self::greet(connect(address, bind).await?, &Upgrade::chat(host, chat)).await
    }

    /// Opens `chat` over a stream that is connected already, in whichever network namespace.
    pub async fn from_stream(stream: StdStream, host: &str, chat: &str) -> Result<Self> {
        Self::upgrade(stream, &Upgrade::chat(host, chat)).await
    }

    /// As [`Tab::from_stream`], with full control of the request.
    pub async fn upgrade(stream: StdStream, request: &Upgrade) -> Result<Self> {
        Self::greet(adopt(stream)?, request).await
    }

    pub(super) async fn greet(stream: TcpStream, request: &Upgrade) -> Result<Self> {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let Upgrade { host, path, tls, .. } = request;
        let scheme = if tls.is_some() { "wss" } else { "ws" };
        let what = || format!("cannot open {scheme}://{host}{path} on {peer} from {local}");
        let limit = request.limit;
        match timeout(limit, shake_hands(stream, request)).await {
            Ok(opened) => {
                let (socket, hello) = opened.with_context(what)?;
                Ok(Self { socket, hello, local, inbox: VecDeque::new(), pings: 0 })
            }
            Err(_) => bail!("{}: not greeted within {limit:?}", what()),
        }
    }

    /// What the replica said on connect.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The name of the replica that this tab is on.
    pub fn replica(&self) -> &str {
        &self.hello.replica
    }

    /// This end's own address, which a replica sees too if nothing in between rewrites it.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Says `text` to the chat.
    pub async fn say(&mut self, text: &str) -> Result<()> {
        self.send(&FromClient::Say { text: text.to_owned() }).await
    }

    /// Goes by `name` from now on.
    pub async fn enter(&mut self, name: &str) -> Result<()> {
        self.send(&FromClient::Enter { name: name.to_owned() }).await
    }

    async fn send(&mut self, what: &FromClient) -> Result<()> {
        let text = serde_json::to_string(what)?;
        self.socket.send(Frame::text(text)).await.with_context(|| self.ended())
    }

    /// The next message of the chat; `None` if there was none within `limit`. An error means that
    /// the connection has ended.
    pub async fn next_message(&mut self, limit: Duration) -> Result<Option<Message>> {
        if let Some(message) = self.inbox.pop_front() {
            return Ok(Some(message));
        }
        within(Instant::now() + limit, async {
            loop {
                if let Frame::Text(text) = self.frame().await?
                    && let Some(message) = parse(&text)?
                {
                    return Ok(message);
                }
            }
        })
        .await
    }

    /// Whether a message with exactly this text comes within `limit`; others are passed over.
    pub async fn hears(&mut self, text: &str, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        while let Some(message) = self.next_message(end.duration_since(Instant::now())).await? {
            if message.text == text {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends a WebSocket ping and waits for its pong: the time that it took. An error means that
    /// the connection has ended, or that nothing came back within `limit`.
    pub async fn ping(&mut self, limit: Duration) -> Result<Duration> {
        self.pings += 1;
        let payload = Bytes::copy_from_slice(&self.pings.to_be_bytes());
        let start = Instant::now();
        let answered = within(start + limit, async {
            self.socket.send(Frame::Ping(payload.clone())).await.with_context(|| self.ended())?;
            loop {
                match self.frame().await? {
                    Frame::Pong(pong) if pong == payload => return Ok(()),
                    Frame::Text(text) => self.inbox.extend(parse(&text)?),
                    _ => {}
                }
            }
        });
        if answered.await?.is_none() {
            bail!("{} did not answer a ping of {} within {limit:?}", self.replica(), self.local);
        }
        Ok(start.elapsed())
    }

    /// Ends the connection in the proper way: close frames, then FIN from both ends.
    pub async fn close(mut self) -> Result<()> {
        let close = async {
            self.socket.close(None::<CloseFrame>).await?;
            let mut confirmed = false;
            while let Some(frame) = self.socket.next().await {
                match frame {
                    Ok(frame) => confirmed |= frame.is_close(),
                    // The end of TLS was not said, but that of the WebSocket was.
                    Err(Error::Io(error)) if confirmed && error.kind() == UnexpectedEof => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        match timeout(OPEN_LIMIT, close).await {
            Ok(Ok(()) | Err(Error::ConnectionClosed)) => Ok(()),
            Ok(Err(error)) => Err(error).with_context(|| self.ended()),
            Err(_) => bail!("{} did not close {} in time", self.replica(), self.local),
        }
    }

    /// Ends the connection with an RST.
    pub fn abort(self) -> Result<()> {
        SockRef::from(self.socket.get_ref().tcp()).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    async fn frame(&mut self) -> Result<Frame> {
        match self.socket.next().await {
            Some(Ok(Frame::Close(close))) => {
                let code = close.map_or(1005, |close| close.code.into());
                bail!("{}: closed with {code}", self.ended())
            }
            Some(frame) => frame.with_context(|| self.ended()),
            None => bail!(self.ended()),
        }
    }

    fn ended(&self) -> String {
        let Hello { replica, chat, .. } = &self.hello;
        format!("the connection of chat {chat:?} from {} to {replica} has ended", self.local)
    }
}

async fn shake_hands(
    stream: TcpStream,
    request: &Upgrade,
) -> Result<(WebSocketStream<Stream>, Hello)> {
    let Upgrade { host, path, headers, tls, .. } = request;
    let stream = match tls {
        Some(tls) => tls.connect(stream, host).await?,
        None => Stream::Plain(stream),
    };
    let mut request = format!("ws://{host}{path}").into_client_request()?;
    for (name, value) in headers {
        let name: HeaderName = name.parse().with_context(|| format!("header name {name:?}"))?;
        let value = HeaderValue::from_str(value).with_context(|| format!("header {name}"))?;
        request.headers_mut().append(name, value);
    }
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let mut socket = match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => socket,
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body);
            bail!("refused with {}: {}", response.status(), body.trim())
        }
        Err(error) => return Err(error.into()),
    };
    let first = socket.next().await.context("ended before the replica's hello")??;
    match serde_json::from_str(first.to_text()?) {
        Ok(FromServer::Hello(hello)) => Ok((socket, hello)),
        _ => bail!("the first frame is {first:?}, expected a hello"),
    }
}

fn parse(text: &str) -> Result<Option<Message>> {
    match serde_json::from_str(text).with_context(|| format!("unexpected frame {text:?}"))? {
        FromServer::Message(message) => Ok(Some(message)),
        FromServer::Hello(_) | FromServer::Present(_) => Ok(None),
        FromServer::Error { reason } => bail!("the replica says: {reason}"),
    }
}

/// `work`'s value, or `None` at `end`.
async fn within<T>(end: Instant, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    timeout_at(end, work).await.ok().transpose()
}
