//! Accepting connections, in plain text or under TLS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::listen;
use crate::stream::Stream;
use crate::tls::ServerTls;

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A listening socket whose connections are ready for HTTP.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    keepalive: Duration,
    tls: Option<ServerTls>,
    /// TLS handshakes under way: a slow client holds up nobody else.
    handshakes: JoinSet<Option<(Stream, SocketAddr)>>,
}

/// The client's address as the socket has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Door {
    pub(super) fn new(listener: TcpListener, keepalive: Duration, tls: Option<ServerTls>) -> Self {
        Self { listener, keepalive, tls, handshakes: JoinSet::new() }
    }
}

impl Listener for Door {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        loop {
            tokio::select! {
                // Of the trait: it waits when there are no descriptors left.
                (stream, peer) = Listener::accept(&mut self.listener) => {
                    // A client that is gone already: its connection will end by itself.
                    let _ = listen::tune(&stream, self.keepalive);
                    let Some(tls) = self.tls.clone() else { return (Stream::Plain(stream), peer) };
                    self.handshakes.spawn(async move {
                        let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await;
                        Some((stream.ok()?.ok()?, peer))
                    });
                }
                Some(done) = self.handshakes.join_next() => if let Ok(Some(ready)) = done {
                    return ready;
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(listen::canonical(*stream.remote_addr()))
    }
}
