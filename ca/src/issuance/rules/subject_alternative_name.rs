//! One URI, the SPIFFE ID that was asked for, then the DNS names that were asked for, and nothing else.

use x509_parser::{
    extensions::{GeneralName, SubjectAlternativeName},
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    prelude::FromDer,
};

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule =
    Rule { name: "subject-alternative-name", source: "X509-SVID §2 (X509-01, X509-03), RFC 5280 §4.2.1.6", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let value = candidate.extension(&OID_X509_EXT_SUBJECT_ALT_NAME)?.value;
    let (rest, names) = SubjectAlternativeName::from_der(value).map_err(|_| "cannot be read".to_owned())?;
    if !rest.is_empty() {
        return Err("there are bytes behind the names".to_owned());
    }
    let mut found = names.general_names.iter();
    match found.next() {
        Some(GeneralName::URI(uri)) if *uri == candidate.request.spiffe_id().as_str() => {}
        other => {
            return Err(format!("begins with {other:?}, must begin with the URI `{}`", candidate.request.spiffe_id()));
        }
    }
    for expected in candidate.request.dns_names() {
        match found.next() {
            Some(GeneralName::DNSName(name)) if name == expected => {}
            other => return Err(format!("holds {other:?} where the DNS name `{expected}` must be")),
        }
    }
    match found.next() {
        None => Ok(()),
        Some(more) => Err(format!("holds {more:?}, which nobody asked for")),
    }
}
