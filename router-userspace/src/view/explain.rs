//! Where a connection would go and why, by the same code as the kernel program.

mod copies;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use router_ebpf::{
    ingress::is_listed,
    key::Reason,
    maps::{Addr, Chat, NO_REPLICA, POLICY_HOME, PROXIES, Service, SourceKey, SourceRange, Tuple},
    source::{KeyKind, Origin, Shape},
    steer::{NoRoute, Route, Why, chat_key, steer, tuple_hash},
};
use serde::Serialize;

use self::copies::Copies;
use crate::{
    maps::{
        key::{self, Form, Written},
        names::{self, Names},
        read,
        tables::Tables,
        text,
    },
    plan::{
        addr::{Family, from_map, of_replica},
        config::KeySource,
    },
    view::search::{Outcome, reason_word, search, search_proxied},
};

/// The way of a connection, step by step. What `roost explain` prints. JSON: this object.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// The service.
    pub service: String,
    /// Its number in the maps.
    pub service_number: u32,
    /// `spread` or `home`.
    pub policy: String,
    /// Where the key comes from: the first that yields one.
    pub key_sources: Vec<String>,
    /// The client's address that a proxy names, by the PROXY protocol; null if none does.
    pub client: Option<String>,
    /// The key source that yields it; null if none does, or if any of several may.
    pub key_source: Option<String>,
    /// The key; null for a connection without one.
    pub key: Option<String>,
    /// Why its first bytes have no key: `unreadable`, `absent`, `empty` or `too_long`, as the
    /// counters `missing_*`; null if they have one, or if they are not known.
    pub missing: Option<&'static str>,
    /// The hash of the key, or of the 4-tuple without one; null if no replica was looked for.
    pub key_hash: Option<String>,
    /// What CHAT_COOKIES says about the key and its chat; null if nothing.
    pub overridden: Option<Overridden>,
    /// How many parts the chat has; the cookie, the live home and the slot are those of one.
    pub width: u32,
    /// The cookie that stands for the chat.
    pub cookie: Option<String>,
    /// The chat's entry in CHATS; null if it has none, or if its policy is `spread`.
    pub chat: Option<Live>,
    /// The slot, and the replica that it belongs to.
    pub slot: Option<u32>,
    /// The replica that the slot table gives.
    pub slot_replica: Option<String>,
    /// The replica that the connection goes to; null if it is reset.
    pub replica: Option<String>,
    /// Where that replica listens: at an address for each family, unless the connection's is known.
    pub replica_addresses: Vec<String>,
    /// `slot`, `pinned`, `live_home`, `missing_key`; or of a reset `rejected`, `no_replica`; or
    /// `incomplete` if more bytes have to come; or `source` if its client may not connect.
    pub why: &'static str,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// What `CHAT_COOKIES` says.
#[derive(Debug, Serialize)]
pub struct Overridden {
    /// The chat that the key is bound to; null if it is a chat of its own.
    pub chat: Option<String>,
    /// The replica that the chat is pinned to.
    pub pinned_to: Option<String>,
    /// How many parts the chat is to have; null: as the service says.
    pub width: Option<u32>,
}

/// What `CHATS` says.
#[derive(Debug, Serialize)]
pub struct Live {
    /// The replica where the chat is.
    pub home: String,
    /// Its live flows.
    pub flows: u32,
    /// Milliseconds since a connection of it ended; null if none did.
    pub ended_ms: Option<u64>,
}

