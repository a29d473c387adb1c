//! Frames by an independent library: what the data path wrote itself could be wrong twice.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    DoubleVlanHeader, IpEcn, IpFragOffset, IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FlowLabel, Ipv6Header, LinkHeader, NetHeaders, PacketBuilder, PacketHeaders,
    SingleVlanHeader, TcpHeader, TcpOptionElement, TcpOptions, TransportHeader, VlanHeader, VlanId,
    ip_number,
};

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;
/// URG.
pub const URG: u8 = 0x20;
/// ECE.
pub const ECE: u8 = 0x40;
/// CWR.
pub const CWR: u8 = 0x80;

/// A TCP segment with all that is around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seg {
    /// Ethernet source and destination.
    pub macs: [[u8; 6]; 2],
    /// VLAN tags, the outer one first; two at the most.
    pub vlan: Vec<u16>,
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// ECN bits of the IP header.
    pub ecn: u8,
    /// Identification (IPv4) or flow label (IPv6).
    pub id: u16,
    /// Don't fragment (IPv4).
    pub df: bool,
    /// More fragments, and the offset in units of eight bytes (IPv4).
    pub fragment: (bool, u16),
    /// IPv4 options.
    pub ip_options: Vec<u8>,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// TCP options, padded to a multiple of four.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

/// TCP options as bytes.
pub fn options(elements: &[TcpOptionElement]) -> Vec<u8> {
    TcpOptions::try_from_elements(elements).expect("options fit").as_slice().to_vec()
}

impl Seg {
    /// A plain segment as this end's kernel would send it.
    pub fn new(src: SocketAddr, dst: SocketAddr, flags: u8, seq: u32, ack: u32) -> Self {
        Self {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            vlan: Vec::new(),
            src,
            dst,
            ttl: 64,
            ecn: 0,
            id: 0,
            df: true,
            fragment: (false, 0),
            ip_options: Vec::new(),
            seq,
            ack,
            flags,
            window: 0,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Offset of the IP header in the frame.
    pub fn l3(&self) -> usize {
        14 + 4 * self.vlan.len()
    }

    /// Offset of the TCP header in the frame.
    pub fn l4(&self) -> usize {
        self.l3() + if self.src.is_ipv6() { 40 } else { 20 + self.ip_options.len() }
    }

    /// The timestamps in the options, whatever stands before them.
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        let mut rest = self.options.as_slice();
        loop {
            rest = match *rest {
                [8, 10, a, b, c, d, e, f, g, h, ..] => {
                    let [value, echo] = [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes);
                    return Some((value, echo));
                }
                [1, ..] => &rest[1..],
                [0, ..] | [_] | [] => return None,
                [_, len, ..] if len >= 2 => rest.get(usize::from(len)..)?,
                _ => return None,
            };
        }
    }

    /// The frame, with right checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let [src, dst] = self.macs;
        let tag = |id: u16| SingleVlanHeader {
            vlan_id: VlanId::try_new(id).expect("a VLAN id"),
            ..SingleVlanHeader::default()
        };
        let builder = PacketBuilder::ethernet2(src, dst);
        let ip = ip_headers(self);
        let builder = match *self.vlan.as_slice() {
            [] => builder.ip(ip),
            [one] => builder.vlan(VlanHeader::Single(tag(one))).ip(ip),
            [outer, inner] => builder
                .vlan(VlanHeader::Double(DoubleVlanHeader { outer: tag(outer), inner: tag(inner) }))
                .ip(ip),
            _ => panic!("two VLAN tags at the most"),
        };
        let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), self.seq, self.window);
        tcp.acknowledgment_number = self.ack;
        tcp.fin = self.has(FIN);
        tcp.syn = self.has(SYN);
        tcp.rst = self.has(RST);
        tcp.psh = self.has(PSH);
        tcp.ack = self.has(ACK);
        tcp.urg = self.has(0x20);
        tcp.ece = self.has(ECE);
        tcp.cwr = self.has(CWR);
        tcp.set_options_raw(&self.options).expect("options fit");
        let mut bytes = Vec::new();
        builder.tcp_header(tcp).write(&mut bytes, &self.payload).expect("a frame");
        bytes
    }

    /// The frame with zeros behind it, to more bytes than IP can say, as the kernel merges segments since Linux 7.0.
    pub fn merged(&self) -> Vec<u8> {
        let mut frame = self.bytes();
        let at = 14 + if self.src.is_ipv4() { 2 } else { 4 };
        frame[at..at + 2].fill(0);
        frame.resize(70_000, 0);
        frame
    }

    /// What is in a frame, if it is a whole TCP segment.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = PacketHeaders::from_ethernet_slice(frame).ok()?;
        let Some(TransportHeader::Tcp(tcp)) = &packet.transport else { return None };
        let (src, dst): (IpAddr, IpAddr) = match packet.net.as_ref()? {
            NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
            NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
            NetHeaders::Arp(_) => return None,
        };
        let src = SocketAddr::new(src, tcp.source_port);
        let dst = SocketAddr::new(dst, tcp.destination_port);
        let mut seg = Self::new(src, dst, tcp.to_bytes()[13], 0, 0);
        match packet.net.as_ref()? {
            NetHeaders::Ipv4(ip, _) => {
                seg.ttl = ip.time_to_live;
                seg.ecn = ip.ecn.value();
                seg.id = ip.identification;
                seg.df = ip.dont_fragment;
                seg.ip_options = ip.options.as_slice().to_vec();
            }
            NetHeaders::Ipv6(ip, _) => {
                seg.ttl = ip.hop_limit;
                seg.ecn = ip.traffic_class & 3;
                seg.id = ip.flow_label.value() as u16;
            }
            NetHeaders::Arp(_) => return None,
        }
        if let Some(LinkHeader::Ethernet2(eth)) = &packet.link {
            seg.macs = [eth.source, eth.destination];
        }
        seg.vlan = packet.vlan_ids().iter().map(|id| id.value()).collect();
        seg.seq = tcp.sequence_number;
        seg.ack = tcp.acknowledgment_number;
        seg.window = tcp.window_size;
        seg.options = tcp.options.as_slice().to_vec();
        seg.payload = packet.payload.slice().to_vec();
        Some(seg)
    }
}

