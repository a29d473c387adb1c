//! The system beneath, behind safe functions that know nothing of Roost.

pub(crate) mod capabilities;
pub(crate) mod ethtool;
pub mod lock;
pub mod netlink;
pub(crate) mod running;
pub(crate) mod sys;
