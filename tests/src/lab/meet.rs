//! Clients at several places whose tabs are of the same chats.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_chat::client::Tab;

use super::{Clients, Family, Site};

const CHATS: usize = 4;
const LIMIT: Duration = Duration::from_secs(60);

/// Says what a site has counted if something failed there.
pub fn fails<T>(site: &Site, result: Result<T>) -> Result<T> {
    result.with_context(|| site.diagnosis())
}

/// Tabs of the same chats from everywhere, with the replicas that they are on.
pub fn meet(site: &Site, everywhere: &[&Clients], family: Family) -> Result<Vec<Vec<Tab>>> {
    let mut homes: BTreeMap<String, String> = BTreeMap::new();
    let mut all = Vec::new();
    for clients in everywhere {
        let mut tabs = Vec::new();
        for chat in (0..CHATS).map(|chat| format!("{family}-{chat}")) {
            let tab = fails(site, clients.tab(site.vip(family), &chat))?;
            let home = homes.entry(chat).or_insert_with(|| tab.replica().to_owned());
            ensure!(home == tab.replica(), "split: {home} and {}", tab.replica());
            tabs.push(tab);
        }
        all.push(tabs);
    }
    Ok(all)
}

/// What one says in a chat the others hear, wherever they are.
pub fn talk(everywhere: &[&Clients], all: &mut [Vec<Tab>], text: &str) -> Result<()> {
    for chat in 0..CHATS {
        for from in 0..all.len() {
            let said = format!("{text} {from}");
            everywhere[from].run(all[from][chat].say(&said))?;
            for (to, tabs) in all.iter_mut().enumerate() {
                let heard = everywhere[to].run(tabs[chat].hears(&said, LIMIT))?;
                ensure!(heard, "{to} did not hear {from}");
            }
        }
    }
    Ok(())
}
