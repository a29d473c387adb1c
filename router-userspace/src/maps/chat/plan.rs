//! What a change of `CHAT_COOKIES` comes to: pure, so that it can be refused before anything is
//! written.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use router_ebpf::maps::{ChatCookie, ChatKey, NO_REPLICA, Name};

/// `CHAT_COOKIES`.
pub type Entries = BTreeMap<ChatKey, ChatCookie>;

/// A key or chat, by what the maps know of it.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its key hash.
    pub hash: u64,
    /// Its bytes.
    pub name: Name,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// The key shall belong to the chat.
    Bind {
        /// The key.
        key: Named,
        /// The chat.
        chat: Named,
    },
    /// The key shall be a chat of its own again.
    Unbind {
        /// The key.
        key: Named,
    },
    /// The chat shall live on this replica.
    Pin {
        /// The chat.
        chat: Named,
        /// The replica's number.
        replica: u32,
    },
    /// The chat shall live where its slot is.
    Unpin {
        /// The chat.
        chat: Named,
    },
    /// The chat shall be spread over so many replicas.
    Width {
        /// The chat.
        chat: Named,
        /// How many; 1 is a chat in one place.
        width: u32,
    },
}

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Sets an entry.
    Put(ChatKey, ChatCookie),
    /// Removes an entry.
    Remove(ChatKey),
}

/// Says what a change comes to for one service, whose chats have the width `of_service`, or why it
/// makes no sense. `show` makes a name readable.
pub fn plan(
    entries: &Entries,
    service: u32,
    of_service: u32,
    change: &Change,
    show: impl Fn(&Name) -> String,
) -> Result<Edit> {
    let at = |hash| ChatKey { cookie: hash, service, reserved: 0 };
    let found = |named: &Named| entries.get(&at(named.hash)).copied();
    // The entry that says how a chat lives, unless the key is in another chat.
    let own = |chat: &Named| match found(chat) {
        Some(entry) if entry.cookie != chat.hash => {
            let (key, other) = (show(&chat.name), show(&entry.chat));
            bail!("`{key}` belongs to chat `{other}`: name that one, or `roost chat unbind` first")
        }
        Some(entry) => Ok(entry),
        None => Ok(ChatCookie {
            cookie: chat.hash,
            replica: NO_REPLICA,
            width: 0,
            key: chat.name,
            chat: Name::EMPTY,
        }),
    };
    // An entry that says nothing is none.
    let put = |hash, entry: ChatCookie| {
        let says_width = entry.width > 0 && entry.width != of_service;
        let says_nothing = entry.replica == NO_REPLICA && !says_width;
        if says_nothing { Edit::Remove(at(hash)) } else { Edit::Put(at(hash), entry) }
    };
    match change {
        Change::Bind { key, chat } => {
            own(chat)?;
            bind(entries, service, key, chat, of_service.max(1), &show)?;
            let entry = ChatCookie {
                cookie: chat.hash,
                replica: NO_REPLICA,
                width: 0,
                key: key.name,
                chat: chat.name,
            };
            Ok(Edit::Put(at(key.hash), entry))
        }
        Change::Unbind { key } => match found(key) {
            Some(entry) if entry.cookie != key.hash => Ok(Edit::Remove(at(key.hash))),
            _ => bail!("`{}` is not bound to another chat", show(&key.name)),
        },
        Change::Pin { chat, replica } => {
            let entry = own(chat)?;
            if entry.width > 1 {
                let (name, width) = (show(&chat.name), entry.width);
                bail!("chat `{name}` has width {width}: set it to 1 with `roost chat width` first");
            }
            Ok(put(chat.hash, ChatCookie { replica: *replica, ..entry }))
        }
        Change::Unpin { chat } => {
            let entry = own(chat)?;
            if entry.replica == NO_REPLICA {
                bail!("chat `{}` is not pinned", show(&chat.name));
            }
            Ok(put(chat.hash, ChatCookie { replica: NO_REPLICA, ..entry }))
        }
        Change::Width { chat, width } => {
            let entry = own(chat)?;
            if entry.replica != NO_REPLICA && *width > 1 {
                bail!("chat `{}` is pinned: `roost chat unpin` it first", show(&chat.name));
            }
            Ok(put(chat.hash, ChatCookie { width: *width, ..entry }))
        }
    }
}

