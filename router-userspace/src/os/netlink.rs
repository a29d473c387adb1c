//! The questions that only netlink answers: what an interface is, what it is attached to, what is at
//! its other end, and what its driver can do with XDP.

mod change;

use std::{collections::BTreeSet, convert::Infallible, io};

use anyhow::{Context as _, Result, bail, ensure};
use netlink_packet_core::{
    DefaultNla, Emitable as _, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
    parse_i32, parse_u8, parse_u16, parse_u32, parse_u64,
};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};

pub use change::{Bits, add_address, add_route, make_pair, remove, set_up, whole};

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
    /// Its MAC address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its MTU.
    pub mtu: u32,
    /// What the kernel merges from received segments has so many bytes at the most; 0 if it does not say (before 5.19).
    pub gro_max_size: u32,
    /// The kind of a virtual interface (`veth`, `bond`, `vlan`, ...), empty for hardware.
    pub kind: String,
    /// The index of the other end (veth) or of the device below (VLAN), 0 for none.
    pub link: u32,
    /// The network namespace that `link` is an index of, by its number in this one; `None`: this one.
    pub link_namespace: Option<i32>,
    /// Whether frames on it begin with an Ethernet header.
    pub is_ethernet: bool,
    /// The index of what it belongs to (a bridge, a bond, a VRF), 0 for nothing.
    pub master: u32,
    /// Whether it is a bridge that tells VLANs apart.
    pub is_vlan_aware: bool,
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
    let name_attr = DefaultNla::new(IFLA_IFNAME, [name.as_bytes(), b"\0"].concat());
    link(0, &[name_attr])
        .with_context(|| format!("no interface `{name}` in this network namespace"))
}

/// Asks for an interface by its index.
pub fn link_by_index(index: u32) -> Result<Link> {
    link(index, &[]).with_context(|| format!("no interface with index {index}"))
}

/// Asks for the other end of a veth pair, wherever it is.
pub fn other_end(of: &Link) -> Result<Link> {
    const IFLA_TARGET_NETNSID: u16 = 46;
    let namespace = of.link_namespace.map(|namespace| namespace.to_ne_bytes().to_vec());
    let namespace = namespace.map(|id| DefaultNla::new(IFLA_TARGET_NETNSID, id));
    link(of.link, namespace.as_slice())
        .with_context(|| format!("cannot look at the other end of {}", of.name))
}

/// Asks for an interface by its index, or by attributes where that is 0.
fn link(index: u32, attributes: &[DefaultNla]) -> Result<Link> {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let answer = request(NETLINK_ROUTE, libc::RTM_GETLINK, &header, attributes)?;
    parse_link(&answer).context("the kernel's answer about an interface is too short")
}

