//! Shares: who is refused when a table gets full. A table that is no more than half full is anybody's. Beyond that a
//! source, or a service, that holds as much as is left, or four times as much, gets no more of it (the dynamic
//! thresholds of Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998):
//! so the largest holders are refused first, and nothing has to be sorted.
//!
//! What sources hold is counted in two rows, at places that a keyed hash gives (Cormode and Muthukrishnan, "An
//! improved data stream summary: the count-min sketch", 2005): no more is ever kept of sources, however many
//! there are. A source holds no more than what the smaller of its two counts says.
//!
//! Two calls charge an entry of a table to who makes it. [`take`] says why not. The number of the source
//! is kept with the entry, and whoever removes the entry gives it to [`give`], once: prefix lengths and key may
//! have changed by then. So what is charged must be in no LRU map, which forgets in silence. Both take how many
//! entries: a head that has grown by a chunk takes one more of [`Table::Heads`] with the address of its client (or
//! the one that a proxy has named), and gives back all that it has when it is delivered, refused, or its time is
//! over. Take before the entry is there, so that nobody gives back what was not taken. `FLOWS` and `CHATS` ask first
//! ([`over`]) and count later ([`count_flow`], [`count_chat`]), because replicas are counted with them.

use crate::{
    maps::{ALL_SHARES, Addr, SERVICE_SHARES, Share, Sharing, TrustedKey, rows},
    shared::Shared,
    siphash,
    tables::FlowTables,
    verdict::Counter,
};

/// `by` of what is counted off.
pub const OFF: u32 = u32::MAX;

/// How much of what is left a source may hold.
const SOURCE: u32 = 1;
/// The same for a service: beside four that take what they can, a fifth of a full table stays for others.
const SERVICE: u32 = 4;

/// Tells what is hashed here from what else is hashed under the same key.
const DOMAIN: u64 = u64::from_le_bytes(*b"a source");

/// No table has more entries.
const MOST: u32 = i32::MAX as u32;

/// A table that is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `FLOWS`, and `FLOWS_BACK` with it.
    Flows,
    /// `CHATS`.
    Chats,
    /// What waits for the rest of its head.
    Heads,
}

impl Table {
    #[inline(always)]
    const fn room(self, sharing: &Sharing) -> u32 {
        match self {
            Self::Flows => sharing.flows,
            Self::Chats => sharing.chats,
            Self::Heads => sharing.heads,
        }
    }

    /// What is held at an index of `SHARES`. Less than nothing is nothing: an entry that came back while maps were
    /// carried over to another release is counted off twice, and for that nobody is to be refused.
    #[inline(always)]
    fn held(self, tables: &impl FlowTables, index: u32) -> u32 {
        let count = tables.share(index).map_or(0, |share| match self {
            Self::Flows => share.flows(),
            Self::Chats => share.chats(),
            Self::Heads => share.heads(),
        });
        if count > MOST { 0 } else { count }
    }

    #[inline(always)]
    fn add(self, share: &Shared<Share>, by: u32) {
        match self {
            Self::Flows => share.add_flows(by),
            Self::Chats => share.add_chats(by),
            Self::Heads => share.add_heads(by),
        }
    }

    /// Why a source that holds its share is refused.
    const fn over_source(self) -> Counter {
        match self {
            Self::Flows => Counter::OverSourceFlows,
            Self::Chats => Counter::OverSourceChats,
            Self::Heads => Counter::OverSourceHeads,
        }
    }

    /// The same for a service.
    const fn over_service(self) -> Counter {
        match self {
            Self::Flows => Counter::OverServiceFlows,
            Self::Chats => Counter::OverServiceChats,
            Self::Heads => Counter::OverServiceHeads,
        }
    }
}

/// Whether who holds `held` gets no more of a table with `room` entries of which `used` are in use.
#[inline(always)]
pub const fn is_over(held: u32, used: u32, room: u32, factor: u32) -> bool {
    let left = room.saturating_sub(used);
    // Of a full one, who holds nothing has no more than anybody's share.
    held > 0 && used > room / 2 && held as u64 >= left as u64 * factor as u64
}

/// [`number`]'s `by` of a client that was named by nobody.
pub const ITSELF: u32 = 0;

/// Who is charged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The address of the client, whom a proxy may have named.
    pub client: Addr,
    /// The service.
    pub service: u32,
    /// The number of its source.
    pub source: u32,
}

impl Holder {
    /// The client of a connection that `sender` sends. One that was named counts as such for its service alone: who may
    /// name clients of one service has no others refused by any other.
    #[inline(never)]
    pub fn set(&mut self, tables: &impl FlowTables, service: u32, sender: &Addr, client: &Addr) {
        let by = if sender == client { ITSELF } else { service.wrapping_add(1) };
        self.client = *client;
        self.service = service;
        self.source = source(tables, client, by);
    }
}

/// The number that a client's source is counted by, never 0. `by` as for [`number`].
#[inline(never)]
pub fn source(tables: &impl FlowTables, client: &Addr, by: u32) -> u32 {
    let (Some(secrets), Some(sharing)) = (tables.secrets(), tables.sharing()) else {
        return 1;
    };
    // The key that stays: that of handshakes is replaced all the time.
    number(&secrets.chat, sharing, client, by)
}

