//! Properties of what the CA parses, as plain functions over bytes.

/// A settings file: reading never panics, and what it refuses it tells in one line.
pub fn settings_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match crate::settings::file::FileLayer::parse("file", text, crate::settings::NAMES) {
        Ok(file) => {
            let mut layers = crate::settings::layers::Layers::default();
            layers.add_file(file);
            if let Err(error) = crate::Settings::from_layers(&layers) {
                assert!(!error.to_string().contains('\n'));
            }
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
}

/// A public key as a node sends it: only the one encoding of a P-256 key is taken, and it comes out as it went in.
pub fn public_key(data: &[u8]) {
    match crate::issuance::PublicKey::parse(data) {
        Ok(key) => assert_eq!(key.spki(), data),
        Err(flaw) => assert!(!flaw.to_string().chars().any(char::is_control)),
    }
}

/// The messages of the node API, each read from the same bytes: nothing panics, and what is stored or shown is bounded.
pub fn node_messages(data: &[u8]) {
    crate::node_api::read_messages(data);
}

/// The file that says where the audit log ended: what is read is what was written, byte for byte.
pub fn position_file(data: &[u8]) {
    crate::store::check_position_file(data);
}

/// A key file: reading never panics, and says in one line what is wrong.
pub fn key_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(problem) = crate::authority::keystore::parse_pem(text) {
        assert!(!problem.chars().any(char::is_control), "{problem:?}");
    }
}

/// The text columns of the database: what decodes is written back as an equal value.
pub fn database_columns(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    crate::store::rows::check_columns(text);
}

/// The body of a request to the token endpoint: nothing panics, and what is read is what the same parameters, written anew, say.
pub fn token_form(data: &[u8]) {
    crate::token_service::check_form(data);
}

/// An exported head of the audit log: what is read prints back.
pub fn audit_head(data: &[u8]) {
    let Ok(head) = serde_json::from_slice::<crate::audit::Head>(data) else { return };
    let Ok(text) = serde_json::to_vec(&head) else { return };
    assert_eq!(serde_json::from_slice::<crate::audit::Head>(&text).ok(), Some(head));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn node_messages_hold(data: Vec<u8>, service in "[0-9a-f-]{0,40}", key: Vec<u8>, version: u64) {
            use prost::Message;
            use bonafide_ca_api::generated::node as wire;
            node_messages(&data);
            public_key(&data);
            let items = vec![wire::X509Item { service_id: service.clone(), public_key: key }];
            node_messages(&wire::IssueX509Request { items }.encode_to_vec());
            let applied = Some(wire::Position { epoch: service.clone(), version });
            let held = vec![wire::HeldService { service_id: service.clone(), version }];
            let agent = Some(wire::AgentInfo { version: service, now_ms: version.cast_signed() });
            let hello = wire::Hello { applied, held, agent, bundle_sequence: version, ..wire::Hello::default() };
            let message = Some(wire::sync_request::Message::Hello(hello));
            node_messages(&wire::SyncRequest { message }.encode_to_vec());
        }

        #[test]
        fn position_files_hold(data: Vec<u8>, seq: u64, hash: [u8; 32], flip in 0..512_usize) {
            position_file(&data);
            let mut written = crate::store::position_file(seq, hash);
            position_file(&written);
            written[flip / 8] ^= 1 << (flip % 8);
            position_file(&written);
        }

        #[test]
        fn key_files_hold(data: Vec<u8>, text in "-----BEGIN (EC )?PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{0,200}-----END PRIVATE KEY-----\n?") {
            key_file(&data);
            key_file(text.as_bytes());
        }

        #[test]
        fn database_columns_hold(data: Vec<u8>, text in "[\\[{](\"(unix:uid:[0-9]{1,9}|any|[a-z]{1,3}=[a-z]|[a-z]{0,4}|[ -~]{0,4})\"[,:]?){0,5}[\\]}]") {
            database_columns(&data);
            database_columns(text.as_bytes());
        }

        #[test]
        fn audit_heads_hold(data: Vec<u8>, chain in "[ -~]{0,20}", seq: u64, hash in "[0-9a-f]{62,66}") {
            audit_head(&data);
            let text = serde_json::json!({ "chain": chain, "seq": seq, "hash": hash }).to_string();
            audit_head(text.as_bytes());
        }

        #[test]
        fn settings_files_hold(data: Vec<u8>, text in "((x509-ttl|listen|advertise|max-nodes|[a-z]{1,5}) ?= ?['\"\\[{]?[ -~]{0,20}['\"\\]}]?\n){0,5}") {
            settings_file(&data);
            settings_file(text.as_bytes());
        }
    }
}
