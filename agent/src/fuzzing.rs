//! Properties of what the agent parses, as plain functions over bytes: nothing panics, what is written reads back. The tests
//! below and the fuzz targets call the same functions.

/// What the kernel prints about a process is parsed without a panic, whatever it is (W-11).
pub fn proc_text(data: &[u8]) {
    let _ = crate::attest::proc_text::status(data);
    let _ = crate::attest::proc_text::start_time(data);
}

/// A state file's envelope: any bytes open or are refused with their offset; what is enclosed opens to the same.
pub fn state_file(data: &[u8]) {
    let kind = crate::state_file::Kind { word: "test", version: 3, limit: 1 << 20, remedy: "remove it" };
    let path = std::path::Path::new("file");
    if let Ok(body) = kind.open(path, data) {
        assert!(body.len() <= data.len());
    }
    if data.len() <= kind.limit {
        let opened = kind.open(path, &kind.enclose(data)).map(<[u8]>::to_vec).ok();
        assert_eq!(opened.as_deref(), Some(data));
    }
}

/// The node's state: what decodes encodes to something that decodes to the same.
pub fn node_state(data: &[u8]) {
    use crate::node_state::stored::{decode_node, encode_node};
    let Ok(state) = decode_node(data) else { return };
    let written = encode_node(&state);
    let again = decode_node(&written).map(|again| encode_node(&again).to_vec());
    assert_eq!(again.as_deref(), Ok(written.as_slice()));
}

/// An update of the CA: judged as a whole; what is applied comes back from its whole state.
pub fn sync_update(data: &[u8]) {
    use crate::{
        sync::update::{Verdict, judge, whole},
        view::View,
    };
    let Ok(update) = <bonafide_ca_api::generated::node::SyncResponse as prost::Message>::decode(data) else { return };
    let Ok(trust_domain) = bonafide_verifier::spiffe::TrustDomain::parse("example.org") else { return };
    let empty = View::empty(trust_domain);
    match judge(&empty, None, &update) {
        Ok(Verdict::Apply(view)) => {
            let Ok(Verdict::Apply(again)) = judge(&empty, None, &whole(&view)) else {
                unreachable!("a view that was applied is refused when it is read back")
            };
            assert_eq!(again.services(), view.services());
            assert_eq!(again.position(), view.position());
        }
        Ok(Verdict::Hold(held)) => unreachable!("nothing was held before: {held:?}"),
        Err(refused) => assert!(!refused.to_string().contains('\x1b'), "{refused}"),
    }
}

/// The view on disk.
pub fn stored_view(data: &[u8]) {
    let Ok(trust_domain) = bonafide_verifier::spiffe::TrustDomain::parse("example.org") else { return };
    let _ = crate::sync::stored::decode(data, &trust_domain);
}

/// A kept SVID: what it is bound to is looked at before the rest.
pub fn kept_svid(data: &[u8]) {
    use crate::runtime_state::stored::{decode, encode, rebind};
    if let Ok(svid) = decode(data, |_, _| Ok(())) {
        let again = decode(&encode(&svid, "boot", &[7; 32]), |boot, key| {
            assert_eq!((boot, key), ("boot", &[7; 32]));
            Ok(())
        });
        assert!(again.is_ok_and(|again| again.chain == svid.chain && again.service_id == svid.service_id));
    }
    assert!(decode(data, |_, _| Err("bound to something else")).is_err());
    let _ = rebind(data, &[7; 32]);
}

/// A settings file: read or refused in one line.
pub fn settings_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = crate::settings::of_file(text) {
        assert!(!error.to_string().is_empty());
    }
}

/// `inspect` says something of any bytes, moves no cursor and gives JSON with a verdict.
pub fn inspect(data: &[u8]) {
    let (text, json) = crate::cli::inspect::describe(data);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(json.get("verdict").is_some());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_hold(data: Vec<u8>) {
            proc_text(&data);
            state_file(&data);
            node_state(&data);
            sync_update(&data);
            stored_view(&data);
            kept_svid(&data);
            settings_file(&data);
            inspect(&data);
        }

        #[test]
        fn likely_texts_hold(
            settings in "((socket|data|join-file|log-level|attest-by-pid|[a-z]{1,5}) ?= ?(true|'[ -~]{0,20}'|\"[ -~]{0,20}\"|[0-9]{1,4})\n){0,5}",
            envelope in "bonafide-agent-state [0-9]{1,2} (test|node) [0-9]{1,3} [0-9a-f]{60,66}\n[ -~]{0,9}",
            token in "ey[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}",
            pem in "-----BEGIN [A-Z ]{1,12}-----\n([A-Za-z0-9+/=]{0,64}\n){0,3}-----END [A-Z ]{1,12}-----\n",
            document in "\\{\"keys\": ?\\[(\\{\"use\": ?\"[a-z0-9-]{0,9}\"\\},?){0,3}\\]\\}",
        ) {
            settings_file(settings.as_bytes());
            state_file(envelope.as_bytes());
            inspect(token.as_bytes());
            inspect(pem.as_bytes());
            inspect(document.as_bytes());
        }

        /// Protobuf that decodes, with anything in its fields.
        #[test]
        fn likely_updates_hold(
            epoch in "[a-z]{0,3}", version: u64, whole: bool, ids in prop::collection::vec("[a-z]{0,2}", 0..4),
            spiffe_id in "spiffe://(example|other).org(/[a-z]{0,3}){0,2}", selector in "unix:(uid|user|tpm):[a-z0-9]{0,4}",
        ) {
            use bonafide_ca_api::generated::node;
            let service = |id: &String| node::Service {
                id: id.clone(),
                version,
                spiffe_id: spiffe_id.clone(),
                selectors: vec![selector.clone()],
                x509_ttl_s: 1,
                jwt_ttl_s: 1,
                dns_names: vec![],
                hint: String::new(),
                edge_scopes: Vec::new(),
                edge_issuers: Vec::new(),
            };
            let update = node::SyncResponse {
                position: Some(node::Position { epoch, version }),
                whole,
                services: ids.iter().map(service).collect(),
                removed: vec![],
                bundles: vec![],
                now_ms: 0,
                token_keys: None,
            };
            sync_update(&prost::Message::encode_to_vec(&update));
        }
    }
}