fn parse_link(answer: &[u8]) -> Option<Link> {
    const IFF_UP: u32 = 1;
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINK: u16 = 5;
    const IFLA_MASTER: u16 = 10;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_BR_VLAN_FILTERING: u16 = 7;
    const ARPHRD_ETHER: u16 = 1;
    const IFLA_LINK_NETNSID: u16 = 37;
    const IFLA_XDP: u16 = 43;
    const IFLA_GRO_MAX_SIZE: u16 = 58;
    const IFLA_XDP_ATTACHED: u16 = 2;
    /// `IFLA_XDP_PROG_ID`, and those of the driver, generic and hardware modes behind it.
    const XDP_PROG_IDS: std::ops::RangeInclusive<u16> = 4..=7;

    let header = answer.get(..LINK_HEADER)?;
    let mut link = Link {
        index: number(&header[4..8]),
        up: number(&header[8..12]) & IFF_UP != 0,
        is_ethernet: header[2..4] == ARPHRD_ETHER.to_ne_bytes(),
        ..Link::default()
    };
    for attr in attrs(&answer[LINK_HEADER..]) {
        let value = attr.value();
        match attr.kind() {
            IFLA_IFNAME => link.name = text_of(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = number(value),
            IFLA_GRO_MAX_SIZE => link.gro_max_size = number(value),
            IFLA_LINK => link.link = number(value),
            IFLA_LINK_NETNSID => link.link_namespace = parse_i32(value).ok(),
            IFLA_MASTER => link.master = number(value),
            IFLA_LINKINFO => {
                let kind = attrs(value).find(|attr| attr.kind() == IFLA_INFO_KIND);
                link.kind = kind.map(|attr| text_of(attr.value())).unwrap_or_default();
                // What the others say there is of their own kind.
                let data = attrs(value).filter(|attr| attr.kind() == IFLA_INFO_DATA);
                link.is_vlan_aware = link.kind == "bridge"
                    && data.into_iter().any(|data| {
                        attrs(data.value()).any(|attr| {
                            attr.kind() == IFLA_BR_VLAN_FILTERING && attr.value() != [0]
                        })
                    });
            }
            IFLA_XDP => {
                let mode = attrs(value).find(|attr| attr.kind() == IFLA_XDP_ATTACHED);
                let mode = mode.and_then(|attr| parse_u8(attr.value()).ok());
                link.xdp_mode = mode.and_then(XdpMode::from_kernel);
                let ids = attrs(value).filter(|attr| XDP_PROG_IDS.contains(&attr.kind()));
                link.xdp_programs = ids.map(|attr| number(attr.value())).collect();
                link.xdp_programs.sort_unstable();
                link.xdp_programs.dedup();
            }
            _ => {}
        }
    }
    Some(link)
}

/// The MAC addresses of all interfaces of this network namespace.
pub fn macs() -> Result<BTreeSet<[u8; 6]>> {
    Ok(all_links()?.iter().filter_map(|link| parse_link(link)?.mac).collect())
}

/// All interfaces of this network namespace.
pub fn links() -> Result<Vec<Link>> {
    let read = |link: &Vec<u8>| parse_link(link);
    let links: Option<_> = all_links()?.iter().map(read).collect();
    links.context("the kernel's answer about an interface is too short")
}

fn all_links() -> Result<Vec<Vec<u8>>> {
    const IFLA_EXT_MASK: u16 = 29;
    const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
    let no_statistics =
        DefaultNla::new(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS.to_ne_bytes().into());
    request_all(libc::RTM_GETLINK, &[0; LINK_HEADER], &[no_statistics])
        .context("asking for all interfaces")
}

/// What the kernel tells of changes to interfaces.
pub struct LinkChanges(Socket);

impl LinkChanges {
    /// Hears of all changes from now on.
    pub fn new() -> Result<Self> {
        const RTMGRP_LINK: u32 = 1;
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket
            .bind(&SocketAddr::new(0, RTMGRP_LINK))
            .and_then(|()| socket.set_non_blocking(true))
            .context("cannot hear of changes to interfaces by netlink")?;
        Ok(Self(socket))
    }

    /// Whether something has changed since this was asked before.
    pub fn any(&self) -> bool {
        let mut any = false;
        loop {
            match self.0.recv(&mut &mut [0; 4096][..], 0) {
                Ok(_) => any = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return any || e.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// Whether the driver of an interface can run XDP programs itself; `None` if the kernel does not
/// say (before 6.3).
pub fn native_xdp(index: u32) -> Result<Option<bool>> {
    const NETDEV_CMD_DEV_GET: u8 = 1;
    const NETDEV_A_DEV_IFINDEX: u16 = 1;
    const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
    const NETDEV_XDP_ACT_BASIC: u64 = 1;

    let Some(family) = generic_family("netdev")? else { return Ok(None) };
    let index = DefaultNla::new(NETDEV_A_DEV_IFINDEX, index.to_ne_bytes().to_vec());
    let answer = request(NETLINK_GENERIC, family, &[NETDEV_CMD_DEV_GET, 1, 0, 0], &[index])?;
    let features = attrs(answer.get(GENL_HEADER..).unwrap_or_default())
        .find(|attr| attr.kind() == NETDEV_A_DEV_XDP_FEATURES)
        .and_then(|attr| parse_u64(attr.value()).ok());
    Ok(features.map(|features| features & NETDEV_XDP_ACT_BASIC != 0))
}

fn generic_family(name: &str) -> Result<Option<u16>> {
    const GENL_ID_CTRL: u16 = 16;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;

    let name = DefaultNla::new(CTRL_ATTR_FAMILY_NAME, [name.as_bytes(), b"\0"].concat());
    let header = [CTRL_CMD_GETFAMILY, 1, 0, 0];
    let answer = match request(NETLINK_GENERIC, GENL_ID_CTRL, &header, &[name]) {
        Err(error) if is_not_found(&error) => return Ok(None),
        other => other?,
    };
    Ok(attrs(answer.get(GENL_HEADER..).unwrap_or_default())
        .find(|attr| attr.kind() == CTRL_ATTR_FAMILY_ID)
        .and_then(|attr| parse_u16(attr.value()).ok()))
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error)
        == Some(libc::ENOENT)
}

/// A message of whichever family, its attributes unread.
struct Message {
    kind: u16,
    body: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, body: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { kind: header.message_type, body: body.to_vec() })
    }
}

/// Sends one request, which is a family's header and attributes, and returns the body of its one answer.
fn request(
    protocol: isize,
    kind: u16,
    header: &[u8],
    attributes: &[DefaultNla],
) -> Result<Vec<u8>> {
    let socket = ask(protocol, kind, NLM_F_REQUEST, header, attributes)?;
    let (answer, _) = socket.recv_from_full().context("no answer by netlink")?;
    let answer = NetlinkMessage::<Message>::deserialize(&answer);
    match answer.context("a netlink answer that cannot be read")?.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message.body),
        NetlinkPayload::Error(error) => Err(error.to_io().into()),
        _ => bail!("an empty netlink answer"),
    }
}

