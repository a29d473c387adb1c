//! What Roost's tests and its demo stand on: a laboratory of network namespaces.

pub mod lab;
