//! The pinned maps together, for the daemon and the command line. No daemon is needed: the kernel keeps them.

use std::path::{Path, PathBuf};

use router_ebpf::{
    maps::{
        Addr, Chat, ChatCookie, ChatKey, Chunk, ChunkKey, Farewell, Flow, FlowBack, Host, HostConn,
        Link, Load, Mac, Mark, Name, Pending, Problem, Replica, Ring, Secrets, Service, Share,
        Sharing, SourceRange, Stash, Tuple, Vip, Watched, WatchedChat,
    },
    schema::Map,
};
use thiserror::Error;

use super::{
    handle::{Array, Asked, Fault, Hash, LpmTrie, PerCpuArray, Queue},
    record::Record,
};

/// Where maps and links are pinned unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/roost";

/// A row of the schema as a handle.
macro_rules! handle {
    (HashMap<$key:ty, $value:ty>) => { Hash<$key, $value> };
    (LruHashMap<$key:ty, $value:ty>) => { Hash<$key, $value> };
    (Array<$key:ty, $value:ty>) => { Array<$value> };
    (PerCpuArray<$key:ty, $value:ty>) => { PerCpuArray<$value> };
    (LpmTrie<$key:ty, $value:ty>) => { LpmTrie<$key, $value> };
    (Queue<$key:ty, $value:ty>) => { Queue<$value> };
}

macro_rules! handles {
    ($($(#[doc = $doc:literal])+ $variant:ident $field:ident $pin:ident:
        $kind:ident<$key:ty, $value:ty>, version $version:literal,
        size($limits:ident) = $size:expr, $key_is:literal => $value_is:literal;)+) => {
        /// Handles of all pinned maps.
        pub struct Tables {
            $($(#[doc = $doc])+ pub $field: handle!($kind<$key, $value>),)+
        }

        impl Tables {
            fn of(pin_dir: &Path) -> Asked<Self> {
                Ok(Self { $($field: <handle!($kind<$key, $value>)>::open(pin_dir, Map::$variant)?,)+ })
            }
        }
    };
}

router_ebpf::schema!(handles);

/// Why the pinned maps cannot be used.
#[derive(Debug, Error)]
#[error("map {} at {} {}", .map.pin(), .path.display(), .cause.text(*.map))]
pub struct TablesError {
    /// The map.
    pub map: Map,
    /// Where it is pinned, or should be.
    pub path: PathBuf,
    /// What went wrong.
    pub cause: Cause,
}

/// What went wrong with a pinned map.
#[derive(Debug)]
pub enum Cause {
    /// It cannot be opened.
    Open(Fault),
    /// No daemon has filled the maps yet.
    Unfilled,
    /// It is of another version than this program expects.
    Other {
        /// Its version.
        found: u32,
    },
    /// It has other counters.
    Counters,
}

impl TablesError {
    fn new(pin_dir: &Path, map: Map, cause: Cause) -> Self {
        Self { map, path: pin_dir.join(map.pin()), cause }
    }

    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Open(fault) => fault.errno(),
            Cause::Unfilled | Cause::Other { .. } | Cause::Counters => None,
        }
    }

    /// Whether there is no such map: nothing of Roost is pinned there.
    pub fn is_absent(&self) -> bool {
        self.errno() == Some(libc::ENOENT)
    }
}

/// What to do about maps of another version.
const ANOTHER: &str = "use that roost, or let this one take over by `roost run`";

impl Cause {
    /// What is to be said of that map.
    fn text(&self, map: Map) -> String {
        match self {
            Self::Unfilled => {
                "was never filled: has `roost run` got as far as \"ready\"?".to_owned()
            }
            Self::Other { found } => format!(
                "is that of another version of roost (version {found} of the map; this program has {}): \
                 {ANOTHER}",
                map.version()
            ),
            Self::Counters => {
                format!("is that of another version of roost, which has other counters: {ANOTHER}")
            }
            Self::Open(fault) => {
                let hint = match fault.errno() {
                    Some(libc::ENOENT) => {
                        "is roost running, or was it detached? Another directory: --pin-dir"
                    }
                    Some(libc::EPERM | libc::EACCES) => {
                        "this needs root, or CAP_BPF and access to the directory"
                    }
                    Some(_) => "is --pin-dir on a bpffs?",
                    None => "it is not a map of this version of roost",
                };
                format!("cannot be opened: {}; {hint}", fault.cause())
            }
        }
    }
}

impl Tables {
    /// Opens the maps that a daemon has pinned and filled.
    pub fn open(pin_dir: &Path) -> Result<Self, TablesError> {
        let opening = |fault: Fault| TablesError::new(pin_dir, fault.map, Cause::Open(fault));
        // First, because what another version has made may lack or misshape any other.
        let secrets = Array::<Secrets>::open(pin_dir, Map::Secrets).map_err(opening)?;
        if secrets.get(0).map_err(opening)?.schema == 0 {
            return Err(TablesError::new(pin_dir, Map::Secrets, Cause::Unfilled));
        }
        let found = Record::read(pin_dir).map_err(opening)?.unwrap_or_default();
        if let Some((map, found)) = found.other() {
            return Err(TablesError::new(pin_dir, map, Cause::Other { found }));
        }
        if !found.is_own() {
            return Err(TablesError::new(pin_dir, Map::Counters, Cause::Counters));
        }
        Self::open_unfilled(pin_dir)
    }

    /// Opens pinned maps of this version whatever is in them: for the daemon, that fills them.
    pub fn open_unfilled(pin_dir: &Path) -> Result<Self, TablesError> {
        Self::of(pin_dir).map_err(|e| TablesError::new(pin_dir, e.map, Cause::Open(e)))
    }

    /// Every replica that is or was, with its number.
    pub fn all_replicas(&self) -> Asked<Vec<(u32, Replica)>> {
        let all = (0..).zip(self.replicas.range(0..self.replicas.room())?);
        Ok(all.filter(|(_, replica)| replica.state != 0).collect())
    }
}
