//! Typed access to the pinned maps, for the daemon, the sweeper and the command line. No daemon is
//! needed: the kernel keeps them.

mod hash;

use std::{
    collections::HashMap as StdHashMap,
    fmt,
    hash::Hash as HashKey,
    io,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use router_ebpf::maps::{
    Chat, ChatCookie, ChatKey, Flow, FlowBack, Pending, Replica, SCHEMA, Secrets, Service, Stash,
    Tuple, Vip,
};

pub use hash::Hash;

/// Where maps and links are pinned unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/roost";

/// The pinned maps of the public schema (`router_ebpf::maps`).
pub struct Tables {
    /// `VIPS`.
    pub vips: LpmTrie<MapData, Vip, u32>,
    /// `SERVICES`.
    pub services: Hash<u32, Service>,
    /// `REPLICAS`.
    pub replicas: Array<MapData, Replica>,
    /// `SLOTS`.
    pub slots: Array<MapData, u32>,
    /// `CHAT_COOKIES`.
    pub chat_cookies: Hash<ChatKey, ChatCookie>,
    /// `CHATS`.
    pub chats: Hash<ChatKey, Chat>,
    /// `PENDING`.
    pub pending: Hash<Tuple, Pending>,
    /// `STASH`.
    pub stash: Hash<Tuple, Stash>,
    /// `FLOWS`.
    pub flows: Hash<Tuple, Flow>,
    /// `FLOWS_BACK`.
    pub flows_back: Hash<Tuple, FlowBack>,
    /// `SECRETS`.
    pub secrets: Array<MapData, Secrets>,
    /// `COUNTERS`.
    pub counters: PerCpuArray<MapData, u64>,
}

/// Why the pinned maps cannot be used.
#[derive(Debug)]
pub struct TablesError {
    /// The map.
    pub map: &'static str,
    /// Where it is pinned, or should be.
    pub path: PathBuf,
    /// What went wrong.
    pub cause: Cause,
}

/// What went wrong with a pinned map.
#[derive(Debug)]
pub enum Cause {
    /// It cannot be opened.
    Open(MapError),
    /// It holds something else than this program expects.
    Schema {
        /// What `SECRETS.schema` says.
        found: u32,
    },
}

impl TablesError {
    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Open(MapError::SyscallError(e)) => e.io_error.raw_os_error(),
            Cause::Open(MapError::IoError(e)) => e.raw_os_error(),
            _ => None,
        }
    }

    /// Whether there is no such map: nothing of Roost is pinned there.
    pub fn is_absent(&self) -> bool {
        self.errno() == Some(libc::ENOENT)
    }
}

impl fmt::Display for TablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, path, cause } = self;
        let path = path.display();
        match cause {
            Cause::Schema { found: 0 } => write!(
                f,
                "map {map} at {path} was never filled: has `roost run` got as far as \"ready\"?"
            ),
            Cause::Schema { found } => write!(
                f,
                "map {map} at {path} has schema {found}, this program has {SCHEMA}: use the roost \
                 that made it, or `roost detach` and start anew (ends the connections)"
            ),
            Cause::Open(e) => {
                write!(f, "map {map} at {path} cannot be opened: ")?;
                match e {
                    MapError::SyscallError(e) => write!(f, "{}", e.io_error)?,
                    e => write!(f, "{e}")?,
                }
                match self.errno() {
                    Some(libc::ENOENT) => f.write_str(
                        "; is roost running, or was it detached? Another directory: --pin-dir",
                    ),
                    Some(libc::EPERM | libc::EACCES) => {
                        f.write_str("; this needs root, or CAP_BPF and access to the directory")
                    }
                    Some(_) => f.write_str("; is --pin-dir on a bpffs?"),
                    None => f.write_str("; it is not a map of this version of roost"),
                }
            }
        }
    }
}

impl std::error::Error for TablesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None // Display says it all.
    }
}

