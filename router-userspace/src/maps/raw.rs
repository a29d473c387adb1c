//! A pinned map as bytes, whichever release has made it.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::maps::{MapInfo, MapType};

use crate::os::sys;

/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;

/// A map, and what its keys and values are like.
#[derive(Debug)]
pub struct Raw {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
    kind: MapType,
}

impl Raw {
    /// Opens what is pinned at `path`; `None` if nothing is. Of per-CPU maps only the shape can be asked for.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let fd = match sys::open_pin(path) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let info = MapInfo::from_pin(path).map_err(io::Error::other)?;
        let kind = info.map_type().map_err(io::Error::other)?;
        let (key_size, value_size) = (info.key_size() as usize, info.value_size() as usize);
        Ok(Some(Self { fd, key_size, value_size, kind }))
    }

    /// Its type, and bytes of a key and a value.
    pub fn shape(&self) -> (MapType, usize, usize) {
        (self.kind, self.key_size, self.value_size)
    }

    /// Calls `each` with every key and value, while others change them.
    pub fn each(&self, each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        self.has_one_value()?;
        // SAFETY: the sizes are the map's own, and a key has one value.
        unsafe { sys::each_entry(self.fd.as_fd(), self.key_size, self.value_size, each) }
    }

    /// An entry's value.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.has_one_value()?;
        self.check(key, self.key_size)?;
        let mut value = vec![0; self.value_size];
        // SAFETY: the sizes are the map's own, and a key has one value.
        let is_there = unsafe { sys::read_entry(self.fd.as_fd(), key, &mut value) }?;
        Ok(is_there.then_some(value))
    }

    /// Makes or replaces an entry.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.write(key, value, 0)
    }

    /// Makes an entry, unless there is one; arrays have all from the beginning.
    pub fn add(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match self.write(key, value, ONLY_NEW) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    /// Removes an entry; it may be gone already. Those of arrays stay.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.check(key, self.key_size)?;
        if self.kind == MapType::Array {
            return Ok(());
        }
        // SAFETY: the size is the map's own.
        unsafe { sys::remove_entry(self.fd.as_fd(), key) }.map(drop)
    }

    fn write(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        self.has_one_value()?;
        self.check(key, self.key_size)?;
        self.check(value, self.value_size)?;
        // SAFETY: the sizes are the map's own, and a key has one value.
        unsafe { sys::write_entry(self.fd.as_fd(), key, value, flags) }
    }

    /// Refuses maps with values for each CPU: the kernel would read and write more than a value.
    fn has_one_value(&self) -> io::Result<()> {
        match self.kind {
            MapType::Hash | MapType::LruHash | MapType::Array | MapType::LpmTrie => Ok(()),
            kind => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("a map of type {kind:?} is not read as bytes"),
            )),
        }
    }

    fn check(&self, bytes: &[u8], size: usize) -> io::Result<()> {
        if bytes.len() == size {
            return Ok(());
        }
        let text = format!("{} bytes where the map has {size}", bytes.len());
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}
