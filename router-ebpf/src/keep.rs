//! A head in hand is kept for later: charged to its source, and written into the maps.

use crate::{
    hand::watch_head,
    head::{Which, birth, discard, forget, put, release, remove_chunks},
    maps::{CHUNKS, CHUNKS_OF_HEAD, ChunkKey, STASH_CLAIMED, watch_time},
    scratch::Scratch,
    shares::{Table, give, take},
    stash::{Held, Room},
    tables::{FlowTables, Step},
    verifier::reread,
};

/// Whether a head could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was.
    Yes,
    /// Its source or its service has its share. One that was there before stays as it was.
    Over,
    /// There is no room. One that was there before stays as it was.
    No,
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
        lose(tables, scratch);
        return Kept::Over;
    }
    let left = scratch.stash.touched();
    if reread(&scratch.held) == Held::New {
        let Scratch { stash: room, vip_side, held, refused, .. } = scratch;
        if left == 0 {
            room.get_mut().owner &= !STASH_CLAIMED;
        }
        if let Err(why) = tables.add_stash(vip_side, room.get()) {
            *refused = why as u32;
            return lose(tables, scratch);
        }
        *held = if left == 0 { Held::No } else { Held::Added };
        // Behind it: the hand may take what it finds at once, and forgets what has no head.
        if !watch(tables, scratch) {
            return unwatched(tables, scratch);
        }
        if left == 0 {
            return Kept::Yes;
        }
    }
    let Scratch { stash: room, chunk_key: key, .. } = scratch;
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

/// Charges the head in hand to its source, as many entries as it has in both maps: at least as many as there is room
/// for for each head, so that neither map is full before the shares are. Returns whether it may have them.
#[inline(always)]
fn charge(tables: &impl FlowTables, scratch: &mut Scratch) -> bool {
    let Scratch { stash, vip_side, service, trusted, holder, .. } = scratch;
    let stash = stash.get_mut();
    let entries = (1 + stash.chunks.count_ones()).max(CHUNKS_OF_HEAD);
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

/// Lets go of a head that nothing would ever remove.
#[inline(always)]
fn unwatched(tables: &impl FlowTables, scratch: &mut Scratch) -> Kept {
    if reread(&scratch.held) == Held::Added {
        return lose(tables, scratch);
    }
    let Scratch { vip_side, stash, chunk_key, .. } = scratch;
    discard(tables, vip_side, stash.get().server_isn(), Which::Any, chunk_key);
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
    watch_head(tables, watched).is_ok()
}
