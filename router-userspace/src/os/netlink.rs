//! The questions that only netlink answers: what an interface is, what it is attached to, what is at
//! its other end, and what its driver can do with XDP.

use anyhow::{Context as _, Result, bail};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
/// `struct genlmsghdr`.
const GENL_HEADER: usize = 4;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

/// What the kernel says about an interface.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its MTU.
    pub mtu: u32,
    /// The kind of a virtual interface (`veth`, `bond`, `vlan`, ...), empty for hardware.
    pub kind: String,
    /// The index of the other end (veth) or of the device below (VLAN), 0 for none.
    pub link: u32,
    /// The network namespace that `link` is an index of, by its number in this one; `None`: this one.
    pub link_namespace: Option<i32>,
    /// How an XDP program is attached; `None` if there is none.
    pub xdp_mode: Option<XdpMode>,
    /// Ids of attached XDP programs.
    pub xdp_programs: Vec<u32>,
}

/// Where XDP programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// In the device.
    Hardware,
    /// In more than one of these.
    Several,
}

impl XdpMode {
    /// The mode of an `IFLA_XDP_ATTACHED`.
    const fn from_kernel(mode: u8) -> Option<Self> {
        match mode {
            0 => None,
            1 => Some(Self::Native),
            2 => Some(Self::Generic),
            3 => Some(Self::Hardware),
            _ => Some(Self::Several),
        }
    }

    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Hardware => "hardware",
            Self::Several => "several",
        }
    }
}

/// Asks for an interface by its name.
pub fn link_by_name(name: &str) -> Result<Link> {
    const IFLA_IFNAME: u16 = 3;
    if name.is_empty() || name.len() > 15 {
        bail!("`{name}` is no interface name: 1 to 15 bytes are expected");
    }
    let mut payload = vec![0; LINK_HEADER];
    put_attr(&mut payload, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    link(&payload).with_context(|| format!("no interface `{name}` in this network namespace"))
}

/// Asks for an interface by its index.
pub fn link_by_index(index: u32) -> Result<Link> {
    let mut payload = vec![0; LINK_HEADER];
    payload[4..8].copy_from_slice(&index.to_ne_bytes());
    link(&payload).with_context(|| format!("no interface with index {index}"))
}

/// Asks for the other end of a veth pair, wherever it is.
pub fn other_end(of: &Link) -> Result<Link> {
    const IFLA_TARGET_NETNSID: u16 = 46;
    let mut payload = vec![0; LINK_HEADER];
    payload[4..8].copy_from_slice(&of.link.to_ne_bytes());
    if let Some(namespace) = of.link_namespace {
        put_attr(&mut payload, IFLA_TARGET_NETNSID, &namespace.to_ne_bytes());
    }
    link(&payload).with_context(|| format!("cannot look at the other end of {}", of.name))
}

fn link(payload: &[u8]) -> Result<Link> {
    const RTM_GETLINK: u16 = 18;
    let answer = request(NETLINK_ROUTE, RTM_GETLINK, payload)?;
    parse_link(&answer).context("the kernel's answer about an interface is too short")
}

fn parse_link(answer: &[u8]) -> Option<Link> {
    const IFF_UP: u32 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINK: u16 = 5;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_LINK_NETNSID: u16 = 37;
    const IFLA_XDP: u16 = 43;
    const IFLA_XDP_ATTACHED: u16 = 2;
    /// `IFLA_XDP_PROG_ID`, and those of the driver, generic and hardware modes behind it.
    const XDP_PROG_IDS: std::ops::RangeInclusive<u16> = 4..=7;

    let header = answer.get(..LINK_HEADER)?;
    let mut link = Link {
        index: u32_of(&header[4..8]),
        up: u32_of(&header[8..12]) & IFF_UP != 0,
        ..Link::default()
    };
    for (kind, value) in attrs(&answer[LINK_HEADER..]) {
        match kind {
            IFLA_IFNAME => link.name = text_of(value),
            IFLA_MTU => link.mtu = u32_of(value),
            IFLA_LINK => link.link = u32_of(value),
            IFLA_LINK_NETNSID => link.link_namespace = Some(u32_of(value) as i32),
            IFLA_LINKINFO => {
                let kind = attrs(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text_of(value)).unwrap_or_default();
            }
            IFLA_XDP => {
                let mode = attrs(value).find(|(kind, _)| *kind == IFLA_XDP_ATTACHED);
                link.xdp_mode = mode.and_then(|(_, value)| XdpMode::from_kernel(*value.first()?));
                let ids = attrs(value).filter(|(kind, _)| XDP_PROG_IDS.contains(kind));
                link.xdp_programs = ids.map(|(_, value)| u32_of(value)).collect();
                link.xdp_programs.sort_unstable();
                link.xdp_programs.dedup();
            }
            _ => {}
        }
    }
    Some(link)
}

/// Whether the driver of an interface can run XDP programs itself; `None` if the kernel does not
/// say (before 6.3).
pub fn native_xdp(index: u32) -> Result<Option<bool>> {
    const NETDEV_CMD_DEV_GET: u8 = 1;
    const NETDEV_A_DEV_IFINDEX: u16 = 1;
    const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
    const NETDEV_XDP_ACT_BASIC: u64 = 1;

    let Some(family) = generic_family("netdev")? else { return Ok(None) };
    let mut payload = vec![NETDEV_CMD_DEV_GET, 1, 0, 0];
    put_attr(&mut payload, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    let answer = request(NETLINK_GENERIC, family, &payload)?;
    let features = attrs(answer.get(GENL_HEADER..).unwrap_or_default())
        .find(|(kind, _)| *kind == NETDEV_A_DEV_XDP_FEATURES)
        .and_then(|(_, value)| Some(u64::from_ne_bytes(value.try_into().ok()?)));
    Ok(features.map(|features| features & NETDEV_XDP_ACT_BASIC != 0))
}

fn generic_family(name: &str) -> Result<Option<u16>> {
    const GENL_ID_CTRL: u16 = 16;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;

    let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    put_attr(&mut payload, CTRL_ATTR_FAMILY_NAME, &[name.as_bytes(), b"\0"].concat());
    let answer = match request(NETLINK_GENERIC, GENL_ID_CTRL, &payload) {
        Err(error) if is_not_found(&error) => return Ok(None),
        other => other?,
    };
    Ok(attrs(answer.get(GENL_HEADER..).unwrap_or_default())
        .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)
        .and_then(|(_, value)| Some(u16::from_ne_bytes(value.try_into().ok()?))))
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error)
        == Some(libc::ENOENT)
}

