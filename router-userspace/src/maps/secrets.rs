//! The cluster's keys and clock in the map `SECRETS`.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use router_ebpf::{
    maps::Secrets,
    schema::{FILLED, Map},
};
use rustix::{
    rand::{GetRandomFlags, getrandom},
    time::{ClockId, clock_gettime},
};
use tracing::{info, warn};

use super::{handle::Array, tables::Tables};
use crate::plan::config::SecretFiles;

/// A drift of the wall clock that is worth a write.
const DRIFT: Duration = Duration::from_millis(50);
/// Three ticks (see `router_ebpf::syn_cookie`): no cookie that was made before is good any more.
const LATE: Duration = Duration::from_nanos(3 << 36);

/// A key of SipHash.
pub type Key = router_ebpf::siphash::Key;

/// The keys in `SECRETS`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// SYN cookies are made with it.
    pub handshake: Key,
    /// It is accepted, too; the same if there is none.
    pub handshake_before: Key,
    /// Chat keys are hashed under it.
    pub chat: Key,
}

impl Keys {
    /// Keys that nobody knows.
    pub fn random() -> Result<Self> {
        let handshake = random()?;
        Ok(Self { handshake, handshake_before: handshake, chat: random()? })
    }

    /// The keys of pinned maps, if a daemon has filled them.
    pub fn pinned(pin_dir: &Path) -> Option<Self> {
        let secrets = Array::<Secrets>::open(pin_dir, Map::Secrets).ok()?.get(0).ok()?;
        (secrets.schema != 0).then(|| Self::of(&secrets))
    }

    fn of(secrets: &Secrets) -> Self {
        let Secrets { handshake, handshake_before, chat, .. } = *secrets;
        Self { handshake, handshake_before, chat }
    }
}

impl fmt::Debug for Keys {
    /// Keys are in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// Fills `SECRETS`: from the files, else from what the map holds, else from the kernel's random
/// numbers.
pub fn set(tables: &mut Tables, files: &SecretFiles) -> Result<()> {
    let old = tables.secrets.get(0)?;
    let is_new = old.schema == 0;
    let wanted = |file: &Option<PathBuf>, field: &str, old: Key| match file {
        Some(file) => read_key(file).with_context(|| format!("secrets.{field}")),
        None if is_new => random(),
        None => Ok(old),
    };
    let handshake = wanted(&files.handshake_file, "handshake_file", old.handshake)?;
    let chat = wanted(&files.chat_file, "chat_file", old.chat)?;
    // Handshakes that began under the old key may still end.
    let handshake_before = match () {
        () if is_new => handshake,
        () if handshake != old.handshake => {
            info!("the handshake key has changed; the one before stays good for what is in flight");
            old.handshake
        }
        () => old.handshake_before,
    };
    put(tables, Keys { handshake, handshake_before, chat })
}

/// Fills `SECRETS` with these keys.
pub fn put(tables: &mut Tables, keys: Keys) -> Result<()> {
    let old = tables.secrets.get(0)?;
    let Keys { handshake, handshake_before, chat } = keys;
    if old.schema != 0 && chat != old.chat {
        warn!(
            "the chat key has changed: chats without a live connection get other homes, and what \
             `roost chat` has registered is found no more"
        );
    }
    let new = Secrets {
        schema: FILLED,
        reserved: 0,
        clock_offset: clock_offset(),
        handshake,
        handshake_before,
        chat,
    };
    Ok(tables.secrets.set(0, &new)?)
}

/// Follows the wall clock, so that all nodes count the same ticks.
pub fn refresh_clock(tables: &mut Tables) -> Result<()> {
    let mut secrets = tables.secrets.get(0)?;
    let offset = clock_offset();
    if Duration::from_nanos(secrets.clock_offset.abs_diff(offset)) >= DRIFT {
        secrets.clock_offset = offset;
        tables.secrets.set(0, &secrets)?;
    }
    Ok(())
}

/// A handshake key that is not used any more, and since when that is known.
#[derive(Default)]
pub struct Leaving(Option<(Key, Duration)>);

impl Leaving {
    /// Ends the acceptance of a key when all that was in flight under it has arrived. Not for keys of a
    /// Secret, where the one besides may be the next.
    pub fn expire(&mut self, tables: &mut Tables, now: Duration) -> Result<()> {
        let secrets = tables.secrets.get(0)?;
        let mut keys = Keys::of(&secrets);
        if self.is_over(keys, now) {
            info!("the handshake key before is not accepted any more");
            keys.handshake_before = keys.handshake;
            put(tables, keys)?;
        }
        Ok(())
    }

