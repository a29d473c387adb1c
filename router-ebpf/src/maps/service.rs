//! Services and replicas: what userspace tells the kernel.

pub use roost_place::cookie::SLOT_COUNT;

use super::{Addr, NO_REPLICA, Name, Port};
use crate::source::{self, KeyKind};

/// Room of one slot table in `SLOTS`: the power of two above [`SLOT_COUNT`].
pub const SLOT_STRIDE: u32 = 16384;
/// Bytes of a key source's text: a name, a compiled path, a suffix.
pub const SOURCE_TEXT_LEN: usize = 64;
/// Key sources of a service at the most.
pub const SOURCES: usize = 4;
/// `Service::linger` unless the configuration says otherwise, in seconds.
pub const LINGER: u32 = 30;
/// `Service::handshake_timeout` unless the configuration says otherwise, in seconds: as conntrack has it for
/// a SYN (nf_conntrack_proto_tcp.c).
pub const HANDSHAKE_TIMEOUT: u32 = 120;
/// `Service::client_closed_timeout` unless the configuration says otherwise, in seconds.
pub const CLIENT_CLOSED_TIMEOUT: u32 = 120;
/// `Service::replica_closed_timeout` unless the configuration says otherwise, in seconds.
pub const REPLICA_CLOSED_TIMEOUT: u32 = 120;
/// `Service::closing_timeout` unless the configuration says otherwise, in seconds.
pub const CLOSING_TIMEOUT: u32 = 60;
/// Connections of a chat go to any replica.
pub const POLICY_SPREAD: u8 = 0;
/// Connections of a chat go to one replica.
pub const POLICY_HOME: u8 = 1;
/// A connection without a key goes to any replica.
pub const MISSING_SPREAD: u8 = 0;
/// A connection without a key is reset.
pub const MISSING_REJECT: u8 = 1;
/// A connection without a key goes to `Service::missing_replica`.
pub const MISSING_REPLICA: u8 = 2;
/// A connection that is used again stays where its first request belonged.
pub const REUSE_STAY: u8 = 0;
/// It is ended at both ends before a request for another chat is delivered.
pub const REUSE_RESET: u8 = 1;
/// It is bound again, to the replica of that chat.
pub const REUSE_REBIND: u8 = 2;
/// Prefixes of a list of a service in `SOURCE_RANGES` at the most. There is room for as many again, which come
/// before those of before go.
pub const SOURCES_OF_SERVICE: u32 = 256;
/// Takes new chats.
pub const REPLICA_READY: u8 = 1;
/// Keeps its live chats, takes no new ones while another replica is ready.
pub const REPLICA_DRAINING: u8 = 2;
/// Not there any more: its flows are reset, its chats find a new home.
pub const REPLICA_GONE: u8 = 3;

/// A service as the data path needs it. Replaced as a whole: the kernel sees the old one or the
/// new one, never a mix, and with it the old slot table or the new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Digest of the slot table: equal on every node that has the same replicas.
    pub digest: u64,
    /// Where the published slot table begins in `SLOTS`, or [`NO_REPLICA`] without any replica.
    pub slots: u32,
    /// Counts the published tables of this service.
    pub generation: u32,
    /// Replicas that a new chat can go to; 0: every SYN gets an RST.
    pub usable: u32,
    /// The replica for connections without a key, with [`MISSING_REPLICA`].
    pub missing_replica: u32,
    /// Seconds without a segment after which a flow is ended.
    pub idle_timeout: u32,
    /// What we announce as MSS to IPv4 clients, and the most that replicas may send them.
    pub mss4: u16,
    /// What we announce as MSS to IPv6 clients, and the most that replicas may send them.
    pub mss6: u16,
    /// One of `POLICY_*`.
    pub policy: u8,
    /// One of `MISSING_*`.
    pub on_missing_key: u8,
    /// How many parts a chat has whose entry in `CHAT_COOKIES` does not say so; 0 and 1 are one.
    pub width: u16,
    /// Where the key comes from: the first that yields one counts. [`source::NONE`] ends the list.
    pub sources: [KeySource; SOURCES],
    /// The service's name.
    pub name: Name,
    /// Seconds for which a chat holds its home after its last flow has ended.
    pub linger: u32,
    /// 1: only clients may connect whose address `SOURCE_RANGES` has for this service. 0: anybody.
    pub restricted: u8,
    /// 1: `SOURCE_RANGES` has addresses that send the PROXY protocol to this service.
    pub proxied: u8,
    /// One of `REUSE_*`.
    pub on_reuse: u8,
    /// Counts the changes of how heads are read, modulo 256: of key sources, and of who sends the PROXY protocol.
    pub reading: u8,
    /// Seconds for which a replica may take to answer a SYN.
    pub handshake_timeout: u32,
    /// Seconds without a segment of the client after which a flow is ended whose client has sent a FIN.
    pub client_closed_timeout: u32,
    /// Seconds without a segment of the client after which a flow is ended whose replica has sent a FIN.
    pub replica_closed_timeout: u32,
    /// Seconds without a segment of the client after which a flow is ended of which both have.
    pub closing_timeout: u32,
}

