//! What `httparse`, `http`, `form_urlencoded` and `percent-encoding` find in a request.
//!
//! Nothing is demanded where one of them refuses the request. Where the data path differs from them,
//! or from what some servers do, and means to:
//!
//! - A method has 32 bytes at the most: [`METHOD_LEN`].
//! - The target is taken as it is sent, but for its percent signs: `.`, `..`, `//` and `\` in a path
//!   stay as they are, where a browser's URL parser (`url`) would normalise them.
//! - An absolute-form target's authority does not take the place of the header `Host`; and without a
//!   path it has none, where `http` says `/`.
//! - The name of an HTTP cookie is what stands before `=`, with white space behind it; some servers
//!   cut that off. Quotes around a cookie's value belong to the value; some servers cut those off.
//! - A value is bytes. These parsers make text of it, with U+FFFD for what is none: so they are asked
//!   for the place of the value only, and its bytes are decoded apart.

use http::Uri;
use httparse::{EMPTY_HEADER, Request, Status};
use percent_encoding::percent_decode;

use crate::source::{Expected, Part, Source};

/// Bytes of a method that the data path believes to be one.
const METHOD_LEN: usize = 32;
const HEADERS: usize = 256;

/// Calls `ask` with the request and the length of its head, if it is complete.
fn parsed<T>(head: &[u8], ask: impl FnOnce(&Request<'_, '_>, usize) -> Option<T>) -> Option<T> {
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = Request::new(&mut headers);
    let Ok(Status::Complete(len)) = request.parse(head) else { return None };
    if request.method?.len() > METHOD_LEN {
        return None;
    }
    ask(&request, len)
}

/// Whether the request asks for an upgrade.
pub fn is_upgrade(head: &[u8]) -> Option<bool> {
    parsed(head, |request, _| {
        let mut values = values(request, "upgrade");
        Some(values.next().is_some_and(|value| !value.is_empty()))
    })
}

/// See [`Source::expected`].
pub fn expected(source: &Source, head: &[u8]) -> Option<(Expected, usize)> {
    parsed(head, |request, len| {
        // The byte behind the target tells that it is over.
        let target = request.path?;
        let target_end = target.as_ptr() as usize - head.as_ptr() as usize + target.len() + 1;
        match source {
            Source::Query(name) => Some((query(&uri(target)?, name), target_end)),
            Source::Path { parts, rest } => Some((path(target, parts, *rest)?, target_end)),
            Source::Header(name) => Some((header(request, name), len)),
            Source::Cookie(name) => Some((cookie(request, name), len)),
            Source::Sni | Source::SniLabel(_) => None,
        }
    })
}

fn uri(target: &str) -> Option<Uri> {
    // `http` takes nothing for a scheme, which no other parser does.
    if target.starts_with(':') {
        return None;
    }
    target.parse().ok()
}

/// The first parameter of this name.
fn query(uri: &Uri, name: &[u8]) -> Expected {
    let Some(query) = uri.query() else { return Expected::Absent };
    let Ok(name) = str::from_utf8(name) else { return Expected::Absent };
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let Some(place) = pairs.position(|(found, _)| found == name) else { return Expected::Absent };
    let pair = query.split('&').filter(|pair| !pair.is_empty()).nth(place).unwrap_or_default();
    let value = pair.split_once('=').map_or("", |(_, value)| value).replace('+', " ");
    Expected::value(percent_decode(value.as_bytes()).collect())
}

fn path(target: &str, parts: &[Part], rest: bool) -> Option<Expected> {
    let uri = uri(target)?;
    // `http` says `/` where a target in absolute form has no path.
    let has_path = match target.split_once("://") {
        Some((_, from)) if uri.scheme().is_some() => {
            let end = from.find(['/', '?', '#']);
            end.is_some_and(|end| from[end..].starts_with('/'))
        }
        _ => uri.path().starts_with('/'),
    };
    Some(if has_path { in_path(uri.path(), parts, rest) } else { Expected::Absent })
}

fn in_path(path: &str, parts: &[Part], rest: bool) -> Expected {
    let path = path.strip_prefix('/').unwrap_or(path);
    let segments: Vec<Vec<u8>> =
        path.split('/').map(|segment| percent_decode(segment.as_bytes()).collect()).collect();
    if segments.len() < parts.len() || !rest && segments.len() > parts.len() {
        return Expected::Absent;
    }
    let mut key = Vec::new();
    for (part, segment) in parts.iter().zip(&segments) {
        match part {
            Part::Any => {}
            Part::Is(bytes) if bytes == segment => {}
            Part::Is(_) => return Expected::Absent,
            Part::Key(prefix) => match segment.strip_prefix(&**prefix) {
                Some(found) => key.extend(found),
                None => return Expected::Absent,
            },
        }
    }
    Expected::value(key)
}

/// The values of the headers of this name, in lower case, in their order.
fn values<'a>(request: &'a Request<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| trim(header.value))
}

fn header(request: &Request<'_, '_>, name: &str) -> Expected {
    let Some(value) = values(request, name).next() else { return Expected::Absent };
    // A host name is the same in any case.
    let is_host = name == "host";
    Expected::value(if is_host { value.to_ascii_lowercase() } else { value.to_vec() })
}

/// RFC 6265, section 4.2.1.
fn cookie(request: &Request<'_, '_>, name: &str) -> Expected {
    for value in values(request, "cookie") {
        for pair in value.split(|byte| *byte == b';') {
            let mut halves = trim(pair).splitn(2, |byte| *byte == b'=');
            if let (Some(found), Some(value)) = (halves.next(), halves.next())
                && found == name.as_bytes()
            {
                return Expected::value(trim(value).to_vec());
            }
        }
    }
    Expected::Absent
}

/// Without the white space around it (RFC 9110, section 5.5).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
