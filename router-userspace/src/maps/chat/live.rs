//! What of a chat is alive elsewhere and stays there, whatever was said.

use std::collections::BTreeMap;

use anyhow::Result;
use roost_place::cookie;
use router_ebpf::{
    maps::{Chat, ChatKey},
    siphash,
    steer::chat_key,
};

use super::plan::Change;
use crate::maps::{names::Names, tables::Tables};

/// The largest width of a chat.
pub const MOST_PARTS: u32 = 1024;

/// Says which live flows a change leaves where they are, also those of a width that the chat had before.
pub(super) fn elsewhere(
    tables: &Tables,
    names: &Names,
    service: u32,
    secret: &siphash::Key,
    change: &Change,
) -> Result<Option<String>> {
    let (chat, wanted) = match change {
        Change::Bind { key, .. } => (key, None),
        Change::Pin { chat, replica } => (chat, Some(*replica)),
        _ => return Ok(None),
    };
    let live = |cookie| -> Result<Option<(u32, u32)>> {
        let at: ChatKey = chat_key(service, cookie);
        let found = tables.chats.get(&at)?;
        let live = found.map(|chat| (Chat::home(chat.state), Chat::flows(chat.state)));
        Ok(live.filter(|&(home, flows)| flows > 0 && wanted != Some(home)))
    };
    let mut homes: BTreeMap<u32, u32> = live(chat.hash)?.into_iter().collect();
    let is_whole = !homes.is_empty();
    let mut is_split = false;
    for part in 0..u64::from(MOST_PARTS) {
        if let Some((home, flows)) = live(cookie::of_part(secret, chat.hash, part))? {
            *homes.entry(home).or_default() += flows;
            is_split = true;
        }
    }
    let flows: u32 = homes.values().sum();
    let name = names.key(service, &chat.name);
    let mut homes: Vec<_> = homes.into_keys().map(|home| names.replica(home)).collect();
    homes.sort();
    let on = homes.join(", ");
    Ok(match wanted {
        _ if homes.is_empty() => None,
        Some(_) if is_whole && !is_split => {
            Some(format!("chat `{name}` stays on {on} until its {flows} live flows end"))
        }
        _ => Some(format!("{flows} live flows of `{name}` stay on {on} until they end")),
    })
}
