//! Those who ask.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use roost_programs::CURL;

use super::{Told, root};
use crate::lab::Lab;
use crate::peers;

/// A client of others, and how it uses its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Tabs of Socket.IO.
    Tabs {
        /// By which they speak.
        transports: Transports,
        /// Whether one tab of each chat share connections, as those of a browser do.
        shared: bool,
        /// Whether they connect again by themselves when they have lost a connection.
        again: bool,
    },
    /// The pool of Go's net/http.
    Go,
    /// The pool of Python's requests.
    Python,
    /// The same with so many bytes of cookies in each request, and its chat behind them, in a header `X-Chat`.
    Cookies(usize),
    /// The pool of Python's requests, of servers that end their connections within 2 ms after an answer.
    Left,
    /// The pool of Python's requests with a file of so many MB down and up for each chat, twice.
    Files(usize),
    /// curl, which is told all requests at once, and makes one after the other.
    Curl,
}

/// By what Socket.IO speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transports {
    /// Polling first, and then a WebSocket: what it does if it is not told otherwise.
    Usual,
    /// A WebSocket alone.
    WebSocket,
    /// Polling alone.
    Polling,
}

/// Where clients have to go.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    at: SocketAddr,
    authority: Option<&'a Path>,
}

impl From<SocketAddr> for Place<'_> {
    fn from(at: SocketAddr) -> Self {
        Self { at, authority: None }
    }
}

impl<'a> Place<'a> {
    /// Under TLS, with a certificate of this authority for the address.
    pub fn tls(at: SocketAddr, authority: &'a Path) -> Self {
        Self { at, authority: Some(authority) }
    }

    fn url(self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.at)
    }

    /// Lets a client believe the authority, whoever made it.
    fn believed(self, client: &mut Command) {
        let file = self.authority.into_iter();
        let names =
            ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
        client.envs(file.flat_map(|file| names.map(|name| (name, file))));
    }
}

/// How much is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// How many chats.
    pub chats: usize,
    /// How many tabs of each; a pool makes twice as many requests for each chat, every other one a POST.
    pub tabs: usize,
}

/// Connections that the tabs of a browser share: each may have a request that waits for news, and one that tells some.
const SHARED: usize = 4;

impl Client {
    /// Lets it visit chats, and tells what it says.
    pub(super) fn visit(self, lab: &Lab, size: Size, to: Place<'_>, prefix: &str) -> Result<Told> {
        let Size { chats, tabs } = size;
        let mut words = vec!["--url".to_owned(), to.url()];
        let mut more = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        more("prefix", prefix.to_owned());
        more("chats", chats.to_string());
        let file = match self {
            Self::Curl => return curl(lab, size, to, prefix),
            Self::Tabs { transports, shared, again } => {
                more("tabs", tabs.to_string());
                let transports = match transports {
                    Transports::Usual => "polling,websocket",
                    Transports::WebSocket => "websocket",
                    Transports::Polling => "polling",
                };
                more("transports", transports.to_owned());
                let sockets = if shared { chats + SHARED } else { 0 };
                more("sockets", sockets.to_string());
                if again {
                    // They wait for up to 7.5 s before they try once more.
                    more("quiet", "10".to_owned());
                    words.push("--again".to_owned());
                }
                "tabs.mjs"
            }
            Self::Go | Self::Python | Self::Left => {
                more("rounds", (2 * tabs).to_string());
                if self == Self::Left {
                    more("leave", "2".to_owned());
                }
                if self == Self::Go { "pool.go" } else { "pool.py" }
            }
            Self::Cookies(bytes) => {
                more("rounds", (2 * tabs).to_string());
                more("cookies", bytes.to_string());
                "pool.py"
            }
            Self::Files(mb) => {
                more("files", mb.to_string());
                more("rounds", "2".to_owned());
                more("sockets", "2".to_owned());
                more("workers", "2".to_owned());
                "pool.py"
            }
        };
        let mut command = lab.client.enter(peers::command(root(), file)?);
        to.believed(&mut command);
        let output = command.args(&words).output().with_context(|| format!("running {file}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{file}: {}: {said}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("{file} says: {text}"))
    }
}

/// Every request behind a `--next`, with options of its own.
fn curl(lab: &Lab, size: Size, to: Place<'_>, prefix: &str) -> Result<Told> {
    let url = to.url();
    let mut told = Told { clients: 2 * size.tabs * size.chats, ..Told::default() };
    let mut words: Vec<String> = Vec::new();
    for turn in 0..2 * size.tabs {
        for chat in 0..size.chats {
            let chat = format!("{prefix}-{chat}");
            if !words.is_empty() {
                words.push("--next".to_owned());
            }
            let form = "%{http_code} %{num_connects} %{errormsg}\\n";
            let common = ["-sS", "--max-time", "60", "-o", "/dev/null", "-w", form];
            words.extend(common.map(str::to_owned));
            if turn % 2 == 0 {
                words.push(format!("{url}/whoami?chat={chat}"));
            } else {
                let id = format!("{chat}/{turn}");
                let url = format!("{url}/do?chat={chat}&id={id}");
                words.extend(["--data-binary".to_owned(), "x".repeat(100), url]);
                told.said.push(id);
            }
        }
    }
    let mut command = lab.client.command(CURL)?;
    to.believed(&mut command);
    let output = command.args(&words).output().context("running curl")?;
    let mut errors = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (code, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (connects, error) = rest.split_once(' ').unwrap_or((rest, ""));
        told.connections += connects.parse::<usize>().unwrap_or_default();
        if code == "200" {
            told.reached += 1;
        } else {
            *errors.entry(format!("{code} {error}")).or_default() += 1;
        }
    }
    told.errors = errors;
    Ok(told)
}
