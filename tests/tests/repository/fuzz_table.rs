//! Written by `cargo run --bin fuzz-targets`: every property over bytes, by the name of its fuzz target.

pub(crate) type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: &[Target] = &[
    ("verifier_spiffe_id", bonafide_verifier::fuzzing::spiffe_id),
    ("ca_api_invitation", bonafide_ca_api::fuzzing::invitation),
    ("ca_api_words", bonafide_ca_api::fuzzing::words),
    ("ca_api_status_details", bonafide_ca_api::fuzzing::status_details),
    ("ca_settings_file", bonafide_ca::fuzzing::settings_file),
    ("agent_proc_text", bonafide_agent::fuzzing::proc_text),
];
