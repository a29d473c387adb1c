//! The validated model.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::{
    links::LinkPattern, pool::Kubernetes, prefix::Prefix, shares::Shares, source::KeySource,
};

/// A whole configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Client-facing interfaces.
    pub interfaces: Vec<String>,
    /// Links of this machine at whose other ends are clients.
    pub client_links: Vec<LinkPattern>,
    /// Whether processes of this machine itself are clients.
    pub host_clients: bool,
    /// Map sizes.
    pub limits: Limits,
    /// How they are shared.
    pub shares: Shares,
    /// Where the keys come from.
    pub secrets: SecretFiles,
    /// What is only for a daemon that follows a cluster.
    pub kubernetes: Kubernetes,
    /// The services, in the order of the file.
    pub services: Vec<Service>,
}

pub use router_ebpf::schema::Limits;

/// Files of 32 hex digits; without one the key is random and kept in the pinned map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFiles {
    /// Key of the SYN cookies.
    pub handshake_file: Option<PathBuf>,
    /// Key under which chat keys are hashed.
    pub chat_file: Option<PathBuf>,
}

/// A virtual address and port, and how its connections are placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Addresses or prefixes that Roost answers for.
    pub addresses: Vec<Prefix>,
    /// TCP port.
    pub port: u16,
    /// Further addresses, each with a port of its own: the node port of a Kubernetes Service. The
    /// file has none.
    pub other_vips: Vec<(Prefix, u16)>,
    /// From where clients may connect; `None`: from anywhere.
    pub allowed_sources: Option<Vec<Prefix>>,
    /// From where what comes begins with the PROXY protocol; empty: from nowhere.
    pub proxy_protocol_from: Vec<Prefix>,
    /// How connections are placed.
    pub policy: Policy,
    /// Where the chat's name comes from: the first that yields one counts.
    pub keys: Vec<KeySource>,
    /// What happens to a connection without a key.
    pub on_missing_key: OnMissing,
    /// What happens to a request for another chat on a connection that is used again.
    pub on_reuse: OnReuse,
    /// How many parts each chat has, each with a home of its own.
    pub width: u16,
    /// Silence after which a connection is ended.
    pub idle_timeout: Duration,
    /// How long a replica may take to accept.
    pub handshake_timeout: Duration,
    /// Silence of a client after which a connection is ended that it has closed.
    pub client_closed_timeout: Duration,
    /// The same for one that its replica has closed.
    pub replica_closed_timeout: Duration,
    /// The same for one that both have closed.
    pub closing_timeout: Duration,
    /// How long a chat holds its home after its last connection has ended.
    pub linger: Duration,
    /// MSS instead of the one that the paths' MTUs give.
    pub mss: Option<u16>,
    /// Where connections go.
    pub replicas: Vec<Replica>,
}

/// How connections are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any connection to any replica.
    Spread,
    /// All connections of a chat to one replica.
    Home,
}

/// What happens to a connection without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// It goes to any replica.
    Spread,
    /// It is reset.
    Reject,
    /// It goes to this replica.
    Replica(String),
}

/// What happens to a request for another chat on a connection that is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReuse {
    /// It goes where the connection is.
    Stay,
    /// The connection is reset before it is delivered.
    Reset,
    /// The connection is bound again, to the replica of that chat.
    Rebind,
}

/// A backend endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its identity.
    pub name: String,
    /// Where it listens: an address of each family that the service's clients have.
    pub addresses: Vec<IpAddr>,
    /// TCP port.
    pub port: u16,
    /// Its share of the slots, 1 to 100.
    pub weight: u32,
    /// Whether it takes new chats.
    pub state: State,
}

/// Whether a replica takes new chats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Ready,
    /// It keeps its live chats only, and takes new ones when no replica is ready.
    Draining,
    /// It keeps its live chats only, whatever becomes of the others. The file has none.
    Unready,
}

impl Service {
    /// All that Roost answers for.
    pub fn vips(&self) -> impl Iterator<Item = (Prefix, u16)> {
        let own = self.addresses.iter().map(|prefix| (*prefix, self.port));
        own.chain(self.other_vips.iter().copied())
    }
}
