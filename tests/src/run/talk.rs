//! One connection as its two ends see it: every step checks the exact bytes and counters, so a test
//! that only passes through a handshake still tests it.

use std::net::SocketAddr;

use etherparse::TcpOptionElement::{
    MaximumSegmentSize, Noop, SelectiveAcknowledgement, SelectiveAcknowledgementPermitted,
    Timestamp, WindowScale,
};
use router_ebpf::{maps::Tuple, verdict::Counter};

use super::{
    Family, Hook, Machine, Outcome,
    frame::{ACK, FIN, PSH, RST, SYN, Seg, options},
    world::{Kind, MSS4, MSS6, REPLICAS, client, mapped, replica_addr},
};

/// What one end offers in its SYN, or answers in its SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale.
    pub scale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
}

impl Offer {
    /// What Linux offers.
    pub const ALL: Self = Self { mss: Some(1460), scale: Some(7), sack: true, timestamps: true };
    /// Nothing at all.
    pub const NONE: Self = Self { mss: None, scale: None, sack: false, timestamps: false };

    /// The options of a SYN, laid out as Linux does.
    pub fn syn_options(&self, ts: (u32, u32)) -> Vec<u8> {
        let mut list = Vec::new();
        list.extend(self.mss.map(MaximumSegmentSize));
        match (self.sack, self.timestamps) {
            (true, true) => list.extend([SelectiveAcknowledgementPermitted, Timestamp(ts.0, ts.1)]),
            (false, true) => list.extend([Noop, Noop, Timestamp(ts.0, ts.1)]),
            (true, false) => list.extend([Noop, Noop, SelectiveAcknowledgementPermitted]),
            (false, false) => {}
        }
        if let Some(scale) = self.scale {
            list.extend([Noop, WindowScale(scale)]);
        }
        options(&list)
    }

    /// What a SYN cookie has room for, and so what we answer. The smallest MSS is everybody's.
    #[must_use]
    pub fn remembered(&self) -> Self {
        let mss = self.mss.unwrap_or(0).max(CLASSES[0]);
        if self.timestamps {
            let class = CLASSES.into_iter().rfind(|class| *class <= mss);
            return Self { mss: class, scale: self.scale.map(|scale| scale.min(14)), ..*self };
        }
        // Without timestamps there is room for eight combinations only.
        let scale = self.scale.unwrap_or(0);
        let (mss, scale, sack) = match (self.sack, scale, mss) {
            (true, 8.., 1440..) => (1440, Some(8), true),
            (true, 8.., 1360..) => (1360, Some(8), true),
            (true, 7.., 1440..) => (1440, Some(7), true),
            (true, 6.., 1220..) => (1220, Some(6), true),
            (true, 7.., _) => (536, Some(7), true),
            (true, _, 1220..) => (1220, None, true),
            (_, _, 1360..) => (1360, None, false),
            _ => (536, None, false),
        };
        Self { mss: Some(mss), scale, sack, timestamps: false }
    }

    /// What both ends have.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            mss: self.mss,
            scale: self.scale.filter(|_| other.scale.is_some()),
            sack: self.sack && other.sack,
            timestamps: self.timestamps && other.timestamps,
        }
    }
}

/// A request for a chat.
pub fn get(chat: &str) -> Vec<u8> {
    format!("GET /ws?chat={chat} HTTP/1.1\r\nHost: chat.example\r\n\r\n").into_bytes()
}

/// The classes of MSS that a SYN cookie has room for.
const CLASSES: [u16; 8] = [536, 1220, 1340, 1400, 1440, 1460, 4312, 8940];
const CLIENT_WINDOW: u16 = 502;
const REPLICA_WINDOW: u16 = 501;

