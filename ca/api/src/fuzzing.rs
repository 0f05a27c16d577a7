//! Properties of what this crate parses, as plain functions over bytes: nothing panics, what prints parses back.
//! The property tests below and the fuzz targets call the same functions.

use crate::{CaAddress, Invitation, NodeName, Placement, Refusal, Selector};

/// A join string: parsing never panics, and what parses prints to a string that parses to the same.
pub fn invitation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = Invitation::parse(text) else { return };
    let again = Invitation::parse(&parsed.expose_secret_string());
    let again = again.as_ref().map(|again| (again.addresses(), again.trust_domain(), again.expires_at()));
    assert_eq!(again, Ok((parsed.addresses(), parsed.trust_domain(), parsed.expires_at())));
}

/// Names, placements, selectors and addresses: what parses prints as the text it came from, or parses back.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = NodeName::parse(text) {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(placement) = Placement::parse(text) {
        assert_eq!(placement.to_string(), text);
    }
    if let Ok(selector) = Selector::parse(text) {
        assert_eq!(selector.to_string(), text);
    }
    if let Ok(address) = CaAddress::parse(text) {
        assert_eq!(CaAddress::parse(&address.to_string()), Ok(address));
    }
}

/// The details of a gRPC status, as a peer may send them.
pub fn status_details(data: &[u8]) {
    let status = tonic::Status::with_details(tonic::Code::Unavailable, "message", data.to_vec().into());
    if let Some(refusal) = Refusal::from_status(&status) {
        assert!(!refusal.to_string().chars().any(char::is_control));
    }
}

#[cfg(test)]
mod tests {
    use bonafide_verifier::clock::Timestamp;
    use bonafide_verifier::spiffe::TrustDomain;
    use proptest::prelude::*;

    use super::*;
    use crate::InvitationSecret;

    proptest! {
        #[test]
        fn invitations_hold(data: Vec<u8>, text in "bonafide[12]_[A-Za-z0-9_-]{0,300}") {
            invitation(&data);
            invitation(text.as_bytes());
        }

        #[test]
        fn made_invitations_parse(
            hosts in prop::collection::vec("[a-z]{1,20}(\\.[a-z]{1,20}){0,3}:[1-9][0-9]{0,3}", 1..=8),
            trust_domain in "[a-z0-9][a-z0-9.-]{0,200}",
            root: [u8; 32],
            secret: [u8; 32],
            expires_at in 0..i64::MAX,
        ) {
            let made = Invitation::new(
                hosts.iter().map(|host| CaAddress::parse(host).unwrap()).collect(),
                TrustDomain::parse(&trust_domain).unwrap(),
                root,
                InvitationSecret::from_slice(&secret).unwrap(),
                Timestamp::from_unix_millis(expires_at),
            ).unwrap();
            let text = made.expose_secret_string();
            let back = Invitation::parse(&text).unwrap();
            prop_assert_eq!(back.root_sha256(), &root);
            prop_assert_eq!(back.secret().expose_secret(), &secret);
            invitation(text.as_bytes());
        }

        #[test]
        fn words_hold(data: Vec<u8>, text in "(unix:(uid|gid|user|group|path|sha256|x):)?[ -~]{0,80}", address in "[a-z0-9.:\\[\\]-]{1,40}:[0-9]{1,6}") {
            words(&data);
            words(text.as_bytes());
            words(address.as_bytes());
        }

        #[test]
        fn status_details_hold(data: Vec<u8>) {
            status_details(&data);
        }
    }
}
