//! One URI, the SPIFFE ID that was asked for, then the DNS names that were asked for, and nothing else.

use super::{Candidate, Elements, Finding, NotDer, Rule, SEQUENCE, SUBJECT_ALTERNATIVE_NAME, der};

pub(super) const RULE: Rule =
    Rule { name: "subject-alternative-name", source: "X509-SVID §2 (X509-01, X509-03), RFC 5280 §4.2.1.6", check };

/// uniformResourceIdentifier and dNSName of a GeneralName.
const URI: u8 = 0x86;
const DNS_NAME: u8 = 0x82;

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let unreadable = |NotDer| "is not a list of the names that were asked for".to_owned();
    let value = candidate.extension(SUBJECT_ALTERNATIVE_NAME)?;
    let mut names = Elements::of(der::only(value, SEQUENCE).map_err(unreadable)?.content);
    let id = candidate.request.spiffe_id().as_str();
    if names.next_of(URI).map_err(unreadable)?.content != id.as_bytes() {
        return Err(format!("does not begin with the URI `{id}`"));
    }
    for expected in candidate.request.dns_names() {
        if names.next_of(DNS_NAME).map_err(unreadable)?.content != expected.as_bytes() {
            return Err(format!("holds another name where the DNS name `{expected}` must be"));
        }
    }
    if !names.is_empty() {
        return Err("holds a name that nobody asked for".to_owned());
    }
    Ok(())
}
