//! The first bytes of a connection, put together: in which order their segments came, whether they overlap and
//! whether something is missing between them.
//!
//! A head is in chunks. The first one is in its entry of `STASH`, so most heads need no other entry; the others are in
//! `CHUNKS`, each with its number.

use core::{mem::offset_of, ptr};

use crate::{
    maps::{
        CHUNK, CHUNKS, Chunk, ChunkKey, FIRST, HEAD_LEN, HOLES, PART, Range, SCAN_WORDS,
        STASH_CLAIMED, Stash,
    },
    request::Head,
    shared::copy_words,
    tables::{FlowTables, Step},
    verifier::{index, masked, reread},
    words::WINDOW,
};

/// A [`Stash`] with the bytes, as far as they are needed, and room behind them, so that a helper can be given any
/// place and the length of a part.
#[repr(C, align(8))]
pub struct Room {
    /// Which chunks are here: a bit for each.
    loaded: u64,
    /// Those for `CHUNKS` that have changed since the head was claimed.
    touched: u64,
    stash: Stash,
    /// What follows the first bytes.
    rest: [u8; HEAD_LEN + PART - FIRST],
}

const _: () = {
    // All bytes of a head are in a row.
    assert!(offset_of!(Room, stash) + offset_of!(Stash, first) == BYTES);
    assert!(offset_of!(Room, rest) == BYTES + FIRST && offset_of!(Room, rest).is_multiple_of(8));
    assert!((CHUNKS - 1) * CHUNK <= HEAD_LEN + PART - FIRST && CHUNKS <= 64);
};

/// Where the bytes of a head begin in a [`Room`].
const BYTES: usize = offset_of!(Room, stash) + offset_of!(Stash, first);
/// The bit of the chunk that is in the entry of `STASH`.
const IN_STASH: u64 = 1;

/// Where in `Stash::scan` the reader of a head is.
const READER: usize = 1;
const _: () = {
    let at = core::mem::offset_of!(Stash, scan) + READER * size_of::<u32>();
    assert!(at.is_multiple_of(align_of::<Head>()));
    assert!(READER * size_of::<u32>() + size_of::<Head>() <= size_of::<[u32; SCAN_WORDS]>());
};

/// What became of a segment that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Added {
    /// It is in the stash, or as much of it as fits.
    New,
    /// All of it was there before.
    Known,
    /// There would be too many holes, or it is behind all that is kept.
    No,
}

/// Whose head is in hand: nobody else may touch it before it is kept, released or forgotten.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// None is.
    No,
    /// One that is in no map yet.
    New,
    /// One that is claimed.
    Claimed,
    /// One that was put into the map just now.
    Added,
}

impl Room {
    /// What is put together.
    #[inline(always)]
    pub const fn get(&self) -> &Stash {
        &self.stash
    }

    /// The same, to write.
    #[inline(always)]
    pub const fn get_mut(&mut self) -> &mut Stash {
        &mut self.stash
    }

    /// The bytes from `at` on, a part of them.
    #[inline(always)]
    pub fn bytes(&self, at: u32) -> &[u8; PART] {
        let at = masked::<HEAD_LEN>(at);
        // SAFETY: there are PART bytes behind each place below HEAD_LEN.
        unsafe { &*ptr::from_ref(self).byte_add(BYTES + at).cast() }
    }

    /// As many of them as are looked at in one step. What is behind those that are known is meaningless.
    #[inline(always)]
    pub fn window(&self, at: u32) -> &[u8; WINDOW] {
        const { assert!(WINDOW <= PART) };
        let at = masked::<HEAD_LEN>(at);
        // SAFETY: as above.
        unsafe { &*ptr::from_ref(self).byte_add(BYTES + at).cast() }
    }

    /// A part of them, to write.
    #[inline(always)]
    pub fn bytes_mut(&mut self, at: u32) -> &mut [u8; PART] {
        let at = masked::<HEAD_LEN>(at);
        // SAFETY: as above.
        unsafe { &mut *ptr::from_mut(self).byte_add(BYTES + at).cast() }
    }

    /// All bytes that may be searched.
    #[inline(always)]
    pub fn head(&self) -> &[u8; HEAD_LEN] {
        // SAFETY: the first HEAD_LEN ones.
        unsafe { &*ptr::from_ref(self).byte_add(BYTES).cast() }
    }

