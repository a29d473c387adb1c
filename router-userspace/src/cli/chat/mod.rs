//! `roost chat`: which keys belong to one chat, and where a chat lives. Fills `CHAT_COOKIES`.

mod live;
mod plan;

use anyhow::{Result, bail};
use clap::Subcommand;
use router_ebpf::maps::{ChatCookie, ChatKey, NO_REPLICA, POLICY_HOME, REPLICA_GONE, Service};
use serde::Serialize;

use self::{
    live::MOST_PARTS,
    plan::{Change, Edit, Named, plan},
};
use super::{output::Report, table::Table};
use crate::{
    maps::{read, tables::Tables},
    view::{
        key::{self, Form, Written},
        names::{self, Names},
        text::{self, NONE},
    },
};

/// What to do with chats.
#[derive(Debug, Subcommand)]
pub enum ChatCommand {
    /// Let KEY belong to the chat CHAT, so that its connections go where that chat is
    Bind {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The key that joins: text, an IP address, or `client:port,vip:port`
        #[arg(value_name = "KEY")]
        key: String,
        /// The chat that it joins: one of its keys, or any text
        #[arg(long, value_name = "CHAT")]
        chat: String,
        /// How keys are written.
        #[command(flatten)]
        form: Form,
    },
    /// Let KEY be a chat of its own again
    Unbind {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The key that leaves its chat
        #[arg(value_name = "KEY")]
        key: String,
        /// How keys are written.
        #[command(flatten)]
        form: Form,
    },
    /// Let CHAT live on the replica REPLICA as soon as it has no live flow elsewhere
    Pin {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The chat: one of its keys, or any text
        #[arg(value_name = "CHAT")]
        chat: String,
        /// The name of the replica
        #[arg(long, value_name = "REPLICA")]
        replica: String,
        /// How keys are written.
        #[command(flatten)]
        form: Form,
    },
    /// Let CHAT live where its slot is
    Unpin {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The chat: one of its keys, or any text
        #[arg(value_name = "CHAT")]
        chat: String,
        /// How keys are written.
        #[command(flatten)]
        form: Form,
    },
    /// Spread CHAT, which is too large for one replica, over N of them
    Width {
        /// The service
        #[arg(value_name = "SERVICE")]
        service: String,
        /// The chat: one of its keys, or any text
        #[arg(value_name = "CHAT")]
        chat: String,
        /// How many parts it has; 1 puts it together again
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_PARTS.into()))]
        width: u32,
        /// How keys are written.
        #[command(flatten)]
        form: Form,
    },
    /// List what was bound, pinned and spread
    List {
        /// List those of the service named SERVICE only
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
    },
}

/// An entry of `CHAT_COOKIES`. JSON: an array of these.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BoundLine {
    /// The service.
    pub service: String,
    /// The chat: the key itself, or the one that it is bound to.
    pub chat: String,
    /// The key.
    pub key: String,
    /// The replica that the chat is pinned to, or null.
    pub replica: Option<String>,
    /// How many parts the chat has.
    pub width: u32,
    /// The cookie of the chat.
    pub cookie: String,
    /// The number of the service in the maps.
    pub service_number: u32,
}

impl BoundLine {
    fn new(names: &Names, at: &ChatKey, entry: &ChatCookie) -> Self {
        let key = names.key(at.service, &entry.key);
        let is_own = entry.cookie == at.cookie;
        Self {
            service: names.service(at.service),
            chat: if is_own { key.clone() } else { names.key(at.service, &entry.chat) },
            key,
            replica: (entry.replica != NO_REPLICA).then(|| names.replica(entry.replica)),
            width: match names.services.get(&at.service) {
                Some(service) if entry.width == 0 => u32::from(service.width).max(1),
                _ => entry.width.max(1),
            },
            cookie: text::hex(entry.cookie),
            service_number: at.service,
        }
    }
}

/// What `roost chat list` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct BoundReport(Vec<BoundLine>);

/// Reads what was bound, pinned and spread.
pub fn list(tables: &Tables, service: Option<&str>) -> Result<BoundReport> {
    let names = Names::read(tables)?;
    names.check(service)?;
    let entries = read::sorted(&tables.chat_cookies)?;
    let lines = entries.iter().map(|(at, entry)| BoundLine::new(&names, at, entry));
    let asked = |line: &BoundLine| service.is_none_or(|service| line.service == service);
    let mut lines: Vec<BoundLine> = lines.filter(asked).collect();
    lines.sort();
    Ok(BoundReport(lines))
}

impl Report for BoundReport {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "no chat is bound, pinned or spread\n".to_owned();
        }
        let columns = ["service", "chat", "key", "pinned to", ">width", "cookie"];
        let mut table = Table::new(columns);
        for line in &self.0 {
            table.row([
                line.service.as_str().into(),
                line.chat.as_str().into(),
                line.key.as_str().into(),
                line.replica.as_deref().unwrap_or(NONE).into(),
                line.width.into(),
                line.cookie.as_str().into(),
            ]);
        }
        table.to_string()
    }
}

