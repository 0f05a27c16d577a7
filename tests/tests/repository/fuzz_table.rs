//! Written by `cargo run --bin fuzz-targets`: every property over bytes, by the name of its fuzz target.

pub(crate) type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: &[Target] = &[
    ("verifier_spiffe_id", bonafide_verifier::fuzzing::spiffe_id),
    ("verifier_trust_bundle_json", bonafide_verifier::fuzzing::trust_bundle_json),
    ("verifier_trust_bundle_pem", bonafide_verifier::fuzzing::trust_bundle_pem),
    ("verifier_subject_alt_name", bonafide_verifier::fuzzing::subject_alt_name),
    ("verifier_x509_chain", bonafide_verifier::fuzzing::x509_chain),
    ("verifier_jwt", bonafide_verifier::fuzzing::jwt),
    ("verifier_jwt_header", bonafide_verifier::fuzzing::jwt_header),
    ("verifier_peer_set", bonafide_verifier::fuzzing::peer_set),
    ("verifier_bare_key", bonafide_verifier::fuzzing::bare_key),
    ("verifier_workload_api_message", bonafide_verifier::fuzzing::workload_api_message),
    ("verifier_endpoint", bonafide_verifier::fuzzing::endpoint),
    ("ca_api_invitation", bonafide_ca_api::fuzzing::invitation),
    ("ca_api_words", bonafide_ca_api::fuzzing::words),
    ("ca_api_status_details", bonafide_ca_api::fuzzing::status_details),
    ("ca_settings_file", bonafide_ca::fuzzing::settings_file),
    ("ca_public_key", bonafide_ca::fuzzing::public_key),
    ("ca_node_messages", bonafide_ca::fuzzing::node_messages),
    ("agent_proc_text", bonafide_agent::fuzzing::proc_text),
    ("agent_state_file", bonafide_agent::fuzzing::state_file),
    ("agent_node_state", bonafide_agent::fuzzing::node_state),
    ("agent_sync_update", bonafide_agent::fuzzing::sync_update),
    ("agent_stored_view", bonafide_agent::fuzzing::stored_view),
    ("agent_kept_svid", bonafide_agent::fuzzing::kept_svid),
    ("agent_settings_file", bonafide_agent::fuzzing::settings_file),
    ("agent_inspect", bonafide_agent::fuzzing::inspect),
];
