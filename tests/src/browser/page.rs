//! The chat's page in tabs: what every test of it does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Browser, Tab};

/// How long something on a page may take, on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Three replicas: all three tabs of all chats on one replica by luck is one in 3 to the 10th.
const CHATS: usize = 5;

impl Browser {
    /// A tab with the chat's page, once a replica has greeted it.
    pub fn chat(&self, url: &str) -> Result<Tab<'_>> {
        let tab = self.open(url)?;
        tab.wait_for(LIMIT, "document.documentElement.dataset.state == 'connected'")?;
        Ok(tab)
    }

    /// Three tabs with the page of one chat.
    pub fn three_tabs(&self, url: &str) -> Result<[Tab<'_>; 3]> {
        Ok([self.chat(url)?, self.chat(url)?, self.chat(url)?])
    }

    /// Three tabs of each of several chats: a message typed in one shows in all three, all say the
    /// same replica, and none says that the chat is split.
    pub fn check_chats(&self, prefix: &str, url: impl Fn(&str) -> String) -> Result<()> {
        for n in 0..CHATS {
            let chat = format!("{prefix}-{n}");
            let tabs = self.three_tabs(&url(&chat))?;
            talk(&tabs, n % 3, &format!("is everybody in {chat}?")).context(chat.clone())?;
            let on = [tabs[0].replica()?, tabs[1].replica()?, tabs[2].replica()?];
            let same = on[0] == on[1] && on[1] == on[2];
            ensure!(on[0].starts_with("replica-") && same, "{chat}: {on:?}");
            for tab in &tabs {
                tab.wait_for(LIMIT, "document.documentElement.dataset.probed >= 1")?;
                let whole = tab.evaluate("document.querySelector('#split').hidden")?;
                ensure!(whole == true, "{chat}: {}", tab.text("#why")?);
            }
            for tab in tabs {
                tab.close()?;
            }
        }
        Ok(())
    }
}

impl Tab<'_> {
    /// The replica that the page says it is on.
    pub fn replica(&self) -> Result<String> {
        self.text("#replica")
    }
}

/// Types a message into one tab of a chat, and waits until all show it.
pub fn talk(tabs: &[Tab<'_>], from: usize, text: &str) -> Result<()> {
    tabs[from].type_line("#text", text)?;
    let texts = "[...document.querySelectorAll('#log .text')]";
    for (n, tab) in tabs.iter().enumerate() {
        let shown = format!("{texts}.some((it) => it.innerText == {text:?})");
        tab.wait_for(LIMIT, &shown).with_context(|| format!("tab {n}, told by {from}"))?;
    }
    Ok(())
}
