//! The chat server.
//!
//! Its page, one file without anything from elsewhere, shows a chat, who is there, and the replica
//! that the tab is on. It says when the chat is split: it asks the other tabs of the browser
//! where they are, and opens short connections of its own (`probe=1`) to see where a new tab of
//! the chat would go. A `fetch` would not do: browsers send it over a connection that they have.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, RawQuery, State, WebSocketUpgrade};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse as _, Json, Response};
use axum::routing::{get, post};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::listen;
use crate::pattern::{Pieces, Sha256};
use crate::protocol::{
    ChatCount, FromServer, MAX_CHAT, MAX_MESSAGE, Message, READ_BUFFER, REPLICA_HEADER, Received,
    Said, WhoAmI,
};
use crate::rooms::Rooms;
use crate::tls::ServerTls;
use accept::{Door, Peer};

mod accept;
mod session;

/// How long connections have to end by themselves once the server is asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// The name of this replica, as clients see it.
    pub name: String,
    /// The query parameter that names the chat.
    pub query: String,
    /// Idle time after which TCP asks whether a client is still there.
    pub keepalive: Duration,
    /// Speak TLS, with this certificate.
    pub tls: Option<ServerTls>,
}

impl Config {
    /// A replica `name` on `listen`, the rest by default.
    pub fn new(name: impl Into<String>, listen: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            listen: listen.into_iter().collect(),
            name: name.into(),
            query: "chat".to_owned(),
            keepalive: Duration::from_secs(60),
            tls: None,
        }
    }
}

/// A server that listens already and serves once [`Server::run`] is called.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    keepalive: Duration,
    tls: Option<ServerTls>,
    replica: Arc<Replica>,
}

/// What all connections share.
#[derive(Debug)]
struct Replica {
    name: Arc<str>,
    name_header: HeaderValue,
    query: String,
    rooms: Arc<Rooms>,
    /// Turns true when the server is to end. Each session and listener holds a receiver until it
    /// is done, so `closed()` says when all are.
    ending: watch::Sender<bool>,
}

impl Server {
    /// Listens on all addresses of `config`. Call it within a tokio runtime.
    pub fn bind(config: &Config) -> Result<Self> {
        ensure!(!config.listen.is_empty(), "listen: no address, give at least one ADDR:PORT");
        let Ok(name_header) = HeaderValue::from_str(&config.name) else {
            anyhow::bail!("name: {:?} is not visible ASCII, use for example replica-1", config.name)
        };
        let listeners = listen::listen(&config.listen)?;
        let addresses =
            listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
        let replica = Replica {
            name: config.name.as_str().into(),
            name_header,
            query: config.query.clone(),
            rooms: Arc::new(Rooms::new(config.name.as_str().into())),
            ending: watch::Sender::new(false),
        };
        let Config { keepalive, tls, .. } = config.clone();
        Ok(Self { listeners, addresses, keepalive, tls, replica: Arc::new(replica) })
    }

    /// The addresses listened on, with the ports that were really taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `stop` completes. Then no connection is accepted any more, WebSockets are closed
    /// with 1001 (going away), and requests that are being answered have a few seconds to finish.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut serving = JoinSet::new();
        for listener in self.listeners {
            let door = Door::new(listener, self.keepalive, self.tls.clone());
            let app = app(&self.replica).into_make_service_with_connect_info::<Peer>();
            let mut ending = self.replica.ending.subscribe();
            serving.spawn(async move {
                let end = async move { crate::turned_on(&mut ending).await };
                axum::serve(door, app).with_graceful_shutdown(end).await
            });
        }
        tokio::select! {
            () = stop => {}
            // axum::serve ends only when asked to, or by a panic.
            Some(ended) = serving.join_next() => ended??,
        }
        self.replica.ending.send_replace(true);
        let all = async {
            while let Some(ended) = serving.join_next().await {
                ended??;
            }
            self.replica.ending.closed().await;
            Ok(())
        };
        // Whoever is not done within the grace is cut off: dropping `serving` aborts them.
        tokio::time::timeout(GRACE, all).await.unwrap_or(Ok(()))
    }
}

