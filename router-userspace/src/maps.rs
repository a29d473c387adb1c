//! The pinned maps: typed access, what is written into them, and reading them.

pub mod chat;
pub mod handle;
pub mod key;
pub mod names;
pub mod problems;
pub mod raw;
pub mod read;
pub(crate) mod record;
pub mod secrets;
pub mod shares;
pub mod tables;
pub mod text;
pub mod writer;
