//! A head as a proxy sends it on: the PROXY protocol, and the bytes of its client.
#![no_main]

libfuzzer_sys::fuzz_target!(|head: &[u8]| roost_heads::check::proxied(head));
