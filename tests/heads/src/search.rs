//! The data path's search for a key, on the host, without any map.

use std::net::IpAddr;

use router_ebpf::{
    key::{
        self, Kind, Reason, Search,
        scan::{Outcome, Scan},
    },
    maps::{HEAD_LEN, KeySource, NAME_LEN, Name, PART, SOURCES, Service},
    scratch::Scratch,
    siphash,
    stash::Added,
    tables::NoTables,
};

/// Near the end of the numbers, so that they wrap within a head.
const CLIENT_ISN: u32 = 0xffff_ff80;
const SERVER_ISN: u32 = 0x1234_5678;

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This key.
    Key(Vec<u8>),
    /// None.
    Missing(Reason),
    /// More bytes are needed.
    More,
}

/// A service with these key sources.
pub fn service(sources: &[KeySource]) -> Service {
    let mut all = [KeySource::NONE; SOURCES];
    all[..sources.len()].copy_from_slice(sources);
    Service { generation: 1, usable: 1, mss4: 1460, mss6: 1440, sources: all, ..Service::EMPTY }
}

/// The search, and its working memory.
pub struct Searcher {
    scratch: Box<Scratch>,
}

impl Default for Searcher {
    fn default() -> Self {
        let mut scratch = Scratch::boxed();
        // Whatever was there before must not matter; what each search leaves is there for the next.
        scratch.stash.set(0, &[0xa5; HEAD_LEN]);
        scratch.key.bytes.fill(0x5a);
        Self { scratch }
    }
}

impl Searcher {
    /// From now on heads come from this address, behind what a proxy sends or not.
    pub fn comes(&mut self, from: IpAddr, by_proxy: bool) {
        let addr = match from {
            IpAddr::V4(addr) => addr.to_ipv6_mapped(),
            IpAddr::V6(addr) => addr,
        };
        self.scratch.vip_side.client = addr.octets();
        self.scratch.from_proxy = by_proxy.into();
        self.scratch.scan = Scan::default();
    }

    /// Searches a head that came in one segment. `last`: nothing more will come, for this reason.
    pub fn whole(&mut self, service: &Service, head: &[u8], last: Option<Reason>) -> Answer {
        self.begin();
        if !head.is_empty() {
            self.arrive(0, head);
        }
        self.search(service, last)
    }

    /// The cookie of this key, if nothing overrides it.
    pub fn cookie(&mut self, key: &[u8], secret: &siphash::Key) -> u64 {
        self.scratch.key.set_bytes(key);
        self.scratch.key.hash(secret)
    }

    /// What the data path takes a head for that came in one segment.
    pub fn kind(&mut self, service: &Service, head: &[u8]) -> Kind {
        self.begin();
        if !head.is_empty() {
            self.arrive(0, head);
        }
        self.kind_of_searched(service)
    }

    /// The same for the one that was searched last, which may begin with what a proxy sends.
    pub fn kind_of_searched(&mut self, service: &Service) -> Kind {
        self.soil();
        let kind = key::kind(&NoTables, service, &mut self.scratch);
        self.check();
        kind
    }

    /// A connection that has sent nothing yet.
    pub fn begin(&mut self) {
        self.scratch.stash.clear(SERVER_ISN, CLIENT_ISN, 0, 0);
    }

    /// A segment with these bytes arrives, whose place in the connection is `at`: as much of it is kept as
    /// `bind::collect` keeps.
    pub fn arrive(&mut self, at: usize, bytes: &[u8]) -> Added {
        let room = &mut self.scratch.stash;
        let (from, to) = (at as u32, (at + bytes.len()).min(HEAD_LEN) as u32);
        let added = room.get().fits(from, to);
        if added == Added::New {
            let known = room.get().known as usize;
            let skipped = known.saturating_sub(at).min(bytes.len());
            for (at, byte) in (at..to as usize).zip(bytes).skip(skipped) {
                room.bytes_mut(at as u32)[0] = *byte;
            }
            room.add((at + skipped) as u32, to);
        }
        added
    }

    /// What is known of the connection without a gap; `None` before its first segment.
    pub fn known(&self) -> Option<usize> {
        Some(self.scratch.stash.get().known as usize).filter(|known| *known > 0)
    }

    /// The bytes that are known.
    pub fn bytes(&self) -> &[u8] {
        let stash = &self.scratch.stash;
        &stash.head()[..stash.get().known as usize]
    }

    /// Whether the data path would wait for more, as `bind::choose` decides it.
    pub fn last(&self) -> Option<Reason> {
        (self.known() == Some(HEAD_LEN)).then_some(Reason::TooLong)
    }

    /// Searches what has arrived.
    pub fn search(&mut self, service: &Service, last: Option<Reason>) -> Answer {
        self.soil();
        let found = key::search(&NoTables, service, last, &mut self.scratch);
        self.check();
        let key = &self.scratch.key;
        match found {
            Search::Missing(reason) => Answer::Missing(reason),
            Search::More => Answer::More,
            Search::Found => {
                let len = key.len as usize;
                assert!(len > 0, "an empty key was found");
                let padded = len.next_multiple_of(8).min(PART);
                assert!(
                    key.bytes[len..padded].iter().all(|byte| *byte == 0),
                    "padding is not zero"
                );
                let mut name = Name::EMPTY;
                key.write_name(&mut name);
                let bytes = &key.bytes[..len];
                assert_eq!(name, Name::new(bytes), "the readable name is not zero behind its end");
                Answer::Key(bytes.to_vec())
            }
        }
    }

    fn check(&self) {
        let outcome = self.scratch.scan.outcome;
        assert!(outcome != Outcome::NONE, "the search did not end within its steps");
    }

    /// Leaves something where the key will be.
    fn soil(&mut self) {
        self.scratch.key.bytes[..2 * NAME_LEN].fill(0x5a);
        self.scratch.key.len = 0x5a;
    }
}
