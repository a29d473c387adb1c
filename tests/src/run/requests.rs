//! A connection that is used for one request after the other, as its client and its replicas see it.

use router_ebpf::verdict::Counter;

use super::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg, options},
    talk::{Conn, Offer},
    world::{Kind, REPLICAS, replica_addr},
};
use crate::run::talk::get;

/// An answer to a request.
pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What a request counts that goes on where its connection is.
pub const STAYED: &[Counter] = &[Counter::StayedRequest];

/// A connection to the first replica that has answered a request.
#[track_caller]
pub fn answered(machine: &mut dyn Machine, family: Family, request: &[u8]) -> Talk {
    let mut talk = Talk::begin(machine, family, request, &[]);
    talk.answer(machine, OK, &[]);
    talk
}

/// A connection, and how far its two directions are since it was bound last.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Its last binding: one is as another, but for where its numbers begin.
    pub conn: Conn,
    /// Bytes that the client has sent.
    pub up: u32,
    /// Bytes that the replica has sent.
    pub down: u32,
}

impl Talk {
    /// One that was bound by this request.
    #[track_caller]
    pub fn begin(
        machine: &mut dyn Machine,
        family: Family,
        request: &[u8],
        also: &[Counter],
    ) -> Self {
        // One after the other, each with a port of its own.
        let port = 1000 + machine.ended().len() as u16;
        Self::begin_as(machine, Conn::new(family, Kind::Home, 1, port), request, also)
    }

    /// The same on a connection like this one.
    #[track_caller]
    pub fn begin_as(
        machine: &mut dyn Machine,
        mut conn: Conn,
        request: &[u8],
        also: &[Counter],
    ) -> Self {
        conn.open(machine);
        conn.bind(machine, request, also);
        conn.accept(machine);
        Self { conn, up: request.len() as u32, down: 0 }
    }

    /// The client's next segment.
    pub fn asks(&self, bytes: &[u8]) -> Seg {
        self.conn.up(PSH | ACK, self.up, self.down, bytes)
    }

    /// The replica's next segment, which acknowledges all.
    pub fn answers(&self, bytes: &[u8]) -> Seg {
        self.conn.down(PSH | ACK, self.down, self.up, bytes)
    }

    /// The client sends this, and it goes to the replica.
    #[track_caller]
    pub fn ask(&mut self, machine: &mut dyn Machine, bytes: &[u8], also: &[Counter]) {
        self.conn.goes_up(machine, &self.asks(bytes), also);
        self.up += bytes.len() as u32;
    }

    /// The replica sends this, and it goes to the client.
    #[track_caller]
    pub fn answer(&mut self, machine: &mut dyn Machine, bytes: &[u8], also: &[Counter]) {
        self.conn.goes_down(machine, &self.answers(bytes), also);
        self.down += bytes.len() as u32;
    }

    /// The client resets it.
    #[track_caller]
    pub fn leave(&self, machine: &mut dyn Machine) {
        let rst = self.conn.up(RST | ACK, self.up, self.down, b"");
        self.conn.goes_up(machine, &rst, &[Counter::Closed]);
    }

    /// What is known of it: the bits of its two sides.
    pub fn state(&self, machine: &dyn Machine) -> (u32, u32) {
        let flow = machine.flows()[0].1.state;
        (flow, machine.flows_back()[0].1.state)
    }

    /// The client asks for what another replica has, by this segment, which begins so many bytes before the request:
    /// that one gets a SYN, and nobody else gets anything. What comes of it.
    #[track_caller]
    pub fn moves_with(
        &self,
        machine: &mut dyn Machine,
        seg: Seg,
        before: u32,
        also: &[Counter],
    ) -> Self {
        let outcome =
            machine.run(Hook::Ingress, &seg.bytes()).counts(&[also, &[Counter::Bound]].concat());
        let to = outcome.segment().dst;
        let family = self.conn.family;
        let replica = (0..REPLICAS).find(|number| replica_addr(family, *number) == to);
        let replica = replica.unwrap_or_else(|| panic!("{to} is no replica"));
        assert_ne!(replica, self.conn.replica);
        let next = self.at(replica, seg, before);
        let first = next.conn.first.as_ref().expect("what it begins with");
        outcome.leaves(&next.conn.replica_syn(first).bytes());
        next
    }

    /// What comes of it if this replica is asked.
    pub fn at(&self, replica: u32, seg: Seg, before: u32) -> Self {
        let first = Seg { payload: seg.payload[before as usize..].to_vec(), ..seg };
        let first = Seg { seq: first.seq.wrapping_add(before), ..first };
        let conn = Conn {
            isn: first.seq.wrapping_sub(1),
            cookie: first.ack.wrapping_sub(1),
            // Above all that the client has seen.
            our_ts: self.last_timestamp().wrapping_add(1),
            replica_isn: self.conn.replica_isn.wrapping_mul(31).wrapping_add(7),
            replica_ts: self.conn.replica_ts.wrapping_add(1 << 31),
            replica,
            first: Some(first.clone()),
            ..self.conn.clone()
        };
        Self { up: first.payload.len() as u32, down: 0, conn }
    }

