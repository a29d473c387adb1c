//! Reading pinned maps for people: sorted, and with errors that name the map.

use std::{
    collections::BTreeMap,
    fs,
    hash::Hash as HashKey,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{Pod, maps::MapInfo};
use router_ebpf::{maps::Vip, schema::Map};

use super::{
    handle::{Asked, Hash, PerCpuArray},
    tables::Tables,
};
use crate::plan::addr::{Family, from_map, source_text};

/// All entries of a hash map, in the order of their keys.
pub fn sorted<K: Pod + Ord + HashKey, V: Pod>(map: &Hash<K, V>) -> Asked<BTreeMap<K, V>> {
    Ok(map.entries()?.into_iter().collect())
}

/// All services' addresses, sorted: prefix length in bits and VIP, with the service's number.
pub fn vips(tables: &Tables) -> Asked<BTreeMap<(u32, Vip), u32>> {
    Ok(tables
        .vips
        .entries()?
        .into_iter()
        .map(|(bits, vip, service)| ((bits, vip), service))
        .collect())
}

/// Prefixes of each service, sorted: of those that may connect, and of those that send the PROXY protocol.
pub fn ranges(tables: &Tables) -> Asked<[BTreeMap<u32, Vec<String>>; 2]> {
    let mut entries = tables.source_ranges.entries()?;
    entries.sort_by_key(|(bits, range, _)| (range.addr, *bits));
    let mut ranges = <[BTreeMap<u32, Vec<String>>; 2]>::default();
    for (bits, range, _) in entries.iter().filter(|(_, _, may)| *may == 1) {
        let list = &mut ranges[usize::from(range.is_proxy())];
        let of_service = list.entry(range.service()).or_default();
        of_service.push(source_text(*bits, range));
    }
    Ok(ranges)
}

/// Refuses a connection of a family that a service has no address of.
pub fn check_family(tables: &Tables, name: &str, number: u32, family: Family) -> Result<()> {
    let mut own = vips(tables)?.into_iter().filter(|(_, service)| *service == number);
    if !own.any(|((_, vip), _)| Family::of(from_map(vip.addr)) == family) {
        bail!("service `{name}` has no {family} address, which such a connection needs");
    }
    Ok(())
}

/// The counts of a per-CPU array, each summed over all CPUs.
pub fn counts(array: &PerCpuArray<u64>) -> Asked<Vec<u64>> {
    (0..array.room()).map(|index| Ok(array.get(index)?.iter().sum())).collect()
}

/// What the kernel says about a map.
pub fn info(pin_dir: &Path, map: Map) -> Result<MapInfo> {
    let path = pin_dir.join(map.pin());
    MapInfo::from_pin(&path).with_context(|| format!("cannot ask about map {}", path.display()))
}

/// The bytes that the kernel uses for a map now, if it says so.
pub fn memory(info: &MapInfo) -> Result<Option<u64>> {
    let fd = info.fd().context("cannot open a map by its number")?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let memory = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(memory.and_then(|bytes| bytes.trim().parse().ok()))
}

/// Milliseconds since an instant of that clock; 0 if it lies ahead, which coarse clocks make
/// possible.
pub fn ms_since(now: Duration, at: u64) -> u64 {
    now.saturating_sub(Duration::from_nanos(at)).as_millis() as u64
}

/// The same of what may not have happened, which is 0 in the maps.
pub fn ms_since_some(now: Duration, at: u64) -> Option<u64> {
    (at != 0).then(|| ms_since(now, at))
}
