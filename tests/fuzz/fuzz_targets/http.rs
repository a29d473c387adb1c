//! A head as it is sent, which may be a request: every key source, against independent parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|head: &[u8]| roost_heads::check::all(head));