    /// The same with all of a request in one segment.
    #[track_caller]
    pub fn moves(&self, machine: &mut dyn Machine, request: &[u8]) -> Self {
        // Its client speaks as it was answered at first, whatever this replica speaks.
        let seg = self.clone().answering(Offer::ALL).asks(request);
        self.moves_with(machine, seg, 0, &[])
    }

    /// The new replica accepts, and gets the request; and the one of before hears that its connection is over.
    #[track_caller]
    pub fn accept(&self, machine: &mut dyn Machine, before: &Self) {
        let outcome = machine
            .run(Hook::Egress, &self.conn.replica_syn_ack().bytes())
            .counts(&[Counter::Delivered, Counter::ReboundRequest, Counter::LeftReplica])
            .leaves(&self.farewell(before).bytes());
        assert_eq!(outcome.copies, [self.conn.delivered().bytes()]);
    }

    /// All of it: what another replica has is asked for, and that replica gets it.
    #[track_caller]
    pub fn goes_on(&self, machine: &mut dyn Machine, request: &[u8]) -> Self {
        let next = self.moves(machine, request);
        next.accept(machine, self);
        next
    }

    /// The FIN that the replica of before gets.
    pub fn farewell(&self, before: &Self) -> Seg {
        let delivered = self.conn.delivered();
        let ts = etherparse::TcpOptionElement::Timestamp(
            self.conn.first.as_ref().and_then(Seg::timestamps).map_or(0, |(value, _)| value),
            before.last_timestamp().wrapping_sub(before.conn.ts_delta()),
        );
        let noop = etherparse::TcpOptionElement::Noop;
        let offers = self.conn.offer.remembered();
        Seg {
            dst: before.conn.server(),
            seq: self.conn.isn.wrapping_add(1),
            ack: self.conn.cookie.wrapping_add(1).wrapping_add(before.conn.delta()),
            flags: FIN | ACK,
            options: if offers.timestamps { options(&[noop.clone(), noop, ts]) } else { vec![] },
            payload: Vec::new(),
            ..delivered
        }
    }

    /// What asks its replica where it stands, made of this segment of a request's: the byte before that, whatever it was.
    pub fn announced(&self, seg: &Seg, request: &[u8]) -> Seg {
        let first = self.conn.up(ACK, self.up, self.down, b"").seq;
        let made = self.conn.to_replica(&Seg { flags: ACK, ..seg.clone() });
        let echo = self.last_timestamp().wrapping_sub(self.conn.ts_delta());
        let made = Seg { seq: first.wrapping_sub(1), id: 0, ecn: 0, df: true, ..made };
        Seg {
            options: seg.timestamps().map_or_else(Vec::new, |(value, _)| timestamps(value, echo)),
            payload: request[..1].to_vec(),
            ..made
        }
    }

    /// The replica says where it stands, and gets this head in one segment, with the last timestamp and window of `last`.
    #[track_caller]
    pub fn stays(&mut self, machine: &mut dyn Machine, last: &Seg, head: &[u8], also: &[Counter]) {
        let counted = [also, &[Counter::Delivered, Counter::StayedRequest]].concat();
        let stands = self.conn.down(ACK, self.down, self.up, b"");
        let outcome = machine.run(Hook::Egress, &stands.bytes()).counts(&counted);
        let seg =
            Seg { payload: head.to_vec(), ..self.conn.up(PSH | ACK, self.up, self.down, b"") };
        let made = self.conn.delivered_like(&Seg { options: last.options.clone(), ..seg });
        let echo = stands.timestamps().map(|(value, _)| value);
        let options = last.timestamps().zip(echo).map(|((value, _), echo)| timestamps(value, echo));
        outcome.leaves(&Seg { options: options.unwrap_or_default(), ..made }.bytes());
        self.up += head.len() as u32;
    }

    /// The last timestamp that was sent to the client.
    pub fn last_timestamp(&self) -> u32 {
        let both = self.conn.offer.timestamps && self.conn.answer.timestamps;
        if self.down == 0 || !both { self.conn.our_ts } else { self.conn.our_ts.wrapping_add(9) }
    }

    /// The same replica, if it answers handshakes like this.
    #[must_use]
    pub fn answering(mut self, answer: Offer) -> Self {
        self.conn.answer = answer;
        self
    }
}

/// A chat of each replica's.
pub fn chats(machine: &mut dyn Machine, family: Family) -> [String; REPLICAS as usize] {
    let mut found = [const { None }; REPLICAS as usize];
    for n in 0.. {
        if let [Some(a), Some(b), Some(c)] = &found {
            return [a, b, c].map(String::clone);
        }
        let chat = format!("chat-{n}");
        let mut conn = Conn::new(family, Kind::Home, 7, 2000 + n);
        conn.open(machine);
        conn.bind(machine, &get(&chat), &[]);
        found[conn.replica as usize].get_or_insert(chat);
    }
    unreachable!()
}

/// The option with these, as it is laid out in segments of flows.
fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let noop = etherparse::TcpOptionElement::Noop;
    options(&[noop.clone(), noop, etherparse::TcpOptionElement::Timestamp(value, echo)])
}
