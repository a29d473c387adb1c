//! Key sources: where the bytes that name the chat come from.
//!
//! To add one: a `KEY_*` number in [`crate::maps`], an arm in [`extract`], a row in the parser of the
//! daemon's configuration.

use crate::{
    maps::{
        Addr, KEY_CLIENT, KEY_DESTINATION, KEY_QUERY, NAME_LEN, Name, PARAM_LEN, STASH_LEN,
        Service, Tuple,
    },
    scratch::Scratch,
    siphash,
    tables::FlowTables,
};

/// The bytes that name a chat.
#[repr(C)]
pub struct Key {
    /// The key, zero behind `len` up to the next multiple of eight.
    pub bytes: [u8; STASH_LEN],
    /// Its length; never more than `bytes` has room for.
    pub len: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Key {
    /// Its hash under the cluster's secret.
    #[inline(always)]
    pub fn hash(&self, secret: &siphash::Key) -> u64 {
        siphash::bytes(secret, &self.bytes, self.len as usize)
    }

    /// Writes what of it stays readable.
    #[inline(always)]
    pub fn write_name(&self, name: &mut Name) {
        name.bytes.copy_from_slice(&self.bytes[..NAME_LEN]);
        name.len = self.len;
    }

    /// Makes it an address.
    #[inline(always)]
    pub fn set_addr(&mut self, addr: &Addr) {
        self.clear();
        self.bytes[..16].copy_from_slice(addr);
        self.len = 16;
    }

    /// Makes it a tuple: 36 bytes, as in [`Tuple`].
    #[inline(always)]
    pub fn set_tuple(&mut self, tuple: &Tuple) {
        self.clear();
        self.bytes[..16].copy_from_slice(&tuple.client);
        self.bytes[16..32].copy_from_slice(&tuple.server);
        self.bytes[32..34].copy_from_slice(&tuple.client_port);
        self.bytes[34..36].copy_from_slice(&tuple.server_port);
        self.len = 36;
    }

    /// Makes it text, for the tools: what does not fit is an error of the caller's.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        self.bytes = [0; STASH_LEN];
        for (to, from) in self.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.len = bytes.len().min(STASH_LEN) as u32;
    }

    /// Zeroes what a name is made of: the rest is written before it is read.
    #[inline(always)]
    fn clear(&mut self) {
        self.bytes[..NAME_LEN].copy_from_slice(&[0; NAME_LEN]);
        self.len = 0;
    }
}

/// Finds the key of a connection that begins with the `len` bytes in `scratch.stash.data` and puts
/// it into `scratch.key`. Returns whether there is one.
#[inline(always)]
pub fn extract(
    tables: &impl FlowTables,
    service: &Service,
    len: usize,
    scratch: &mut Scratch,
) -> bool {
    match service.key_source {
        KEY_QUERY => return query(tables, service, len, scratch),
        KEY_CLIENT => scratch.key.set_addr(&scratch.vip_side.client),
        KEY_DESTINATION => scratch.key.set_addr(&scratch.vip_side.server),
        _ => scratch.key.set_tuple(&scratch.vip_side),
    }
    true
}

/// State of a search through a request head. It lives in map memory: what the verifier does not
/// know about, it need not follow through every byte.
#[repr(C)]
pub struct Scan {
    part: u32,
    /// Bytes of the parameter's name that were the same so far; [`DIFFERS`] after one that was not.
    same: u32,
    /// Bytes to step over: the digits of a percent-encoded one.
    skip: u32,
    reserved: u32,
}

const IN_PATH: u32 = 0;
const IN_NAME: u32 = 1;
const IN_VALUE: u32 = 2;
const IN_OTHER_VALUE: u32 = 3;
const FOUND: u32 = 4;
const DIFFERS: u32 = u32::MAX;