/// Sends one request and returns the body of its one answer.
fn request(protocol: isize, kind: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let mut message = Vec::with_capacity(HEADER + payload.len());
    message.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(payload);

    let socket = Socket::new(protocol).context("cannot open a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot reach the kernel by netlink")?;
    socket.send(&message, 0).context("cannot ask the kernel by netlink")?;
    let (answer, _) = socket.recv_from_full().context("no answer by netlink")?;
    if answer.len() < HEADER + 4 {
        bail!("a netlink answer of {} bytes is too short", answer.len());
    }
    let end = (u32_of(&answer[..4]) as usize).clamp(HEADER, answer.len());
    if u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
        let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        return Err(std::io::Error::from_raw_os_error(-errno).into());
    }
    Ok(answer[HEADER..end].to_vec())
}

/// Appends an attribute, padded to four bytes.
fn put_attr(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((4 + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The attributes of a message or of a nested attribute; ends at the first that does not fit.
fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The upper two bits are flags (nested, byte order).
    const KIND_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u32_of(value: &[u8]) -> u32 {
    value.try_into().map_or(0, u32::from_ne_bytes)
}

fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_put() {
        let mut message = Vec::new();
        put_attr(&mut message, 3, b"eth0\0");
        put_attr(&mut message, 4, &1500u32.to_ne_bytes());
        let read: Vec<_> = attrs(&message).collect();
        assert_eq!(read, [(3, &b"eth0\0"[..]), (4, &1500u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn broken_attributes_end_the_list() {
        assert_eq!(attrs(&[2, 0, 1, 0]).count(), 0, "shorter than its header");
        assert_eq!(attrs(&[200, 0, 1, 0, 1]).count(), 0, "longer than the message");
        assert_eq!(attrs(&[4, 0]).count(), 0);
    }

    #[test]
    fn loopback_is_found_by_name_and_index() {
        let lo = link_by_name("lo").unwrap();
        assert_eq!((lo.name.as_str(), lo.index), ("lo", 1));
        assert_eq!(link_by_index(lo.index).unwrap().name, "lo");
        let error = link_by_name("no-such-if").unwrap_err();
        assert_eq!(error.to_string(), "no interface `no-such-if` in this network namespace");
    }
}
