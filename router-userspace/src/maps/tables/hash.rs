//! A pinned hash map that can be read in batches: one system call for thousands of entries, where
//! walking takes two for each.

use std::{
    hash::Hash as HashKey,
    io,
    ops::{Deref, DerefMut},
    os::fd::AsFd as _,
    path::Path,
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use crate::os::sys;

/// A pinned hash map. It is aya's, with more ways to read.
pub struct Hash<K, V> {
    map: HashMap<MapData, K, V>,
    /// The same map once more: aya's does not show its descriptor.
    data: MapData,
}

impl<K: Pod + Eq + HashKey, V: Pod> Hash<K, V> {
    pub(super) fn from_pin(path: &Path) -> Result<Self, MapError> {
        let map = HashMap::try_from(Map::from_map_data(MapData::from_pin(path)?)?)?;
        Ok(Self { map, data: MapData::from_pin(path)? })
    }

    /// All entries, while others change them: what comes or goes meanwhile may be missed, nothing
    /// comes twice.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        // SAFETY: `from_pin` has compared the sizes of both types with the map's.
        unsafe { sys::all_entries(self.data.fd().as_fd()) }.map_err(MapError::IoError)
    }

    /// Removes an entry and returns its last value.
    pub fn take(&mut self, key: &K) -> Result<Option<V>, MapError> {
        // SAFETY: as in `entries`.
        unsafe { sys::take_entry(self.data.fd().as_fd(), key) }.map_err(MapError::IoError)
    }

    /// The most entries that it takes.
    pub fn room(&self) -> io::Result<u32> {
        self.data.info().map(|info| info.max_entries()).map_err(io::Error::other)
    }
}

impl<K, V> Deref for Hash<K, V> {
    type Target = HashMap<MapData, K, V>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

impl<K, V> DerefMut for Hash<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.map
    }
}
