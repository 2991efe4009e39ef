//! `targets::proxy_protocol` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::proxy_protocol::check(input));
