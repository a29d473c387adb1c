//! Heads in the maps. An entry of `STASH` and its chunks are changed in place, by one program at a time: by the one
//! that has claimed the entry. So nothing is read that another CPU is just writing, or using for another connection.

use crate::{
    maps::{CHUNKS, CHUNKS_OF_HEAD, ChunkKey, STASH_CLAIMED, Stash, Tuple, watch_time},
    scratch::Scratch,
    shared::Shared,
    shares::{Table, give, take},
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

/// Whether a head could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was.
    Yes,
    /// There is no room. One that was there before stays as it was.
    No,
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

/// Writes some chunks.
struct Write<'a, T> {
    tables: &'a T,
    room: &'a mut Room,
    key: &'a mut ChunkKey,
    next: u32,
    /// Which are left to be written.
    left: u64,
}

impl<T: FlowTables> Step for Write<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let number = self.next;
        self.next += 1;
        if self.left >> (number & 63) & 1 == 0 {
            return true;
        }
        self.key.index = number;
        let written = self
            .room
            .chunk(number)
            .is_some_and(|chunk| self.tables.set_chunk(self.key, chunk).is_ok());
        if !written {
            return false;
        }
        self.left &= !(1 << (number & 63));
        self.left != 0
    }
}

/// Writes the head in hand, with the chunks that have changed, and lets it go.
#[inline(never)]
pub fn keep(tables: &impl FlowTables, scratch: &mut Scratch) -> Kept {
    if reread(&scratch.held) == Held::No {
        return Kept::No;
    }
    if !charge(tables, scratch) {
        return lose(tables, scratch);
    }
    if reread(&scratch.held) == Held::New {
        match tables.add_stash(&scratch.vip_side, scratch.stash.get()) {
            Ok(()) => {}
            Err(why) => {
                scratch.refused = why as u32;
                return lose(tables, scratch);
            }
        }
        scratch.held = Held::Added;
        if !watch(tables, scratch) {
            // Nothing would ever remove it.
            return lose(tables, scratch);
        }
    }
    let Scratch { stash: room, chunk_key: key, .. } = scratch;
    let left = room.touched();
    if left != 0 {
        let next = left.trailing_zeros();
        let mut write = Write { tables, room, key, next, left };
        tables.repeat(CHUNKS as u32, &mut write);
        if reread(&write.left) != 0 {
            return lose(tables, scratch);
        }
    }
    put(tables, scratch);
    Kept::Yes
}

/// Writes the entry of the head in hand, and lets it go. Its chunks are as they were.
#[inline(always)]
pub fn put(tables: &impl FlowTables, scratch: &mut Scratch) {
    if let Some(entry) = tables.stash(&scratch.vip_side) {
        entry.put(scratch.stash.get());
    }
    scratch.held = Held::No;
}

/// Charges the head in hand to its source, as many entries as it has chunks: at least as many as there is room for for
/// each head, so that neither of the two maps is full before the shares are. Returns whether it may have them.
#[inline(always)]
fn charge(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let Scratch { stash, vip_side, service, trusted, holder, .. } = scratch;
    let stash = stash.get_mut();
    let entries = stash.chunks.count_ones().max(CHUNKS_OF_HEAD);
    let more = entries.saturating_sub(stash.taken as u32);
    if more == 0 {
        return true;
    }
    if stash.taken == 0 {
        holder.set(tables, *service, &vip_side.client, &vip_side.client);
    } else {
        // As before: whose it is may be counted otherwise by now, and is given back all at once.
        holder.client = vip_side.client;
        (holder.service, holder.source) = (stash.service, stash.source);
    }
    if let Some(why) = take(tables, Table::Heads, holder, more, trusted) {
        tables.count(why);
        return false;
    }
    stash.source = holder.source;
    stash.taken = entries as u16;
    true
}

/// Lets go of a head that could not be written. One that was there before stays as it was.
#[inline(always)]
fn lose(tables: &impl FlowTables, scratch: &mut Scratch) -> Kept {
    let stash = scratch.stash.get();
    match reread(&scratch.held) {
        Held::Claimed => {
            if let Some(entry) = tables.stash(&scratch.vip_side) {
                let before = entry.get();
                let more = stash.taken.wrapping_sub(before.taken) as u32;
                give(tables, Table::Heads, stash.service, stash.source, more);
                let Scratch { chunk_key: key, vip_side, stash, .. } = scratch;
                // Some may have been written.
                remove_chunks(tables, vip_side, stash.get().chunks & !before.chunks, key);
            }
            release(tables, scratch);
        }
        Held::Added => forget(tables, scratch),
        _ => {
            give(tables, Table::Heads, stash.service, stash.source, stash.taken as u32);
            scratch.held = Held::No;
        }
    }
    Kept::No
}

/// Lets the clock hand know of a head, if the ring has room.
#[inline(always)]
fn watch(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let watched = &mut scratch.turn.flow;
    let stash = scratch.stash.get();
    watched.tuple = scratch.vip_side;
    watched.server_isn = stash.server_isn();
    watched.at = watch_time(stash.since);
    watched.reserved = birth(stash);
    tables.watch_head(watched).is_ok()
}

/// Tells a head from others of the same connection, in [`Watched::reserved`](crate::maps::Watched::reserved): one that
/// is forgotten and begins again is in the ring twice.
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

#[inline(always)]
fn remove_chunks(tables: &impl FlowTables, tuple: &Tuple, chunks: u64, key: &mut ChunkKey) {
    key.tuple = *tuple;
    tables.repeat(CHUNKS as u32, &mut Remove { tables, key, left: chunks });
}
