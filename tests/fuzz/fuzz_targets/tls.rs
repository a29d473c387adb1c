//! A ClientHello: as it is sent, or, if it does not begin like one, the extensions of one, which are
//! put together with the right lengths.
#![no_main]

use roost_heads::{check, tls};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| match bytes {
    [22, ..] => check::all(bytes),
    _ => check::all(&tls::client_hello(bytes)),
});