/// A connection.
#[derive(Clone, Debug)]
pub struct Conn {
    /// Address family.
    pub family: Family,
    /// The client's end.
    pub client: SocketAddr,
    /// The VIP.
    pub vip: SocketAddr,
    /// VLAN tags of all segments.
    pub vlan: Vec<u16>,
    /// What the client offers.
    pub offer: Offer,
    /// What the replica answers.
    pub answer: Offer,
    /// The client's ISN.
    pub isn: u32,
    /// Our ISN, from the SYN-ACK.
    pub cookie: u32,
    /// Our timestamp, from the SYN-ACK.
    pub our_ts: u32,
    /// The client's timestamp.
    pub client_ts: u32,
    /// The replica's ISN.
    pub replica_isn: u32,
    /// The replica's timestamp in its SYN-ACK.
    pub replica_ts: u32,
    /// The replica's number.
    pub replica: u32,
    /// The first data segment.
    pub first: Option<Seg>,
}

impl Conn {
    /// A connection to a service from one of a family's clients.
    pub fn new(family: Family, kind: Kind, host: u16, port: u16) -> Self {
        Self {
            family,
            client: client(family, host, port),
            vip: kind.vip(family),
            vlan: Vec::new(),
            offer: Offer::ALL,
            answer: Offer::ALL,
            isn: 0x1234_5678,
            cookie: 0,
            our_ts: 0,
            client_ts: 0x0abc_def0,
            replica_isn: 0x7654_3210,
            replica_ts: 0x9000_0000,
            replica: u32::MAX,
            first: None,
        }
    }

    /// The replica's end.
    pub fn server(&self) -> SocketAddr {
        replica_addr(self.family, self.replica)
    }

    /// What the replica's sequence numbers are ahead of ours.
    pub fn delta(&self) -> u32 {
        self.replica_isn.wrapping_sub(self.cookie)
    }

    /// What is added to the replica's timestamps.
    pub fn ts_delta(&self) -> u32 {
        if self.both().timestamps { self.our_ts.wrapping_sub(self.replica_ts) } else { 0 }
    }

    fn both(&self) -> Offer {
        self.offer.remembered().and(&self.answer)
    }

    /// The client's key in `FLOWS`.
    pub fn vip_side(&self) -> Tuple {
        self.tuple(self.vip)
    }

    /// The client's key in `FLOWS_BACK` and `PENDING`.
    pub fn replica_side(&self) -> Tuple {
        self.tuple(self.server())
    }

    fn tuple(&self, server: SocketAddr) -> Tuple {
        Tuple {
            client: mapped(self.client.ip()),
            server: mapped(server.ip()),
            client_port: self.client.port().to_be_bytes(),
            server_port: server.port().to_be_bytes(),
        }
    }

    /// The client's SYN.
    pub fn syn(&self) -> Seg {
        Seg {
            vlan: self.vlan.clone(),
            window: 64240,
            id: 0x4321,
            ttl: 57,
            options: self.offer.syn_options((self.client_ts, 0)),
            ..Seg::new(self.client, self.vip, SYN, self.isn, 0)
        }
    }

    /// Our SYN-ACK.
    pub fn syn_ack(&self) -> Seg {
        let mss = if self.family == Family::V4 { MSS4 } else { MSS6 };
        let known = self.offer.remembered();
        let ours = Offer { mss: Some(mss), scale: known.scale.map(|_| 7), ..known };
        let ack = self.isn.wrapping_add(1);
        let seg = Seg::new(self.vip, self.client, SYN | ACK, self.cookie, ack);
        Seg {
            macs: swapped(seg.macs),
            vlan: self.vlan.clone(),
            window: 16383,
            options: ours.syn_options((self.our_ts, self.client_ts)),
            ..seg
        }
    }