/// The same under this key. `by`: [`ITSELF`], or one more than the service's number if a proxy has named it there.
#[inline(always)]
pub fn number(key: &siphash::Key, sharing: &Sharing, client: &Addr, by: u32) -> u32 {
    let [high, low] = prefix(client, sharing);
    match siphash::words(key, &[DOMAIN ^ by as u64, high, low]) as u32 {
        0 => 1,
        source => source,
    }
}

/// The bits of an address that tell sources from each other.
#[inline(always)]
pub fn prefix(client: &Addr, sharing: &Sharing) -> [u64; 2] {
    let a = client;
    let high = u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    let low = u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    let bits = match (high, low >> 32) {
        (0, 0xffff) => 96 + sharing.ipv4_prefix as u32,
        _ => sharing.ipv6_prefix as u32,
    };
    [high & first_bits(bits), low & first_bits(bits.saturating_sub(64))]
}

/// A word of so many ones, 64 at the most, and zeros.
#[inline(always)]
const fn first_bits(ones: u32) -> u64 {
    if ones >= 64 { u64::MAX } else { !(u64::MAX >> ones) }
}

/// Takes so many entries of a table, before they are there, or says by the counter why there are no more. What was taken
/// is given back by [`give`].
#[inline(always)]
pub fn take(
    tables: &impl FlowTables,
    of: Table,
    holder: &Holder,
    entries: u32,
    key: &mut TrustedKey,
) -> Option<Counter> {
    let why = over(tables, of, holder, key);
    if why.is_none() {
        count(tables, of, holder.service, holder.source, entries);
    }
    why
}

/// Gives back so many entries of a table that [`take`] has taken for this source.
#[inline(always)]
pub fn give(tables: &impl FlowTables, of: Table, service: u32, source: u32, entries: u32) {
    count(tables, of, service, source, entries.wrapping_neg());
}

/// Counts a flow, or counts it off by [`OFF`], wherever flows are counted.
#[inline(never)]
pub fn count_flow(tables: &impl FlowTables, replica: u32, service: u32, source: u32, by: u32) {
    if let Some(load) = tables.load(replica) {
        load.add_flows(by as i32 as u64);
    }
    add(tables, Table::Flows, service, source, by);
}

/// The same for a chat with an entry.
#[inline(never)]
pub fn count_chat(tables: &impl FlowTables, service: u32, source: u32, home: u32, by: u32) {
    if let Some(load) = tables.load(home) {
        load.add_chats(by as i32 as u64);
    }
    add(tables, Table::Chats, service, source, by);
}

/// Counts so many entries of a table, modulo 2^32, where replicas are not counted with them.
#[inline(never)]
pub fn count(tables: &impl FlowTables, of: Table, service: u32, source: u32, by: u32) {
    add(tables, of, service, source, by);
}

/// Counts in `SHARES`. `source` is 0 for what a release before has left.
#[inline(always)]
fn add(tables: &impl FlowTables, of: Table, service: u32, source: u32, by: u32) {
    let add = |index| {
        if let Some(share) = tables.share(index) {
            of.add(&share, by);
        }
    };
    add(ALL_SHARES);
    add(SERVICE_SHARES.wrapping_add(service));
    if source != 0 {
        let [first, second] = rows(source);
        add(first);
        add(second);
    }
}

/// How many entries of a table are in use, and how many there are, if it is more than half full.
#[inline(always)]
fn tight(tables: &impl FlowTables, of: Table) -> Option<(u32, u32)> {
    let room = of.room(tables.sharing()?);
    let used = of.held(tables, ALL_SHARES);
    (used > room / 2 && room > 0).then_some((used, room))
}

/// Whether a table is more than half full: below that nobody has to know who is to be charged.
#[inline(always)]
pub fn is_tight(tables: &impl FlowTables, of: Table) -> bool {
    tight(tables, of).is_some()
}

/// Whether who is to be charged gets no more of a table, as the counter that says why.
#[inline(never)]
pub fn over(
    tables: &impl FlowTables,
    of: Table,
    holder: &Holder,
    key: &mut TrustedKey,
) -> Option<Counter> {
    let (used, room) = tight(tables, of)?;
    let [first, second] = rows(holder.source);
    if is_over(of.held(tables, first), used, room, SOURCE)
        && is_over(of.held(tables, second), used, room, SOURCE)
        && !is_trusted(tables, &holder.client, key)
    {
        return Some(of.over_source());
    }
    let held = of.held(tables, SERVICE_SHARES.wrapping_add(holder.service));
    if tables.sharing()?.services > 1 && is_over(held, used, room, SERVICE) {
        return Some(of.over_service());
    }
    None
}

/// Whether a client is of those that have no share but their service's.
#[inline(always)]
fn is_trusted(tables: &impl FlowTables, client: &Addr, key: &mut TrustedKey) -> bool {
    key.prefix_len = TrustedKey::WHOLE;
    key.addr = *client;
    tables.trusted(key) == Some(1)
}
