//! Heads in the maps. An entry of `STASH` and its chunks are changed in place, by one program at a time: by the one
//! that has claimed the entry. So nothing is read that another CPU is just writing, or using for another connection.

use crate::{
    maps::{CHUNKS, ChunkKey, STASH_CLAIMED, Stash, Tuple},
    scratch::Scratch,
    shared::Shared,
    shares::{Table, give},
    stash::{Held, Room},
    tables::{FlowTables, Step},
    verifier::reread,
};

/// How often a head that another CPU is at is asked for: several microseconds.
const TRIES: u32 = 64;

/// What is in `STASH` on a tuple.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A head, claimed and copied.
    Head,
    /// One that another CPU does not let go.
    Busy,
}

/// Claims an entry of this tuple, if nobody else has, and if it is still there: its memory may be another tuple's by now.
#[inline(always)]
pub fn seize(tables: &impl FlowTables, tuple: &Tuple, entry: Shared<Stash>) -> bool {
    let owner = entry.owner();
    if owner & STASH_CLAIMED != 0 || !entry.claim(owner) {
        return false;
    }
    let is_there = tables.stash(tuple).is_some_and(|there| there.as_ptr() == entry.as_ptr());
    if !is_there {
        entry.release(owner);
    }
    is_there
}

struct Claim<'a, T> {
    tables: &'a T,
    tuple: &'a Tuple,
    room: &'a mut Room,
    found: Found,
}

impl<T: FlowTables> Step for Claim<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let Some(entry) = self.tables.stash(self.tuple) else {
            self.found = Found::Nothing;
            return false;
        };
        if !seize(self.tables, self.tuple, entry) {
            return true;
        }
        self.room.copy_from(entry.as_ptr());
        self.found = Found::Head;
        false
    }
}

/// Claims the head on the tuple of the VIP side, whatever connection it is of, and copies its entry. The chunks are
/// loaded when they are needed.
#[inline(never)]
pub fn claim(tables: &impl FlowTables, scratch: &mut Scratch) -> Found {
    let Scratch { stash: room, vip_side: tuple, chunk_key, held, .. } = scratch;
    chunk_key.tuple = *tuple;
    let mut claim = Claim { tables, tuple, room, found: Found::Busy };
    tables.repeat(TRIES, &mut claim);
    let found = reread(&claim.found);
    *held = if found == Found::Head { Held::Claimed } else { Held::No };
    found
}

/// Writes the entry of the head in hand, and lets it go. Its chunks are as they were.
#[inline(always)]
pub fn put(tables: &impl FlowTables, scratch: &mut Scratch) {
    if let Some(entry) = tables.stash(&scratch.vip_side) {
        entry.put(scratch.stash.get());
    }
    scratch.held = Held::No;
}

/// Tells a head from others of the same connection, in [`Watched::reserved`](crate::maps::Watched::reserved): one that
/// is forgotten and begins again is in the ring twice, and only one of these entries is put back.
#[inline(always)]
pub const fn birth(stash: &Stash) -> u32 {
    stash.since as u32
}

/// Lets the head in hand go as it is in the maps.
#[inline(never)]
pub fn release(tables: &impl FlowTables, scratch: &mut Scratch) {
    if matches!(reread(&scratch.held), Held::Claimed | Held::Added)
        && let Some(entry) = tables.stash(&scratch.vip_side)
    {
        entry.release(scratch.stash.get().owner);
    }
    scratch.held = Held::No;
}

/// Removes chunks.
struct Remove<'a, T> {
    tables: &'a T,
    key: &'a mut ChunkKey,
    left: u64,
}

impl<T: FlowTables> Step for Remove<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.key.index = self.left.trailing_zeros();
        self.tables.remove_chunk(self.key);
        self.left &= self.left.wrapping_sub(1);
        true
    }
}

/// Removes the head in hand from the maps, if it is there.
#[inline(never)]
pub fn forget(tables: &impl FlowTables, scratch: &mut Scratch) {
    if matches!(reread(&scratch.held), Held::Claimed | Held::Added) {
        let Scratch { chunk_key: key, stash, vip_side, .. } = scratch;
        remove(tables, vip_side, stash.get(), key);
    }
    scratch.held = Held::No;
}

/// Removes a claimed head, and gives its source back what it has taken.
#[inline(always)]
pub fn remove(tables: &impl FlowTables, tuple: &Tuple, stash: &Stash, key: &mut ChunkKey) {
    let Stash { chunks, service, source, taken, .. } = *stash;
    remove_chunks(tables, tuple, chunks, key);
    tables.remove_stash(tuple);
    give(tables, Table::Heads, service, source, taken as u32);
}

/// Which heads are discarded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    Any,
    /// Those whose replica has not been asked.
    Unbound,
}

/// Removes the head of a connection that is over. One that another CPU is at goes when its time is over.
#[inline(never)]
pub fn discard(
    tables: &impl FlowTables,
    tuple: &Tuple,
    server_isn: u32,
    which: Which,
    key: &mut ChunkKey,
) {
    if let Some(entry) = tables.stash(tuple)
        && entry.server_isn() == server_isn
        && seize(tables, tuple, entry)
    {
        if which == Which::Unbound && entry.get().bound != 0 {
            return entry.release(entry.owner());
        }
        remove(tables, tuple, entry.get(), key);
    }
}

/// Removes some of its chunks.
#[inline(always)]
pub fn remove_chunks(tables: &impl FlowTables, tuple: &Tuple, chunks: u64, key: &mut ChunkKey) {
    key.tuple = *tuple;
    tables.repeat(CHUNKS as u32, &mut Remove { tables, key, left: chunks });
}
