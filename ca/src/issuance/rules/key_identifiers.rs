//! The key identifiers by which verifiers find the way up without trying every authority.

use x509_parser::{
    extensions::{AuthorityKeyIdentifier, KeyIdentifier},
    oid_registry::{OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER},
    prelude::FromDer,
};

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule =
    Rule { name: "key-identifiers", source: "RFC 5280 §4.2.1.1, §4.2.1.2, RFC 7093 §2", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let value = candidate.extension(&OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER)?.value;
    let authority = match AuthorityKeyIdentifier::from_der(value) {
        Ok(([], authority)) => authority,
        _ => return Err("the authority key identifier cannot be read".to_owned()),
    };
    if authority.authority_cert_issuer.is_some() || authority.authority_cert_serial.is_some() {
        return Err("the authority key identifier names more than a key".to_owned());
    }
    if authority.key_identifier.as_ref().map(|id| id.0) != Some(candidate.issuer.key_id()) {
        return Err("the authority key identifier is not that of the authority that signs".to_owned());
    }
    let value = candidate.extension(&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER)?.value;
    match KeyIdentifier::from_der(value) {
        Ok(([], subject)) if subject.0 == candidate.request.subject_key_id() => Ok(()),
        _ => Err("the subject key identifier is not that of the key".to_owned()),
    }
}
