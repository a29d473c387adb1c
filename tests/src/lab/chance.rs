//! Where a chat lives is chance: its key is hashed under a secret that each daemon draws anew.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// That none of so many chats lives on one of three replicas happens once in 6 * 10^10 runs.
const CHATS: usize = 64;

/// Opens one chat after the other, from number 0 on, until they live on so many replicas. `open` tells
/// the home of the chat with a number; for three replicas it is called five or six times as a rule.
pub fn until_homes(count: usize, mut open: impl FnMut(usize) -> Result<String>) -> Result<()> {
    let mut homes = BTreeSet::new();
    for n in 0..CHATS {
        homes.insert(open(n)?);
        if homes.len() == count {
            return Ok(());
        }
    }
    bail!("{CHATS} chats, and they live on {homes:?}, not on {count} replicas")
}