fn ip_headers(seg: &Seg) -> IpHeaders {
    match (seg.src.ip(), seg.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = Ipv4Header::new(0, seg.ttl, ip_number::TCP, src.octets(), dst.octets())
                .expect("an IPv4 header");
            ip.ecn = IpEcn::try_new(seg.ecn).expect("two bits");
            ip.identification = seg.id;
            ip.dont_fragment = seg.df;
            ip.more_fragments = seg.fragment.0;
            ip.fragment_offset = IpFragOffset::try_new(seg.fragment.1).expect("13 bits");
            ip.options = seg.ip_options.as_slice().try_into().expect("options fit");
            IpHeaders::Ipv4(ip, Ipv4Extensions::default())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = Ipv6Header {
                traffic_class: seg.ecn,
                flow_label: Ipv6FlowLabel::try_new(seg.id.into()).expect("20 bits"),
                hop_limit: seg.ttl,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(ip, Ipv6Extensions::default())
        }
        _ => panic!("{} and {} are of two families", seg.src, seg.dst),
    }
}

/// An ICMP error of this type and code, with what is in the header's last four bytes, about
/// `quoted`: the first bytes of an IP packet.
pub fn icmp_error(
    src: IpAddr,
    dst: IpAddr,
    (kind, code): (u8, u8),
    rest: [u8; 4],
    quoted: &[u8],
) -> Vec<u8> {
    let outer = Seg::new(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), 0, 0, 0);
    let [mac_src, mac_dst] = outer.macs;
    let builder = PacketBuilder::ethernet2(mac_src, mac_dst).ip(ip_headers(&outer));
    let mut bytes = Vec::new();
    if src.is_ipv4() {
        builder.icmpv4_raw(kind, code, rest).write(&mut bytes, quoted).expect("a frame");
    } else {
        builder.icmpv6_raw(kind, code, rest).write(&mut bytes, quoted).expect("a frame");
    }
    bytes
}
