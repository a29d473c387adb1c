//! Interfaces, addresses and routes of our own.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{LINK_HEADER, Message, ask};

const IFF_UP: u32 = 1;
const IFF_NOARP: u32 = 0x80;

/// A prefix: an address and so many bits of it.
pub type Bits = (IpAddr, u8);

/// Makes a veth pair in this network namespace. Both ends have the same MAC address and ask for no other: what one sends is for the
/// other, whatever its destination.
pub fn make_pair(names: [&str; 2], mac: [u8; 6]) -> Result<()> {
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const VETH_INFO_PEER: u16 = 1;
    let header = link_header(0, IFF_NOARP, IFF_NOARP);
    let own = |name: &str| {
        [
            DefaultNla::new(IFLA_IFNAME, [name.as_bytes(), b"\0"].concat()),
            DefaultNla::new(IFLA_ADDRESS, mac.to_vec()),
        ]
    };
    let [near, far] = names.map(own);
    let peer = DefaultNla::new(VETH_INFO_PEER, [&header[..], &bytes(&far)].concat());
    let kind = DefaultNla::new(IFLA_INFO_KIND, b"veth".to_vec());
    let info = [kind, DefaultNla::new(IFLA_INFO_DATA, bytes(&[peer]))];
    let info = DefaultNla::new(IFLA_LINKINFO, bytes(&info));
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    change(libc::RTM_NEWLINK, flags, &header, &[near.as_slice(), &[info]].concat())
        .with_context(|| format!("making the interfaces {} and {}", names[0], names[1]))
}

/// Sets an interface up.
pub fn set_up(index: u32) -> Result<()> {
    change(libc::RTM_NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP), &[])
        .context("setting an interface up")
}

/// Removes an interface, and the other end of a veth with it.
pub fn remove(index: u32) -> Result<()> {
    change(libc::RTM_DELLINK, 0, &link_header(index, 0, 0), &[]).context("removing an interface")
}

/// Gives an interface an address that is the source of nothing but what a route says.
pub fn add_address(index: u32, addr: IpAddr) -> Result<()> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_CACHEINFO: u16 = 6;
    /// There is nobody to ask whether it is taken, and routes want it at once.
    const IFA_F_NODAD: u8 = 2;
    let (family, octets) = parts(addr);
    let mut attributes =
        vec![DefaultNla::new(IFA_LOCAL, octets.clone()), DefaultNla::new(IFA_ADDRESS, octets)];
    let scope = match addr {
        IpAddr::V4(_) => libc::RT_SCOPE_LINK,
        IpAddr::V6(_) => {
            // Never preferred, valid for ever.
            let times = [0, u32::MAX, 0, 0].map(u32::to_ne_bytes);
            attributes.push(DefaultNla::new(IFA_CACHEINFO, times.as_flattened().to_vec()));
            libc::RT_SCOPE_UNIVERSE
        }
    };
    let mut header = vec![family, whole(addr), IFA_F_NODAD, scope];
    header.extend(index.to_ne_bytes());
    change(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes)
        .with_context(|| format!("adding the address {addr}"))
}

/// Routes a prefix to an interface, with a source.
pub fn add_route((addr, bits): Bits, index: u32, source: Option<IpAddr>) -> Result<()> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_PREFSRC: u16 = 7;
    let (family, octets) = parts(addr);
    let scope = if addr.is_ipv4() { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    let mut header = vec![family, bits, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope];
    header.extend([libc::RTN_UNICAST, 0, 0, 0, 0]);
    let mut attributes = vec![
        DefaultNla::new(RTA_DST, octets),
        DefaultNla::new(RTA_OIF, index.to_ne_bytes().to_vec()),
    ];
    attributes.extend(source.map(|source| DefaultNla::new(RTA_PREFSRC, parts(source).1)));
    change(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes)
        .with_context(|| format!("adding a route to {addr}/{bits}"))
}

/// The bits of a whole address.
pub const fn whole(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn parts(addr: IpAddr) -> (u8, Vec<u8>) {
    match addr {
        IpAddr::V4(addr) => (libc::AF_INET as u8, addr.octets().to_vec()),
        IpAddr::V6(addr) => (libc::AF_INET6 as u8, addr.octets().to_vec()),
    }
}

/// A `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, which: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    for (at, word) in [(4, index), (8, flags), (12, which)] {
        header[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    header
}

fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// Sends one request that changes something, and waits until it is done.
fn change(kind: u16, flags: u16, header: &[u8], attributes: &[DefaultNla]) -> Result<()> {
    let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let socket = ask(NETLINK_ROUTE, kind, flags, header, attributes)?;
    let (answer, _) = socket.recv_from_full().context("no answer by netlink")?;
    let answer = NetlinkMessage::<Message>::deserialize(&answer);
    match answer.context("a netlink answer that cannot be read")?.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io().into()),
        _ => bail!("an odd netlink answer"),
    }
}
