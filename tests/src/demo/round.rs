//! One round: open the tabs, say something in each chat, see whom it reaches.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use roost_chat::client;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Options, Totals};
use crate::lab::Lab;

/// A message to another replica's tab that has not come in all this time after the last one will not come.
const QUIET: Duration = Duration::from_secs(1);
/// How long a tab listens at the most.
const LISTEN: Duration = Duration::from_secs(30);

const NAMES: [&str; 8] =
    ["lobby", "garden", "library", "kitchen", "workshop", "attic", "harbour", "observatory"];

/// The open tabs of all chats and what they have heard.
#[derive(Debug)]
pub struct Round {
    /// In the order in which they were opened.
    pub chats: Vec<Chat>,
}

/// One chat.
#[derive(Debug)]
pub struct Chat {
    /// Its key.
    pub name: String,
    /// Its tabs; the first one speaks.
    pub tabs: Vec<Tab>,
}

/// One tab.
#[derive(Debug)]
pub struct Tab {
    connection: client::Tab,
    /// Whether it has heard what the first tab of its chat has said.
    pub heard: bool,
}

impl Tab {
    /// The replica that it is on.
    pub fn replica(&self) -> &str {
        self.connection.replica()
    }
}

impl Chat {
    /// The replicas that its tabs are on.
    pub fn replicas(&self) -> BTreeSet<&str> {
        self.tabs.iter().map(Tab::replica).collect()
    }

    fn beside_the_speaker(&self) -> usize {
        self.tabs.iter().filter(|tab| tab.replica() == self.tabs[0].replica()).count()
    }

    /// How many tabs have heard the message.
    pub fn reached(&self) -> usize {
        self.tabs.iter().filter(|tab| tab.heard).count()
    }

    /// Whether all tabs are on one replica and have heard the message.
    pub fn whole(&self) -> bool {
        self.replicas().len() == 1 && self.reached() == self.tabs.len()
    }
}

impl Round {
    /// Opens all tabs, says something in each chat and listens.
    pub(super) async fn play(lab: &Lab, to: SocketAddr, options: &Options) -> Result<Self> {
        let mut round = Self::open(lab, to, options).await?;
        for chat in &mut round.chats {
            let speaker = &mut chat.tabs[0].connection;
            speaker.say(&greeting(&chat.name)).await.with_context(|| chat.name.clone())?;
        }
        round.listen().await?;
        Ok(round)
    }

    async fn open(lab: &Lab, to: SocketAddr, options: &Options) -> Result<Self> {
        let mut opening = JoinSet::new();
        let (chats, tabs) = (usize::from(options.chats), usize::from(options.tabs));
        // Tab after tab, not chat after chat: as when several people open the same chats.
        for (tab, chat) in (0..tabs).flat_map(|tab| (0..chats).map(move |chat| (tab, chat))) {
            let stream = lab.client.connect(to).with_context(|| format!("connecting to {to}"))?;
            opening.spawn(async move {
                let name = chat_name(chat);
                let tab =
                    (chat, tab, client::Tab::from_stream(stream, &to.to_string(), &name).await?);
                anyhow::Ok(tab)
            });
        }
        let mut opened = Vec::with_capacity(chats * tabs);
        while let Some(tab) = opening.join_next().await {
            opened.push(tab??);
        }
        opened.sort_by_key(|(chat, tab, _)| (*chat, *tab));
        let mut round = Self { chats: Vec::with_capacity(chats) };
        for (chat, _, connection) in opened {
            if round.chats.len() == chat {
                round.chats.push(Chat { name: chat_name(chat), tabs: Vec::with_capacity(tabs) });
            }
            round.chats[chat].tabs.push(Tab { connection, heard: false });
        }
        Ok(round)
    }

    async fn listen(&mut self) -> Result<()> {
        let mut listening = FuturesUnordered::new();
        // Those who share a replica with the speaker will hear it, however long that takes.
        let mut sure: usize = self.chats.iter().map(Chat::beside_the_speaker).sum();
        for Chat { name, tabs } in &mut self.chats {
            let text = greeting(name);
            for Tab { connection, heard } in tabs {
                let text = text.clone();
                listening.push(async move {
                    *heard = connection.hears(&text, LISTEN).await?;
                    anyhow::Ok(())
                });
            }
        }
        while let Ok(Some(heard)) =
            timeout(if sure > 0 { LISTEN } else { QUIET }, listening.next()).await
        {
            heard?;
            sure = sure.saturating_sub(1);
        }
        Ok(())
    }

    /// The round in numbers.
    pub fn totals(&self) -> Totals {
        Totals {
            chats: self.chats.len(),
            whole: self.chats.iter().filter(|chat| chat.whole()).count(),
            tabs: self.chats.iter().map(|chat| chat.tabs.len()).sum(),
            reached: self.chats.iter().map(Chat::reached).sum(),
        }
    }

    /// Closes all tabs.
    pub(super) async fn close(self) -> Result<()> {
        let mut closing = JoinSet::new();
        for tab in self.chats.into_iter().flat_map(|chat| chat.tabs) {
            closing.spawn(tab.connection.close());
        }
        while let Some(closed) = closing.join_next().await {
            closed??;
        }
        Ok(())
    }
}

fn greeting(chat: &str) -> String {
    format!("is everybody in the {chat}?")
}

fn chat_name(n: usize) -> String {
    match (NAMES[n % NAMES.len()], n / NAMES.len()) {
        (name, 0) => name.to_owned(),
        (name, round) => format!("{name}-{}", round + 1),
    }
}
