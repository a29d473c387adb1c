//! The programs that a packet goes through: one from the kernel, and others by tail calls, since the verifier
//! looks at each for itself.

use crate::verdict::Counter;

/// A program.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the client side: what every packet goes through.
    Ingress,
    /// A segment of a flow that begins anew, closes, has ended or is watched.
    Care,
    /// A segment of a flow in which a request begins.
    Reuse,
    /// A segment to a VIP without a flow: handshakes, and what is refused.
    Open,
    /// A data segment of such a connection.
    Bind,
    /// Towards the clients: what every packet goes through.
    Egress,
    /// A replica's segment of a flow that closes or has ended.
    CareBack,
    /// A replica answers to a SYN of ours.
    Answer,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ingress,
        Self::Care,
        Self::Reuse,
        Self::Open,
        Self::Bind,
        Self::Egress,
        Self::CareBack,
        Self::Answer,
    ];

    /// The name of the program in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Ingress => "roost_ingress",
            Self::Care => "roost_care",
            Self::Reuse => "roost_reuse",
            Self::Open => "roost_open",
            Self::Bind => "roost_bind",
            Self::Egress => "roost_egress",
            Self::CareBack => "roost_care_back",
            Self::Answer => "roost_answer",
        }
    }

    /// The program of its hook that is attached; the others go on after it.
    pub const fn attached(self) -> Self {
        match self {
            Self::Ingress | Self::Care | Self::Reuse | Self::Open | Self::Bind => Self::Ingress,
            Self::Egress | Self::CareBack | Self::Answer => Self::Egress,
        }
    }

    /// Whether it is attached.
    pub fn is_attached(self) -> bool {
        self == self.attached()
    }

    /// The name of the array where the programs of its hook find those that go on, each at its number.
    pub const fn array(self) -> &'static str {
        match self {
            Self::Ingress | Self::Care | Self::Reuse | Self::Open | Self::Bind => "INGRESS_STAGES",
            Self::Egress | Self::CareBack | Self::Answer => "EGRESS_STAGES",
        }
    }

    /// The verdict on a packet that cannot go on.
    pub const fn fault(self) -> Counter {
        match self {
            Self::Ingress | Self::Care | Self::Reuse | Self::Open | Self::Bind => {
                Counter::DropFault
            }
            Self::Egress | Self::CareBack | Self::Answer => Counter::EgressDropFault,
        }
    }
}

/// The program that arms the timer of the clock hand.
pub const CLOCK: &str = "roost_clock";
/// The program that looks at flows and chats at once.
pub const LOOK: &str = "roost_look";

/// What comes after a program.
#[repr(C, u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is decided.
    Verdict(Counter),
    /// Another program decides.
    Stage(Stage),
}
