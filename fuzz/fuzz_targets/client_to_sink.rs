//! Any bytes from a client: what reaches the upstream is well-formed, is what the client asked, and carries the
//! credential once.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidekey_fuzz::client_to_sink(data));
