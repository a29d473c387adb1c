//! Paths: a segment's number, or a template.

use router_ebpf::{
    maps::SOURCE_TEXT_LEN,
    source::{PATH_ANY, PATH_KEY, PATH_REST},
};

use super::{encoded, percent_decode};

const CHAT: &str = "{chat}";
const EXAMPLE: &str = "write \"path:2\" (the second segment) or \"path:/rooms/{chat}\"";

/// `2` or `/rooms/{chat}/ws`, as the data path compares it.
pub(super) fn compile(text: &str) -> Result<Vec<u8>, String> {
    match text.strip_prefix('/') {
        Some(segments) => template(text, segments),
        None => numbered(text),
    }
}

fn numbered(text: &str) -> Result<Vec<u8>, String> {
    const MOST: usize = (SOURCE_TEXT_LEN - 1) / 2;
    // Not "+2", which a number may be otherwise.
    let is_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_digits);
    let Some(number) = number.filter(|n| (1..=MOST).contains(n)) else {
        return Err(if is_digits {
            format!("\"path:{text}\": segments are counted from 1 to {MOST}; {EXAMPLE}")
        } else {
            format!("\"path:{text}\" is neither a number nor a path; {EXAMPLE}")
        });
    };
    let mut compiled = [b'/', PATH_ANY].repeat(number);
    compiled.pop();
    compiled.extend([PATH_KEY, PATH_REST]);
    Ok(compiled)
}

fn template(text: &str, segments: &str) -> Result<Vec<u8>, String> {
    if let Some(mark) = text.chars().find(|c| matches!(c, '?' | '#')) {
        let code = u32::from(mark);
        return Err(format!(
            "{text:?}: a path ends before {mark}; leave it out, or write %{code:02X} if it is part \
             of a name"
        ));
    }
    let (segments, has_rest) = match segments.strip_suffix("/**") {
        Some(segments) => (segments, true),
        None => (segments, false),
    };
    let mut compiled = Vec::new();
    let mut found = false;
    for segment in segments.split('/') {
        compiled.push(b'/');
        if segment == "*" {
            compiled.push(PATH_ANY);
            continue;
        }
        let (literal, is_key) = match segment.strip_suffix(CHAT) {
            Some(literal) => (literal, true),
            None => (segment, false),
        };
        if is_key && found || literal.contains(CHAT) {
            return Err(match (is_key && found, segments.matches(CHAT).count()) {
                (false, 1) => format!(
                    "{text:?}: what is behind {CHAT} in its segment would be part of the key; end \
                     the segment with {CHAT}"
                ),
                _ => format!("{text:?} has more than one {CHAT}; write one"),
            });
        }
        found |= is_key;
        compiled.extend(literal_bytes(text, literal)?);
        if is_key {
            compiled.push(PATH_KEY);
        }
    }
    if !found {
        return Err(format!("{text:?} has no {CHAT}, which says where the key is; {EXAMPLE}"));
    }
    if has_rest {
        compiled.push(PATH_REST);
    }
    Ok(compiled)
}

/// What stands for itself in a segment.
fn literal_bytes(text: &str, literal: &str) -> Result<Vec<u8>, String> {
    if let Some(mark) = literal.chars().find(|c| "*{}".contains(*c)) {
        let code = u32::from(mark);
        return Err(match mark {
            '*' => format!(
                "{text:?}: * stands for a whole segment, and /** for the end; write %2A for a star \
                 that is meant as one"
            ),
            _ => format!(
                "{text:?}: {CHAT} is the only thing in braces; write %{code:02X} for a brace that \
                 is meant as one"
            ),
        });
    }
    let bytes = percent_decode(literal)?;
    if bytes.contains(&b'/') {
        return Err(format!(
            "{text:?}: an encoded slash (%2F) separates no segments and cannot be compared; use * \
             for a segment that has one"
        ));
    }
    if let Some(byte) = bytes.iter().find(|byte| byte.is_ascii_control()) {
        return Err(format!(
            "{text:?} has the control character {byte:#04x}; use * for a segment that has one"
        ));
    }
    Ok(bytes)
}

/// A compiled path as it is written: as a number if it is one.
pub(super) fn text(compiled: &[u8]) -> String {
    if let Some(number) = number(compiled) {
        return number.to_string();
    }
    let mut text = String::new();
    let is_mark = |byte: &u8| *byte <= PATH_REST;
    for part in compiled.split_inclusive(is_mark) {
        let (literal, mark) = match part.split_last() {
            Some((mark, literal)) if is_mark(mark) => (literal, Some(*mark)),
            _ => (part, None),
        };
        text.push_str(&encoded(literal, |b| b"/!$&'()+-.:;=@_~".contains(&b)));
        text.push_str(match mark {
            Some(PATH_ANY) => "*",
            Some(PATH_KEY) => CHAT,
            Some(PATH_REST) => "/**",
            Some(_) => "%00",
            None => "",
        });
    }
    text
}

/// Which segment is the key, if all others may be anything.
fn number(compiled: &[u8]) -> Option<usize> {
    let before = compiled.strip_suffix(&[b'/', PATH_KEY, PATH_REST])?;
    let number = before.len() / 2;
    (before == [b'/', PATH_ANY].repeat(number)).then_some(number + 1)
}