impl Service {
    /// A service of the policy `home` without replicas, key sources or name.
    pub const EMPTY: Self = Self {
        digest: 0,
        slots: 0,
        generation: 0,
        usable: 0,
        missing_replica: NO_REPLICA,
        idle_timeout: 0,
        mss4: 0,
        mss6: 0,
        policy: POLICY_HOME,
        on_missing_key: MISSING_SPREAD,
        width: 1,
        sources: [KeySource::NONE; SOURCES],
        name: Name::EMPTY,
        linger: LINGER,
        restricted: 0,
        proxied: 0,
        on_reuse: REUSE_STAY,
        reading: 0,
        handshake_timeout: HANDSHAKE_TIMEOUT,
        client_closed_timeout: CLIENT_CLOSED_TIMEOUT,
        replica_closed_timeout: REPLICA_CLOSED_TIMEOUT,
        closing_timeout: CLOSING_TIMEOUT,
    };
}

/// Where a key comes from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySource {
    /// A [`KeyKind`], or [`source::NONE`].
    pub kind: u8,
    /// Length of `text`.
    pub len: u8,
    /// 1 if the key is a host name: its upper-case letters become lower-case.
    pub fold: u8,
    /// Always zero.
    pub reserved: u8,
    /// What it looks for; zero behind its end.
    pub text: [u8; SOURCE_TEXT_LEN],
}

impl KeySource {
    /// No source.
    pub const NONE: Self =
        Self { kind: source::NONE, len: 0, fold: 0, reserved: 0, text: [0; SOURCE_TEXT_LEN] };

    /// A source of this kind. `text` is at most [`SOURCE_TEXT_LEN`] bytes; what is more is cut.
    pub fn new(kind: KeyKind, text: &[u8]) -> Self {
        let fold = kind.is_host(text) as u8;
        let mut source = Self { kind: kind as u8, fold, ..Self::NONE };
        for (to, from) in source.text.iter_mut().zip(text) {
            *to = *from;
            source.len += 1;
        }
        source
    }

    /// Its kind; `None` at the end of a list, and for one that this version does not know.
    #[inline(always)]
    pub const fn kind(&self) -> Option<KeyKind> {
        KeyKind::from_map(self.kind)
    }

    /// The bytes it looks for.
    pub fn text(&self) -> &[u8] {
        &self.text[..(self.len as usize).min(SOURCE_TEXT_LEN)]
    }
}

/// A replica, with an address for each family of the service's VIPs: a chat with clients of both has
/// one home. The entry of a number never changes its addresses while a flow may use it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where IPv4 clients find it, mapped; zero if they do not.
    pub v4: Addr,
    /// Where IPv6 clients find it; zero if they do not.
    pub v6: Addr,
    /// The port it listens on.
    pub port: Port,
    /// One of `REPLICA_*`; 0: this number is free.
    pub state: u8,
    /// Always zero.
    pub reserved: u8,
    /// The service it belongs to.
    pub service: u32,
    /// Its share of the slots is `weight` over the sum of weights.
    pub weight: u32,
    /// Its identity.
    pub name: Name,
}
