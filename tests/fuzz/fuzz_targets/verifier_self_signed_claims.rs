// Written by `cargo run --bin fuzz-targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bonafide_verifier::fuzzing::self_signed_claims(data));
