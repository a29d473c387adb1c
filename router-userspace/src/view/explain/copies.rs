//! The maps as the pipeline reads them, copied: nothing that is explained changes anything.

use std::{cell::Cell, collections::BTreeMap, ptr::NonNull, time::Duration};

use anyhow::Result;
use aya::maps::lpm_trie;
use router_ebpf::{
    maps::{Chat, ChatCookie, ChatKey, Replica, SLOT_COUNT, Secrets, Service, SourceKey, VipKey},
    shared::Shared,
};

use crate::maps::{names::Names, read, secrets::monotonic, tables::Tables};

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
    pub(super) chat_cookies: BTreeMap<ChatKey, ChatCookie>,
    chats: BTreeMap<ChatKey, Cell<Chat>>,
}

impl<'a> Copies<'a> {
    pub(super) fn read(
        tables: &'a Tables,
        names: &'a Names,
        number: u32,
        service: &Service,
    ) -> Result<Self> {
        let end = service.slots.saturating_add(SLOT_COUNT);
        let mut chats = read::sorted(&tables.chats)?;
        chats.retain(|key, _| key.service == number);
        Ok(Self {
            tables,
            now: monotonic(),
            secrets: tables.secrets.get(0)?,
            services: &names.services,
            replicas: &names.replicas,
            slots: tables.slots.range(service.slots..end)?,
            first_slot: service.slots,
            chat_cookies: read::sorted(&tables.chat_cookies)?,
            chats: chats.into_iter().map(|(key, chat)| (key, Cell::new(chat))).collect(),
        })
    }

    /// An entry of `CHATS`.
    pub(super) fn live(&self, key: &ChatKey) -> Option<Chat> {
        self.chats.get(key).map(Cell::get)
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
    fn replica(&self, number: u32) -> Option<&Replica> {
        self.replicas.get(&number)
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(index.checked_sub(self.first_slot)? as usize).copied()
    }
    fn chat_cookie(&self, key: &ChatKey) -> Option<&ChatCookie> {
        self.chat_cookies.get(key)
    }
    fn chat(&self, key: &ChatKey) -> Option<Shared<Chat>> {
        let chat = NonNull::new(self.chats.get(key)?.as_ptr())?;
        // SAFETY: the copy is aligned, and the pipeline drops the pointer before it returns.
        Some(unsafe { Shared::new(chat) })
    }
}
