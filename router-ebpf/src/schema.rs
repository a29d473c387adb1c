//! The pinned maps, each declared once: [`schema!`](crate::schema!) is the only list of them.
//!
//! From it come the kernel's definitions (`hooks/maps.rs`), [`Map`] with everything that is asked of a
//! map by its name, the typed handles in userspace, and the table in ARCHITECTURE.md, which a test
//! compares. What is in keys and values is told in [`crate::maps`].
//!
//! To add one: a row here, what the pipeline does with it in [`crate::tables`] and `hooks/maps.rs`, how
//! `roost maps` shows it (router-userspace, `view/dump.rs`: it does not compile before), and a row of
//! ARCHITECTURE.md. To change one: its types in [`crate::maps`], its `version` here one higher, and a
//! step from the version before in router-userspace (`attach/loader/steps.rs`).

use crate::{
    maps::{
        Addr, CHUNKS_OF_HEAD, Chat, ChatCookie, ChatKey, Chunk, ChunkKey, Farewell, Flow, FlowBack,
        Host, HostConn, Link, Load, Mac, Mark, Name, Pending, Problem, Replica, Ring,
        SERVICE_SHARES, SLOT_STRIDE, SOURCES_OF_SERVICE, Secrets, Service, Share, Sharing,
        SourceRange, Stash, Tuple, Vip, Watched, WatchedChat,
    },
    verdict::Counter,
};