impl Tables {
    /// Opens the maps that a daemon has pinned and filled.
    pub fn open(pin_dir: &Path) -> Result<Self, TablesError> {
        let tables = Self::open_unfilled(pin_dir)?;
        match tables.schema() {
            Ok(SCHEMA) => Ok(tables),
            Ok(found) => Err(secrets_error(pin_dir, Cause::Schema { found })),
            Err(e) => Err(secrets_error(pin_dir, Cause::Open(e))),
        }
    }

    /// Opens pinned maps whatever is in them: for the daemon, that fills them.
    pub(crate) fn open_unfilled(pin_dir: &Path) -> Result<Self, TablesError> {
        // First, because whose version differs may lack or misshape any other.
        let secrets = open(pin_dir, "SECRETS")?;
        Ok(Self {
            vips: open(pin_dir, "VIPS")?,
            services: open_hash(pin_dir, "SERVICES")?,
            replicas: open(pin_dir, "REPLICAS")?,
            slots: open(pin_dir, "SLOTS")?,
            chat_cookies: open_hash(pin_dir, "CHAT_COOKIES")?,
            chats: open_hash(pin_dir, "CHATS")?,
            pending: open_hash(pin_dir, "PENDING")?,
            stash: open_hash(pin_dir, "STASH")?,
            flows: open_hash(pin_dir, "FLOWS")?,
            flows_back: open_hash(pin_dir, "FLOWS_BACK")?,
            secrets,
            counters: open(pin_dir, "COUNTERS")?,
        })
    }

    fn schema(&self) -> Result<u32, MapError> {
        Ok(self.secrets.get(&0, 0)?.schema)
    }

    /// Every VIP: prefix length in bits of [`Vip`], the VIP, and its service's number.
    pub fn all_vips(&self) -> Result<Vec<(u32, Vip, u32)>, MapError> {
        let mut all = Vec::new();
        for entry in &self.vips {
            let (key, service): (Key<Vip>, u32) = entry?;
            all.push((key.prefix_len(), key.data(), service));
        }
        Ok(all)
    }

    /// Every replica that is or was, with its number.
    pub fn all_replicas(&self) -> Result<Vec<(u32, Replica)>, MapError> {
        let mut all = Vec::new();
        for number in 0..self.replicas.len() {
            let replica = self.replicas.get(&number, 0)?;
            if replica.state != 0 {
                all.push((number, replica));
            }
        }
        Ok(all)
    }
}

fn open_hash<K: Pod + Eq + HashKey, V: Pod>(
    pin_dir: &Path,
    map: &'static str,
) -> Result<Hash<K, V>, TablesError> {
    let path = pin_dir.join(map);
    Hash::from_pin(&path).map_err(|e| TablesError { map, path, cause: Cause::Open(e) })
}

fn secrets_error(pin_dir: &Path, cause: Cause) -> TablesError {
    TablesError { map: "SECRETS", path: pin_dir.join("SECRETS"), cause }
}

fn open<T: TryFrom<Map, Error = MapError>>(
    pin_dir: &Path,
    map: &'static str,
) -> Result<T, TablesError> {
    let path = pin_dir.join(map);
    let data = MapData::from_pin(&path).and_then(Map::from_map_data).and_then(T::try_from);
    data.map_err(|e| TablesError { map, path, cause: Cause::Open(e) })
}

/// Reads a hash map entry by entry, while others change it; [`Hash::entries`] is much quicker. An
/// entry may be missed or be gone by now, but none comes twice, and a walk that deletions throw back
/// to the start ends.
pub fn entries<K: Pod + Eq + HashKey, V: Pod>(
    map: &HashMap<MapData, K, V>,
) -> Result<Vec<(K, V)>, MapError> {
    let mut seen = StdHashMap::new();
    let mut again = 0usize;
    for entry in map {
        let (key, value) = entry?;
        if seen.insert(key, value).is_some() {
            again += 1;
            if again > seen.len() {
                break;
            }
        }
    }
    Ok(seen.into_iter().collect())
}

/// Whether an error says that there was no such entry.
pub fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(e) => e.io_error.raw_os_error() == Some(libc::ENOENT),
        MapError::IoError(e) => e.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// `Ok(None)` if there is no such entry.
pub fn optional<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
