//! `targets::cache_fields` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::cache_fields::check(input));
