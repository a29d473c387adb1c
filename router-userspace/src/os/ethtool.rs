//! Offload settings of an interface, by the `SIOCETHTOOL` ioctl. By hand: the crate `ethtool` (0.2) is
//! async, and does not ask for the driver's name.

use std::{io, os::fd::AsRawFd as _};

use super::sys;

/// An on/off setting of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Setting {
    /// Checksums of received packets are verified by the device.
    RxChecksum = 0x14,
    /// Checksums of sent packets are left to the device.
    TxChecksum = 0x16,
    /// Received segments are merged by the kernel.
    Gro = 0x2b,
    /// A word of flags, see `Flag`.
    Flags = 0x25,
}

/// A flag of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Flag {
    /// `ETH_FLAG_RXVLAN`: the device takes VLAN tags out of what it receives.
    RxVlan = 1 << 8,
    /// `ETH_FLAG_LRO`: it merges received segments.
    Lro = 1 << 15,
}

const SIOCETHTOOL: u32 = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

#[repr(C)]
struct Request<T> {
    name: [u8; libc::IFNAMSIZ],
    data: *mut T,
    rest: [u8; 16],
}

/// Whether a setting is on.
pub fn is_on(interface: &str, setting: Setting) -> io::Result<bool> {
    let mut value = Value { command: setting as u32, data: 0 };
    ethtool(interface, &mut value)?;
    Ok(value.data != 0)
}

/// Whether a flag is set.
pub fn has(interface: &str, flag: Flag) -> io::Result<bool> {
    let mut value = Value { command: Setting::Flags as u32, data: 0 };
    ethtool(interface, &mut value)?;
    Ok(value.data & flag as u32 != 0)
}

/// The name of the driver.
pub fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ethtool(interface, &mut info)?;
    let len = info.driver.iter().position(|byte| *byte == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..len]).into_owned())
}

/// `T` begins with the command, and is as large as the kernel's type for that command.
fn ethtool<T>(interface: &str, value: &mut T) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    name[..interface.len()].copy_from_slice(interface.as_bytes());
    let request = Request { name, data: value, rest: [0; 16] };

    let socket = sys::any_socket()?;
    // SAFETY: `request` is laid out as `struct ifreq` and outlives the call; its data pointer is a
    // live exclusive borrow of a type of the size that the command writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const _: () = assert!(size_of::<Request<Value>>() == size_of::<libc::ifreq>());
const _: () = assert!(size_of::<DriverInfo>() == 196);
