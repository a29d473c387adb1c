//! What is in the Secret.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use crate::maps::secrets::{Key, key_text, parse_key};

const HANDSHAKE: &str = "handshake";
const NEXT: &str = "handshake-next";
const BEFORE: &str = "handshake-before";
const CHATS: &str = "chats";

/// The keys in the Secret, as far as they are there.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Content {
    /// SYN cookies are made with it.
    pub handshake: Option<Key>,
    /// It is used next, and accepted already.
    pub next: Option<Key>,
    /// It was used before, and is still accepted.
    pub before: Option<Key>,
    /// Chats are hashed under it.
    pub chats: Option<Key>,
}

impl Content {
    /// Reads a Secret's data. `Err` says what is wrong, without the value.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, String> {
        let key = |name: &str| match data.get(name) {
            None => Ok(None),
            Some(ByteString(value)) => {
                let text = std::str::from_utf8(value).ok();
                text.and_then(parse_key).map(Some).ok_or_else(|| {
                    format!(
                        "data.{name} has {} bytes; it must be 32 hex digits (`openssl rand -hex 16` \
                         makes them)",
                        value.len()
                    )
                })
            }
        };
        Ok(Self {
            handshake: key(HANDSHAKE)?,
            next: key(NEXT)?,
            before: key(BEFORE)?,
            chats: key(CHATS)?,
        })
    }

    /// Writes it into a Secret's data. What is not Roost's stays.
    pub fn write(&self, data: &mut BTreeMap<String, ByteString>) {
        let Self { handshake, next, before, chats } = self;
        for (name, key) in [(HANDSHAKE, handshake), (NEXT, next), (BEFORE, before), (CHATS, chats)]
        {
            match key {
                Some(key) => data.insert(name.into(), ByteString(key_text(key).into_bytes())),
                None => data.remove(name),
            };
        }
    }

    /// Without the two things.
    pub(super) fn rest(&self) -> (Option<Key>, Option<Key>) {
        (self.next, self.before)
    }
}

impl std::fmt::Debug for Content {
    /// Keys are in no log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let content = Content {
            handshake: Some([0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f]),
            next: Some([u64::MAX, 0]),
            before: None,
            chats: Some([1, 2]),
        };
        let mut written = data(&[("mine", "stays"), (BEFORE, "goes")]);
        content.write(&mut written);
        assert!(Content::read(&written).is_ok_and(|read| read == content));
        assert_eq!(written[HANDSHAKE].0, b"000102030405060708090a0b0c0d0e0f");
        assert!(written.contains_key("mine") && !written.contains_key(BEFORE));
        // As an editor leaves it.
        let read = Content::read(&data(&[(CHATS, "000102030405060708090A0B0C0D0E0F\n")]));
        assert!(read.is_ok_and(|read| read.chats == content.handshake && read.handshake.is_none()));
    }

    #[test]
    fn a_wrong_value_is_named_but_not_shown() {
        for wrong in
            ["", "0001", "000102030405060708090a0b0c0d0e0g", "+00102030405060708090a0b0c0d0e0f"]
        {
            let error = Content::read(&data(&[(HANDSHAKE, wrong)])).unwrap_err();
            assert!(error.contains("data.handshake") && error.contains("32 hex digits"), "{error}");
            assert!(wrong.len() < 8 || !error.contains(wrong), "{error}");
        }
    }
}