/// What is given of a connection, beside its ends.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// Its first bytes, as they come to Roost.
    Bytes(&'a [u8]),
    /// The first bytes of its client, which may come behind those of a proxy.
    Head(&'a [u8]),
    /// Its key, as people write it.
    Key(&'a str, Form),
    /// An address that is its key.
    Address(IpAddr),
    /// Nothing: its ends have to do.
    Ends,
}

/// Explains a connection to the service of this name, with the ends `client:port,vip:port` if they
/// are known.
pub fn explain(
    tables: &Tables,
    names: &Names,
    service_name: &str,
    ends: Option<&str>,
    given: Given<'_>,
) -> Result<Explained> {
    let tuple = ends.map(key::parse_tuple).transpose()?;
    let (number, service) = names.find(service_name)?;
    let copies = Copies::read(tables, names, &service)?;
    let from_proxy = tuple.is_some_and(|(tuple, _)| {
        service.proxied != 0 && is_in(&copies, number | PROXIES, &tuple.client)
    });
    let (known, client) = known(&service, given, tuple.as_ref(), from_proxy)?;
    let family = tuple.map(|(_, family)| family).or(known.key().and_then(|key| key.family));
    if let Some(family) = family {
        read::check_family(tables, service_name, number, family)?;
    }
    let tuple = tuple.map(|(tuple, _)| tuple);
    let connection = Connection { number, service: &service, known: &known, client, tuple, family };
    let explained = connection.explain(&copies, names);
    copies.check()?;
    Ok(explained)
}

fn is_in(copies: &Copies<'_>, list: u32, addr: &Addr) -> bool {
    let range = SourceRange { list: [0; 4], addr: [0; 16] };
    is_listed(copies, list, addr, &mut SourceKey { prefix_len: 0, range })
}

/// What is known of a connection's key.
enum Known {
    /// It, and the key source that yields it, unless any of several may.
    Key { key: Written, source: Option<KeySource> },
    /// It has none; why, if its bytes are known.
    Nothing(Option<Reason>),
    /// More bytes have to come.
    Incomplete,
}

impl Known {
    fn key(&self) -> Option<&Written> {
        match self {
            Self::Key { key, .. } => Some(key),
            _ => None,
        }
    }
}

/// The key that a connection has by its first bytes, and the client's address that a proxy names there.
fn searched(
    service: &Service,
    tuple: Option<&(Tuple, Family)>,
    bytes: &[u8],
    from_proxy: bool,
) -> Result<(Known, Option<Addr>)> {
    let ends = tuple.map_or_else(Tuple::default, |(tuple, _)| *tuple);
    let (outcome, client) = match from_proxy {
        true => search_proxied(service, &ends, bytes),
        false => (search(service, &ends, bytes), None),
    };
    let known = match outcome {
        Outcome::Found { source, .. } if source.always_yields() && tuple.is_none() => {
            bail!("the first bytes have no key, so it is taken from `{source}`: give --tuple too")
        }
        Outcome::Found { source, key } => {
            let family = tuple.map(|(_, family)| *family).filter(|_| source.always_yields());
            Known::Key { key: Written { bytes: key, family }, source: Some(source) }
        }
        Outcome::Missing(reason) => Known::Nothing(Some(reason)),
        Outcome::More => Known::Incomplete,
    };
    Ok((known, client))
}

/// What is known of the key by what is given, and the client's address that a proxy names.
fn known(
    service: &Service,
    given: Given<'_>,
    tuple: Option<&(Tuple, Family)>,
    from_proxy: bool,
) -> Result<(Known, Option<Addr>)> {
    let known = match given {
        Given::Bytes(bytes) => return searched(service, tuple, bytes, from_proxy),
        Given::Head(bytes) => searched(service, tuple, bytes, false).map(|(known, _)| known),
        Given::Key(text, form) => key::parse(service, text, form).map(|key| of_key(service, key)),
        Given::Address(address) => {
            let source = names::addresses(service);
            if !source.is_some_and(|source| source.shape() == Shape::Address) {
                let sources = names::key_sources(service).join(", ");
                bail!("the key source is `{sources}`: an address is no key, use --key or --tuple");
            }
            let key = key::parse(service, &address.to_string(), Form::default());
            key.map(|key| of_key(service, key))
        }
        Given::Ends => of_ends(service, tuple),
    }?;
    // Whom it names is known from its first bytes alone.
    if from_proxy
        && let Known::Key { source: Some(source), .. } = &known
        && source.kind() == Some(KeyKind::Client)
        && !matches!(given, Given::Key(..) | Given::Address(_))
    {
        bail!(
            "it comes from where `proxy_protocol_from` says, and what is sent there names its client: give \
             --request with its first bytes, or --address with the client's address"
        );
    }
    Ok((known, None))
}

/// A key, and the source that it is of, if there is one only that it can be of.
fn of_key(service: &Service, key: Written) -> Known {
    let is_address = key.family.is_some();
    let mut sources = KeySource::of_service(service);
    let mut fits = sources.by_ref().filter(|source| source.always_yields() == is_address);
    let source = fits.next();
    Known::Key { key, source: source.filter(|_| fits.next().is_none()) }
}

/// The key that follows from the connection's ends.
fn of_ends(service: &Service, tuple: Option<&(Tuple, Family)>) -> Result<Known> {
    let (tuple, _) = tuple.context("there is no connection to explain")?;
    let Some(kind) = names::addresses(service).and_then(KeySource::kind) else {
        return Ok(Known::Nothing(None));
    };
    let key = match kind.origin() {
        Origin::Client => from_map(tuple.client).to_string(),
        Origin::Destination => from_map(tuple.server).to_string(),
        Origin::Tuple => format!("{},{}", text::client(tuple), text::server(tuple)),
        Origin::Http | Origin::Tls => return Ok(Known::Nothing(None)),
    };
    key::parse(service, &key, Form::default()).map(|key| of_key(service, key))
}

struct Connection<'a> {
    number: u32,
    service: &'a Service,
    known: &'a Known,
    /// Whom a proxy names.
    client: Option<Addr>,
    tuple: Option<Tuple>,
    /// Of both its ends, if it is known.
    family: Option<Family>,
}

impl Connection<'_> {
    fn explain(&self, copies: &Copies<'_>, names: &Names) -> Explained {
        let secret = copies.secrets.chat;
        let key = self.known.key();
        let key_hash = key.map(|key| key.hash(&secret));
        let (source, missing) = match self.known {
            Known::Key { source, .. } => (*source, None),
            Known::Nothing(reason) => (None, reason.map(reason_word)),
            Known::Incomplete => (None, None),
        };
        let tuple = self.tuple.unwrap_or_default();
        let mut route = Route::NONE;
        let (number, service) = (self.number, self.service);
        let overridden = key_hash.and_then(|hash| self.overridden(copies, names, hash));
        let mut explained = Explained {
            service: names.service(self.number),
            service_number: self.number,
            policy: names::policy(self.service.policy),
            key_sources: names::key_sources(self.service),
            client: self.client.map(|addr| from_map(addr).to_string()),
            key_source: source.map(|source| source.to_string()),
            key: key.map(|key| match source {
                Some(source) => text::key(source.shape(), &key.name()),
                None => names.key(self.number, &key.name()),
            }),
            missing,
            key_hash: key_hash.map(text::hex),
            notes: self.notes(overridden.as_ref()),
            width: self.width(overridden.as_ref()),
            overridden,
            cookie: None,
            chat: None,
            slot: None,
            slot_replica: None,
            replica: None,
            replica_addresses: Vec::new(),
            why: "no_replica",
        };
        if self.is_refused(copies) {
            explained.why = "source";
            return explained;
        }
        if matches!(self.known, Known::Incomplete) {
            explained.why = "incomplete";
            return explained;
        }
        let tuple_hash = tuple_hash(&secret, &tuple);
        match steer(copies, number, service, tuple_hash, key_hash, &secret, &mut route) {
            Ok(()) => self.follow(&mut explained, copies, names, &route),
            Err(NoRoute::MissingKey) => explained.why = "rejected",
            Err(NoRoute::NoReplica) => {}
        }
        explained
    }

    /// Whether the service's `allowed_sources` are known to keep its client out.
    fn is_refused(&self, copies: &Copies<'_>) -> bool {
        self.service.restricted != 0
            && self.tuple.is_some_and(|tuple| !is_in(copies, self.number, &tuple.client))
    }

    fn follow(&self, to: &mut Explained, copies: &Copies<'_>, names: &Names, route: &Route) {
        to.key_hash = Some(text::hex(route.key_hash));
        to.cookie = Some(text::hex(route.cookie));
        to.width = route.width;
        if route.why != Why::MissingKey {
            to.slot = Some(route.slot);
        }
        if route.slot_replica != NO_REPLICA {
            to.slot_replica = Some(names.replica(route.slot_replica));
        }
        if route.chat != 0
            && let Some(chat) = copies.live(&chat_key(self.number, route.cookie))
        {
            to.chat = Some(Live {
                home: names.replica(Chat::home(chat.state)),
                flows: Chat::flows(chat.state),
                ended_ms: read::ms_since_some(copies.now, chat.ended_at),
            });
        }
        to.replica = Some(names.replica(route.replica));
        if let Some(replica) = names.replicas.get(&route.replica) {
            let meant =
                |addr: &IpAddr| self.family.is_none_or(|family| Family::of(*addr) == family);
            let port = u16::from_be_bytes(replica.port);
            let listens = of_replica(replica).filter(meant);
            to.replica_addresses =
                listens.map(|addr| SocketAddr::new(addr, port).to_string()).collect();
        }
        to.why = match route.why {
            Why::Slot => "slot",
            Why::Pinned => "pinned",
            Why::LiveHome => "live_home",
            Why::MissingKey => "missing_key",
        };
    }

    fn overridden(&self, copies: &Copies<'_>, names: &Names, hash: u64) -> Option<Overridden> {
        let own = copies.registered(&chat_key(self.number, hash))?;
        let bound = own.cookie != hash;
        let of_chat = copies.registered(&chat_key(self.number, own.cookie));
        let pinned = of_chat.map_or(NO_REPLICA, |entry| entry.replica);
        Some(Overridden {
            chat: bound.then(|| names.key(self.number, &own.chat)),
            pinned_to: (pinned != NO_REPLICA).then(|| names.replica(pinned)),
            width: of_chat.map(|entry| entry.width).filter(|width| *width > 0),
        })
    }

    /// How many parts the chat has.
    fn width(&self, overridden: Option<&Overridden>) -> u32 {
        let own = overridden.and_then(|overridden| overridden.width);
        let of_service = u32::from(self.service.width).max(1);
        if self.service.policy == POLICY_HOME { own.unwrap_or(of_service) } else { 1 }
    }

    fn notes(&self, overridden: Option<&Overridden>) -> Vec<String> {
        let mut notes = Vec::new();
        if self.service.policy != POLICY_HOME {
            notes.push("by the policy the 4-tuple decides, and not the key".to_owned());
        }
        if self.service.restricted != 0 && self.tuple.is_none() {
            notes
                .push("not anybody may connect: give --tuple too to see whether it may".to_owned());
        }
        if self.service.proxied != 0 && self.tuple.is_none() {
            notes.push(
                "some send the PROXY protocol first: give --tuple too with the address of one to have it read"
                    .to_owned(),
            );
        }
        let by_tuple = self.service.policy != POLICY_HOME || self.width(overridden) > 1;
        let by_tuple = by_tuple || matches!(self.known, Known::Nothing(_));
        if self.tuple.is_none() && by_tuple {
            notes.push("the replica depends on the connection: give --tuple too".to_owned());
        }
        notes
    }
}
