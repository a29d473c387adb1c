//! What one more connection costs in map memory.

use anyhow::{Context, Result, ensure};
use aya::Pod;
use router_ebpf::maps::{Chat, ChatKey, NO_REPLICA, Name};
use router_ebpf::schema::Map;

use super::kernel::Kernel;
use super::packets::{any_back, any_flow, numbered_tuple};

/// Entries to measure with.
const ENTRIES: u32 = 1000;
/// Sizes that the kernel's allocator hands out (`kmalloc_info` in mm/slab_common.c): the elements of
/// a map that is not preallocated come from there.
const SIZE_CLASSES: [u64; 9] = [32, 64, 96, 128, 192, 256, 512, 1024, 2048];

/// One more entry of a map.
pub struct Entry {
    /// The map.
    pub map: Map,
    /// Bytes of the element, measured: what the kernel says that the map takes more.
    pub accounted: u64,
    /// Bytes that this takes: the allocator's next size.
    pub allocated: u64,
}

/// What one more flow and one more chat cost.
pub struct Memory {
    /// Each map that holds one entry more.
    pub entries: Vec<Entry>,
}

impl Memory {
    /// Measures it.
    pub fn measure(kernel: &mut Kernel) -> Result<Self> {
        let chat = Chat {
            state: Chat::pack(NO_REPLICA, 0),
            bound_at: 0,
            since: 0,
            key: Name::EMPTY,
            source: 0,
        };
        let key = |n| ChatKey { cookie: u64::from(n), service: u32::MAX, reserved: 0 };
        let entries = vec![
            entry(kernel, Map::Flows, numbered_tuple, any_flow())?,
            entry(kernel, Map::FlowsBack, numbered_tuple, any_back())?,
            entry(kernel, Map::Chats, key, chat)?,
        ];
        Ok(Self { entries })
    }

    /// Bytes for one more connection in a chat that has one already.
    pub fn per_flow(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.map != Map::Chats).map(|e| e.allocated).sum()
    }

    /// Bytes for the first connection of a chat: the most that one can cost.
    pub fn per_connection(&self) -> u64 {
        self.entries.iter().map(|entry| entry.allocated).sum()
    }
}

fn entry<K: Pod, V: Pod>(
    kernel: &mut Kernel,
    of: Map,
    key: impl Fn(u32) -> K,
    value: V,
) -> Result<Entry> {
    let map = of.pin();
    let before = kernel.memory(map)?;
    let mut entries = kernel.hash(map)?;
    for n in 0..ENTRIES {
        entries.insert(key(n), value, 0).with_context(|| format!("writing the map {map}"))?;
    }
    let full = kernel.memory(map)?;
    let mut entries = kernel.hash::<K, V>(map)?;
    for n in 0..ENTRIES {
        entries.remove(&key(n)).with_context(|| format!("clearing the map {map}"))?;
    }
    let accounted = (full - before) / u64::from(ENTRIES);
    ensure!(
        accounted >= (size_of::<K>() + size_of::<V>()) as u64,
        "the kernel says that {ENTRIES} entries of {map} take {} bytes: it does not count the \
         elements of maps that are not preallocated (Linux 6.4 does)",
        full - before
    );
    Ok(Entry { map: of, accounted, allocated: size_class(accounted) })
}

fn size_class(bytes: u64) -> u64 {
    SIZE_CLASSES.into_iter().find(|class| *class >= bytes).unwrap_or(bytes.next_power_of_two())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_take_the_next_size() {
        assert_eq!([1, 128, 129, 193, 3000].map(size_class), [32, 128, 192, 256, 4096]);
    }
}
