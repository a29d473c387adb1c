//! The programs in the kernel and the interfaces that they are attached to.

pub(crate) mod client_links;
pub(crate) mod host;
pub mod loader;
pub(crate) mod macs;
pub mod paths;
pub(crate) mod uplinks;