    fn is_over(&mut self, keys: Keys, now: Duration) -> bool {
        let Keys { handshake, handshake_before: before, .. } = keys;
        self.0 = match self.0 {
            _ if before == handshake => None,
            Some((key, since)) if key == before => Some((key, since)),
            _ => Some((before, now)),
        };
        self.0.take_if(|(_, since)| now.saturating_sub(*since) >= LATE).is_some()
    }
}

/// Since boot, on the clock that the data path uses.
pub fn monotonic() -> Duration {
    since_epoch(ClockId::Monotonic)
}

fn clock_offset() -> u64 {
    let (wall, monotonic) = (since_epoch(ClockId::Realtime), monotonic());
    wall.saturating_sub(monotonic).as_nanos() as u64
}

fn since_epoch(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A key that nobody knows.
pub fn random() -> Result<Key> {
    let mut bytes = [0; 16];
    let got = getrandom(&mut bytes, GetRandomFlags::empty()).context("getting random numbers")?;
    if got != bytes.len() {
        bail!("the kernel gave {got} random bytes instead of 16");
    }
    Ok(words(u128::from_ne_bytes(bytes)))
}

/// Reads a file of 32 hex digits.
fn read_key(path: &Path) -> Result<Key> {
    let text =
        fs::read_to_string(path).with_context(|| format!("reading the file {}", path.display()))?;
    // What is wrong with a key is not printed.
    parse_key(&text).with_context(|| {
        format!(
            "the file {} has {} characters; it must hold 32 hex digits (`openssl rand -hex 16` \
             makes them)",
            path.display(),
            text.trim().chars().count()
        )
    })
}

/// A key of 32 hex digits.
pub(crate) fn parse_key(text: &str) -> Option<Key> {
    let digits = text.trim();
    let is_key = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_key.then(|| u128::from_str_radix(digits, 16).ok().map(words)).flatten()
}

/// A key as its 32 hex digits.
pub(crate) fn key_text(key: &Key) -> String {
    format!("{:016x}{:016x}", key[0], key[1])
}

fn words(key: u128) -> Key {
    [(key >> 64) as u64, key as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_has_32_hex_digits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "000102030405060708090a0b0c0d0e0f\n").unwrap();
        let key = [0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f];
        assert_eq!(read_key(&path).unwrap(), key);
        fs::write(&path, "0001").unwrap();
        let e = read_key(&path).unwrap_err().to_string();
        assert!(e.contains("has 4 characters; it must hold 32 hex digits"), "{e}");
    }

    #[test]
    fn random_keys_differ() {
        assert_ne!(random().unwrap(), random().unwrap());
    }

    #[test]
    fn the_key_before_is_dropped_when_nothing_under_it_is_in_flight() {
        let keys =
            |now, before| Keys { handshake: [now; 2], handshake_before: [before; 2], chat: [9; 2] };
        let (mut leaving, at) = (Leaving::default(), Duration::from_secs);
        assert!(!leaving.is_over(keys(1, 1), at(0)));
        assert!(!leaving.is_over(keys(2, 1), at(1000)));
        assert!(!leaving.is_over(keys(2, 1), at(1200)));
        // Another one is replaced meanwhile.
        assert!(!leaving.is_over(keys(3, 2), at(1205)));
        assert!(!leaving.is_over(keys(3, 2), at(1400)));
        assert!(leaving.is_over(keys(3, 2), at(1412)));
        assert!(!leaving.is_over(keys(3, 3), at(1413)));
    }
}
