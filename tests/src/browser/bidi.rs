//! WebDriver BiDi: commands and their answers as JSON over one WebSocket.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tungstenite::{Error, Message, WebSocket};

use crate::lab::Netns;

/// How long a command may take; a page that does not load is noticed by it.
const LIMIT: Duration = Duration::from_secs(120);

/// A connection to a browser, or to its driver.
#[derive(Debug)]
pub(super) struct Bidi {
    socket: WebSocket<TcpStream>,
    last: u64,
}

impl Bidi {
    /// Connects, from inside the namespace if there is one, and begins a session with these capabilities.
    pub(super) fn open(ns: Option<&Netns>, at: SocketAddr, capabilities: &Value) -> Result<Self> {
        let stream = match ns {
            Some(ns) => ns.connect(at),
            None => TcpStream::connect(at),
        };
        let stream = stream.with_context(|| format!("connecting to the browser at {at}"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let (socket, _) = tungstenite::client(format!("ws://{at}/session"), stream)
            .with_context(|| format!("no WebDriver BiDi at {at}"))?;
        let mut bidi = Self { socket, last: 0 };
        let wanted = json!({"capabilities": {"alwaysMatch": capabilities}});
        bidi.command("session.new", &wanted)?;
        Ok(bidi)
    }

    /// Sends a command and waits for its answer.
    pub(super) fn command(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.last += 1;
        let command = json!({"id": self.last, "method": method, "params": parameters});
        self.socket.send(Message::text(command.to_string())).context(method.to_owned())?;
        loop {
            let message = match self.socket.read() {
                // As when this process was stopped for a while.
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => continue,
                message => message.with_context(|| format!("{method}: no answer"))?,
            };
            let Message::Text(text) = message else { continue };
            let mut answer: Value = serde_json::from_str(&text)?;
            // Others are events.
            if answer["id"] == self.last {
                if answer["type"] == "error" {
                    bail!("{method} {parameters}: {}: {}", answer["error"], answer["message"]);
                }
                return Ok(answer["result"].take());
            }
        }
    }
}
