//! What is said of chats by hand: which keys belong to one chat, and where a chat lives. Fills
//! `CHAT_COOKIES`.

mod live;
mod plan;

use anyhow::{Result, bail};
use router_ebpf::maps::{ChatCookie, ChatKey, POLICY_HOME, REPLICA_GONE, Service};

use self::plan::{Edit, Named, plan};
use super::{
    key::{self, Form, Written},
    names::{self, Names},
    read,
    tables::Tables,
    text,
};

pub use live::MOST_PARTS;

/// What is to be changed. Keys and chats are as people write them, replicas by their names.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The key shall belong to the chat.
    Bind {
        /// The key.
        key: &'a str,
        /// The chat.
        chat: &'a str,
    },
    /// The key shall be a chat of its own again.
    Unbind {
        /// The key.
        key: &'a str,
    },
    /// The chat shall live on this replica.
    Pin {
        /// The chat.
        chat: &'a str,
        /// The replica.
        replica: &'a str,
    },
    /// The chat shall live where its slot is.
    Unpin {
        /// The chat.
        chat: &'a str,
    },
    /// The chat shall be spread over so many replicas.
    Width {
        /// The chat.
        chat: &'a str,
        /// How many, [`MOST_PARTS`] at the most; 1 is a chat in one place.
        width: u32,
    },
}

impl Change<'_> {
    /// The key that it is about, if it is about one that is not a chat.
    fn key(&self) -> Option<&str> {
        match self {
            Self::Bind { key, .. } | Self::Unbind { key } => Some(key),
            Self::Pin { .. } | Self::Unpin { .. } | Self::Width { .. } => None,
        }
    }
}

/// The one entry of `CHAT_COOKIES` that was changed.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Its key.
    pub at: ChatKey,
    /// What it is now; `None` if it was removed.
    pub entry: Option<ChatCookie>,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// Makes a change for the service of this name. Refused is what makes no sense, and nothing is
/// written then.
pub fn change(
    tables: &mut Tables,
    names: &Names,
    service: &str,
    form: Form,
    change: &Change<'_>,
) -> Result<Changed> {
    let entries = read::sorted(&tables.chat_cookies)?;
    let secret = tables.secrets.get(0)?.chat;
    let (number, service) = service_of(tables, names, service, form, change)?;
    let named = |written: Written| Named { hash: written.hash(&secret), name: written.name() };
    let change = known(names, number, &service, form, change, named)?;
    let of_service = u32::from(service.width).max(1);
    let edit = plan(&entries, number, of_service, &change, |name| names.key(number, name))?;
    let notes = live::elsewhere(tables, names, number, &secret, &change)?;
    let map = &mut tables.chat_cookies;
    let (at, entry) = match edit {
        Edit::Put(at, entry) => {
            map.set(&at, &entry)?;
            (at, Some(entry))
        }
        Edit::Remove(at) => {
            map.remove(&at)?;
            (at, None)
        }
    };
    Ok(Changed { at, entry, notes: notes.into_iter().collect() })
}

/// The service that a change is about: it has chats, and an address of its key's family.
fn service_of(
    tables: &Tables,
    names: &Names,
    name: &str,
    form: Form,
    change: &Change<'_>,
) -> Result<(u32, Service)> {
    let (number, service) = names.find(name)?;
    if service.policy != POLICY_HOME {
        let policy = names::policy(service.policy);
        bail!("service `{name}` has policy `{policy}`: only `home` has chats");
    }
    let written = change.key().map(|key| key::parse(&service, key, form)).transpose()?;
    if let Some(family) = written.and_then(|written| written.family) {
        read::check_family(tables, name, number, family)?;
    }
    Ok((number, service))
}

/// The change in terms of the maps.
fn known(
    names: &Names,
    number: u32,
    service: &Service,
    form: Form,
    change: &Change<'_>,
    named: impl Fn(Written) -> Named,
) -> Result<plan::Change> {
    let key = |text: &str| key::parse(service, text, form).map(&named);
    let chat = |text: &str| key::parse_chat(service, text, form).map(&named);
    Ok(match *change {
        Change::Bind { key: own, chat: of } => {
            plan::Change::Bind { key: key(own)?, chat: chat(of)? }
        }
        Change::Unbind { key: own } => plan::Change::Unbind { key: key(own)? },
        Change::Pin { chat: of, replica } => {
            let chat = chat(of)?;
            plan::Change::Pin { chat, replica: replica_number(names, number, replica)? }
        }
        Change::Unpin { chat: of } => plan::Change::Unpin { chat: chat(of)? },
        Change::Width { chat: of, width } => plan::Change::Width { chat: chat(of)?, width },
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
