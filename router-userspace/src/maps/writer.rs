//! The index's maps in the kernel.

use std::{error::Error, fmt, sync::Arc};

use aya::maps::{MapError, lpm_trie::Key};
use router_ebpf::maps::{Name, Replica, SLOT_COUNT, SLOT_STRIDE};

use crate::{
    maps::tables::{Tables, optional},
    plan::{
        addr::vip_text,
        index::{Change, Maps, Published, Room},
    },
};

/// A map that refused.
#[derive(Debug)]
pub struct WriteError {
    map: &'static str,
    what: String,
    error: MapError,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map {}: {}: ", self.map, self.what)?;
        match &self.error {
            MapError::SyscallError(e) => {
                write!(f, "{}", e.io_error)?;
                match e.io_error.raw_os_error() {
                    Some(libc::E2BIG | libc::ENOSPC) => f.write_str(
                        " (the map is full: raise [limits] services, then `roost detach` and start \
                         anew)",
                    ),
                    _ => Ok(()),
                }
            }
            e => e.fmt(f),
        }
    }
}

impl Error for WriteError {}

fn failed(map: &'static str, what: impl Into<String>) -> impl FnOnce(MapError) -> WriteError {
    let what = what.into();
    move |error| WriteError { map, what, error }
}

/// What fits into the maps as they are.
pub fn room(tables: &Tables) -> Result<Room, WriteError> {
    let services = tables.services.room();
    let services = services.map_err(|e| failed("SERVICES", "its size")(MapError::IoError(e)))?;
    let slot_tables = tables.slots.len() / (2 * SLOT_STRIDE);
    Ok(Room { services: services.min(slot_tables), replicas: tables.replicas.len() })
}

/// An entry of `REPLICAS` whose number is free.
const FREE: Replica = Replica {
    v4: [0; 16],
    v6: [0; 16],
    port: [0; 2],
    state: 0,
    reserved: 0,
    service: 0,
    weight: 0,
    name: Name::EMPTY,
};

impl Maps for Tables {
    type Error = WriteError;

    fn read(&self) -> Result<Published, WriteError> {
        let mut out = Published::default();
        let vips = self.all_vips().map_err(failed("VIPS", "reading"))?;
        out.vips = vips.into_iter().map(|(len, vip, service)| ((len, vip), service)).collect();
        let services = self.services.entries();
        out.services = services.map_err(failed("SERVICES", "reading"))?.into_iter().collect();
        let replicas = self.all_replicas().map_err(failed("REPLICAS", "reading"))?;
        out.replicas = replicas.into_iter().collect();
        for service in out.services.values() {
            // What is in the service's other place need not be known: it is written as a whole.
            let end = service.slots.saturating_add(SLOT_COUNT);
            if end > self.slots.len() {
                continue;
            }
            let table: Result<Vec<u32>, _> =
                (service.slots..end).map(|at| self.slots.get(&at, 0)).collect();
            let table = table.map_err(failed("SLOTS", "reading"))?;
            out.slots.insert(service.slots, Arc::new(table));
        }
        Ok(out)
    }

    fn write(&mut self, change: &Change) -> Result<(), WriteError> {
        match change {
            Change::Replica { number, value } => self
                .replicas
                .set(*number, value, 0)
                .map_err(failed("REPLICAS", format!("setting number {number}"))),
            Change::Slots { first, slots } => slots.iter().try_for_each(|(slot, replica)| {
                let at = first + slot;
                self.slots
                    .set(at, replica, 0)
                    .map_err(failed("SLOTS", format!("setting place {at}")))
            }),
            Change::Service { number, value } => self
                .services
                .insert(number, **value, 0)
                .map_err(failed("SERVICES", format!("setting number {number}"))),
            Change::Vip { prefix_len, vip, service } => self
                .vips
                .insert(&Key::new(*prefix_len, *vip), service, 0)
                .map_err(failed("VIPS", format!("adding {}", vip_text(*prefix_len, vip)))),
            Change::RemoveVip { prefix_len, vip } => {
                optional(self.vips.remove(&Key::new(*prefix_len, *vip)))
                    .map(drop)
                    .map_err(failed("VIPS", format!("removing {}", vip_text(*prefix_len, vip))))
            }
            Change::RemoveService { number } => optional(self.services.remove(number))
                .map(drop)
                .map_err(failed("SERVICES", format!("removing number {number}"))),
            Change::RemoveReplica { number } => self
                .replicas
                .set(*number, FREE, 0)
                .map_err(failed("REPLICAS", format!("clearing number {number}"))),
        }
    }
}

#[cfg(test)]
mod tests;
