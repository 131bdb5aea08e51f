//! Any bytes from an upstream: what reaches the client is well-formed, is what the upstream answered, and never looks
//! more complete than it was.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidekey_fuzz::upstream_to_client(data));
