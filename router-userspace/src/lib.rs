//! Roost in userspace. Each module here is a room, and uses only the rooms before it in this list: a
//! pure core first, shells around it, the command line last.

// The order says what depends on what.
#![cfg_attr(rustfmt, rustfmt_skip)]

pub mod plan;
pub mod os;
pub mod maps;
pub mod attach;
pub mod tend;
pub mod kube;
pub mod lead;
pub mod view;
pub mod daemon;
pub mod cli;

#[cfg(test)]
mod testing;
