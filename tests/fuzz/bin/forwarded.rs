//! `targets::forwarded` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::forwarded::check(input));
