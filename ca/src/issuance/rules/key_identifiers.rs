//! The key identifiers by which verifiers find the way up without trying every authority.

use super::{AUTHORITY_KEY_IDENTIFIER, Candidate, Finding, OCTET_STRING, Rule, SEQUENCE, SUBJECT_KEY_IDENTIFIER, der};

pub(super) const RULE: Rule =
    Rule { name: "key-identifiers", source: "RFC 5280 §4.2.1.1, §4.2.1.2, RFC 7093 §2", check };

/// keyIdentifier of an AuthorityKeyIdentifier.
const KEY_IDENTIFIER: u8 = 0x80;

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let authority = der::only(candidate.extension(AUTHORITY_KEY_IDENTIFIER)?, SEQUENCE)
        .and_then(|names| der::only(names.content, KEY_IDENTIFIER));
    if !authority.is_ok_and(|id| id.content == candidate.issuer.key_id()) {
        return Err("the authority key identifier is not that of the authority that signs, alone".to_owned());
    }
    let subject = der::only(candidate.extension(SUBJECT_KEY_IDENTIFIER)?, OCTET_STRING);
    if !subject.is_ok_and(|id| id.content == candidate.request.subject_key_id()) {
        return Err("the subject key identifier is not that of the key".to_owned());
    }
    Ok(())
}
