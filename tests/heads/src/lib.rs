//! What a connection begins with, and the key in it: the search of the data path, run on the host,
//! against parsers that others wrote. The property tests here, the fuzz targets in `tests/fuzz` and
//! the replay of `tests/corpus` all go through [`check`].

pub mod check;
pub mod conversation;
pub mod corpus;
pub mod http;
pub mod proxy;
pub mod random;
pub mod request;
pub mod search;
pub mod source;
pub mod split;
pub mod tls;
