//! What a client sends on one connection: where its requests begin, against independent parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|stream: &[u8]| {
    roost_heads::request::check(stream);
});
