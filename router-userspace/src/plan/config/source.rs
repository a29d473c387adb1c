//! Key sources: from the text of a configuration to what the data path compares, and back.

mod path;

use std::{fmt, str::FromStr};

use router_ebpf::{
    maps::{self, SOURCE_TEXT_LEN, SOURCES},
    source::{self, KeyKind, Origin, Shape},
};

/// Where the bytes that name a chat come from. Made from text, and from a map that was filled by a
/// daemon; written as text again. Two texts that mean the same are equal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeySource(maps::KeySource);

/// Why a list of key sources is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceProblem {
    /// Which of the texts is not right; as many as there are if it is the list itself.
    pub index: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl KeySource {
    /// The connection 4-tuple.
    pub const TUPLE: Self =
        Self(maps::KeySource { kind: KeyKind::Tuple as u8, ..maps::KeySource::NONE });

    /// One of a service in the maps; `None` behind the end of its list.
    pub const fn from_map(source: &maps::KeySource) -> Option<Self> {
        if source.kind == source::NONE { None } else { Some(Self(*source)) }
    }

    /// Those of a service in the maps, in their order.
    pub fn of_service(service: &maps::Service) -> impl Iterator<Item = Self> {
        service.sources.iter().map_while(Self::from_map)
    }

    /// As the data path wants it.
    pub const fn to_map(self) -> maps::KeySource {
        self.0
    }

    /// Its kind; `None` for one that this version does not know.
    pub const fn kind(self) -> Option<KeyKind> {
        self.0.kind()
    }

    /// What its keys are. What is not known is text.
    pub fn shape(self) -> Shape {
        self.kind().map_or(Shape::Text, KeyKind::shape)
    }

    /// Whether it takes the key from addresses and ports: every connection has one.
    pub fn always_yields(self) -> bool {
        self.shape() != Shape::Text
    }

    /// Whether each request of a connection has its own.
    pub fn is_in_requests(&self) -> bool {
        self.0.kind().is_some_and(|kind| kind.origin() == Origin::Http)
    }

    /// Whether its keys are host names, which are compared in lower case.
    pub const fn folds_case(self) -> bool {
        self.0.fold != 0
    }

    fn new(kind: KeyKind, text: &[u8], written: &str) -> Result<Self, String> {
        if text.len() > SOURCE_TEXT_LEN {
            let len = text.len();
            return Err(format!("{written:?} has {len} bytes; {SOURCE_TEXT_LEN} are the most"));
        }
        Ok(Self(maps::KeySource::new(kind, text)))
    }
}

/// Reads an ordered list of key sources: the first that yields a key counts.
pub fn key_sources<'a>(
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<KeySource>, Vec<SourceProblem>> {
    let mut sources: Vec<KeySource> = Vec::new();
    let mut problems = Vec::new();
    let mut count = 0;
    for (index, text) in texts.into_iter().enumerate() {
        count += 1;
        let read = text.parse::<KeySource>().and_then(|source| {
            fits_behind(source, &sources)?;
            Ok(source)
        });
        match read {
            Ok(source) => sources.push(source),
            Err(message) => problems.push(SourceProblem { index, message }),
        }
    }
    if count == 0 || count > SOURCES {
        let message = format!("has {count} key sources; write 1 to {SOURCES} of them");
        problems.push(SourceProblem { index: count, message });
    }
    if problems.is_empty() { Ok(sources) } else { Err(problems) }
}

fn fits_behind(source: KeySource, before: &[KeySource]) -> Result<(), String> {
    if let Some(first) = before.iter().find(|first| first.always_yields()) {
        return Err(format!(
            "\"{source}\" is behind \"{first}\", with which every connection has a key: it would \
             never be used; put it before, or leave it out"
        ));
    }
    if before.contains(&source) {
        return Err(format!("\"{source}\" is listed twice; leave one out"));
    }
    Ok(())
}

impl FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = match text.split_once(':') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        let Some(kind) = KeyKind::ALL.iter().find(|kind| kind.word() == word) else {
            return Err(format!("{text:?} is no key source; write {}", forms()));
        };
        let name =
            || rest.ok_or_else(|| format!("{text:?} does not say which; write {}", example(*kind)));
        match kind {
            KeyKind::Client | KeyKind::Destination | KeyKind::Tuple => match rest {
                None => Self::new(*kind, b"", text),
                Some(_) => Err(format!("{text:?}: nothing can follow; write \"{word}\"")),
            },
            KeyKind::Query => query(name()?),
            KeyKind::Path => {
                let path = name()?;
                Self::new(*kind, &path::compile(path)?, path)
            }
            KeyKind::Header => {
                let name = name()?;
                token(name, "header", "header:x-chat")?;
                Self::new(*kind, name.to_ascii_lowercase().as_bytes(), name)
            }
            KeyKind::Cookie => {
                let name = name()?;
                token(name, "cookie", "cookie:chat")?;
                Self::new(*kind, name.as_bytes(), name)
            }
            // Both begin with the same word.
            KeyKind::Sni | KeyKind::SniLabel => sni(text, rest),
        }
    }
}

