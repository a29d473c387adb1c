//! Plain HTTP/1.1 to a replica: who answers, and whole transfers that are checked byte by byte.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;

use super::{adopt, connect, with_query};
use crate::pattern::{self, Pattern, Pieces, Sha256};
use crate::protocol::{ChatCount, REPLICA_HEADER, Received, Said, WhoAmI};

type Body = BoxBody<Bytes, Infallible>;

/// One HTTP connection, used for one request after the other.
#[derive(Debug)]
pub struct Http {
    sender: SendRequest<Body>,
    host: String,
    chat: Option<String>,
}

/// A transfer that arrived whole.
#[derive(Clone, Debug, Serialize)]
pub struct Transfer {
    /// How many bytes were transferred.
    pub bytes: u64,
    /// Their SHA-256, in lower-case hexadecimal, as the receiving end computed it.
    pub sha256: String,
    /// The replica at the other end.
    pub replica: String,
    /// How long it took.
    pub took: Duration,
}

impl Http {
    /// Connects to `address`, from `bind` if that is given.
    pub async fn open(address: SocketAddr, host: &str, bind: Option<SocketAddr>) -> Result<Self> {
        Self::over(connect(address, bind).await?, host).await
    }

    /// Speaks over a stream that is connected already, in whichever network namespace.
    pub async fn from_stream(stream: StdStream, host: &str) -> Result<Self> {
        Self::over(adopt(stream)?, host).await
    }

    async fn over(stream: TcpStream, host: &str) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its error reaches the request that is under way as well.
        tokio::spawn(connection);
        Ok(Self { sender, host: host.to_owned(), chat: None })
    }

    /// Adds `chat=<chat>` to the query of every request, so that it is routed like that chat.
    #[must_use]
    pub fn in_chat(mut self, chat: &str) -> Self {
        self.chat = Some(chat.to_owned());
        self
    }

    /// `GET /whoami`.
    pub async fn whoami(&mut self) -> Result<WhoAmI> {
        self.get_json("/whoami").await
    }

    /// `GET /chats`.
    pub async fn chats(&mut self) -> Result<Vec<ChatCount>> {
        self.get_json("/chats").await
    }

    /// Downloads `length` bytes of the pattern with `seed`; an error unless each one is right.
    pub async fn download(&mut self, length: u64, seed: u64) -> Result<Transfer> {
        let start = Instant::now();
        let path = format!("/bytes?n={length}&seed={seed}");
        let response = self.request(Method::GET, &path, Payload::None).await?;
        let replica = replica(&response)?;
        let (mut body, mut bytes) = (response.into_body(), 0_u64);
        let (mut pattern, mut hash) = (Pattern::new(seed), Sha256::new());
        while let Some(frame) = body.frame().await {
            let frame =
                frame.with_context(|| format!("{path}: ended after {bytes} of {length} bytes"))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if let Some(at) = pattern.mismatch(&data) {
                bail!("{path}: byte {} of {length} is wrong", bytes + at as u64);
            }
            bytes += data.len() as u64;
            hash.update(&data);
        }
        ensure!(bytes == length, "{path}: {bytes} bytes came, expected {length}");
        Ok(Transfer { bytes, sha256: hash.finish(), replica, took: start.elapsed() })
    }

    /// Uploads `length` bytes of the pattern with `seed`; an error unless the replica computed
    /// the right length and hash.
    pub async fn upload(&mut self, length: u64, seed: u64) -> Result<Transfer> {
        let start = Instant::now();
        let response =
            self.request(Method::POST, "/sink", Payload::Pattern { length, seed }).await?;
        let replica = replica(&response)?;
        let got: Received = json(response).await?;
        let took = start.elapsed();
        let want = Received { bytes: length, sha256: pattern::sha256(seed, length) };
        ensure!(got == want, "/sink: {replica} received {got:?}, sent was {want:?}");
        Ok(Transfer { bytes: length, sha256: got.sha256, replica, took })
    }

    /// `POST /say`: says `text` in the chat of [`Http::in_chat`].
    pub async fn say(&mut self, text: &str) -> Result<Said> {
        json(self.request(Method::POST, "/say", Payload::Text(text.to_owned())).await?).await
    }

    async fn get_json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        json(self.request(Method::GET, path, Payload::None).await?).await
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        payload: Payload,
    ) -> Result<Response<Incoming>> {
        let uri = match &self.chat {
            Some(chat) => with_query(path, "chat", chat),
            None => path.to_owned(),
        };
        let what = format!("{method} http://{}{uri}", self.host);
        let mut request =
            Request::builder().method(method).uri(uri).header(header::HOST, &self.host);
        let body = match payload {
            Payload::Pattern { length, seed } => {
                request = request.header(header::CONTENT_LENGTH, length);
                let pieces = Pieces::new(seed, length);
                let frames = pieces.map(|piece| Ok(Frame::data(Bytes::from(piece))));
                StreamBody::new(stream::iter(frames)).boxed()
            }
            Payload::Text(text) => Full::from(text).boxed(),
            Payload::None => Empty::new().boxed(),
        };
        let response = async {
            self.sender.ready().await?;
            self.sender.send_request(request.body(body)?).await.map_err(anyhow::Error::from)
        };
        let response = response.await.with_context(|| what.clone())?;
        if !response.status().is_success() {
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            bail!("{what}: {status}: {}", String::from_utf8_lossy(&body).trim());
        }
        Ok(response)
    }
}

/// What a request carries.
enum Payload {
    None,
    Text(String),
    /// `length` bytes of the pattern with `seed`.
    Pattern {
        length: u64,
        seed: u64,
    },
}

fn replica(response: &Response<Incoming>) -> Result<String> {
    let name = response.headers().get(REPLICA_HEADER);
    let name = name.with_context(|| format!("the answer has no header {REPLICA_HEADER}"))?;
    Ok(name.to_str()?.to_owned())
}

async fn json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T> {
    let body = response.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&body)
        .with_context(|| format!("unexpected answer {:?}", String::from_utf8_lossy(&body)))
}
