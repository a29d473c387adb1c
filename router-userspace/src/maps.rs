//! The pinned maps: typed access, what is written into them, and reading them.

pub mod read;
pub mod secrets;
pub mod tables;
pub mod writer;
