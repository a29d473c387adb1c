//! What one more connection costs in map memory.
//!
//! Connections are opened through the programs, so every map in which that makes an entry is seen, whatever
//! it is for. How many bytes a map takes is what the kernel says (`memlock` in the fdinfo of a map, Linux 6.4):
//! it counts the elements of maps that are not preallocated. Their number is that, divided by the size of one;
//! what one really takes is the next size that the kernel's allocator hands out. Maps that are preallocated
//! (LRU maps, arrays) take as much with no connection as with all, and count for none.

use anyhow::{Result, ensure};
use router_ebpf::schema::Map;

use super::kernel::{Growing, Kernel};
use super::packets::Family;
use super::talk::Conn;

/// Connections to measure with.
const CONNECTIONS: u32 = 1000;
/// Sizes that the kernel's allocator hands out (`kmalloc_info` in mm/slab_common.c): the elements of
/// a map that is not preallocated come from there.
const SIZE_CLASSES: [u64; 9] = [32, 64, 96, 128, 192, 256, 512, 1024, 2048];
/// What an element has besides its key and value: `struct htab_elem`, and a link of the allocator
/// (kernel/bpf/hashtab.c, `htab_map_alloc` and `htab_map_mem_usage`).
const ELEMENT: u64 = 48 + 8;

/// Bytes that one more connection takes in a map.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The map.
    pub map: Map,
    /// Entries that are made for one connection.
    pub entries: u64,
    /// Bytes of an element, as the kernel counts them.
    pub accounted: u64,
    /// Bytes that this takes: the allocator's next size.
    pub allocated: u64,
}

/// What connections of one family cost.
pub struct Memory {
    /// The first of its chat, by map.
    pub first: Vec<Entry>,
    /// One more in the same chat, by map.
    pub further: Vec<Entry>,
}

impl Memory {
    /// Measures it with the clients from this number on, to chats from the same number on.
    pub fn measure(kernel: &Kernel, family: Family, from: u32) -> Result<Self> {
        let measure = |clients: u32| {
            let before = kernel.growing_maps()?;
            let chat = |n| from + (n - clients);
            Conn::open_all(kernel, family, clients..clients + CONNECTIONS, chat)?;
            entries(&before, &kernel.growing_maps()?)
        };
        Ok(Self { first: measure(from)?, further: measure(from + CONNECTIONS)? })
    }
}

/// Bytes of one connection in all maps.
pub fn total(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.entries * entry.allocated).sum()
}

fn entries(before: &[Growing], after: &[Growing]) -> Result<Vec<Entry>> {
    let mut grown = Vec::new();
    for (before, after) in before.iter().zip(after) {
        let (map, more) = (after.map, after.bytes - before.bytes);
        let accounted = ELEMENT + after.key.next_multiple_of(8) + after.value.next_multiple_of(8);
        let entries = more / accounted / u64::from(CONNECTIONS);
        ensure!(
            more == entries * accounted * u64::from(CONNECTIONS),
            "{} takes {more} bytes more with {CONNECTIONS} connections more, which is no number of \
             elements of {accounted} bytes for each",
            map.pin()
        );
        if entries > 0 {
            grown.push(Entry { map, entries, accounted, allocated: size_class(accounted) });
        }
    }
    ensure!(
        !grown.is_empty(),
        "the kernel says that connections take no memory: it does not count the elements of maps that \
         are not preallocated (Linux 6.4 does)"
    );
    Ok(grown)
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
