//! Rounds: open what is missing, say something in each chat, see whom it reaches.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use roost_chat::client::{self, Upgrade};
use roost_chat::tls::ClientTls;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Totals;
use crate::lab::Netns;

/// A message to another replica's tab that has not come in all this time after the last one will not come.
const QUIET: Duration = Duration::from_secs(1);
/// How long a tab listens at the most.
const LISTEN: Duration = Duration::from_secs(30);

const NAMES: [&str; 8] =
    ["lobby", "garden", "library", "kitchen", "workshop", "attic", "harbour", "observatory"];

/// Where a tab of each chat is, and by what it connects.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    /// What the table calls it.
    pub(super) title: String,
    pub(super) ns: Arc<Netns>,
    pub(super) to: SocketAddr,
    /// The name that is in its request.
    pub(super) host: String,
    pub(super) tls: Option<ClientTls>,
}

impl Seat {
    /// In plain text, straight to an address.
    pub(super) fn plain(title: impl Into<String>, ns: &Arc<Netns>, to: SocketAddr) -> Self {
        let (title, ns, host) = (title.into(), Arc::clone(ns), to.to_string());
        Self { title, ns, to, host, tls: None }
    }
}

/// The open tabs of all chats and what they have heard.
#[derive(Debug)]
pub struct Round {
    /// In the order in which they were opened.
    pub chats: Vec<Chat>,
    /// One for each tab of a chat.
    pub(super) seats: Vec<Seat>,
    /// Which tab of each chat has spoken last.
    pub(super) speaker: usize,
    questions: usize,
}

/// One chat.
#[derive(Debug)]
pub struct Chat {
    /// Its key.
    pub name: String,
    /// Its tabs, by seat.
    pub tabs: Vec<Tab>,
}

/// One tab.
#[derive(Debug)]
pub struct Tab {
    connection: client::Tab,
    /// Whether it has heard what was last said in its chat.
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

    fn beside(&self, speaker: usize) -> usize {
        self.tabs.iter().filter(|tab| tab.replica() == self.tabs[speaker].replica()).count()
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
    /// Without a chat.
    pub(super) fn new(seats: Vec<Seat>) -> Self {
        Self { chats: Vec::new(), seats, speaker: 0, questions: 0 }
    }

    /// Opens all tabs of some chats, lets the first one of each say something, and listens.
    pub(super) async fn play(seats: Vec<Seat>, chats: usize) -> Result<Self> {
        let mut round = Self::new(seats);
        round.open(chats).await?;
        round.ask(0).await?;
        Ok(round)
    }

    /// Opens so many chats more, and in all chats the tabs that they lack.
    pub(super) async fn open(&mut self, more: usize) -> Result<()> {
        let all = self.chats.len()..self.chats.len() + more;
        self.chats.extend(all.map(|n| Chat { name: chat_name(n), tabs: Vec::new() }));
        let mut opening = JoinSet::new();
        // Tab after tab, not chat after chat: as when several people open the same chats.
        for (n, seat) in self.seats.iter().enumerate() {
            let lacking = self.chats.iter().enumerate().filter(|(_, chat)| chat.tabs.len() <= n);
            for (chat, Chat { name, .. }) in lacking {
                let to = seat.to;
                let stream = seat.ns.connect(to).with_context(|| format!("connecting to {to}"))?;
                let request = Upgrade::chat(&seat.host, name).tls(seat.tls.clone());
                opening.spawn(async move {
                    anyhow::Ok((chat, n, client::Tab::upgrade(stream, &request).await?))
                });
            }
        }
        let mut opened = Vec::new();
        while let Some(tab) = opening.join_next().await {
            opened.push(tab??);
        }
        opened.sort_by_key(|(chat, n, _)| (*chat, *n));
        for (chat, _, connection) in opened {
            self.chats[chat].tabs.push(Tab { connection, heard: false });
        }
        Ok(())
    }

    /// Closes all tabs of each chat behind the first `kept` ones.
    pub(super) async fn leave(&mut self, kept: usize) -> Result<()> {
        close(self.chats.iter_mut().flat_map(|chat| chat.tabs.split_off(kept)).collect()).await
    }

    /// Lets one tab of each chat say something, and listens.
    pub(super) async fn ask(&mut self, speaker: usize) -> Result<()> {
        self.speaker = speaker;
        self.questions += 1;
        for Chat { name, tabs } in &mut self.chats {
            let text = question(name, self.questions);
            tabs[speaker].connection.say(&text).await.with_context(|| name.clone())?;
        }
        self.listen().await
    }

    async fn listen(&mut self) -> Result<()> {
        let mut listening = FuturesUnordered::new();
        // Those who share a replica with the speaker will hear it, however long that takes.
        let mut sure: usize = self.chats.iter().map(|chat| chat.beside(self.speaker)).sum();
        for Chat { name, tabs } in &mut self.chats {
            let text = question(name, self.questions);
            for Tab { connection, heard } in tabs {
                let text = text.clone();
                *heard = false;
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
        close(self.chats.into_iter().flat_map(|chat| chat.tabs).collect()).await
    }
}

async fn close(tabs: Vec<Tab>) -> Result<()> {
    let mut closing = JoinSet::new();
    for tab in tabs {
        closing.spawn(tab.connection.close());
    }
    while let Some(closed) = closing.join_next().await {
        closed??;
    }
    Ok(())
}

/// What is said in a chat for the nth time; never the same, since some may not have heard the one before.
fn question(chat: &str, n: usize) -> String {
    match n {
        1 => format!("is everybody in the {chat}?"),
        n => format!("is everybody still in the {chat}? ({n})"),
    }
}

fn chat_name(n: usize) -> String {
    match (NAMES[n % NAMES.len()], n / NAMES.len()) {
        (name, 0) => name.to_owned(),
        (name, round) => format!("{name}-{}", round + 1),
    }
}
