//! What each of the programs does, and how a packet goes through all of them.

use crate::{
    bind::bind,
    care::{care, care_back},
    egress::{answer, egress},
    ingress::{ingress, open},
    packet::Packet,
    reuse::reuse,
    scratch::Scratch,
    shortcut::{self, Short},
    stage::{Next, Stage},
    stay::stay,
    tables::{FlowTables, Refused},
    verdict::Counter,
    verifier::reread,
};

impl Stage {
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
            Self::Care => care(packet, tables, scratch),
            Self::Reuse => reuse(packet, tables, scratch),
            Self::Open => open(packet, tables, scratch),
            Self::Bind => {
                scratch.refused = 0;
                let verdict = bind(packet, tables, scratch);
                Some(Next::Verdict(verdict.unwrap_or_else(|| lost(reread(&scratch.refused)))))
            }
            Self::Egress => egress(packet, tables, scratch),
            Self::CareBack => care_back(packet, tables, scratch),
            Self::Answer => answer(packet, tables, scratch).map(Next::Verdict),
            Self::Stay => stay(packet, tables, scratch).map(Next::Verdict),
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
    ) -> Option<Short> {
        match self {
            Self::Ingress => shortcut::to_replica(packet, tables, scratch),
            Self::Egress => shortcut::to_client(packet, tables, scratch),
            _ => None,
        }
    }
}

/// The verdict on a first segment that was not dealt with. `refused`: why a map did not take it.
#[inline(always)]
const fn lost(refused: u32) -> Counter {
    const BUSY: u32 = Refused::Busy as u32;
    const NO_MEMORY: u32 = Refused::NoMemory as u32;
    match refused {
        BUSY => Counter::DropBusy,
        NO_MEMORY => Counter::DropNoMemory,
        _ => Stage::Bind.fault(),
    }
}

/// Goes through all programs, beginning with `stage`, as the kernel does. Never the short way: where kernel and
/// host are compared, so are the two.
pub fn run_all<P: Packet>(
    mut stage: Stage,
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Counter {
    scratch.absent = 0;
    loop {
        match stage.run(packet, tables, scratch) {
            Next::Verdict(verdict) => return verdict,
            Next::Stage(next) => stage = next,
        }
    }
}
