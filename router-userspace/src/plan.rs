//! What should be: the configuration file's model, and the smallest list of changes that brings the
//! maps there. Pure: no files, no clock, no kernel.

pub mod addr;
pub mod config;
pub(crate) mod duration;
pub mod index;
pub mod origin;
