//! Key sources, as the kernel gets them and as the independent parsers are asked for them.

use std::sync::LazyLock;

use router_ebpf::{
    maps::KeySource,
    source::{KeyKind, PATH_ANY, PATH_KEY, PATH_REST},
};

use crate::{http, tls};

/// What an independent parser says about a key source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This key.
    Key(Vec<u8>),
    /// What is asked for is there, and it is empty.
    Empty,
    /// It is not there.
    Absent,
}

impl Expected {
    /// A value that was found.
    pub fn value(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Key(bytes) }
    }
}

/// A part of a path template between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// These bytes, decoded.
    Is(Vec<u8>),
    /// Anything.
    Any,
    /// These bytes, and then the key.
    Key(Vec<u8>),
}

/// A key source that is read from a connection's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A query parameter.
    Query(Vec<u8>),
    /// A part of the path. `rest`: more parts may follow.
    Path {
        /// What the path is made of.
        parts: Vec<Part>,
        /// Whether more may follow.
        rest: bool,
    },
    /// A header, by its name in lower case.
    Header(String),
    /// An HTTP cookie.
    Cookie(String),
    /// The server name.
    Sni,
    /// The first label of the server name, if this follows.
    SniLabel(String),
}

impl Source {
    /// A part of the path, written as in a configuration file: `/rooms/{chat}/*/**`.
    pub fn path(template: &str) -> Self {
        let (template, rest) = match template.strip_suffix("/**") {
            Some(template) => (template, true),
            None => (template, false),
        };
        let part = |part: &str| match part.split_once('{') {
            Some((prefix, _)) => Part::Key(prefix.into()),
            None if part == "*" => Part::Any,
            None => Part::Is(part.into()),
        };
        Self::Path { parts: template.split('/').skip(1).map(part).collect(), rest }
    }

    /// As the kernel gets it.
    pub fn compiled(&self) -> KeySource {
        match self {
            Self::Query(name) => KeySource::new(KeyKind::Query, name),
            Self::Path { parts, rest } => {
                let mut text = Vec::new();
                for part in parts {
                    text.push(b'/');
                    match part {
                        Part::Is(bytes) => text.extend(bytes),
                        Part::Any => text.push(PATH_ANY),
                        Part::Key(prefix) => {
                            text.extend(prefix);
                            text.push(PATH_KEY);
                        }
                    }
                }
                text.extend(rest.then_some(PATH_REST));
                KeySource::new(KeyKind::Path, &text)
            }
            Self::Header(name) => KeySource::new(KeyKind::Header, name.as_bytes()),
            Self::Cookie(name) => KeySource::new(KeyKind::Cookie, name.as_bytes()),
            Self::Sni => KeySource::new(KeyKind::Sni, b""),
            Self::SniLabel(suffix) => KeySource::new(KeyKind::SniLabel, suffix.as_bytes()),
        }
    }

    /// Whether it reads TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Sni | Self::SniLabel(_))
    }

    /// What the independent parsers find, and how many bytes they need for it. `None`: they refuse
    /// the head, or it is not complete, or the data path deliberately differs.
    pub fn expected(&self, head: &[u8]) -> Option<(Expected, usize)> {
        if self.is_tls() { tls::expected(self, head) } else { http::expected(self, head) }
    }
}

/// Sources of all kinds, which every head is searched for.
pub static ALL: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let query = |name: &str| Source::Query(name.into());
    let header = |name: &str| Source::Header(name.into());
    let cookie = |name: &str| Source::Cookie(name.into());
    let label = |suffix: &str| Source::SniLabel(suffix.into());
    vec![
        query("chat"),
        query("c"),
        query("a b"),
        query("\u{e9}t\u{e9}"),
        query("a=%&"),
        Source::path("/{chat}/**"),
        Source::path("/*/{chat}/**"),
        Source::path("/rooms/{chat}"),
        Source::path("/rooms/{chat}/ws"),
        Source::path("/*/r-{chat}"),
        Source::path("/a b/{chat}/*"),
        header("x-chat"),
        header("host"),
        header("x"),
        header("sec-websocket-protocol"),
        cookie("chat"),
        cookie("c"),
        Source::Sni,
        label(""),
        label(".rooms.example.com"),
    ]
});
