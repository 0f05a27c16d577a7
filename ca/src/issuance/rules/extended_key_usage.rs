//! A service is client and server: both purposes, no other.

use super::{Candidate, EXTENDED_KEY_USAGE, Finding, Rule};

pub(super) const RULE: Rule =
    Rule { name: "extended-key-usage", source: "X509-SVID §4.4 (X509-26, X509-28), RFC 5280 §4.2.1.12", check };

/// SEQUENCE { id-kp-serverAuth, id-kp-clientAuth }
const SERVER_AND_CLIENT: [u8; 22] = [
    0x30, 0x14, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05,
    0x07, 0x03, 0x02,
];

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    if candidate.extension(EXTENDED_KEY_USAGE)? != SERVER_AND_CLIENT {
        return Err("says something else than serverAuth and clientAuth".to_owned());
    }
    Ok(())
}
