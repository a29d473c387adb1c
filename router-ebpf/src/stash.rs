//! The first segments of a connection, put together: in which order they came, whether they overlap
//! and whether something is missing between them.

use crate::{
    maps::{PIECES, Piece, SCAN_WORDS, STASH_LEN, Stash},
    verifier::{index, masked, opaque},
    wire::flags,
};

/// A [`Stash`] with room behind it, so that a helper can be given any place in it and any length.
#[repr(C)]
pub struct Room {
    stash: Stash,
    slack: [u8; STASH_LEN],
}

/// What became of a segment that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Added {
    /// It is in the stash.
    New,
    /// All of it was there before.
    Known,
    /// There is no room: too many segments, or too many bytes.
    Full,
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

    /// The bytes from `at` on, with room for a payload.
    #[inline(always)]
    pub fn bytes_mut(&mut self, at: u32) -> &mut [u8; STASH_LEN] {
        let at = masked::<STASH_LEN>(at);
        let this: *mut Self = self;
        // SAFETY: `data` is the last field of `Stash`, which has no padding, and `slack` follows it:
        // 2 * STASH_LEN bytes in all, of which those from `at` < STASH_LEN on are taken.
        unsafe {
            let data = this.cast::<u8>().add(core::mem::offset_of!(Stash, data));
            &mut *data.add(at).cast()
        }
    }

    /// The bytes from `at` on.
    #[inline(always)]
    pub fn bytes(&self, at: u32) -> &[u8; STASH_LEN] {
        let at = masked::<STASH_LEN>(at);
        let this: *const Self = self;
        // SAFETY: as above.
        unsafe {
            let data = this.cast::<u8>().add(core::mem::offset_of!(Stash, data));
            &*data.add(at).cast()
        }
    }

    /// Begins a connection that has sent nothing yet.
    #[inline(always)]
    pub fn clear(&mut self, server_isn: u32, client_isn: u32) {
        let stash = &mut self.stash;
        stash.server_isn = server_isn;
        stash.client_isn = client_isn;
        stash.used = 0;
        stash.count = 0;
        stash.bound = 0;
        stash.missing = 0;
        stash.reserved = 0;
        stash.replica = 0;
        stash.key_len = 0;
        stash.generation = 0;
        stash.scan = [0; SCAN_WORDS];
        stash.pieces = [Piece::NONE; PIECES];
    }

    /// Copies an entry of the map. Another CPU may replace it meanwhile: the caller looks at its
    /// `server_isn` again.
    #[inline(always)]
    pub fn copy_from(&mut self, entry: *const Stash) {
        const WORD: usize = size_of::<u64>();
        const CHUNK: usize = 8;
        const HEAD: usize = core::mem::offset_of!(Stash, data) / WORD;
        const _: () = assert!(core::mem::offset_of!(Stash, data).is_multiple_of(WORD));
        let (from, to) = (entry.cast::<u64>(), (&raw mut self.stash).cast::<u64>());
        for i in 0..HEAD {
            // SAFETY: inside both, which are aligned to eight bytes. Volatile, or LLVM
            // makes it a call of memcpy, which there is not.
            unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        }
        let used = index(self.stash.used);
        // Some words at a time: the verifier walks through all of it, and each comparison counts.
        for chunk in 0..STASH_LEN / WORD / CHUNK {
            if chunk * CHUNK * WORD >= used {
                break;
            }
            for i in 0..CHUNK {
                let at = HEAD + chunk * CHUNK + i;
                // SAFETY: as above.
                unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
            }
        }
    }

    /// Looks whether a segment with `len` bytes from `seq` on can be added, and would tell anything
    /// new.
    #[inline(always)]
    pub fn fits(&self, seq: u32, len: u32) -> Added {
        let stash = &self.stash;
        for piece in &stash.pieces {
            let behind = seq.wrapping_sub(piece.seq);
            if behind <= piece.len as u32 && behind + len <= piece.len as u32 {
                return Added::Known;
            }
        }
        if stash.count as usize >= PIECES || stash.used + len > STASH_LEN as u32 {
            return Added::Full;
        }
        Added::New
    }

    /// Adds a segment that [`fits`](Self::fits), whose payload is at `used` already.
    #[inline(always)]
    pub fn add(&mut self, piece: Piece) {
        let stash = &mut self.stash;
        stash.used += piece.len as u32;
        let count = opaque(stash.count);
        stash.count = count + 1;
        // Written out: indexes that the verifier knows.
        stash.pieces[PIECES - 1] = piece;
        if count < 3 {
            stash.pieces.swap(2, 3);
        }
        if count < 2 {
            stash.pieces.swap(1, 2);
        }
        if count < 1 {
            stash.pieces.swap(0, 1);
        }
        sink(&mut stash.pieces, 3);
        sink(&mut stash.pieces, 2);
        sink(&mut stash.pieces, 1);
    }

    /// Notes a FIN behind the bytes up to `end`, if a segment ends there that had none.
    #[inline(always)]
    pub fn end_at(&mut self, end: u32) -> bool {
        for piece in &mut self.stash.pieces {
            let ends_here = piece.len > 0 && piece.seq.wrapping_add(piece.len as u32) == end;
            if ends_here && piece.tcp_flags & flags::FIN == 0 {
                piece.tcp_flags |= flags::FIN;
                return true;
            }
        }
        false
    }
}

/// Swaps a segment with the one before if it belongs there.
#[inline(always)]
fn sink(pieces: &mut [Piece; PIECES], i: usize) {
    let earlier = (pieces[i].seq.wrapping_sub(pieces[i - 1].seq) as i32) < 0;
    if pieces[i].len > 0 && earlier {
        pieces.swap(i, i - 1);
    }
}

impl Stash {
    /// Where a segment begins in the connection's bytes; beyond [`STASH_LEN`] if it is not one of
    /// the first.
    #[inline(always)]
    pub const fn start(&self, piece: &Piece) -> u32 {
        piece.seq.wrapping_sub(self.client_isn).wrapping_sub(1)
    }

    /// How many bytes there are from the beginning on without a gap.
    #[inline(always)]
    pub fn known(&self) -> u32 {
        let mut known = 0;
        for piece in &self.pieces {
            let start = self.start(piece);
            let end = start.wrapping_add(piece.len as u32);
            if start <= known && end > known {
                known = end;
            }
        }
        known
    }

    /// Whether a segment behind a gap would take the room of what is to fill it: too long is only what
    /// is so without a gap.
    #[inline(always)]
    pub fn leaves_no_room_before(&self, seq: u32, len: u32) -> bool {
        let start = seq.wrapping_sub(self.client_isn).wrapping_sub(1);
        let end = start.wrapping_add(len);
        let is_large = self.count as usize >= PIECES - 1 || end > STASH_LEN as u32;
        start > self.known() && is_large
    }

    /// The segment that has the byte `at`: where it ends, and how far `at` is from its place in
    /// `data`.
    #[inline(always)]
    pub fn locate(&self, at: u32) -> Option<(u32, u32)> {
        for piece in &self.pieces {
            let start = self.start(piece);
            let end = start.wrapping_add(piece.len as u32);
            if start <= at && at < end {
                return Some((end, (piece.at as u32).wrapping_sub(start)));
            }
        }
        None
    }

    /// Whether the last of the known bytes ends the connection.
    #[inline(always)]
    pub fn ends(&self, known: u32, fin: u8) -> bool {
        for piece in &self.pieces {
            let end = self.start(piece).wrapping_add(piece.len as u32);
            if piece.tcp_flags & fin != 0 && end == known {
                return true;
            }
        }
        false
    }
}
