//! Roost in userspace: a pure core (configuration, slot tables, index) and thin shells around it
//! (loader, daemon, sweeper), with typed access to the pinned maps for them and the command line.

pub mod addr;
mod capabilities;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod http;
pub mod index;
pub mod kube;
pub mod loader;
pub mod lock;
pub mod metrics;
pub mod netlink;
pub mod paths;
pub mod search;
pub mod secrets;
pub mod slots;
pub mod status;
pub mod sweeper;
mod sys;
pub mod tables;
#[cfg(test)]
mod testing;
pub mod writer;
