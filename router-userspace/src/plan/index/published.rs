//! What the maps hold, and single changes of it.

use std::{collections::BTreeMap, sync::Arc};

use router_ebpf::maps::{
    NO_REPLICA, Name, REPLICA_GONE, Replica, SLOT_COUNT, Service, SourceRange, Vip,
};

use crate::plan::addr;

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// `VIPS`: prefix length (bits of [`Vip`]) and VIP, and the service's number.
    pub vips: BTreeMap<(u32, Vip), u32>,
    /// `SOURCE_RANGES`: prefix length (bits of [`SourceRange`]) and range, and whether it may connect.
    pub ranges: BTreeMap<(u32, SourceRange), u32>,
    /// `SERVICES`.
    pub services: BTreeMap<u32, Service>,
    /// `REPLICAS`, without the free numbers.
    pub replicas: BTreeMap<u32, Replica>,
    /// `SLOTS`: the tables that are known, by where they begin.
    pub slots: BTreeMap<u32, Arc<Vec<u32>>>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets an entry of `REPLICAS`.
    Replica {
        /// Its number.
        number: u32,
        /// The entry.
        value: Replica,
    },
    /// Sets places of `SLOTS`.
    Slots {
        /// Where the table begins.
        first: u32,
        /// Slots and replica numbers; those that are the same already are left out.
        slots: Vec<(u32, u32)>,
    },
    /// Sets an entry of `SOURCE_RANGES`.
    Range {
        /// Prefix length, in bits of [`SourceRange`].
        prefix_len: u32,
        /// The service and the prefix.
        range: SourceRange,
        /// 1 if it may connect.
        value: u32,
    },
    /// Sets an entry of `SERVICES`.
    Service {
        /// Its number.
        number: u32,
        /// The entry, which is larger than all others.
        value: Box<Service>,
    },
    /// Sets an entry of `VIPS`.
    Vip {
        /// Prefix length, in bits of [`Vip`].
        prefix_len: u32,
        /// The address and port.
        vip: Vip,
        /// The service's number.
        service: u32,
    },
    /// Removes an entry of `VIPS`.
    RemoveVip {
        /// Prefix length, in bits of [`Vip`].
        prefix_len: u32,
        /// The address and port.
        vip: Vip,
    },
    /// Removes an entry of `SOURCE_RANGES`.
    RemoveRange {
        /// Prefix length, in bits of [`SourceRange`].
        prefix_len: u32,
        /// The service and the prefix.
        range: SourceRange,
    },
    /// Removes an entry of `SERVICES`.
    RemoveService {
        /// Its number.
        number: u32,
    },
    /// Clears an entry of `REPLICAS`: its number is free.
    RemoveReplica {
        /// Its number.
        number: u32,
    },
}

impl Change {
    /// Whether a replica is gone by it, whose flows are to end.
    pub fn ends_replica(&self) -> bool {
        matches!(self, Self::Replica { value, .. } if value.state == REPLICA_GONE)
    }

    /// Whether it frees entries that others can use at once.
    pub(super) fn makes_room(&self) -> bool {
        matches!(
            self,
            Self::RemoveVip { .. } | Self::RemoveRange { .. } | Self::RemoveReplica { .. }
        )
    }

    /// Whether it is right also if what comes before it was not written.
    pub(super) fn must_be(&self) -> bool {
        self.ends_replica() || matches!(self, Self::RemoveVip { .. })
    }

    /// The change in a few words, for the log.
    pub fn summary(&self) -> String {
        let name = |name: &Name| String::from_utf8_lossy(name.kept()).into_owned();
        match self {
            Self::Replica { number, value } => {
                let Replica { state, port, .. } = value;
                let addresses: Vec<_> = addr::of_replica(value).map(|a| a.to_string()).collect();
                let (addresses, port) = (addresses.join(" and "), u16::from_be_bytes(*port));
                let name = name(&value.name);
                format!("replica {number}: {name} at {addresses} port {port}, state {state}")
            }
            Self::Slots { first, slots } => {
                format!("{} slots of the table at {first}", slots.len())
            }
            Self::Service { number, value } => {
                let Service { usable, generation, .. } = &**value;
                let name = name(&value.name);
                format!("service {number}: {name}, {usable} usable, generation {generation}")
            }
            Self::Vip { prefix_len, vip, service } => {
                format!("address {} of service {service}", addr::vip_text(*prefix_len, vip))
            }
            Self::RemoveVip { prefix_len, vip } => {
                format!("removal of address {}", addr::vip_text(*prefix_len, vip))
            }
            Self::Range { prefix_len, range, value } => {
                let (what, service) = (kind(range), range.service());
                let may = if *value == 1 { "" } else { "no " };
                let text = addr::source_text(*prefix_len, range);
                format!("{may}{what} of {text} for service {service}")
            }
            Self::RemoveRange { prefix_len, range } => {
                let (what, service) = (kind(range), range.service());
                let text = addr::source_text(*prefix_len, range);
                format!("removal of {what} of {text} for service {service}")
            }
            Self::RemoveService { number } => format!("removal of service {number}"),
            Self::RemoveReplica { number } => format!("replica number {number} as free"),
        }
    }
}

/// Whose addresses a list has.
fn kind(range: &SourceRange) -> &'static str {
    if range.is_proxy() { "proxies" } else { "clients" }
}

/// The maps of the control plane.
pub trait Maps {
    /// Why a write fails.
    type Error;
    /// Reads what the maps hold.
    fn read(&self) -> Result<Published, Self::Error>;
    /// Writes one change.
    fn write(&mut self, change: &Change) -> Result<(), Self::Error>;
}

impl Published {
    /// Does to this value what [`Maps::write`] does to the maps.
    pub fn note(&mut self, change: &Change) {
        match change {
            Change::Replica { number, value } => {
                self.replicas.insert(*number, *value);
            }
            Change::Slots { first, slots } => {
                let empty = || Arc::new(vec![NO_REPLICA; SLOT_COUNT as usize]);
                let table = Arc::make_mut(self.slots.entry(*first).or_insert_with(empty));
                for (slot, replica) in slots {
                    table[*slot as usize] = *replica;
                }
            }
            Change::Service { number, value } => {
                self.services.insert(*number, **value);
            }
            Change::Vip { prefix_len, vip, service } => {
                self.vips.insert((*prefix_len, *vip), *service);
            }
            Change::RemoveVip { prefix_len, vip } => {
                self.vips.remove(&(*prefix_len, *vip));
            }
            Change::Range { prefix_len, range, value } => {
                self.ranges.insert((*prefix_len, *range), *value);
            }
            Change::RemoveRange { prefix_len, range } => {
                self.ranges.remove(&(*prefix_len, *range));
            }
            Change::RemoveService { number } => {
                self.services.remove(number);
            }
            Change::RemoveReplica { number } => {
                self.replicas.remove(number);
            }
        }
    }
}

/// Maps that are only a value, for tests and dry runs.
impl Maps for Published {
    type Error = std::convert::Infallible;

    fn read(&self) -> Result<Self, Self::Error> {
        Ok(self.clone())
    }

    fn write(&mut self, change: &Change) -> Result<(), Self::Error> {
        self.note(change);
        Ok(())
    }
}
