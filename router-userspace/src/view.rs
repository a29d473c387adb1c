//! What is shown of it all, made once, whether the command line prints it or the daemon answers with
//! it over HTTP.

pub mod chats;
pub mod counters;
pub mod decode;
pub mod dump;
pub mod flows;
pub mod interfaces;
pub mod key;
pub mod metrics;
pub mod names;
pub mod overview;
pub mod search;
pub mod services;
pub mod status;
pub mod text;