/// Sends one request about interfaces and returns the bodies of its answers, one for each of them.
fn request_all(kind: u16, header: &[u8], attributes: &[DefaultNla]) -> Result<Vec<Vec<u8>>> {
    let socket = ask(NETLINK_ROUTE, kind, NLM_F_REQUEST | NLM_F_DUMP, header, attributes)?;
    let mut bodies = Vec::new();
    loop {
        let (answers, _) = socket.recv_from_full().context("no answer by netlink")?;
        let mut rest = &answers[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<Message>::deserialize(rest);
            let answer = answer.context("a netlink answer that cannot be read")?;
            ensure!(
                answer.header.flags & NLM_F_DUMP_INTR == 0,
                "something changed while the kernel answered"
            );
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => bodies.push(message.body),
                NetlinkPayload::Done(_) => return Ok(bodies),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                _ => {}
            }
            // Each begins at a multiple of four bytes.
            let len = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

/// Sends one request, and returns the socket to which the answer comes.
fn ask(
    protocol: isize,
    kind: u16,
    flags: u16,
    header: &[u8],
    attributes: &[DefaultNla],
) -> Result<Socket> {
    let mut body = header.to_vec();
    body.resize(header.len() + attributes.buffer_len(), 0);
    attributes.emit(&mut body[header.len()..]);
    let body = NetlinkPayload::InnerMessage(Message { kind, body });
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), body);
    message.header.flags = flags;
    message.finalize();
    let mut question = vec![0; message.buffer_len()];
    message.serialize(&mut question);

    let socket = Socket::new(protocol).context("cannot open a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot reach the kernel by netlink")?;
    socket.send(&question, 0).context("cannot ask the kernel by netlink")?;
    Ok(socket)
}

