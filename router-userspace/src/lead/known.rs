//! What the leader learns from the daemon.

use crate::{
    kube::{Problem, Source},
    plan::config::{AddressPool, Prefix},
};

use super::Claimant;

/// What the leader has to know, from its watches and its file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Roost's Services.
    pub claimants: Vec<Claimant>,
    /// What other sources have.
    pub taken: Vec<Prefix>,
    /// What is wrong with Services.
    pub problems: Vec<Problem>,
    /// A list of the API server is doubted: it may have forgotten Services, and what they have.
    pub is_doubted: bool,
    /// What may be given.
    pub pools: Vec<AddressPool>,
}

impl Known {
    /// What the cluster says, as last published. `pools` are the file's.
    pub fn of(source: &Source, pools: &[AddressPool]) -> Self {
        Self {
            claimants: source.services().map(Claimant::of).collect(),
            taken: source.taken().collect(),
            problems: source.problems().to_vec(),
            is_doubted: source.is_doubted(),
            pools: pools.to_vec(),
        }
    }
}
