//! Handles of pinned maps, typed by the schema. They know their map's name, so that no error is without
//! it, and say "there is none" by `None` or `false` and not by an error.

use std::{hash::Hash as HashKey, io, ops::Range, os::fd::AsFd as _, path::Path};

use aya::{
    Pod,
    maps::{self, Map as Opened, MapData, MapError, MapType, lpm_trie::Key},
};
use router_ebpf::schema::{Kind, Map};
use thiserror::Error;

use crate::os::sys;

/// `BPF_NOEXIST` and `BPF_EXIST`.
const ONLY_NEW: u64 = 1;
const ONLY_OLD: u64 = 2;

/// A map that refused.
#[derive(Debug, Error)]
#[error("map {}: {}", .map.pin(), cause(.error))]
pub struct Fault {
    /// Which.
    pub map: Map,
    error: MapError,
}

impl Fault {
    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match &self.error {
            MapError::SyscallError(e) => e.io_error.raw_os_error(),
            MapError::IoError(e) => e.raw_os_error(),
            MapError::PinError { error: aya::pin::PinError::SyscallError(e), .. } => {
                e.io_error.raw_os_error()
            }
            _ => None,
        }
    }

    /// The cause alone.
    pub fn cause(&self) -> String {
        cause(&self.error)
    }
}

fn cause(error: &MapError) -> String {
    match error {
        MapError::SyscallError(e) => e.io_error.to_string(),
        e => e.to_string(),
    }
}

/// A result of asking a map.
pub type Asked<T> = Result<T, Fault>;

fn fault<T>(map: Map, result: Result<T, MapError>) -> Asked<T> {
    result.map_err(|error| Fault { map, error })
}

/// As [`fault`], with `None` where there was no such entry.
fn optional<T>(map: Map, result: Result<T, MapError>) -> Asked<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(error) => Err(Fault { map, error }),
    }
}

fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(e) => e.io_error.raw_os_error() == Some(libc::ENOENT),
        MapError::IoError(e) => e.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Opens a pinned map as one of aya's types, which compare the sizes of its keys and values.
fn open<T: TryFrom<Opened, Error = MapError>>(pin_dir: &Path, map: Map) -> Asked<(T, MapData)> {
    let path = pin_dir.join(map.pin());
    let open = || {
        let typed = T::try_from(Opened::from_map_data(MapData::from_pin(&path)?)?)?;
        // The same map once more: aya's types do not show their descriptor.
        Ok((typed, MapData::from_pin(&path)?))
    };
    fault(map, open())
}

/// The type of a map, in the kernel's words.
pub const fn kind(kind: Kind) -> MapType {
    match kind {
        Kind::LpmTrie => MapType::LpmTrie,
        Kind::HashMap => MapType::Hash,
        Kind::LruHashMap => MapType::LruHash,
        Kind::Array => MapType::Array,
        Kind::PerCpuArray => MapType::PerCpuArray,
    }
}

/// A hash map, LRU or not.
pub struct Hash<K, V> {
    of: Map,
    map: maps::HashMap<MapData, K, V>,
    data: MapData,
}

impl<K: Pod + Eq + HashKey, V: Pod> Hash<K, V> {
    /// Opens the pin of a map.
    pub fn open(pin_dir: &Path, of: Map) -> Asked<Self> {
        open(pin_dir, of).map(|(map, data)| Self { of, map, data })
    }

    /// An entry's value.
    pub fn get(&self, key: &K) -> Asked<Option<V>> {
        optional(self.of, self.map.get(key, 0))
    }

    /// Makes or replaces an entry.
    pub fn set(&mut self, key: &K, value: &V) -> Asked<()> {
        fault(self.of, self.map.insert(key, value, 0))
    }