/// The attributes of a message or of a nested attribute; ends at the first that does not fit.
fn attrs(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn number(value: &[u8]) -> u32 {
    parse_u32(value).unwrap_or_default()
}

fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLA_F_NESTED;

    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_put() {
        let put: [_; 2] = [(3, b"eth0\0".to_vec()), (4, 1500u32.to_ne_bytes().to_vec())];
        let attributes = put.map(|(kind, value)| DefaultNla::new(kind, value));
        let mut message = vec![0; attributes.as_slice().buffer_len()];
        attributes.as_slice().emit(&mut message);
        let read: Vec<_> = attrs(&message).map(|nla| (nla.kind(), nla.value().to_vec())).collect();
        assert_eq!(read, [(3, b"eth0\0".to_vec()), (4, 1500u32.to_ne_bytes().to_vec())]);
    }

    #[test]
    fn an_interface_is_read_whatever_else_is_said_of_it() {
        let bytes = |attributes: &[DefaultNla]| {
            let mut bytes = vec![0; attributes.buffer_len()];
            attributes.emit(&mut bytes);
            bytes
        };
        let attr = |kind: u16, value: &[u8]| DefaultNla::new(kind, value.to_vec());
        let xdp = [
            attr(2, &[1]),
            attr(5, &7u32.to_ne_bytes()),
            attr(4, &7u32.to_ne_bytes()),
            attr(99, b"?"),
        ];
        let mut answer = vec![0; LINK_HEADER];
        answer[2] = 1;
        answer[4] = 3;
        answer[8] = 1;
        answer.extend(bytes(&[
            attr(3, b"veth0\0"),
            // Statistics of a length that no kernel has, and an attribute that none knows.
            attr(7, &[1; 5]),
            attr(9999, b"new"),
            attr(4, &1500u32.to_ne_bytes()),
            attr(5, &9u32.to_ne_bytes()),
            attr(58, &65536u32.to_ne_bytes()),
            attr(37, &(-1i32).to_ne_bytes()),
            attr(
                18 | NLA_F_NESTED,
                &bytes(&[attr(1, b"veth\0"), attr(2, &[0; 3]), attr(4, b"bridge\0")]),
            ),
            attr(10, &8u32.to_ne_bytes()),
            attr(43 | NLA_F_NESTED, &bytes(&xdp)),
        ]));
        let link = parse_link(&answer).unwrap();
        assert_eq!((link.name.as_str(), link.kind.as_str()), ("veth0", "veth"));
        assert_eq!((link.index, link.mtu, link.link, link.up), (3, 1500, 9, true));
        assert_eq!(link.gro_max_size, 65536);
        assert_eq!((link.is_ethernet, link.is_vlan_aware, link.master), (true, false, 8));
        assert_eq!(link.link_namespace, Some(-1));
        assert_eq!((link.xdp_mode, link.xdp_programs), (Some(XdpMode::Native), vec![7]));
        assert!(parse_link(&answer[..LINK_HEADER - 1]).is_none());
        for (kind, filters, is_vlan_aware) in
            [(&b"bridge\0"[..], 1, true), (b"bridge\0", 0, false), (b"vxlan\0", 1, false)]
        {
            let data = bytes(&[attr(6, &[0, 128]), attr(7, &[filters])]);
            let info = bytes(&[attr(1, kind), attr(2 | NLA_F_NESTED, &data)]);
            let mut answer = vec![0; LINK_HEADER];
            answer.extend(bytes(&[attr(18 | NLA_F_NESTED, &info)]));
            assert_eq!(parse_link(&answer).unwrap().is_vlan_aware, is_vlan_aware, "{kind:?}");
        }
    }

    #[test]
    fn all_interfaces_are_listed_with_their_macs() {
        assert!(macs().unwrap().contains(&[0; 6]), "the loopback interface's");
        let mac = |answer: &[u8]| parse_link(answer)?.mac;
        let attribute = DefaultNla::new(1, vec![2, 0, 0, 0, 0, 7]);
        let mut link = vec![0; LINK_HEADER + attribute.buffer_len()];
        attribute.emit(&mut link[LINK_HEADER..]);
        assert_eq!(mac(&link), Some([2, 0, 0, 0, 0, 7]));
        // Of a tunnel, whose address is another one.
        assert_eq!(mac(&link[..LINK_HEADER + 8]), None);
        assert_eq!(mac(&link[..LINK_HEADER - 1]), None);
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
