//! Segments in any order, that overlap, repeat each other, or say something else of the same bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roost_heads::check::segments(bytes));
