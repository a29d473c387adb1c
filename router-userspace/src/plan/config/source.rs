//! Key sources: from the text of a configuration to what the data path compares, and back.

mod path;

use std::{fmt, str::FromStr};

use router_ebpf::maps::{
    self, KEY_CLIENT, KEY_COOKIE, KEY_DESTINATION, KEY_HEADER, KEY_NONE, KEY_PATH, KEY_QUERY,
    KEY_SNI, KEY_SNI_LABEL, KEY_TUPLE, SOURCE_TEXT_LEN, SOURCES,
};

/// What can be written, for messages.
const FORMS: &str = "\"query:NAME\", \"path:NUMBER\", \"path:/rooms/{chat}\", \"header:NAME\", \
                     \"cookie:NAME\", \"sni\", \"sni:label\", \"client\", \"destination\" or \
                     \"tuple\"";

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
    pub const TUPLE: Self = Self(maps::KeySource { kind: KEY_TUPLE, ..maps::KeySource::NONE });

    /// One of a service in the maps; `None` behind the end of its list.
    pub const fn from_map(source: &maps::KeySource) -> Option<Self> {
        if source.kind == KEY_NONE { None } else { Some(Self(*source)) }
    }

    /// Those of a service in the maps, in their order.
    pub fn of_service(service: &maps::Service) -> impl Iterator<Item = Self> {
        service.sources.iter().map_while(Self::from_map)
    }

    /// As the data path wants it.
    pub const fn to_map(self) -> maps::KeySource {
        self.0
    }

    /// One of `KEY_*`.
    pub const fn kind(self) -> u8 {
        self.0.kind
    }

    /// Whether it takes the key from addresses and ports: every connection has one.
    pub const fn always_yields(self) -> bool {
        matches!(self.kind(), KEY_CLIENT | KEY_DESTINATION | KEY_TUPLE)
    }

    /// Whether its keys are host names, which are compared in lower case.
    pub const fn folds_case(self) -> bool {
        self.0.fold != 0
    }

    fn new(kind: u8, text: &[u8], written: &str) -> Result<Self, String> {
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
        match (word, rest) {
            ("client", None) => Self::new(KEY_CLIENT, b"", text),
            ("destination", None) => Self::new(KEY_DESTINATION, b"", text),
            ("tuple", None) => Self::new(KEY_TUPLE, b"", text),
            ("query", Some(name)) => query(name),
            ("path", Some(path)) => Self::new(KEY_PATH, &path::compile(path)?, path),
            ("header", Some(name)) => {
                token(name, "header", "header:x-chat")?;
                Self::new(KEY_HEADER, name.to_ascii_lowercase().as_bytes(), name)
            }
            ("cookie", Some(name)) => {
                token(name, "cookie", "cookie:chat")?;
                Self::new(KEY_COOKIE, name.as_bytes(), name)
            }
            ("sni", None) => Self::new(KEY_SNI, b"", text),
            ("sni", Some("label")) => Self::new(KEY_SNI_LABEL, b"", text),
            ("sni", Some(label)) => match label.strip_prefix("label.") {
                Some(suffix) => Self::new(KEY_SNI_LABEL, &dotted(suffix)?, suffix),
                None => Err(format!(
                    "{text:?} is no key source; write \"sni\", \"sni:label\" or, with what has to \
                     follow the label, \"sni:label.rooms.example.com\""
                )),
            },
            ("query" | "path" | "header" | "cookie", None) => Err(format!(
                "{text:?} does not say which; write {}",
                match word {
                    "query" => "\"query:chat\"",
                    "path" => "\"path:2\" or \"path:/rooms/{chat}\"",
                    "header" => "\"header:x-chat\"",
                    _ => "\"cookie:chat\"",
                }
            )),
            ("client" | "destination" | "tuple", Some(_)) => {
                Err(format!("{text:?}: nothing can follow; write \"{word}\""))
            }
            _ => Err(format!("{text:?} is no key source; write {FORMS}")),
        }
    }
}

/// A query parameter's name, percent-decoded as the data path compares it.
fn query(name: &str) -> Result<KeySource, String> {
    let decoded = percent_decode(name)?;
    if decoded.is_empty() {
        return Err("\"query:\" has no name behind it; write \"query:chat\"".into());
    }
    KeySource::new(KEY_QUERY, &decoded, name)
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
        match self.kind() {
            KEY_CLIENT => f.write_str("client"),
            KEY_DESTINATION => f.write_str("destination"),
            KEY_TUPLE => f.write_str("tuple"),
            KEY_QUERY => write!(f, "query:{}", encoded(text, |b| b"!$'()*+-./:;=@_~".contains(&b))),
            KEY_PATH => write!(f, "path:{}", path::text(text)),
            KEY_HEADER => write!(f, "header:{}", ascii()),
            KEY_COOKIE => write!(f, "cookie:{}", ascii()),
            KEY_SNI => f.write_str("sni"),
            KEY_SNI_LABEL => write!(f, "sni:label{}", ascii()),
            kind => write!(f, "unknown({kind})"),
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
