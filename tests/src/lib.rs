//! What Roost's tests and its demo stand on: a laboratory of network namespaces, and the demo.

pub mod bench;
pub mod browser;
pub mod demo;
pub mod hello;
pub mod kube;
pub mod lab;
#[path = "../peers/command.rs"]
pub mod peers;
pub mod prove;
pub mod release;
pub mod rooms;
pub mod run;