    /// A chunk of those that are in `CHUNKS`.
    #[inline(always)]
    pub fn chunk(&mut self, number: u32) -> Option<&Chunk> {
        self.chunk_mut(number).map(|chunk| &*chunk)
    }

    #[inline(always)]
    fn chunk_mut(&mut self, number: u32) -> Option<&mut Chunk> {
        let behind = index(number.wrapping_sub(1));
        if behind >= CHUNKS - 1 {
            return None;
        }
        // SAFETY: there is room for all chunks, see above, and both lengths are multiples of eight.
        Some(unsafe { &mut *self.rest.as_mut_ptr().add(behind * CHUNK).cast() })
    }

    /// Begins a connection that has sent nothing yet.
    #[inline(always)]
    pub fn clear(&mut self, server_isn: u32, client_isn: u32, service: u32, since: u64) {
        self.loaded = IN_STASH;
        self.touched = 0;
        let stash = &mut self.stash;
        stash.owner = (server_isn as u64) << 32 | STASH_CLAIMED;
        stash.since = since;
        stash.chunks = 0;
        stash.client_isn = client_isn;
        stash.known = 0;
        stash.behind = [Range::EMPTY; HOLES];
        stash.end = 0;
        stash.acked = 0;
        stash.replica = 0;
        stash.key_len = 0;
        stash.reading = 0;
        stash.window = 0;
        stash.tcp_flags = 0;
        stash.bound = 0;
        stash.missing = 0;
        stash.unacked = 0;
        stash.taken = 0;
        stash.source = 0;
        stash.service = service;
        stash.scan = [0; SCAN_WORDS];
    }

    /// Copies an entry of the map, which is claimed.
    #[inline(always)]
    pub fn copy_from(&mut self, entry: *const Stash) {
        self.loaded = IN_STASH;
        self.touched = 0;
        // SAFETY: both are aligned, and no one writes there.
        unsafe { copy_words(entry.cast(), (&raw mut self.stash).cast()) };
    }

    /// Makes it a connection that has sent these bytes, and no more: for tools, and for what is in one packet.
    pub fn set(&mut self, client_isn: u32, bytes: &[u8]) {
        let len = bytes.len().min(HEAD_LEN);
        self.clear(0, client_isn, 0, 0);
        let first = len.min(FIRST);
        self.stash.first[..first].copy_from_slice(&bytes[..first]);
        self.rest[..len - first].copy_from_slice(&bytes[first..len]);
        self.add(0, len as u32);
    }

    /// Notes the bytes from `from` to `to`, which are here by then, with what stood around them in their chunks.
    #[inline(always)]
    pub fn add(&mut self, from: u32, to: u32) {
        self.stash.add(from, to);
        let touched = chunks(from, to) & !IN_STASH;
        self.stash.chunks |= touched;
        self.loaded |= touched;
        self.touched |= touched;
    }

    /// Which chunks for `CHUNKS` have changed: a bit for each.
    #[inline(always)]
    pub const fn touched(&self) -> u64 {
        self.touched
    }

    /// Loads a chunk, if there is one. Returns whether its bytes are here now.
    #[inline(always)]
    pub fn load(&mut self, tables: &impl FlowTables, key: &mut ChunkKey, number: u32) -> bool {
        let bit = 1 << (number & 63);
        if self.loaded & bit != 0 {
            return true;
        }
        if self.stash.chunks & bit == 0 {
            return false;
        }
        key.index = number;
        let is_there = self.chunk_mut(number).is_some_and(|chunk| tables.load_chunk(key, chunk));
        if is_there {
            self.loaded |= bit;
        }
        is_there
    }

    /// Loads the chunk that has the byte `at`. Returns what follows its last one, or 0 if it is not there.
    #[inline(always)]
    pub fn load_at(&mut self, tables: &impl FlowTables, key: &mut ChunkKey, at: u32) -> u32 {
        let number = number(at);
        if self.load(tables, key, number) { FIRST as u32 + number * CHUNK as u32 } else { 0 }
    }

