//! One WebSocket connection on the server.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message as Frame, Utf8Bytes, WebSocket, close_code};

use super::Replica;
use crate::protocol::{FromClient, FromServer, Hello, Message};
use crate::rooms::Seat;

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
    let mut seat = replica.rooms.join(&chat);
    let hello = FromServer::Hello(Hello {
        replica: replica.name.to_string(),
        chat: chat.clone(),
        peer,
        connections: seat.connections,
    });
    if send(&mut socket, encode(&hello)).await.is_break() {
        return;
    }
    let code = loop {
        tokio::select! {
            frame = socket.recv() => match frame {
                Some(Ok(Frame::Text(text))) => {
                    match message(&replica, &chat, &text, peer) {
                        Ok(message) => seat.broadcast(&encode(&FromServer::Message(message))),
                        Err(error) => {
                            if send(&mut socket, encode(&error)).await.is_break() {
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
    close(socket, seat, code).await;
}

/// What the text frame of a client says to the chat, or the error to answer.
fn message(
    replica: &Replica,
    chat: &str,
    text: &str,
    from: SocketAddr,
) -> Result<Message, FromServer> {
    match serde_json::from_str(text) {
        Ok(FromClient::Say { text }) => {
            Ok(Message { replica: replica.name.to_string(), chat: chat.to_owned(), text, from })
        }
        Err(error) => Err(FromServer::Error {
            reason: format!(r#"{error}; expected {{"type":"say","text":"..."}}"#),
        }),
    }
}

async fn close(mut socket: WebSocket, seat: Seat, code: u16) {
    // Out of the chat first: what is said from now on does not reach this connection any more.
    drop(seat);
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

fn encode(message: &FromServer) -> Utf8Bytes {
    // Strings, a number and an address: nothing in it can fail to be JSON.
    serde_json::to_string(message).expect("the protocol's types are JSON").into()
}
