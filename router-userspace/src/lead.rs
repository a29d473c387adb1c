//! What one daemon of a cluster does for all: it gives addresses to Services and writes Events.
//!
//! Which one is decided by a Lease.

mod control;
mod events;
mod known;
mod leader;
mod lease;
mod pool;
mod refusals;
mod state;

pub use control::{Control, Learner};
pub use known::Known;
pub use lease::{LEASE, Times};
pub use pool::{Claimant, Gift, Plan, Usage, plan};
pub use state::{ControlState, Controls};