/// The value of a query parameter in the request line of an HTTP/1.1 GET (RFC 9112 section 3),
/// decoded like a form: percent-encoded bytes and `+` (WHATWG URL, section 5.1). The first parameter
/// of that name counts; an empty value is a missing one, and so is one whose end is not in the
/// segment.
#[inline(always)]
fn query(tables: &impl FlowTables, service: &Service, len: usize, scratch: &mut Scratch) -> bool {
    if len < 4 || scratch.stash.data[..4] != *b"GET " {
        return false;
    }
    scratch.key.clear();
    scratch.scan = Scan { part: IN_PATH, same: 0, skip: 0, reserved: 0 };
    tables.each_byte(service, scratch, len as u32);
    scratch.scan.part == FOUND && finish(&mut scratch.key)
}

/// Looks at the byte `at` of a request head of `len` bytes. Returns whether to go on.
#[inline(always)]
pub fn query_step(service: &Service, scratch: &mut Scratch, at: usize, len: usize) -> bool {
    let Scratch { stash, scan, key, .. } = scratch;
    let Some(&byte) = stash.data.get(at) else {
        return false;
    };
    // The method, which was looked at before.
    if at < 4 {
        return true;
    }
    if byte == b' ' {
        scan.part = if scan.part == IN_VALUE { FOUND } else { IN_PATH };
        return false;
    }
    if scan.skip > 0 {
        scan.skip -= 1;
        return true;
    }
    match (scan.part, byte) {
        (IN_PATH, b'?') | (IN_OTHER_VALUE, b'&') => {
            scan.part = IN_NAME;
            scan.same = 0;
        }
        (IN_PATH | IN_OTHER_VALUE, _) => {}
        (IN_VALUE, b'&') => {
            scan.part = FOUND;
            return false;
        }
        (IN_NAME, b'&') => scan.same = 0,
        (IN_NAME, b'=') => {
            let found = scan.same == service.param_len as u32;
            scan.part = if found { IN_VALUE } else { IN_OTHER_VALUE };
        }
        _ => {
            let (decoded, skip) = decode(&stash.data, at, len, byte);
            scan.skip = skip;
            if scan.part == IN_NAME {
                scan.same = compare(service, scan.same, decoded);
            } else {
                push(key, decoded);
            }
        }
    }
    true
}

/// The byte at `at`, decoded, and how many more bytes of the text it takes. Digits that are none
/// leave the percent sign as it is.
#[inline(always)]
fn decode(data: &[u8; STASH_LEN], at: usize, len: usize, byte: u8) -> (u8, u32) {
    if byte == b'+' {
        return (b' ', 0);
    }
    if byte != b'%' || at + 2 >= len {
        return (byte, 0);
    }
    let high = digit(data[(at + 1) % STASH_LEN]);
    let low = digit(data[(at + 2) % STASH_LEN]);
    if high > 15 || low > 15 {
        return (byte, 0);
    }
    (high << 4 | low, 2)
}

/// The value of a hexadecimal digit, or more than 15.
#[inline(always)]
const fn digit(byte: u8) -> u8 {
    let number = byte.wrapping_sub(b'0');
    if number < 10 {
        return number;
    }
    let letter = (byte | 0x20).wrapping_sub(b'a');
    if letter < 6 { letter + 10 } else { 0xff }
}

#[inline(always)]
fn compare(service: &Service, same: u32, byte: u8) -> u32 {
    let at = core::hint::black_box(same) as usize;
    if at >= PARAM_LEN || at >= service.param_len as usize || service.param[at] != byte {
        return DIFFERS;
    }
    same + 1
}

#[inline(always)]
fn push(key: &mut Key, byte: u8) {
    let at = core::hint::black_box(key.len) as usize;
    if at < STASH_LEN {
        key.bytes[at] = byte;
        key.len += 1;
    }
}

/// Pads the key with zeros, as its hash wants it. An empty one is a missing one.
#[inline(always)]
fn finish(key: &mut Key) -> bool {
    if key.len == 0 {
        return false;
    }
    let end = core::hint::black_box(key.len) as usize;
    for i in 0..8 {
        let at = end + i;
        if at < STASH_LEN {
            key.bytes[at] = 0;
        }
    }
    true
}
