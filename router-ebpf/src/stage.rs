//! The programs that a packet goes through: one from the kernel, and others by tail calls, since the verifier
//! looks at each for itself.

use crate::verdict::Counter;

/// What is done with a packet in one program.
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
    /// A replica says where it stands, and gets a later head that is its own.
    Stay,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Ingress,
        Self::Care,
        Self::Reuse,
        Self::Open,
        Self::Bind,
        Self::Egress,
        Self::CareBack,
        Self::Answer,
        Self::Stay,
    ];

    /// The first one of its direction, which a packet comes to from the kernel; the others go on after it.
    pub const fn first(self) -> Self {
        match self {
            Self::Ingress | Self::Care | Self::Reuse | Self::Open | Self::Bind => Self::Ingress,
            Self::Egress | Self::CareBack | Self::Answer | Self::Stay => Self::Egress,
        }
    }

    /// Whether it is that.
    pub fn is_first(self) -> bool {
        self == self.first()
    }

    /// The verdict on a packet that cannot go on.
    pub const fn fault(self) -> Counter {
        match self {
            Self::Ingress | Self::Care | Self::Reuse | Self::Open | Self::Bind => {
                Counter::DropFault
            }
            Self::Egress | Self::CareBack | Self::Answer | Self::Stay => Counter::EgressDropFault,
        }
    }
}

/// Where packets come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP of a client-facing interface: frames of clients outside.
    Xdp,
    /// TC ingress of a client link: packets of clients on this machine.
    Inside,
    /// TC egress of both: packets towards clients.
    Egress,
}

/// A program of the object: what is done at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where.
    pub hook: Hook,
    /// What.
    pub stage: Stage,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self { hook: Hook::Xdp, stage: Stage::Ingress },
        Self { hook: Hook::Xdp, stage: Stage::Care },
        Self { hook: Hook::Xdp, stage: Stage::Reuse },
        Self { hook: Hook::Xdp, stage: Stage::Open },
        Self { hook: Hook::Xdp, stage: Stage::Bind },
        Self { hook: Hook::Inside, stage: Stage::Ingress },
        Self { hook: Hook::Inside, stage: Stage::Care },
        Self { hook: Hook::Inside, stage: Stage::Reuse },
        Self { hook: Hook::Inside, stage: Stage::Open },
        Self { hook: Hook::Inside, stage: Stage::Bind },
        Self { hook: Hook::Egress, stage: Stage::Egress },
        Self { hook: Hook::Egress, stage: Stage::CareBack },
        Self { hook: Hook::Egress, stage: Stage::Answer },
        Self { hook: Hook::Egress, stage: Stage::Stay },
    ];

    /// Its name in the object.
    pub const fn name(self) -> &'static str {
        match (self.hook, self.stage) {
            (Hook::Inside, Stage::Care) => "roost_in_care",
            (Hook::Inside, Stage::Reuse) => "roost_in_reuse",
            (Hook::Inside, Stage::Open) => "roost_in_open",
            (Hook::Inside, Stage::Bind) => "roost_in_bind",
            (Hook::Inside, _) => "roost_inside",
            (_, Stage::Ingress) => "roost_ingress",
            (_, Stage::Care) => "roost_care",
            (_, Stage::Reuse) => "roost_reuse",
            (_, Stage::Open) => "roost_open",
            (_, Stage::Bind) => "roost_bind",
            (_, Stage::Egress) => "roost_egress",
            (_, Stage::CareBack) => "roost_care_back",
            (_, Stage::Answer) => "roost_answer",
            (_, Stage::Stay) => "roost_stay",
        }
    }

    /// The one of its hook that is attached.
    pub const fn attached(self) -> Self {
        Self { stage: self.stage.first(), ..self }
    }

    /// Whether it is attached; else it goes on after that one.
    pub fn is_attached(self) -> bool {
        self.stage.is_first()
    }

    /// The name of the array where the programs of its hook find those that go on, each at the number of its stage.
    pub const fn array(self) -> &'static str {
        match self.hook {
            Hook::Xdp => "INGRESS_STAGES",
            Hook::Inside => "INSIDE_STAGES",
            Hook::Egress => "EGRESS_STAGES",
        }
    }
}

/// The program that arms the timer of the clock hand.
pub const CLOCK: &str = "roost_clock";
/// The program that looks at flows and chats at once.
pub const LOOK: &str = "roost_look";

/// The programs at the device of the host's own connections: out of the host, and back to it.
pub const HOST_OUT: &str = "roost_host_out";
/// See [`HOST_OUT`].
pub const HOST_BACK: &str = "roost_host_back";
/// The programs where the host's processes connect, and ask whom they are connected to.
pub const CONNECT: [&str; 4] = ["roost_connect4", "roost_connect6", "roost_peer4", "roost_peer6"];

/// What comes after a program.
#[repr(C, u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is decided.
    Verdict(Counter),
    /// Another program decides.
    Stage(Stage),
}
