//! What one daemon of a cluster does for all: it gives addresses to Services and writes Events.
//!
//! Which one is decided by a Lease.

mod control;
mod events;
mod leader;
mod lease;
mod pool;
mod refusals;

pub use control::{Control, ControlState, Controls, Known, Learner};
pub use lease::{LEASE, Times};
pub use pool::{Claimant, Gift, IpFamily, Plan, Usage, plan};