/// Chats are one level deep: a key with keys of its own, or with a place of its own, is not bound.
fn bind(
    entries: &Entries,
    service: u32,
    key: &Named,
    chat: &Named,
    of_service: u32,
    show: impl Fn(&Name) -> String,
) -> Result<()> {
    let name = show(&key.name);
    if key.hash == chat.hash {
        bail!("`{name}` is in its own chat already: name another chat");
    }
    for (at, entry) in entries.iter().filter(|(at, _)| at.service == service) {
        if at.cookie == key.hash && entry.cookie == key.hash {
            bail!(
                "chat `{name}` is pinned or has a width: `roost chat unpin`, or `roost chat width` \
                 {of_service}, before it joins another"
            );
        }
        if at.cookie != key.hash && entry.cookie == key.hash {
            let other = show(&entry.key);
            bail!("`{other}` is bound to `{name}`: `roost chat unbind` it, or bind it elsewhere");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Named {
        let hash = text.bytes().fold(7, |hash, byte| hash * 31 + u64::from(byte));
        Named { hash, name: Name::new(text.as_bytes()) }
    }

    fn try_change(entries: &mut Entries, change: &Change) -> Result<()> {
        let show = |name: &Name| String::from_utf8_lossy(name.kept()).into_owned();
        match plan(entries, 1, 1, change, show)? {
            Edit::Put(key, value) => entries.insert(key, value),
            Edit::Remove(key) => entries.remove(&key),
        };
        Ok(())
    }

    fn refused(entries: &mut Entries, change: &Change) -> String {
        let before = entries.clone();
        let error = try_change(entries, change).unwrap_err().to_string();
        assert_eq!(*entries, before);
        error
    }

    #[test]
    fn a_key_joins_a_chat_and_leaves_it() {
        let mut entries = Entries::new();
        let (a, b, c) = (named("a"), named("b"), named("c"));
        try_change(&mut entries, &Change::Bind { key: a, chat: b }).unwrap();
        let entry = entries.values().next().unwrap();
        assert_eq!((entry.cookie, entry.key, entry.chat), (b.hash, a.name, b.name));
        try_change(&mut entries, &Change::Bind { key: a, chat: c }).unwrap();
        assert_eq!(entries.len(), 1, "bound again, elsewhere");
        try_change(&mut entries, &Change::Unbind { key: a }).unwrap();
        assert!(entries.is_empty());
        assert_eq!(
            refused(&mut entries, &Change::Unbind { key: a }),
            "`a` is not bound to another chat"
        );
    }

    #[test]
    fn chats_are_one_level_deep() {
        let mut entries = Entries::new();
        let (a, b, c) = (named("a"), named("b"), named("c"));
        assert!(refused(&mut entries, &Change::Bind { key: a, chat: a }).contains("own chat"));
        try_change(&mut entries, &Change::Bind { key: a, chat: b }).unwrap();
        let up = refused(&mut entries, &Change::Bind { key: b, chat: c });
        assert!(up.starts_with("`a` is bound to `b`"), "{up}");
        let down = refused(&mut entries, &Change::Bind { key: c, chat: a });
        assert!(down.starts_with("`a` belongs to chat `b`"), "{down}");
        assert!(refused(&mut entries, &Change::Pin { chat: a, replica: 0 }).contains("belongs"));
        try_change(&mut entries, &Change::Pin { chat: b, replica: 0 }).unwrap();
        try_change(&mut entries, &Change::Bind { key: c, chat: b }).unwrap();
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn a_pin_or_a_width_and_not_both() {
        let mut entries = Entries::new();
        let chat = named("a");
        assert!(refused(&mut entries, &Change::Unpin { chat }).contains("not pinned"));
        try_change(&mut entries, &Change::Pin { chat, replica: 2 }).unwrap();
        assert!(refused(&mut entries, &Change::Width { chat, width: 2 }).contains("pinned"));
        let moved = refused(&mut entries, &Change::Bind { key: chat, chat: named("b") });
        assert!(moved.contains("pinned or has a width"), "{moved}");
        try_change(&mut entries, &Change::Unpin { chat }).unwrap();
        assert!(entries.is_empty());
        try_change(&mut entries, &Change::Width { chat, width: 3 }).unwrap();
        assert!(refused(&mut entries, &Change::Pin { chat, replica: 2 }).contains("width 3"));
        try_change(&mut entries, &Change::Width { chat, width: 1 }).unwrap();
        assert!(entries.is_empty());
    }

    #[test]
    fn a_chat_may_be_narrower_than_its_service_says() {
        let chat = named("a");
        let planned = |of_service, width| {
            let change = Change::Width { chat, width };
            plan(&Entries::new(), 1, of_service, &change, |_| String::new()).unwrap()
        };
        assert!(matches!(planned(3, 1), Edit::Put(_, ChatCookie { width: 1, .. })));
        assert!(matches!(planned(3, 5), Edit::Put(_, ChatCookie { width: 5, .. })));
        assert!(matches!(planned(3, 3), Edit::Remove(_)), "what the service says anyway");
    }

    #[test]
    fn a_pin_leaves_a_width_of_one_as_it_is() {
        let chat = named("a");
        let at = ChatKey { cookie: chat.hash, service: 1, reserved: 0 };
        let own = ChatCookie {
            cookie: chat.hash,
            replica: NO_REPLICA,
            width: 1,
            key: chat.name,
            chat: Name::EMPTY,
        };
        let entries = Entries::from([(at, own)]);
        let planned = plan(&entries, 1, 3, &Change::Pin { chat, replica: 2 }, |_| String::new());
        let Ok(Edit::Put(_, pinned)) = planned else { panic!("it is not pinned") };
        assert_eq!((pinned.replica, pinned.width), (2, 1));
        let entries = Entries::from([(at, pinned)]);
        let planned = plan(&entries, 1, 3, &Change::Unpin { chat }, |_| String::new());
        assert!(matches!(planned, Ok(Edit::Put(_, entry)) if entry == own), "as it was");
    }

    #[test]
    fn services_do_not_share_chats() {
        let mut entries = Entries::new();
        let (a, b) = (named("a"), named("b"));
        let elsewhere = ChatKey { cookie: b.hash, service: 2, reserved: 0 };
        let entry = ChatCookie { cookie: a.hash, replica: 0, width: 0, key: b.name, chat: a.name };
        entries.insert(elsewhere, entry);
        try_change(&mut entries, &Change::Bind { key: a, chat: b }).unwrap();
        assert_eq!(entries.len(), 2);
    }
}