/// Calls a macro with the declaration of every pinned map.
///
/// A row is: name of variant, field, pin, then type with key and value, the version of what is in it,
/// its size in entries, and what key and value are, in words.
#[macro_export]
macro_rules! schema {
    ($with:ident) => {
        $with! {
            /// Where Roost answers. The key is the longest prefix that fits.
            Vips vips VIPS: LpmTrie<Vip, u32>, version 1,
                size(limits) = most(limits.services * 16, 1024),
                "port and address" => "service number";
            /// What the data path knows of a service.
            Services services SERVICES: HashMap<u32, Service>, version 3,
                size(limits) = limits.services,
                "service number" => "policy, key sources, slot table, MSS, linger, time-outs, name";
            /// From where clients may connect to services that not anybody may connect to, and from where what comes
            /// begins with the PROXY protocol. Of each list the longest prefix that fits counts.
            SourceRanges source_ranges SOURCE_RANGES: LpmTrie<SourceRange, u32>, version 1,
                size(limits) = limits.services * 2 * SOURCES_OF_SERVICE,
                "list of a service, and address" => "whether it is in the list";
            /// The replicas of all services.
            Replicas replicas REPLICAS: Array<u32, Replica>, version 1,
                size(limits) = limits.replicas,
                "replica number" => "addresses, port, state, weight, name";
            /// The slot tables, two places for each service.
            Slots slots SLOTS: Array<u32, u32>, version 1,
                size(limits) = limits.services * 2 * SLOT_STRIDE,
                "begin of a table + slot" => "replica number";
            /// What userspace has said about keys.
            ChatCookies chat_cookies CHAT_COOKIES: HashMap<ChatKey, ChatCookie>, version 1,
                size(limits) = limits.chats,
                "service, key hash" => "cookie, pin, width, readable keys";
            /// Chats with a home. Live ones are never evicted by newer ones: no LRU map.
            Chats chats CHATS: HashMap<ChatKey, Chat>, version 2,
                size(limits) = limits.chats,
                "service, cookie" => "home and number of flows, times, readable key";
            /// Connections that wait for their replica.
            Pending pending PENDING: LruHashMap<Tuple, Pending>, version 2,
                size(limits) = limits.pending,
                "client, replica" => "what the handshake needs until the replica answers";
            /// What is known of the first bytes of such connections.
            Stash stash STASH: HashMap<Tuple, Stash>, version 3,
                size(limits) = limits.stash,
                "client, VIP" => "which first bytes are there, where the search for the key is, replica";
            /// Those bytes.
            Chunks chunks CHUNKS: HashMap<ChunkKey, Chunk>, version 1,
                size(limits) = limits.stash.saturating_mul(CHUNKS_OF_HEAD),
                "client, VIP, which part" => "928 bytes behind the first ones";
            /// The heads in `STASH`, for the clock hand. Twice as many as there are, because one that is gone stays
            /// until its turn comes.
            HeadRing head_ring HEAD_RING: Queue<(), Watched>, version 1,
                size(limits) = limits.stash.saturating_mul(2),
                "" => "client, VIP, our initial sequence number, when looked at";
            /// Live connections, as the client sees them. Never evicted by newer ones: no LRU map.
            Flows flows FLOWS: HashMap<Tuple, Flow>, version 2,
                size(limits) = limits.flows,
                "client, VIP" => "replica, cookie, state, deltas";
            /// The same, as the replica sees them. One that is bound again has two for a moment.
            FlowsBack flows_back FLOWS_BACK: HashMap<Tuple, FlowBack>, version 2,
                size(limits) = limits.flows.saturating_add(64),
                "client, replica" => "VIP, window scales, deltas, where requests stand, handshake and numbers of the binding";
            /// Connections that are over, for their late segments, as the client sees them.
            Ended ended ENDED: LruHashMap<Tuple, Flow>, version 1,
                size(limits) = limits.ended,
                "client, VIP" => "as in FLOWS";
            /// The same, as the replica sees them.
            EndedBack ended_back ENDED_BACK: LruHashMap<Tuple, FlowBack>, version 2,
                size(limits) = limits.ended,
                "client, replica" => "as in FLOWS_BACK";
            /// The flows, for the clock hand: the first one is looked at next. Twice as many as there are flows,
            /// because one that has ended stays until its turn comes.
            FlowRing flow_ring FLOW_RING: Queue<(), Watched>, version 1,
                size(limits) = limits.flows.saturating_mul(2),
                "" => "client, VIP, our initial sequence number, when looked at";
            /// The chats, in the same way.
            ChatRing chat_ring CHAT_RING: Queue<(), WatchedChat>, version 1,
                size(limits) = limits.chats.saturating_add(64),
                "" => "service, cookie, when looked at";
            /// How full the rings of flows and heads are.
            Rings rings RINGS: Array<u32, Ring>, version 1,
                size(limits) = 2,
                "ring" => "entries";
            /// What each replica carries.
            Loads loads LOADS: Array<u32, Load>, version 1,
                size(limits) = limits.replicas,
                "replica number" => "live flows, chats at home";
            /// What is held of the tables that are shared, by sources, all together, and by services.
            Shares shares SHARES: Array<u32, Share>, version 1,
                size(limits) = SERVICE_SHARES + limits.services,
                "source, all, service" => "live flows, chats, entries of waiting heads";
            /// How these tables are shared.
            Sharing sharing SHARING: Array<u32, Sharing>, version 1,
                size(limits) = 1,
                "" => "room, number of services, prefix lengths";
            /// Clients that have no share but their service's. The longest prefix that fits counts.
            Trusted trusted TRUSTED: LpmTrie<Addr, u32>, version 1,
                size(limits) = 65536,
                "address" => "whether it is trusted";
            /// Flows that the kernel has ended, for the daemon to tell their ends. Nothing depends on its being
            /// read: when it is full no more are told before they send something.
            Farewells farewells FAREWELLS: Queue<(), Farewell>, version 1,
                size(limits) = 16384,
                "" => "both ends and the numbers that they expect";
            /// For which MAC addresses frames come to this machine, by what the kernel says of its interfaces.
            Macs macs MACS: HashMap<Mac, u64>, version 1,
                size(limits) = 4096,
                "MAC address" => "0; at one entry more, until when all are known";
            /// The links by which clients on this machine come. What is attached there has an entry.
            Links links LINKS: HashMap<u32, Link>, version 1,
                size(limits) = 4096,
                "index of an interface" => "index of that by which answers are routed; 0: it is not served";
            /// Which processes of this machine are clients, and by which addresses.
            Host host HOST: Array<u32, Host>, version 1,
                size(limits) = 1,
                "" => "network namespace, addresses of the host and as which replicas see it";
            /// The addresses that they connect to in place of VIPs, where no rule of others looks for them.
            StandIns stand_ins STAND_INS: HashMap<Addr, Addr>, version 1,
                size(limits) = 2 * STAND_INS,
                "address of a VIP" => "its stand-in";
            /// The same the other way round.
            StandsFor stands_for STANDS_FOR: HashMap<Addr, Addr>, version 1,
                size(limits) = 2 * STAND_INS,
                "stand-in" => "address of a VIP";
            /// Where rules of this machine have given them another address than their own: it is given back for an answer.
            HostSources host_sources HOST_SOURCES: LruHashMap<HostConn, Addr>, version 1,
                size(limits) = 16384,
                "stand-in, ports" => "address that a rule has given the client";
            /// What userspace says of services that are not as their sources say. No program reads it.
            Problems problems PROBLEMS: HashMap<Name, Problem>, version 1,
                size(limits) = most(limits.services, 64),
                "name of a service" => "why it is not as its source says";
            /// Keys and clock of the cluster.
            Secrets secrets SECRETS: Array<u32, Secrets>, version 1,
                size(limits) = 1,
                "" => "keys, clock offset, schema version";
            /// What became of packets. Its entries are known by the names of [`Counter`]s, not by their
            /// order: see `SCHEMA`.
            Counters counters COUNTERS: PerCpuArray<u32, u64>, version 1,
                size(limits) = Counter::COUNT as u32,
                "counter" => "packets";
            /// The versions of the other maps, and which counter is where in `COUNTERS`: what a daemon
            /// must know to take over. Never changed in place, but replaced by the next release's.
            Schema schema SCHEMA: HashMap<Mark, u32>, version 1,
                size(limits) = 512,
                "name of a map, a counter or a program" => "version, index, id";
        }
    };
}

