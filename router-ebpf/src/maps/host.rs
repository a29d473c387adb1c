//! Processes of this machine as clients.

use super::{Addr, Port};

/// The device by whose one end they send, and from whose other end Roost takes it as from a pod.
pub const NEAR_END: &str = "roost0";
/// That other end.
pub const FAR_END: &str = "roost1";

/// Who these processes are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Their network namespace, by its cookie; 0: nobody is a client.
    pub namespace: u64,
    /// Their own addresses on the device, of IPv4 and IPv6; zero: none of that family.
    pub own: [Addr; 2],
    /// As which address replicas see them: it belongs to no interface.
    pub seen: [Addr; 2],
}

/// A connection of theirs, as it leaves by the device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostConn {
    /// What it is connected to in place of a VIP.
    pub stand_in: Addr,
    /// The port of its client.
    pub client_port: Port,
    /// The port of the VIP.
    pub vip_port: Port,
}