    /// A segment of the client's, `seq` bytes behind its first and acknowledging so many of ours.
    pub fn up(&self, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Seg {
        let (seq, ack) = (after(self.isn, seq), after(self.cookie, ack));
        let seg = Seg {
            vlan: self.vlan.clone(),
            ttl: 57,
            id: 0x1717,
            window: CLIENT_WINDOW,
            payload: payload.to_vec(),
            ..Seg::new(self.client, self.vip, flags, seq, ack)
        };
        // Until the replica has answered, the client knows of nothing else.
        let unbound = self.replica == u32::MAX;
        if !if unbound { self.offer } else { self.both() }.timestamps {
            return seg;
        }
        let since = if unbound { 0 } else { 3 };
        let ts = Timestamp(self.client_ts.wrapping_add(5), self.our_ts.wrapping_add(since));
        Seg { options: options(&[Noop, Noop, ts]), ..seg }
    }

    /// The same, with SACK blocks: edges so many bytes behind our first.
    pub fn up_sack(&self, seq: u32, ack: u32, blocks: &[(u32, u32)]) -> Seg {
        let seg = self.up(ACK, seq, ack, b"");
        let blocks = self.edges(blocks, self.cookie.wrapping_add(1));
        Seg { options: self.sack_options(&seg, &blocks, 0), ..seg }
    }

    fn edges(&self, blocks: &[(u32, u32)], base: u32) -> Vec<(u32, u32)> {
        let edge = |at: u32| base.wrapping_add(at);
        blocks.iter().map(|(from, to)| (edge(*from), edge(*to))).collect()
    }

    fn sack_options(&self, seg: &Seg, blocks: &[(u32, u32)], shift: u32) -> Vec<u8> {
        let shifted: Vec<_> = blocks
            .iter()
            .map(|(from, to)| (from.wrapping_add(shift), to.wrapping_add(shift)))
            .collect();
        let rest = [1, 2, 3].map(|at| shifted.get(at).copied());
        let mut list = vec![Noop, Noop];
        if let Some((value, echo)) = seg.timestamps() {
            list.extend([Timestamp(value, echo), Noop, Noop]);
        }
        list.push(SelectiveAcknowledgement(shifted[0], rest));
        options(&list)
    }

    /// A segment of the client's as the replica is to get it.
    pub fn to_replica(&self, seg: &Seg) -> Seg {
        let scale = match (self.offer.remembered().scale, self.answer.scale) {
            (Some(scale), None) => scale,
            _ => 0,
        };
        let mut out = Seg {
            dst: self.server(),
            ack: if seg.has(ACK) { seg.ack.wrapping_add(self.delta()) } else { seg.ack },
            window: (u32::from(seg.window) << scale).min(0xffff) as u16,
            ..seg.clone()
        };
        if let Some((value, echo)) = seg.timestamps() {
            let ts = Timestamp(value, echo.wrapping_sub(self.ts_delta()));
            out.options = options(&[Noop, Noop, ts]);
        }
        out
    }

    /// A segment of [`up_sack`](Self::up_sack) as the replica is to get it.
    pub fn to_replica_sack(&self, seg: &Seg, blocks: &[(u32, u32)]) -> Seg {
        let mut out = self.to_replica(seg);
        let blocks = self.edges(blocks, self.cookie.wrapping_add(1));
        out.options = self.sack_options(&out, &blocks, self.delta());
        out
    }

    /// A segment of the replica's, `seq` bytes behind its first, acknowledging so many.
    pub fn down(&self, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Seg {
        let (seq, ack) = (after(self.replica_isn, seq), after(self.isn, ack));
        let seg = Seg {
            vlan: self.vlan.clone(),
            ttl: 63,
            id: 0x2828,
            window: REPLICA_WINDOW,
            payload: payload.to_vec(),
            ..Seg::new(self.server(), self.client, flags, seq, ack)
        };
        if !self.both().timestamps {
            return seg;
        }
        let ts = Timestamp(self.replica_ts.wrapping_add(9), self.client_ts.wrapping_add(5));
        Seg { options: options(&[Noop, Noop, ts]), ..seg }
    }

    /// A segment of the replica's as the client is to get it.
    pub fn to_client(&self, seg: &Seg) -> Seg {
        let from = self.answer.scale.unwrap_or(0);
        let offered = self.offer.remembered().scale;
        let to = offered.map_or(0, |_| 7);
        // Without both offers there is no scaling on the replica's side.
        let from = if offered.is_some() { from } else { 0 };
        let window = ((u64::from(seg.window) << from) >> to).min(0xffff) as u16;
        let mut out =
            Seg { src: self.vip, seq: seg.seq.wrapping_sub(self.delta()), window, ..seg.clone() };
        if let Some((value, echo)) = seg.timestamps() {
            let ts = Timestamp(value.wrapping_add(self.ts_delta()), echo);
            out.options = options(&[Noop, Noop, ts]);
        }
        out
    }

    /// The SYN that the replica is to get for this first data segment.
    pub fn replica_syn(&self, first: &Seg) -> Seg {
        let known = self.offer.remembered();
        let most = if self.family == Family::V4 { MSS4 } else { MSS6 };
        let offer = Offer { mss: known.mss.map(|mss| mss.min(most)), ..known };
        let ts_val = first.timestamps().map_or(0, |(value, _)| value);
        Seg {
            src: first.src,
            dst: self.server(),
            seq: self.isn,
            ack: 0,
            flags: SYN,
            id: 0,
            ecn: 0,
            df: true,
            window: (u32::from(first.window) << known.scale.unwrap_or(0)).min(0xffff) as u16,
            options: offer.syn_options((ts_val, 0)),
            payload: Vec::new(),
            ..first.clone()
        }
    }

    /// The replica's SYN-ACK.
    pub fn replica_syn_ack(&self) -> Seg {
        let answer = self.answer.and(&Offer { mss: self.answer.mss, ..self.offer.remembered() });
        let ts = (self.replica_ts, self.client_ts.wrapping_add(5));
        let seg = Seg::new(
            self.server(),
            self.client,
            SYN | ACK,
            self.replica_isn,
            self.isn.wrapping_add(1),
        );
        Seg {
            vlan: self.vlan.clone(),
            ttl: 63,
            window: 65160,
            options: answer.syn_options(ts),
            ..seg
        }
    }

    /// The first data segment as the replica is to get it when it has accepted.
    pub fn delivered(&self) -> Seg {
        self.delivered_like(self.first.as_ref().expect("a connection that is bound"))
    }

    /// The same for a segment like this one.
    pub fn delivered_like(&self, first: &Seg) -> Seg {
        let seg = self.to_replica(first);
        let options = match first.timestamps().filter(|_| self.both().timestamps) {
            Some((value, _)) => options(&[Noop, Noop, Timestamp(value, self.replica_ts)]),
            None => Vec::new(),
        };
        // What ECN flags may be there belong to a connection that has agreed on ECN.
        let flags = seg.flags & (FIN | PSH | ACK);
        Seg { macs: swapped(seg.macs), id: 0, ttl: 64, ecn: 0, df: true, flags, options, ..seg }
    }

    /// Our acknowledgement of the client's first bytes, in answer to this segment.
    pub fn acknowledged(&self, seg: &Seg, bytes: u32) -> Seg {
        // A usual segment more than is kept.
        let left = 16384 + 1460 - bytes as u16;
        let window = if self.offer.remembered().scale.is_some() { left >> 7 } else { left };
        let turned = |(value, echo)| options(&[Noop, Noop, Timestamp(echo, value)]);
        Seg {
            macs: swapped(seg.macs),
            vlan: seg.vlan.clone(),
            window,
            options: seg.timestamps().map_or_else(Vec::new, turned),
            ..Seg::new(self.vip, self.client, ACK, after(self.cookie, 0), after(self.isn, bytes))
        }
    }

    /// SYN and SYN-ACK, and the ACK that is swallowed.
    #[track_caller]
    pub fn open(&mut self, machine: &mut dyn Machine) {
        let outcome = self.greet(machine);
        outcome.leaves(&self.syn_ack().bytes());
        self.replica = u32::MAX;
        let ack = self.up(ACK, 0, 0, b"");
        machine.run(Hook::Ingress, &ack.bytes()).counts(&[Counter::AckSwallowed]);
    }

    /// Sends the SYN and learns our numbers from the answer.
    #[track_caller]
    pub fn greet(&mut self, machine: &mut dyn Machine) -> Outcome {
        let outcome =
            machine.run(Hook::Ingress, &self.syn().bytes()).counts(&[Counter::SynAnswered]);
        let answer = outcome.segment();
        self.cookie = answer.seq;
        self.our_ts = answer.timestamps().map_or(0, |(value, _)| value);
        outcome
    }

    /// The first data segment becomes a SYN to one of the family's replicas; so many counters more
    /// than `Bound` move.
    #[track_caller]
    pub fn bind(&mut self, machine: &mut dyn Machine, payload: &[u8], also: &[Counter]) {
        self.replica = u32::MAX;
        let first = self.up(PSH | ACK, 0, 0, payload);
        self.bind_with(machine, first, also);
    }

    /// The same with this segment.
    #[track_caller]
    pub fn bind_with(&mut self, machine: &mut dyn Machine, first: Seg, also: &[Counter]) {
        let counters = [also, &[Counter::Bound]].concat();
        let outcome = machine.run(Hook::Ingress, &first.bytes()).counts(&counters);
        let to = outcome.segment().dst;
        let replica = (0..REPLICAS).find(|number| replica_addr(self.family, *number) == to);
        self.replica = replica.unwrap_or_else(|| panic!("{to} is no replica"));
        outcome.leaves(&self.replica_syn(&first).bytes());
        self.first = Some(first);
    }

    /// The replica accepts, and the stashed segment is delivered to it.
    #[track_caller]
    pub fn accept(&self, machine: &mut dyn Machine) {
        self.accept_with(machine, &[]);
    }

    /// The same; these counters move, too.
    #[track_caller]
    pub fn accept_with(&self, machine: &mut dyn Machine, also: &[Counter]) {
        machine
            .run(Hook::Egress, &self.replica_syn_ack().bytes())
            .counts(&[also, &[Counter::Delivered]].concat())
            .leaves(&self.delivered().bytes());
    }

    /// All of a handshake, with a request for this chat.
    #[track_caller]
    pub fn establish(&mut self, machine: &mut dyn Machine, chat: &str) {
        self.open(machine);
        self.bind(machine, &get(chat), &[]);
        self.accept(machine);
    }

    /// A segment of the client's goes to the replica, translated; these counters move, too.
    #[track_caller]
    pub fn goes_up(&self, machine: &mut dyn Machine, seg: &Seg, also: &[Counter]) {
        machine
            .run(Hook::Ingress, &seg.bytes())
            .counts(&[also, &[Counter::ToReplica]].concat())
            .leaves(&self.to_replica(seg).bytes());
    }

    /// A segment of the replica's goes to the client, translated; these counters move, too.
    #[track_caller]
    pub fn goes_down(&self, machine: &mut dyn Machine, seg: &Seg, also: &[Counter]) {
        machine
            .run(Hook::Egress, &seg.bytes())
            .counts(&[also, &[Counter::ToClient]].concat())
            .leaves(&self.to_client(seg).bytes());
    }
}

/// The RST that answers a segment (RFC 9293 section 3.5.2), as it is sent back.
pub fn reset_for(seg: &Seg) -> Seg {
    let (seq, ack, flags) = if seg.has(ACK) {
        (seg.ack, 0, RST)
    } else {
        let len = seg.payload.len() as u32 + u32::from(seg.has(SYN)) + u32::from(seg.has(1));
        (0, seg.seq.wrapping_add(len), RST | ACK)
    };
    Seg {
        macs: swapped(seg.macs),
        vlan: seg.vlan.clone(),
        ..Seg::new(seg.dst, seg.src, flags, seq, ack)
    }
}

/// The sequence number so many bytes behind the first one.
fn after(isn: u32, bytes: u32) -> u32 {
    isn.wrapping_add(1).wrapping_add(bytes)
}

fn swapped([src, dst]: [[u8; 6]; 2]) -> [[u8; 6]; 2] {
    [dst, src]
}
