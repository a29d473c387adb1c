//! Roost in userspace: a pure core (configuration, slot tables, index) and thin shells around it
//! (loader, daemon, sweeper), with typed access to the pinned maps for them and the command line.

pub mod cli;
pub mod addr;
pub mod config;
pub mod index;
pub mod slots;
pub mod tables;