/// How a kind is written, in one or more forms; the forms of text as `forms` lists them.
const fn example(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Client => "\"client\"",
        KeyKind::Destination => "\"destination\"",
        KeyKind::Tuple => "\"tuple\"",
        KeyKind::Query => "\"query:chat\"",
        KeyKind::Path => "\"path:2\" or \"path:/rooms/{chat}\"",
        KeyKind::Header => "\"header:x-chat\"",
        KeyKind::Cookie => "\"cookie:chat\"",
        KeyKind::Sni => "\"sni\"",
        KeyKind::SniLabel => "\"sni:label\"",
    }
}

/// What can be written, for messages: what the client sends first, and then what every connection has.
fn forms() -> String {
    let form = |kind: &KeyKind| match kind {
        KeyKind::Query => "\"query:NAME\"",
        KeyKind::Path => "\"path:NUMBER\", \"path:/rooms/{chat}\"",
        KeyKind::Header => "\"header:NAME\"",
        KeyKind::Cookie => "\"cookie:NAME\"",
        KeyKind::Client
        | KeyKind::Destination
        | KeyKind::Tuple
        | KeyKind::Sni
        | KeyKind::SniLabel => example(*kind),
    };
    let (text, rest): (Vec<_>, Vec<_>) =
        KeyKind::ALL.iter().partition(|kind| kind.shape() == Shape::Text);
    let all: Vec<&str> = text.into_iter().chain(rest).map(form).collect();
    match all.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// The server name, or its first label.
fn sni(text: &str, rest: Option<&str>) -> Result<KeySource, String> {
    match rest {
        None => KeySource::new(KeyKind::Sni, b"", text),
        Some("label") => KeySource::new(KeyKind::SniLabel, b"", text),
        Some(label) => match label.strip_prefix("label.") {
            Some(suffix) => KeySource::new(KeyKind::SniLabel, &dotted(suffix)?, suffix),
            None => Err(format!(
                "{text:?} is no key source; write \"sni\", \"sni:label\" or, with what has to \
                 follow the label, \"sni:label.rooms.example.com\""
            )),
        },
    }
}

/// A query parameter's name, percent-decoded as the data path compares it.
fn query(name: &str) -> Result<KeySource, String> {
    let decoded = percent_decode(name)?;
    if decoded.is_empty() {
        return Err("\"query:\" has no name behind it; write \"query:chat\"".into());
    }
    KeySource::new(KeyKind::Query, &decoded, name)
}

/// A name of a header or a cookie (RFC 9110 section 5.6.2).
fn token(name: &str, what: &str, example: &str) -> Result<(), String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() {
        return Err(format!("\"{what}:\" has no name behind it; write \"{example}\""));
    }
    if let Some(wrong) = name.chars().find(|c| !u8::try_from(*c).is_ok_and(is_token)) {
        return Err(format!(
            "{name:?} is no name of a {what}: it has {wrong:?}, and such names have letters, \
             digits and !#$%&'*+-.^_`|~ only; write \"{example}\""
        ));
    }
    Ok(())
}

/// What has to follow the first label of a host name: from its dot on, in lower case.
fn dotted(suffix: &str) -> Result<Vec<u8>, String> {
    let wrong = |why: &str| {
        format!("{suffix:?} is no end of a host name: {why}; write \"sni:label.example.com\"")
    };
    for label in suffix.split('.') {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        match label {
            "" => return Err(wrong("a label is empty")),
            _ if label.len() > 63 => return Err(wrong("a label has more than 63 bytes")),
            _ if label.contains(odd) => {
                return Err(wrong(
                    "labels have letters, digits and hyphens (of another script: as \
                                  \"xn--...\")",
                ));
            }
            _ if label.starts_with('-') || label.ends_with('-') => {
                return Err(wrong("no label begins or ends with a hyphen"));
            }
            _ => {}
        }
    }
    Ok(format!(".{}", suffix.to_ascii_lowercase()).into_bytes())
}

/// Strict, as the crate `percent-encoding` is not: a lone percent sign stays what it is there.
fn percent_decode(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(format!(
                "{text:?}: a % is followed by two hex digits; write %25 for a percent sign"
            ));
        };
        out.push((high << 4 | low) as u8);
        rest = &tail[2..];
    }
    Ok(out)
}

/// Writes bytes so that they are read as the same ones: letters and digits of any script, and ASCII
/// that means nothing else here; the rest percent-encoded.
fn encoded(bytes: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    let encode = |text: &mut String, bytes: &[u8]| {
        bytes.iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_alphanumeric() || u8::try_from(c).is_ok_and(&plain) {
                text.push(c);
            } else {
                encode(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        encode(&mut text, chunk.invalid());
    }
    text
}

/// As the configuration writes it.
impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.text();
        // Tokens and host names stand for themselves, percent signs too.
        let ascii = || encoded(text, |b| b.is_ascii_graphic());
        let Some(kind) = self.kind() else {
            return write!(f, "unknown({})", self.0.kind);
        };
        let word = kind.word();
        match kind {
            KeyKind::Client | KeyKind::Destination | KeyKind::Tuple | KeyKind::Sni => {
                f.write_str(word)
            }
            KeyKind::Query => {
                write!(f, "{word}:{}", encoded(text, |b| b"!$'()*+-./:;=@_~".contains(&b)))
            }
            KeyKind::Path => write!(f, "{word}:{}", path::text(text)),
            KeyKind::Header | KeyKind::Cookie => write!(f, "{word}:{}", ascii()),
            // A dot follows, or nothing.
            KeyKind::SniLabel => write!(f, "{word}{}", ascii()),
        }
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySource({self})")
    }
}

#[cfg(test)]
mod tests;