/// What a change did: the entry that was set or removed. JSON: this object.
#[derive(Debug, Serialize)]
pub struct ChangeReport {
    /// Whether the entry was removed.
    pub removed: bool,
    /// The hash of the key whose entry it is.
    pub key_hash: String,
    /// The number of the service in the maps.
    pub service_number: u32,
    /// The entry that was set; null if it was removed.
    pub entry: Option<BoundLine>,
    /// What else should be known.
    pub notes: Vec<String>,
}

impl Report for ChangeReport {
    fn text(&self) -> String {
        let done = if self.removed { "removed" } else { "set" };
        let notes = self.notes.iter().map(|note| format!("note: {note}\n"));
        format!("{done} an entry of CHAT_COOKIES\n{}", notes.collect::<String>())
    }
}

/// Makes a change.
pub fn change(tables: &mut Tables, command: &ChatCommand) -> Result<ChangeReport> {
    let names = Names::read(tables)?;
    let entries = read::sorted(&tables.chat_cookies)?;
    let secret = tables.secrets.get(0)?.chat;
    let (number, service) = service_of(tables, &names, command)?;
    let named = |written: Written| Named { hash: written.hash(&secret), name: written.name() };
    let change = requested(&names, number, &service, command, named)?;
    let of_service = u32::from(service.width).max(1);
    let edit = plan(&entries, number, of_service, &change, |name| names.key(number, name))?;
    let notes = live::elsewhere(tables, &names, number, &secret, &change)?;
    let map = &mut tables.chat_cookies;
    let (at, entry) = match edit {
        Edit::Put(at, entry) => {
            map.set(&at, &entry)?;
            (at, Some(BoundLine::new(&names, &at, &entry)))
        }
        Edit::Remove(at) => {
            map.remove(&at)?;
            (at, None)
        }
    };
    Ok(ChangeReport {
        removed: entry.is_none(),
        key_hash: text::hex(at.cookie),
        service_number: at.service,
        entry,
        notes: notes.into_iter().collect(),
    })
}

/// The service that a command is about: it has chats, and an address of its key's family.
fn service_of(tables: &Tables, names: &Names, command: &ChatCommand) -> Result<(u32, Service)> {
    let (name, keyed) = match command {
        ChatCommand::Bind { service, key, form, .. }
        | ChatCommand::Unbind { service, key, form } => (service, Some((key, *form))),
        ChatCommand::Pin { service, .. }
        | ChatCommand::Unpin { service, .. }
        | ChatCommand::Width { service, .. } => (service, None),
        ChatCommand::List { .. } => bail!("`list` changes nothing"),
    };
    let (number, service) = names.find(name)?;
    if service.policy != POLICY_HOME {
        let policy = names::policy(service.policy);
        bail!("service `{name}` has policy `{policy}`: only `home` has chats");
    }
    let written = keyed.map(|(key, form)| key::parse(&service, key, form)).transpose()?;
    if let Some(family) = written.and_then(|written| written.family) {
        read::check_family(tables, name, number, family)?;
    }
    Ok((number, service))
}

fn requested(
    names: &Names,
    number: u32,
    service: &Service,
    command: &ChatCommand,
    named: impl Fn(Written) -> Named,
) -> Result<Change> {
    let key =
        |text: &str, form: &Form| Ok::<_, anyhow::Error>(named(key::parse(service, text, *form)?));
    let chat = |text: &str, form: &Form| {
        Ok::<_, anyhow::Error>(named(key::parse_chat(service, text, *form)?))
    };
    Ok(match command {
        ChatCommand::Bind { key: own, chat: of, form, .. } => {
            Change::Bind { key: key(own, form)?, chat: chat(of, form)? }
        }
        ChatCommand::Unbind { key: own, form, .. } => Change::Unbind { key: key(own, form)? },
        ChatCommand::Pin { chat: of, replica, form, .. } => {
            Change::Pin { chat: chat(of, form)?, replica: replica_number(names, number, replica)? }
        }
        ChatCommand::Unpin { chat: of, form, .. } => Change::Unpin { chat: chat(of, form)? },
        ChatCommand::Width { chat: of, width, form, .. } => {
            Change::Width { chat: chat(of, form)?, width: *width }
        }
        ChatCommand::List { .. } => bail!("`list` changes nothing"),
    })
}

fn replica_number(names: &Names, service: u32, wanted: &str) -> Result<u32> {
    let of_service = |replica: &router_ebpf::maps::Replica| {
        replica.service == service && replica.state != REPLICA_GONE
    };
    let mut known = Vec::new();
    for (number, replica) in names.replicas.iter().filter(|(_, replica)| of_service(replica)) {
        let name = text::name(&replica.name);
        if name == wanted {
            return Ok(*number);
        }
        known.push(name);
    }
    let (service, known) = (names.service(service), known.join(", "));
    bail!("service `{service}` has no replica `{wanted}`; it has: {known}")
}
