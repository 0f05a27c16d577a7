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
            let hello = wire::Hello { applied, held, agent, bundle_sequence: version };
            let message = Some(wire::sync_request::Message::Hello(hello));
            node_messages(&wire::SyncRequest { message }.encode_to_vec());
        }

        #[test]
        fn settings_files_hold(data: Vec<u8>, text in "((x509-ttl|listen|advertise|max-nodes|[a-z]{1,5}) ?= ?['\"\\[{]?[ -~]{0,20}['\"\\]}]?\n){0,5}") {
            settings_file(&data);
            settings_file(text.as_bytes());
        }
    }
}