    /// Makes an entry; `false`: there is one, and it stays as it is.
    pub fn add(&mut self, key: &K, value: &V) -> Asked<bool> {
        match self.map.insert(key, value, ONLY_NEW) {
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EEXIST) => {
                Ok(false)
            }
            result => fault(self.of, result).map(|()| true),
        }
    }

    /// Replaces an entry; `false`: there is none, and there will be none.
    pub fn replace(&mut self, key: &K, value: &V) -> Asked<bool> {
        Ok(optional(self.of, self.map.insert(key, value, ONLY_OLD))?.is_some())
    }

    /// Removes an entry; `false`: there was none.
    pub fn remove(&mut self, key: &K) -> Asked<bool> {
        Ok(optional(self.of, self.map.remove(key))?.is_some())
    }

    /// Removes an entry and returns its last value.
    pub fn take(&mut self, key: &K) -> Asked<Option<V>> {
        // SAFETY: opening has compared the sizes of both types with the map's.
        let taken = unsafe { sys::take_entry(self.data.fd().as_fd(), key) };
        fault(self.of, taken.map_err(MapError::IoError))
    }

    /// All entries, by one system call for thousands of them, while others change them: what comes or
    /// goes meanwhile may be missed, nothing comes twice.
    pub fn entries(&self) -> Asked<Vec<(K, V)>> {
        // SAFETY: opening has compared the sizes of both types with the map's.
        let entries = unsafe { sys::all_entries(self.data.fd().as_fd()) };
        fault(self.of, entries.map_err(MapError::IoError))
    }

    /// How many entries there are. It may change meanwhile: never more than there is room for.
    pub fn count(&self) -> Asked<usize> {
        let room = self.room()? as usize;
        Ok(self.map.keys().take_while(Result::is_ok).take(room).count())
    }

    /// The most entries that it takes.
    pub fn room(&self) -> Asked<u32> {
        fault(self.of, self.data.info()).map(|info| info.max_entries())
    }
}

/// An array.
pub struct Array<V: Pod> {
    of: Map,
    map: maps::Array<MapData, V>,
}

impl<V: Pod> Array<V> {
    /// Opens the pin of a map.
    pub fn open(pin_dir: &Path, of: Map) -> Asked<Self> {
        open(pin_dir, of).map(|(map, _)| Self { of, map })
    }

    /// A value.
    pub fn get(&self, index: u32) -> Asked<V> {
        fault(self.of, self.map.get(&index, 0))
    }

    /// Replaces a value.
    pub fn set(&mut self, index: u32, value: &V) -> Asked<()> {
        fault(self.of, self.map.set(index, value, 0))
    }

    /// Some of its values; what lies behind the end is left out.
    pub fn range(&self, range: Range<u32>) -> Asked<Vec<V>> {
        (range.start..range.end.min(self.room())).map(|index| self.get(index)).collect()
    }

    /// How many values it has.
    pub fn room(&self) -> u32 {
        self.map.len()
    }
}

/// An array with values for each CPU.
pub struct PerCpuArray<V: Pod> {
    of: Map,
    map: maps::PerCpuArray<MapData, V>,
}

impl<V: Pod> PerCpuArray<V> {
    /// Opens the pin of a map.
    pub fn open(pin_dir: &Path, of: Map) -> Asked<Self> {
        open(pin_dir, of).map(|(map, _)| Self { of, map })
    }

    /// The values of all CPUs.
    pub fn get(&self, index: u32) -> Asked<maps::PerCpuValues<V>> {
        fault(self.of, self.map.get(&index, 0))
    }

    /// Replaces the values of all CPUs.
    pub fn set(&mut self, index: u32, values: maps::PerCpuValues<V>) -> Asked<()> {
        fault(self.of, self.map.set(index, values, 0))
    }

    /// How many values each CPU has.
    pub fn room(&self) -> u32 {
        self.map.len()
    }
}

/// A map of prefixes.
pub struct LpmTrie<K, V> {
    of: Map,
    map: maps::LpmTrie<MapData, K, V>,
    data: MapData,
}

impl<K: Pod, V: Pod> LpmTrie<K, V> {
    /// Opens the pin of a map.
    pub fn open(pin_dir: &Path, of: Map) -> Asked<Self> {
        open(pin_dir, of).map(|(map, data)| Self { of, map, data })
    }

    /// The most entries that it takes.
    pub fn room(&self) -> Asked<u32> {
        fault(self.of, self.data.info()).map(|info| info.max_entries())
    }

    /// The value of the longest prefix that fits.
    pub fn find(&self, key: &Key<K>) -> Asked<Option<V>> {
        optional(self.of, self.map.get(key, 0))
    }

    /// Makes or replaces an entry.
    pub fn set(&mut self, prefix_len: u32, key: K, value: &V) -> Asked<()> {
        fault(self.of, self.map.insert(&Key::new(prefix_len, key), value, 0))
    }

    /// Removes an entry; `false`: there was none.
    pub fn remove(&mut self, prefix_len: u32, key: K) -> Asked<bool> {
        Ok(optional(self.of, self.map.remove(&Key::new(prefix_len, key)))?.is_some())
    }

    /// All entries: prefix length in bits, key and value.
    pub fn entries(&self) -> Asked<Vec<(u32, K, V)>> {
        let entry = |entry| {
            let (key, value): (Key<K>, V) = fault(self.of, entry)?;
            Ok((key.prefix_len(), key.data(), value))
        };
        self.map.iter().map(entry).collect()
    }
}
