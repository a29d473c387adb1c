//! The cluster's keys and clock in the map `SECRETS`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use router_ebpf::maps::{SCHEMA, Secrets};
use rustix::{
    rand::{GetRandomFlags, getrandom},
    time::{ClockId, clock_gettime},
};
use tracing::{info, warn};

use crate::{config::SecretFiles, tables::Tables};

/// A drift of the wall clock that is worth a write.
const DRIFT: Duration = Duration::from_millis(50);

/// Fills `SECRETS`: from the files, else from what the map holds, else from the kernel's random
/// numbers.
pub fn set(tables: &mut Tables, files: &SecretFiles) -> Result<()> {
    let old = tables.secrets.get(&0, 0).context("reading the map SECRETS")?;
    let is_new = old.schema == 0;
    let wanted = |file: &Option<PathBuf>, field: &str, old: [u64; 2]| match file {
        Some(file) => read_key(file).with_context(|| format!("secrets.{field}")),
        None if is_new => random(),
        None => Ok(old),
    };
    let handshake = wanted(&files.handshake_file, "handshake_file", old.handshake)?;
    let chat = wanted(&files.chat_file, "chat_file", old.chat)?;
    if !is_new && chat != old.chat {
        warn!(
            "the chat key has changed: chats without a live connection get other homes, and what \
             `roost chat` has registered is found no more"
        );
    }
    // Handshakes that began under the old key may still end.
    let handshake_before = match () {
        () if is_new => handshake,
        () if handshake != old.handshake => {
            info!("the handshake key has changed; the one before stays good for what is in flight");
            old.handshake
        }
        () => old.handshake_before,
    };
    let new = Secrets {
        schema: SCHEMA,
        reserved: 0,
        clock_offset: clock_offset(),
        handshake,
        handshake_before,
        chat,
    };
    tables.secrets.set(0, new, 0).context("writing the map SECRETS")
}

/// Follows the wall clock, so that all nodes count the same ticks.
pub fn refresh_clock(tables: &mut Tables) -> Result<()> {
    let mut secrets = tables.secrets.get(&0, 0).context("reading the map SECRETS")?;
    let offset = clock_offset();
    if Duration::from_nanos(secrets.clock_offset.abs_diff(offset)) >= DRIFT {
        secrets.clock_offset = offset;
        tables.secrets.set(0, secrets, 0).context("writing the map SECRETS")?;
    }
    Ok(())
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

fn random() -> Result<[u64; 2]> {
    let mut bytes = [0; 16];
    let got = getrandom(&mut bytes, GetRandomFlags::empty()).context("getting random numbers")?;
    if got != bytes.len() {
        bail!("the kernel gave {got} random bytes instead of 16");
    }
    Ok(words(u128::from_ne_bytes(bytes)))
}

/// Reads a file of 32 hex digits.
fn read_key(path: &Path) -> Result<[u64; 2]> {
    let text =
        fs::read_to_string(path).with_context(|| format!("reading the file {}", path.display()))?;
    let digits = text.trim();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        // What is wrong with a key is not printed.
        bail!(
            "the file {} has {} characters; it must hold 32 hex digits (`openssl rand -hex 16` \
             makes them)",
            path.display(),
            digits.chars().count()
        );
    }
    Ok(words(u128::from_str_radix(digits, 16)?))
}

fn words(key: u128) -> [u64; 2] {
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
}
