//! The search for a key in the first bytes of a connection, by the kernel program's own code, without
//! a kernel.

use router_ebpf::{
    key::{self, Reason, Search},
    maps::{Addr, HEAD_LEN, Service, Tuple},
    scratch::Scratch,
    tables::NoTables,
};

use crate::plan::config::KeySource;

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A key.
    Found {
        /// The key source that yielded it.
        source: KeySource,
        /// Its bytes.
        key: Vec<u8>,
    },
    /// None.
    Missing(Reason),
    /// The connection would wait for more bytes.
    More,
}

/// Looks for the key of a connection that begins with `bytes`. `tuple` is the client and the VIP; it
/// matters to those key sources only that take the key from it.
pub fn search(service: &Service, tuple: &Tuple, bytes: &[u8]) -> Outcome {
    walk(service, tuple, bytes, false).0
}

/// The same for a connection that begins with the PROXY protocol, and the client's address if that names it.
pub fn search_proxied(service: &Service, tuple: &Tuple, bytes: &[u8]) -> (Outcome, Option<Addr>) {
    walk(service, tuple, bytes, true)
}

fn walk(
    service: &Service,
    tuple: &Tuple,
    bytes: &[u8],
    from_proxy: bool,
) -> (Outcome, Option<Addr>) {
    let scratch = &mut *Scratch::boxed();
    scratch.vip_side = *tuple;
    scratch.from_proxy = from_proxy.into();
    scratch.stash.set(0, bytes);
    let last = (bytes.len() >= HEAD_LEN).then_some(Reason::TooLong);
    let outcome = match key::search(&NoTables, service, last, scratch) {
        Search::Found => {
            let source = service.sources.get(scratch.scan.source as usize);
            match source.and_then(KeySource::from_map) {
                Some(source) => {
                    let key = &scratch.key;
                    Outcome::Found { source, key: key.bytes[..key.len as usize].to_vec() }
                }
                None => Outcome::Missing(Reason::Absent),
            }
        }
        Search::Missing(reason) => Outcome::Missing(reason),
        Search::More => Outcome::More,
    };
    let scan = &scratch.scan;
    (outcome, (scan.named != 0).then(|| scan.client(&tuple.client)))
}

/// The word for a reason, as the counters `missing_*` have it.
pub const fn reason_word(reason: Reason) -> &'static str {
    match reason {
        Reason::Unreadable => "unreadable",
        Reason::Absent => "absent",
        Reason::Empty => "empty",
        Reason::TooLong => "too_long",
    }
}

#[cfg(test)]
mod tests;
