//! Reading pinned maps for people: sorted, and with errors that name the map.

use std::{
    collections::BTreeMap,
    fs,
    hash::Hash,
    ops::Range,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Pod,
    maps::{Array, HashMap, MapData, MapError, MapInfo, PerCpuArray},
};
use router_ebpf::maps::Vip;

use crate::{
    maps::tables::{self, Tables},
    plan::addr::{Family, from_map},
};

/// All entries of a hash map, in the order of their keys.
pub fn sorted<K, V>(map: &HashMap<MapData, K, V>, name: &str) -> Result<BTreeMap<K, V>>
where
    K: Pod + Ord + Hash,
    V: Pod,
{
    let entries = tables::entries(map).with_context(|| format!("cannot read map {name}"))?;
    Ok(entries.into_iter().collect())
}

/// How many entries a hash map has. It may change meanwhile: never more than it has room for.
pub fn count<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, max: u32) -> usize {
    map.keys().take_while(Result::is_ok).take(max as usize).count()
}

/// All services' addresses, sorted: prefix length in bits and VIP, with the service's number.
pub fn vips(tables: &Tables) -> Result<BTreeMap<(u32, Vip), u32>> {
    let all = tables.all_vips().context("cannot read map VIPS")?;
    Ok(all.into_iter().map(|(bits, vip, service)| ((bits, vip), service)).collect())
}

/// Refuses a connection of a family that a service has no address of.
pub fn check_family(tables: &Tables, name: &str, number: u32, family: Family) -> Result<()> {
    let mut own = vips(tables)?.into_iter().filter(|(_, service)| *service == number);
    if !own.any(|((_, vip), _)| Family::of(from_map(vip.addr)) == family) {
        bail!("service `{name}` has no {family} address, which such a connection needs");
    }
    Ok(())
}

/// A part of an array; what lies behind its end is left out.
pub fn range<V: Pod>(array: &Array<MapData, V>, name: &str, range: Range<u32>) -> Result<Vec<V>> {
    let end = range.end.min(array.len());
    let values: Result<Vec<V>, MapError> =
        (range.start..end).map(|index| array.get(&index, 0)).collect();
    values.with_context(|| format!("cannot read map {name}"))
}

/// The counts of a per-CPU array, each summed over all CPUs.
pub fn counts(array: &PerCpuArray<MapData, u64>) -> Result<Vec<u64>> {
    let sum = |index| Ok::<u64, MapError>(array.get(&index, 0)?.iter().sum());
    let counts: Result<Vec<u64>, MapError> = (0..array.len()).map(sum).collect();
    counts.context("cannot read map COUNTERS")
}

/// What the kernel says about a map.
pub fn info(pin_dir: &Path, map: &str) -> Result<MapInfo> {
    let path = pin_dir.join(map);
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
