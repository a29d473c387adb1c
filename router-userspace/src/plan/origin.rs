//! Where services come from.

/// A source of services. Of two that claim a name, or an address and port, the one with the lower rank
/// has it, whatever the sources are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    rank: u8,
    name: &'static str,
}

impl Origin {
    /// The configuration file: what an administrator wrote on this node comes before all else.
    pub const FILE: Self = Self::new(0, "file");
    /// A cluster of Kubernetes.
    pub const KUBERNETES: Self = Self::new(1, "kubernetes");

    /// A source. No two have the same rank.
    pub const fn new(rank: u8, name: &'static str) -> Self {
        Self { rank, name }
    }

    /// What it is called.
    pub const fn name(self) -> &'static str {
        self.name
    }
}
