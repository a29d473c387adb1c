//! The index's maps in the kernel.

use std::sync::Arc;

use router_ebpf::maps::{Name, Replica, SLOT_COUNT, SLOT_STRIDE};
use thiserror::Error;

use super::{handle::Fault, tables::Tables};
use crate::plan::{
    addr::{source_text, vip_text},
    index::{Change, Maps, Published, Room},
};

/// A map that refused, and what was asked of it.
#[derive(Debug, Error)]
#[error("map {}: {what}: {}{}", .fault.map.pin(), .fault.cause(), hint(.fault))]
pub struct WriteError {
    what: String,
    fault: Fault,
}

fn hint(fault: &Fault) -> &'static str {
    match fault.errno() {
        Some(libc::E2BIG | libc::ENOSPC) => {
            " (the map is full: raise [limits] services, then `roost detach` and start anew)"
        }
        _ => "",
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(Fault) -> WriteError {
    let what = what.into();
    move |fault| WriteError { what, fault }
}

/// What fits into the maps as they are.
pub fn room(tables: &Tables) -> Result<Room, WriteError> {
    let services = tables.services.room().map_err(failed("its size"))?;
    let slot_tables = tables.slots.room() / (2 * SLOT_STRIDE);
    Ok(Room {
        services: services.min(slot_tables),
        replicas: tables.replicas.room(),
        vips: tables.vips.room().map_err(failed("its size"))?,
        ranges: tables.source_ranges.room().map_err(failed("its size"))?,
    })
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
        let vips = self.vips.entries().map_err(failed("reading"))?;
        out.vips = vips.into_iter().map(|(len, vip, service)| ((len, vip), service)).collect();
        let ranges = self.source_ranges.entries().map_err(failed("reading"))?;
        out.ranges = ranges.into_iter().map(|(len, range, value)| ((len, range), value)).collect();
        let services = self.services.entries();
        out.services = services.map_err(failed("reading"))?.into_iter().collect();
        let replicas = self.all_replicas().map_err(failed("reading"))?;
        out.replicas = replicas.into_iter().collect();
        for service in out.services.values() {
            // What is in the service's other place need not be known: it is written as a whole.
            let end = service.slots.saturating_add(SLOT_COUNT);
            if end > self.slots.room() {
                continue;
            }
            let table = self.slots.range(service.slots..end).map_err(failed("reading"))?;
            out.slots.insert(service.slots, Arc::new(table));
        }
        Ok(out)
    }

    fn write(&mut self, change: &Change) -> Result<(), WriteError> {
        match change {
            Change::Replica { number, value } => self
                .replicas
                .set(*number, value)
                .map_err(failed(format!("setting number {number}"))),
            Change::Slots { first, slots } => slots.iter().try_for_each(|(slot, replica)| {
                let at = first + slot;
                self.slots.set(at, replica).map_err(failed(format!("setting place {at}")))
            }),
            Change::Service { number, value } => {
                self.services.set(number, value).map_err(failed(format!("setting number {number}")))
            }
            Change::Vip { prefix_len, vip, service } => self
                .vips
                .set(*prefix_len, *vip, service)
                .map_err(failed(format!("adding {}", vip_text(*prefix_len, vip)))),
            Change::RemoveVip { prefix_len, vip } => self
                .vips
                .remove(*prefix_len, *vip)
                .map(drop)
                .map_err(failed(format!("removing {}", vip_text(*prefix_len, vip)))),
            Change::Range { prefix_len, range, value } => self
                .source_ranges
                .set(*prefix_len, *range, value)
                .map_err(failed(format!("adding {}", source_text(*prefix_len, range)))),
            Change::RemoveRange { prefix_len, range } => self
                .source_ranges
                .remove(*prefix_len, *range)
                .map(drop)
                .map_err(failed(format!("removing {}", source_text(*prefix_len, range)))),
            Change::RemoveService { number } => self
                .services
                .remove(number)
                .map(drop)
                .map_err(failed(format!("removing number {number}"))),
            Change::RemoveReplica { number } => self
                .replicas
                .set(*number, &FREE)
                .map_err(failed(format!("clearing number {number}"))),
        }
    }
}

#[cfg(test)]
mod tests;
