//! One WebSocket connection on the server.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message as Frame, Utf8Bytes, WebSocket, close_code};

use super::Replica;
use crate::protocol::{FromClient, FromServer, Hello};

/// How long a client that does not read may hold up one frame.
const SEND_LIMIT: Duration = Duration::from_secs(30);

/// How long a client has to answer our close frame.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn run(
    mut socket: WebSocket,
    replica: Arc<Replica>,
    chat: String,
    peer: SocketAddr,
) {
    let mut ending = replica.ending.subscribe();
    let mut seat = replica.rooms.join(&chat, peer);
    let mut name = None;
    let hello = FromServer::Hello(Hello {
        replica: replica.name.to_string(),
        chat: chat.clone(),
        peer,
        connections: seat.connections,
    });
    if send(&mut socket, hello.encode()).await.is_break() {
        return;
    }
    let code = loop {
        tokio::select! {
            frame = socket.recv() => match frame {
                Some(Ok(Frame::Text(text))) => {
                    match serde_json::from_str(&text) {
                        Ok(FromClient::Say { text }) => {
                            let message = replica.message(&chat, text, peer, name.clone());
                            seat.broadcast(&FromServer::Message(message).encode());
                        }
                        Ok(FromClient::Enter { name: new }) => name = Some(seat.enter(&new)),
                        Err(error) => {
                            let reason = format!(r#"{error}; expected {{"type":"say","text":"..."}}"#);
                            let error = FromServer::Error { reason };
                            if send(&mut socket, error.encode()).await.is_break() {
                                return;
                            }
                        }
                    }
                }
                Some(Ok(Frame::Binary(_))) => break close_code::UNSUPPORTED,
                // Pings are answered and closes confirmed by the library, as long as it is polled.
                Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_))) => {}
                Some(Err(_)) | None => return,
            },
            frame = seat.queue.recv() => match frame {
                Some(frame) => {
                    if send(&mut socket, frame).await.is_break() {
                        return;
                    }
                }
                // Too slow: put out of the chat rather than left with a gap.
                None => break close_code::AGAIN,
            },
            () = crate::turned_on(&mut ending) => break close_code::AWAY,
        }
    };
    // Out of the chat first: what is said from now on does not reach this connection any more.
    drop(seat);
    close(socket, code).await;
}

/// Says where the connection has arrived, and ends it.
pub(super) async fn probe(
    mut socket: WebSocket,
    replica: Arc<Replica>,
    chat: String,
    peer: SocketAddr,
) {
    let hello = FromServer::Hello(Hello {
        replica: replica.name.to_string(),
        connections: replica.rooms.connections(&chat),
        chat,
        peer,
    });
    if send(&mut socket, hello.encode()).await.is_continue() {
        close(socket, close_code::NORMAL).await;
    }
}

async fn close(mut socket: WebSocket, code: u16) {
    let wait = async {
        let frame = CloseFrame { code, reason: Utf8Bytes::default() };
        if socket.send(Frame::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    let _ = tokio::time::timeout(CLOSE_LIMIT, wait).await;
}

async fn send(socket: &mut WebSocket, frame: Utf8Bytes) -> ControlFlow<()> {
    match tokio::time::timeout(SEND_LIMIT, socket.send(Frame::Text(frame))).await {
        Ok(Ok(())) => ControlFlow::Continue(()),
        Ok(Err(_)) | Err(_) => ControlFlow::Break(()),
    }
}