fn app(replica: &Arc<Replica>) -> Router {
    let named = middleware::map_response_with_state(Arc::clone(replica), name_replica);
    Router::new()
        .route("/", get(page))
        .route("/ws", get(upgrade))
        .route("/healthz", get(async || "ok\n"))
        .route("/whoami", get(whoami))
        .route("/chats", get(chats))
        .route("/say", post(say))
        .route("/bytes", get(bytes))
        .route("/sink", post(sink))
        .layer(named)
        .with_state(Arc::clone(replica))
}

async fn name_replica(State(replica): State<Arc<Replica>>, mut response: Response) -> Response {
    response.headers_mut().insert(REPLICA_HEADER, replica.name_header.clone());
    response
}

async fn upgrade(
    State(replica): State<Arc<Replica>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let query = query.unwrap_or_default();
    let chat = match replica.chat(&query) {
        Ok(chat) => chat,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason).into_response(),
    };
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).read_buffer_size(READ_BUFFER);
    if value(&query, "probe").as_deref() == Some("1") {
        return upgrade.on_upgrade(move |socket| session::probe(socket, replica, chat, peer));
    }
    upgrade.on_upgrade(move |socket| session::run(socket, replica, chat, peer))
}

/// The first value of a query's parameter.
fn value(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}

impl Replica {
    /// The chat that the query string names, or what is wrong with it.
    fn chat(&self, query: &str) -> Result<String, String> {
        let name = &self.query;
        let chat = value(query, name).unwrap_or_default();
        match chat.len() {
            0 => Err(format!(
                "the query parameter {name:?} is missing or empty: open /ws?{name}=<id>\n"
            )),
            1..=MAX_CHAT => Ok(chat),
            n => Err(format!(
                "the query parameter {name:?} has {n} bytes: at most {MAX_CHAT} are allowed\n"
            )),
        }
    }

    fn message(&self, chat: &str, text: String, from: SocketAddr, name: Option<String>) -> Message {
        Message { replica: self.name.to_string(), chat: chat.to_owned(), text, from, name }
    }
}

async fn page(State(replica): State<Arc<Replica>>) -> Response {
    // As a JSON string inside a script: `<` must not end the script element.
    let name = serde_json::Value::from(replica.query.as_str()).to_string().replace('<', "\\u003c");
    let page = Html(include_str!("page.html").replace("\"QUERY\"", &name));
    // Safari takes 'self' for http and https only.
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                  img-src data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        // A newer replica has a newer page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, page).into_response()
}

async fn whoami(
    State(replica): State<Arc<Replica>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
) -> Json<WhoAmI> {
    Json(WhoAmI { replica: replica.name.to_string(), peer })
}

async fn chats(State(replica): State<Arc<Replica>>) -> Json<Vec<ChatCount>> {
    Json(replica.rooms.counts())
}

async fn say(
    State(replica): State<Arc<Replica>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    RawQuery(query): RawQuery,
    text: String,
) -> Result<Json<Said>, (StatusCode, String)> {
    let chat = replica
        .chat(query.as_deref().unwrap_or_default())
        .map_err(|reason| (StatusCode::BAD_REQUEST, reason))?;
    let message = FromServer::Message(replica.message(&chat, text, peer, None));
    let reached = replica.rooms.broadcast(&chat, &message.encode());
    Ok(Json(Said { replica: replica.name.to_string(), chat, reached }))
}

#[derive(Deserialize)]
struct BytesQuery {
    n: u64,
    #[serde(default)]
    seed: u64,
}

async fn bytes(Query(BytesQuery { n, seed }): Query<BytesQuery>) -> Response {
    let body = Body::from_stream(stream::iter(Pieces::new(seed, n).map(Ok::<_, std::io::Error>)));
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    ([kind, (header::CONTENT_LENGTH, n.into())], body).into_response()
}

async fn sink(body: Body) -> Result<Json<Received>, (StatusCode, String)> {
    let mut pieces = body.into_data_stream();
    let (mut bytes, mut hash) = (0, Sha256::new());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            (StatusCode::BAD_REQUEST, format!("the body ended after {bytes} bytes: {error}\n"))
        })?;
        bytes += piece.len() as u64;
        hash.update(&piece);
    }
    Ok(Json(Received { bytes, sha256: hash.finish() }))
}
