//! What is shown of it all, made once, whether the command line prints it or the daemon answers with
//! it over HTTP.

pub mod bound;
pub mod chats;
pub mod check;
pub mod counters;
pub mod decode;
pub mod dump;
pub mod explain;
pub mod flows;
pub mod interfaces;
pub mod metrics;
pub mod overview;
pub mod search;
pub mod services;
pub mod sources;
pub mod status;
pub mod units;