    /// Loads those that have the bytes from `from` to `to`, of which there is at least one. Returns whether all were
    /// there: in place of one that was not is what was there before.
    #[inline(always)]
    pub fn load_all(
        &mut self,
        tables: &impl FlowTables,
        key: &mut ChunkKey,
        from: u32,
        to: u32,
    ) -> bool {
        let (next, last) = (number(from), number(to.wrapping_sub(1)));
        let mut load = Load { tables, room: self, key, next, last, missing: 0 };
        tables.repeat(CHUNKS as u32, &mut load);
        reread(&load.missing) == 0
    }
}

/// Loads some chunks.
struct Load<'a, T> {
    tables: &'a T,
    room: &'a mut Room,
    key: &'a mut ChunkKey,
    next: u32,
    last: u32,
    /// 1 if one was not there.
    missing: u32,
}

impl<T: FlowTables> Step for Load<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        if !self.room.load(self.tables, self.key, self.next) {
            self.missing = 1;
        }
        self.next += 1;
        self.next <= self.last
    }
}

/// The number of the chunk that has the byte `at`.
#[inline(always)]
const fn number(at: u32) -> u32 {
    at.wrapping_add((CHUNK - FIRST) as u32) / CHUNK as u32
}

/// The bits of the chunks that have the bytes from `from` to `to`, of which there is at least one.
#[inline(always)]
const fn chunks(from: u32, to: u32) -> u64 {
    let first = number(from) & 63;
    let last = number(to.wrapping_sub(1)) & 63;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

impl Stash {
    /// Which connection it is of.
    #[inline(always)]
    pub const fn server_isn(&self) -> u32 {
        (self.owner >> 32) as u32
    }

    /// Where a segment with this sequence number begins in the connection's bytes; a large number if that is before
    /// them.
    #[inline(always)]
    pub const fn place(&self, seq: u32) -> u32 {
        seq.wrapping_sub(self.client_isn).wrapping_sub(1)
    }

    /// Looks whether bytes from `from` to `to`, of which there is at least one, can be added, and would tell
    /// anything new.
    #[inline(always)]
    pub fn fits(&self, from: u32, to: u32) -> Added {
        if to <= self.known && from <= to {
            return Added::Known;
        }
        if from >= HEAD_LEN as u32 {
            return Added::No;
        }
        let mut touches = from <= self.known;
        let mut room = false;
        for range in &self.behind {
            if range.from as u32 <= from && to <= range.to as u32 {
                return Added::Known;
            }
            room |= range.to == 0;
            touches |= range.to > 0 && range.from as u32 <= to && from <= range.to as u32;
        }
        if touches || room { Added::New } else { Added::No }
    }

    /// Adds bytes that [`fits`](Self::fits) has allowed, and that end within [`HEAD_LEN`].
    #[inline(always)]
    fn add(&mut self, from: u32, to: u32) {
        let (mut from, mut to) = (from, to);
        for range in &mut self.behind {
            // No two touch, so one look at each is enough.
            let touches = range.to > 0 && range.from as u32 <= to && from <= range.to as u32;
            if touches {
                from = from.min(range.from as u32);
                to = to.max(range.to as u32);
                *range = Range::EMPTY;
            }
        }
        if from <= self.known {
            self.known = self.known.max(to);
            return;
        }
        for range in &mut self.behind {
            if range.to == 0 {
                *range = Range { from: from as u16, to: to as u16 };
                return;
            }
        }
    }

    /// The reader of a head whose bytes were delivered.
    #[inline(always)]
    pub const fn reader(&self) -> &Head {
        // SAFETY: both are made of integers, and there is room for it there, where it is aligned: see below.
        unsafe { &*(&raw const self.scan[READER]).cast() }
    }

    /// Keeps one.
    #[inline(always)]
    pub const fn set_reader(&mut self, head: &Head) {
        // SAFETY: as above.
        unsafe { *(&raw mut self.scan[READER]).cast() = *head };
    }

    /// Whether something is missing before bytes that are there.
    #[inline(always)]
    pub fn has_holes(&self) -> bool {
        let mut any = false;
        for range in &self.behind {
            any |= range.to > 0;
        }
        any
    }

    /// Notes that the connection ends behind so many bytes. Returns whether that is new.
    #[inline(always)]
    pub const fn end_at(&mut self, len: u32) -> bool {
        if self.end != 0 {
            return false;
        }
        self.end = len.wrapping_add(1);
        true
    }

    /// Whether the last of the known bytes is the connection's last.
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.end == self.known.wrapping_add(1)
    }
}
