//! The maps as the pipeline reads them, copied: nothing that is explained changes anything.

use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
    ptr::NonNull,
    time::Duration,
};

use anyhow::Result;
use aya::maps::lpm_trie;
use router_ebpf::{
    maps::{
        Chat, ChatCookie, ChatKey, Link, Mac, Replica, SLOT_COUNT, Secrets, Service, SourceKey,
        VipKey,
    },
    shared::Shared,
};

use crate::maps::{
    handle::{Asked, Fault},
    names::Names,
    secrets::monotonic,
    tables::Tables,
};

/// What was looked up so far, one after the other: a value stays where it is while more are found, and what was
/// found once is the same for the whole explanation.
struct Found<V>(OnceCell<Box<Node<V>>>);

struct Node<V> {
    key: ChatKey,
    value: Option<V>,
    more: Found<V>,
}

impl<V> Default for Found<V> {
    fn default() -> Self {
        Self(OnceCell::new())
    }
}

impl<V> Found<V> {
    fn get(&self, key: &ChatKey, look_up: impl FnOnce() -> Option<V>) -> Option<&V> {
        let mut at = self;
        while let Some(node) = at.0.get() {
            if node.key == *key {
                return node.value.as_ref();
            }
            at = &node.more;
        }
        let node = || Box::new(Node { key: *key, value: look_up(), more: Self::default() });
        at.0.get_or_init(node).value.as_ref()
    }
}

/// Copies of the maps as the pipeline reads them.
pub(super) struct Copies<'a> {
    tables: &'a Tables,
    pub(super) now: Duration,
    pub(super) secrets: Secrets,
    services: &'a BTreeMap<u32, Service>,
    replicas: &'a BTreeMap<u32, Replica>,
    /// The published slot table, and the index in `SLOTS` where it begins.
    slots: Vec<u32>,
    first_slot: u32,
    chat_cookies: Found<ChatCookie>,
    chats: Found<Cell<Chat>>,
    /// The first map that could not be read.
    fault: OnceCell<Fault>,
}

impl<'a> Copies<'a> {
    pub(super) fn read(tables: &'a Tables, names: &'a Names, service: &Service) -> Result<Self> {
        let end = service.slots.saturating_add(SLOT_COUNT);
        Ok(Self {
            tables,
            now: monotonic(),
            secrets: tables.secrets.get(0)?,
            services: &names.services,
            replicas: &names.replicas,
            slots: tables.slots.range(service.slots..end)?,
            first_slot: service.slots,
            chat_cookies: Found::default(),
            chats: Found::default(),
            fault: OnceCell::new(),
        })
    }

    /// An entry of `CHATS`.
    pub(super) fn live(&self, key: &ChatKey) -> Option<Chat> {
        self.chat_cell(key).map(Cell::get)
    }

    /// An entry of `CHAT_COOKIES`.
    pub(super) fn registered(&self, key: &ChatKey) -> Option<&ChatCookie> {
        self.chat_cookies.get(key, || self.found(self.tables.chat_cookies.get(key)))
    }

    /// Whether all could be read that was asked for.
    pub(super) fn check(self) -> Result<(), Fault> {
        self.fault.into_inner().map_or(Ok(()), Err)
    }

    fn chat_cell(&self, key: &ChatKey) -> Option<&Cell<Chat>> {
        self.chats.get(key, || self.found(self.tables.chats.get(key)).map(Cell::new))
    }

    fn found<T>(&self, asked: Asked<Option<T>>) -> Option<T> {
        asked.unwrap_or_else(|fault| {
            let _ = self.fault.set(fault);
            None
        })
    }
}

impl router_ebpf::tables::Tables for Copies<'_> {
    fn now(&self) -> u64 {
        self.now.as_nanos() as u64
    }
    fn secrets(&self) -> Option<&Secrets> {
        Some(&self.secrets)
    }
    fn vip(&self, key: &VipKey) -> Option<u32> {
        let key = lpm_trie::Key::new(key.prefix_len, key.vip);
        self.tables.vips.find(&key).ok().flatten()
    }
    fn service(&self, number: u32) -> Option<&Service> {
        self.services.get(&number)
    }
    fn source_range(&self, key: &SourceKey) -> Option<u32> {
        let key = lpm_trie::Key::new(key.prefix_len, key.range);
        self.tables.source_ranges.find(&key).ok().flatten()
    }
    fn mac(&self, _: &Mac) -> Option<u64> {
        None
    }
    fn link(&self, _: &u32) -> Option<Link> {
        None
    }
    fn replica(&self, number: u32) -> Option<&Replica> {
        self.replicas.get(&number)
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(index.checked_sub(self.first_slot)? as usize).copied()
    }
    fn chat_cookie(&self, key: &ChatKey) -> Option<&ChatCookie> {
        self.registered(key)
    }
    fn chat(&self, key: &ChatKey) -> Option<Shared<Chat>> {
        let chat = NonNull::new(self.chat_cell(key)?.as_ptr())?;
        // SAFETY: the copy is aligned, and the pipeline drops the pointer before it returns.
        Some(unsafe { Shared::new(chat) })
    }
}
