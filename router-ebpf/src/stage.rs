//! The programs that a packet goes through: one from the kernel, and others by tail calls, since the verifier
//! looks at each for itself.

use crate::{
    bind::bind,
    egress::{answer, egress},
    ingress::{ingress, open},
    packet::Packet,
    scratch::Scratch,
    shortcut,
    tables::FlowTables,
    verdict::Counter,
};

/// A program.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the client side: what every packet goes through.
    Ingress,
    /// A segment to a VIP without a flow: handshakes, and what is refused.
    Open,
    /// A data segment of such a connection.
    Bind,
    /// Towards the clients: what every packet goes through.
    Egress,
    /// A replica answers to a SYN of ours.
    Answer,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ingress, Self::Open, Self::Bind, Self::Egress, Self::Answer];

    /// The name of the program in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Ingress => "roost_ingress",
            Self::Open => "roost_open",
            Self::Bind => "roost_bind",
            Self::Egress => "roost_egress",
            Self::Answer => "roost_answer",
        }
    }

    /// The program of its hook that is attached; the others go on after it.
    pub const fn attached(self) -> Self {
        match self {
            Self::Ingress | Self::Open | Self::Bind => Self::Ingress,
            Self::Egress | Self::Answer => Self::Egress,
        }
    }

    /// Whether it is attached.
    pub fn is_attached(self) -> bool {
        self == self.attached()
    }

    /// The name of the array where the programs of its hook find those that go on, each at its number.
    pub const fn array(self) -> &'static str {
        match self {
            Self::Ingress | Self::Open | Self::Bind => "INGRESS_STAGES",
            Self::Egress | Self::Answer => "EGRESS_STAGES",
        }
    }

    /// Does what is to be done there. Only `scratch` goes from one to the next.
    #[inline(always)]
    pub fn run<P: Packet>(
        self,
        packet: &mut P,
        tables: &impl FlowTables,
        scratch: &mut Scratch,
    ) -> Next {
        let next = match self {
            Self::Ingress => ingress(packet, tables, scratch),
            Self::Open => open(packet, tables, scratch),
            Self::Bind => bind(packet, tables, scratch).map(Next::Verdict),
            Self::Egress => egress(packet, tables, scratch),
            Self::Answer => answer(packet, tables, scratch).map(Next::Verdict),
        };
        next.unwrap_or(Next::Verdict(self.fault()))
    }

    /// Does the same by a short way, where there is one for the packet: see [`shortcut`].
    #[inline(always)]
    pub fn run_short<P: Packet>(
        self,
        packet: &mut P,
        tables: &impl FlowTables,
        scratch: &mut Scratch,
    ) -> Option<Counter> {
        match self {
            Self::Ingress => shortcut::to_replica(packet, tables, scratch),
            Self::Egress => shortcut::to_client(packet, tables, scratch),
            Self::Open | Self::Bind | Self::Answer => None,
        }
    }

    /// The verdict on a packet that cannot go on.
    pub const fn fault(self) -> Counter {
        match self {
            Self::Ingress | Self::Open | Self::Bind => Counter::DropFault,
            Self::Egress | Self::Answer => Counter::EgressDropFault,
        }
    }
}

/// What comes after a program.
#[repr(C, u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is decided.
    Verdict(Counter),
    /// Another program decides.
    Stage(Stage),
}

/// Goes through all programs, beginning with `stage`, as the kernel does. Never the short way: where kernel and
/// host are compared, so are the two.
pub fn run_all<P: Packet>(
    mut stage: Stage,
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Counter {
    loop {
        match stage.run(packet, tables, scratch) {
            Next::Verdict(verdict) => return verdict,
            Next::Stage(next) => stage = next,
        }
    }
}
