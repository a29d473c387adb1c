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
        Kind::Queue => MapType::Queue,
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

    /// How many entries there are. They are all read for it: not to be asked of a large map often.
    pub fn count(&self) -> Asked<usize> {
        let fd = self.data.fd().as_fd();
        // SAFETY: opening has compared the sizes of both types with the map's.
        let count = unsafe { sys::count_entries(fd, size_of::<K>(), size_of::<V>()) };
        fault(self.of, count.map_err(MapError::IoError))
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
    data: MapData,
}

impl<V: Pod> Array<V> {
    /// Opens the pin of a map.
    pub fn open(pin_dir: &Path, of: Map) -> Asked<Self> {
        open(pin_dir, of).map(|(map, data)| Self { of, map, data })
    }

    /// A value.
    pub fn get(&self, index: u32) -> Asked<V> {
        fault(self.of, self.map.get(&index, 0))
    }

    /// Replaces a value.
    pub fn set(&mut self, index: u32, value: &V) -> Asked<()> {
        fault(self.of, self.map.set(index, value, 0))
    }

    /// Some of its values, by one system call; what lies behind the end is left out.
    pub fn range(&self, range: Range<u32>) -> Asked<Vec<V>> {
        let range = range.start..range.end.min(self.room());
        // SAFETY: opening has compared the size of the type with the map's.
        let values = unsafe { sys::array_values(self.data.fd().as_fd(), range) };
        fault(self.of, values.map_err(MapError::IoError))
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

/// A queue.
pub struct Queue<V: Pod> {
    of: Map,
    map: maps::Queue<MapData, V>,
}

impl<V: Pod> Queue<V> {
    /// Opens the pin of a map.
    pub fn open(pin_dir: &Path, of: Map) -> Asked<Self> {
        open(pin_dir, of).map(|(map, _)| Self { of, map })
    }

    /// Takes the first value; `None`: there is none.
    pub fn take(&mut self) -> Asked<Option<V>> {
        optional(self.of, self.map.pop(0))
    }

    /// Puts a value at the end; `false`: there is no room.
    pub fn put(&mut self, value: &V) -> Asked<bool> {
        match self.map.push(value, 0) {
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Ok(false)
            }
            result => fault(self.of, result).map(|()| true),
        }
    }

    /// How many values it has room for.
    pub fn room(&self) -> usize {
        self.map.capacity() as usize
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

#[cfg(test)]
mod tests {
    use crate::testing::TestMaps;

    #[test]
    fn values_of_an_array_are_read_in_any_range() {
        let maps = TestMaps::new();
        let mut tables = maps.tables();
        let room = tables.slots.room();
        for index in [0, 1, 5000, room - 1] {
            tables.slots.set(index, &(index + 7)).unwrap();
        }
        let all = tables.slots.range(0..room).unwrap();
        assert_eq!(all.len(), room as usize);
        for index in [0, 1, 2, 5000, room - 1] {
            let value = tables.slots.get(index).unwrap();
            assert_eq!(all[index as usize], value);
            assert_eq!(tables.slots.range(index..index + 1).unwrap(), [value]);
        }
        assert_eq!(tables.slots.range(1..room).unwrap(), all[1..]);
        assert_eq!(tables.slots.range(room - 2..room + 9).unwrap(), all[room as usize - 2..]);
        for none in [0..0, room..room + 1, u32::MAX - 1..u32::MAX] {
            assert!(tables.slots.range(none).unwrap().is_empty());
        }
    }

    #[test]
    fn entries_are_counted_of_hash_maps_and_lru_ones() {
        let maps = TestMaps::new();
        let mut tables = maps.tables();
        assert_eq!(tables.flows.count().unwrap(), 0);
        // SAFETY: any bytes are a valid value of the maps' types.
        let flow = unsafe { std::mem::zeroed() };
        for port in 0..40 {
            let tuple = router_ebpf::maps::Tuple { client_port: [0, port], ..Default::default() };
            tables.flows.set(&tuple, &flow).unwrap();
            tables.ended.set(&tuple, &flow).unwrap();
        }
        assert_eq!((tables.flows.count().unwrap(), tables.ended.count().unwrap()), (40, 40));
    }

    #[test]
    fn a_queue_gives_what_was_put_first_and_holds_so_much() {
        let maps = TestMaps::new();
        let mut tables = maps.tables();
        let watched = |at| router_ebpf::maps::WatchedChat { at, ..Default::default() };
        assert_eq!(tables.chat_ring.take().unwrap(), None);
        let room = tables.chat_ring.room() as u32;
        for at in 0..room {
            assert!(tables.chat_ring.put(&watched(at)).unwrap());
        }
        assert!(!tables.chat_ring.put(&watched(room)).unwrap());
        assert_eq!(tables.chat_ring.take().unwrap(), Some(watched(0)));
    }
}