/// As many as the addresses that stand in for others have room for.
pub const STAND_INS: u32 = 4096;

/// How many entries the maps have room for: what `[limits]` in the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live connections.
    pub flows: u32,
    /// Chats with a live connection.
    pub chats: u32,
    /// Connections that wait for their replica.
    pub pending: u32,
    /// Connections whose first bytes are kept until their replica has answered.
    pub stash: u32,
    /// Connections that are over and may still send.
    pub ended: u32,
    /// Services.
    pub services: u32,
    /// Replicas of all services, with those that are gone but still have connections.
    pub replicas: u32,
}

impl Limits {
    /// What holds unless the configuration says otherwise.
    pub const DEFAULT: Self = Self {
        flows: 262_144,
        chats: 65_536,
        pending: 65_536,
        stash: 65_536,
        ended: 32_768,
        services: 64,
        replicas: 4096,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A type of map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Longest prefix match.
    LpmTrie,
    /// Hash map, not preallocated.
    HashMap,
    /// Hash map that evicts its least recently used entries when it is full.
    LruHashMap,
    /// Array.
    Array,
    /// Array with values for each CPU.
    PerCpuArray,
    /// First in, first out; without keys, and shown by nobody: to read an entry is to take it.
    Queue,
}

macro_rules! names {
    ($($(#[doc = $doc:literal])+ $variant:ident $field:ident $pin:ident:
        $kind:ident<$key:ty, $value:ty>, version $version:literal,
        size($limits:ident) = $size:expr, $key_is:literal => $value_is:literal;)+) => {
        /// A pinned map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Map {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Map {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name of its pin, which is its name in the kernel.
            pub const fn pin(self) -> &'static str {
                match self { $(Self::$variant => stringify!($pin),)+ }
            }

            /// Its type.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)+ }
            }

            /// The version of what is in it. It changes with the bytes of keys or values, whatever is
            /// meant by them, and with the type of map.
            pub const fn version(self) -> u32 {
                match self { $(Self::$variant => $version,)+ }
            }

            /// Bytes of a key.
            pub const fn key_size(self) -> usize {
                match self { $(Self::$variant => key_size(Kind::$kind, size_of::<$key>()),)+ }
            }

            /// Bytes of a value; of one CPU's in a per-CPU map.
            pub const fn value_size(self) -> usize {
                match self { $(Self::$variant => size_of::<$value>(),)+ }
            }

            /// How many entries it is to have room for.
            pub const fn size(self, limits: &Limits) -> u32 {
                match self { $(Self::$variant => { let $limits = limits; let _ = $limits; $size })+ }
            }

            /// What a key and a value are, in words.
            pub const fn about(self) -> (&'static str, &'static str) {
                match self { $(Self::$variant => ($key_is, $value_is),)+ }
            }
        }
    };
}

schema!(names);

impl Map {
    /// The map whose pin has this name.
    pub fn named(pin: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|map| map.pin() == pin)
    }
}

/// The key of an LPM trie has its prefix length in front.
const fn key_size(kind: Kind, bits: usize) -> usize {
    match kind {
        Kind::LpmTrie => size_of::<u32>() + bits,
        _ => bits,
    }
}

const fn most(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}

/// What `Secrets::schema` says once a daemon has filled the maps. Releases without a `SCHEMA` map have 4,
/// and refuse others: what they cannot know they must not touch.
pub const FILLED: u32 = 5;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_names_of_the_kernel_and_differ() {
        let names: BTreeSet<_> = Map::ALL.iter().map(|map| map.pin()).collect();
        assert_eq!(names.len(), Map::ALL.len());
        for map in Map::ALL {
            assert!(map.pin().len() < 16, "{} is longer than BPF_OBJ_NAME_LEN", map.pin());
            assert_eq!(Map::named(map.pin()), Some(*map));
        }
        assert_eq!(Map::named("flows"), None);
    }

    #[test]
    fn the_schema_has_room_for_all_names() {
        let size = Map::Schema.size(&Limits::DEFAULT) as usize;
        assert!(Map::ALL.len() + Counter::COUNT + 3 < size / 2, "{size} entries");
        let counters =
            Counter::ALL.iter().map(|counter| std::format!("counter:{}", counter.name()));
        let maps = Map::ALL.iter().map(|map| std::format!("map:{}", map.pin()));
        for name in counters.chain(maps) {
            assert_eq!(Mark::new(&name).text(), Some(&*name), "a name that does not fit");
        }
    }
}
